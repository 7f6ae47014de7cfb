"""Fine-tuning learns responses only, depends on rows and settings alone, and survives kills."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hf_superfilter import CausalLM
from hf_superfilter.models import finetune
from hf_superfilter.models.tokenization import Window
from hf_superfilter.models.trainer import Plan, Steps, Training
from hf_superfilter.revisions import resolve_revision

ROOT = Path(__file__).parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def windows_of(model, rows):
    pairs = CausalLM(model).windows(
        rows["prompt"], rows["response"], max_length=64, append_eos=True
    )
    return [[pair.given] for pair in pairs]


def train(model, windows, folder, plan, **settings):
    return finetune.finetune(model, resolve_revision(model), windows, folder, plan, **settings)


def losses(folder, key="loss"):
    return [
        json.loads(line)[key] for line in (Path(folder) / "loss.jsonl").read_text().splitlines()
    ]


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def furthest(a, b):
    """The largest difference of two models' weights."""
    one, other = weights(a), weights(b)
    assert set(one) == set(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture(scope="module")
def some(sample):
    """Twenty short rows, of which two have nothing to learn."""
    short = (
        n
        for n, row in enumerate(sample)
        if row["response"] and len(row["prompt"] + row["response"]) < 130
    )
    rows = sample.select(islice(short, 18))
    prompts, responses = rows["prompt"][:], rows["response"][:]
    return {
        "prompt": [*prompts, "Nothing\n", "words " * 200],
        "response": [*responses, "", "beyond the window"],
    }


SHORT = Plan(epochs=2, stop_after=2, learning_rate=1e-3, batch_rows=6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, gpt2, some):
    """A random GPT-2 with dropout after two epochs of three steps."""
    folder = tmp_path_factory.mktemp("trained")
    train(gpt2, windows_of(gpt2, some), folder, SHORT)
    return folder


def test_each_epoch_is_a_model_folder_of_float32_weights_that_scores_its_rows_better(
    trained, gpt2, some
):
    windows = [window for row in windows_of(gpt2, some) for window in row]
    assert sorted(path.name for path in trained.iterdir()) == ["epoch-1", "epoch-2", "loss.jsonl"]
    folders = [gpt2, trained / "epoch-1", trained / "epoch-2"]
    means = [
        np.nanmean(CausalLM(str(folder), dtype="float32").losses(windows)[0]) for folder in folders
    ]
    assert means[0] > means[1] > means[2]
    assert {tensor.dtype for tensor in weights(trained / "epoch-2").values()} == {torch.float32}
    assert losses(trained, "step") == [1, 2, 3, 4, 5, 6] and losses(trained, "epoch")[2] == 1.0


def test_a_model_stored_in_bfloat16_is_trained_in_float32(tmp_path, weak, some):
    with pytest.warns(UserWarning, match="18 rows to train on are fewer than the 128 of a batch"):
        (folder,) = train(
            weak, windows_of(weak, some), tmp_path, Plan(epochs=1, stop_after=1, learning_rate=1e-6)
        )
    before, after = load_file(Path(weak) / "model.safetensors"), weights(folder)
    moved = [float((after[name] - before[name].float()).abs().max()) for name in before]
    assert {tensor.dtype for tensor in before.values()} == {torch.bfloat16}
    assert 0 < max(moved) < 2e-6, "a step that bfloat16 would have rounded away"


def test_two_trainings_are_equal_and_leave_the_random_numbers_of_the_process_alone(
    tmp_path, trained, gpt2, some
):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    train(gpt2, windows_of(gpt2, some), tmp_path, SHORT)
    assert (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
    ) == before
    assert furthest(tmp_path / "epoch-2", trained / "epoch-2") < 1e-6
    np.testing.assert_allclose(losses(tmp_path), losses(trained), rtol=1e-6)


def test_another_seed_shuffles_the_rows_and_drops_out_other_values(tmp_path, trained, gpt2, some):
    train(gpt2, windows_of(gpt2, some), tmp_path, Plan(2, 2, 1e-3, 6, seed=7))
    assert losses(tmp_path, "tokens") != losses(trained, "tokens")
    assert sum(losses(tmp_path, "tokens")[:3]) == sum(losses(trained, "tokens")[:3]), (
        "every row once an epoch"
    )


def test_a_single_batch_is_learned_by_heart(tmp_path, llama, some):
    windows = windows_of(llama, {name: cells[:4] for name, cells in some.items()})
    batch = [Window(row[0].ids[: row[0].start + 12], row[0].start) for row in windows]
    train(
        llama,
        [batch] * 40,
        tmp_path,
        Plan(epochs=1, stop_after=1, learning_rate=2e-2, batch_rows=1),
    )
    assert losses(tmp_path)[0] > 1 and losses(tmp_path)[-1] < 0.05


def reference(model, windows, labels_of):
    """Loss and gradient norm of transformers' own masked loss, one row at a time; a label of -100
    is no target.
    """
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).train()
    total = sum(window.scored for window in windows)
    whole = 0.0
    for window in windows:
        labels = labels_of(window)
        out = lm(input_ids=torch.tensor([list(window.ids)]), labels=torch.tensor([labels]))
        share = out.loss * sum(label != -100 for label in labels[1:]) / total
        share.backward()
        whole += share.item()
    return whole, torch.nn.utils.clip_grad_norm_(lm.parameters(), 1e9).item()


def test_prompt_tokens_are_no_targets_whatever_their_labels(tmp_path, llama, some):
    windows = windows_of(llama, some)
    plan = Plan(epochs=1, stop_after=1, learning_rate=1e-3, batch_rows=18)
    train(llama, windows, tmp_path, plan)
    scored = [window for row in windows for window in row if window.scored]
    masked = reference(llama, scored, lambda w: [-100] * w.start + list(w.ids[w.start :]))
    assert (losses(tmp_path)[0], losses(tmp_path, "grad_norm")[0]) == pytest.approx(
        masked, rel=1e-4
    )

    rng = np.random.default_rng(0)
    permuted = reference(
        llama, scored, lambda w: [*rng.permutation(w.ids[: w.start]).tolist(), *w.ids[w.start :]]
    )
    assert permuted != pytest.approx(masked, rel=1e-2), (
        "labels of prompts would change loss and gradient"
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory, llama, some):
    """A random Llama without dropout after the same training."""
    folder = tmp_path_factory.mktemp("plain")
    train(llama, windows_of(llama, some), folder, SHORT)
    return folder


def test_the_size_of_micro_batches_changes_nothing(tmp_path, plain, llama, some):
    train(llama, windows_of(llama, some), tmp_path, SHORT, batch_tokens=64)
    np.testing.assert_allclose(losses(tmp_path), losses(plain), rtol=1e-5)
    np.testing.assert_allclose(losses(tmp_path, "grad_norm"), losses(plain, "grad_norm"), rtol=1e-4)


def limited(monkeypatch, most):
    """Give the model a memory of `most` tokens at once; what it is given is written down."""
    given, load = [], finetune.load_weights

    def with_limit(*arguments):
        model = load(*arguments)

        def count(module, args):
            if module.training:
                given.append(args[0].numel())
                if given[-1] > most:
                    raise torch.OutOfMemoryError("CUDA out of memory")

        model.get_input_embeddings().register_forward_pre_hook(count)
        return model

    monkeypatch.setattr(finetune, "load_weights", with_limit)
    return given


def test_a_micro_batch_that_does_not_fit_is_halved_and_the_losses_are_the_same(
    tmp_path, monkeypatch, plain, llama, some
):
    given = limited(monkeypatch, most=100)
    train(llama, windows_of(llama, some), tmp_path, SHORT)
    assert max(given) > 100 and len([tokens for tokens in given if tokens > 100]) < 10, (
        "found once, not at each step"
    )
    np.testing.assert_allclose(losses(tmp_path), losses(plain), rtol=1e-5)


def test_a_row_that_does_not_fit_is_said(tmp_path, monkeypatch, llama, some):
    limited(monkeypatch, most=20)
    with pytest.raises(
        MemoryError, match=r"single row of 42 tokens does not fit .* lower max_length"
    ):
        train(llama, windows_of(llama, some), tmp_path, SHORT)


def test_without_a_token_to_train_on_nothing_starts(tmp_path, gpt2):
    windows = windows_of(gpt2, {"prompt": ["a\n", "words " * 200], "response": ["", "b"]})
    with pytest.raises(ValueError, match="none of the 2 rows has a response token to train on"):
        train(gpt2, windows, tmp_path, SHORT)
    assert not list(tmp_path.iterdir())


def test_a_training_that_stops_early_is_the_beginning_of_the_whole_one(
    tmp_path, trained, gpt2, some
):
    (folder,) = train(gpt2, windows_of(gpt2, some), tmp_path, Plan(2, 1, 1e-3, 6))
    assert furthest(folder, trained / "epoch-1") < 1e-7
    assert losses(tmp_path) == losses(trained)[:3]


def interrupted_at(monkeypatch, *interrupted):
    """Log the steps that are run; raise instead of running the numbered ones, each once."""
    run_step, log, left = Training.run_step, [], list(interrupted)

    def logged(self):
        if self.step + 1 in left:
            left.remove(self.step + 1)
            raise KeyboardInterrupt
        run_step(self)
        log.append(self.step)

    monkeypatch.setattr(Training, "run_step", logged)
    return log


def test_an_interrupted_training_resumes_from_the_last_step_saved(
    tmp_path, monkeypatch, trained, gpt2, some
):
    log = interrupted_at(monkeypatch, 5)
    monkeypatch.setattr(finetune, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(finetune, "SAVE_SHARE", 1e9)
    with pytest.raises(KeyboardInterrupt):
        train(gpt2, windows_of(gpt2, some), tmp_path, SHORT)
    first = tmp_path / "epoch-1"
    written = first.stat().st_mtime_ns
    half = tmp_path / "training/state.pt.0123456789ab.unfinished"  # what a kill leaves of a state
    half.write_bytes(b"half")
    train(gpt2, windows_of(gpt2, some), tmp_path, SHORT)
    assert log == [1, 2, 3, 4, 5, 6] and first.stat().st_mtime_ns == written
    assert furthest(tmp_path / "epoch-2", trained / "epoch-2") < 1e-6, "dropout included"
    np.testing.assert_allclose(losses(tmp_path), losses(trained), rtol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-1", "epoch-2", "loss.jsonl"]
    train(gpt2, windows_of(gpt2, some), tmp_path, SHORT)
    assert len(log) == 6, "all epochs are there"


def test_half_states_of_earlier_kills_do_not_pile_up(tmp_path, monkeypatch, gpt2, some):
    interrupted_at(monkeypatch, 4, 5)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(gpt2, windows_of(gpt2, some), tmp_path, SHORT)
        assert [path.name for path in (tmp_path / "training").iterdir()] == ["state.pt"]
        (tmp_path / "training/state.pt.0123456789ab.unfinished").write_bytes(b"half")


def test_a_model_that_a_kill_kept_from_being_written_is_written_and_not_trained_again(
    tmp_path, monkeypatch, trained, gpt2, some
):
    from transformers import GPT2LMHeadModel

    def killed(model, folder):
        Path(folder).mkdir()
        raise KeyboardInterrupt

    log = interrupted_at(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(GPT2LMHeadModel, "save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            train(gpt2, windows_of(gpt2, some), tmp_path, Plan(2, 1, 1e-3, 6))
    assert not (tmp_path / "epoch-1").exists()
    train(gpt2, windows_of(gpt2, some), tmp_path, Plan(2, 1, 1e-3, 6))
    assert log == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-1", "loss.jsonl"]
    assert furthest(tmp_path / "epoch-1", trained / "epoch-1") < 1e-6


def test_a_removed_model_that_no_state_brings_back_is_trained_again(
    tmp_path, monkeypatch, trained, gpt2, some
):
    log = interrupted_at(monkeypatch, 5)
    monkeypatch.setattr(finetune, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(finetune, "SAVE_SHARE", 1e9)
    with pytest.raises(KeyboardInterrupt):
        train(gpt2, windows_of(gpt2, some), tmp_path, SHORT)
    shutil.rmtree(tmp_path / "epoch-1")
    train(gpt2, windows_of(gpt2, some), tmp_path, SHORT)
    assert log == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6]
    assert furthest(tmp_path / "epoch-1", trained / "epoch-1") < 1e-6


def test_the_learning_rate_is_that_of_the_cosine_schedule_of_transformers():
    from transformers import get_cosine_schedule_with_warmup

    plan, steps = Plan(learning_rate=3e-4), 70
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    schedule = get_cosine_schedule_with_warmup(optimizer, int(0.03 * steps), steps)
    for step in range(steps):
        assert plan.rate_at(step, steps) == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        schedule.step()


def test_every_row_with_a_token_to_train_on_is_in_one_step_of_each_epoch():
    rows = [[Window([1, 2, number], 1)] for number in range(10)] + [[Window([1], 1, "too_short")]]
    steps = Steps(rows, Plan(epochs=3, batch_rows=4))
    assert len(steps) == 9 and steps.per_epoch == 3
    epochs = [
        [window.ids[2] for step in range(3) for window in steps[3 * epoch + step]]
        for epoch in range(3)
    ]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert epochs[0] != epochs[1] != epochs[2], "shuffled anew"


# Processes and kills; test_learning_percentage.py has the fast ones, through score()

PROGRAM = """
import json, sys, time
from pathlib import Path
from hf_superfilter import CausalLM
from hf_superfilter.models import finetune
from hf_superfilter.models.trainer import Plan, Training
from hf_superfilter.revisions import resolve_revision

model, rows, folder, log, save_seconds, pause = sys.argv[1:]
finetune.SAVE_SECONDS, finetune.SAVE_SHARE = float(save_seconds), 1e9
run_step = Training.run_step

def logged(self):
    time.sleep(float(pause))
    run_step(self)
    with open(log, "a") as file:
        file.write(f"{self.step}\\n")

Training.run_step = logged
rows = json.loads(Path(rows).read_text())
pairs = CausalLM(model).windows(rows["prompt"], rows["response"], max_length=64, append_eos=True)
plan = Plan(epochs=2, stop_after=2, learning_rate=1e-3, batch_rows=6)
finetune.finetune(model, resolve_revision(model), [[pair.given] for pair in pairs], folder, plan)
"""


@pytest.fixture
def program(tmp_path, some):
    """The command line that trains in a folder, and where it logs the steps that it makes."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "rows.json").write_text(json.dumps(some))

    def command(model, folder, *launcher, save_seconds=0.0, pause=0.0):
        files = (
            tmp_path / "program.py",
            model,
            tmp_path / "rows.json",
            folder,
            tmp_path / "steps.log",
        )
        return [sys.executable, *map(str, (*launcher, *files, save_seconds, pause))]

    return command


def start(command):
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(command):
    process = start(command)
    said = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 0, said[-3000:]


def killed_after(command, log, steps, delay=0.0):
    """Kill it so many seconds after it has made so many steps more, and answer the steps that it
    made.
    """
    before = len(log.read_text().splitlines()) if log.exists() else 0
    process = start(command)
    while process.poll() is None and (
        not log.exists() or len(log.read_text().splitlines()) < before + steps
    ):
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    return [int(step) for step in log.read_text().splitlines()[before:]]


@pytest.mark.slow
def test_a_killed_training_goes_on_from_the_last_step_saved_and_ends_in_the_same_weights(
    tmp_path, program, trained, gpt2
):
    command, log = program(gpt2, tmp_path / "killed", pause=0.1), tmp_path / "steps.log"
    first = killed_after(command, log, 2)
    log.unlink()
    finish(command)
    went_on = int(log.read_text().split()[0])
    assert first[-1] <= went_on <= first[-1] + 1, (
        "at most the step that was not saved is made again"
    )
    assert furthest(tmp_path / "killed/epoch-2", trained / "epoch-2") < 1e-6
    np.testing.assert_allclose(losses(tmp_path / "killed"), losses(trained), rtol=1e-6)
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [
        "epoch-1",
        "epoch-2",
        "loss.jsonl",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kills_at_any_moment_between_two_steps_end_in_the_same_weights(
    tmp_path, program, trained, gpt2, seed
):
    command, log, rng = (
        program(gpt2, tmp_path / "killed", pause=0.05),
        tmp_path / "steps.log",
        random.Random(seed),
    )
    for _ in range(4):
        killed_after(command, log, 1, rng.uniform(0, 0.2))
    finish(command)
    assert furthest(tmp_path / "killed/epoch-2", trained / "epoch-2") < 1e-6


@pytest.mark.slow
def test_two_processes_of_torchrun_train_as_one_does(tmp_path, program, llama):
    finish(program(llama, tmp_path / "two", *TORCHRUN))
    assert (tmp_path / "steps.log").read_text().split() == [
        str(step) for step in range(1, 7) for _ in range(2)
    ]
    finish(program(llama, tmp_path / "one"))
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    np.testing.assert_allclose(
        losses(tmp_path / "two", "grad_norm"), losses(tmp_path / "one", "grad_norm"), rtol=1e-4
    )
    assert furthest(tmp_path / "two/epoch-2", tmp_path / "one/epoch-2") < 1e-4


@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_processes(tmp_path, program, llama):
    log = tmp_path / "steps.log"
    killed_after(program(llama, tmp_path / "run", pause=0.1), log, 2)
    log.unlink()
    finish(program(llama, tmp_path / "run", *TORCHRUN))
    assert int(log.read_text().split()[0]) > 1
    finish(program(llama, tmp_path / "one"))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "one"), rtol=1e-5)
