"""The report: every number recomputed from the rows and run.json, every cell escaped, no network."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from hf_superfilter import Recipe, Threshold, TopK, select, write_report

RECIPE = """
dataset: embedded:sample
score: [{IFD: {model: "embedded:weak"}}, Length]
select: [{Threshold: {by: ifd, below: 1.0}}, {TopK: {by: ifd, k: 0.15}}]
"""


class Page(HTMLParser):
    """What a reader's program sees: tags, the facts with their values, the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.facts, self.text = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if "data-fact" in attributes:
            assert attributes["data-fact"] not in self.facts or attributes["data-fact"] == "rows"
            self.facts[attributes["data-fact"]] = float(attributes["data-value"])

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    selection = Recipe.from_yaml(RECIPE).run(folder)
    write_report(selection, folder / "report.html")
    return folder


@pytest.fixture(scope="module")
def page(run):
    return Page((run / "report.html").read_text(encoding="utf-8"))


def test_every_number_is_what_the_published_rows_and_the_record_say(run, page):
    rows, kept = pd.read_parquet(run / "scored.parquet"), pd.read_parquet(run / "selected.parquet")
    record = json.loads((run / "run.json").read_text())
    wanted = {"rows": len(rows), "kept": len(kept), "share": len(kept) / len(rows), "score.cut": kept.ifd.iloc[-1]}
    under = int((rows.ifd < 1).sum())
    for number, (before, after) in enumerate([(len(rows), under), (under, len(kept))]):
        wanted |= {f"steps.{number}.rows_in": before, f"steps.{number}.rows_out": after}
    for name, share in {"min": 0, "q25": 0.25, "median": 0.5, "q75": 0.75, "max": 1}.items():
        wanted[f"score.{name}"] = rows.ifd.quantile(share)
    for name, part in {"kept": kept, "all": rows}.items():
        wanted |= {f"length.median_{name}": part.response.str.len().median()}
        wanted |= {f"length.mean_{name}": part.response.str.len().mean()}
    for column in ("category", "planted"):
        for number, (value, count) in enumerate(rows[column].value_counts(sort=False).sort_values(
                ascending=False, kind="stable").items()):  # fmt: skip
            wanted |= {f"groups.{column}.{number}.rows": count}
            if (rows[column].value_counts() == count).sum() == 1:
                wanted |= {f"groups.{column}.{number}.kept": int((kept[column] == value).sum())}
    for status, count in rows.ifd_status.value_counts().items():
        wanted[f"status.ifd_status.{status}"] = count
    for name, scorer in record["scorers"].items():
        wanted |= {f"cost.{name}.rows": len(rows), f"cost.{name}.seconds": scorer["seconds"]}
    wanted["cost.ifd.tokens"] = rows.ifd_tokens.sum()
    is_kept = rows.instruction.isin(kept.instruction)
    longest = rows.response.str.len().sort_values(ascending=False, kind="stable").index[: len(kept)]
    perplexed = rows.ifd_ppl_alone.fillna(-np.inf).sort_values(ascending=False, kind="stable").index[: len(kept)]
    drawn = np.random.default_rng(0).permutation(len(rows))[: len(kept)]
    wanted |= {f"baselines.{i}": is_kept[picked].mean() for i, picked in enumerate([drawn, longest, perplexed])}
    for name, value in wanted.items():
        assert page.facts[name] == pytest.approx(value, rel=1e-9), name
    unchecked = {name for name in page.facts if name not in wanted}
    assert all(re.fullmatch(r"groups\.(category|planted)\.\d+\.kept", name) for name in unchecked), unchecked


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
    assert kept.response.iloc[0].strip()[:60] in text
    assert "ifd_status: empty_response" in text
    assert "IFD:" in text and "hf-superfilter run recipe.yaml" in text


def test_the_recipe_on_the_page_is_the_runs(run, page):
    text = next(t for t in page.text if t.startswith("dataset:"))
    assert Recipe.from_yaml(text) == Recipe.from_yaml(RECIPE)


HOSTILE = [
    "<script>alert(1)</script>",
    "{{ 7 * 7 }} {% raw %}",
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
    assert "{{ 7 * 7 }}" in text and "alert(1)" in text and "49" not in re.sub(r"\d\.\d+", "", text)


def test_what_is_not_known_is_called_not_recorded(tmp_path):
    table = Dataset.from_dict({"quality": [3, 1, 2]})
    path = write_report(select(table, [TopK("quality", 1)]), tmp_path / "new" / "report.html")
    text = " ".join(Page(path.read_text()).text)
    assert text.count("not recorded") == 5
    no_rank = write_report(select(table, [lambda table, pool: pool[:1]]), tmp_path / "report.html")
    assert "no column ranks" in " ".join(Page(no_rank.read_text()).text)


def test_nothing_kept_and_nothing_defined_still_make_a_page(tmp_path):
    table = Dataset.from_dict(
        {"ifd": [float("nan")] * 3, "response": ["a", None, "c"], "ifd_status": ["too_short"] * 3}
    )
    path = write_report(select(table, [Threshold("ifd", below=1)]), tmp_path / "report.html")
    text = " ".join(Page(path.read_text()).text)
    assert "nothing was kept" in text and "too_short" in text


def test_chats_show_their_last_turn(tmp_path):
    table = Dataset.from_dict(
        {"prompt": [["Hi", "Hi again"], []], "response": [["first", "last words"], []], "ifd": [0.5, 0.4]}
    )
    text = " ".join(Page(write_report(select(table, [TopK("ifd", 1)]), tmp_path / "r.html").read_text()).text)
    assert "last words" in text and "Hi again" in text


def test_fifty_thousand_rows_stay_under_three_megabytes(tmp_path):
    rng = np.random.default_rng(0)
    text = "A sentence of the usual kind, to be read by somebody. " * 40
    table = Dataset.from_dict({"prompt": [text] * 50_000, "response": [text] * 50_000, "ifd": rng.random(50_000)})
    path = write_report(select(table, [Threshold("ifd", below=0.9), TopK("ifd", 0.1)]), tmp_path / "report.html")
    assert path.stat().st_size < 3e6


def test_threads_may_write_reports_at_once(run, tmp_path):
    selection = select(Dataset.from_parquet(str(run / "scored.parquet"), cache_dir=str(tmp_path)), [TopK("ifd", 50)])
    with ThreadPoolExecutor(4) as pool:
        pages = {
            path.read_text() for path in pool.map(lambda i: write_report(selection, tmp_path / f"{i}.html"), range(4))
        }
    assert len(pages) == 1
