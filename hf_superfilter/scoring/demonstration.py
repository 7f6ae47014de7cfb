"""Measure how much a row, as a demonstration, helps on held-out rows (arXiv 2505.05327)."""

import logging
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..base import Batch, Columns, CountedColumns
from ..checks import check_seed, is_count, plain_numbers
from ..data.chats import Turns, flatten_turns
from ..data.pairs import format_pairs
from ..data.sources import load_rows, revision_of_rows
from ..embedded import portable_name
from ..errors import SuperfilterError
from ..models.text_tokenizer import text_tokenizer, token_ids
from ..models.tokenization import Window, limit_of, missing_front
from ._model import ModelSettings, default_name
from ._rows import as_counts, takes_rows

if TYPE_CHECKING:
    from datasets import Dataset

    from ..models.causal_lm import CausalLM

SEPARATOR = "\n\n"  # between the demonstration and a held-out row
HELD_OUT_SHARE = 0.5  # of the tokens of a window, at most, so that a demonstration has the rest
BLOCK_WINDOWS = 2_048  # made at once
COUNTED_ROWS = 200  # tokenised to foresee the cost
logger = logging.getLogger(__name__)

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, repr=False)
class Demonstration(ModelSettings):
    """Score how much a row lowers the loss of held-out rows.

    `demonstration(x) = 1/m sum_j [L(r_j | p_j) - L(r_j | x, p_j)]` over m held-out rows (p_j, r_j),
    L the mean negative log-likelihood per response token in nats and x the row's prompt and
    response, a blank line behind them. Above 0 the row helps. It is what one step of training on
    the row would do, seen through in-context learning, and needs no gradient: ICon (arXiv
    2505.05327, section 3) with one row in the context; the share of held-out rows that it helps is
    the golden score of Nuggets (arXiv 2312.10302, section 3). Keep the HIGHEST.

    Every row is run once in front of each held-out row: m + 1 passes. Where the model may share
    beginnings (`models.prefix_tree`), the row itself is computed once for all m. `score` logs the
    passes and tokens before the first of them, `cost(rows)` returns them. A row that is a held-out
    row itself helps most of all: a run counts those.

    Columns, float64, counts int64: `demonstration`; `demonstration_error`, the standard error of
    its mean over the held-out rows, nan for a single one; `demonstration_share`, the share of
    held-out rows whose loss falls; `demonstration_tokens`, those of the row;
    `demonstration_status`, `ok`, `truncated` (the row was cut to leave room for the held-out ones),
    or why the numbers are nan: `empty_response`, `too_short`, `prompt_too_long`, `not_finite`,
    `unreadable`. Of a chat, a row's or a held-out one, the last response and all before it count.

    The other arguments say which model is run and how, as in `ModelSettings`: `revision`,
    `columns`, `dtype`, `device`, `attn_implementation`, `max_length`, `batch_tokens`.

    Args:
        on: the held-out rows: a file, a folder or a Hub id as `load_rows` takes it, or rows in
            memory (a Dataset, a list of dicts), which are kept as pairs of prompt and response.
            Rows without `prompt` and `response` are formatted with `template="none"`; format and
            save them before where the rows to score have another template.
        sample: held-out rows that are drawn where there are more; time grows with it, the error
            falls with its square root.
        seed: of that draw.
        split: of `on`, where it has several and none is `train`.

    Raises (when it is called):
        SuperfilterError: `on` cannot be read, or none of its rows can be scored.

    Example:
        >>> from hf_superfilter import Demonstration
        >>> held_out = [{"prompt": "Name a colour.\\n", "response": "Blue is a colour."}]
        >>> scorer = Demonstration("embedded:weak", on=held_out)
        >>> row = {"prompt": ["Name a colour.\\n"], "response": ["Red is a colour."]}
        >>> bool(scorer(row)["demonstration"][0] > 0)
        True
    """

    on: Any = ""
    sample: int = 32
    seed: int = 0
    split: str | None = None
    name: str = default_name("demonstration")

    def __post_init__(self) -> None:
        """Check the settings too."""
        super().__post_init__()
        plain_numbers(self, "sample", "seed")
        if isinstance(self.on, Path):
            object.__setattr__(self, "on", str(self.on))
        if not is_count(self.sample):
            raise SuperfilterError(
                f"sample={self.sample!r}: give a number of held-out rows, at least 1"
            )
        check_seed(self.seed)
        if self.split is not None and not isinstance(self.split, str):
            raise SuperfilterError(f"split={self.split!r}: name a split, such as 'test'")
        held_out: Any = self.on
        if not isinstance(held_out, Sized) or not len(held_out):
            raise SuperfilterError(
                f"on={held_out!r:.60}: name the held-out rows, a file, a folder or a Hub id, or "
                "give rows in memory"
            )
        if isinstance(self.on, str):
            object.__setattr__(self, "on", portable_name(self.on))
        elif _are_pairs(held_out):
            object.__setattr__(self, "on", tuple((pair[0], pair[1]) for pair in self.on))
        else:
            pairs = _draw_pairs(load_rows(held_out), self.sample, self.seed)
            object.__setattr__(self, "on", pairs)

    def identity(self) -> dict[str, Any]:
        """Return the revisions of the model and of the held-out rows."""
        identity = super().identity()
        if isinstance(self.on, str):
            identity["on_revision"] = revision_of_rows(self.on)
        return identity

    def self_check(self, rows: "Dataset", rank: int | None = None) -> dict[str, Any]:
        """Foresee and log what scoring the rows will cost."""
        cost = self.cost(rows, rank)
        logger.warning(
            "%s: %d rows in front of %d held-out rows are %d passes over %d tokens",
            self.name,
            *(cost[key] for key in ("rows", "held_out", "passes", "tokens")),
        )
        return {**super().self_check(rows, rank), **cost}

    def cost(self, rows: "Dataset", rank: int | None = None) -> dict[str, int]:
        """Foresee what scoring rows will cost, from 200 of them.

        Returns:
            `rows`; `held_out`, m; `passes`, one for each row and held-out row; `tokens` of all
            passes: where the model shares beginnings a row's own count once, else m times.
        """
        lm = self.language_model(rank)
        held_out = self._held_out(lm)
        count = min(len(rows), COUNTED_ROWS)
        spread = [number * len(rows) // count for number in range(count)]
        columns = rows.select_columns(list(self.columns)).with_format(None)
        turns = flatten_turns(columns.select(spread)[:], self.columns)
        lengths = [len(window.ids) for window in self._demonstrations(lm, held_out, turns)]
        lengths = [length for length in lengths if length]
        m, tails = len(held_out.windows), sum(len(window.ids) for window in held_out.windows)
        times = 1 if "trees" in lm.fast_paths else m
        scale = len(rows) / max(count, 1)
        return {
            "rows": len(rows),
            "held_out": m,
            "passes": round(scale * len(lengths)) * m,
            "tokens": round(scale * sum(times * length + tails for length in lengths)),
        }

    @takes_rows
    def __call__(self, batch: Batch, rank: int | None = None) -> Columns:
        """Score a batch of n rows."""
        lm = self.language_model(rank)
        held_out = self._held_out(lm)
        turns = flatten_turns(batch, self.columns)
        rows = self._demonstrations(lm, held_out, turns)
        gains = np.full((len(rows), len(held_out.windows)), np.nan)
        runnable = [row for row, window in enumerate(rows) if window.scored]
        step = max(1, BLOCK_WINDOWS // len(held_out.windows))
        for start in range(0, len(runnable), step):
            block = runnable[start : start + step]
            windows = [window for row in block for window in held_out.behind(rows[row])]
            losses, _ = lm.losses(windows, self.batch_tokens)
            gains[block] = held_out.losses - losses.reshape(len(block), -1)
        means = gains.mean(axis=1)
        finite = np.isfinite(means)
        statuses = [window.status for window in rows]
        for row in runnable:
            if not finite[row]:
                statuses[row] = "not_finite"
        for row in turns.unreadable:
            statuses[row] = "unreadable"
        values: Columns = {
            self.name: np.where(finite, means, np.nan),
            f"{self.name}_error": np.where(finite, _standard_errors(gains), np.nan),
            f"{self.name}_share": np.where(finite, (gains > 0).mean(axis=1), np.nan),
            f"{self.name}_tokens": as_counts(
                np.array([len(window.ids) if window.scored else 0 for window in rows])
            ),
            f"{self.name}_status": statuses,
        }
        same = sum(held_out.holds(rows[row]) for row in runnable)
        return CountedColumns(values, {"rows that are among the held-out rows": same})

    def _demonstrations(self, lm: "CausalLM", held_out: "HeldOut", turns: Turns) -> list[Window]:
        """Make a window of each row's last turn, short enough for every held-out row."""
        prompts, responses = _last_turns(turns)
        pairs = lm.windows(prompts, responses, max_length=held_out.room)
        return [pair.given for pair in pairs]

    def _held_out(self, lm: "CausalLM") -> "HeldOut":
        revision = revision_of_rows(self.on) if isinstance(self.on, str) else None
        return _read_held_out(lm, self, revision)


class HeldOut(NamedTuple):
    """Hold the held-out rows for one model.

    Attributes:
        windows: (m,) windows, what the tokenizer puts in front of a text taken off.
        losses: (m,) float64, nats per response token without a demonstration.
        front: token ids that the tokenizer puts in front of a text.
        separator: token ids between a demonstration and a window.
        room: tokens that a demonstration may have.
    """

    windows: list[Window]
    losses: np.ndarray
    front: list[int]
    separator: list[int]
    room: int

    def holds(self, demonstration: Window) -> bool:
        """Tell whether a demonstration is one of the held-out rows, which helps itself."""
        bare = list(_without_front(demonstration, self.front).ids)
        return any(bare == list(window.ids) for window in self.windows)

    def behind(self, demonstration: Window) -> list[Window]:
        """Put the m windows behind a demonstration; the same tokens are scored."""
        ids = [*demonstration.ids, *self.separator]
        return [
            Window([*ids, *window.ids], len(ids) + window.start, "ok") for window in self.windows
        ]


@lru_cache(maxsize=4)
def _read_held_out(lm: "CausalLM", scorer: Demonstration, revision: str | None) -> HeldOut:
    """Read the held-out rows and their losses without a demonstration, once per process.

    `revision` is a part of the cache's key only: a file that changed is read again.
    """
    pairs: Pairs = scorer.on
    if isinstance(scorer.on, str):
        is_file = Path(scorer.on).expanduser().is_file()
        rows = load_rows(scorer.on, split=None if is_file else scorer.split)
        pairs = _draw_pairs(rows, scorer.sample, scorer.seed)
    limit = limit_of(scorer.max_length, lm.window, lm.name)
    longest = int(HELD_OUT_SHARE * limit)
    prompts, responses = zip(*pairs, strict=True)
    made = lm.windows(prompts, responses, max_length=longest)
    windows = [pair.given for pair in made if pair.given.scored]
    if not windows:
        raise SuperfilterError(
            f"on={scorer.on!r:.60}: none of its {len(pairs)} rows has a response to score "
            f"behind a prompt of less than {longest} tokens: give other rows, or a larger "
            "max_length"
        )
    losses, _ = lm.losses(windows)
    front = text_tokenizer(lm.name, lm.tokenizer).front
    behind = [_without_front(window, front) for window in windows]
    (separator,) = token_ids(lm.tokenizer, [SEPARATOR])
    room = limit - len(separator) - max(len(window.ids) for window in behind)
    return HeldOut(behind, losses, front, separator, room)


def _without_front(window: Window, front: Sequence[int]) -> Window:
    """Take off what the tokenizer puts in front of a text: the demonstration has it."""
    count = len(front)
    if not count or missing_front(front, window.ids):
        return window
    return window._replace(ids=window.ids[count:], start=window.start - count)


def _draw_pairs(rows: "Dataset", sample: int, seed: int) -> Pairs:
    """Draw held-out rows, and read their last prompts and responses."""
    if len(rows) > sample:
        draw = np.random.default_rng(seed).choice(len(rows), sample, replace=False)
        rows = rows.select(np.sort(draw))
    if not {"prompt", "response"} <= set(rows.column_names):
        rows = format_pairs(rows)
    turns = flatten_turns(rows.with_format(None)[:], ("prompt", "response"))
    return tuple(zip(*_last_turns(turns), strict=True))


def _last_turns(turns: Turns) -> tuple[list[str], list[str]]:
    """Return the last prompt and response of each row, "" for a row without turns."""
    prompts, responses = [""] * turns.count, [""] * turns.count
    for row, prompt, response in zip(
        turns.rows.tolist(), turns.prompts, turns.responses, strict=True
    ):
        prompts[row], responses[row] = prompt, response
    return prompts, responses


def _are_pairs(rows: Any) -> bool:
    """Tell whether rows are pairs of texts, as settings keep them and YAML lists them."""
    return (
        isinstance(rows, (list, tuple))
        and len(rows) > 0
        and all(isinstance(row, (list, tuple)) and len(row) == 2 for row in rows)
        and all(isinstance(text, str) for row in rows for text in row)
    )


def _standard_errors(gains: np.ndarray) -> np.ndarray:
    """Estimate the standard error of each row's mean, nan for a single held-out row.

    Args:
        gains: (n, m) nats.
    """
    count = gains.shape[1]
    if count < 2:
        return np.full(len(gains), np.nan)
    return np.asarray(gains.std(axis=1, ddof=1) / np.sqrt(count))
