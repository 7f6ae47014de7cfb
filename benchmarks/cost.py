"""What a score costs: `python -m benchmarks.cost` (`--only PART ...`). Prints tables; asserts
nothing.

work: CPU-seconds against rows and against the length of a window, with a picture. tokenising: its
    share of the time.
start: of the command and of a first score. overhead: what `score` adds to `map`. cuda: a whole data
set on a GPU. The rows are those of `nc/alpaca_46k` in ../shared/data.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers import make, matrix_rate, operations
from benchmarks.rows import SHARED, as_pairs, gpt2_shaped, real_rows
from hf_superfilter import IFD, embedded_model

PICTURE = Path(__file__).with_name("cost.png")
PARTS = ("work", "tokenising", "start", "overhead", "cuda")


def work() -> None:
    """CPU-seconds against rows and against the length of a window, with a picture."""
    prompts, responses = as_pairs(real_rows("nc/alpaca_46k.jsonl.zst", 8_192))
    method, lm = make("auto", embedded_model("weak")), IFD(embedded_model("weak")).language_model()
    method(prompts[:64], responses[:64])
    by_rows, by_length = {}, {}
    print("\n| rows | seconds | CPU-s | CPU-ms a row |\n|---:|---:|---:|---:|")
    for rows in (1_024, 2_048, 4_096, 8_192):
        seconds, by_rows[rows] = timed(lambda rows=rows: method(prompts[:rows], responses[:rows]))
        print(
            f"| {rows:,} | {seconds:.1f} | {by_rows[rows]:.1f} | {by_rows[rows] / rows * 1e3:.2f} |"
        )
    ids = [i for pair in lm.windows(prompts[:1_024], responses[:1_024]) for i in pair.given.ids][
        : 64 * 1_024
    ]
    print("\n| tokens a window | windows | CPU-s | CPU-µs a token |\n|---:|---:|---:|---:|")
    for length in (64, 128, 256, 512, 1_024):
        windows = [
            type(lm.windows(["a"], ["b"])[0].given)(ids[i : i + length], 1)
            for i in range(0, len(ids), length)
        ]
        _, busy = timed(lambda windows=windows: lm.losses(windows))
        by_length[length] = busy / len(ids) * 1e6
        print(f"| {length:,} | {len(windows):,} | {busy:.1f} | {by_length[length]:.0f} |")
    draw_work(by_rows, by_length)


def draw_work(by_rows: dict[int, float], by_length: dict[int, float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    slope = sum(by_rows.values()) / sum(by_rows)
    left.plot(
        [0, max(by_rows)],
        [0, slope * max(by_rows)],
        color="tab:gray",
        label=f"{slope * 1e3:.1f} ms a row",
    )
    left.plot(list(by_rows), list(by_rows.values()), "o", color="tab:orange")
    left.set(xlabel="rows", ylabel="CPU-seconds", xlim=0, ylim=0)
    left.legend(frameon=False)
    right.plot(list(by_length), list(by_length.values()), "o-", color="tab:orange")
    right.set_xscale("log", base=2)
    right.set(xlabel="tokens a window", ylabel="CPU-µs a token", ylim=0, xticks=list(by_length))
    right.set_xticklabels([f"{length:,}" for length in by_length])
    figure.savefig(PICTURE, dpi=80)


def tokenising(model: str) -> None:
    """The share of the CPU-seconds of IFD, in the default dtype, that making windows takes."""
    for name, rows in (("embedded:weak", 1_000), ("embedded:strong", 1_000), (model, 60)):
        prompts, responses = as_pairs(real_rows("nc/alpaca_46k.jsonl.zst", rows))
        method, lm = make("auto", name), IFD(name).language_model()
        method(prompts[:64], responses[:64])
        whole, windows = (
            min(timed(do)[1] for _ in range(3))
            for do in (partial(method, prompts, responses), partial(lm.windows, prompts, responses))
        )
        print(
            f"tokenising, {Path(name).name}: {windows / whole:.1%} of {whole / rows * 1e3:.1f} "
            "CPU-ms a row"
        )


def timed(do: Callable[[], object]) -> tuple[float, float]:
    start, busy = time.perf_counter(), time.process_time()
    do()
    return time.perf_counter() - start, time.process_time() - busy


def start() -> None:
    """Seconds of the command's help, and of a first score in a new process: the fastest of five."""
    first = (
        "from datasets import Dataset; from hf_superfilter import IFD, score; import tempfile\n"
        "row = {'prompt': ['Say hello.\\n'], 'response': ['Hello there, my friend.']}\n"
        "with tempfile.TemporaryDirectory() as folder: score(Dataset.from_dict(row), "
        "[IFD('embedded:strong')], folder)"
    )
    commands = {
        "hf-superfilter --help": ["-m", "hf_superfilter", "--help"],
        "first score of one row": ["-c", first],
    }
    for name, arguments in commands.items():
        run = partial(subprocess.run, [sys.executable, *arguments], capture_output=True, check=True)
        print(f"\n{name}: {min(timed(run)[0] for _ in range(5)):.2f} s")


def overhead(rounds: int = 3) -> None:
    """Measure the run folder's cost: `score` against `Dataset.map`, same scorer and batches."""
    from datasets import Dataset, disable_progress_bars

    from hf_superfilter import score

    disable_progress_bars()
    prompts, responses = as_pairs(real_rows("nc/alpaca_46k.jsonl.zst", 2_048 * 2))
    rows, scorer = (
        Dataset.from_dict({"prompt": prompts, "response": responses}),
        IFD(embedded_model("weak")),
    )
    scorer(rows[:64])
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(rounds):
            mapped, _ = timed(
                partial(
                    rows.map, scorer, batched=True, batch_size=2_048, load_from_cache_file=False
                )
            )
            ratios.append(timed(partial(score, rows, [scorer], Path(folder) / str(i)))[0] / mapped)
    print(
        f"\nscore over map, {len(rows)} rows: {np.median(ratios):.3f} "
        f"({min(ratios):.3f}–{max(ratios):.3f})"
    )


def cuda(model: str) -> None:
    """All of alpaca_46k on a CUDA device: seconds after loading, share of the matrix rate, times
    the authors' loop.
    """
    if not torch.cuda.is_available():
        print("\nCUDA: not measured, there is no such device")
        return
    prompts, responses = as_pairs(real_rows("nc/alpaca_46k.jsonl.zst"))
    method, authors = make("bfloat16", model, "cuda"), make("authors", model, "cuda")
    method(prompts[:64], responses[:64])
    authors(prompts[:8], responses[:8])
    ours = timed(lambda: method(prompts, responses))[0] / len(prompts)
    theirs = timed(lambda: authors(prompts[:300], responses[:300]))[0] / 300
    words, _ = timed(
        lambda: (
            IFD(model, dtype="bfloat16", device="cuda").language_model().windows(prompts, responses)
        )
    )
    share = (
        operations(model, prompts, responses)
        / (ours * len(prompts))
        / matrix_rate("bfloat16", "cuda")
    )
    print(
        f"\nCUDA, {torch.cuda.get_device_name()}: {len(prompts):,} rows in "
        f"{ours * len(prompts):.1f} s",
        end=", ",
    )
    print(
        f"{words:.1f} s of it tokenising; {share:.0%} of the matrix rate; {theirs / ours:.0f} "
        "times the authors' loop"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    wanted = parser.parse_args().only
    if not SHARED.is_dir():
        print("skipped: the real rows of ../shared/data are not here")
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        model = gpt2_shaped(Path(folder)) if {"tokenising", "cuda"} & set(wanted) else ""
        parts = {
            "work": work,
            "tokenising": partial(tokenising, model),
            "start": start,
            "overhead": overhead,
            "cuda": partial(cuda, model),
        }
        for part in wanted:
            parts[part]()


if __name__ == "__main__":
    main()
