"""Speed of IFD on real rows: `python -m benchmarks.speed` (make bench). Prints tables; asserts nothing.

Interleaved in one process: the authors' loop, ours in float32, ours in bfloat16, on the first rows of
`nc/alpaca_46k` and a random model of GPT-2's 124M shape. Then the peak memory of each in a process of
its own, and what `score` adds to `map`. Machines are shared and noisy: read the ratios.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.authors import Authors
from benchmarks.rows import SHARED, as_pairs, gpt2_shaped, real_rows
from hf_superfilter import IFD

METHODS = ("authors", "float32", "bfloat16")


def make(method: str, model: str, device: str) -> Callable[[list[str], list[str]], np.ndarray]:
    """A function from prompts and responses to IFD."""
    if method == "authors":
        return Authors(model, device).ifd
    scorer = IFD(model, dtype=method, device=device)
    scorer.language_model()
    return lambda prompts, responses: np.asarray(scorer({"prompt": prompts, "response": responses})["ifd"])


def matrix_rate(dtype: torch.dtype, device: str, seconds: float = 1.0) -> float:
    """Measured FLOP/s of the product that dominates GPT-2: 2,048 tokens through its MLP."""
    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((2_048, 768), (768, 3_072)))
    a @ b
    sync(device)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        a @ b
        sync(device)
        count += 1
    return count * 2 * 2_048 * 768 * 3_072 / (time.perf_counter() - start)


def sync(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def operations(model: str, prompts: list[str], responses: list[str]) -> float:
    """Multiply-adds, counted twice, that IFD needs: layers on all tokens, the vocabulary on scored ones."""
    lm = IFD(model, dtype="float32").language_model()
    config = lm.model.config
    windows = [window for pair in lm.windows(prompts, responses) for window in pair if pair.alone.scored]
    total = 0.0
    for window in windows:
        n, d = len(window.ids), config.n_embd
        total += 2 * n * 12 * d * d * config.n_layer + 2 * n * n * d * config.n_layer  # causal: half of 4 n n d
        total += 2 * window.scored * d * config.vocab_size
    return total


def speed(model: str, rows: int, rounds: int, device: str) -> None:
    """The interleaved table."""
    prompts, responses = as_pairs(real_rows("nc/alpaca_46k.jsonl.zst", rows))
    methods = {method: make(method, model, device) for method in METHODS}
    for method in methods.values():
        method(prompts[:5], responses[:5])
    rates = {d: matrix_rate(getattr(torch, d), device) for d in ("float32", "bfloat16")}
    wall: dict[str, list[float]] = {method: [] for method in METHODS}
    cpu: dict[str, list[float]] = {method: [] for method in METHODS}
    scores = {}
    for _ in range(rounds):
        for name, method in methods.items():
            start, busy = time.perf_counter(), time.process_time()
            scores[name] = method(prompts, responses)
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - busy)
        for d in rates:
            rates[d] = max(rates[d], matrix_rate(getattr(torch, d), device, 0.5))
    needed = operations(model, prompts, responses)
    print(f"\n{rows} rows, {rounds} rounds, {device}, {torch.get_num_threads()} threads")
    print(f"needed: {needed / rows / 1e9:.1f} GFLOP a row")
    print("matrix rate: " + ", ".join(f"{d} {rate / 1e9:,.0f} GFLOP/s" for d, rate in rates.items()))
    print("| method | rows/s | CPU-s a row | times the authors | share of matrix rate | Spearman | top 10% in common |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in METHODS:
        ratios = np.array(wall["authors"]) / np.array(wall[name])
        rate = rates["bfloat16" if name == "bfloat16" else "float32"]
        middle = float(np.median(wall[name]))
        rho, overlap = agreement(scores["authors"], scores[name])
        print(
            f"| {name} | {rows / middle:.2f} | {np.median(cpu[name]) / rows:.3f} | "
            f"{np.median(ratios):.2f} ({ratios.min():.2f}–{ratios.max():.2f}) | {needed / middle / rate:.0%} | "
            f"{rho:.5f} | {overlap:.2f} |"
        )


def agreement(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Spearman over rows defined in both, and the share in common of the top 10%."""
    both = np.isfinite(a) & np.isfinite(b)
    k = len(a) // 10
    top = [set(np.argsort(-np.nan_to_num(x, nan=-np.inf), kind="stable")[:k]) for x in (a, b)]
    return float(spearmanr(a[both], b[both]).statistic), len(top[0] & top[1]) / k


def memory(model: str, rows: int, device: str) -> None:
    """Peak memory of each method in a process of its own, beside the size of the model it holds."""
    print("\n| method | peak memory, GB | model, GB | beyond the model and a bare process, GB |")
    print("|---|---:|---:|---:|")
    bare = float(_in_process("none", model, rows, device))
    for method in METHODS:
        peak = float(_in_process(method, model, rows, device))
        size = 124.4e6 * (2 if method == "bfloat16" else 4) / 1e9
        print(f"| {method} | {peak:.2f} | {size:.2f} | {peak - bare - size:.2f} |")


def _in_process(method: str, model: str, rows: int, device: str) -> str:
    command = [sys.executable, "-m", "benchmarks.speed", "--peak-of", method, "--model", model, "--rows", str(rows),
               "--device", device]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def print_peak(method: str, model: str, rows: int, device: str) -> None:
    prompts, responses = as_pairs(real_rows("nc/alpaca_46k.jsonl.zst", rows))
    if method != "none":
        make(method, model, device)(prompts, responses)
    status = Path("/proc/self/status").read_text()  # getrusage would count what the parent held at the fork
    print(int(status.split("VmHWM:")[1].split()[0]) / 1e6)


def overhead(rounds: int) -> None:
    """What the run folder costs: `score` against `Dataset.map` with the same scorer and batch size."""
    from datasets import Dataset, disable_progress_bars

    from hf_superfilter import embedded_model, score

    disable_progress_bars()
    prompts, responses = as_pairs(real_rows("nc/alpaca_46k.jsonl.zst", 2_048 * 2))
    rows = Dataset.from_dict({"prompt": prompts, "response": responses})
    scorer = IFD(embedded_model("weak"))
    scorer(rows[:64])
    times: dict[str, list[float]] = {"map": [], "score": []}
    with tempfile.TemporaryDirectory() as folder:
        for i in range(rounds):
            start = time.perf_counter()
            rows.map(scorer, batched=True, batch_size=2_048, load_from_cache_file=False)
            middle = time.perf_counter()
            score(rows, [scorer], Path(folder) / str(i))
            times["map"].append(middle - start)
            times["score"].append(time.perf_counter() - middle)
    ratios = np.array(times["score"]) / np.array(times["map"])
    spread = f"{np.median(ratios):.3f} ({ratios.min():.3f}–{ratios.max():.3f})"
    print(f"\nscore over map, {len(rows)} rows, embedded weak: {spread}")


def whole_set(model: str) -> None:
    """All of alpaca_46k on a CUDA device, seconds after loading."""
    if not torch.cuda.is_available():
        print("\nCUDA: not measured, there is no such device")
        return
    prompts, responses = as_pairs(real_rows("nc/alpaca_46k.jsonl.zst"))
    method = make("bfloat16", model, "cuda")
    method(prompts[:64], responses[:64])
    start = time.perf_counter()
    method(prompts, responses)
    print(f"\nCUDA: {len(prompts):,} rows in {time.perf_counter() - start:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", help="a model folder; by default a random one of GPT-2's shape")
    parser.add_argument("--peak-of", choices=(*METHODS, "none"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not SHARED.is_dir():
        print("skipped: the real rows of ../shared/data are not here")
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.peak_of:
        print_peak(options.peak_of, options.model, options.rows, options.device)
        return
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or gpt2_shaped(Path(folder))
        speed(model, options.rows, options.rounds, options.device)
        memory(model, options.rows, options.device)
        overhead(options.rounds)
        whole_set(model)


if __name__ == "__main__":
    main()
