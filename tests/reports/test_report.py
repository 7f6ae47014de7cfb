"""The report: numbers recomputed from rows and run.json, every cell escaped, no network."""

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from hf_superfilter import RandomSample, Recipe, Threshold, TopK, select, write_report
from hf_superfilter.reports.plots import length_plot
from hf_superfilter.reports.summary import Summary
from hf_superfilter.reports.text import summary_text

RECIPE = """
dataset: embedded:sample
score: [{IFD: {model: "embedded:weak"}}, Length]
select: [{Threshold: {by: ifd, below: 1.0}}, {TopK: {by: ifd, k: 0.15}}]
"""


class Page(HTMLParser):
    """What a reader's program sees: tags, the facts with their values, the text, and the text that
    is no fact.
    """

    def __init__(self, text):
        super().__init__()
        self.tags, self.facts, self.text, self.said, self.open = [], {}, [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in ("meta", "img", "br"):
            self.open.append("fact" if "data-fact" in attributes else tag)
        if "data-fact" in attributes:
            name, value = attributes["data-fact"], float(attributes["data-value"])
            assert self.facts.get(name, value) == value
            self.facts[name] = value

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)
        if not {"fact", "pre", "code", "style", "title"} & set(self.open):
            self.said.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    selection = Recipe.from_yaml(RECIPE).run(folder)
    write_report(selection, folder / "report.html")
    return folder


@pytest.fixture(scope="module")
def page(run):
    return Page((run / "report.html").read_text(encoding="utf-8"))


def numbers_of_the_rows(rows, kept):
    """Every number of the page but those of run.json and the examples, from the published rows
    alone.
    """
    under, n, k = int((rows.ifd < 1).sum()), len(rows), len(kept)
    wanted = {"rows": n, "kept": k, "share": k / n, "score.cut": kept.ifd.iloc[-1]}
    for number, (before, after) in enumerate([(n, under), (under, k)]):
        wanted |= {f"steps.{number}.rows_in": before, f"steps.{number}.rows_out": after}
        wanted |= {f"steps.{number}.dropped": before - after, f"steps.{number}.share": after / n}
    for name, share in {"min": 0, "q25": 0.25, "median": 0.5, "q75": 0.75, "max": 1}.items():
        wanted[f"score.{name}"] = rows.ifd.quantile(share)
    is_kept = rows.instruction.isin(kept.instruction)
    for name, part in {"kept": kept, "dropped": rows[~is_kept], "all": rows}.items():
        wanted |= {f"length.median_{name}": part.output.str.len().median()}
        wanted |= {f"length.mean_{name}": part.output.str.len().mean()}
    for column in ("category", "planted"):
        cells, mine = rows[column].tolist(), kept[column].tolist()
        values = sorted(set(cells), key=lambda value: (-cells.count(value), cells.index(value)))
        for number, value in enumerate(values):
            group = f"groups.{column}.{number}"
            wanted |= {f"{group}.rows": cells.count(value), f"{group}.kept": mine.count(value)}
            wanted[f"{group}.share"] = mine.count(value) / cells.count(value)
    for status, count in rows.ifd_status.value_counts().items():
        wanted[f"status.ifd_status.{status}"] = count
    longest = rows.output.str.len().sort_values(ascending=False, kind="stable").index[:k]
    perplexed = (
        rows.ifd_ppl_alone.fillna(-np.inf).sort_values(ascending=False, kind="stable").index[:k]
    )
    drawn = np.random.default_rng(0).permutation(n)[:k]
    wanted |= {
        f"baselines.{i}": is_kept[picked].mean()
        for i, picked in enumerate([drawn, longest, perplexed])
    }
    return wanted


def examples_of_the_rows(rows, kept):
    """Titles and rows of the examples, from the published rows alone."""
    best_first = rows[rows.ifd.notna()].sort_values("ifd", ascending=False, kind="stable")
    dropped = best_first[~best_first.instruction.isin(kept.instruction)]
    best = kept.instruction.map({text: number for number, text in enumerate(rows.instruction)})
    return {
        "Best kept": best.tolist(),
        "Just under the line": dropped[dropped.ifd < 1].index.tolist(),
        "Worst": dropped.index[::-1].tolist(),
        "Dropped by Threshold(by='ifd', below=1.0), step 1": dropped[
            dropped.ifd >= 1
        ].index.tolist(),
        "Undefined": rows[rows.ifd.isna()].index.tolist(),
    }


def test_every_number_is_what_the_published_rows_and_the_record_say(run, page):
    rows, kept = pd.read_parquet(run / "scored.parquet"), pd.read_parquet(run / "selected.parquet")
    assert rows.instruction.is_unique
    record = json.loads((run / "run.json").read_text())
    wanted = numbers_of_the_rows(rows, kept)
    for name, scorer in record["scorers"].items():
        wanted |= {f"cost.{name}.rows": len(rows), f"cost.{name}.seconds": scorer["seconds"]}
    wanted |= {"cost.ifd.tokens": rows.ifd_tokens.sum()}
    if record["scorers"]["ifd"]["made_with"]["device"] == "cpu":
        wanted |= {"cost.ifd.threads": record["scorers"]["ifd"]["made_with"]["threads"]}
    for group, (title, numbers) in enumerate(examples_of_the_rows(rows, kept).items()):
        assert title in page.text
        wanted[f"examples.{group}.shown"] = len(numbers[:10])
        for place, number in enumerate(numbers[:10]):
            wanted[f"examples.{group}.{place}.row"] = number
            if title != "Undefined":
                wanted[f"examples.{group}.{place}.score"] = rows.ifd[number]
    assert set(page.facts) == set(wanted)
    for name, value in wanted.items():
        assert page.facts[name] == pytest.approx(value, rel=1e-9), name


def test_no_number_stands_on_the_page_that_is_not_a_fact(run, page):
    record = json.loads((run / "run.json").read_text())
    known = [record["created"], *record["packages"].values(), *(f"step {n}" for n in (1, 2))]
    known += ["25%", "75%", "(seed 0)", record["scorers"]["ifd"]["made_with"]["dtype"], "below=1.0"]
    text = " ".join(page.said)
    for words in known:
        text = text.replace(words, "")
    assert not re.findall(r".{0,20}\d.{0,20}", text)


def test_the_words_for_the_pictures_give_the_numbers_of_the_rows(run, page):
    rows, kept = pd.read_parquet(run / "scored.parquet"), pd.read_parquet(run / "selected.parquet")
    scores, lengths = (attributes["alt"] for tag, attributes in page.tags if tag == "img")
    low, high = np.percentile(rows.ifd.dropna(), [1, 99])
    assert scores == (
        f"Histogram of ifd over {rows.ifd.notna().sum()} rows from {low:.3g} to {high:.3g}; "
        f"{len(kept)} kept, the last at {kept.ifd.iloc[-1]:.3f}."
    )
    dropped = rows[~rows.instruction.isin(kept.instruction)]
    assert lengths == (
        f"Histogram of response lengths: median {kept.output.str.len().median():,.0f} characters "
        "over "
        f"{len(kept)} rows kept, median {dropped.output.str.len().median():,.0f} characters over "
        f"{len(dropped)} rows dropped."
    )


def test_the_page_needs_nothing_but_itself(run, page):
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "url(" not in (run / "report.html").read_text()
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 2 and all(len(picture["alt"]) > 40 for picture in pictures)


def test_the_page_shows_best_worst_just_under_the_line_and_undefined_rows(run, page):
    text = " ".join(page.text)
    kept = pd.read_parquet(run / "selected.parquet")
    for title in ("Best kept", "Just under the line", "Worst", "Dropped by Threshold", "Undefined"):
        assert title in text
    assert kept.output.iloc[0].strip()[:60] in text
    assert "ifd_status: empty_response" in text
    assert "IFD:" in text and "hf-superfilter run recipe.yaml" in text


def test_the_recipe_on_the_page_is_the_runs(run, page):
    text = next(t for t in page.text if t.startswith("dataset:"))
    assert Recipe.from_yaml(text) == Recipe.from_yaml(RECIPE)


# Where there is no line, and where there is no better or worse


def facts_and_titles(selection, folder):
    page = Page(write_report(selection, folder / "report.html").read_text(encoding="utf-8"))
    assert not any("nan" in attributes.get("data-value", "") for _, attributes in page.tags)
    shown = {title: rows.tolist() for title, rows in Summary(selection).examples.items()}
    assert all(title in page.text for title in shown)
    return page, shown


SCORES = [0.5, 0.1, 0.9, 0.3, float("nan"), 0.7]


@pytest.mark.parametrize(
    ("selectors", "cut", "shown"),
    [
        (
            [TopK("ifd", 2)],
            0.7,
            {"Best kept": [2, 5], "Just under the line": [0, 3, 1], "Worst": [1, 3, 0]},
        ),
        (
            [TopK("ifd", 2, largest=False)],
            0.3,
            {"Best kept": [1, 3], "Just under the line": [0, 5, 2], "Worst": [2, 5, 0]},
        ),
        (
            [TopK("ifd", 1, largest=False)],
            0.1,
            {"Best kept": [1], "Just under the line": [3, 0, 5, 2], "Worst": [2, 5, 0, 3]},
        ),
        (
            [Threshold("ifd", below=0.8)],
            None,
            {"Kept": [0, 1, 3, 5], "Dropped by Threshold(by='ifd', below=0.8), step 1": [2]},
        ),
        (
            [TopK("ifd", 4), Threshold("size", above=2)],
            None,
            {
                "Best kept": [5, 3],
                "Worst": [1, 0, 2],
                "Dropped by TopK(by='ifd', k=4), step 1": [1],
                "Dropped by Threshold(by='size', above=2), step 2": [2, 0],
            },
        ),
        (
            [TopK("ifd", 4, largest=False), RandomSample(4)],
            None,
            {
                "Best kept": [1, 3, 0, 5],
                "Worst": [2],
                "Dropped by TopK(by='ifd', k=4, largest=False), step 1": [2],
            },
        ),
    ],
    ids=str,
)
def test_only_a_last_step_that_ranks_draws_a_line_and_only_a_ranking_tells_good_from_bad(
    tmp_path, selectors, cut, shown
):
    table = Dataset.from_dict({"ifd": SCORES, "size": [1, 2, 0, 5, 6, 7]})
    page, titles = facts_and_titles(select(table, selectors), tmp_path)
    assert page.facts.get("score.cut") == cut
    assert titles == {**shown, "Undefined": [4]}
    assert ("no cut: the last step does not rank" in page.text) == (cut is None)
    assert ("the last at" in next(a["alt"] for tag, a in page.tags if tag == "img")) == (
        cut is not None
    )


def test_a_selector_without_a_column_has_rows_kept_and_rows_dropped_and_no_more(tmp_path):
    selection = select(
        Dataset.from_dict({"ifd": SCORES}), [lambda table, pool: [3, 1], lambda table, pool: [1]]
    )
    page, titles = facts_and_titles(selection, tmp_path)
    assert titles == {
        "Kept": [1],
        "Dropped by <lambda>, step 1": [0, 2, 4, 5],
        "Dropped by <lambda>, step 2": [3],
    }
    assert "score.cut" not in page.facts


@pytest.mark.parametrize("cells", [[3, 4], [None, None], [[1], []], [{"text": "a"}, None]], ids=str)
def test_a_response_that_is_no_text_has_no_length(tmp_path, cells):
    selection = select(Dataset.from_dict({"response": cells, "ifd": [0.1, 0.2]}), [TopK("ifd", 1)])
    page, _ = facts_and_titles(selection, tmp_path)
    assert selection.response_lengths is None and not [
        name for name in page.facts if name.startswith("length")
    ]
    assert [tag for tag, _ in page.tags].count("img") == 1


@pytest.mark.parametrize("k", [3, 1])
def test_the_length_plot_shows_kept_beside_dropped(k):
    table = Dataset.from_dict({"response": ["a" * 10, "b" * 20, "c" * 40], "ifd": [0.3, 0.2, 0.1]})
    alt = length_plot(select(table, [TopK("ifd", k)])).alt
    assert (
        alt
        == {
            3: "Histogram of response lengths: median 20 characters over 3 rows kept.",
            1: "Histogram of response lengths: median 10 characters over 1 rows kept, "
            "median 30 characters over 2 rows "
            "dropped.",
        }[k]
    )


def test_groups_of_equal_size_stand_in_the_order_in_which_they_appear(tmp_path):
    table = Dataset.from_dict(
        {"kind": ["b", "a", "c", "c", "a", "b", "d"], "ifd": [float(i) for i in range(7)]}
    )
    groups = Summary(select(table, [TopK("ifd", 2)])).groups["kind"]
    assert [(group["value"], group["rows"], group["kept"]) for group in groups] == [
        ("b", 2, 1),
        ("a", 2, 0),
        ("c", 2, 0),
        ("d", 1, 1),
    ]


def test_a_number_that_a_step_says_of_itself_is_a_fact(tmp_path):
    class Heaviest:
        by = "kind"

        def __call__(self, table, pool):
            return pool[:2]

        def facts(self, table, pool, rows):
            return {"weight": 3.5, "unit": "kg"}

    page, _ = facts_and_titles(
        select(Dataset.from_dict({"kind": list("abc")}), [Heaviest()]), tmp_path
    )
    assert page.facts["steps.0.facts.weight"] == 3.5 and "unit: kg" in page.text


# Data of all kinds


HOSTILE = [
    "<script>alert(1)</script>",
    "{{ 7 * 7777 }} {% raw %}",
    "--> <!-- ---",
    "</pre></main><img src=x onerror=y>",
    "a\x00b\u2028",
]


def test_data_cannot_become_markup_or_template(tmp_path):
    table = Dataset.from_dict(
        {
            "prompt": HOSTILE,
            "response": HOSTILE[::-1],
            "kind": [*HOSTILE[:2]] * 2 + [HOSTILE[0]],
            "ifd": [0.1, 0.2, 0.3, 0.4, 0.5],
        }
    )
    path = write_report(select(table, [TopK("ifd", 2)]), tmp_path / "report.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert [tag for tag, attributes in page.tags if "onerror" in attributes] == []
    text = "".join(page.text)
    assert "{{ 7 * 7777 }}" in text and "alert(1)" in text and "54439" not in text


def test_what_is_not_known_is_called_not_recorded(tmp_path):
    table = Dataset.from_dict({"quality": [3, 1, 2]})
    path = write_report(select(table, [TopK("quality", 1)]), tmp_path / "new" / "report.html")
    text = " ".join(Page(path.read_text()).text)
    assert text.count("not recorded") == 5
    no_rank = write_report(select(table, [lambda table, pool: pool[:1]]), tmp_path / "report.html")
    text = " ".join(Page(no_rank.read_text()).text)
    assert "no cut: the last step does not rank" in text and "No picture: no column ranks" in text


def test_nothing_kept_and_nothing_defined_still_make_a_page(tmp_path):
    table = Dataset.from_dict(
        {"ifd": [float("nan")] * 3, "response": ["a", None, "c"], "ifd_status": ["too_short"] * 3}
    )
    path = write_report(select(table, [Threshold("ifd", below=1)]), tmp_path / "report.html")
    text = " ".join(Page(path.read_text()).text)
    assert "nothing was kept" in text and "too_short" in text


def test_chats_show_their_last_turn(tmp_path):
    table = Dataset.from_dict(
        {
            "prompt": [["Hi", "Hi again"], []],
            "response": [["first", "last words"], []],
            "ifd": [0.5, 0.4],
        }
    )
    text = " ".join(
        Page(write_report(select(table, [TopK("ifd", 1)]), tmp_path / "r.html").read_text()).text
    )
    assert "last words" in text and "Hi again" in text


def test_fifty_thousand_rows_stay_under_three_megabytes(tmp_path):
    rng = np.random.default_rng(0)
    text = "A sentence of the usual kind, to be read by somebody. " * 40
    table = Dataset.from_dict(
        {"prompt": [text] * 50_000, "response": [text] * 50_000, "ifd": rng.random(50_000)}
    )
    path = write_report(
        select(table, [Threshold("ifd", below=0.9), TopK("ifd", 0.1)]), tmp_path / "report.html"
    )
    assert path.stat().st_size < 3e6


def test_threads_may_write_reports_at_once(run, tmp_path):
    selection = select(
        Dataset.from_parquet(str(run / "scored.parquet"), cache_dir=str(tmp_path)),
        [TopK("ifd", 50)],
    )
    with ThreadPoolExecutor(4) as pool:
        pages = {
            path.read_text()
            for path in pool.map(
                lambda i: write_report(selection, tmp_path / f"{i}.html"), range(4)
            )
        }
    assert len(pages) == 1


@pytest.mark.parametrize(
    "values",
    [
        [1e308] * 30,
        [-1e308] * 30,
        [1e308, -1e308] * 15,
        [1e17] * 30,
        [1e17, 1e17 + 16] * 15,
        [1e300 * number for number in range(30)],
        [1.7e299 * number for number in range(30)],
        [5e-324] * 30,
        [1e308, -1e308, math.inf, -math.inf, math.nan] * 6,
    ],
)
def test_numbers_at_the_ends_of_float64_make_a_report(tmp_path, values):
    table = Dataset.from_dict({"$x_$": values, "response": ["$b_$"] * 30})
    selection = select(table, TopK("$x_$", 4))
    page = write_report(selection, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "$x_$" in page
    text = re.sub(r"base64,[^\"]*", "", page)
    assert not re.findall(r"\d{40}", re.sub(r'data-value="[^"]*"', "", text))
    assert "$x_$" in summary_text(Summary(selection))
