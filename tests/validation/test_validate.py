"""Students are trained alike, measured on what they are said to be, and resumed after a kill."""

import json
import shutil
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from processes import Forked
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_superfilter import (
    Combine,
    Length,
    RandomSample,
    Recipe,
    StudentSettings,
    SuperfilterError,
    Threshold,
    TopK,
    compare_recipes,
    judge,
    score,
    select,
    validate,
)
from hf_superfilter.models.student import FixedSteps, Student
from hf_superfilter.models.trainer import Plan
from hf_superfilter.validation.forecast import forecast_validation
from hf_superfilter.validation.material import material_of
from hf_superfilter.validation.rows import split_rows, windows_of
from hf_superfilter.validation.students import window_reader
from hf_superfilter.validation.trial import Design

RECIPE = Recipe("embedded:sample", [Length()], [TopK("length", 20)])
ARMS = ("selected", "random", "longest", "untrained")
TINY = {"held_out": 16, "arms": ARMS, "steps": 3, "seeds": 2, "draws": 2}


@pytest.fixture(scope="module")
def student(gpt2):
    return StudentSettings(gpt2, learning_rate=3e-3, batch_rows=4, max_length=64)


@pytest.fixture(scope="module")
def table(sample):
    short = [
        row
        for row in range(len(sample))
        if sample[row]["response"] and len(sample[row]["prompt"]) < 150
    ]
    rows = sample.select(short[:80])
    return rows.add_column("length", [len(text) for text in rows["response"]])


@pytest.fixture(scope="module")
def done(table, student, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return validate(select(table, TopK("length", 0.3)), student, folder=folder, **TINY), folder


def windows(table, student, name="rows"):
    return windows_of(table, student.reader(), 64, name)


def test_a_measure_is_what_transformers_computes_row_by_row(gpt2, table):
    student = Student(gpt2)
    rows = windows(table.select(range(12)), student).rows
    measured = student.measure(rows)
    plain = AutoModelForCausalLM.from_pretrained(gpt2, dtype=torch.float32).eval()
    for place, (window,) in enumerate(rows):
        ids = torch.tensor([list(window.ids)])
        with torch.inference_mode():
            logits = plain(input_ids=ids).logits[0, :-1].log_softmax(-1)
        losses = -logits[torch.arange(len(window.ids) - 1), ids[0, 1:]].double().numpy()
        scored = losses[window.start - 1 :]
        ends = int(window.status == "ok")
        assert measured["ends"][place] == ends
        assert measured["tokens"][place] == len(scored) - ends
        own = scored[: len(scored) - ends]
        assert measured["nats"][place] == pytest.approx(own.sum(), rel=1e-4)
        assert measured["end_nats"][place] == pytest.approx(scored[len(own) :].sum(), rel=1e-4)


def test_white_space_at_the_end_is_not_measured_and_a_cut_response_has_no_end(gpt2):
    texts = ["a plain answer", "a plain answer \n\n", "word " * 100]
    rows = Dataset.from_dict({"prompt": ["Say.\n"] * 3, "response": texts})
    student = Student(gpt2)
    read = windows(rows, student)
    assert read.digests[0] == read.digests[1]
    assert read.is_cut.tolist() == [False, False, True]
    assert student.measure(read.rows)["ends"].tolist() == [1, 1, 0]
    ids = AutoTokenizer.from_pretrained(gpt2)("a plain answer")["input_ids"]
    assert read.tokens[0] == len(ids)


def test_every_training_starts_alike_and_depends_on_rows_and_seed_alone(gpt2, table):
    student = Student(gpt2)
    rows = windows(table.select(range(20)), student).rows
    untrained = student.measure(rows)["nats"]
    plan = Plan(learning_rate=3e-3, batch_rows=4, seed=1)

    def trained(plan):
        student.train(rows, plan, 3)
        return student.measure(rows)["nats"]

    first, other = trained(plan), trained(Plan(learning_rate=3e-3, batch_rows=4, seed=2))
    assert first.sum() < untrained.sum()
    assert not np.array_equal(first, other)
    assert np.array_equal(trained(plan), first)
    student.reset()
    assert np.array_equal(student.measure(rows)["nats"], untrained)


def test_steps_are_full_and_every_row_comes_once_an_epoch(gpt2, table):
    rows = windows(table.select(range(10)), Student(gpt2)).rows
    steps = FixedSteps(rows, Plan(batch_rows=4, seed=0), 5)
    dealt = [id(window) for step in range(5) for window in steps[step]]
    assert len(dealt) == 20 and sorted(dealt[:10]) == sorted(dealt[10:])
    assert len(set(dealt[:10])) == 10 and dealt[:10] != dealt[10:]


def test_a_validation_states_its_plan_and_has_a_verdict(done):
    result, folder = done
    facts = json.loads((folder / "validation.json").read_text())
    assert facts == result.facts
    assert facts["plan"]["primary"] == "quartile mean"
    assert [arm["runs"] for arm in facts["plan"]["arms"]] == [2, 2, 2, 1]
    assert result.verdict in ("better", "worse", "no difference seen", "depends")
    (one,) = result.comparisons()
    assert (one["arm"], one["against"], one["rows_of"]) == ("selected", "random", "held-out")
    assert one["low"] <= one["value"] <= one["high"]
    text = str(result)
    assert "verdict: the selection" in text and "responses cut at the student's length" in text
    assert "nats per token" in text and "nan" not in text


def test_all_arms_take_the_same_steps(done):
    arms = {arm["name"]: arm for arm in done[0].facts["questions"][0]["arms"]}
    assert {arm["steps"] for name, arm in arms.items() if name != "untrained"} == {3}
    assert arms["untrained"]["steps"] == 0
    assert arms["selected"]["rows"] == arms["random"]["rows"] == arms["longest"]["rows"]


def test_run_again_it_trains_nothing_and_more_draws_train_only_those(done, table, student, caplog):
    result, folder = done
    selection = select(table, TopK("length", 0.3))
    files = {path: path.stat().st_mtime_ns for path in folder.glob("validation/*.parquet")}
    again = validate(selection, student, folder=folder, **TINY)
    assert again.facts == result.facts
    more = validate(selection, student, folder=folder, **{**TINY, "draws": 3})
    assert more.facts["plan"]["arms"][1]["runs"] == 3
    now = {path: path.stat().st_mtime_ns for path in folder.glob("validation/*.parquet")}
    assert files.items() <= now.items() and len(now) == len(files) + 1


def test_numbers_of_numpy_are_numbers(done, table, student, tmp_path):
    result, folder = done
    settings = StudentSettings(
        student.model,
        learning_rate=np.float64(3e-3),
        batch_rows=np.int64(4),
        max_length=np.int32(64),
    )
    assert settings == student and "np." not in repr(settings)
    options = {"held_out": 16, "steps": 3, "seeds": 2, "draws": 2, "seed": 0}
    numbers = {name: np.int64(value) for name, value in options.items()}
    selection = select(table, TopK("length", np.float64(0.3)))
    again = validate(selection, settings, folder=folder, arms=ARMS, **numbers)
    assert again.facts == result.facts
    share = {**TINY, "held_out": np.float32(0.2), "epochs": np.float32(0.5), "steps": None}
    few = validate(selection, settings, folder=tmp_path, **{**share, "arms": "selected,random"})
    assert few.facts["plan"]["sets"][0]["rows"] <= 16


def test_an_estimate_is_cheap_whatever_the_rows_of_a_step(table, student, tmp_path):
    large = replace(student, batch_rows=10**8)  # a single step would take hours
    design = Design(("selected", "random"), 1, 2, 0, 3, None, None)
    lines = forecast_validation(
        select(table, TopK("length", 0.3)), large, design, folder=str(tmp_path), held_out=16
    )
    assert "3 of 3 runs to do" in lines[-1] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("beneath", [False, True])
def test_a_folder_that_is_a_file_is_refused_before_anything_is_done(
    table, student, tmp_path, beneath
):
    file = tmp_path / "file"
    file.write_text("mine")
    place = file / "run" if beneath else file
    selection = select(table, TopK("length", 0.3))
    for call in (
        lambda: validate(selection, student, folder=place, **TINY),
        lambda: compare_recipes({"a": RECIPE, "b": RECIPE}, student, folder=place),
        lambda: judge(
            {"a": ["x"], "b": ["y"]}, ["p"], endpoint="http://127.0.0.1:9/v1", model="m",
            folder=place,
        ),
    ):  # fmt: skip
        with pytest.raises(
            SuperfilterError, match=r"cannot be used \('.*file' is a file\): choose"
        ):
            call()
    assert file.read_text() == "mine"


PROGRAM = """
import sys
from datasets import Dataset
from hf_superfilter import StudentSettings, TopK, select, validate
if __name__ == "__main__":
    table = Dataset.load_from_disk(sys.argv[1])
    student = StudentSettings(sys.argv[2], learning_rate=3e-3, batch_rows=4, max_length=64)
    validate(select(table, TopK("length", 0.3)), student, folder=sys.argv[3], held_out=16,
             arms=("selected", "random", "longest", "untrained"), steps=3, seeds=2, draws=2)
"""


def start(tmp_path, table, gpt2, folder):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    if not (tmp_path / "rows").exists():
        table.save_to_disk(tmp_path / "rows")
    return Forked([program, tmp_path / "rows", gpt2, folder], tmp_path)


def test_killed_and_resumed_it_gives_the_same_numbers(done, table, gpt2, student, tmp_path):
    result, _ = done
    folder = tmp_path / "run"
    killed = start(tmp_path, table, gpt2, folder)
    while killed.poll() is None and not list(folder.glob("validation/*.parquet")):
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert list(folder.glob("validation/*.parquet")), killed.errors.read_text()
    validate(select(table, TopK("length", 0.3)), student, folder=folder, **TINY)
    facts = json.loads((folder / "validation.json").read_text())

    def without_clock(facts):
        for arm in facts["questions"][0]["arms"]:
            arm.pop("seconds", None)
        return facts

    assert without_clock(facts) == without_clock(json.loads(json.dumps(result.facts)))


def test_of_a_validation_that_lacks_the_untrained_student_alone_only_that_is_measured(
    done, table, student, tmp_path
):
    """It is the last one, so a kill may leave it out; and it may be asked for later."""
    result, folder = done
    shutil.copytree(folder, tmp_path / "run")
    (lost,) = (tmp_path / "run" / "validation").glob("steps-untrained-*.parquet")
    lost.unlink()
    selection = select(table, TopK("length", 0.3))
    again = validate(selection, student, folder=tmp_path / "run", **TINY)
    assert lost.is_file()
    assert again.comparisons() == result.comparisons()


def test_students_of_another_precision_are_trained_anew(done, table, student, monkeypatch):
    design = Design(ARMS, 2, 2, 0, 3, None, None)
    selection = select(table, TopK("length", 0.3))

    def said():
        options = {"folder": str(done[1]), "held_out": 16}
        return forecast_validation(selection, student, design, **options)[-1]

    assert "all 7 runs are finished already" in said()
    monkeypatch.setattr("hf_superfilter.models.trainer.trains_in_bfloat16", lambda device: True)
    assert "7 of 7 runs to do" in said()


def test_a_fixed_number_that_is_a_larger_part_of_the_rows_not_held_out_is_told(table, tmp_path):
    def notes(*selectors, held_out=16):
        return material_of(select(table, selectors), str(tmp_path), held_out, 0).notes

    for fixed in (TopK("length", 30), RandomSample(30)):
        (told,) = [note for note in notes(Threshold("length", above=0), fixed) if "fixed" in note]
        rest = len(split_rows(table, 16, 16, seed=0).pool)
        assert told.startswith(f"{fixed!r}: its fixed number is {80 / rest:.2f} times as large a")
        assert f"of the {rest} rows that are not held out as of all 80" in told
    assert not [note for note in notes(TopK("length", 0.3)) if "fixed" in note]


def test_a_selection_of_few_rows_is_not_said_to_have_equal_tokens_where_draws_have_others(
    table, student, tmp_path
):
    options = {**TINY, "arms": ("selected", "random-lengths"), "steps": 1, "seeds": 1}
    result = validate(select(table, TopK("length", 0.1)), student, folder=tmp_path, **options)
    (question,) = result.facts["questions"]
    own, drawn = (arm["tokens"] for arm in question["arms"])
    assert abs(own - drawn) > 0.02 * drawn
    said = "\n".join([question["verdict"]["text"], *question["verdict"]["notes"]])
    assert f"{drawn:,.0f} tokens where it has {own:,.0f}" in said and "equal lengths (" not in said


def test_a_recipe_holds_rows_out_before_it_scores(student, tmp_path):
    recipe = Recipe("embedded:sample", [Length()], [TopK("length", 20)])
    result = validate(
        recipe,
        student,
        folder=tmp_path,
        arms=("selected", "random"),
        held_out=32,
        steps=1,
        draws=2,
        seeds=1,
    )
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["rows"] == result.facts["rows"]["pool"] <= 519 - 32 - 51
    assert "before anything was scored" in result.facts["notes"][0]
    assert result.facts["plan"]["sets"][0]["rows"] <= 32


def test_prompts_that_are_held_out_and_trained_on_are_told(table, student, tmp_path):
    options = {**TINY, "arms": ("selected", "random"), "steps": 1, "seeds": 1}
    prompts = [f"Say {row // 4}.\n" for row in range(80)]
    several = Dataset.from_dict({"prompt": prompts, "response": [f"It is {n}." for n in range(80)]})
    several = several.add_column("length", list(range(80)))
    result = validate(select(several, TopK("length", 0.5)), student, folder=tmp_path, **options)
    split = split_rows(several, 16, 16, seed=0)
    trained = {prompts[row] for row in split.pool}
    shared = sum(prompts[row] in trained for row in split.held_out)
    notes = "\n".join(result.facts["notes"])
    assert shared > 0 and f"{shared} of the 16 rows held out have the prompt of rows that" in notes
    other = validate(select(table, TopK("length", 0.3)), student, folder=tmp_path, **options)
    assert "have the prompt of rows" not in "\n".join(other.facts["notes"])


def test_a_recipe_may_have_as_many_unreadable_rows_as_it_says(student, tmp_path):
    good = [{"role": "user", "content": "Say"}, {"role": "assistant", "content": "A word or two."}]
    lines = [json.dumps({"messages": good}).replace("Say", f"Say {row}") for row in range(80)]
    rows = Dataset.from_dict({"prompt": lines, "response": lines})
    for row in split_rows(rows, 16, 16, seed=0).pool[:2].tolist():
        lines[row] = json.dumps({"messages": [{"role": "nobody", "content": "?"}]})
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    recipe = Recipe(str(tmp_path / "rows.jsonl"), [Length()], [TopK("length", 0.5)])
    options = {**TINY, "arms": ("selected", "random"), "steps": 1, "seeds": 1}
    with pytest.raises(SuperfilterError, match=r"more than max_unreadable=0\.01"):
        validate(recipe, student, folder=tmp_path / "strict", **options)
    recipe = replace(recipe, max_unreadable=0.5)
    assert validate(recipe, student, folder=tmp_path / "run", **options) is not None


def test_scorers_that_looked_at_all_rows_are_named(table, student, tmp_path):
    plain = table.remove_columns("length")
    scored = score(plain, [Length(), Combine({"length": 1})], tmp_path)
    selection = select(scored, TopK("combined", 0.3), run=tmp_path)
    options = {**TINY, "arms": ("selected", "random"), "steps": 1, "seeds": 1}
    notes = validate(selection, student, **options).facts["notes"]
    assert [note for note in notes if "combined looked at the rows held out" in note]
    assert not [note for note in notes if "length" in note and "looked at" in note]


def test_the_rate_is_chosen_on_other_rows_and_stated(table, gpt2, tmp_path):
    settings = StudentSettings(gpt2, batch_rows=4, max_length=64)
    result = validate(
        select(table, TopK("length", 0.3)),
        settings,
        folder=tmp_path,
        **{**TINY, "steps": 2, "arms": ("selected", "random")},
    )
    tried = result.facts["rates"]
    best = min(tried, key=lambda one: one["loss"])["learning_rate"]
    assert len(tried) >= 3 and result.facts["student"]["learning_rate"] == best


def test_other_arms_other_sets_and_a_target_are_compared_too(table, student, tmp_path):
    foreign = Dataset.from_dict(
        {"prompt": [f"q{n}\n" for n in range(12)], "response": ["yes it is"] * 12}
    )
    selection = select(table, TopK("length", 0.3))
    result = validate(
        selection,
        student,
        folder=tmp_path,
        others={
            "shortest": select(table, TopK("length", 0.3, largest=False)),
            "first rows": list(range(30)),
            "elsewhere": foreign,
        },
        sets={"yes": foreign},
        target=foreign,
        epochs=1,
        **{**TINY, "arms": ("selected", "random"), "steps": 1},
    )
    assert [entry["name"] for entry in result.facts["questions"]] == ["steps", "epochs"]
    names = {(one["arm"], one["rows_of"]) for one in result.comparisons()}
    arms = {"selected", "shortest", "first rows", "elsewhere"}
    assert names == {(arm, rows) for arm in arms for rows in ("held-out", "yes", "target")}
    rows = {arm["name"]: arm["rows"] for arm in result.facts["questions"][0]["arms"]}
    tokens = windows_of(table, window_reader(student), 64, "rows").tokens
    pool = split_rows(table, 16, 16, seed=0).pool.tolist()
    shortest = sorted(pool, key=lambda row: table[row]["length"])[: int(0.3 * len(pool))]
    assert rows["shortest"] == np.count_nonzero(tokens[shortest]) and rows["elsewhere"] == 12
    steps = {arm["name"]: arm["steps"] for arm in result.facts["questions"][1]["arms"]}
    assert steps["elsewhere"] == 3 and steps["selected"] == np.ceil(rows["selected"] / 4)


def test_a_selection_of_a_table_scored_apart_goes_by_its_own_scores(table, student, tmp_path):
    """Two runs of one scorer with two models have columns of one name."""
    plain = table.select_columns(["prompt", "response"])
    lengths = [len(text) for text in plain["response"]]
    longest, shortest = (
        select(plain.add_column("score", [sign * length for length in lengths]), TopK("score", 0.3))
        for sign in (1, -1)
    )
    options = {**TINY, "arms": ("selected", "random"), "steps": 1, "seeds": 1}
    result = validate(longest, student, folder=tmp_path, others={"short": shortest}, **options)
    tokens = windows_of(plain, window_reader(student), 64, "rows").tokens
    pool = split_rows(plain, 16, 16, seed=0).pool.tolist()
    kept = sorted(pool, key=lambda row: lengths[row])[: int(0.3 * len(pool))]
    arms = {arm["name"]: arm for arm in result.facts["questions"][0]["arms"]}
    assert arms["short"]["tokens"] == tokens[kept].sum() < arms["selected"]["tokens"]


def test_a_selection_of_other_rows_is_refused(table, student, tmp_path):
    order = table.select(list(reversed(range(len(table)))))
    scores = table.select_columns(["length"])
    options = {"folder": tmp_path, **TINY, "arms": ("selected", "random")}
    for other, reason in (
        (order, "whose row 0 has another prompt or response"),
        (scores, "without a column 'prompt'"),
        (table.select(range(70)), "from 70 rows, and the selection from 80"),
    ):
        others = {"other": select(other, TopK("length", 0.3))}
        with pytest.raises(SuperfilterError, match=f"{reason}.*select both from one table"):
            validate(select(table, TopK("length", 0.3)), student, others=others, **options)


def test_rows_of_another_arm_without_a_response_are_not_trained_on_and_told(
    table, student, tmp_path
):
    responses = ["" if row % 3 == 0 else text for row, text in enumerate(table["response"])]
    rows = table.remove_columns("response").add_column("response", responses)
    options = {**TINY, "arms": ("selected", "random"), "steps": 1, "seeds": 1}
    selection = select(rows, TopK("length", 0.3))
    numbers = list(range(40))
    result = validate(selection, student, folder=tmp_path, others={"first": numbers}, **options)
    own = sorted(set(numbers) & set(split_rows(rows, 16, 16, seed=0).pool.tolist()))
    full = int((windows_of(table, window_reader(student), 64, "rows").tokens[own] == 0).sum())
    empty = sum(row % 3 == 0 for row in own)
    arms = {arm["name"]: arm for arm in result.facts["questions"][0]["arms"]}
    lost = len(own) - arms["first"]["rows"]
    assert max(full, empty) <= lost <= full + empty
    notes = "\n".join(result.facts["notes"])
    assert f"not trained on: {lost:.0f} of the {len(own)} rows of first (" in notes


def test_rows_from_elsewhere_lose_those_held_out_and_a_set_of_known_rows_is_told(
    table, student, tmp_path
):
    options = {**TINY, "arms": ("selected", "random"), "steps": 1, "seeds": 1}
    selection = select(table, TopK("length", 0.3))
    result = validate(
        selection,
        student,
        folder=tmp_path,
        others={"all rows": table.select_columns(["prompt", "response"])},
        sets={"a part": table.select(range(40))},
        **options,
    )
    texts = [
        (table[row]["prompt"].strip(), table[row]["response"].strip()) for row in range(len(table))
    ]
    held_out = {texts[row] for row in split_rows(table, 16, 16, seed=0).held_out.tolist()}
    tokens = windows_of(table, window_reader(student), 64, "rows").tokens
    kept = [row for row in range(len(table)) if texts[row] not in held_out]
    arms = {arm["name"]: arm for arm in result.facts["questions"][0]["arms"]}
    assert arms["all rows"]["rows"] == np.count_nonzero(tokens[kept])
    notes = "\n".join(result.facts["notes"])
    assert f"all rows: {len(table) - len(kept)} of its {len(table)} rows are left out" in notes
    # Those held back to tune on are in the arm from elsewhere, and so are trained on as well.
    measured = np.flatnonzero(tokens[:40])
    known = sum(texts[row] not in held_out for row in measured)
    assert f"{known} of the {len(measured)} rows of a part are rows that students may be" in notes


def test_rows_without_a_response_in_the_window_are_counted(table, student, tmp_path):
    long, empty = "word " * 100, [""] * 6
    prompts = [long if row % 10 == 0 else f"Say {row}.\n" for row in range(len(table))]
    responses = [*table["response"][:-6], *empty]
    rows = Dataset.from_dict({"prompt": prompts, "response": responses})
    rows = rows.add_column("all", [1.0] * len(rows))
    options = {**TINY, "arms": ("selected", "random"), "steps": 1, "seeds": 1, "held_out": 20}
    selection = select(rows, Threshold("all", above=0.5))
    result = validate(selection, student, folder=tmp_path, **options)
    split = split_rows(rows, 20, 16, seed=0)
    notes = "\n".join(result.facts["notes"])
    for numbers, words in (
        (split.held_out, "not measured: {} of the 20 rows of held-out"),
        (split.pool, f"not trained on: {{}} of the {len(split.pool)} rows selected"),
    ):
        full = sum(prompts[row] == long and bool(responses[row].strip()) for row in numbers)
        none = sum(not responses[row].strip() for row in numbers)
        assert full and none
        reasons = f"prompts that fill the 64 tokens read of a row, max_length: {full}; no response"
        assert f"{words.format(full + none)} ({reasons}: {none})" in notes


def test_a_student_whose_losses_are_no_numbers_is_told_and_leaves_no_result(table, gpt2, tmp_path):
    settings = StudentSettings(gpt2, learning_rate=1e30, batch_rows=4, max_length=64)
    options = {**TINY, "arms": ("selected", "random"), "steps": 2}
    with pytest.raises(SuperfilterError, match="learning rate 1e\\+30: give a lower learning_rate"):
        validate(select(table, TopK("length", 0.3)), settings, folder=tmp_path, **options)
    assert not (tmp_path / "validation.json").exists()


def test_kept_students_load_with_transformers(table, gpt2, tmp_path):
    settings = StudentSettings(gpt2, learning_rate=1e-3, batch_rows=4, max_length=64, keep=True)
    options = {**TINY, "arms": ("selected", "random"), "steps": 1, "seeds": 1}
    selection = select(table, TopK("length", 0.3))
    # Runs that are finished without their weights are trained again for them.
    plain = validate(selection, replace(settings, keep=False), folder=tmp_path, **options)
    assert not (tmp_path / "validation" / "models").exists()
    kept = validate(selection, settings, folder=tmp_path, **options)
    assert kept.comparisons() == plain.comparisons()
    folders = sorted(tmp_path.glob("validation/models/*"))
    assert [folder.name.rsplit("-", 1)[0] for folder in folders] == [
        "steps-random-1",
        "steps-random-2",
        "steps-selected-1",
    ]
    AutoModelForCausalLM.from_pretrained(folders[0])


def test_a_disk_that_fills_up_is_one_sentence_and_leaves_no_half_of_a_model(
    table, student, tmp_path
):
    resource = pytest.importorskip("resource", reason="limits the size of files")
    options = {**TINY, "arms": ("selected", "random"), "steps": 1, "seeds": 1}
    selection, keeping = select(table, TopK("length", 0.3)), replace(student, keep=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"weights could not be written .* make room and run"):
            validate(selection, keeping, folder=tmp_path, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob("validation/models/*"))
    assert not list(tmp_path.glob("validation/*.parquet")), "no run is finished"
    validate(selection, keeping, folder=tmp_path, **options)
    (kept,) = tmp_path.glob("validation/models/steps-selected-1-*")
    half = kept.with_name(f"{kept.name}.1.unfinished")  # of a process that was killed
    kept.rename(half)
    validate(selection, keeping, folder=tmp_path, **options)
    assert kept.is_dir() and not half.exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"held_out": 0}, "held_out=0"),
        ({"held_out": 1.5}, "held_out=1.5"),
        ({"held_out": 70}, "hold fewer rows out"),
        ({"held_out": 4}, "at least 8"),
        ({"seeds": 0}, "seeds=0"),
        ({"draws": 1}, "draws=1"),
        ({"steps": -1}, "steps=-1"),
        ({"others": {"selected": [1, 2]}}, "two arms are called 'selected'"),
        ({"others": {"x": [1_000]}}, "names row 1000"),
        ({"others": {"x": [-1, 2]}}, "names row -1"),
        ({"others": {"untrained": [1, 2]}}, "'untrained' is an arm of its own"),
        ({"others": {"random-lengths": [1, 2]}}, "'random-lengths' is an arm of its own"),
        ({"others": {"full": [1, 2]}}, "'full' is an arm of its own"),
        ({"others": {"highest:length": [1, 2]}}, "'highest:length' is an arm of its own"),
        ({"others": {" ": [1, 2]}}, "' ' is no name of an arm"),
        ({"others": {3: [1, 2]}}, "3 is no name of an arm"),
        ({"others": [1]}, "others is of type list"),
        ({"sets": {"target": None}}, "give it as target"),
        ({"sets": {3: None}}, "3 is no name of a set"),
        ({"sets": {"x": [1]}}, "x is of type list: give a Dataset"),
        ({"target": "other.jsonl"}, "target is of type str: give a Dataset"),
        ({"arms": None}, "arms=None"),
        ({"arms": ["selected", 3]}, "list names"),
        ({"arms": "selected,random,where:length"}, "where:length: the column holds"),
        ({"folder": None}, "no run folder"),
        ({"arms": ("selected", "random", "highest:nothing")}, "no column 'nothing'"),
    ],
)
def test_what_cannot_be_validated_is_refused_with_what_to_do(
    table, student, tmp_path, options, reason
):
    arguments = {"folder": tmp_path, **TINY, "arms": ("selected", "random"), **options}
    with pytest.raises(SuperfilterError, match=reason):
        validate(select(table, TopK("length", 0.3)), student, **arguments)


def test_a_table_of_repeated_rows_has_none_to_train_on(table, student, tmp_path):
    repeated = table.select([0, 1] * 40)
    with pytest.raises(SuperfilterError, match="take out what is there twice"):
        validate(select(repeated, TopK("length", 0.3)), student, folder=tmp_path, **TINY)


def test_prompts_that_fill_the_window_are_told_from_rows_without_a_response(table, gpt2, tmp_path):
    settings = StudentSettings(gpt2, learning_rate=1e-3, batch_rows=4, max_length=2)
    with pytest.raises(SuperfilterError, match="fill the student's window: raise max_length"):
        validate(select(table, TopK("length", 0.3)), settings, folder=tmp_path, **TINY)


def test_a_student_that_cannot_be_is_refused(table):
    for settings in ({"learning_rate": 0}, {"batch_rows": 0}, {"max_length": 1}, {"lora": 0}):
        with pytest.raises(SuperfilterError, match=next(iter(settings))):
            StudentSettings("embedded:weak", **settings)
    with pytest.raises(SuperfilterError, match="student=''"):
        StudentSettings("")


def test_adapters_train_few_weights_start_alike_and_are_merged_when_kept(weak, table, tmp_path):
    pytest.importorskip("peft", reason="LoRA needs the train extra")
    student = Student(weak, lora=4)
    rows = windows(table.select(range(12)), student).rows
    start = student.measure(rows)["nats"]
    assert start == pytest.approx(Student(weak).measure(rows)["nats"], rel=1e-5)
    student.train(rows, Plan(learning_rate=3e-3, batch_rows=4), 3)
    learned = student.measure(rows)["nats"]
    assert learned.sum() < start.sum()
    student.save(tmp_path)
    assert Student(tmp_path).measure(rows)["nats"] == pytest.approx(learned, rel=1e-5)
    student.reset()
    assert np.array_equal(student.measure(rows)["nats"], start)


def test_adapters_without_peft_are_refused_with_what_to_install(weak, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SuperfilterError, match=r"hf-superfilter\[train\]"):
        Student(weak, lora=4)


def test_a_run_under_a_url_gives_the_same_numbers_and_keeps_no_models(done, table, student):
    folder = "memory://validated"
    selection = select(table, TopK("length", 0.3))
    result = validate(selection, student, folder=folder, **TINY)
    assert result.comparisons() == done[0].comparisons()
    keeping = replace(student, keep=True)
    with pytest.raises(SuperfilterError, match="local folder"):
        validate(selection, keeping, folder=folder, **TINY)
