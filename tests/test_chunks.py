"""The ledger: what is there is whole, what is not whole is not there."""

import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_superfilter.chunks import Chunks


@given(rows=st.integers(1, 500), size=st.integers(1, 60))
def test_the_spans_cover_every_row_once_in_order(rows, size):
    chunks = Chunks(None, rows, size)
    assert [row for number in range(len(chunks)) for row in chunks.span(number)] == list(range(rows))


def test_chunks_written_in_any_order_are_read_in_the_order_of_the_rows(tmp_path):
    chunks = Chunks(tmp_path, 10, 4)
    assert chunks.pending() == [0, 1, 2]
    for number in (2, 0, 1):
        chunks.write(number, {"x": np.array(chunks.span(number), dtype=float)}, {"seconds": number})
    assert chunks.pending() == []
    assert chunks.read().column("x").to_pylist() == list(range(10))
    assert [fact["seconds"] for fact in chunks.facts()] == [0, 1, 2]


def test_nan_stays_nan_and_none_stays_null(tmp_path):
    chunks = Chunks(tmp_path, 2, 2)
    chunks.write(0, {"x": np.array([np.nan, 1.0]), "y": [None, "a"]}, {})
    table = chunks.read()
    assert table.column("x").null_count == 0 and np.isnan(table.column("x")[0].as_py())
    assert table.column("y").to_pylist() == [None, "a"]


def test_a_truncated_file_is_named_and_counts_as_not_done(tmp_path, caplog):
    chunks = Chunks(tmp_path, 8, 4)
    for number in range(2):
        chunks.write(number, {"x": np.arange(4.0)}, {})
    whole = chunks.path(1).read_bytes()
    chunks.path(1).write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        assert chunks.pending() == [1]
    assert "000001.parquet" in caplog.text and "scored again" in caplog.text


def test_a_flipped_bit_is_noticed(tmp_path, caplog):
    chunks = Chunks(tmp_path, 1_000, 1_000)
    chunks.write(0, {"x": np.random.default_rng(0).random(1_000)}, {})
    contents = bytearray(chunks.path(0).read_bytes())
    contents[len(contents) // 2] ^= 4
    chunks.path(0).write_bytes(contents)
    assert chunks.pending() == [0]
    assert "000000.parquet" in caplog.text


def test_a_chunk_made_for_another_claim_counts_as_not_done(tmp_path):
    Chunks(tmp_path, 4, 4, claim="a").write(0, {"x": np.arange(4.0)}, {})
    assert Chunks(tmp_path, 4, 4, claim="a").pending() == []
    assert Chunks(tmp_path, 4, 4, claim="b").pending() == [0]


def test_a_file_with_another_number_of_rows_counts_as_not_done(tmp_path):
    chunks = Chunks(tmp_path, 4, 4)
    chunks.write(0, {"x": np.arange(3.0)}, {})
    assert chunks.pending() == [0]


def test_a_full_disk_leaves_nothing_half_written_behind(tmp_path, monkeypatch):
    chunks = Chunks(tmp_path, 8, 4)
    chunks.write(0, {"x": np.arange(4.0)}, {})

    def full(table, where, *args, **kwargs):
        where.write_bytes(b"PAR1 half of a")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match=r"chunk 1 could not be written.*No space left.*run the same command again"):
        chunks.write(1, {"x": np.arange(4.0)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["000000.parquet"]
    assert chunks.pending() == [1]


def test_a_really_full_disk_is_one_clear_sentence_and_the_run_goes_on_elsewhere():
    import subprocess
    import sys

    program = (
        "import resource, signal, sys, tempfile, numpy as np\n"
        "from pathlib import Path; from hf_superfilter.chunks import Chunks\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "folder = Path(tempfile.mkdtemp()); chunks = Chunks(folder, 100000, 100000)\n"
        "try: chunks.write(0, {'x': np.random.rand(100000)}, {})\n"
        "except OSError as error: print(error)\n"
        "print(sorted(p.name for p in folder.iterdir()), chunks.pending())\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "chunk 0 could not be written" in out and out.strip().endswith("[] [0]")
