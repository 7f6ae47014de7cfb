"""The ledger: what is there is whole, what is not whole is not there."""

import logging
import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hf_superfilter.runs import chunks as module
from hf_superfilter.runs.chunks import Chunks, layout_of, text_bytes
from hf_superfilter.runs.store import Store


def ledger(folder, rows, size, **options):
    starts = [*range(0, rows, size), rows]
    return Chunks(Store(folder), "scores", np.array(starts), **options)


@given(
    lengths=st.lists(st.integers(0, 90), min_size=1, max_size=80),
    size=st.integers(1, 20),
    limit=st.integers(1, 200),
)
def test_chunks_cover_every_row_once_and_are_bounded_by_rows_and_by_text(lengths, size, limit):
    table = Dataset.from_dict({"text": ["x" * length for length in lengths]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_BYTES", limit)
        patch.setattr(module, "MIN_BYTES", limit)
        starts, sizes = layout_of(table, size)
    chunks = Chunks(Store(""), "scores", starts)
    assert [row for number in range(len(chunks)) for row in chunks.span(number)] == list(
        range(len(lengths))
    )
    for number, cost in enumerate(sizes):
        span = chunks.span(number)
        assert cost == sum(lengths[row] for row in span)
        assert len(span) <= size and (cost <= limit or len(span) == 1)
        full = len(span) == size or span.stop == len(lengths)
        assert full or cost + lengths[span.stop] > limit, "no chunk ends before it has to"


@given(rows=st.integers(1, 3_000), length=st.integers(1, 2_000))
def test_chunks_get_smaller_toward_the_end_so_that_several_processes_end_together(rows, length):
    table = Dataset.from_dict({"text": ["x" * length] * rows})
    _, sizes = layout_of(table, 2_048)
    assert sizes.sum() == rows * length and (np.diff(sizes[:-1]) <= 0).all()
    for done, cost in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
        left = rows * length - done
        assert cost <= max(module.MIN_BYTES, min(module.MAX_BYTES, left / module.TAPER))


def test_the_bytes_of_a_row_are_those_of_its_texts_and_of_the_texts_in_its_lists():
    table = Dataset.from_dict(
        {"a": ["é", "", None], "n": [1, 2, 3], "chat": [["ab", "c"], [], None]}
    )
    assert text_bytes(table).tolist() == [5, 0, 0]
    assert text_bytes(table.select([2, 0])).tolist() == [0, 5]
    assert text_bytes(table.select_columns(["n"])).tolist() == [1, 1, 1]
    assert text_bytes(table.add_column("response", ["1", "22", "333"])).tolist() == [1, 2, 3]


def test_chunks_written_in_any_order_are_read_in_the_order_of_the_rows(tmp_path):
    chunks = ledger(tmp_path, 10, 4)
    assert chunks.pending() == [0, 1, 2]
    for number in (2, 0, 1):
        chunks.write(number, {"x": np.array(chunks.span(number), dtype=float)}, {"seconds": number})
    assert chunks.pending() == []
    assert chunks.read().column("x").to_pylist() == list(range(10))
    assert {number: fact["seconds"] for number, fact in chunks.facts().items()} == {
        0: 0,
        1: 1,
        2: 2,
    }
    assert chunks.rows_done() == 10


def test_nan_stays_nan_and_none_stays_null(tmp_path):
    chunks = ledger(tmp_path, 2, 2)
    chunks.write(0, {"x": np.array([np.nan, 1.0]), "y": [None, "a"]}, {})
    table = chunks.read()
    assert table.column("x").null_count == 0 and np.isnan(table.column("x")[0].as_py())
    assert table.column("y").to_pylist() == [None, "a"]


def test_a_truncated_file_is_named_and_counts_as_not_done(tmp_path, caplog):
    chunks = ledger(tmp_path, 8, 4)
    for number in range(2):
        chunks.write(number, {"x": np.arange(4.0)}, {})
    whole = chunks.store.path(chunks.object(1)).read_bytes()
    chunks.store.path(chunks.object(1)).write_bytes(whole[: len(whole) // 2])
    again = ledger(tmp_path, 8, 4)
    with caplog.at_level(logging.WARNING):
        assert again.pending() == again.pending() == [1]
    assert caplog.text.count("000001.parquet is damaged") == 1 and "scored again" in caplog.text
    with pytest.raises(OSError, match=r"000001\.parquet cannot be read any more"):
        chunks.table(1)


def test_a_flipped_bit_is_noticed(tmp_path, caplog):
    chunks = ledger(tmp_path, 1_000, 1_000)
    chunks.write(0, {"x": np.random.default_rng(0).random(1_000)}, {})
    contents = bytearray(chunks.store.path(chunks.object(0)).read_bytes())
    contents[len(contents) // 2] ^= 4
    chunks.store.path(chunks.object(0)).write_bytes(contents)
    assert ledger(tmp_path, 1_000, 1_000).pending() == [0]
    assert "000000.parquet" in caplog.text


def test_a_chunk_made_for_another_fingerprint_counts_as_not_done(tmp_path):
    ledger(tmp_path, 4, 4, identity={"fingerprint": "a"}).write(0, {"x": np.arange(4.0)}, {})
    assert ledger(tmp_path, 4, 4, identity={"fingerprint": "a"}).pending() == []
    assert ledger(tmp_path, 4, 4, identity={"fingerprint": "b"}).pending() == [0]


def test_a_file_with_another_number_of_rows_counts_as_not_done(tmp_path):
    ledger(tmp_path, 4, 4).write(0, {"x": np.arange(3.0)}, {})
    assert ledger(tmp_path, 4, 4).pending() == [0]


def test_a_chunk_that_is_not_there_is_not_done_and_no_damage(tmp_path, caplog):
    assert not ledger(tmp_path, 4, 4).is_done(0) and not caplog.text


def test_a_full_disk_is_one_clear_sentence_and_leaves_nothing_half_written_behind(tmp_path):
    program = (
        "import resource, sys, numpy as np\n"
        "from hf_superfilter.runs.chunks import Chunks\n"
        "from hf_superfilter.runs.store import Store\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "chunks = Chunks(Store(sys.argv[1]), 'scores', np.array([0, 10, 100_000]))\n"
        "chunks.write(0, {'x': np.random.rand(10)}, {})\n"
        "try: chunks.write(1, {'x': np.random.rand(99_990)}, {})\n"
        "except OSError as error: print(error)\n"
        "print(chunks.store.names('scores'), chunks.pending())\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True
    ).stdout
    said, left = out.splitlines()
    assert said.startswith(
        f"{tmp_path}/scores/000001.parquet could not be written (File too large): what is finished"
    )
    assert (
        said.endswith("make room and run the same command again")
        and left == "['000000.parquet'] [1]"
    )


def test_of_very_many_rows_chunks_grow_instead_of_becoming_more():
    table = Dataset.from_dict({"text": ["x" * 10] * 5_000})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_BYTES", 10)
        patch.setattr(module, "MIN_BYTES", 10)
        patch.setattr(module, "MAX_CHUNKS", 50)
        _, sizes = layout_of(table, 10_000)
        patch.setattr(module, "MAX_CHUNKS", 5_000)
        assert len(layout_of(table, 10_000)[1]) == 5_000
    assert sizes.max() == 5_000 * 10 // 50 and len(sizes) < 50 + 16 * np.log(16 * 5_000 / 50)
