"""Learning percentage: the formula, what is undefined, what is refused, and the training behind it
through score().
"""

import dataclasses
import json
import shutil
import signal
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from processes import Forked

from hf_superfilter import (
    LearningPercentage,
    Perplexity,
    Recipe,
    TopK,
    embedded_model,
    score,
    select,
    write_report,
)
from hf_superfilter.models import causal_lm as models
from hf_superfilter.reports.summary import Summary
from hf_superfilter.runs.manifest import read_manifest


@pytest.fixture(scope="module")
def rows(sample):
    """Twenty short rows, of which two have nothing to learn."""
    short = (
        n
        for n, row in enumerate(sample)
        if row["response"].strip() and len(row["prompt"] + row["response"]) < 130
    )
    kept = sample.select(islice(short, 18))
    prompts, responses = (
        [*kept["prompt"], "Nothing\n", "words " * 200],
        [*kept["response"], "", "beyond the window"],
    )
    return Dataset.from_dict({"prompt": prompts, "response": responses})


def scorer_of(model, **settings):
    return LearningPercentage(model, learning_rate=1e-3, batch_rows=6, **settings)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, gpt2, rows):
    return scorer_of(gpt2).prepare(rows, tmp_path_factory.mktemp("prepared"))


def test_the_shares_are_those_of_the_perplexities_and_add_up_to_one(prepared, rows):
    columns = prepared(rows[:])
    ppl = np.stack([columns[f"lp_ppl_{n}"] for n in range(4)])
    assert columns["lp_status"][:18] == ["ok"] * 18 and columns["lp_status"][18:] == [
        "empty_response",
        "prompt_too_long",
    ]
    np.testing.assert_allclose(columns["lp_1"], (ppl[0] - ppl[1]) / (ppl[0] - ppl[3]), rtol=1e-12)
    np.testing.assert_allclose(columns["lp_3"], (ppl[2] - ppl[3]) / (ppl[0] - ppl[3]), rtol=1e-12)
    np.testing.assert_allclose(columns["lp_app"], (ppl[0] - ppl[1]) / ppl[0], rtol=1e-12)
    np.testing.assert_allclose(sum(columns[f"lp_{n}"][:18] for n in (1, 2, 3)), 1, rtol=1e-12)
    assert np.isnan(
        [columns[name][18:] for name in columns if name not in ("lp_tokens", "lp_status")]
    ).all()
    assert prepared.main == "lp_1" and (ppl[0, :18] > ppl[3, :18]).mean() > 0.8


def test_the_perplexities_are_those_of_perplexity_in_float32_with_the_end_of_text(
    prepared, gpt2, rows
):
    columns = prepared(rows[:])
    for number, model in enumerate((gpt2, *prepared.checkpoints)):
        alone = Perplexity(model, append_eos=True, dtype="float32")(rows[:])
        np.testing.assert_allclose(columns[f"lp_ppl_{number}"], alone["ppl"], rtol=1e-6)
    assert columns["lp_tokens"].tolist() == alone["ppl_tokens"].tolist()


def test_a_row_that_nothing_changed_for_has_no_share(weak):
    scorer = LearningPercentage(
        "embedded:weak", epochs=2, checkpoints=[embedded_model("strong"), weak]
    )
    columns = scorer({"prompt": ["Hi\n", "Hi\n"], "response": ["Hello there", ""]})
    assert columns["lp_status"] == ["unchanged", "empty_response"]
    assert (
        np.isnan(columns["lp_1"]).all()
        and np.isfinite(columns["lp_app"][0])
        and np.isfinite(columns["lp_ppl_1"][0])
    )


def test_a_perplexity_that_is_not_finite_is_said_and_the_others_are_shown(tmp_path, gpt2):
    import torch
    from transformers import AutoTokenizer, GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(gpt2)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(gpt2).save_pretrained(tmp_path)
    scorer = LearningPercentage(gpt2, epochs=2, checkpoints=[str(tmp_path), gpt2])
    columns = scorer({"prompt": ["Hi\n"], "response": ["Hello there"]})
    assert (
        columns["lp_status"] == ["not_finite"]
        and np.isnan([columns["lp_1"], columns["lp_app"]]).all()
    )
    assert np.isnan(columns["lp_ppl_1"][0]) and np.isfinite(columns["lp_ppl_0"][0])


def test_approximate_stops_after_one_epoch_and_has_the_lp_app_of_the_whole_training(
    tmp_path, prepared, gpt2, rows
):
    short = scorer_of(gpt2, approximate=True).prepare(rows, tmp_path)
    columns = short(rows[:])
    assert (
        list(columns) == ["lp_app", "lp_ppl_0", "lp_ppl_1", "lp_tokens", "lp_status"]
        and short.main == "lp_app"
    )
    np.testing.assert_allclose(columns["lp_app"], prepared(rows[:])["lp_app"], rtol=1e-6)
    assert not (tmp_path / "epoch-2").exists()


def test_preparing_again_trains_nothing_and_another_training_in_the_folder_is_refused(
    prepared, gpt2, rows
):
    folder = Path(prepared.checkpoints[0]).parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert scorer_of(gpt2).prepare(rows, folder) == prepared
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    for other, data in ((scorer_of(gpt2, seed=1), rows), (scorer_of(gpt2), rows.select(range(19)))):
        with pytest.raises(ValueError, match="holds a training on other rows or settings"):
            other.prepare(data, folder)


def test_chats_are_trained_on_and_scored_over_all_their_turns(tmp_path, llama):
    chat = {
        "prompt": ["Hi\n", "Hi\nHello\nHow are you?\n"],
        "response": ["Hello", "Very well, thank you"],
    }
    data = Dataset.from_list([chat] * 8)
    scorer = scorer_of(llama, epochs=2).prepare(data, tmp_path)
    columns = scorer(data[:])
    turns = scorer(chat)
    nats = sum(np.log(turns["lp_ppl_2"]) * turns["lp_tokens"]) / sum(turns["lp_tokens"])
    assert columns["lp_ppl_2"][0] == pytest.approx(np.exp(nats), rel=1e-6)
    tokens = [
        json.loads(line)["tokens"] for line in (tmp_path / "loss.jsonl").read_text().splitlines()
    ]
    assert tokens[0] == 6 * sum(turns["lp_tokens"]), "a step is so many rows, with all their turns"


# Bad input, before any training


def untouched(folder):
    return not list(Path(folder).glob("epoch-*")) and not list(Path(folder).glob("training"))


def test_what_cannot_be_trained_is_refused_before_training(tmp_path, gpt2, rows):
    with pytest.raises(ValueError, match="7 rows: learning percentage needs at least 8"):
        scorer_of(gpt2).prepare(rows.select(range(7)), tmp_path / "few")
    with pytest.raises(ValueError, match=r"max_length=512, but .* reads at most 128 tokens"):
        scorer_of(gpt2, max_length=512).prepare(rows, tmp_path / "long")
    nothing = Dataset.from_dict({"prompt": ["a\n"] * 8, "response": [""] * 8})
    with pytest.raises(ValueError, match="none of the 8 rows has a response token to train on"):
        scorer_of(gpt2).prepare(nothing, tmp_path / "empty")
    with pytest.raises(ValueError, match="no column 'response'"):
        scorer_of(gpt2).prepare(rows.remove_columns("response"), tmp_path / "columns")
    with pytest.raises(FileNotFoundError, match="no folder"):
        scorer_of("./nowhere").prepare(rows, tmp_path / "model")
    with pytest.raises(
        ValueError, match="folder='memory://models': models are trained into a local folder"
    ):
        scorer_of(gpt2).prepare(rows, "memory://models")
    for folder in tmp_path.iterdir():
        assert untouched(folder)


def test_while_it_is_trained_a_model_is_not_loaded_twice(tmp_path, gpt2, rows, monkeypatch):
    loaded = []
    monkeypatch.setattr(models, "CausalLM", lambda *args, **kwargs: loaded.append(args))
    scorer_of(gpt2).prepare(rows, tmp_path)
    assert not loaded


def test_a_quantised_model_is_refused_by_its_config_alone(tmp_path, gpt2, rows):
    shutil.copytree(gpt2, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"is quantised \(gptq\) and cannot be trained"):
        scorer_of(str(tmp_path / "model")).prepare(rows, tmp_path / "run")
    assert untouched(tmp_path / "run")


def test_rows_longer_than_the_limit_are_cut_and_trained_on(tmp_path, gpt2, rows):
    long = Dataset.from_dict(
        {"prompt": ["Go on.\n"] * 8, "response": [f"{n} word " * 150 for n in range(8)]}
    )
    columns = scorer_of(gpt2, epochs=2).prepare(long, tmp_path)(long[:])
    assert columns["lp_status"] == ["truncated"] * 8 and np.isfinite(columns["lp_1"]).all()


# Through score()


def test_score_trains_first_and_counts_what_lies_outside_zero_and_one(tmp_path, llama, rows):
    odd = LearningPercentage(
        "embedded:weak", epochs=2, checkpoints=[embedded_model("strong"), llama]
    )
    table = score(rows, [odd], tmp_path)
    entry, values = read_manifest(tmp_path)["scorers"]["lp"], np.array(table["lp_1"][:])
    assert entry["beyond"] == {
        "below 0": int((values < 0).sum()),
        "above 1": int((values > 1).sum()),
    }
    assert entry["beyond"]["below 0"] > 5 and entry["undefined"] == np.isnan(values).sum()
    assert "training_seconds" not in entry["made_with"], "nothing was trained here"


@pytest.fixture(scope="module")
def run(tmp_path_factory, gpt2, rows):
    folder = tmp_path_factory.mktemp("run")
    return score(rows, [scorer_of(gpt2)], folder), folder


def test_the_table_of_score_is_that_of_prepare(run, prepared, rows):
    table, folder = run
    columns = prepared(rows[:])
    for name in columns:
        np.testing.assert_array_equal(np.array(table[name][:]), np.array(columns[name]))
    entry = read_manifest(folder)["scorers"]["lp"]
    assert entry["made_with"]["training_steps"] == 9 and entry["made_with"]["training_seconds"] > 0
    assert (
        entry["made_with"]["dtype"] == "float32"
        and "checkpoints" not in entry["scorer"]["LearningPercentage"]
    )


def test_nothing_is_trained_when_all_chunks_are_done(tmp_path, run, gpt2, rows):
    table, folder = run
    shutil.copytree(folder, tmp_path / "run")
    (made,) = (tmp_path / "run/lp").glob("prepared-*")
    shutil.rmtree(made)
    again = score(rows, [scorer_of(gpt2)], tmp_path / "run")
    assert again["lp_1"][:18] == table["lp_1"][:18] and not made.exists()


def test_a_stream_is_written_down_before_it_is_trained_on(tmp_path, run, gpt2, rows):
    table, _ = run
    streamed = score(rows.to_iterable_dataset(), [scorer_of(gpt2)], tmp_path)
    np.testing.assert_allclose(streamed["lp_1"][:], table["lp_1"][:], rtol=1e-6)


def test_on_a_store_the_models_are_put_beside_the_scores_and_fetched_by_who_has_none(
    tmp_path, monkeypatch, run, gpt2, rows
):
    import fsspec

    table, _ = run
    url, fs = "memory://runs/learned", fsspec.filesystem("memory")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "one"))
    (tmp_path / "one").mkdir()
    scored = score(rows, [scorer_of(gpt2)], url, chunk_size=10)
    np.testing.assert_allclose(scored["lp_1"][:], table["lp_1"][:], rtol=1e-6)
    made = [path for path in fs.find("/runs/learned/lp") if "/prepared-" in path]
    assert len([path for path in made if path.endswith("model.safetensors")]) == 3
    assert {path.rsplit("/", 1)[1] for path in made} >= {"prepared.json", "loss.jsonl"}

    fs.rm("/runs/learned/lp/000001.parquet")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    # Nothing is trained again.
    monkeypatch.delattr("hf_superfilter.models.trainer.Training.run_step")
    again = score(rows, [scorer_of(gpt2)], url, chunk_size=10)
    assert again["lp_1"][:18] == scored["lp_1"][:18]
    fs.rm("/runs/learned", recursive=True)


def test_report_and_facts_tell_of_the_training(tmp_path, run):
    table, folder = run
    selection = select(table, [TopK("lp_1", 5, largest=False)], run=folder)
    facts = Summary(selection).facts()
    assert facts["beyond"] == {"lp_1": read_manifest(folder)["scorers"]["lp"]["beyond"]}
    (cost,) = facts["cost"]
    assert cost["seconds"] > cost["training_seconds"] > 0
    page = write_report(selection, tmp_path / "report.html").read_text()
    assert "Training loss of lp over 9 steps" in page and "below 0, kept as it is" in page


def test_the_command_draws_the_loss_into_the_run_folder(command, gpt2, rows):
    rows.to_parquet("rows.parquet")
    Path("recipe.yaml").write_text(
        "dataset: rows.parquet\nscore: [LearningPercentage: "
        f"{{model: {gpt2}, epochs: 2, batch_rows: 10}}]\nselect: [TopK: "
        f"{{by: lp_1, k: 0.2, largest: false}}]\n"
    )
    code, said, _ = command("run", "recipe.yaml", "--folder", "run")
    assert (
        code == 0
        and "training loss: run/lp/loss.png" in said
        and "lp_1, kept as they are: below 0" in said
    )
    assert Path("run/lp/loss.png").read_bytes().startswith(b"\x89PNG")
    assert Recipe.read("run/recipe.yaml").score == (
        LearningPercentage(gpt2, epochs=2, batch_rows=10),
    )


# Several processes

PROGRAM = """
import os, sys, time
from datasets import Dataset
from hf_superfilter import LearningPercentage, score
from hf_superfilter.models import finetune
from hf_superfilter.models.trainer import Training

model, rows, folder, log, pause = sys.argv[1:]
finetune.SAVE_SECONDS, finetune.SAVE_SHARE = 0.0, 1e9
run_step = Training.run_step

def logged(self):
    run_step(self)
    with open(log, "a") as file:
        file.write(f"{os.getpid()} {self.step}\\n")
    time.sleep(float(pause))

Training.run_step = logged
rows = Dataset.from_parquet(rows, cache_dir=f"{log}.cache{os.getpid()}")
table = score(rows, [LearningPercentage(model, learning_rate=1e-3, batch_rows=6)], folder)
if table is not None:
    table.to_parquet(f"{folder}/table.parquet")
"""


@pytest.fixture
def start(tmp_path, rows):
    """Start the program on a model and a folder; it logs its steps in steps.log."""
    (tmp_path / "program.py").write_text(PROGRAM)
    rows.to_parquet(tmp_path / "rows.parquet")

    def begin(model, processes=None, pause=0.0):
        files = tmp_path / "rows.parquet", tmp_path / "run", tmp_path / "steps.log"
        command = [tmp_path / "program.py", model, *files, pause]
        return Forked(command, tmp_path, processes=processes)

    return begin


def finish(process):
    try:
        assert process.wait(timeout=300) == 0, process.errors.read_text()[-3000:]
    finally:
        process.kill()
    return process.errors.read_text()


def test_one_process_trains_another_waits_and_takes_over_when_it_is_killed(
    tmp_path, start, run, gpt2
):
    log = tmp_path / "steps.log"
    both = [start(gpt2, pause=0.3) for _ in range(2)]
    while not log.exists() or len(log.read_text().splitlines()) < 4:
        assert any(process.poll() is None for process in both)
        time.sleep(0.01)
    first = int(log.read_text().split()[0])
    victim, heir = sorted(both, key=lambda process: process.pid != first)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    finish(heir)
    steps = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    theirs = [step for pid, step in steps if pid == first]
    ours = [step for pid, step in steps if pid == heir.pid]
    assert theirs == list(range(1, len(theirs) + 1)) and len(theirs) >= 4, (
        "epoch 1 ended with step 3"
    )
    assert ours == list(range(ours[0], 10)) and theirs[-1] <= ours[0] <= theirs[-1] + 1, (
        "from the last step saved"
    )
    table = pq.read_table(tmp_path / "run/table.parquet")
    np.testing.assert_allclose(table.column("lp_1").to_numpy(), run[0]["lp_1"][:], rtol=1e-5)


def test_two_launched_processes_train_together_and_give_the_table_of_one(
    tmp_path, start, llama, rows
):
    said = finish(start(llama, processes=2))
    assert "scores every row" not in said, "that is for a plain map"
    steps = [
        tuple(map(int, line.split())) for line in (tmp_path / "steps.log").read_text().splitlines()
    ]
    assert len({pid for pid, _ in steps}) == 2
    assert sorted(step for _, step in steps) == sorted([*range(1, 13), *range(1, 13)])
    one = scorer_of(llama).prepare(rows, tmp_path / "one")
    (file,) = (tmp_path / "run/lp").glob("prepared-*/loss.jsonl")
    for key, near in (("loss", 1e-5), ("grad_norm", 1e-4)):
        two, alone = (
            [json.loads(line)[key] for line in path.read_text().splitlines()]
            for path in (file, tmp_path / "one/loss.jsonl")
        )
        np.testing.assert_allclose(two, alone, rtol=near)
    table = pq.read_table(tmp_path / "run/table.parquet")
    np.testing.assert_allclose(
        table.column("lp_ppl_3").to_numpy(), one(rows[:])["lp_ppl_3"], rtol=1e-4
    )


def test_a_plain_map_says_how_to_train(rows):
    with pytest.raises(
        ValueError, match=r"has to be trained on all rows first: score\(rows, \[scorer\], folder\)"
    ):
        rows.map(LearningPercentage("embedded:weak"), batched=True)


def test_checkpoints_that_are_gone_are_said(prepared, rows):
    gone = dataclasses.replace(prepared, checkpoints=["/nowhere/1", "/nowhere/2", "/nowhere/3"])
    with pytest.raises(FileNotFoundError, match="no folder '/nowhere/1'"):
        gone(rows[:2])
