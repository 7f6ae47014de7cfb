"""Estimate what scoring takes, from a few measured rows."""

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..base import PreparedScorer, scorer_name
from ..tables.media import read_batch
from .bar import in_words
from .chunks import text_bytes

if TYPE_CHECKING:
    from datasets import Dataset

FIRST_ROWS, NEXT_ROWS = 2, 16  # those that load the model, and the first that are measured
GROWTH = 4  # of the rows measured, until they took long enough
LEAST_SECONDS, MOST_SECONDS, SHARE = 4.0, 12.0, 0.03  # of measuring, the last of the estimate
SHORT = 30.0  # seconds of an estimate on few rows, below which a run needs no better one
SEED = 0


class Forecast(NamedTuple):
    """Say what a scorer is about to do.

    Attributes:
        name: the scorer's.
        rows: rows to score.
        seconds, tokens: estimates, None where they were not measured.
        made_with: model, dtype, device, threads.
        reason: why nothing was measured, "" where it was.
    """

    name: str
    rows: int
    seconds: float | None = None
    tokens: float | None = None
    made_with: Mapping[str, Any] = MappingProxyType({})
    reason: str = ""

    def __str__(self) -> str:
        tokens = f" (about {_round(self.tokens):,} tokens)" if self.tokens else ""
        parts = [f"{self.name}: {self.rows:,} rows{tokens}"]
        model = self.made_with.get("model")
        if model is not None:
            dtype, device = self.made_with.get("dtype"), self.made_with.get("device")
            parts.append(f"{model} in {dtype} on {device}" if dtype else str(model))
        threads = self.made_with.get("threads")
        if threads:
            parts.append("1 thread" if threads == 1 else f"{threads} threads")
        if self.seconds is None:
            parts.append(f"time not estimated: {self.reason}")
        else:
            parts.append(f"about {in_words(self.seconds)}")
        return ", ".join(parts)


def forecast(
    scorer: Any,
    table: "Dataset",
    *,
    left: np.ndarray | None = None,
    processes: int = 1,
    call: Callable[..., Any] | None = None,
    say: Callable[[str], None] = lambda what: None,
    is_prepared: bool = False,
    thorough: bool = False,
) -> Forecast:
    """Score a few rows drawn at random, and estimate by their bytes what all take.

    The first two rows load the model and are not counted. Then 16, and four times as many as long
    as they take less than 3% of the estimate (at least 4 seconds and at most 12).

    Args:
        scorer: with the members that `Settings` declares, prepared where it needs to be.
        table: the rows.
        left: (k,) the rows not scored yet; None is all.
        processes: how many score them.
        call: the scorer bound to a device.
        say: told what is waited for.
        is_prepared: whether it has looked at all rows, where it has to.
        thorough: measure on, even where 16 rows say that the run is short.
    """
    rows = np.arange(len(table)) if left is None else left
    name = scorer_name(scorer)
    reason = _reason(scorer, table, is_prepared)
    if reason:
        return Forecast(name, len(rows), reason=reason)
    call = call or scorer
    drawn = np.random.default_rng(SEED).permutation(rows)
    sizes = text_bytes(table)
    say("loading the model")
    _time(call, name, table, drawn[:FIRST_ROWS])
    say("measuring some rows")
    count = min(NEXT_ROWS, len(drawn))
    while True:
        measured = np.sort(drawn[:count])
        seconds, tokens = _time(call, name, table, measured)
        scale = float(sizes[rows].sum()) / max(1.0, float(sizes[measured].sum()))
        estimate = seconds * scale / processes
        limit = min(MOST_SECONDS, max(LEAST_SECONDS, SHARE * estimate))
        is_short = estimate < SHORT and not thorough
        if is_short or count * GROWTH > len(drawn) or seconds * GROWTH > limit:
            break
        count *= GROWTH
    facts = scorer.provenance()
    return Forecast(name, len(rows), estimate, None if tokens is None else tokens * scale, facts)


def _reason(scorer: Any, table: "Dataset", is_prepared: bool) -> str:
    """Say why a scorer cannot be measured; "" where it can."""
    if not scorer.is_repeatable:
        return "its rows go to a server, or it is a function of your own"
    if isinstance(scorer, PreparedScorer) and not is_prepared:
        return "it looks at all rows before it scores any"
    columns = scorer.columns_read(table.column_names)
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        return f"it reads {missing[0]}, which a scorer before it makes"
    return ""


def _time(
    call: Callable[..., Any], name: str, table: "Dataset", numbers: np.ndarray
) -> tuple[float, float | None]:
    """Score some rows; return the seconds, and the tokens where the scorer counts them."""
    batch = read_batch(table.select(numbers), 0, len(numbers))
    start = time.perf_counter()
    columns = call(batch)
    seconds = time.perf_counter() - start
    tokens = columns.get(f"{name}_tokens")
    if tokens is None:
        return seconds, None
    return seconds, float(np.nansum(np.asarray(tokens, dtype=np.float64)))


def _round(number: float) -> int:
    """Round to two digits."""
    digits = max(0, len(str(int(number))) - 2)
    return int(round(number, -digits))
