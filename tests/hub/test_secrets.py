"""A token that reads stands nowhere: in no result, error, output, and at debug level in no log."""

import logging
import traceback

import pytest
from publishing import picked

from hf_superfilter import list_subsets, load_recipe, load_rows, load_subset, publish

TOKEN = "hf_secret_read"
READERS = {
    "list_subsets": lambda repo: list_subsets(repo, token=TOKEN),
    "load_subset": lambda repo: load_subset(repo, "best", token=TOKEN),
    "load_recipe": lambda repo: load_recipe(repo, "best", token=TOKEN),
    "load_rows": lambda repo: load_rows(repo, config="best", token=TOKEN),
}


@pytest.mark.parametrize("repo", ["me/rows", "me/missing"])
@pytest.mark.parametrize("reader", READERS)
def test_a_token_that_reads_is_in_no_log_and_no_error(
    reader, repo, hub, caplog, capfd, monkeypatch
):
    publish(picked(1, 2), "me/rows", name="best")  # private, so that nothing reads it without
    hub.hub.tokens |= {TOKEN: ("me", "read")}
    monkeypatch.delenv("HF_TOKEN")
    caplog.set_level(logging.DEBUG)
    shown = ""
    try:
        shown = repr(READERS[reader](repo))
    except OSError as error:  # a missing repository, a subset without a recipe
        shown = "".join(traceback.format_exception(error)) + repr(error)
        assert repo == "me/missing" or reader == "load_recipe"
    finally:
        del hub.hub.tokens[TOKEN]
    output = capfd.readouterr()
    assert any("/rows" in path or "/missing" in path for _, path, _ in hub.requests)
    texts = (shown, output.out, output.err, caplog.text, *map(repr, caplog.records))
    assert not [text for text in texts if TOKEN in text]
