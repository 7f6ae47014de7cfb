"""Choose the learning rate once, on random rows, for all arms."""

import math
import warnings
from collections.abc import Mapping, Sequence

from ..errors import SuperfilterError
from .arms import Pool
from .figures import PRIMARY, figures_of
from .plan import Question
from .rows import Windows
from .students import RATE, Bench, Run, read_runs

RATES = (3e-4, 1e-3, 3e-3)  # tried first; the grid goes on where the best is its end
RATE_STEP, MOST_RATES = 10**0.5, 7


def choose_rate(
    bench: Bench, pool: Pool, question: Question, tuning: Windows
) -> tuple[float, list[dict[str, float]]]:
    """Choose the learning rate on a random arm, by the loss of rows that no arm is measured on."""
    rows = pool.order("rate", 0)[: len(pool.selected)]
    steps = question.steps_of(pool.tokens[rows], bench.settings.batch_rows)
    losses: dict[float, float] = {}
    rates: Sequence[float] = RATES
    while rates:
        runs = [Run(RATE, f"{rate:.2g}", 0, rows, steps, rate) for rate in rates]
        files = bench.run(runs, [tuning])
        for run in runs:
            (measured,) = read_runs(files, run.arm, RATE, [tuning])
            loss = figures_of(measured)[PRIMARY]
            losses[run.learning_rate] = loss if math.isfinite(loss) else math.inf
        rates = _rates_beyond(losses)
    best = min(losses, key=lambda rate: losses[rate])
    if losses[best] == math.inf:
        raise SuperfilterError(
            "the student's losses are no numbers at any learning rate tried "
            f"({', '.join(f'{rate:.2g}' for rate in sorted(losses))}): take another student"
        )
    if best in (min(losses), max(losses)):
        warnings.warn(
            f"the best learning rate, {best:.2g}, is the end of those tried "
            f"({', '.join(f'{rate:.2g}' for rate in sorted(losses))}): name one with learning_rate",
            stacklevel=3,
        )
    finite = [rate for rate in sorted(losses) if losses[rate] < math.inf]
    tried = [{"learning_rate": rate, "loss": losses[rate]} for rate in finite]
    return best, tried


def _rates_beyond(losses: Mapping[float, float]) -> list[float]:
    """Return the next rate to try where the best is the end of the grid."""
    best = min(losses, key=lambda rate: losses[rate])
    if len(losses) >= MOST_RATES:
        return []
    if best == max(losses):
        return [float(f"{best * RATE_STEP:.1g}")]
    if best == min(losses):
        return [float(f"{best / RATE_STEP:.1g}")]
    return []
