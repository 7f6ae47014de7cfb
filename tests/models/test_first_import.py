"""Importing transformers changes nothing of how the caller's garbage is collected."""

import gc

from hf_superfilter.models.first_import import import_transformers


def test_the_thresholds_of_the_caller_come_back():
    gc.unfreeze()  # what conftest.py froze
    before = gc.get_threshold()
    try:
        gc.set_threshold(650, 9, 8)
        import_transformers.__wrapped__()
        assert gc.get_threshold() == (650, 9, 8)
        assert gc.get_freeze_count() == 0
    finally:
        gc.set_threshold(*before)


def test_what_the_caller_froze_stays_frozen():
    gc.freeze()
    try:
        import_transformers.__wrapped__()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
