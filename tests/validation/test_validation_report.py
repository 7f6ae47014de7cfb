"""The command validates a run, and report and card say what came out of it."""

import contextlib
import io
import json
from dataclasses import replace

import pytest

from hf_superfilter import (
    Length,
    Recipe,
    SuperfilterError,
    TopK,
    load_rows,
    select,
    write_repo,
    write_report,
)
from hf_superfilter.cli.app import app
from hf_superfilter.cli.validation import parse_held_out, rows_of_file
from hf_superfilter.reports.explorer import explorer_points

OPTIONS = [
    *("--arms", "selected,random", "--steps", "2", "--seeds", "1", "--draws", "2"),
    *("--learning-rate", "1e-3", "--max-length", "64", "--batch-rows", "4"),
]


@pytest.fixture(scope="module")
def rows(sample, tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    columns = ["instruction", "input", "output"]
    sample.select(range(90)).select_columns(columns).to_json(file)
    return file


def run_command(*arguments):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        app([str(argument) for argument in arguments], standalone_mode=False)
    return printed.getvalue()


@pytest.fixture(scope="module")
def validated(rows, gpt2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run_command("score", rows, "--scorer", "length", "--folder", folder)
    run_command("score", rows, "--scorer", "perplexity", "--model", gpt2, "--folder", folder)
    run_command("select", folder, "--by", "length", "--k", "0.3")
    command = ["validate", folder, "--student", gpt2, *OPTIONS, "--held-out", "20"]
    return folder, run_command(*command, "--target", rows)


def test_the_command_prints_verdict_and_tables(validated):
    folder, printed = validated
    facts = json.loads((folder / "validation.json").read_text())
    assert f"verdict: {facts['questions'][0]['verdict']['text']}" in printed
    assert {part["name"] for part in facts["plan"]["sets"]} == {"held-out", "target"}
    assert "results: " in printed and "report: " in printed


def test_a_dry_run_states_the_plan_and_writes_nothing(validated, rows, gpt2, tmp_path):
    folder, _ = validated
    command = ["validate", folder, "--student", gpt2, *OPTIONS, "--held-out", "20", "--dry-run"]
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = run_command(*command, "--target", rows)
    assert "arms and runs: selected (1), random (2)" in again
    assert "all 3 runs are finished already" in again
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == files
    elsewhere = run_command(*command, "--folder", tmp_path / "new")
    assert "3 of 3 runs to do" in elsewhere and "minutes of one process" in elsewhere
    assert "nothing was written (--dry-run)" in elsewhere
    assert not list(tmp_path.iterdir())


def test_selections_are_validated_and_compared_by_their_names(rows, gpt2, refused, tmp_path):
    run_command("score", rows, "--scorer", "length", "--folder", tmp_path / "run")
    for name, k in {"long": "12", "wide": "20"}.items():
        run_command("select", tmp_path / "run", "--by", "length", "--k", k, "--name", name)
    arms = [*OPTIONS, "--arms", "selected,random,wide", "--held-out", "20", "--name", "long"]
    command = ["validate", tmp_path / "run", "--student", gpt2, *arms]
    assert "selected (1), random (2), wide (1)" in run_command(*command, "--dry-run")
    printed = run_command(*command)
    assert f"publish {tmp_path / 'run'} user/name --name long --dry-run" in printed
    facts = json.loads((tmp_path / "run/validation.json").read_text())
    kept = {arm["name"]: arm["rows"] for arm in facts["questions"][0]["arms"]}
    assert kept == {"selected": 12, "random": 12, "wide": 20}
    pages = {name: tmp_path / f"run/selections/{name}/report.html" for name in ("long", "wide")}
    assert ["no student was trained" in page.read_text() for page in pages.values()] == [0, 1]
    error = refused("validate", tmp_path / "run", "--student", gpt2, "--name", "lang")
    assert "has no selection 'lang'" in error and "long" in error
    error = refused("validate", "superfiltering", "--student", gpt2, "--name", "long")
    assert error.startswith("--name long: only a run folder holds selections by name")


def test_a_dry_run_of_recipes_lets_random_rows_stand_in(rows, gpt2, tmp_path):
    recipes = []
    for name, share in (("long", 0.3), ("longer", 0.1)):
        recipe = Recipe(str(rows), [Length()], [TopK("length", share)])
        recipes.append(tmp_path / f"{name}.yaml")
        recipes[-1].write_text(recipe.to_yaml())
    options = ["--student", gpt2, *OPTIONS[2:], "--held-out", "20", "--dry-run"]
    arms = ("--arms", "selected,random,highest:length")
    one = run_command("validate", recipes[0], *options, *arms, "--folder", tmp_path / "one")
    assert "length: 90 rows" in one and "then select: TopK(by='length', k=0.3)" in one
    assert "3 of 3 runs to do" in one and "not scored yet: highest:length" in one
    both = run_command("compare", *recipes, *options, "--folder", tmp_path / "both")
    assert "arms and runs: selected (1), random (2), random-tokens (2), longer (1)" in both
    assert "'selected' is long" in both and "6 of 6 runs to do" in both
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long.yaml", "longer.yaml"]


def test_a_comparison_refuses_other_rows_to_measure_on(rows, refused, tmp_path):
    """It would rank on rows held out as if no file had been named."""
    recipes = []
    for name in ("one", "two"):
        recipes.append(tmp_path / f"{name}.yaml")
        recipes[-1].write_text(Recipe(str(rows), [Length()], [TopK("length", 9)]).to_yaml())
    error = refused("compare", *recipes, "--student", "embedded:weak", "--held-out", rows)
    assert error.startswith(f"--held-out {rows}: give a share or a number of rows")
    assert "--target" in error


def test_a_validation_is_followed_by_what_holds_all_rows(validated, rows, gpt2, tmp_path):
    folder, printed = validated
    assert f"next: hf-superfilter publish {folder} user/name --dry-run" in printed
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(Recipe(str(rows), [Length()], [TopK("length", 0.3)]).to_yaml())
    options = ["--student", gpt2, *OPTIONS, "--held-out", "20", "--folder", tmp_path / "run"]
    assert f"next: hf-superfilter run {recipe} --dry-run" in run_command(
        "validate", recipe, *options
    )


def test_the_report_shows_the_section_and_leaves_it_out_for_another_selection(validated, tmp_path):
    folder, _ = validated
    page = (folder / "report.html").read_text(encoding="utf-8")
    facts = json.loads((folder / "validation.json").read_text())
    (own, _) = facts["questions"][0]["comparisons"]
    assert "<h2>Does it train better?</h2>" in page
    assert f'data-value="{own["value"]}"' in page
    table = load_rows(folder / "scored.parquet")
    other = select(table, TopK("length", 0.2), run=folder)
    text = write_report(other, tmp_path / "other.html").read_text(encoding="utf-8")
    assert "no student was trained on this selection" in text


def test_the_card_has_the_section_where_it_was_validated_and_no_text_of_other_rows(
    validated, tmp_path
):
    folder, _ = validated
    table = load_rows(folder / "scored.parquet")
    home = write_repo(select(table, TopK("length", 0.3), run=folder), tmp_path / "repo")
    card = (home / "README.md").read_text(encoding="utf-8")
    word = json.loads((folder / "validation.json").read_text())["questions"][0]["verdict"]["word"]
    assert "### Does it train better?" in card and f"**{word.capitalize()}.**" in card
    (facts,) = home.rglob("facts.json")
    published = json.loads(facts.read_text(encoding="utf-8"))["validation"]
    assert "questions" in published and not {"rows_that_differ", "differences"} & set(published)
    plain = write_repo(select(table, TopK("length", 0.2), run=folder), tmp_path / "plain")
    assert "Does it train better?" not in (plain / "README.md").read_text(encoding="utf-8")


def test_the_explorer_gets_what_was_learned_about_each_row_held_out(validated):
    folder, _ = validated
    table = load_rows(folder / "scored.parquet")
    points, _ = explorer_points(select(table, TopK("length", 0.3), run=folder))
    facts = json.loads((folder / "validation.json").read_text())
    values = points.column("learned_difference").to_pylist()
    known = [row for row, value in enumerate(values) if value is not None]
    assert known == sorted(facts["differences"]["rows"])
    extreme = max(facts["rows_that_differ"], key=lambda row: row["difference"])
    assert values[extreme["row"]] == pytest.approx(extreme["difference"], abs=1e-5)
    assert max(values[row] for row in known) == values[extreme["row"]]


def cut_short(text):
    return text[: len(text) // 2]


def without_a_verdict(text):
    facts = json.loads(text)
    del facts["questions"][0]["verdict"]["word"]
    return json.dumps(facts)


def with_a_list_for_the_student(text):
    return json.dumps(json.loads(text) | {"student": ["embedded:weak"]})


@pytest.mark.parametrize("damage", [cut_short, without_a_verdict, with_a_list_for_the_student])
def test_a_damaged_result_is_no_result(validated, tmp_path, caplog, damage):
    folder, _ = validated
    file = folder / "validation.json"
    text = file.read_text()
    try:
        file.write_text(damage(text))
        selection = select(load_rows(folder / "scored.parquet"), TopK("length", 0.3), run=folder)
        page = write_report(selection, tmp_path / "report.html").read_text(encoding="utf-8")
    finally:
        file.write_text(text)
    assert "no student was trained" in page
    assert "is damaged" in caplog.text


def test_held_out_is_a_share_a_number_or_files(rows):
    assert parse_held_out(["0.2"], None) == (0.2, {})
    assert parse_held_out(["25%"], None) == (0.25, {})
    share, sets = parse_held_out(["100", str(rows)], None)
    assert share == 100 and list(sets) == ["rows.jsonl"]
    assert sets["rows.jsonl"].column_names == ["prompt", "response"]
    with pytest.raises(SuperfilterError, match="one share or number"):
        parse_held_out(["0.1", "100"], None)


QUESTIONS = [{"q": f"Say {n}.", "answer": "No, not this.", "short": f"{n}"} for n in range(12)]


def test_another_file_is_read_as_the_rows_of_the_selection_are(tmp_path, caplog):
    """A file of the same layout may have more columns, by which another format would be read."""
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, QUESTIONS)), encoding="utf-8")
    columns = {"instruction": "q", "output": "short"}
    recipe = Recipe("x.jsonl", [Length()], template="Q: {instruction} A:", columns=columns)
    for own in (replace(recipe, format="alpaca"), recipe):
        read = rows_of_file(str(file), own)
        assert read[3] == {"prompt": "Q: Say 3. A:", "response": "3"}
    alpaca = [{"instruction": "Add.", "input": "2 2", "output": "4", "text": "no"}]
    file.write_text(json.dumps(alpaca[0]), encoding="utf-8")
    for own in (recipe, replace(recipe, format="text", columns=None, template="none")):
        read = rows_of_file(str(file), own)
        assert read[0]["response"] == ("no" if own.format == "text" else "4")
    assert "as they stand" not in caplog.text


def test_pairs_in_another_file_are_said_to_be_read_without_the_template(tmp_path, caplog):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"prompt": "Add 2 2", "response": "4"}), encoding="utf-8")
    recipe = Recipe("x.jsonl", [Length()], template="alpaca")
    assert rows_of_file(str(file), recipe)[0] == {"prompt": "Add 2 2", "response": "4"}
    assert "read as they stand: without the template 'alpaca'" in caplog.text
    caplog.clear()
    rows_of_file(str(file), replace(recipe, template="none"))
    assert "as they stand" not in caplog.text


def test_files_of_one_name_are_two_sets_and_one_file_twice_is_refused(rows, tmp_path):
    other = tmp_path / "rows.jsonl"
    other.write_text(rows.read_text(encoding="utf-8"), encoding="utf-8")
    _, sets = parse_held_out([str(rows), str(other)], None)
    assert list(sets) == ["rows.jsonl", str(other)]
    with pytest.raises(SuperfilterError, match="given twice"):
        parse_held_out([str(rows), str(other), str(other)], None)
