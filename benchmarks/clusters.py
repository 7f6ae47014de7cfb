"""What k-means and facility location take on many vectors: `python -m benchmarks.clusters`.

Prints CPU-seconds and how far anonymous memory rose above the vectors themselves, which are a
mixture of groups of very different sizes. `--rows 1000000 --clusters 20000` is the largest that
docs/scaling.md quotes, `--rows 100000 --keep 1000` that of `FacilityLocation`.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.load import Peak
from hf_superfilter import FacilityLocation
from hf_superfilter.selection._kmeans import cluster_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from vectors import mixture, table_of

WIDTH = 64


def measured(what, step):
    """Run a step and print what it took."""
    peak = Peak()
    peak.start()
    start = time.process_time()
    step()
    seconds = time.process_time() - start
    anonymous, _ = peak.stop() / 1e6
    print(f"{what}: {seconds:.1f} CPU-seconds, {anonymous:.0f} MB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--clusters", type=int, default=6_000)
    parser.add_argument("--keep", type=int, help="rows that FacilityLocation keeps instead")
    asked = parser.parse_args()
    vectors = mixture(asked.rows, WIDTH)
    cluster_of(vectors[:1_000], 10, 0)  # imports do not count
    FacilityLocation(2)(table_of(vectors[:50]), np.arange(50))
    if asked.keep is None:
        what = f"k-means, {asked.rows:,} x {WIDTH} into {asked.clusters:,} clusters"
        measured(what, lambda: cluster_of(vectors, asked.clusters, 0))
        return
    table, pool = table_of(vectors), np.arange(asked.rows)
    what = f"FacilityLocation, {asked.keep:,} of {asked.rows:,} x {WIDTH}"
    measured(what, lambda: FacilityLocation(asked.keep)(table, pool))


if __name__ == "__main__":
    main()
