"""The command line: what it writes, what it says, and how it ends."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset
from publishing import about_of

from hf_superfilter import Length, TopK, format_pairs, load_rows, select
from hf_superfilter import score as score_rows
from hf_superfilter.cli import app as cli
from hf_superfilter.errors import WrongTypeError
from hf_superfilter.recipes.entries import public_names

HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "evaluate",
    "pandas",
    "sklearn",
    "scipy",
    "matplotlib",
)


def in_a_process(*arguments, folder):
    return subprocess.run(
        [sys.executable, "-m", "hf_superfilter", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"HF_DATASETS_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The demo, run once as a user does."""
    folder = tmp_path_factory.mktemp("demo")
    done = in_a_process("demo", "--folder", folder / "run", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run", done


@pytest.fixture
def scored(tmp_path):
    """A file of 1,000 rows with a score."""
    Dataset.from_dict(
        {"ifd": [i / 800 for i in range(1000)], "response": ["x\u2028é"] * 1000}
    ).to_parquet(tmp_path / "s.parquet")
    return tmp_path / "s.parquet"


@pytest.fixture
def rows(tmp_path):
    """Four rows to score."""
    made = [
        {"instruction": f"Say {word}.", "output": f"{word} and more {word}"}
        for word in ("yes", "no", "so", "hi")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return tmp_path / "rows.jsonl"


# demo, inspect


def test_the_demo_writes_its_files_and_prints_funnel_and_rows(demo):
    folder, done = demo
    assert {path.name for path in folder.iterdir()} >= {
        "run.json",
        "recipe.yaml",
        "scored.parquet",
        "selected.parquet",
        "summary.txt",
        "report.html",
        "ifd",
        "length",
    }
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    assert (folder / "summary.txt").read_text() in done.stdout
    for said in (
        "Threshold(by='ifd', below=1.0)",
        "TopK(by='ifd', k=0.15)",
        "Best kept:",
        "Just under the line:",
        "Worst:",
        "s; embedded:",
        "report: ",
    ):
        assert said in done.stdout
    scored, selected = load_rows(folder / "scored.parquet"), load_rows(folder / "selected.parquet")
    assert len(selected) == int(0.15 * len(scored))
    assert all(ifd < 1 for ifd in selected["ifd"]) and selected["ifd"][:] == sorted(
        selected["ifd"][:], reverse=True
    )


def test_the_demo_shows_what_plain_ifd_keeps_and_a_recipe_that_mends_it(demo):
    folder, done = demo
    planted = [kind or "" for kind in load_rows(folder / "scored.parquet")["planted"][:]]
    defects = sum(kind != "" for kind in planted)
    cleaned = load_rows(folder / "selections/cleaned/selected.parquet")
    kept = sum(bool(kind) for kind in cleaned["planted"][:])
    sound = (len(cleaned) - kept) / (len(planted) - defects)
    assert len(cleaned) == int(0.15 * len(planted)) and kept / defects < sound / 2
    for line in ("Plain IFD keeps", "times as likely to be kept as a sound row", "all defects"):
        assert line in done.stdout
        assert line in (folder / "report.html").read_text()
        assert line in (folder / "selections/cleaned/report.html").read_text()


def test_a_report_made_again_keeps_the_demos_table_and_one_of_another_selection_has_none(
    demo, command, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(demo[0], run)
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert command("report", run)[0] == 0
    assert table_of(run / "report.html") == table_of(demo[0] / "report.html") != []
    assert "Plain IFD keeps" in before
    assert command("select", run, "--by", "length", "--k", "9")[0] == 0
    assert "Plain IFD keeps" not in (run / "report.html").read_text()


def table_of(page):
    """Return the lines of a page that tell of planted defects."""
    return [line for line in page.read_text().splitlines() if "all defects" in line]


def test_inspect_prints_the_record_of_a_run(demo, command):
    code, out, _ = command("inspect", demo[0])
    assert code == 0
    assert yaml.safe_load(out) == json.loads((demo[0] / "run.json").read_text())


def test_a_recipe_left_by_the_demo_runs_again(demo, command, tmp_path):
    recipe = yaml.safe_load((demo[0] / "recipe.yaml").read_text())
    recipe["score"] = ["Length"]
    recipe["select"] = [{"TopK": {"by": "length", "k": 5}}]
    (tmp_path / "shorter.yaml").write_text(yaml.safe_dump(recipe))
    code, out, _ = command("run", "shorter.yaml")
    assert code == 0 and "519 ->         5" in out
    assert pq.read_metadata(tmp_path / "runs/shorter/selected.parquet").num_rows == 5


# select


def test_select_on_a_run_keeps_selection_and_summary_together(demo, command, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "scored.parquet"):
        (run / name).write_bytes((demo[0] / name).read_bytes())
    code, out, _ = command("select", run, "--k", "20", "--below", "0.9")
    assert (
        code == 0
        and out.startswith((run / "summary.txt").read_text())
        and f"report: {run}/report.html" in out
    )
    assert "20 of 519 rows" in re.sub("<[^>]*>", "", (run / "report.html").read_text())
    assert not list(run.glob("*.unfinished"))
    assert len(load_rows(run / "selected.parquet")) == 20
    assert "response tokens in" in out, "the cost is known from the run"
    before = (run / "summary.txt").read_text()
    assert command("select", run, "--k", "3", "--to", "elsewhere.jsonl")[0] == 0
    assert (run / "summary.txt").read_text() == before and len(
        load_rows(run / "selected.parquet")
    ) == 20


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--k", "500"], range(999, 499, -1)),
        (["--k", "0.10"], range(999, 899, -1)),
        (["--k", "1"], [999]),
        (["--k", "1.0"], range(999, -1, -1)),
        (["--k", "500", "--smallest"], range(500)),
        (["--below", "1.0"], range(800)),
        (["--below", "1.0", "--k", "0.29"], range(799, 509, -1)),
        (["--above", "0.25", "--below", "0.5"], range(201, 400)),
    ],
    ids=str,
)
def test_select_keeps_what_the_options_say(command, scored, tmp_path, options, kept):
    code, out, _ = command("select", scored, *options)
    assert code == 0 and "not recorded" in out and f"{len(kept):,} of 1,000 rows kept" in out
    assert load_rows(tmp_path / "selected.parquet")["ifd"][:] == [i / 800 for i in kept]


def test_selecting_by_ifd_means_below_one_unless_a_limit_is_given(command, tmp_path):
    columns = {"ifd": [0.9, 1.0, 2.5, 0.4], "ifd_ppl": [1.0] * 4, "ifd_ppl_alone": [1.0] * 4}
    Dataset.from_dict(columns).to_parquet(tmp_path / "s.parquet")

    def kept(*options):
        code, out, _ = command("select", "s.parquet", "--k", "2", *options)
        said = "only values of ifd below 1 were kept" in out
        return code, load_rows(tmp_path / "selected.parquet")["ifd"][:], said

    assert kept() == (0, [0.9, 0.4], True)
    assert kept("--below", "9") == (0, [2.5, 1.0], False)
    assert kept("--smallest") == (0, [0.4, 0.9], False)


@pytest.mark.parametrize("target", ["new/folder/out.jsonl", "out.csv", "out.parquet"])
def test_select_writes_the_kind_of_file_that_its_name_says(command, scored, tmp_path, target):
    assert command("select", scored, "--k", "2", "--to", target)[0] == 0
    assert load_rows(tmp_path / target).to_list() == [
        {"ifd": i / 800, "response": "x\u2028é"} for i in (999, 998)
    ]


def test_select_warns_in_one_line_when_rows_run_short(scored, tmp_path):
    done = in_a_process("select", scored, "--below", "0.01", "--k", "500", folder=tmp_path)
    assert done.returncode == 0
    warned = [line for line in done.stderr.splitlines() if "warning" in line.lower()]
    assert warned == [
        "warning: TopK(by='ifd', k=500) has room for 500 rows, and only 8 rows can be chosen"
    ]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "give --k, 500 or 0.10"),
        (["--smallest", "--below", "1"], "without --smallest"),
        (["--k", "ten"], "--k 'ten': give a count such as 500 or a share such as 0.10"),
        (["--k", "²"], "--k '²'"),
        (["--k", "0"], "k=0: give a number of rows"),
        (["--k", "1.5"], "k=1.5: give a number of rows"),
        (
            ["--k", "1", "--by", "ifdd"],
            "no column 'ifdd' in the table: did you mean 'ifd'? (there are: ifd, response)",
        ),
        (["--k", "1", "--by", "response"], "column 'response' holds string, not numbers"),
        (["--below", "1", "--above", "2"], "above=2.0 is not under 1.0"),
        (
            ["--k", "1", "--to", "out.txt"],
            "cannot write 'out.txt': give a file ending in .parquet, .jsonl, .csv",
        ),
        (["--k", "1", "--to", "s.parquet/out.csv"], "s.parquet"),
        (["--k", "1", "--split", "test"], "no split 'test'"),
    ],
    ids=str,
)
def test_select_refuses_bad_input_in_one_sentence(refused, scored, options, complaint):
    assert complaint in refused("select", scored, *options)


# score


def test_score_and_select_by_length(command, rows, tmp_path):
    code, out, _ = command(
        "score", rows, "--scorer", "Length", "--folder", "run", "--template", "Q: {instruction}"
    )
    assert code == 0 and "scores: run/scored.parquet" in out
    assert load_rows(tmp_path / "run/scored.parquet")["prompt"][0] == "Q: Say yes."
    assert command("select", "run", "--by", "length", "--k", "0.5")[0] == 0
    assert load_rows(tmp_path / "run/selected.parquet")["length"][:] == [16, 14]


@pytest.mark.parametrize("scorer", ["IFD", "Perplexity"])
def test_score_with_the_embedded_model(command, rows, tmp_path, scorer):
    code, out, _ = command(
        "score", rows, "--model", "embedded:weak", "--scorer", scorer, "--folder", "run"
    )
    assert code == 0 and "embedded:weak" in out
    column = {"IFD": "ifd", "Perplexity": "ppl"}[scorer]
    assert all(value > 0 for value in load_rows(tmp_path / "run/scored.parquet")[column])


def test_a_second_scorer_stands_beside_the_first(command, refused, rows, tmp_path):
    to_run = ["--folder", "run"]
    assert command("score", rows, "--model", "embedded:weak", *to_run)[0] == 0
    assert command("select", "run", "--k", "1")[0] == 0
    code, _, error = command("score", rows, "--scorer", "Length", *to_run)
    assert code == 0 and "Scoring ifd" not in error, "what is scored is not scored again"
    assert {"ifd", "length"} <= set(load_rows(tmp_path / "run/scored.parquet").column_names)
    recipe = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert recipe["score"] == [{"IFD": {"model": "embedded:weak"}}, {"Length": {}}]
    assert command("select", "run", "--by", "ifd", "--k", "1")[0] == 0
    assert command("select", "run", "--by", "length", "--k", "2")[0] == 0
    assert command("report", "run")[0] == 0
    (tmp_path / "other.jsonl").write_text(rows.read_text().replace("yes", "perhaps"))
    assert "made from other rows" in refused("score", "other.jsonl", "--scorer", "Length", *to_run)


@pytest.mark.parametrize(
    ("scorer", "settings", "first_line"),
    [
        ("Combine", ["Combine.weights={length: 1}"], "combined: 4 rows"),
        ("demonstration", ["on=rows.jsonl", "Demonstration.sample=2"], "demonstration: 4 rows"),
        ("ImplicitReward", ["implicit_reward.reference=embedded:weak"], "implicit_reward: 4 rows"),
    ],
)
def test_a_scorer_gets_by_set_what_it_cannot_be_without(
    command, refused, rows, scorer, settings, first_line
):
    asked = ["score", rows, "--scorer", scorer, "--dry-run"]
    asked += [] if scorer == "Combine" else ["--model", "embedded:weak"]
    assert f"--set {scorer}.".lower() in refused(*asked).lower()
    code, out, _ = command(*asked, *(part for text in settings for part in ("--set", text)))
    assert code == 0 and out.splitlines()[0].startswith(first_line)


def test_where_nothing_is_selected_the_command_named_selects(command, refused, rows):
    assert command("score", rows, "--scorer", "Length", "--folder", "my run")[0] == 0
    error = refused("report", "my run")
    _, _, call = error.partition("call hf-superfilter ")
    assert call == "select 'my run' --by length --k 10%"
    assert command("inspect", "my run")[2].endswith(f"next: hf-superfilter {call}\n")
    assert command(*shlex.split(call.replace("10%", "50%")))[0] == 0
    assert command("report", "my run")[0] == 0


def test_score_ends_with_what_was_made_where_and_the_next_command(command, rows):
    _, out, _ = command("score", rows, "--scorer", "Length", "--folder", "run")
    made, place, following = out.splitlines()
    assert made.startswith("length: 4 rows scored in ") and place == "scores: run/scored.parquet"
    assert following == "next: hf-superfilter select run --by length --k 10%"
    assert (
        command(*following.removeprefix("next: hf-superfilter ").replace("10%", "50%").split())[0]
        == 0
    )


def test_score_says_which_format_it_found(command, rows):
    _, out, error = command("score", rows, "--scorer", "Length", "--folder", "run")
    assert (
        "format 'alpaca', from the columns instruction, output" in error.splitlines()
        and "alpaca" not in out
    )


@pytest.mark.parametrize(
    "asked", [["select", "run", "--by", "length", "--k", "1"], ["report", "run"]]
)
def test_a_run_made_in_python_says_that_its_rows_are_not_there(refused, rows, tmp_path, asked):
    table = score_rows(format_pairs(load_rows(rows)), [Length()], tmp_path / "run")
    select(table, [TopK("length", 1)], run=tmp_path / "run")
    said = refused(*asked)
    assert (
        "holds scores but not their rows (no scored.parquet), as score() in Python leaves it"
        in said
    )


@pytest.mark.filterwarnings("ignore:every row of")
@pytest.mark.parametrize("kind", ["score", "run"])
def test_a_scorer_that_defines_no_row_ends_with_an_error_after_writing_all(refused, tmp_path, kind):
    (tmp_path / "empty.jsonl").write_text('{"instruction": "Hi", "output": ""}\n' * 3)
    (tmp_path / "r.yaml").write_text(
        'dataset: empty.jsonl\nscore: [IFD: {model: "embedded:weak"}]\n'
        "select: [Threshold: {by: ifd, below: 1.0}]\n"
    )
    asked = {
        "score": ["score", "empty.jsonl", "--model", "embedded:weak", "--folder", "out"],
        "run": ["run", "r.yaml", "--folder", "out"],
    }
    assert (
        "every row of 'ifd' is undefined" in (said := refused(*asked[kind]))
        and "empty_response" in said
    )
    assert pq.read_metadata(tmp_path / "out/scored.parquet").num_rows == 3


def test_a_run_that_was_begun_and_not_finished_is_no_run_without_scores(
    command, refused, rows, tmp_path
):
    assert command("score", rows, "--scorer", "Length", "--folder", "run")[0] == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    record["scorers"]["other"] = {"scorer": "begun and killed"}
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    assert command("score", rows, "--scorer", "Length", "--folder", "run")[0] == 0
    assert command("select", "run", "--by", "length", "--k", "1")[0] == 0
    (tmp_path / "run/scored.parquet").unlink()
    assert "holds no scored.parquet yet" in refused("select", "run", "--k", "1")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["score", "rows.jsonl", "--scorer", "IFDD"], "no scorer 'IFDD': did you mean 'IFD'?"),
        (["score", "rows.jsonl", "--scorer", "nobody.knows:It"], "cannot be imported"),
        (["score", "rows.json", "--scorer", "Length"], "did you mean 'rows.jsonl'?"),
        (
            ["score", "nobody/nothing-at-all", "--scorer", "Length"],
            "no data set 'nobody/nothing-at-all'",
        ),
        (
            ["score", "rows.jsonl", "--scorer", "Length", "--format", "alpacca"],
            "did you mean 'alpaca'?",
        ),
        (["score", "rows.jsonl", "--scorer", "Length", "--format", "dolly"], "'response'"),
        (
            ["score", "rows.jsonl", "--scorer", "Length", "--template", "alpacaa"],
            "did you mean 'alpaca'?",
        ),
        (
            ["score", "rows.jsonl", "--scorer", "Length", "--folder", "/proc/nowhere"],
            "'/proc/nowhere' cannot be used",
        ),
        (
            ["score", "rows.jsonl", "--scorer", "Length", "--folder", "rows.jsonl"],
            "'rows.jsonl' cannot be used",
        ),
        (["score", "rows.jsonl", "--model", "nobody/nothing-at-all"], "no model of that name"),
        (["score", "rows.jsonl", "--model", "embedded:week"], "did you mean 'weak'?"),
        (["score", "numbers.jsonl", "--scorer", "Length"], "'output'"),
        (["scor", "rows.jsonl"], "No such command 'scor'"),
        (["score"], "Missing argument 'data'; see hf-superfilter score --help"),
        (["score", "rows.jsonl", "--scorers", "IFD"], "No such option: --scorers"),
        (["select", "rows.jsonl", "--below", "much"], "Invalid value for '--below'"),
        (["score", "rows.jsonl", "more"], "unexpected extra argument"),
        (["report", "."], "is not a run folder"),
        (["run", "missing.yaml"], "no recipe 'missing.yaml'"),
        (["run", "rows.jsonl"], "the recipe is not"),
        (["inspect", "."], "is not a run folder"),
        (["inspect", "nowhere"], "'nowhere' is not a run folder"),
        (["select", "nowhere.parquet", "--k", "1"], "no file 'nowhere.parquet'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_exit_code_one(refused, rows, tmp_path, arguments, complaint):
    (tmp_path / "numbers.jsonl").write_text('{"instruction": "Hi", "output": 5}\n')
    assert complaint in refused(*arguments)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_one_sentence(refused, rows, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot be used" in refused("score", rows, "--scorer", "Length", "--folder", "locked")


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ImportError("no such library"), ImportError),
        (KeyError("x"), KeyError),
        (AttributeError("x"), AttributeError),
    ],
)
def test_a_defect_of_ours_shows_its_traceback(monkeypatch, error, shown):
    def broken(**_):
        raise error

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(shown):
        cli.main()


def test_a_type_error_is_a_defect_and_a_cell_of_the_wrong_type_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(cli, "app", lambda **_: len(5))
    with pytest.raises(TypeError):
        cli.main()

    def refuse(**_):
        raise WrongTypeError("column 'output' holds int 5")

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert capsys.readouterr().err == "error: column 'output' holds int 5\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["score", "--help"]])
def test_help_ends_with_code_zero(command, arguments):
    code, out, error = command(*arguments)
    assert code == 0 and "Usage: " in out and not error


def test_the_version_is_that_of_the_package(command):
    assert command("--version") == (0, f"hf-superfilter {version('hf-superfilter')}\n", "")


@pytest.mark.parametrize("k", ["5%", "5.0%", "0.05"])
def test_a_budget_may_be_a_percentage(command, scored, k):
    assert "50 of 1,000 rows kept" in command("select", scored, "--k", k)[1]


@pytest.mark.parametrize("scorer", ["length", "LENGTH"])
def test_a_scorer_is_found_in_any_case(command, rows, scorer):
    assert command("score", rows, "--scorer", scorer, "--folder", "run")[0] == 0


def test_columns_are_named_on_the_command_line(command, refused, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question_text": "Hi", "answer": "Hello"}\n')
    columns = ["--columns", "instruction=question_text", "--columns", "output=answer"]
    asked = ["score", "rows.jsonl", "--scorer", "length", "--format", "alpaca", "--folder", "run"]
    assert command(*asked, *columns)[0] == 0
    assert load_rows(tmp_path / "run/scored.parquet")["length"][:] == [5]
    recipe = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert recipe["columns"] == {"instruction": "question_text", "output": "answer"}
    assert "give the format's name and the data set's column" in refused(*asked, "--columns", "x")


def test_control_characters_of_foreign_data_do_not_reach_the_terminal(command, refused, tmp_path):
    evil = "\x1b[2J\x1b]0;gone\x07\r\u202eabc\x9b1m"
    rows = {"ifd": [0.5, 0.4], "response": [evil, "b"], "group": [evil, "b"]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "s.parquet")
    code, out, error = command("select", "s.parquet", "--k", "1")
    assert code == 0
    assert not set(out + error) & set("\x1b\x07\r\u202e\x9b")
    assert load_rows(tmp_path / "selected.parquet")["response"][:] == [evil]
    message = refused("select", "s.parquet", "--k", "1", "--by", evil)
    assert not set(message) & set("\x1b\x07\r\u202e\x9b")


def test_ctrl_c_ends_with_code_130_and_no_traceback(command, rows, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_superfilter.recipes.recipe.load_rows", interrupted)
    code, _, error = command("score", rows, "--scorer", "Length")
    assert code == 130 and "Traceback" not in error


# As a process


def test_a_process_ends_with_code_one_and_one_line(tmp_path):
    done = in_a_process("score", "nowhere.jsonl", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no file 'nowhere.jsonl'") and done.stderr.count("\n") == 1


def test_the_help_of_score_names_every_scorer(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "4000")  # one line an option
    words = set(re.findall(r"\w+", command("score", "--help")[1]))
    assert set(public_names("score")) <= words


@pytest.mark.parametrize(
    "arguments", [["--help"], ["score", "--help"], ["select", "--help"], ["run", "--help"]]
)
def test_help_imports_nothing_heavy(arguments):
    program = (
        "import sys; from hf_superfilter.cli.app import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit as end: code = end.code\n"
        f"print('code', code, 'loaded', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "code 0 loaded []"
    assert "Usage" in done.stdout


# The Hub


def test_a_run_is_published_listed_and_loaded_by_name(hub, command, demo, tmp_path):
    code, out, _ = command("publish", demo[0], "me/rows", "--name", "ifd-15", "--default")
    assert code == 0 and "77 of 519 rows" in out
    assert out.splitlines()[-1].startswith(f"{hub.url}/datasets/me/rows/commit/")
    assert command("publish", demo[0], "me/rows", "--name", "other", "--pairs")[0] == 0
    code, out, _ = command("list", "me/rows")
    assert (
        code == 0
        and "ifd-15 (default): 77 rows (14.8% of the source)" in out
        and "other: 77 rows" in out
    )
    code, out, _ = command("load", "me/rows", "--to", "mine.jsonl")
    assert code == 0 and out.strip().endswith("77 rows: mine.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "mine.jsonl").read_text().splitlines()]
    assert [row["ifd"] for row in rows] == sorted((row["ifd"] for row in rows), reverse=True)
    assert "prompt" not in rows[0]
    assert command("load", "me/rows", "other", "--to", "mine.parquet")[0] == 0
    assert "prompt" in pq.read_schema(tmp_path / "mine.parquet").names


def test_a_recipe_is_run_and_published_at_once(hub, command, tmp_path):
    recipe = {
        "dataset": "embedded:sample",
        "score": ["Length"],
        "select": [{"TopK": {"by": "length", "k": 7}}],
    }
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(recipe))
    code, out, _ = command("publish", "long.yaml", "me/rows", "--name", "longest", "--pr")
    assert code == 0 and "a pull request" in out
    assert about_of(hub.files("dataset", "me/rows", "refs/pr/1"), "longest", "train", "recipe.yaml")
    assert (tmp_path / "runs/long/report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["publish", "DEMO", "rows"], "repo_id='rows': give 'user/name'"),
        (
            ["publish", "DEMO", "me/rows", "--name", "a/b"],
            "name='a/b': a subset's name is made of letters",
        ),
        (["publish", "nowhere.yaml", "me/rows"], "no recipe 'nowhere.yaml'"),
        (["publish", "DEMO", "other/rows"], "your token may not write to 'other/rows'"),
        (["list", "me/nothing"], "the Hub has no data set 'me/nothing'"),
        (["load", "me/nothing", "x"], "the Hub has no data set 'me/nothing'"),
        (["load", "alpaca-ifd-100"], "did you mean 'alpaca-ifd-10'?"),
        (["load", "alpaca-ifd-10"], "'alpaca-ifd-10' is not published; make it with"),
        (["load", "me/nothing", "--to", "x.docx"], "cannot write 'x.docx': give a file ending in"),
    ],
)
def test_what_cannot_be_published_or_loaded_is_one_sentence(
    hub, refused, demo, arguments, complaint
):
    assert complaint in refused(*(demo[0] if word == "DEMO" else word for word in arguments))
