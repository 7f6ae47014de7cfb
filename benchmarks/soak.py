"""Kill, resume, publish, load, for minutes: `python -m benchmarks.soak --minutes 30`.

Each round makes new rows, and a process that scores them, selects, writes a folder and publishes to
a Hub on this machine. It is killed at random moments, requests fail at random positions, sometimes
a second process works beside it; then it runs to its end. What came of it is compared with what
plain Python computes from the rows, as `datasets` alone loads it: the new subset and all subsets of
earlier rounds, from the folder and from the Hub. The exit code is 1 if anything differs.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hub_server import HubServer

SUBSETS = 5  # names that are published again and again
WORK = """
import sys, time
from datasets import Dataset
from hf_superfilter import Length, TopK, publish, score, select, write_repo

rows, folder, home, name, share = sys.argv[1:6]

def words(batch):
    time.sleep(0.01)
    return {"words": [len(text.split()) for text in batch["response"]]}

print("score", flush=True)
table = score(Dataset.from_parquet(rows), [Length(), words], folder, chunk_size=64)
print("select", flush=True)
selection = select(table, TopK("words", float(share)), run=folder)
print("write", flush=True)
write_repo(selection, home, name=name, max_shard_bytes=20_000)
print("publish", flush=True)
publish(selection, "me/soak", name=name, max_shard_bytes=20_000)
print("end", flush=True)
"""
READ = """
import json, sys
from datasets import load_dataset

home, names = sys.argv[1], sys.argv[2:]
columns = ("number", "words", "length")
loaded = {}
for place in (home, "me/soak"):
    for name in names:
        rows = load_dataset(place, name, split="train")
        loaded[f"{place} {name}"] = [list(row) for row in zip(*(rows[c][:] for c in columns))]
json.dump(loaded, open("loaded.json", "w"))
"""
STAGES = ("start", "score", "select", "write", "publish", "end")


class Soak:
    """Run rounds in a folder, against a Hub of this process, and count what happened."""

    def __init__(self, folder: Path, hub: HubServer, seed: int) -> None:
        self.folder, self.hub, self.random = folder, hub, random.Random(seed)
        self.environment = hub.environment(folder / "home") | {"PYTHONPATH": str(Path.cwd())}
        self.expected: dict[str, list[list[int]]] = {}  # name -> what loads
        self.counts: Counter[str] = Counter()
        self.seconds = 12.0  # of a process that is not killed, as the last one took

    def round(self, number: int) -> None:
        """Make rows, work on them, and compare what loads."""
        folder = self.folder / f"round{number}"
        folder.mkdir()
        name, share = f"subset-{number % SUBSETS}", self.random.choice(["0.05", "0.1", "0.5"])
        expected = self._make_rows(folder / "rows.parquet", float(share))
        arguments = [folder / "rows.parquet", folder / "run", self.folder / "repo", name, share]
        for _ in range(self.random.randrange(4)):
            self._killed(arguments)
        if self.random.random() < 0.5:
            self._fail_somewhere()
        begin = time.monotonic()
        workers = [self._start(WORK, arguments) for _ in range(self.random.choice([1, 1, 2]))]
        for worker in workers:
            output, error = worker.communicate()
            if worker.returncode:
                self._report(f"round {number}: code {worker.returncode} after {output!r}: {error}")
        self.seconds = time.monotonic() - begin
        self.hub.faults.clear()
        self.expected[name] = expected
        self._compare(number)

    def _make_rows(self, path: Path, share: float) -> list[list[int]]:
        """Write random rows; return number, words and characters of those to be kept, in order."""
        count = self.random.randrange(300, 3_000)
        texts = [
            " ".join(
                self.random.choice(["é", "word", "\u4e2d\u6587", "x" * 30])
                for _ in range(self.random.randrange(1, 60))
            )
            for _ in range(count)
        ]
        columns = {"number": list(range(count)), "prompt": ["?"] * count, "response": texts}
        pq.write_table(pa.table(columns), path)
        words = [len(text.split()) for text in texts]
        kept = sorted(range(count), key=lambda row: -words[row])[: int(share * count + 1e-9)]
        return [[row, words[row], len(texts[row])] for row in kept]

    def _killed(self, arguments: list[object]) -> None:
        """Start a process, and kill it at a random moment."""
        worker = self._start(WORK, arguments)
        try:
            worker.wait(self.random.uniform(0.2, 1.1) * self.seconds)
        except subprocess.TimeoutExpired:
            worker.kill()
        output = worker.communicate()[0]
        stage = _last_stage(output)
        self.counts[f"killed in {stage}" if stage != "end" else "at its end before"] += 1

    def _fail_somewhere(self) -> None:
        """Let one of the next requests fail."""
        kind, position = self.random.choice([429, 500, 503, "drop"]), self.random.randrange(25)
        self.counts[f"{kind} at a request"] += 1
        if kind == "drop":
            self.hub.drop(times=1, skip=position)
        else:
            self.hub.fail(kind, times=1, skip=position)

    def _compare(self, number: int) -> None:
        """Load every subset with datasets alone."""
        reader = self._start(READ, [self.folder / "repo", *self.expected], fresh=f"cache{number}")
        error = reader.communicate()[1]
        if reader.returncode:
            self._report(f"round {number}: nothing loads: {error[-2000:]}")
            return
        loaded = json.loads((self.folder / "loaded.json").read_text())
        for place, rows in loaded.items():
            self.counts["subsets compared"] += 1
            if rows != self.expected[place.split()[-1]]:
                self._report(f"round {number}: {place} loads other rows")

    def _start(self, program: str, arguments: list[object], fresh: str = "cache"):
        """Start a program in a process of its own, with caches of its own."""
        caches = {
            "HF_DATASETS_CACHE": str(self.folder / fresh / "datasets"),
            "HF_HUB_CACHE": str(self.folder / fresh / "hub"),
        }
        return subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment | caches,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _report(self, message: str) -> None:
        self.counts["WRONG"] += 1
        print(message, flush=True)


def _last_stage(output: str) -> str:
    words = [word for word in output.split() if word in STAGES]
    return words[-1] if words else "start"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    end, rounds = time.monotonic() + 60 * asked.minutes, 0
    with tempfile.TemporaryDirectory() as name, HubServer() as hub:
        soak = Soak(Path(name), hub, asked.seed)
        while time.monotonic() < end:
            soak.round(rounds)
            rounds += 1
            print(f"round {rounds}: {dict(sorted(soak.counts.items()))}", flush=True)
    print(f"\n| {rounds} rounds in {asked.minutes:g} minutes, seed {asked.seed} | times |")
    print("|---|---:|")
    for what, count in sorted(soak.counts.items()):
        print(f"| {what} | {count} |")
    print(f"| results that differ | {soak.counts['WRONG']} |")
    return int(soak.counts["WRONG"] > 0)


if __name__ == "__main__":
    sys.exit(main())
