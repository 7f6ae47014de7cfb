"""Say which rows each arm trains on.

    selected          the selection
    random            random rows, as many
    random-tokens     random rows, as many response tokens
    random-lengths    random rows, as many, with the same distribution of response lengths
    longest           the longest responses, as many
    ppl-high, -low    the highest and lowest perplexity, as many
    highest:COLUMN    the rows with the largest values of a column, as many; lowest:COLUMN
    where:COLUMN      the rows where a column is true
    full              all rows
    untrained         none

The random arms are drawn anew for every run; the others differ in the order of their rows alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.columns import holds_numbers, numbers_of
from ..errors import SuperfilterError, WrongTypeError, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

SELECTED, UNTRAINED = "selected", "untrained"
RANDOM_ARMS = ("random", "random-tokens", "random-lengths")
DEFAULT_ARMS = (SELECTED, *RANDOM_ARMS, "longest", "full", UNTRAINED)
NAMES = (*DEFAULT_ARMS, "ppl-high", "ppl-low")
BY_COLUMN = ("highest", "lowest", "where")
LENGTH_BINS = 20  # of the selection's response lengths
ROWS_PER_BIN = 5  # of the selection at least, so that a draw is not the selection itself
WORDS = {
    SELECTED: "the selection",
    "random": "random rows, as many",
    "random-tokens": "random rows, as many response tokens",
    "random-lengths": "random rows, as many, of the same lengths",
    "longest": "longest responses",
    "full": "all rows",
    UNTRAINED: "the untrained student",
    "ppl-high": "highest perplexity",
    "ppl-low": "lowest perplexity",
}


@dataclass(frozen=True, eq=False)
class Arm:
    """Hold the rows that the runs of an arm train on.

    Attributes:
        name: as the tables show it.
        draws: one array of row numbers per run.
    """

    name: str
    draws: tuple[np.ndarray, ...]

    @property
    def is_random(self) -> bool:
        """Whether every run has rows of its own."""
        return self.name in RANDOM_ARMS

    @property
    def is_untrained(self) -> bool:
        """Whether it trains on nothing."""
        return self.name == UNTRAINED


@dataclass(frozen=True, eq=False)
class Pool:
    """Hold what arms are drawn from.

    Attributes:
        table: scored rows, those held out among them.
        rows: (p,) row numbers that may be trained on.
        tokens: (n,) response tokens of all rows of the table, as the student reads them.
        selected: (k,) row numbers of the selection.
        seed: of all draws.
    """

    table: "Dataset"
    rows: np.ndarray
    tokens: np.ndarray
    selected: np.ndarray
    seed: int = 0

    @property
    def trainable(self) -> np.ndarray:
        """Rows of the pool with a response token to train on."""
        trainable: np.ndarray = self.rows[self.tokens[self.rows] > 0]
        return trainable

    def order(self, name: str, draw: int) -> np.ndarray:
        """Shuffle the trainable rows for one draw of one arm."""
        key = [self.seed, 2, _number_of(name), draw]
        return np.random.default_rng(key).permutation(self.trainable)


def _number_of(name: str) -> int:
    return int.from_bytes(name.encode()[:12], "big")


def make_arms(
    names: Sequence[str],
    pool: Pool,
    *,
    seeds: int,
    draws: int,
    others: Mapping[str, np.ndarray] | None = None,
) -> list[Arm]:
    """Choose the rows of every arm.

    Args:
        names: as the module lists them, without repetition.
        pool: what they are drawn from.
        seeds: runs of an arm whose rows are fixed.
        draws: runs of a random arm.
        others: more arms by name, each with its row numbers.

    Raises:
        SuperfilterError: an unknown name, a column that is missing, or an arm without rows.
    """
    arms = []
    for name in dict.fromkeys(names):
        if name in RANDOM_ARMS:
            drawn = [_DRAWS[name](pool, draw) for draw in range(1, draws + 1)]
        elif name == UNTRAINED:
            drawn = [np.zeros(0, dtype=np.int64)]
        else:
            drawn = [_fixed_rows(name, pool)] * seeds
        arms.append(Arm(name, tuple(drawn)))
    for name, rows in (others or {}).items():
        _check_other(name, names)
        arms.append(Arm(name, (np.asarray(rows, dtype=np.int64),) * seeds))
    for arm in arms:
        if not arm.is_untrained and not all(map(len, arm.draws)):
            remedy = "leave it out, or select more rows"
            if arm.name == SELECTED:
                remedy = "select rows with a response, or raise max_length if prompts fill it"
            raise SuperfilterError(f"the arm {arm.name!r} has no row to train on: {remedy}")
    return arms


def _check_other(name: str, names: Sequence[str]) -> None:
    """Refuse a name that another arm has, or that says how an arm is drawn or trained."""
    if name in names:
        raise SuperfilterError(f"two arms are called {name!r}: name the other one differently")
    if name in (*RANDOM_ARMS, UNTRAINED):
        raise SuperfilterError(f"others: {name!r} is {words_of(name)}: take another name")


def check_other_name(name: Any) -> None:
    """Refuse what cannot be the name of an arm of the user's own.

    Raises:
        SuperfilterError: no text, or the name of an arm that this module draws.
    """
    if not isinstance(name, str) or not name.strip():
        raise SuperfilterError(f"others: {name!r} is no name of an arm: give a text")
    if name != SELECTED and is_baseline(name):
        raise SuperfilterError(
            f"others: {name!r} is an arm of its own, {words_of(name)}: list it in arms, or take "
            "another name"
        )


def check_arms(names: Sequence[str] | str) -> tuple[str, ...]:
    """Return the names of arms, listed or separated by commas, and refuse unknown ones.

    Raises:
        SuperfilterError: an unknown name, or no random arm to compare with.
    """
    parts = names.split(",") if isinstance(names, str) else names
    if not isinstance(parts, Sequence) or not all(isinstance(name, str) for name in parts):
        raise WrongTypeError(f"arms={names!r}: list names, such as {SELECTED},{RANDOM_ARMS[0]}")
    listed = [name.strip() for name in parts if name.strip()]
    for name in listed:
        kind, colon, column = name.partition(":")
        if name not in NAMES and not (colon and column and kind in BY_COLUMN):
            known = [*NAMES, *(f"{kind}:COLUMN" for kind in BY_COLUMN)]
            raise SuperfilterError(f"no arm {name!r}: {did_you_mean(name, known)}")
    if SELECTED not in listed or not set(listed) & set(RANDOM_ARMS):
        raise SuperfilterError(
            f"arms={','.join(listed)!r}: name the selection and a random arm to compare it with, "
            f"such as {SELECTED},{RANDOM_ARMS[0]}"
        )
    return tuple(dict.fromkeys(listed))


def is_baseline(name: str) -> bool:
    """Tell whether an arm is no selection of the user's."""
    return name != SELECTED and (name in NAMES or name.partition(":")[0] in BY_COLUMN)


def draws_as_many(name: str) -> bool:
    """Tell whether an arm takes as many rows as are selected, by a column."""
    return name.startswith(("ppl-", "highest:", "lowest:"))


def words_of(name: str) -> str:
    """Describe an arm in words."""
    return WORDS.get(name, name)


def _fixed_rows(name: str, pool: Pool) -> np.ndarray:
    if name == SELECTED:
        return pool.selected
    if name == "full":
        return pool.trainable
    if name == "longest":
        return _extreme(pool, pool.tokens.astype(float), largest=True)
    if name in ("ppl-high", "ppl-low"):
        column = perplexity_columns(pool.table)[0]
        return _extreme(pool, numbers_of(pool.table, column), largest=name == "ppl-high")
    kind, _, column = name.partition(":")
    values = numbers_of(pool.table, column)
    if kind == "where":
        return _marked(name, pool, values)
    return _extreme(pool, values, largest=kind == "highest")


def _marked(name: str, pool: Pool, values: np.ndarray) -> np.ndarray:
    """Return the rows whose value is true.

    Raises:
        SuperfilterError: a value that is neither true nor false.
    """
    marks = values[pool.trainable]
    others = marks[~np.isnan(marks) & (marks != 0) & (marks != 1)]
    if len(others):
        column = name.partition(":")[2]
        raise SuperfilterError(
            f"{name}: the column holds {others[0]:g}, and marks rows by true or 1 and all others "
            f"by false or 0: give such a column, or highest:{column}"
        )
    marked: np.ndarray = pool.trainable[marks == 1]
    return marked


def perplexity_columns(table: "Dataset") -> list[str]:
    """List the columns of the response's perplexity given its prompt; arms take the first.

    Raises:
        SuperfilterError: there is none.
    """
    names = ["ppl", *(name for name in table.column_names if name.endswith("_ppl"))]
    columns = [name for name in names if holds_numbers(table, name)]
    if not columns:
        raise SuperfilterError(
            "the arms of perplexity need a column 'ppl' or one whose name ends in '_ppl': score "
            "with Perplexity or IFD, or leave them out"
        )
    return columns


def _extreme(pool: Pool, values: np.ndarray, *, largest: bool) -> np.ndarray:
    """Return as many rows as are selected, with the largest or smallest values."""
    rows = pool.trainable[np.isfinite(values[pool.trainable])]
    keys = -values[rows] if largest else values[rows]
    extreme: np.ndarray = rows[np.argsort(keys, kind="stable")][: len(pool.selected)]
    return extreme


def _random_rows(pool: Pool, draw: int) -> np.ndarray:
    return pool.order("random", draw)[: len(pool.selected)]


def _random_tokens(pool: Pool, draw: int) -> np.ndarray:
    """Draw rows until their tokens come nearest to those of the selection."""
    order = pool.order("random-tokens", draw)
    used = np.cumsum(pool.tokens[order])
    wanted = int(pool.tokens[pool.selected].sum())
    return order[: 1 + int(np.argmin(np.abs(used - wanted)))]


def _random_lengths(pool: Pool, draw: int) -> np.ndarray:
    """Draw from every bin of response lengths as many rows as are selected from it."""
    order = pool.order("random-lengths", draw)
    bins = _length_bins(pool)
    bin_of = np.digitize(pool.tokens[order], bins[1:-1])
    inside = (pool.tokens[order] >= bins[0]) & (pool.tokens[order] <= bins[-1])
    wanted = np.bincount(np.digitize(pool.tokens[pool.selected], bins[1:-1]))
    parts = []
    for number, count in enumerate(wanted.tolist()):
        parts.append(order[inside & (bin_of == number)][:count])
    return np.concatenate(parts)


def _length_bins(pool: Pool) -> np.ndarray:
    """Return the borders between bins of the selection's lengths, least and greatest included."""
    lengths = pool.tokens[pool.selected]
    count = max(1, min(LENGTH_BINS, len(lengths) // ROWS_PER_BIN))
    return np.unique(np.quantile(lengths, np.linspace(0, 1, count + 1)))


_DRAWS: dict[str, Callable[[Pool, int], np.ndarray]] = {
    "random": _random_rows,
    "random-tokens": _random_tokens,
    "random-lengths": _random_lengths,
}
