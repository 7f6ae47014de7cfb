"""The numbers of a selection, once: what reports and cards print, and nothing that is not in the rows or the run."""

import json
import unicodedata
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.columns import holds_numbers, numbers_of
from ..runs.manifest import fingerprint_digest, read_manifest
from ..runs.prepare import prepared_folder
from ..runs.store import Store

if TYPE_CHECKING:
    from ..selection.funnel import Selection, Step

EXAMPLES = 10
MOST_GROUPS = 20  # a column with more values than this is not a grouping of the rows
LETTERS = 200  # of each response, enough to tell its writing system


def facts_of(selection: "Selection") -> dict[str, Any]:
    """All facts of a selection, by name; a fact that is not known is None.

    `rows`, `kept`, `share`; `steps`; `by` and `score` (quantiles over all finite values, and `cut`, see
    `cut_of`); `status`, how often each; `length`, characters of the responses kept, dropped and all;
    `groups`, kept against all by each column that groups the rows; `baselines`, the share of
    the selection that a baseline of the same size keeps too; `cost`, one entry a scorer, whose seconds include
    training; `beyond`, how many values lie outside a column's usual range.
    """
    record = read_manifest(selection.run) if selection.run is not None else None
    return {
        "rows": len(selection.table),
        "kept": len(selection.rows),
        "share": selection.share,
        "steps": [
            {
                "selector": step.selector,
                "rows_in": step.rows_in,
                "rows_out": step.rows_out,
                "dropped": step.rows_in - step.rows_out,
                "share": step.rows_out / len(selection.table),
                "facts": step.facts,
            }
            for step in selection.steps
        ],
        "by": ranked_by(selection),
        "score": _score(selection),
        "status": _statuses(selection),
        "length": _lengths(selection),
        "groups": _groups(selection),
        "baselines": _baselines(selection),
        "cost": _cost(record) if record else None,
        "beyond": _beyond(record) if record else {},
        "created": record["created"] if record else None,
        "packages": record["packages"] if record else None,
    }


def ranking_step(selection: "Selection") -> "Step | None":
    """The last step that ranks by a numeric column of the table: only it says which values are the better ones."""
    ranks = (step for step in reversed(selection.steps) if step.by and step.ranks)
    return next((step for step in ranks if holds_numbers(selection.table, str(step.by))), None)


def ranked_by(selection: "Selection") -> str | None:
    """The column worth showing: that of the last step that ranks, else of the last that goes by a numeric column.

    A selector of somebody else may call something else `by`: what is no numeric column of the table is none.
    """
    step = ranking_step(selection)
    named = [step.by] if step else [step.by for step in reversed(selection.steps)]
    return next((str(by) for by in named if by and holds_numbers(selection.table, str(by))), None)


def cut_of(selection: "Selection") -> float | None:
    """The ranked value of the last row kept; None unless the last step ranks, keeps a row, and drops no better one.

    After any other last step (the best of each cluster, say) there is no line with the better rows on one side.
    """
    step, last = ranking_step(selection), len(selection.steps) - 1
    if step is None or step is not selection.steps[-1] or not len(selection.rows):
        return None
    values = numbers_of(selection.table, str(step.by))
    cut, dropped = float(values[selection.rows[-1]]), values[selection.dropped_by == last]
    better = dropped > cut if step.largest else dropped < cut
    return None if np.isnan(cut) or better.any() else cut


def kept_mask(selection: "Selection") -> np.ndarray:
    """(n,) whether each row is kept."""
    mask = np.zeros(len(selection.table), dtype=bool)
    mask[selection.rows] = True
    return mask


def response_lengths(selection: "Selection") -> np.ndarray | None:
    """(n,) characters of each response, of all turns of a chat; None where no column `response` holds texts."""
    feature = selection.table.features.get("response")
    if not _is_text(feature) and not _is_text(getattr(feature, "feature", None)):
        return None
    cells = selection.table["response"][:]
    return np.array(
        [
            sum(map(len, filter(None, cell))) if isinstance(cell, list) else len(cell or "")
            for cell in cells
        ]
    )


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string")


def examples_of(selection: "Selection") -> dict[str, np.ndarray]:
    """Row numbers worth reading, at most `EXAMPLES` of each kind, by title.

    Which rows are good and bad is said only where a step ranks: "Best kept" are then the first rows of the
    selection (of all kept rows in the order of the ranking, where another step came after it) and
    "Worst" the rows at the other end that were dropped; "Just under the line" needs the last step to
    rank. Without a ranking there is "Kept", in the order of the selection. "Dropped by", best first or
    in the order of the table, and "Undefined" follow.
    """
    step, by, kept = ranking_step(selection), ranked_by(selection), kept_mask(selection)
    values, cut = numbers_of(selection.table, by) if by else np.zeros(len(kept)), cut_of(selection)
    if step is None:
        order, last_ranks = np.arange(len(kept)), False
    else:
        order, last_ranks = (
            np.argsort(-values if step.largest else values, kind="stable"),
            cut is not None,
        )
    order = order[~np.isnan(values[order])]
    groups = {}
    if step is None:
        groups["Kept"] = selection.rows
    else:
        groups["Best kept"] = selection.rows if last_ranks else order[kept[order]]
        if last_ranks:
            groups["Just under the line"] = order[
                selection.dropped_by[order] == len(selection.steps) - 1
            ]
        groups["Worst"] = order[~kept[order]][::-1]
    for number, other in enumerate(selection.steps[:-1] if last_ranks else selection.steps):
        groups[f"Dropped by {other.selector}, step {number + 1}"] = order[
            selection.dropped_by[order] == number
        ]
    groups["Undefined"] = np.flatnonzero(np.isnan(values))
    return {title: rows[:EXAMPLES] for title, rows in groups.items() if len(rows)}


def _score(selection: "Selection") -> dict[str, float | None] | None:
    by = ranked_by(selection)
    if by is None:
        return None
    values = numbers_of(selection.table, by)
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    names = ("min", "q25", "median", "q75", "max")
    quantiles = np.percentile(finite, [0, 25, 50, 75, 100]).tolist()
    return {**dict(zip(names, quantiles, strict=True)), "cut": cut_of(selection)}


def _statuses(selection: "Selection") -> dict[str, dict[str, int]]:
    """How often each status occurs, of every scorer: `ifd_status` beside `ifd`."""
    names = selection.table.column_names
    columns = [
        name for name in names if name.endswith("_status") and name.removesuffix("_status") in names
    ]
    return {
        column: dict(Counter(map(str, selection.table[column][:])).most_common(10))
        for column in columns
    }


def _lengths(selection: "Selection") -> dict[str, float | None] | None:
    """Mean and median characters; None for those of no rows."""
    lengths, kept = response_lengths(selection), kept_mask(selection)
    if lengths is None:
        return None
    facts: dict[str, float | None] = {}
    for name, mine in (("kept", lengths[kept]), ("dropped", lengths[~kept]), ("all", lengths)):
        facts[f"mean_{name}"] = float(mine.mean()) if len(mine) else None
        facts[f"median_{name}"] = float(np.median(mine)) if len(mine) else None
    return facts


def _groups(selection: "Selection") -> dict[str, list[dict[str, Any]]]:
    """Rows and kept rows by every text column of a few values: the largest group first, of equals the earlier seen."""
    groups = {}
    kept = kept_mask(selection)
    for column, feature in selection.table.features.items():
        if not _is_text(feature) or column.endswith("_status"):
            continue
        cells = selection.table[column][:]
        counts = Counter(cells)
        if not 2 <= len(counts) <= MOST_GROUPS:
            continue
        mine = Counter(cell for cell, k in zip(cells, kept, strict=True) if k)
        groups[column] = [
            {
                "value": "—" if value in (None, "") else value,
                "rows": rows,
                "kept": mine[value],
                "share": mine[value] / rows,
            }
            for value, rows in counts.most_common()
        ]
    return groups


def _baselines(selection: "Selection") -> list[dict[str, Any]]:
    """The share of the selection that baselines of the same size have in common with it; chance is its share of all."""
    k, kept = len(selection.rows), kept_mask(selection)
    if not k:
        return []
    drawn = np.random.default_rng(0).permutation(len(kept))[:k]
    baselines = [{"name": "random rows (seed 0)", "overlap": float(kept[drawn].mean())}]
    lengths = response_lengths(selection)
    if lengths is not None:
        longest = np.argsort(-lengths, kind="stable")[:k]
        baselines.append({"name": "longest responses", "overlap": float(kept[longest].mean())})
    by = ranked_by(selection)
    for column in (f"{by}_ppl_alone", "ppl"):
        if column in selection.table.column_names and column != by:
            values = np.nan_to_num(numbers_of(selection.table, column), nan=-np.inf)
            highest = np.argsort(-values, kind="stable")[:k]
            baselines.append(
                {"name": f"highest perplexity ({column})", "overlap": float(kept[highest].mean())}
            )
    return baselines


def _cost(record: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry for each scorer that is finished."""
    return [
        {
            "name": name,
            "rows": scorer["rows"],
            "tokens": scorer.get("tokens"),
            "seconds": scorer["seconds"] + (_training_seconds(scorer) or 0.0),
            "training_seconds": _training_seconds(scorer),
            "scorer": scorer["scorer"],
            **{
                key: scorer.get("made_with", {}).get(key)
                for key in ("model", "revision", "device", "dtype", "threads")
            },
        }
        for name, scorer in record["scorers"].items()
        if "seconds" in scorer
    ]


def _training_seconds(scorer: dict[str, Any]) -> float | None:
    """What the training took; None of a scorer that is not trained, or was trained twice."""
    seconds = scorer.get("made_with", {}).get("training_seconds")
    return seconds if isinstance(seconds, float) else None


def _beyond(record: dict[str, Any]) -> dict[str, dict[str, int]]:
    return {
        scorer["main"]: scorer["beyond"]
        for scorer in record["scorers"].values()
        if "beyond" in scorer
    }


def losses_of(run: str | Path) -> dict[str, list[dict[str, Any]]]:
    """The training log of every scorer of a run that was trained: one entry a step, with `step`, `epoch` and `loss`."""
    store, found = Store(run), {}
    for name, scorer in read_manifest(run)["scorers"].items():
        file = f"{prepared_folder(name, fingerprint_digest(scorer))}/loss.jsonl"
        if store.has(file):
            found[name] = [json.loads(line) for line in store.read(file).decode().splitlines()]
    return found


def token_facts(selection: "Selection") -> list[dict[str, Any]]:
    """Response tokens by every `*_tokens` column: sums and means over the kept and over all defined rows."""
    kept, facts = kept_mask(selection), []
    for column in selection.table.column_names:
        if not column.endswith("_tokens") or not holds_numbers(selection.table, column):
            continue
        values = numbers_of(selection.table, column)
        defined = np.isfinite(values)
        mine, every = values[defined & kept], values[defined]
        if len(every):
            means = {
                "mean_kept": float(mine.mean()) if len(mine) else None,
                "mean_all": float(every.mean()),
            }
            facts.append(
                {"column": column, "kept": int(mine.sum()), "all": int(every.sum()), **means}
            )
    return facts


def script_facts(selection: "Selection") -> list[dict[str, Any]]:
    """Rows and kept rows by the writing system that most letters of a response belong to; [] without responses.

    Read from the first letters of each response; the name is the first word of the letters' Unicode names.
    """
    if "response" not in selection.table.column_names:
        return []
    kept = kept_mask(selection)
    scripts = [_script(_text(cell)) for cell in selection.table["response"][:]]
    mine = Counter(script for script, k in zip(scripts, kept, strict=True) if k)
    return [
        {"script": name, "rows": rows, "kept": mine[name]}
        for name, rows in Counter(scripts).most_common()
    ]


def _text(cell: Any) -> str:
    return " ".join(filter(None, map(str, cell))) if isinstance(cell, list) else str(cell or "")


def _script(text: str) -> str:
    head = text[: 4 * LETTERS]
    if head.isascii():
        return "Latin" if any(map(str.isalpha, head)) else "no letters"
    letters = [letter for letter in head if letter.isalpha()][:LETTERS]
    return (
        Counter(map(_script_of_letter, letters)).most_common(1)[0][0] if letters else "no letters"
    )


@lru_cache(maxsize=4_096)
def _script_of_letter(letter: str) -> str:
    word = unicodedata.name(letter, "unknown").split()[0]
    return {"CJK": "Han"}.get(word, word.capitalize())
