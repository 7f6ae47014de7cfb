"""What one `write_repo` computes, and what it takes: `python -m benchmarks.write_repo`.

First a real run of the embedded sample: how often `write_repo` computes the facts of a selection,
decodes all responses, reads the run's manifest and draws each plot. Then tables of 50,000 and
200,000 rows of about 2.4 kB of text: seconds, and the peak of anonymous memory above that before
the call (pages of the mapped table do not count, for the system may drop them). Two sizes show
whether it grows.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar as disable_progress_bars

from hf_superfilter import IFD, Recipe, Threshold, TopK, select, write_repo

WORDS = 350  # of seven characters each, with the space: 2.4 kB a row
SCHEMA = pa.schema(
    {"prompt": pa.string(), "response": pa.string(), "ifd": pa.float64(), "ifd_status": pa.string()}
)

# What is counted -> the functions that do it, by the names that they have had.
COUNTED = {
    "facts of the selection": {"facts_of", "Summary.facts"},
    "mask of the kept rows": {"kept_mask", "Selection.kept"},
    "step that ranks": {"ranking_step", "Selection.ranking"},
    "numbers of a column": {"numbers_of"},
    "manifest": {"read_record", "read_manifest"},
    "score plot": {"score_picture", "score_plot"},
    "length plot": {"length_picture", "length_plot"},
    "HTML page": {"write_report", "write_page"},
}


def count_calls(function, *arguments, **options):
    """Call a function, and count what it calls of the package."""
    calls, columns, read = Counter(), Counter(), Counter()

    def note(frame, event, _):
        if event != "call":
            return
        code = frame.f_code
        if "hf_superfilter" in code.co_filename:
            calls[code.co_qualname] += 1
            if code.co_name == "numbers_of":
                columns[frame.f_locals["column"]] += 1
        elif code.co_qualname == "Column.__getitem__":
            name, key = frame.f_locals["self"].column_name, frame.f_locals["key"]
            if name == "response" and isinstance(key, slice):
                read["all responses decoded"] += 1

    sys.setprofile(note)
    try:
        function(*arguments, **options)
    finally:
        sys.setprofile(None)
    counts = {label: sum(calls[name] for name in names) for label, names in COUNTED.items()}
    counts["numbers of one column, at most"] = max(columns.values(), default=0)
    counts["all responses decoded"] = read["all responses decoded"] + calls["Summary.scripts"]
    return counts


def print_counts(folder):
    """Count for a selection from a real run of the embedded sample."""
    recipe = Recipe(
        "embedded:sample",
        score=[IFD("embedded:weak")],
        select=[Threshold("ifd", below=1.0), TopK("ifd", 0.15)],
    )
    selection = recipe.run(folder / "run")
    for label, count in count_calls(write_repo, selection, folder / "counted").items():
        print(f"{label:32} {count}")


def anonymous_memory():
    """Return this process's anonymous memory in bytes."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split("RssAnon:")[1].split()[0])


class Peak(threading.Thread):
    """Watch the peak of anonymous memory."""

    def __init__(self):
        super().__init__(daemon=True)
        self.before = self.peak = anonymous_memory()
        self.ended = threading.Event()

    def run(self):
        while not self.ended.wait(0.005):
            self.peak = max(self.peak, anonymous_memory())


def long_rows(count, folder):
    """Write a table of random words to a file and map it."""
    words = np.array([f"w{number:05d}" for number in range(50_000)])
    random = np.random.default_rng(0)

    texts = [" ".join(words[random.integers(0, len(words), WORDS)].tolist()) for _ in range(1_000)]
    file = folder / "rows.parquet"
    with pq.ParquetWriter(file, SCHEMA, compression="none") as writer:
        for start in range(0, count, len(texts)):
            columns = {
                "prompt": [f"{start + place} {text[:400]}" for place, text in enumerate(texts)],
                "response": [f"{start + place} {text[400:]}" for place, text in enumerate(texts)],
                "ifd": random.normal(0.8, 0.1, len(texts)),
                "ifd_status": ["ok"] * len(texts),
            }
            writer.write_table(pa.table(columns, schema=SCHEMA))
    return Dataset.from_parquet(str(file), cache_dir=str(folder / "cache"))


def print_cost(rows, folder):
    """Measure seconds and memory of `write_repo` on many rows."""
    table = long_rows(rows, folder)
    small = Dataset.from_dict({name: table[name][:100] for name in table.column_names})
    write_repo(select(small, [TopK("ifd", 10)]), folder / "warm")  # imports do not count
    selection = select(table, [Threshold("ifd", below=1.0), TopK("ifd", 0.10)])
    peak = Peak()
    peak.start()
    start = time.perf_counter()
    write_repo(selection, folder / "measured", pairs=True)
    seconds = time.perf_counter() - start
    peak.ended.set()
    peak.join()
    text = sum(len(text) for name in ("prompt", "response") for text in table[name][:1_000])
    print(
        f"{rows:,} rows of {text / 1_000:,.0f} characters: {seconds:.1f} s, "
        f"+{(peak.peak - peak.before) / 1e6:.0f} MB of memory at its peak"
    )


def main():
    disable_progress_bars()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, action="append")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print_counts(Path(folder))
        for rows in options.rows or [50_000, 200_000]:
            place = Path(folder) / str(rows)
            place.mkdir()
            print_cost(rows, place)


if __name__ == "__main__":
    main()
