"""The dataset card: true figures, "not recorded" for the rest, code that runs, and data that stays
data.
"""

import dataclasses
import html
import json
import re
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import yaml
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard, HfApi
from jinja2 import UndefinedError
from markdown_it import MarkdownIt
from publishing import about_of, files_in, picked

from hf_superfilter import (
    IFD,
    Length,
    RandomSample,
    Recipe,
    Threshold,
    TopK,
    publish,
    score,
    select,
    write_repo,
)
from hf_superfilter.hub.card import (
    PAPERS,
    TITLES,
    default_of,
    format_number,
    licence_warning,
    merge_card,
    section,
)
from hf_superfilter.hub.front_matter import body_of, read_metadata
from hf_superfilter.reports.jinja import _environment, as_markdown, render

MARKDOWN = MarkdownIt("commonmark").enable("table")
FENCE = re.compile(r"^(`{3,})(\w*)\n(.*?)^\1$", re.DOTALL | re.MULTILINE)


def code_in(card, language):
    return [code for _, found, code in FENCE.findall(card) if found == language]


def tables_in(card):
    """The tables of a card as lists of rows of cells, told by their raw lines, fences left out."""
    tables = []
    for block in re.findall(r"(?:^\|.*\n)+", FENCE.sub("", card), re.MULTILINE):
        tables.append(
            [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        )
    return tables


def words_of(card):
    """The text that a reader sees."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", MARKDOWN.render(body_of(card)))).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory, sample):
    """A real run, on a few rows."""
    folder = tmp_path_factory.mktemp("run")
    own = ["instruction", "input", "output", "category", "planted"]
    sample.select(range(20)).select_columns(own).to_json(str(folder / "rows.jsonl"))
    recipe = Recipe(
        str(folder / "rows.jsonl"),
        score=[IFD("embedded:weak"), Length()],
        select=[Threshold("ifd", below=1.0), TopK("ifd", 0.15)],
    )
    return recipe.run(folder / "run")


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    """A folder with the run's subset in it."""
    return write_repo(run, tmp_path_factory.mktemp("repo"), name="ifd-15")


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """What write_split says of a bare table."""
    folder = write_repo(picked(1, 2), tmp_path_factory.mktemp("bare"), name="best")
    return json.loads(
        (folder / about_of(files_in(folder), "best", "train", "facts.json")).read_text()
    )


# Figures


def test_every_figure_of_the_card_is_what_the_rows_and_the_record_say(run, written):
    card = (written / "README.md").read_text(encoding="utf-8")
    rows = pd.read_parquet(run.run / "scored.parquet")
    kept = pd.read_parquet(run.run / "selected.parquet")
    record = json.loads((run.run / "run.json").read_text())
    under, n, k = int((rows.ifd < 1).sum()), len(rows), len(kept)
    funnel, changes, cost = tables_in(card)
    assert [row[1:] for row in funnel[2:]] == [
        [str(n), str(under), str(n - under), f"{under / n:.1%}"],
        [str(under), str(k), str(under - k), f"{k / n:.1%}"],
    ]
    wanted = {"rows": (n, k)}
    for name, mean in (("median", pd.Series.median), ("mean", pd.Series.mean)):
        wanted[f"characters of a response, {name}"] = tuple(
            f"{mean(part.output.str.len()):,.0f}" for part in (rows, kept)
        )
    wanted["tokens, <code>ifd_tokens</code>, mean"] = (
        f"{rows.ifd_tokens.mean():,.1f}",
        f"{kept.ifd_tokens.mean():,.1f}",
    )
    wanted["tokens, <code>ifd_tokens</code>, sum"] = (
        f"{rows.ifd_tokens.sum():,.0f}",
        f"{kept.ifd_tokens.sum():,.0f}",
    )
    # The groups are those of the scored table, whose prompts and responses are not published.
    scored = rows[rows.instruction.isin(kept.instruction) & rows.ifd.isin(kept.ifd)]
    assert len(scored) == k
    for column in ("instruction", "input", "output", "category", "planted", "prompt", "response"):
        values = Counter(rows[column])
        for value, count in values.most_common(8) if 2 <= len(values) <= 20 else ():
            clipped = (value if len(value) <= 65 else value[:59] + "…") or "—"
            wanted[f"<code>{column}</code> = {as_markdown(clipped)}"] = (
                count,
                (scored[column] == value).sum(),
            )
    found = {label: (before, after) for label, before, after in changes[2:]}
    writing = {label: pair for label, pair in found.items() if label.startswith("responses in ")}
    for place, total in ((0, n), (1, k)):
        counts = [int(pair[place].split()[0]) for pair in writing.values()]
        assert sum(counts) == total
        assert [pair[place] for pair in writing.values()] == [
            f"{count} ({count / total:.1%})" for count in counts
        ]
    assert {label: pair for label, pair in found.items() if label not in writing} == {
        label: tuple(map(str, pair)) for label, pair in wanted.items()
    }
    quantiles = [f"{value:.3f}" for value in np.percentile(rows.ifd.dropna(), [0, 25, 50, 75, 100])]
    least, low, middle, high, most = quantiles
    assert (
        f"least {least}, 25% {low}, median {middle}, 75% {high}, greatest {most}; "
        f"the last row kept has {kept.ifd.iloc[-1]:.3f}." in card
    )
    assert f"**{k} of {n} rows ({k / n:.1%})**" in card
    assert [row[1:4] for row in cost[2:]] == [
        [str(n), f"{rows.ifd_tokens.sum():,.0f}", f"{record['scorers']['ifd']['seconds']:,.1f}"],
        [str(n), "not recorded", f"{record['scorers']['length']['seconds']:,.1f}"],
    ]
    made = record["scorers"]["ifd"]["made_with"]
    assert f"{made['device']}, {made['dtype']}" in cost[2][4]
    assert f"model <code>{made['model']}</code> at revision <code>{made['revision']}</code>" in card
    assert f"Scored: {record['created']}." in card


def test_the_pictures_and_the_report_are_where_the_card_says(written):
    card = (written / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"^!\[(.+)\]\(\./(.+)\)$", card, re.MULTILINE)
    tree = files_in(written)
    plots = [about_of(tree, "ifd-15", "train", f"{plot}.png") for plot in ("scores", "lengths")]
    assert [path for _, path in pictures] == plots
    for alt, path in pictures:
        assert (written / path).read_bytes().startswith(b"\x89PNG")
        assert alt.startswith("Histogram of ")
    (report,) = re.findall(r"is the file `(.+)`", card)
    assert (written / report).read_text().startswith("<!doctype html>")


def test_the_head_of_the_card_holds_what_the_issue_asks_for(run, written):
    card = DatasetCard.load(written / "README.md")
    data = card.data.to_dict()
    (shard,) = (path for path in files_in(written) if path.endswith(".parquet"))
    assert re.fullmatch(r"__subsets__/ifd-15/train/[0-9a-f]{12}/00000-of-00001.parquet", shard)
    pattern = f"{shard.rpartition('/')[0]}/*.parquet"
    assert data["configs"] == [
        {
            "config_name": "ifd-15",
            "data_files": [{"split": "train", "path": pattern}],
            "default": True,
        }
    ]
    info = data["dataset_info"]
    assert (info["config_name"], info["splits"][0]["num_examples"]) == ("ifd-15", len(run.rows))
    assert data["tags"] == ["hf_superfilter", "superfilter"]
    assert data["size_categories"] == ["n<1K"]
    assert not {"license", "base_model", "source_datasets", "language"} & set(data), (
        "not known, so not said"
    )


@pytest.mark.parametrize(
    ("rows", "category"),
    [
        (1, "n<1K"),
        (999, "n<1K"),
        (1_000, "1K<n<10K"),
        (9_999, "1K<n<10K"),
        (10_000, "10K<n<100K"),
        (99_999, "10K<n<100K"),
        (100_000, "100K<n<1M"),
        (999_999, "100K<n<1M"),
        (10**6, "1M<n<10M"),
        (10**9 - 1, "100M<n<1B"),
        (10**9, "1B<n<10B"),
        (10**12 - 1, "100B<n<1T"),
        (10**12, "n>1T"),
        (10**15, "n>1T"),
    ],
)
def test_size_categories_are_exact_at_their_borders(facts, rows, category):
    card = merge_card("", "best", {"train": {**facts, "kept": rows}}, "me/rows", False)
    assert read_metadata(card)["size_categories"] == [category]


def test_the_size_is_that_of_all_subsets_and_splits_together(facts):
    card = merge_card(
        "", "a", {s: {**facts, "kept": 400} for s in ("train", "test")}, "me/rows", False
    )
    assert read_metadata(card)["size_categories"] == ["n<1K"]
    card = merge_card(card, "b", {"train": {**facts, "kept": 200}}, "me/rows", False)
    assert read_metadata(card)["size_categories"] == ["1K<n<10K"]


# Nothing is known


def test_a_bare_table_is_not_recorded_everywhere_and_never_none(facts):
    text = section("best", "train", facts, "me/rows")
    assert "None" not in text
    assert "nan" not in text
    for said in (
        "of a data set that is not recorded, best first",
        "Revision of the source: not recorded. Scored: not recorded.",
        "Scorer, model and revision: not recorded.",
        "| characters of a response | not recorded | not recorded |",
        "| response tokens | not recorded | not recorded |",
        "| writing systems | not recorded | not recorded |",
        "Languages stated by the source: not recorded.",
        "Rows, tokens, seconds and device of the scoring: not recorded.",
        "The recipe is not recorded.",
        "The licence of the source is not recorded.",
    ):
        assert said in text
    assert text.count("not recorded") == 14
    assert "### Cite" not in text
    assert "IFD" not in text


def test_a_name_that_the_template_is_not_given_is_an_error(written):
    facts = json.loads(
        (written / about_of(files_in(written), "ifd-15", "train", "facts.json")).read_text()
    )
    used = {
        "kept",
        "rows",
        "share",
        "source",
        "created",
        "license",
        "source_missing",
        "columns",
        "left_out",
        "steps",
        "scorers",
        "pictures",
        "score",
        "length",
        "tokens",
        "scripts",
        "groups",
        "language",
        "cost",
        "recipe",
        "by",
    }
    assert used <= set(facts)
    given = {
        "name": "a",
        "split": "b",
        "load_code": "",
        "rerun_code": "",
        "about": "",
        "format_number": format_number,
        "kinds": [],
        "by_model": True,
        "papers": [],
        "warning": "x",
    }
    assert render("dataset.md.j2", **given, **facts)
    for name in [*used, *given]:
        with pytest.raises(
            (UndefinedError, TypeError), match=rf"'{name}' is undefined|StrictUndefined"
        ):
            render(
                "dataset.md.j2",
                **{key: value for key, value in {**given, **facts}.items() if key != name},
            )
    for text in (
        "{{ misspelt }}",
        "{% if misspelt %}{% endif %}",
        "{{ facts.misspelt }}",
        "{{ misspelt or 1 }}",
    ):
        with pytest.raises(UndefinedError, match="misspelt"):
            _environment(True).from_string(text).render(facts=facts)


# What is said of the method


def test_limits_and_papers_are_those_of_the_scorers_that_were_used(facts):
    def text_of(*scorers, step=None):
        steps = [{**facts["steps"][0], "entry": step}]
        known = [
            {"name": "s", "entry": {s: {}}, "python": s, "model": None, "revision": None}
            for s in scorers
        ]
        return section("best", "train", {**facts, "scorers": known, "steps": steps}, "me/rows")

    for kind, papers in PAPERS.items():
        text = text_of(kind)
        assert [paper for paper in TITLES if paper in text] == [p for p in TITLES if p in papers]
    assert "IFD measures how little" in text_of("IFD")
    assert "IFD measures how little" not in text_of("Perplexity")
    assert "Perplexity calls fluent" in text_of("IFD", "Perplexity")
    assert "Ask-LLM is the opinion of one model" in text_of("AskLLM")
    assert "Length is a baseline" in text_of("Length")
    assert "keeps rare noise" in text_of(
        step={"InversePropensity": {}}
    ) and "keeps rare noise" in text_of("Density")
    for kind in ("SemDedup", "Prototypes", "FacilityLocation"):
        assert "decided by the embedding" in text_of(
            step={kind: {}}
        ) and "keeps rare" not in text_of(step={kind: {}})
    assert text_of("IFD", "IFD").count("2402.00530](") == 1
    for text in (text_of(), text_of("IFD"), text_of("somebody.elses:Scorer", step={"TopK": {}})):
        assert text.count("On another domain or language its ranks mean less") == 1
        assert "Everything that is wrong with the source is also wrong with its part" in text
    for text in (text_of("Length"), text_of("Length", "Privacy", "Combine")):
        assert "The model that scored" not in text
    assert "The model that scored" in text_of("Length", "IFD")


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        ("cc-by-nc-nd-4.0", "under cc-by-nc-nd-4.0, which forbids to share adapted versions"),
        ("CC-BY-ND-4.0", "under CC-BY-ND-4.0, which forbids to share adapted versions"),
        (["mit", "cc-by-nd-3.0"], "under cc-by-nd-3.0, which forbids"),
        ("other", "is stated as 'other': find out whether you may publish"),
        ("unknown", "is stated as 'unknown': find out whether you may publish"),
        (["mit", "other"], "is stated as 'other': find out"),
        (None, "the licence of the source is not known: find out"),
        ([], "the licence of the source is not known: find out"),
        ("mit", None),
        ("cc-by-nc-4.0", None),
        (["apache-2.0", "mit"], None),
        ("openrail-and-more", None),
    ],
)
def test_a_licence_that_forbids_publishing_or_is_unknown_is_said_loudly(facts, licence, said):
    warning = licence_warning(licence)
    text = section("best", "train", {**facts, "license": licence}, "me/rows")
    assert ("[!WARNING]" in text) == (said is not None) == (warning is not None)
    if said:
        assert said in warning
        assert f"> **Licence: {as_markdown(warning)}.**" in text
    card = merge_card("", "best", {"train": {**facts, "license": licence}}, "me/rows", False)
    assert read_metadata(card).get("license") == (licence or None)
    kept = merge_card(
        "---\nlicense: gpl-3.0\n---\n",
        "best",
        {"train": {**facts, "license": licence}},
        "me/x",
        False,
    )
    assert read_metadata(kept)["license"] == "gpl-3.0"


@pytest.mark.parametrize("licence", ["cc-by-nc-nd-4.0", "[mit, other]", "mit"])
def test_licence_and_language_come_from_the_sources_card_on_the_hub(hub, tmp_path, capsys, licence):
    rows = Dataset.from_dict({"text": ["one two", "three"]})
    rows.push_to_hub("me/source")
    text = hub.files("dataset", "me/source")["README.md"].decode()
    head = f"---\nlicense: {licence}\nlanguage:\n- en\n- no\nsize_categories: [n<1K]\n"
    pin = hub.commit("dataset", "me/source", {"README.md": text.replace("---\n", head, 1)})
    selection = Recipe("me/source", score=[Length()], select=[RandomSample(1)]).run(
        tmp_path / "run"
    )
    hub.commit(
        "dataset",
        "me/source",
        {"README.md": text.replace("---\n", "---\nlicense: bsd\nlanguage: de\n", 1)},
    )
    publish(selection, "me/rows", name="best")
    data = HfApi().dataset_info("me/rows").card_data.to_dict()
    assert data["license"] == yaml.safe_load(licence)
    assert data["language"] == ["en", "no"]
    assert data["source_datasets"] == ["me/source"]
    said = capsys.readouterr().out
    assert ("WARNING: the source is under cc-by-nc-nd-4.0" in said) == ("nd" in licence)
    assert ("WARNING: the licence of the source is stated as 'other'" in said) == (
        "other" in licence
    )
    assert ("WARNING" in said) == (licence != "mit")
    card = hub.files("dataset", "me/rows")["README.md"].decode()
    assert (
        "[me/source](https://huggingface.co/datasets/me/source), best first, picked by "
        "hf_superfilter" in card
    )
    assert f"Revision of the source: <code>{pin}</code>." in card
    assert "Languages stated by the source: <code>en</code>, <code>no</code>." in card


# Its code


def test_the_code_of_the_card_runs_as_it_is_written_and_makes_the_same_rows(
    hub, run, tmp_path, monkeypatch
):
    """On the local Hub: load what was published, make it again from the recipe."""
    monkeypatch.chdir(tmp_path)
    publish({"train": run, "dev": run}, "me/rows", name="ifd-15")
    card = hub.files("dataset", "me/rows")["README.md"].decode()
    load, again, load_dev, again_dev = code_in(card, "python")
    wanted = run.subset[:]
    for code in (load, load_dev):
        names = {}
        exec(code, names)
        assert names["rows"][:] == wanted
    names = {}
    exec(again, names)
    assert names["rows"][:] == run.subset[:]
    assert 'split="dev"' in load_dev
    assert 'split="dev"' in again_dev
    recipe, _ = code_in(card, "yaml")
    assert Recipe.from_yaml(recipe).select == (Threshold("ifd", below=1.0), TopK("ifd", 0.15))


def test_the_code_of_two_splits_made_by_two_recipes_runs_side_by_side(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = {}
    for split, count in (("train", 3), ("test", 2)):
        Dataset.from_dict({"text": [split * n for n in range(count)]}).to_json(f"{split}.jsonl")
        runs[split] = Recipe(f"{split}.jsonl", score=[Length()], select=[TopK("length", 1)]).run(
            f"made/{split}"
        )
    folder = write_repo(runs, "repo", name="best")
    _, again, _, again_test = code_in((folder / "README.md").read_text(), "python")
    for code, split in ((again, "train"), (again_test, "test")):
        names = {}
        exec(code, names)
        assert names["rows"][:] == runs[split].subset[:]


@pytest.mark.parametrize(
    "folder", ["rows", 'a "quoted" one', "back\\slash", "it's {{ 7*7 }}", "é 👋", "<script>`#`"]
)
def test_the_code_of_a_folder_of_any_name_runs(tmp_path, folder):
    home = write_repo(picked(2, 1), tmp_path / folder, name="best")
    card = (home / "README.md").read_text(encoding="utf-8")
    (load,) = code_in(card, "python")
    names = {}
    exec(load, names)
    assert names["rows"]["number"][:] == [2, 1]
    assert words_of(card).startswith(folder)


# Hostile data

MARKS = (
    "<!-- hf_superfilter: best/train --> <!-- /hf_superfilter: best/train --> "
    "<!-- hf_superfilter: x -->"
)
EVIL = (
    f"{{{{ 7*7777 }}}} {{% if %}} | a | `b` ``` [c](d) **e** __f__ <script>alert(1)</script> "
    f"{MARKS} --- $x$ ~y~ &lt;"
    "\n---\n\n# H\n| i | j |\n|---|---|\n```\n"
    "<!-- /hf_superfilter: best/train -->\n<!-- hf_superfilter: best/train -->\n"
)
HTML_OF_OURS = (
    "<!-- /?hf_superfilter: {name}/\\w+ -->\n|</details>\n|"
    "<details>\n<summary><code>{name}</code>, split <code>\\w+</code>: "
    "[^<\n]*(<code>[^<\n]*</code>)?</summary>\n"
)
FILE_EVIL = (
    re.sub(r"[*?\[\]]", "", EVIL.replace("/", "∕"))[:100] + "\n---\n<script>|`"
)  # the others are patterns


class EvilSelector:
    """Somebody else's selector."""

    by = EVIL

    def __call__(self, table, pool):
        return pool[::2]

    def __repr__(self):
        return f"Evil({EVIL})"

    def facts(self, table, pool, rows):
        return {EVIL: EVIL}


@pytest.fixture(scope="module")
def evil(tmp_path_factory, weak):
    """A selection in which whatever can be text is hostile."""
    home = tmp_path_factory.mktemp("evil")
    (home / FILE_EVIL).mkdir()
    shutil.copytree(weak, home / FILE_EVIL / "model")
    columns = {
        EVIL: [0.5, 0.25, 0.75, 1.0],
        f"{EVIL}_tokens": [1, 2, 3, 4],
        "x": [1, 2, 3, 4],
        "x_status": [EVIL, "ok"] * 2,
        f"group {EVIL}": [EVIL, "---", "<b>", "|"],
        "instruction": ["Why is the sky blue?"] * 4,
        "output": [EVIL] * 4,
    }
    source = home / FILE_EVIL / f"{FILE_EVIL}.parquet"
    Dataset.from_dict(columns).to_parquet(str(source))
    (home / FILE_EVIL / "README.md").write_text("---\nlicense: '<script>|`'\n---\n")
    recipe = Recipe(
        str(source),
        score=[Length(), Length("tokens", model=str(home / FILE_EVIL / "model"), name="tokens")],
        select=[TopK(EVIL, 4)],
        columns={"instruction": "instruction"},
        template=f"{EVIL}{{instruction}}".replace("{{", "")
        .replace("}}", "")
        .replace("{%", "")
        .replace("%}", ""),
    )
    return recipe.run(home / "run"), home


def check_unbroken(card, name="best"):
    """Assert that a card holds what the template says and nothing that data brought along."""
    assert DatasetCard(card).data.to_dict()["configs"][0]["config_name"] == name
    body = body_of(card)
    html_seen, folds = [], 0
    for token in MARKDOWN.parse(body):
        if token.type == "html_block":
            folds += token.content.count("<details>") - token.content.count("</details>")
            assert folds in (0, 1)
            assert re.fullmatch(HTML_OF_OURS.format(name=name), token.content), token.content
        html_seen += [
            child.content for child in token.children or [] if child.type == "html_inline"
        ]
        assert token.type != "hr"
    assert folds == 0
    assert set(html_seen) <= {"<code>", "</code>"}
    assert "<script" not in FENCE.sub("", body)
    for table in tables_in(card):
        assert len({len(row) for row in table}) == 1, table
    assert re.findall(r"^#+ (.*)$", FENCE.sub("", body), re.MULTILINE)[1:7] == [
        "The funnel",
        "Scores, lengths, languages",
        "Cost",
        "Make it again",
        "Limits and biases",
        "Licence",
    ]
    return body


def test_hostile_data_cannot_break_the_card(evil, tmp_path):
    selection, _ = evil
    other = select(selection.table, [TopK(EVIL, 4), EvilSelector()], run=selection.run)
    for chosen in (selection, other):
        folder = write_repo(chosen, tmp_path / "repo", name="best")
        text = (folder / "README.md").read_text(encoding="utf-8")
        body = check_unbroken(text)
        shown = words_of(text)
        assert " ".join(EVIL.split()) in shown, "it is shown as it is"
        without_versions = re.sub(r"/[0-9a-f]{12}/", "/", body)
        assert "54439" not in without_versions.split("### Cost")[0]
        assert load_dataset(str(folder), "best", split="train").column_names == [
            name for name in chosen.subset.column_names if name not in ("prompt", "response")
        ]
        assert len(re.findall(r"^<!-- /?hf_superfilter", text, re.MULTILINE)) == 2
    assert "Evil(" in shown


def test_hostile_sections_merge_and_are_replaced_exactly(evil, tmp_path):
    selection, _ = evil
    folder = write_repo(picked(1), tmp_path / "repo", name="first")
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nBy hand.\n")
    before = card.read_text()
    write_repo(selection, folder, name="best")
    write_repo(selection, folder, name="best")
    write_repo(picked(2), folder, name="best")
    write_repo(selection, folder, name="best")
    after = card.read_text()
    assert body_of(after).startswith(body_of(before))
    assert len(re.findall(r"^<!-- /?hf_superfilter: .* -->$", after, re.MULTILINE)) == 4
    write_repo(picked(1), folder, name="first")
    assert body_of(card.read_text()) == body_of(after)


def test_hostile_facts_of_every_kind_stay_facts(facts):
    """Each text in the facts, also those that no real run could bring about."""
    step = {**facts["steps"][0], "selector": EVIL, "facts": {EVIL: EVIL}, "entry": {EVIL: {}}}
    scorer = {"name": EVIL, "entry": {EVIL: {}}, "python": EVIL, "model": EVIL, "revision": EVIL}
    source = {
        "dataset": EVIL,
        "revision": EVIL,
        "config": EVIL,
        "split": EVIL,
        "on_the_hub": False,
        "for_all": False,
    }
    group = {"value": EVIL, "rows": 1, "kept": 1, "share": 1.0}
    cost = {"name": EVIL, "rows": 1, "tokens": 1, "seconds": 1.0, "device": EVIL, "dtype": EVIL}
    hostile = {
        **facts,
        "steps": [step],
        "scorers": [scorer],
        "source": source,
        "groups": {EVIL: [group]},
        "cost": [cost],
        "columns": [EVIL, EVIL],
        "left_out": [EVIL],
        "license": EVIL,
        "language": [EVIL],
        "created": EVIL,
        "by": EVIL,
        "tokens": [{"column": EVIL, "kept": 1, "all": 1, "mean_kept": 1.0, "mean_all": 1.0}],
        "source_missing": EVIL,
        "scripts": [{"script": EVIL, "rows": 1, "kept": 1}],
        "recipe": EVIL,
        "base_model": [EVIL],
        "pictures": [{"file": "scores.png", "alt": EVIL}],
        "features": [{"name": EVIL, "dtype": "string"}],
        "score": dict.fromkeys(("min", "q25", "median", "q75", "max", "cut"), 1.0),
        "source_datasets": [EVIL],
        "length": dict.fromkeys(
            (f"{m}_{p}" for m in ("mean", "median") for p in ("kept", "all", "dropped")), 1.0
        ),
    }
    card = merge_card("# Rows\n\nBy hand.\n", "best", {"train": hostile}, "me/rows", False)
    check_unbroken(card)
    assert words_of(card).count(" ".join(EVIL.split())) >= 20
    assert read_metadata(card)["license"] == EVIL
    assert merge_card(card, "best", {"train": hostile}, "me/rows", False) == card
    again = merge_card(card, "best", {"train": facts}, "me/rows", False)
    assert merge_card(again, "best", {"train": hostile}, "me/rows", False) == card


# The default


@pytest.mark.parametrize(
    ("configs", "default"),
    [
        ([], None),
        (["a"], "a"),
        (["a", "b"], None),
        (["a", "default"], "default"),
        ([("a", True), "b"], "a"),
    ],
)
def test_the_default_is_the_one_that_datasets_takes(tmp_path, configs, default):
    entries = []
    for config in configs:
        name, marked = config if isinstance(config, tuple) else (config, False)
        Dataset.from_dict({"name": [name]}).to_parquet(str(tmp_path / f"{name}.parquet"))
        entries.append(
            {"config_name": name, "data_files": f"{name}.parquet"}
            | ({"default": True} if marked else {})
        )
    assert default_of({"configs": entries}) == default
    (tmp_path / "README.md").write_text("---\n" + yaml.safe_dump({"configs": entries}) + "---\n")
    if default:
        assert load_dataset(str(tmp_path), split="train")["name"][:] == [default]
    elif configs:
        with pytest.raises(ValueError, match="Config name is missing"):
            load_dataset(str(tmp_path), split="train")


def test_a_selection_without_a_run_but_with_scores_gives_what_the_table_knows(tmp_path):
    table = score(
        Dataset.from_dict({"prompt": ["a", "b"], "response": ["你好", "hello"]}),
        [Length()],
        tmp_path / "run",
    )
    selection = dataclasses.replace(select(table, TopK("length", 1)), run=None)
    card = (write_repo(selection, tmp_path / "repo") / "README.md").read_text(encoding="utf-8")
    assert "| responses in Han writing | 1 (50.0%) | 0 (0.0%) |" in card
    assert "| responses in Latin writing | 1 (50.0%) | 1 (100.0%) |" in card
    assert "Scorer, model and revision: not recorded." in card
