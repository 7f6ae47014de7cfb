"""A picture that cannot be opened ends nothing: media columns are carried, never decoded."""

import pytest
from datasets import Dataset, Features, Image, Value

from hf_superfilter import (
    IFD,
    Length,
    NearDuplicates,
    TopK,
    export,
    load_rows,
    score,
    select,
    write_repo,
    write_report,
)
from hf_superfilter.reports.summary import Summary
from hf_superfilter.reports.text import summary_text

CORRUPT = {"bytes": b"no picture at all", "path": None}


@pytest.fixture
def rows():
    features = {"prompt": Value("string"), "response": Value("string"), "picture": Image()}
    columns = {
        "prompt": [f"Question {i}\n" for i in range(8)],
        "response": [f"The answer number {i} is {'so ' * i}long." for i in range(8)],
        "picture": [CORRUPT] * 8,
    }
    return Dataset.from_dict(columns, features=Features(features))


def test_a_corrupt_picture_ends_neither_scoring_nor_selecting_nor_what_is_written(
    rows, weak, tmp_path
):
    table = score(rows, [IFD(weak), Length()], tmp_path / "run", chunk_size=3)
    selection = select(table, [NearDuplicates(), TopK("length", 3)], run=tmp_path / "run")
    assert selection.rows.tolist() == [7, 6, 5]
    assert "The answer number 7" in write_report(selection, tmp_path / "r.html").read_text()
    assert "The answer number 7" in summary_text(Summary(selection))
    write_repo(selection, tmp_path / "repo", name="best")
    for name in ("rows.parquet", "folder"):
        export(selection, tmp_path / name)
    written = load_rows(str(tmp_path / "rows.parquet"))
    cells = written.cast_column("picture", Image(decode=False))["picture"][:]
    assert [cell["bytes"] for cell in cells] == [CORRUPT["bytes"]] * 3
