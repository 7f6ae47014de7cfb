"""Summarize a selection, once for report, card and plots."""

import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import UNREADABLE
from ..data.columns import holds_numbers, numbers_of
from ..data.texts import column_blocks, is_text, text_heads
from ..recipes.recipe import Recipe, recipe_of
from ..runs.manifest import fingerprint_digest, read_manifest
from ..runs.prepare import prepared_folder
from ..runs.store import Store

if TYPE_CHECKING:
    from ..selection.funnel import Selection

logger = logging.getLogger(__name__)
VALIDATION = "validation.json"  # what `validate` writes into a run folder
OF_ROWS = ("rows_that_differ", "differences")  # entries of it that a card does not repeat
COMPARED = {
    "arm",
    "against",
    "rows_of",
    "value",
    "low",
    "high",
    "beaten",
    "draws",
    "word",
    "smallest",
}
MAX_EXAMPLES = 10
MAX_GROUPS = 20  # a column with more values than this is not a grouping of the rows
MAX_STATUSES = 10
LETTERS = 200  # of each response, enough to tell its writing system


class Summary:
    """Compute each fact about a selection once, when needed.

    Nothing stands here that is not in the rows or in the run. A fact that is not known is None.
    Texts are read in blocks of rows: memory does not grow with them.
    """

    def __init__(self, selection: "Selection") -> None:
        self.selection = selection
        self.table = selection.table.with_format(None)  # all columns, as they are

    @cached_property
    def manifest(self) -> dict[str, Any] | None:
        """Read the manifest of the run behind the scores."""
        return None if self.selection.run is None else read_manifest(self.selection.run)

    @cached_property
    def recipe(self) -> Recipe | None:
        """Read the recipe that makes the selection again."""
        return recipe_of(self.selection)

    def facts(self) -> dict[str, Any]:
        """Return the facts that a report shows, by name.

        `rows`, `kept`, `share`; `steps`; `by` and `score` (quantiles over all finite values, and
        `cut`); `near_cut`, rows whose error does not tell them from the cut; `status`, how often
        each; `unreadable`, the rows that could not be read, with reasons; `length`, characters of
        the responses kept, dropped and all; `groups`, kept against all by each column that groups
        the rows; `baselines`, the share of the selection that a baseline of the same size keeps
        too; `cost`, one entry per scorer, whose seconds include training; `beyond`, how many values
        lie outside a column's usual range; `validation`, what students learned from the selection
        and from random rows.
        """
        manifest = self.manifest or {}
        return {
            "rows": len(self.table),
            "kept": len(self.selection),
            "share": self.selection.share,
            "steps": self.steps,
            "by": self.selection.ranked_by,
            "score": self.score,
            "near_cut": self.near_cut,
            "status": self.statuses,
            "unreadable": self.unreadable,
            "length": self.lengths,
            "groups": self.groups,
            "baselines": self.baselines,
            "cost": self.cost,
            "beyond": self.beyond,
            "validation": self.validation,
            "created": manifest.get("created"),
            "packages": manifest.get("packages"),
        }

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        """Count rows in, out and dropped of each step."""
        return [
            {
                "selector": step.selector,
                "rows_in": step.rows_in,
                "rows_out": step.rows_out,
                "dropped": step.rows_in - step.rows_out,
                "share": step.rows_out / len(self.table),
                "facts": step.facts,
            }
            for step in self.selection.steps
        ]

    @cached_property
    def score(self) -> dict[str, float | None] | None:
        """Compute quantiles of the ranked values, and the cut."""
        values = self.selection.scores
        finite = values[np.isfinite(values)]
        if not len(finite):
            return None
        with np.errstate(over="ignore", invalid="ignore"):  # ±1e308 have no middle
            low, q25, median, q75, high = np.percentile(finite, [0, 25, 50, 75, 100]).tolist()
        quantiles = {"min": low, "q25": q25, "median": median, "q75": q75, "max": high}
        return {**quantiles, "cut": self.selection.cut}

    @cached_property
    def near_cut(self) -> dict[str, int] | None:
        """Count rows that the error of their score does not tell from the cut.

        `kept` and `dropped` count those of the last step whose logarithm differs from that of the
        cut by less than their error, `ifd_error` beside `ifd`. None without errors or a cut.
        """
        selection = self.selection
        column = f"{selection.ranked_by}_error"
        if selection.cut is None or not holds_numbers(self.table, column):
            return None
        errors = numbers_of(self.table, column)
        with np.errstate(invalid="ignore", divide="ignore"):
            is_near = np.abs(np.log(selection.scores) - np.log(selection.cut)) < errors
        dropped = selection.dropped_by == len(selection.steps) - 1
        counts = {"kept": selection.kept & is_near, "dropped": dropped & is_near}
        return {name: int(np.count_nonzero(mask)) for name, mask in counts.items()}

    @cached_property
    def statuses(self) -> dict[str, dict[str, int]]:
        """Count each scorer's statuses: `ifd_status` beside `ifd`."""
        counts = {}
        for column in self.table.column_names:
            scorer = column.removesuffix("_status")
            if scorer != column and scorer in self.table.column_names:
                cells = Counter(map(str, self._cells(column)))
                counts[column] = dict(cells.most_common(MAX_STATUSES))
        return counts

    @cached_property
    def unreadable(self) -> list[dict[str, Any]]:
        """List the rows that could not be read, each with its number and the reason.

        They stand in the table where reading and formatting found them, else in the run.
        """
        reasons: dict[int, str] = {}
        for scorer in (self.manifest or {}).get("scorers", {}).values():
            for entry in scorer.get("unreadable", []):
                reasons[entry["row"]] = entry["reason"]
        if UNREADABLE in self.table.column_names:
            cells = enumerate(self._cells(UNREADABLE))
            reasons |= {row: reason for row, reason in cells if reason is not None}
        return [{"row": row, "reason": reasons[row]} for row in sorted(reasons)]

    @cached_property
    def lengths(self) -> dict[str, float | None] | None:
        """Average the characters of responses; None of no rows."""
        lengths = self.selection.response_lengths
        if lengths is None:
            return None
        kept = self.selection.kept
        facts: dict[str, float | None] = {}
        for name, part in (("kept", lengths[kept]), ("dropped", lengths[~kept]), ("all", lengths)):
            facts[f"mean_{name}"] = float(part.mean()) if len(part) else None
            facts[f"median_{name}"] = float(np.median(part)) if len(part) else None
        return facts

    @cached_property
    def groups(self) -> dict[str, list[dict[str, Any]]]:
        """Count rows and kept rows by columns of few values."""
        groups = {}
        for column, feature in self.table.features.items():
            if is_text(feature) and not column.endswith("_status"):
                entries = self._group_sizes(column)
                if entries:
                    groups[column] = entries
        return groups

    def _group_sizes(self, column: str) -> list[dict[str, Any]]:
        """Count rows and kept rows by a column's values."""
        rows, kept, start = Counter[Any](), Counter[Any](), 0
        for cells in column_blocks(self.table, column):
            # Told by Arrow, so that long texts are not decoded to learn that they differ.
            if len(cells.unique()) > MAX_GROUPS:
                return []
            values = cells.to_pylist()
            rows.update(values)
            kept.update(compress(values, self.selection.kept[start:]))
            start += len(values)
            if len(rows) > MAX_GROUPS:
                return []
        if len(rows) < 2:
            return []
        return [
            {
                "value": "—" if value in (None, "") else value,
                "rows": count,
                "kept": kept[value],
                "share": kept[value] / count,
            }
            for value, count in rows.most_common()
        ]

    @cached_property
    def baselines(self) -> list[dict[str, Any]]:
        """Measure the overlap with baselines of the same size.

        Chance is the selection's share of all rows.
        """
        k, kept, by = len(self.selection), self.selection.kept, self.selection.ranked_by
        if not k:
            return []
        drawn = np.random.default_rng(0).permutation(len(kept))[:k]
        baselines = [{"name": "random rows (seed 0)", "overlap": float(kept[drawn].mean())}]
        lengths = self.selection.response_lengths
        if lengths is not None:
            longest = np.argsort(-lengths, kind="stable")[:k]
            baselines.append({"name": "longest responses", "overlap": float(kept[longest].mean())})
        for column in (f"{by}_ppl_alone", "ppl"):
            if column in self.table.column_names and column != by:
                values = np.nan_to_num(numbers_of(self.table, column), nan=-np.inf)
                highest = np.argsort(-values, kind="stable")[:k]
                name = f"highest perplexity ({column})"
                baselines.append({"name": name, "overlap": float(kept[highest].mean())})
        return baselines

    @cached_property
    def cost(self) -> list[dict[str, Any]] | None:
        """List rows, tokens, seconds and device of finished scorers."""
        if self.manifest is None:
            return None
        scorers = self.manifest["scorers"].items()
        return [_cost_of(name, scorer) for name, scorer in scorers if "seconds" in scorer]

    @cached_property
    def beyond(self) -> dict[str, dict[str, int]]:
        """Count the scores outside their usual range."""
        scorers = self.manifest["scorers"].values() if self.manifest else []
        return {scorer["main"]: scorer["beyond"] for scorer in scorers if "beyond" in scorer}

    @cached_property
    def validation(self) -> dict[str, Any] | None:
        """Return what `validate` measured of this very selection, without single rows."""
        facts = self._validation
        if facts is None:
            return None
        return {name: value for name, value in facts.items() if name not in OF_ROWS}

    @cached_property
    def learned_differences(self) -> np.ndarray | None:
        """Return (n,) what students of the selection lose on a row held out, less random ones.

        Nats per token, nan for other rows; None where nothing is recorded for this table.
        """
        differences = (self._validation or {}).get("differences")
        if not differences or max(differences["rows"]) >= len(self.table):
            return None
        values = np.full(len(self.table), np.nan)
        values[differences["rows"]] = differences["values"]
        return values

    @cached_property
    def _validation(self) -> dict[str, Any] | None:
        run = self.selection.run
        if run is None or not Store(run).has(VALIDATION):
            return None
        try:
            facts: dict[str, Any] = json.loads(Store(run).read(VALIDATION))
            selectors = facts["selectors"]
            _check_validation(facts)
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s/%s is damaged (%s): validate again", run, VALIDATION, error)
            return None
        if selectors != [step.selector for step in self.selection.steps]:
            logger.warning("%s/%s is of another selection: validate again", run, VALIDATION)
            return None
        return facts

    @cached_property
    def losses(self) -> dict[str, list[dict[str, Any]]]:
        """Read the run's training logs."""
        if self.manifest is None or self.selection.run is None:
            return {}
        return training_losses(Store(self.selection.run), self.manifest)

    @cached_property
    def tokens(self) -> list[dict[str, Any]]:
        """Sum and average response tokens by every `*_tokens` column."""
        facts = []
        for column in self.table.column_names:
            if not column.endswith("_tokens") or not holds_numbers(self.table, column):
                continue
            counts = numbers_of(self.table, column)
            defined = np.isfinite(counts)
            kept, total = counts[defined & self.selection.kept], counts[defined]
            if len(total):
                facts.append(
                    {
                        "column": column,
                        "kept": int(kept.sum()),
                        "all": int(total.sum()),
                        "mean_kept": float(kept.mean()) if len(kept) else None,
                        "mean_all": float(total.mean()),
                    }
                )
        return facts

    @cached_property
    def scripts(self) -> list[dict[str, Any]]:
        """Count rows and kept rows by the response's writing system.

        It is the one that most of the first letters belong to; its name is the first word of the
        letters' Unicode names.
        """
        if "response" not in self.table.column_names:
            return []
        rows, kept = Counter[str](), Counter[str]()
        heads = text_heads(self.table, "response", 4 * LETTERS)
        for head, is_kept in zip(heads, self.selection.kept.tolist(), strict=True):
            script = _script_of(head)
            rows[script] += 1
            kept[script] += is_kept
        return [
            {"script": script, "rows": count, "kept": kept[script]}
            for script, count in rows.most_common()
        ]

    @cached_property
    def examples(self) -> dict[str, np.ndarray]:
        """Pick rows worth reading, `MAX_EXAMPLES` of a kind, by title.

        Which rows are good and bad is said only where a step ranks: "Best kept" are then the first
        rows of the selection (of all kept rows in the order of the ranking, where another step
        came after it) and "Worst" the rows at the other end that were dropped; "Just under the
        line" needs the last step to rank. Without a ranking there is "Kept", in the order of the
        selection. "Dropped by", best first or in the order of the table, and "Undefined" follow.
        """
        kinds = {**self._kept_examples(), **self._dropped_examples()}
        if self.selection.ranked_by is not None:
            kinds["Undefined"] = np.flatnonzero(np.isnan(self.selection.scores))
        return {title: rows[:MAX_EXAMPLES] for title, rows in kinds.items() if len(rows)}

    @cached_property
    def _order(self) -> np.ndarray:
        """Order the defined rows, best first if a step ranks."""
        selection, scores = self.selection, self.selection.scores
        if selection.ranked_by is None:
            return np.arange(len(scores))
        order = np.arange(len(scores))
        if selection.ranking is not None:
            order = np.argsort(-scores if selection.ranking.largest else scores, kind="stable")
        defined: np.ndarray = order[~np.isnan(scores[order])]
        return defined

    def _kept_examples(self) -> dict[str, np.ndarray]:
        """List kept rows and, with a ranking, dropped ones."""
        selection, order = self.selection, self._order
        if selection.ranking is None:
            return {"Kept": selection.rows}
        worst = order[~selection.kept[order]][::-1]
        if selection.cut is None:
            return {"Best kept": order[selection.kept[order]], "Worst": worst}
        last = len(selection.steps) - 1
        under = order[selection.dropped_by[order] == last]
        return {"Best kept": selection.rows, "Just under the line": under, "Worst": worst}

    def _dropped_examples(self) -> dict[str, np.ndarray]:
        """List the rows that each step dropped."""
        steps = self.selection.steps
        if self.selection.cut is not None:
            steps = steps[:-1]
        dropped_by = self.selection.dropped_by[self._order]
        return {
            f"Dropped by {step.selector}, step {number + 1}": self._order[dropped_by == number]
            for number, step in enumerate(steps)
        }

    def _cells(self, column: str) -> Iterator[Any]:
        for cells in column_blocks(self.table, column):
            yield from cells.to_pylist()


def training_losses(store: Store, manifest: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Read the training logs of a run's scorers.

    Returns:
        Scorer -> one entry per step, with `step`, `epoch` and `loss`.
    """
    losses = {}
    for name, scorer in manifest["scorers"].items():
        file = f"{prepared_folder(name, fingerprint_digest(scorer))}/loss.jsonl"
        if store.has(file):
            losses[name] = [json.loads(line) for line in store.read(file).decode().splitlines()]
    return losses


def _cost_of(name: str, scorer: dict[str, Any]) -> dict[str, Any]:
    """Describe what one finished scorer took."""
    made_with = scorer.get("made_with", {})
    training = made_with.get("training_seconds")
    if not isinstance(training, float):  # it is not trained, or was trained twice
        training = None
    facts = {key: made_with.get(key) for key in ("model", "revision", "device", "dtype", "threads")}
    return {
        "name": name,
        "rows": scorer["rows"],
        "tokens": scorer.get("tokens"),
        "seconds": scorer["seconds"] + (training or 0.0),
        "training_seconds": training,
        "scorer": scorer["scorer"],
        **facts,
    }


def _script_of(head: str) -> str:
    """Name the writing system of most letters."""
    if head.isascii():
        return "Latin" if any(map(str.isalpha, head)) else "no letters"
    letters = [letter for letter in head if letter.isalpha()][:LETTERS]
    if not letters:
        return "no letters"
    return Counter(map(_script_of_letter, letters)).most_common(1)[0][0]


@lru_cache(maxsize=4_096)
def _script_of_letter(letter: str) -> str:
    word = unicodedata.name(letter, "unknown").split()[0]
    return {"CJK": "Han"}.get(word, word.capitalize())


def _check_validation(facts: Mapping[str, Any]) -> None:
    """Raise KeyError or TypeError where a page would miss something, as in a file cut short."""
    named: list[tuple[Mapping[str, Any], set[str]]] = [
        (facts, {"notes"}),
        (facts["student"], {"model", "revision", "learning_rate"}),
    ]
    for question in facts["questions"]:
        named += [
            (question, {"name", "amount", "words"}),
            (question["verdict"], {"word", "text", "notes"}),
        ]
        named += [(one, COMPARED) for one in question["comparisons"]]
    for part, names in named:
        missing = sorted(names - set(part))
        if missing:
            raise KeyError(missing[0])
