"""Import torch and transformers, and look for garbage among what they make only seldom.

They make 600,000 objects, of which 400,000 stay. By itself Python looks at those again and again
while the rest comes, a twentieth of the time of a first score.
"""

import gc
from functools import lru_cache

YOUNG = 100_000  # objects between two collections, of the youngest only
NEVER = 1_000


@lru_cache(maxsize=1)
def import_transformers() -> None:
    """Import torch and transformers' base of all models, once per process."""
    thresholds = gc.get_threshold()
    gc.set_threshold(YOUNG, NEVER, NEVER)
    try:
        import transformers.modeling_utils  # noqa: F401
    finally:
        gc.set_threshold(*thresholds)
    if not gc.get_freeze_count():
        # Both together move all objects to the oldest generation, without a look at them.
        gc.freeze()
        gc.unfreeze()
