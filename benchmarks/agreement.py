"""Whether the intervals of `rank_consistency` hold the truth, what it says of published scores, and
its time.

`python -m benchmarks.agreement` prints all three; `--coverage`, `--published` or `--time` one of
them. Coverage takes a quarter of an hour with 2,000 simulations. The published scores lie in
../shared/data, beside the project.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable

import numpy as np

from benchmarks.rows import SHARED
from hf_superfilter.metrics.rank_consistency.agreement import rank_consistency

DESIGNS = (  # rows, correlation of the logarithms, levels of a score (0: no ties)
    (1_000, 0.8, 0),
    (300, 0.8, 0),
    (300, 0.3, 0),
    (300, 0.95, 0),
    (100, 0.8, 0),
    (30, 0.8, 0),
    (300, 0.8, 5),
)
OLD = ("opt-350m", "opt-1.3b", "opt-2.7b", "opt-6.7b", "opt-13b", "llama2-7b")
SHOWN = (
    "spearman",
    "kendall",
    "pearson_log",
    "overlap@0.05",
    "overlap@0.10",
    "overlap@0.15",
    "survival@0.30",
    "rbo",
)


def lognormal_pair(
    rng: np.random.Generator, rows: int, r: float, levels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Two lognormal scores whose logarithms have the correlation r; or 1, 2 ... levels, as a judge
    gives.
    """
    a = rng.standard_normal(rows)
    b = r * a + math.sqrt(1 - r * r) * rng.standard_normal(rows)
    if levels:
        a, b = (np.clip(np.round(x + (levels + 1) / 2), 1, levels) for x in (a, b))
        return a, b
    return np.exp(a), np.exp(b)


def truth(r: float, levels: int, rows: int = 2_000_000) -> dict[str, float]:
    """The figures of endless data: in closed form where there is one, else of two million rows."""
    found = rank_consistency(
        *lognormal_pair(np.random.default_rng(1), rows, r, levels), resamples=0
    )
    if not levels:
        found |= {
            "spearman": 6 / math.pi * math.asin(r / 2),
            "kendall": 2 / math.pi * math.asin(r),
            "pearson_log": r,
        }
    return found


def coverage(simulations: int, confidence: float = 0.95) -> None:
    """Per figure, the share of simulations whose interval holds the truth, and how wide it is on
    average.
    """
    for rows, r, levels in DESIGNS:
        true, rng = truth(r, levels), np.random.default_rng(rows)
        held: dict[str, list[tuple[bool, bool, float, float]]] = {}
        for number in range(simulations):
            pair = lognormal_pair(rng, rows, r, levels)
            found = rank_consistency(*pair, confidence=confidence, seed=number)
            for low in (key for key in found if key.endswith("_low")):
                figure = low.removesuffix("_low")
                if levels and figure not in ("spearman", "kendall", "pearson_log"):
                    # Which rows of a tie are selected is their order, no property of the models.
                    continue
                ends = found[low], found[f"{figure}_high"]
                held.setdefault(figure, []).append(
                    (true[figure] < ends[0], true[figure] > ends[1], *ends)
                )
        print(
            f"\n{rows:,} rows, correlation {r}{f', {levels} levels' if levels else ''}; "
            f"{simulations:,} simulations\n"
        )
        print("| figure | truth | 95% intervals that hold it | too high | too low | mean width |")
        print("|---|---:|---:|---:|---:|---:|")
        for figure, outcomes in held.items():
            above, below, low, high = np.asarray(outcomes, dtype=float).T
            cells = [
                f"{true[figure]:.3f}",
                *(
                    f"{x:.1%}"
                    for x in (1 - above.mean() - below.mean(), above.mean(), below.mean())
                ),
            ]
            print(f"| {figure} | {' | '.join(cells)} | {np.mean(high - low):.3f} |", flush=True)


def table(
    title: str, pairs: dict[str, tuple[np.ndarray, np.ndarray]], **settings: bool | float
) -> None:
    """Figures with their intervals, a pair of models a line."""
    print(
        f"\n{title}\n\n| models | pairs | {' | '.join(SHOWN)} |\n|---|---:{'|---:' * len(SHOWN)}|"
    )
    for name, (weak, strong) in pairs.items():
        found = rank_consistency(weak, strong, **settings)  # type: ignore[arg-type]
        cells = [
            "—"
            if math.isnan(found[key])
            else f"{found[key]:.3f} ({found[key + '_low']:.3f}–{found[key + '_high']:.3f})"
            for key in SHOWN
        ]
        print(f"| {name} | {found['pairs']:,} | {' | '.join(cells)} |", flush=True)


def learning_percentage(at: Callable[[str], np.ndarray], undefined: float) -> np.ndarray:
    """LP(1) = (P0 - P1) / (P0 - P3), where P0 is not P3."""
    first, last = at("pre") - at("ep1"), at("pre") - at("ep3")
    return np.divide(first, last, out=np.full(len(first), undefined), where=last != 0)


def published() -> None:
    if not SHARED.is_dir():
        print("skipped: the published scores of ../shared/data are not here")
        return
    ppl = np.load(SHARED / "scores/dolly_ppl.npz")
    at = {
        model: lambda epoch, model=model: ppl[f"{model}/{epoch}"].astype(float)
        for model in (*OLD, "llama2-13b")
    }
    strong = at["llama2-13b"]("pre")
    table(
        "Perplexity before training on Dolly, against LLaMA-2-13B (rows that were not scored stand "
        "as 1.0)",
        {model: (at[model]("pre"), strong) for model in OLD},
    )
    scored = np.where(strong == 1, np.nan, strong)
    table(
        "The same without the rows that were not scored",
        {model: (at[model]("pre"), scored) for model in OLD},
    )
    for undefined, title in (
        (0.0, "as published, 0 where undefined"),
        (math.nan, "nan where undefined"),
    ):
        lp = {model: learning_percentage(at[model], undefined) for model in at}
        table(
            f"LP(1), the lowest selected, against LLaMA-2-13B ({title})",
            {model: (lp[model], lp["llama2-13b"]) for model in OLD},
            largest=False,
        )
    six = np.load(SHARED / "scores/ifd_six_models.npz")
    models = list(dict.fromkeys(key.split("/")[0] for key in six.files))
    ifd = {
        name: six[f"{name}/ppl_A_condition"].astype(float) / six[f"{name}/ppl_A_direct"]
        for name in models
    }
    pairs = {f"{a}, {b}": (ifd[a], ifd[b]) for a, b in itertools.combinations(models, 2)}
    table("IFD of six 7-8B models, below 1 selected", pairs, below=1.0)


def speed(resamples: int = 1_000) -> None:
    for rows, below in ((52_002, None), (52_002, 1.0), (1_000_000, None)):
        weak, strong = lognormal_pair(np.random.default_rng(0), rows, 0.8, 0)
        start = time.process_time()
        rank_consistency(weak, strong, below=below, resamples=resamples)
        print(
            f"{rows:,} pairs, {resamples:,} resamples, below={below}: "
            f"{time.process_time() - start:.1f} s of CPU"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--coverage", action="store_true", help="do the intervals hold the truth?")
    parser.add_argument(
        "--published", action="store_true", help="the published scores of thirteen models"
    )
    parser.add_argument("--time", action="store_true", help="52,002 and a million pairs")
    parser.add_argument(
        "--simulations", type=int, default=2_000, help="of each design, for --coverage"
    )
    options = parser.parse_args()
    everything = not (options.coverage or options.published or options.time)
    if options.time or everything:
        speed()
    if options.published or everything:
        published()
    if options.coverage or everything:
        coverage(options.simulations)


if __name__ == "__main__":
    main()
