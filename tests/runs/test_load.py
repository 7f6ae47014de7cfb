"""What memory holds of many rows and of long ones: blocks, whatever there is in all."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from hf_superfilter import Length, TopK, score, select, write_repo
from hf_superfilter.data.texts import row_texts, text_lengths
from hf_superfilter.runs import runner
from hf_superfilter.runs.chunks import layout_of
from hf_superfilter.runs.manifest import digest_columns
from hf_superfilter.tables import row_blocks as blocks
from hf_superfilter.tables.media import iterate_batches

LONG = 200_000


@pytest.fixture
def long_rows(tmp_path):
    """40 rows of 200 kB in a mapped file, a few short ones before and after."""
    responses = ["short"] * 30 + ["x" * LONG] * 40 + ["short"] * 30
    path = tmp_path / "rows.arrow"
    with pa.ipc.new_stream(
        str(path), pa.schema({"prompt": pa.string(), "response": pa.string()})
    ) as f:
        f.write_table(pa.table({"prompt": ["?"] * 100, "response": responses}))
    return Dataset.from_file(str(path))


@pytest.fixture
def peak(monkeypatch):
    """The bytes that Arrow held at most when a block was read, above those at the start."""
    start, peaks = pa.total_allocated_bytes(), [0]
    original = blocks.row_blocks

    def watched(*arguments, **options):
        for block in original(*arguments, **options):
            peaks.append(pa.total_allocated_bytes() - start)
            yield block

    for module in ("data.texts", "tables.media", "runs.chunks", "runs.manifest", "hub.split_files"):
        monkeypatch.setattr(f"hf_superfilter.{module}.row_blocks", watched)
    monkeypatch.setattr(blocks, "BYTES", 5 * LONG)
    monkeypatch.setattr(blocks, "FIRST_GATHERED", 2)
    return lambda: max(peaks)


@pytest.mark.parametrize("order", ["as they lie", "selected"])
@pytest.mark.parametrize(
    "read",
    [
        lambda table: digest_columns(table, ["prompt", "response"]),
        lambda table: layout_of(table, 2_048)[0].tolist(),
        lambda table: text_lengths(table, "response").tolist(),
        lambda table: [len(text) for text in row_texts(table, np.arange(100)[::-1], ["response"])],
        lambda table: [len(text) for batch in iterate_batches(table) for text in batch["response"]],
    ],
    ids=["digest", "layout", "lengths", "texts", "batches"],
)
def test_what_is_read_of_long_rows_is_a_few_of_them_at_a_time(long_rows, peak, read, order):
    table = long_rows
    if order == "selected":
        table = table.select(np.random.default_rng(0).permutation(100))
    answer, highest = read(table), peak()
    assert highest > 0 or order == "as they lie"
    assert highest <= 25 * LONG, "8 MB are all of them"
    assert answer == read(Dataset.from_dict(table[:]))


def test_blocks_hold_every_row_once_and_are_bounded_in_rows_and_bytes(long_rows, monkeypatch):
    monkeypatch.setattr(blocks, "BYTES", 3 * LONG)
    for table in (long_rows, long_rows.select(range(99, -1, -1)), long_rows.select([])):
        parts = list(blocks.row_blocks(table, ["response"], rows=25))
        assert [text for part in parts for text in part["response"].to_pylist()] == table[
            "response"
        ][:]
        assert all(1 <= len(part) <= 25 for part in parts)
        assert all(part.nbytes <= 3 * LONG or len(part) == 1 for part in parts)
    spans = list(blocks.row_blocks(long_rows, rows=7, start=5, stop=22))
    assert [len(span) for span in spans] == [7, 7, 3]


def wide(batch):
    return {"wide": np.array([[len(text)] * 50 for text in batch["response"]], dtype=np.float32)}


def test_columns_beyond_a_bound_are_mapped_from_the_run_folder(tmp_path, monkeypatch):
    responses = ["x" * (number % 50) for number in range(3_000)]
    rows = Dataset.from_dict({"prompt": ["?"] * 3_000, "response": responses})
    held = score(rows, [wide, Length()], tmp_path / "held", chunk_size=500)
    assert not list((tmp_path / "held").glob("*/columns"))
    monkeypatch.setattr(runner, "HELD", 100_000)
    before = pa.total_allocated_bytes()
    mapped = score(rows, [wide, Length()], tmp_path / "mapped", chunk_size=500)
    assert pa.total_allocated_bytes() - before < 100_000, "of 600,000"
    assert [path.name for path in (tmp_path / "mapped").glob("*/columns")] == ["columns"]
    assert mapped[:] == held[:] and mapped.features == held.features
    again = score(rows, [wide, Length()], tmp_path / "held", chunk_size=500)  # made without a file
    assert again[:] == held[:]
    (tmp_path / "mapped").chmod(0o500)
    try:
        assert score(rows, [wide, Length()], tmp_path / "mapped", chunk_size=500)[:] == held[:]
    finally:
        (tmp_path / "mapped").chmod(0o700)


def test_published_rows_are_gathered_a_few_at_a_time(long_rows, tmp_path, peak):
    from datasets import load_dataset

    table = long_rows.add_column("value", np.arange(100.0))
    selection = select(table, TopK("value", 90))
    write_repo(selection, tmp_path / "repo", pairs=True)
    assert 0 < peak() <= 25 * LONG
    loaded = load_dataset(str(tmp_path / "repo"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[:] == selection.subset[:]
