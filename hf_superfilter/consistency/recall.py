"""Read rows in a predicted order until enough of the best are found."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

STEP = 0.05  # of all rows, read between two fits
LEAST_STEPS = 4  # whose yields say how fast they decline
DRAW_STEP, LEAST_DRAW = 0.01, 20  # rows drawn at random between two looks

Ask = Callable[[np.ndarray], np.ndarray]
Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Reading:
    """Hold which of n rows a strong scorer read, and what it may have missed.

    Attributes:
        goodness: (n,) what it said of the rows read, -inf where a row may not be kept, nan of all
            others.
        pool: (n,) bool, read because they were predicted to be good.
        drawn: rows drawn at random from all others, to measure what those hold.
        recall: estimated share of its best rows among those read.
        recall_low: the share that is reached with the asked confidence.
    """

    goodness: np.ndarray
    pool: np.ndarray
    drawn: int
    recall: float
    recall_low: float


def read_for_recall(
    ask: Ask,
    predict: Predict,
    rows: int,
    keep: int,
    *,
    recall: float,
    confidence: float,
    sample: np.ndarray,
    seed: int = 0,
) -> Reading:
    """Read rows until a share of the best `keep` is among them, with confidence.

    First the rows predicted best, 5% of all at a time, with a new prediction from all that was read
    before each. Once drawing promises to be cheaper than reading on, rows are drawn at random from
    those left until the bound on the hits among the unread (`most_missed`) is low enough. A row
    is a hit if it is better than the `keep`-th best row read; that row is at most as good as the
    `keep`-th best of all, so misses are counted too high rather than too low.

    The pool is settled before the draw and the bound holds at whatever count it stops, so the
    confidence needs no correction for looking often. In the terms of SUPG (arXiv 2004.00827) the
    sample has weight 1 in the pool and is uniform outside; the bound is exact where SUPG's is
    normal.

    Args:
        ask: row numbers -> (m,) how good the strong scorer says they are, -inf where it may not be
            kept; called once a row.
        predict: numbers of the rows read and of those not read -> (u,) how good the latter may be.
        rows: n.
        keep: rows to be kept, k.
        recall: the share of the k best to find, below 1.
        confidence: the chance that the rows read hold it, below 1.
        sample: rows drawn at random before, read first.
        seed: of the draw.
    """
    goodness = np.full(rows, np.nan)
    first = sample
    goodness[first] = ask(first)
    pool = np.zeros(rows, dtype=bool)
    pool[first] = True
    step, yields = max(1, round(STEP * rows)), []
    batches: list[np.ndarray] = []
    while not pool.all():
        unread = np.flatnonzero(~pool)
        predicted = predict(np.flatnonzero(pool), unread)
        order = np.argsort(-np.nan_to_num(predicted, nan=-np.inf), kind="stable")
        batches.append(unread[order[:step]])
        goodness[batches[-1]] = ask(batches[-1])
        pool[batches[-1]] = True
        border = _border(goodness, keep)
        yields = [int((goodness[batch] > border).sum()) for batch in batches]
        allowed = _allowed(goodness, keep, recall)
        if int((~pool).sum()) <= allowed or (
            len(batches) >= LEAST_STEPS
            and border > -np.inf
            and _should_draw(yields, step, int((~pool).sum()), allowed, confidence)
        ):
            break
    return _draw(ask, goodness, pool, keep, recall, confidence, seed)


def _draw(
    ask: Ask,
    goodness: np.ndarray,
    pool: np.ndarray,
    keep: int,
    recall: float,
    confidence: float,
    seed: int,
) -> Reading:
    """Draw from outside the pool until the bound is low enough, at the worst all."""
    # Another stream than the audit's: the pool depends on that one.
    outside = np.random.default_rng([seed, 1]).permutation(np.flatnonzero(~pool))
    expected = max(0.5, _allowed(goodness, keep, recall) / 2)  # settled before the draw
    drawn = hits = 0
    while True:
        most = most_missed(hits, drawn, len(outside), expected, confidence)
        if most <= _allowed(goodness, keep, recall):
            break
        count = max(LEAST_DRAW, math.ceil(DRAW_STEP * len(goodness)))
        batch = outside[drawn : drawn + count]
        goodness[batch] = ask(batch)
        drawn += len(batch)
        hits = int((goodness[outside[:drawn]] > _border(goodness, keep)).sum())
    best = min(keep, int((goodness > -np.inf).sum()))
    missed = hits / drawn * (len(outside) - drawn) if drawn else 0.0
    estimate, low = _share_found(best, keep, missed), _share_found(best, keep, most)
    return Reading(goodness, pool, drawn, estimate, low)


def most_missed(hits: int, drawn: int, rows: int, expected: float, confidence: float) -> int:
    """Bound the hits among rows not drawn, at any time of the drawing.

    K, the hits of all rows, is impossible where a bet against it would have won more than
    1 / (1 - confidence): `P(hits | K) <= (1 - confidence) P(hits)`, P(hits | K) hypergeometric and
    P(hits) its mean over a beta-binomial prior of K. By Ville's inequality the K that are left
    hold the truth at every count of rows drawn at once, with the confidence (Waudby-Smith and
    Ramdas, "Confidence sequences for sampling without replacement", arXiv 2006.04347, section 2).

    Args:
        hits: among the rows drawn.
        drawn: rows drawn at random, without replacement.
        rows: that they were drawn from.
        expected: hits of all rows, roughly; it changes the width, not the confidence.
        confidence: above 0, below 1.

    Returns:
        The most hits that may be among the rows not drawn.

    Example:
        >>> most_missed(0, 500, 1_000, expected=5, confidence=0.95)
        6
    """
    if drawn == 0 or drawn == rows:
        return rows - drawn
    b = max(1.0, rows / expected - 1)
    evidence = _log_beta(1 + hits, b + drawn - hits) - _log_beta(1, b)
    border = math.log(1 - confidence) + _log_ways(drawn, hits) + evidence

    def is_possible(missed: int) -> bool:
        ways = _log_ways(rows - drawn, missed) - _log_ways(rows, hits + missed)
        return _log_ways(drawn, hits) + ways > border

    likeliest = min(rows - drawn, max(0, (rows + 1) * hits // drawn - hits))
    if is_possible(rows - drawn):
        return rows - drawn
    return _first(lambda missed: not is_possible(missed), likeliest, rows - drawn) - 1


def _log_ways(rows: int, chosen: int) -> float:
    """Compute log C(rows, chosen)."""
    return -math.log(rows + 1) - _log_beta(rows - chosen + 1, chosen + 1)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _first(condition: Callable[[int], bool], low: int, high: int) -> int:
    """Find where a condition that holds at `high` begins to hold, from `low` on."""
    while low < high:
        middle = (low + high) // 2
        if condition(middle):
            high = middle
        else:
            low = middle + 1
    return high


def _border(goodness: np.ndarray, keep: int) -> float:
    """Return the `keep`-th best of the rows read, -inf where fewer may be kept."""
    read = goodness[~np.isnan(goodness)]
    if len(read) <= keep:
        return -math.inf
    return float(-np.partition(-read, keep - 1)[keep - 1])


def _allowed(goodness: np.ndarray, keep: int, recall: float) -> int:
    """Return how many hits may be missed."""
    best = int((goodness > -np.inf).sum())
    if best >= keep:
        return keep - math.ceil(round(recall * keep, 6))
    return math.floor(round(best * (1 - recall) / recall, 6))


def _share_found(best: int, keep: int, missed: float) -> float:
    """Return the share of the best rows that were read, nan of none."""
    if best >= keep:
        return max(0.0, 1 - missed / keep)
    return best / (best + missed) if best + missed else math.nan


def _should_draw(
    yields: Sequence[int], step: int, unread: int, allowed: int, confidence: float
) -> bool:
    """Compare drawing now with reading on first, if yields go on to decline as they did.

    A guess: it changes what is read, not how sure the recall is.
    """
    decline = math.sqrt((yields[-1] + yields[-2] + 1) / (yields[-3] + yields[-4] + 1))
    decline = min(0.95, max(0.3, decline))
    steps = math.ceil(unread / step)
    coming = np.mean(yields[-3:]) * decline ** np.arange(2, steps + 2)
    costs = []
    for ahead in range(steps):
        left = unread - ahead * step
        needed = _draws_needed(coming[ahead:].sum(), left, allowed, confidence)
        costs.append(ahead * step + needed)
    return costs[0] == min(costs)


def _draws_needed(missed: float, rows: int, allowed: int, confidence: float) -> int:
    """Guess how many rows have to be drawn until the bound is low enough."""
    expected = max(0.5, allowed / 2)

    def is_enough(drawn: int) -> bool:
        hits = min(drawn, math.ceil(missed / rows * drawn))
        return most_missed(hits, drawn, rows, expected, confidence) <= allowed

    return _first(is_enough, 1, rows)
