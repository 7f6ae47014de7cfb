"""The numbers of a selection, once: what reports and cards print, and nothing that is not in the rows or the run."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from .runner import read_record
from .table import numbers_of

if TYPE_CHECKING:
    from .funnel import Selection

EXAMPLES = 10
MOST_GROUPS = 20  # a column with more values than this is not a grouping of the rows


def facts_of(selection: "Selection") -> dict[str, Any]:
    """All facts of a selection, by name; a fact that is not known is None.

    `rows`, `kept`, `share`; `steps`; `by` and `score` (quantiles over all defined rows, and `cut`, the
    kept value nearest to the dropped ones); `status`, how often each; `length`, characters of the
    responses; `groups`, kept against all by each column that groups the rows; `baselines`, the share of
    the selection that a baseline of the same size keeps too; `cost`, one entry a scorer.
    """
    record = read_record(selection.run) if selection.run is not None else None
    return {
        "rows": len(selection.table),
        "kept": len(selection.rows),
        "share": selection.share,
        "steps": [
            {"selector": step.selector, "rows_in": step.rows_in, "rows_out": step.rows_out, "facts": step.facts}
            for step in selection.steps
        ],
        "by": ranked_by(selection),
        "score": _score(selection),
        "status": _statuses(selection),
        "length": _lengths(selection),
        "groups": _groups(selection),
        "baselines": _baselines(selection),
        "cost": _cost(record) if record else None,
        "created": record["created"] if record else None,
        "packages": record["packages"] if record else None,
    }


def ranked_by(selection: "Selection") -> str | None:
    """The column selected by; a selector of somebody else may call something else `by`."""
    return selection.by if selection.by in selection.table.column_names else None


def kept_mask(selection: "Selection") -> np.ndarray:
    """(n,) whether each row is kept."""
    mask = np.zeros(len(selection.table), dtype=bool)
    mask[selection.rows] = True
    return mask


def response_lengths(selection: "Selection") -> np.ndarray | None:
    """(n,) characters of each response, of all turns of a chat; None where the table has no response column."""
    if "response" not in selection.table.column_names:
        return None
    cells = selection.table["response"][:]
    return np.array(
        [sum(map(len, filter(None, cell))) if isinstance(cell, list) else len(cell or "") for cell in cells]
    )


def examples_of(selection: "Selection") -> dict[str, np.ndarray]:
    """Row numbers worth reading, by title: the best kept, those just under the line, the worst, the undefined."""
    groups = {"Best kept": selection.rows[:EXAMPLES]}
    by = ranked_by(selection)
    if by is None:
        return groups
    values = numbers_of(selection.table, by)
    kept = kept_mask(selection)
    sign = -1.0 if _largest_first(values, selection.rows) else 1.0
    order = np.argsort(sign * values, kind="stable")
    order = order[~np.isnan(values[order])]  # best first
    last = len(selection.steps) - 1
    groups["Just under the line"] = order[selection.dropped_by[order] == last][:EXAMPLES]
    groups["Worst"] = order[~kept[order]][::-1][:EXAMPLES]
    for number, step in enumerate(selection.steps[:-1]):
        gone = order[selection.dropped_by[order] == number]
        groups[f"Dropped by {step.selector}"] = gone[:EXAMPLES]
    groups["Undefined"] = np.flatnonzero(np.isnan(values))[:EXAMPLES]
    return {title: rows for title, rows in groups.items() if len(rows)}


def _largest_first(values: np.ndarray, rows: np.ndarray) -> bool:
    """Whether the selection puts large values first: its best row is not below its last one."""
    mine = values[rows]
    mine = mine[~np.isnan(mine)]
    return len(mine) < 2 or bool(mine[0] >= mine[-1])


def _score(selection: "Selection") -> dict[str, float] | None:
    by = ranked_by(selection)
    if by is None:
        return None
    values = numbers_of(selection.table, by)
    defined = values[np.isfinite(values)]
    if not len(defined):
        return None
    names = ("min", "q25", "median", "q75", "max")
    facts = dict(zip(names, map(float, np.percentile(defined, [0, 25, 50, 75, 100])), strict=True))
    if len(selection.rows):
        facts["cut"] = float(values[selection.rows[-1]])
    return facts


def _statuses(selection: "Selection") -> dict[str, dict[str, int]]:
    """How often each status occurs, of every scorer: `ifd_status` beside `ifd`."""
    names = selection.table.column_names
    columns = [name for name in names if name.endswith("_status") and name.removesuffix("_status") in names]
    return {column: dict(Counter(map(str, selection.table[column][:])).most_common(10)) for column in columns}


def _lengths(selection: "Selection") -> dict[str, float] | None:
    lengths = response_lengths(selection)
    if lengths is None:
        return None
    mine = lengths[selection.rows]
    return {
        "mean_all": float(lengths.mean()),
        "median_all": float(np.median(lengths)),
        "mean_kept": float(mine.mean()) if len(mine) else float("nan"),
        "median_kept": float(np.median(mine)) if len(mine) else float("nan"),
    }


def _groups(selection: "Selection") -> dict[str, list[dict[str, Any]]]:
    """Rows and kept rows by every text column of a few values, the largest group first."""
    from datasets import Value

    groups = {}
    kept = kept_mask(selection)
    for column, feature in selection.table.features.items():
        if (
            not isinstance(feature, Value)
            or feature.dtype not in ("string", "large_string")
            or column.endswith("_status")
        ):
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
            baselines.append({"name": f"highest perplexity ({column})", "overlap": float(kept[highest].mean())})
    return baselines


def _cost(record: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry for each scorer that is finished."""
    return [
        {
            "name": name,
            "rows": scorer["rows"],
            "tokens": scorer.get("tokens"),
            "seconds": scorer["seconds"],
            "scorer": scorer["scorer"],
            **{
                key: scorer.get("made_with", {}).get(key) for key in ("model", "revision", "device", "dtype", "threads")
            },
        }
        for name, scorer in record["scorers"].items()
        if "seconds" in scorer
    ]
