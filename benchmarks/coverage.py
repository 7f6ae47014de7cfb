"""Density and the coverage family: `python -m benchmarks.coverage`. Prints tables; asserts nothing.

errors: the sketch against exact kernel sums. speed: 100,000 x 384 sketched and scored, beside
scikit-learn's KernelDensity. location: 10,400 x 384 down to 1,040, beside submodlib and apricot
where they are installed.
duplicates: near-duplicates that each method keeps of real rows, embedded by `Embed`.
Vectors of the first three are made here, by seed; the machine's load stands above each table.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from benchmarks.rows import SHARED, as_pairs, real_rows
from hf_superfilter import (
    Density,
    FacilityLocation,
    InversePropensity,
    Prototypes,
    RandomSample,
    SemDedup,
    select,
)

if TYPE_CHECKING:
    from datasets import Dataset

PARTS = ("errors", "speed", "location", "duplicates")
SUBSETS = {
    "t0_open, 6,000 random rows": (["instruct/t0_open.jsonl.zst"], 6_000),
    "GPTeacher, all rows": (
        ["instruct/gpteacher_codegen.jsonl.zst", "instruct/gpteacher_roleplay.jsonl.zst"],
        None,
    ),
}
WORDS = 3  # in a shingle
ALIKE = (
    0.5  # Jaccard similarity of the shingles of two prompts from which on they are near-duplicates
)


def unit_mixture(rows: int, dimensions: int, groups: int = 150) -> np.ndarray:
    """Unit vectors around some directions, as embeddings of a data set with topics lie."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((groups, dimensions))
    noise = rng.standard_normal((rows, dimensions)) * rng.uniform(0.1, 1.2, (rows, 1))
    vectors = centres[np.minimum(rng.geometric(0.03, rows) - 1, groups - 1)] + noise
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def table_of(vectors: np.ndarray) -> "Dataset":
    from datasets import Dataset

    return Dataset(
        pa.table(
            {
                "embedding": pa.FixedSizeListArray.from_arrays(
                    np.ascontiguousarray(vectors).ravel(), vectors.shape[1]
                )
            }
        )
    )


def heading(text: str) -> None:
    print(f"\n{text} (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")


def errors() -> None:
    """The sketch against exact kernel sums, by bandwidth and repetitions."""
    from scipy.spatial.distance import cdist

    from hf_superfilter.scoring._sketch import auto_bandwidth, collision_probability, new_sketch

    vectors = unit_mixture(2_000, 384)
    distances = cdist(vectors.astype(np.float64), vectors.astype(np.float64))
    heading("2,000 x 384: relative error of density against exact kernel sums, mean (largest)")
    print(
        "| bandwidth | exact sums | 100 repetitions | 1,000 repetitions (default) | 4,000 "
        "repetitions |"
    )
    print("|---|---:|---:|---:|---:|")
    for times in (0.1, 1, 10):
        bandwidth = auto_bandwidth(vectors[:1_000]) * times
        exact = collision_probability(distances, bandwidth).sum(axis=1)
        cells = []
        for repetitions in (100, 1_000, 4_000):
            sketch = new_sketch(384, bandwidth, repetitions=repetitions)
            sketch.add(vectors)
            error = np.abs(sketch.density(vectors) / exact - 1)
            cells.append(f"{error.mean():.2%} ({error.max():.1%})")
        print(f"| {times} x auto | {exact.min():.1f} to {exact.max():.1f} | {' | '.join(cells)} |")


def speed(rows: int) -> None:
    """Both passes over many rows, alone and in a run folder; and KernelDensity on parts, for it
    takes the square.
    """
    from sklearn.neighbors import KernelDensity

    from hf_superfilter import score
    from hf_superfilter.scoring._sketch import auto_bandwidth, new_sketch

    vectors = unit_mixture(rows, 384)
    table, sketch = table_of(vectors), new_sketch(384, auto_bandwidth(vectors[:1_000]))
    heading(
        f"{rows:,} x 384, 1,000 repetitions x 20,000 buckets, "
        f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads"
    )
    print("| what | seconds | CPU-seconds |")
    print("|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for what, work in (
            ("first pass", lambda: sketch.add(vectors)),
            ("second pass", lambda: sketch.density(vectors)),
            ("score(rows, [Density()], folder)", lambda: score(table, [Density()], folder)),
        ):
            seconds, busy = timed(work)
            print(f"| {what} | {seconds:.1f} | {busy:.1f} |")
    for part in (2_500, 5_000):
        seconds, busy = timed(
            lambda part=part: KernelDensity(bandwidth=0.5).fit(v := vectors[:part]).score_samples(v)
        )
        minutes = busy * (rows / part) ** 2 / 60
        what = f"KernelDensity on {part:,} of them; by the square, all: {minutes:,.0f} CPU-minutes"
        print(f"| {what} | {seconds:.1f} | {busy:.1f} |")


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of the processor; the second tells more where others compute too."""
    start, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - busy


def location(rows: int, k: int) -> None:
    """Seconds and peak memory, each in a process of its own."""
    heading(f"facility location, {rows:,} x 384 down to {k:,}")
    print(
        "| method | seconds | CPU-seconds | peak memory, GB | beyond a bare process, GB | coverage "
        "|"
    )
    print("|---|---:|---:|---:|---:|---:|")
    bare = float(_in_process("bare", rows, k).split()[2])
    for method in ("cosine", "euclidean", "rbf", "neighbours=100", "submodlib", "apricot"):
        if method in ("submodlib", "apricot") and importlib.util.find_spec(method) is None:
            print(f"| {method} | not installed | | | | |")
            continue
        seconds, busy, peak, coverage = map(float, _in_process(method, rows, k).split())
        print(
            f"| {method} | {seconds:.1f} | {busy:.1f} | {peak:.2f} | {peak - bare:.2f} | "
            f"{coverage:.6f} |"
        )


def _in_process(method: str, rows: int, k: int) -> str:
    command = [
        sys.executable,
        "-m",
        "benchmarks.coverage",
        "--method",
        method,
        "--rows",
        str(rows),
        "--k",
        str(k),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[
        -1
    ]


def one_location(method: str, rows: int, k: int) -> None:
    """Print seconds, CPU-seconds, peak memory and coverage of one method; coverage by cosine but
    for two of ours.
    """
    vectors = unit_mixture(rows, 384)
    start, busy, coverage = time.perf_counter(), time.process_time(), 0.0
    if method == "submodlib":
        from submodlib.functions.facilityLocation import FacilityLocationFunction

        function = FacilityLocationFunction(
            n=rows, mode="dense", separate_rep=False, data=vectors, metric="cosine"
        )
        chosen = [
            row
            for row, _ in function.maximize(budget=k, optimizer="LazyGreedy", show_progress=False)
        ]
    elif method == "apricot":
        from apricot import FacilityLocationSelection

        kernel = np.clip(vectors @ vectors.T, 0, None)
        chosen = (
            FacilityLocationSelection(k, metric="precomputed", optimizer="lazy").fit(kernel).ranking
        )
    elif method != "bare":
        kind = {"neighbours": 100} if "=" in method else {"similarity": method}
        selector = FacilityLocation(k, **kind)  # type: ignore[arg-type]
        table = table_of(vectors)
        chosen = selector(table, np.arange(rows))
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1e6
    if method in ("euclidean", "rbf"):
        coverage = selector.facts(table, np.arange(rows), chosen)["coverage"]
    elif method != "bare":
        coverage = float(
            np.clip(vectors @ vectors[chosen].T, 0, None).max(axis=1).mean(dtype=np.float64)
        )
    print(seconds, busy, peak, coverage)


def duplicates(share: float) -> None:
    """How many near-duplicates a subset still has, by method, at an equal number of rows."""
    if not SHARED.is_dir() or importlib.util.find_spec("hf_superfilter.scoring.embed") is None:
        print(
            "\nnear-duplicates: not measured, the rows of ../shared/data or the scorer Embed are "
            "not here"
        )
        return
    for name, (files, count) in SUBSETS.items():
        rows = [row for file in files for row in real_rows(file)]
        if count:
            rows = [
                rows[i]
                for i in sorted(np.random.default_rng(0).choice(len(rows), count, replace=False))
            ]
        table, alike = (
            _with_density(rows),
            near_duplicates([row["instruction"] + "\n" + row["input"] for row in rows]),
        )
        paired = np.asarray(alike.sum(axis=1)).ravel() > 0
        heading(
            f"{name}: {len(rows):,} rows, {paired.mean():.0%} with a near-duplicate prompt; "
            f"{share:.0%} kept"
        )
        print(
            "| method | rows kept | of them, % near-duplicates of another row kept | more than "
            "needed, % |"
        )
        print("|---|---:|---:|---:|")
        for method, kept in _selections(table, share):
            both = np.mean([_redundancy(alike, chosen) for chosen in kept], axis=0)
            print(f"| {method} | {len(kept[0]):,} | {both[0]:.1%} | {both[1]:.1%} |")


def _selections(table: "Dataset", share: float) -> Iterator[tuple[str, list[np.ndarray]]]:
    """A method's name and what it keeps, several times where it draws."""
    drawn: dict[str, Callable] = {
        "RandomSample (5 seeds)": lambda seed: RandomSample(share, seed=seed),
        "Density, InversePropensity (5 seeds)": lambda seed: InversePropensity(share, seed=seed),
    }
    for name, make in drawn.items():
        yield name, [select(table, [make(seed)]).rows for seed in range(5)]
    for selector in (SemDedup(share), Prototypes(share), FacilityLocation(share)):
        yield type(selector).__name__, [select(table, [selector]).rows]


def _with_density(rows: list[dict]) -> "Dataset":
    from datasets import Dataset

    from hf_superfilter import Embed, score

    prompts, responses = as_pairs(rows)
    with tempfile.TemporaryDirectory() as folder:
        table = score(
            Dataset.from_dict({"prompt": prompts, "response": responses}),
            [Embed("embedded:weak"), Density()],
            folder,
        )
        assert table is not None
        facts = select(table, [InversePropensity(1.0)]).steps[0].facts
        print(
            f"\ndensity: {np.nanmin(table['density'][:]):.1f} to "
            f"{np.nanmax(table['density'][:]):.1f}; {facts}"
        )
        return table


def near_duplicates(texts: list[str]):
    """(n, n) sparse matrix with 1 where two different rows have prompts of which half the shingles
    are shared.
    """
    from scipy import sparse
    from sklearn.feature_extraction.text import CountVectorizer

    shingles = CountVectorizer(
        ngram_range=(WORDS, WORDS), binary=True, token_pattern=r"\S+", dtype=np.float32
    )
    there = shingles.fit_transform(texts)
    common = (there @ there.T).tocoo()
    sizes = np.asarray(there.sum(axis=1)).ravel()
    keep = (common.row != common.col) & (
        common.data >= ALIKE * (sizes[common.row] + sizes[common.col] - common.data)
    )
    pairs = (np.ones(keep.sum()), (common.row[keep], common.col[keep]))
    return sparse.csr_matrix(pairs, shape=(len(texts), len(texts)))


def _redundancy(alike, chosen: np.ndarray) -> tuple[float, float]:
    """Of the rows kept: the share with a near-duplicate among them, and the share beyond one for
    each group of them.
    """
    from scipy.sparse.csgraph import connected_components

    mine = alike[chosen][:, chosen]
    groups = connected_components(mine, directed=False)[0]
    return float(np.mean(np.asarray(mine.sum(axis=1)).ravel() > 0)), 1 - groups / len(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, []], help="which tables; all by default"
    )
    parser.add_argument("--rows", type=int, help="rows of speed and location: 100,000 and 10,400")
    parser.add_argument("--k", type=int, default=1_040)
    parser.add_argument("--share", type=float, default=0.2, help="kept in the table of duplicates")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    if options.method:
        one_location(options.method, options.rows, options.k)
        return
    jobs = {
        "errors": errors,
        "speed": lambda: speed(options.rows or 100_000),
        "location": lambda: location(options.rows or 10_400, options.k),
        "duplicates": lambda: duplicates(options.share),
    }
    for part in options.parts or PARTS:
        jobs[part]()


if __name__ == "__main__":
    main()
