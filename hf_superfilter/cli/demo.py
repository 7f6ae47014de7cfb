"""Define `demo`: the embedded sample, where plain IFD fails on it, and the recipe that mends it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._run_folders import (
    in_folder,
    record_note,
    record_selectors,
    run_recipe,
    selection_folder,
    write_run_page,
)
from ._terminal import show, show_end

if TYPE_CHECKING:
    from ..selection.funnel import Selection

PLAIN = """
dataset: embedded:sample
score:
  - IFD: {model: "embedded:strong"}
  - PromptMatch: {model: "embedded:weak"}
  - Length
select:
  - Threshold: {by: ifd, below: 1.0}
  - TopK: {by: ifd, k: 0.15}
"""
# The limits of perplexity and of similarity were chosen on this very sample.
CLEANED = """
- Threshold: {by: ifd, below: 1.0}
- Threshold: {by: prompt_match, above: 0.0}
- Threshold: {by: ifd_ppl, above: 20.0, below: 200.0}
- NearDuplicates: {threshold: 0.4}
- PerCluster: {by: ifd, k: 0.15, group: category}
"""
NAME, PLANTED = "cleaned", "planted"


def demo(
    folder: Annotated[
        str, typer.Option(help="The run folder: a path or an fsspec URL, s3://bucket/run.")
    ] = "runs/demo",
) -> None:
    """Score the embedded sample with the embedded model and keep the best 15%, without network."""
    from ..recipes.entries import build_all
    from ..recipes.recipe import Recipe
    from ..reports.summary import Summary
    from ..runs.store import Store
    from ..selection.funnel import select
    from ..yaml_io import load_yaml

    plain = run_recipe(Recipe.from_yaml(PLAIN), folder)
    if plain is None:
        return
    selectors = build_all(load_yaml(CLEANED), "select")
    cleaned = select(plain.table, selectors, run=folder, source_columns=plain.source_columns)
    place = selection_folder(folder, NAME)
    with Store(place).file("selected.parquet") as unfinished:
        cleaned.subset.to_parquet(str(unfinished))
    record_selectors(folder, list(selectors), NAME)
    note = compare_on_planted(plain, cleaned)
    for selection, where in ((plain, folder), (cleaned, place)):
        record_note(selection, where, note)
        write_run_page(Summary(selection), where)
    show("\n" + note_text(note))
    show_end(
        f"kept {len(plain.rows):,} of {len(plain.table):,} rows by plain IFD and "
        f"{len(cleaned.rows):,} by the cleaning recipe",
        f"report: {in_folder(folder, 'report.html')}, cleaned: {in_folder(place, 'report.html')}, "
        f"{in_folder(place, 'selected.parquet')}",
        *("publish", folder, "user/name", "--name", NAME, "--dry-run"),
    )


def compare_on_planted(plain: "Selection", cleaned: "Selection") -> dict[str, Any]:
    """Compare how two selections keep sound rows and rows with planted defects.

    Returns:
        `sentences`, two of them; `head` and `rows` of one table.
    """
    kinds = [kind or "sound" for kind in plain.table[PLANTED][:]]
    names = ["sound", *sorted({*kinds} - {"sound"})]
    counts = {name: _count(kinds, plain, cleaned, {name}) for name in names}
    counts["all defects"] = _count(kinds, plain, cleaned, {*names[1:]})
    sound, defects = counts["sound"], counts["all defects"]
    worst = max(names[1:], key=lambda name: counts[name][1] / counts[name][0])
    rows, kept, _ = counts[worst]
    sentences = [
        f"Plain IFD keeps {kept / rows:.0%} of the rows with the planted defect {worst!r} and "
        f"{sound[1] / sound[0]:.0%} of the sound ones: it does not see that a row is wrong.",
        "The cleaning recipe drops responses that fit another row's prompt as well, perplexities "
        "outside a band and near-duplicates, and keeps the best of each category: a defect is "
        f"{_ratio(defects, sound, 2):.2f} times as likely to be kept as a sound row, "
        f"{_ratio(defects, sound, 1):.2f} times before; its limits were chosen on this sample.",
    ]
    return {
        "sentences": sentences,
        "head": ["rows", "number", "kept by plain IFD", "kept by the cleaning recipe"],
        "rows": [
            [name, f"{n:,}", f"{one} ({one / n:.0%})", f"{other} ({other / n:.0%})"]
            for name, (n, one, other) in counts.items()
        ],
    }


def _count(
    kinds: list[str], plain: "Selection", cleaned: "Selection", names: set[str]
) -> tuple[int, int, int]:
    """Count the rows of some kinds, and those that each selection keeps."""
    chosen = [number for number, kind in enumerate(kinds) if kind in names]
    return len(chosen), int(plain.kept[chosen].sum()), int(cleaned.kept[chosen].sum())


def _ratio(defects: tuple[int, ...], sound: tuple[int, ...], column: int) -> float:
    """Divide the share of defects kept by the share of sound rows kept."""
    return (defects[column] / defects[0]) / (sound[column] / sound[0])


def note_text(note: dict[str, Any]) -> str:
    """Write the comparison for a terminal."""
    lines = [note["head"], *note["rows"]]
    widths = [max(len(line[place]) for line in lines) for place in range(len(note["head"]))]
    table = []
    for first, *others in lines:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        table.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join([*note["sentences"], *(f"  {line}" for line in table)])
