"""Pages in a real browser: no error, no request, no sideways scroll; search, sorting and print."""

import shutil

import numpy as np
import pytest
from datasets import Dataset
from markdown_it import MarkdownIt

from hf_superfilter import (
    Length,
    StudentSettings,
    Threshold,
    TopK,
    score,
    select,
    validate,
    write_repo,
    write_report,
)
from hf_superfilter.cli.demo import compare_on_planted
from hf_superfilter.hub.front_matter import body_of
from hf_superfilter.reports.page import write_page
from hf_superfilter.reports.plots import selection_plots
from hf_superfilter.reports.summary import Summary

pytestmark = pytest.mark.browser
WIDTHS, SCHEMES = (390, 1280), ("light", "dark")
PAGES = ("report", "unusual", "empty", "card")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
CODE = "def product(first, second):\n    return " + "first * " * 60 + "second"
# The Hub shows a card in a column, its tables in boxes that scroll, its pictures no wider.
HUB = """<!doctype html><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root { color-scheme: light dark; }
body { font: 16px/1.6 system-ui, sans-serif; max-width: 900px; margin: 0 auto; padding: 16px; }
@media (prefers-color-scheme: dark) { body { background: #0b0f19; color: #e5e7eb; } }
table { display: block; overflow-x: auto; } pre { overflow-x: auto; } img { max-width: 100%; }
p, li, summary { overflow-wrap: anywhere; }
</style>"""


@pytest.fixture(scope="module")
def chromium():
    """The system's Chromium, driven by playwright; its own browsers are not needed."""
    reason = "needs the extra [browser]: pip install 'hf-superfilter[browser]'"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    programs = [path for path in map(shutil.which, CHROMIUM) if path]
    if not programs:
        pytest.skip("needs Chromium: none of " + ", ".join(CHROMIUM) + " is on the PATH")
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=programs[0], args=["--no-sandbox"])
        except playwright.Error as error:  # no shared memory or display on this machine, say
            pytest.skip(f"{programs[0]} does not start: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(sample, gpt2, tmp_path_factory):
    """HTML files, by name."""
    folder = tmp_path_factory.mktemp("pages")
    selection = validated(sample, gpt2, folder / "run")
    other = select(selection.table, Threshold("ifd", below=0.5))
    card = write_repo(selection, folder / "repo", config_name="ifd-20")
    write_repo(other, folder / "repo", config_name="below")
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    html = markdown.render(body_of((card / "README.md").read_text(encoding="utf-8")))
    (card / "card.html").write_text(HUB + html, encoding="utf-8")
    files = {
        "report": folder / "report.html",
        "unusual": folder / "unusual.html",
        "empty": folder / "empty.html",
        "card": card / "card.html",
    }
    note = compare_on_planted(selection, other)
    write_page(Summary(selection), selection_plots(selection), files["report"], note=note)
    write_report(select(unusual_rows(), TopK("ifd", 0.2)), files["unusual"])
    nothing = {"ifd": [float("nan")] * 3, "response": ["a", "b", "c"], "ifd_status": ["no"] * 3}
    write_report(select(Dataset.from_dict(nothing), Threshold("ifd", below=1)), files["empty"])
    return files


def validated(sample, gpt2, folder):
    """A selection with scores, statuses and groups, on which two students were trained."""
    short = [len(row["prompt"]) < 150 and row["response"] != "" for row in sample]
    table = score(sample.select(np.flatnonzero(short)), [Length()], folder)
    values = np.random.default_rng(0).random(len(table))
    table = table.add_column("ifd", values.tolist())
    table = table.add_column("ifd_status", np.where(values < 0.1, "truncated", "ok").tolist())
    selection = select(table, TopK("ifd", 0.2), run=folder)
    student = StudentSettings(gpt2, learning_rate=1e-3, batch_rows=4, max_length=32)
    validate(selection, student, held_out=16, arms="selected,random", steps=1, seeds=1, draws=2)
    return selection


def unusual_rows():
    """Rows of chats, right-to-left and Chinese text, long code, and words without a gap."""
    texts = [
        ["What is this?", "مرحبا بالعالم، هذه جملة باللغة العربية. " * 5],
        ["שלום עולם, זוהי שורה בעברית עם English words. " * 5, "中文没有空格。" * 80],
        ["a" * 2_000, CODE],
    ]
    prompts = [[first, f"{first}\n{second}\nGo on"] for first, second in texts]
    return Dataset.from_dict(
        {
            "prompt": prompts * 10,
            "response": texts * 10,
            "response_rejected": texts[::-1] * 10,
            "kind": ["العربية", "a_name_without_any_gap_" * 4, "<b>bold</b>"] * 10,
            "ifd": np.linspace(0.1, 0.9, 30),
        }
    )


@pytest.fixture
def open_page(chromium, pages):
    """Open a page; what it logs and asks for is collected."""
    opened = []

    def open_it(name, width=1280, scheme="light"):
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        opened.append(page)
        page.faults, page.requests = [], []
        page.on("console", lambda message: page.faults.append(message.text))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(pages[name].as_uri())
        return page

    yield open_it
    for page in opened:
        page.close()


def contrast(page, selector):
    """The contrast (WCAG 2) of a text with the page's ground."""
    channels = """selector => {
        const numbers = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
        const element = document.querySelector(selector);
        return [getComputedStyle(element).color, getComputedStyle(document.body).backgroundColor]
            .map(numbers);
    }"""
    colours = np.array(page.evaluate(channels, selector)) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    light, dark = sorted(linear @ [0.2126, 0.7152, 0.0722], reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_its_window_logs_nothing_and_asks_nobody(open_page, name, width, scheme):
    page = open_page(name, width, scheme)
    for _ in ("as it opens", "with everything unfolded"):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.faults == []
    assert {url.split(":")[0] for url in page.requests} <= {"file", "data"}
    pictures = page.locator("img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert all(pictures) and (pictures or name == "empty")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_texts_stand_out_from_the_ground_in_both_schemes(open_page, scheme):
    page = open_page("report", scheme=scheme)
    grounds = {"light": "rgb(250, 250, 250)", "dark": "rgb(24, 24, 27)"}
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == grounds[scheme]
    assert contrast(page, "h1") > 7 and contrast(page, ".soft") > 4.5


def test_the_report_has_the_demos_table_and_the_students_section(open_page):
    page = open_page("report", 390)
    for title in ("What was planted, and what is kept of it", "Does it train better?"):
        assert page.get_by_role("heading", name=title).is_visible()
    head = page.locator("section:has-text('Plain IFD keeps') th").all_inner_texts()
    assert head[0] == "rows" and "kept by the cleaning recipe" in head
    assert page.locator("td[data-label=verdict]").first.is_visible()


def test_the_search_leaves_the_rows_that_hold_the_words(open_page):
    page = open_page("report")
    texts = page.locator(".row").evaluate_all("rows => rows.map(row => row.textContent)")
    words = texts[3].split()[-1].lower()
    page.get_by_role("searchbox").fill(words.upper())
    holding = [text for text in texts if words in text.lower()]
    assert page.locator(".row:not([hidden])").count() == len(holding) < len(texts)
    assert page.locator(".row:not([hidden])").first.is_visible()
    page.get_by_role("searchbox").fill("no row holds these words")
    assert page.locator(".row:not([hidden])").count() == 0
    page.get_by_role("searchbox").fill("")
    assert page.locator(".row:not([hidden])").count() == len(texts)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_sorts_by_the_column_that_is_clicked_and_back(open_page, width):
    page = open_page("report", width)
    table = page.locator("table.sort:has(th:text-is('category'))")
    for head, place, kind in (("share kept", 4, float), ("category", 1, str)):
        values = column_of(table, place, kind)
        table.get_by_role("columnheader", name=head).click()
        assert column_of(table, place, kind) == sorted(values, reverse=True)
        table.get_by_role("columnheader", name=head).press("Enter")
        assert column_of(table, place, kind) == sorted(values)
        assert table.locator("th[aria-sort]").all_inner_texts() == [head]


def column_of(table, place, kind):
    """The cells of a column, which counts from 1, as they stand: full numbers, or texts."""
    value = "cell => cell.querySelector('[data-value]')?.dataset.value ?? cell.innerText"
    cells = table.locator(f"td:nth-child({place})").evaluate_all(f"all => all.map({value})")
    return [kind(cell) for cell in cells]


def test_a_report_prints_dark_on_white_without_the_search_box(open_page):
    page = open_page("report", 800, "dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("input").is_visible()
    assert (
        page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(24, 24, 27)"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 800
    assert page.pdf(format="A4").startswith(b"%PDF")
