"""score(): every row once, in order, whatever happens in between."""

import json
import random
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, concatenate_datasets
from processes import Forked

from hf_superfilter import IFD, Length, score
from hf_superfilter.runs import manifest as record
from hf_superfilter.runs.manifest import digest_columns, open_manifest, read_manifest, record_scorer
from hf_superfilter.runs.store import Store


def shout(batch):
    """A scorer that is a plain function."""
    return {"shout": [len(text) * 2 for text in batch["response"]]}


CALLS = []


def counted(batch):
    CALLS.append(len(batch["response"]))
    return {"counted": [1.0] * len(batch["response"])}


@pytest.fixture
def rows(sample):
    return sample.select(range(50))


def test_the_table_is_the_rows_with_the_columns_of_map(tmp_path, rows):
    scorers = [IFD("embedded:weak", dtype="float32"), Length()]
    table = score(rows, scorers, tmp_path, chunk_size=16)
    mapped = rows.map(scorers[0], batched=True).map(scorers[1], batched=True)
    assert table.column_names == mapped.column_names
    for column in rows.column_names:
        assert table[column][:] == rows[column][:]
    np.testing.assert_allclose(table["ifd"][:], mapped["ifd"][:], rtol=1e-5)
    assert table["length"][:] == mapped["length"][:]
    assert table.features["ifd"].dtype == "float64"
    assert table.features["ifd_tokens"].dtype == table.features["length"].dtype == "int64"


def test_rows_behind_an_indices_mapping_keep_their_order(tmp_path, rows):
    mixed = rows.shuffle(seed=3).select(range(5, 30))
    table = score(mixed, [Length()], tmp_path, chunk_size=7)
    assert table["length"][:] == [len(response) for response in mixed["response"][:]]
    assert table["instruction"][:] == mixed["instruction"][:]


def test_the_record_says_what_was_scored_with_what(tmp_path, rows):
    score(rows, [IFD("embedded:weak")], tmp_path)
    record = read_manifest(tmp_path)
    ifd = record["scorers"]["ifd"]
    assert record["rows"] == 50 and ifd["rows"] == 50
    assert ifd["scorer"] == {"IFD": {"model": "embedded:weak"}}
    assert ifd["made_with"]["revision"].startswith("sha256:")
    assert ifd["made_with"]["dtype"] in ("bfloat16", "float32")
    assert sum(ifd["status"].values()) == 50
    assert ifd["undefined"] == sum(
        n for s, n in ifd["status"].items() if s not in ("ok", "truncated")
    )
    assert ifd["tokens"] > 0 and ifd["seconds"] > 0
    assert record["packages"]["torch"]


def test_a_plain_function_is_a_scorer(tmp_path, rows):
    assert score(rows, [shout], tmp_path)["shout"][:] == [len(r) * 2 for r in rows["response"][:]]
    assert read_manifest(tmp_path)["scorers"]["shout"]["columns"] == ["shout"]


def test_a_later_scorer_sees_the_columns_of_those_before_it(tmp_path, rows):
    def half(batch):
        return {"half": [length / 2 for length in batch["length"]]}

    table = score(rows, [Length(), half], tmp_path)
    np.testing.assert_array_equal(np.array(table["half"][:]) * 2, table["length"][:])


def test_a_scorer_that_prepares_gets_all_rows_and_is_exchanged_for_its_answer(tmp_path, rows):
    class Centred:
        name, main, mean = "centred", "centred", None

        def prepare(self, table, folder):
            ready = Centred()
            ready.mean = float(np.mean(table["length"][:]))
            (Path(folder) / "prepared.json").parent.mkdir(parents=True, exist_ok=True)
            return ready

        def __call__(self, batch):
            return {"centred": [length - self.mean for length in batch["length"]]}

    table = score(rows, [Length(), Centred()], tmp_path, chunk_size=20)
    assert abs(np.mean(table["centred"][:])) < 1e-9


def test_a_finished_scorer_is_not_run_again_and_another_may_be_added(tmp_path, rows):
    CALLS.clear()
    score(rows, [counted], tmp_path, chunk_size=20)
    table = score(rows, [counted, Length()], tmp_path, chunk_size=20)
    assert CALLS == [20, 20, 10]
    assert {"counted", "length"} <= set(table.column_names)


def test_weak_and_strong_stand_in_one_table_by_their_names(tmp_path, rows, gpt2):
    table = score(rows, [IFD("embedded:weak"), IFD(gpt2, name="ifd_other")], tmp_path)
    assert {"ifd", "ifd_status", "ifd_other", "ifd_other_status"} <= set(table.column_names)


def test_two_scorers_of_one_name_are_refused(tmp_path, rows):
    with pytest.raises(ValueError, match="2 scorers are named 'length'"):
        score(rows, [Length(), Length("tokens", model="embedded:weak")], tmp_path)


def test_a_folder_of_other_settings_is_refused_by_naming_the_difference(tmp_path, rows):
    score(rows, [Length()], tmp_path)
    with pytest.raises(
        ValueError, match="'length' made with model='its default', not 'embedded:weak'"
    ):
        score(rows, [Length("tokens", model="embedded:weak")], tmp_path)
    with pytest.raises(ValueError, match="made with chunk_size 2048, not 7"):
        score(rows, [Length()], tmp_path, chunk_size=7)


def test_a_folder_of_other_rows_is_refused(tmp_path, rows):
    score(rows, [Length()], tmp_path)
    with pytest.raises(ValueError, match="rows 50, not 49"):
        score(rows.select(range(49)), [Length()], tmp_path)
    with pytest.raises(ValueError, match="'length' made from other rows"):
        score(rows.select(range(49, -1, -1)), [Length()], tmp_path)


def test_no_rows_no_scorers_and_a_dict_of_splits_are_refused(tmp_path, rows):
    with pytest.raises(ValueError, match="no rows"):
        score(rows.select([]), [Length()], tmp_path)
    with pytest.raises(ValueError, match="at least one scorer"):
        score(rows, [], tmp_path)
    with pytest.raises(ValueError, match="pick a split"):
        score({"train": rows}, [Length()], tmp_path)


def test_rows_shown_in_another_format_are_told_apart_by_what_they_hold(tmp_path):
    def table(middle):
        texts = [f"r{i}" if i in (0, 1, 2998, 2999) else middle for i in range(3_000)]
        return Dataset.from_dict({"prompt": texts, "response": texts}).with_format("numpy")

    assert score(table("one"), [Length()], tmp_path)["length"][1_000] == 3
    with pytest.raises(ValueError, match="from other rows"):
        score(table("three"), [Length()], tmp_path)
    assert (
        score(table("one").with_format("arrow"), [Length()], tmp_path / "arrow").with_format(None)[
            "length"
        ][9]
        == 3
    )


def test_chunks_of_another_fingerprint_are_never_taken_for_these(tmp_path, rows):
    score(rows, [Length()], tmp_path)
    (tmp_path / "run.json").unlink()
    (tmp_path / "length/scorer.json").unlink()
    other = rows.select(range(49, -1, -1))
    table = score(other, [Length()], tmp_path)
    assert table["length"][:] == [len(response) for response in other["response"][:]]


def test_two_runs_on_one_folder_keep_both_records(tmp_path, rows):
    def slow(batch):
        score(rows, [Length()], tmp_path)  # somebody else, meanwhile
        return {"slow": [1.0] * len(batch["response"])}

    score(rows, [slow], tmp_path)
    assert set(read_manifest(tmp_path)["scorers"]) == {"slow", "length"}


def test_opening_a_finished_run_again_keeps_what_it_was_made_with(tmp_path, rows):
    import torch

    scorer = IFD("embedded:weak")
    score(rows, [scorer], tmp_path)
    before, threads = (tmp_path / "run.json").read_text(), torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        score(rows, [scorer], tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "run.json").read_text() == before


def test_a_run_that_went_on_in_other_arithmetic_says_so(tmp_path, rows):
    class Changing:
        name = main = "x"
        dtype = "float32"

        def __call__(self, batch):
            if len(batch["response"]) == 10:
                Changing.dtype = "bfloat16"
            return {"x": [1.0] * len(batch["response"])}

        def provenance(self):
            return {"dtype": Changing.dtype}

    with pytest.warns(UserWarning, match="different arithmetic"):
        score(rows, [Changing()], tmp_path, chunk_size=20)
    assert read_manifest(tmp_path)["scorers"]["x"]["made_with"]["dtype"] == "float32; bfloat16"


def test_a_column_that_is_there_already_is_never_written_over(tmp_path, rows):
    with pytest.raises(ValueError, match="would write over the column 'response'"):
        score(rows, [lambda batch: {"response": batch["response"]}], tmp_path)
    with pytest.raises(ValueError, match="'length' would write over"):
        score(rows.add_column("length", [1] * 50), [Length()], tmp_path / "other")


def test_columns_whose_type_changes_between_chunks_are_joined(tmp_path, rows):
    def mixed(batch):
        return {
            "mixed": [1] * 20 if len(batch["response"]) == 20 else [0.5] * len(batch["response"])
        }

    assert score(rows, [mixed], tmp_path, chunk_size=20)["mixed"][:] == [1.0] * 40 + [0.5] * 10


def test_a_scorer_that_answers_with_a_wrong_number_of_values_is_refused(tmp_path, rows):
    with pytest.raises(ValueError, match="1 values in 'short' for 50 rows"):
        score(rows, [lambda batch: {"short": [1]}], tmp_path)
    for answer in ([1], {}):
        with pytest.raises(ValueError, match="not a dict of columns"):
            score(rows, [lambda batch, answer=answer: answer], tmp_path / str(len(answer)))


def test_arguments_that_make_no_run_are_refused(tmp_path, rows):
    for size in (0, -5, 1.5):
        with pytest.raises(ValueError, match="chunk_size="):
            score(rows, [Length()], tmp_path, chunk_size=size)
    for no_rows in ([], [1, 2], ["a.jsonl"]):
        with pytest.raises(ValueError, match="got list"):
            score(no_rows, [Length()], tmp_path)
    with pytest.raises(ValueError, match="no column 'prompt'"):
        score([{"response": "a"}], [Length()], tmp_path)
    with pytest.raises(ValueError, match="folder='nowhere://run': Protocol not known"):
        score(rows, [Length()], "nowhere://run")


def test_a_folder_that_cannot_be_used_is_said(tmp_path, rows):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be used"):
        score(rows, [Length()], tmp_path / "file" / "run")


def test_all_rows_undefined_is_a_warning_with_the_reasons(tmp_path):
    empty = Dataset.from_dict({"prompt": ["a\n"] * 3, "response": [""] * 3})
    with pytest.warns(UserWarning, match="every row of 'ifd' is undefined.*empty_response"):
        table = score(empty, [IFD("embedded:weak")], tmp_path)
    assert np.isnan(table["ifd"][:]).all()


def test_equal_rows_have_equal_digests_whatever_their_layout(rows):
    copy = Dataset.from_list(rows.to_list())
    assert digest_columns(rows, ["prompt", "response"]) == digest_columns(
        copy, ["prompt", "response"]
    )
    assert digest_columns(rows, ["prompt"]) != digest_columns(rows.select(range(49)), ["prompt"])
    alike = [["ab", "", None], ["a", "b", None], ["ab", None, ""], ["ab", "", ""]]
    assert (
        len({digest_columns(Dataset.from_dict({"text": texts}), ["text"]) for texts in alike}) == 4
    )
    vectors = [[[1.0], [2.0, 3.0]], [[1.0, 2.0], [3.0]], [[1.0], [2.0, 3.5]]]
    assert (
        len({digest_columns(Dataset.from_dict({"vector": rows}), ["vector"]) for rows in vectors})
        == 3
    )


PROGRAM = """
import os, signal, sys
from datasets import Dataset
from hf_superfilter import IFD, score

renamed = []

def freeze_after_three_chunks(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith(".parquet"):
        renamed.append(arguments[1])
        if len(renamed) == 3:
            os.kill(os.getpid(), signal.SIGSTOP)

rows, folder, cache = sys.argv[1:]
sys.addaudithook(freeze_after_three_chunks)  # a kill that comes late still finds it unfinished
score(Dataset.from_parquet(rows, cache_dir=cache), [IFD("embedded:weak")], folder, chunk_size=8)
"""


def run_and_kill(tmp_path, folder, kill_after):
    """Run the program, and kill it `kill_after` seconds after a chunk of its own."""
    (tmp_path / "program.py").write_text(PROGRAM)
    finished = len(list(folder.glob("ifd/*.parquet")))
    command = ["program.py", tmp_path / "rows.parquet", folder, tmp_path / "cache"]
    process = Forked(command, tmp_path)
    while process.poll() is None and len(list(folder.glob("ifd/*.parquet"))) == finished:
        time.sleep(0.001)
    time.sleep(kill_after)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.errors.read_text()


def killed_and_resumed(tmp_path, rows, times, seed):
    """Kill a run at random moments, let it finish, and compare it with an uninterrupted one."""
    moments = random.Random(seed)
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    rows = Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    score(rows, [IFD("embedded:weak")], tmp_path / "whole", chunk_size=8)
    names = sorted(path.name for path in (tmp_path / "whole/ifd").glob("*.parquet"))
    assert len(names) > 3 * times
    for _ in range(times):
        run_and_kill(tmp_path, tmp_path / "killed", moments.uniform(0, 0.15))
        assert len(list((tmp_path / "killed/ifd").glob("*.parquet"))) < len(names)
    score(rows, [IFD("embedded:weak")], tmp_path / "killed", chunk_size=8)
    for name in names:
        whole, resumed = (
            pq.read_table(tmp_path / run / "ifd" / name) for run in ("whole", "killed")
        )
        for column in whole.column_names:
            a, b = (table.column(column).to_numpy() for table in (whole, resumed))
            assert a.tobytes() == b.tobytes() if a.dtype != object else a.tolist() == b.tolist()
    assert not [
        *(tmp_path / "killed").rglob("*.lease"),
        *(tmp_path / "killed").rglob("*.unfinished"),
    ]


def test_a_run_killed_twice_ends_in_the_same_table_bit_for_bit(tmp_path, sample):
    killed_and_resumed(tmp_path, sample.select(range(80)), times=2, seed=1)


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_in_the_same_table_bit_for_bit(tmp_path, sample):
    killed_and_resumed(tmp_path, concatenate_datasets([sample, sample]), times=20, seed=2)


def test_a_damaged_manifest_is_named_and_made_again_from_what_the_folder_holds(
    tmp_path, rows, caplog
):
    CALLS.clear()
    score(rows, [counted], tmp_path)
    before = json.loads((tmp_path / "run.json").read_text())
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        read_manifest(tmp_path / "counted")
    for damage in ('{"rows": ', "[1]", "", '{"scorers": []}'):
        (tmp_path / "run.json").write_text(damage)
        with pytest.raises(ValueError, match=r"run\.json' is damaged"):
            read_manifest(tmp_path)
        caplog.clear()
        assert score(rows, [counted], tmp_path)["counted"][:] == [1.0] * 50
        assert "run.json is damaged" in caplog.text
        after = read_manifest(tmp_path)
        assert after["scorers"] == before["scorers"] and after["run"] == before["run"]
    assert CALLS == [50], "no chunk was scored again"


def test_a_record_that_another_process_wrote_from_an_older_look_is_put_right(tmp_path, monkeypatch):
    store, write, late = Store(tmp_path), record._write, []
    open_manifest(store, 3, 10)
    record_scorer(store, "one", {"rows": 3})
    stale = read_manifest(tmp_path)

    def overtaken(store, new):
        write(store, new)
        if not late:  # the other one looked before we noted, and writes after
            late.append(True)
            write(store, stale)

    monkeypatch.setattr(record, "_write", overtaken)
    record_scorer(store, "two", {"rows": 3})
    assert late and read_manifest(tmp_path)["scorers"] == {"one": {"rows": 3}, "two": {"rows": 3}}
