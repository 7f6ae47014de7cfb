"""Speed of IFD beside every peer in one run: `python -m benchmarks.peers` (make bench). Prints
tables; asserts nothing.

speed: interleaved in one process, the authors' loop, ours in float32, bfloat16 and int8,
CTranslate2 where it is installed, and two tools' way of batching, on the first rows of
`nc/alpaca_46k` and a random model of GPT-2's shape; then the peak memory of each in a process of
its own, and a picture. agreement: what each dtype does to the ranks.
Machines are shared and noisy: read the ratios.
"""

import argparse
import importlib.util
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
from scipy.stats import spearmanr

from benchmarks.authors import Authors
from benchmarks.others import CTranslate2, DataJuicer, OdaDataScorer
from benchmarks.rows import SHARED, as_pairs, gpt2_shaped, real_rows
from hf_superfilter import IFD, embedded_model
from hf_superfilter.models.cpu_linear import Int8Linear, use_onednn

OURS = ("float32", "bfloat16", "int8")
LOOPS = (
    ("ctranslate2 float32", "ctranslate2 int8") if importlib.util.find_spec("ctranslate2") else ()
)
METHODS = ("authors", *OURS, *LOOPS, "as data-juicer", "as oda-datascorer")
ONCE = ("as oda-datascorer",)  # slow: in the first round only
PICTURE = Path(__file__).with_name("peers.png")
MEMORY_ROWS = 24

Method = Callable[[list[str], list[str]], np.ndarray]


def make(method: str, model: str, device: str = "cpu") -> Method:
    """A function from prompts and responses to IFD."""
    if method == "authors":
        return Authors(model, device).ifd
    if method in LOOPS:
        return CTranslate2(model, method.split()[1], torch.get_num_threads()).ifd
    if method.startswith("as "):
        return (DataJuicer if "juicer" in method else OdaDataScorer)(model).ifd
    scorer = IFD(model, dtype=method, device=device)
    scorer.language_model()
    return lambda prompts, responses: np.asarray(
        scorer({"prompt": prompts, "response": responses})["ifd"]
    )


def matrix_rate(dtype: str, device: str = "cpu", seconds: float = 0.5) -> float:
    """Measured operations a second of the product that dominates GPT-2: 2,048 tokens (16 times as
    many on CUDA)
    through its MLP."""
    tokens = 2_048 if device == "cpu" else 32_768
    layer, states = torch.nn.Linear(768, 3_072), torch.randn(tokens, 768)
    multiply: Callable[[], torch.Tensor]
    if dtype == "int8":
        whole, exchanged = torch.zeros(states.shape, dtype=torch.uint8), Int8Linear(layer)
        rest = (exchanged.scales, exchanged.zeros, None, 1.0, 0, torch.float32, "none", [], "")
        multiply = partial(
            torch.ops.onednn.qlinear_pointwise, whole, 1.0, 128, exchanged.weight, *rest
        )
    else:
        use_onednn(layer)
        kind = getattr(torch, dtype)
        multiply = partial(layer.to(device, kind), states.to(device, kind))
    wait = torch.cuda.synchronize if device != "cpu" else (lambda: None)
    with torch.inference_mode():
        multiply()
        wait()
        start, count = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < seconds:
            multiply()
            wait()
            count += 1
    return count * 2 * tokens * 768 * 3_072 / spent


def operations(model: str, prompts: list[str], responses: list[str]) -> float:
    """Multiply-adds, counted twice, that IFD needs: layers on all tokens, the vocabulary on scored
    ones.
    """
    lm = IFD(model, dtype="float32").language_model()
    config = lm.model.config
    windows = [
        window for pair in lm.windows(prompts, responses) for window in pair if pair.alone.scored
    ]
    total = 0.0
    for window in windows:
        n, d = len(window.ids), config.n_embd
        total += (
            2 * n * 12 * d * d * config.n_layer + 2 * n * n * d * config.n_layer
        )  # causal: half of 4 n n d
        total += 2 * window.scored * d * config.vocab_size
    return total


def speed(model: str, rows: int, rounds: int) -> None:
    """The interleaved table, with memory, and the picture."""
    prompts, responses = as_pairs(real_rows("nc/alpaca_46k.jsonl.zst", rows))
    methods = {method: make(method, model) for method in METHODS}
    for method in methods.values():
        method(prompts[:3], responses[:3])
    wall: dict[str, list[float]] = {method: [] for method in METHODS}
    cpu: dict[str, list[float]] = {method: [] for method in METHODS}
    scores, rates = {}, dict.fromkeys(OURS, 0.0)
    for number in range(rounds):
        rates = {dtype: max(rate, matrix_rate(dtype)) for dtype, rate in rates.items()}
        for name in [name for name in METHODS if number == 0 or name not in ONCE]:
            start, busy = time.perf_counter(), time.process_time()
            scores[name] = methods[name](prompts, responses)
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - busy)
    needed = operations(model, prompts, responses)
    peaks = memory(model)
    print(
        f"\n{rows} rows, {rounds} rounds, {torch.get_num_threads()} threads; "
        f"{needed / rows / 1e9:.1f} GFLOP a row"
    )
    print(
        "matrix rate: "
        + ", ".join(f"{dtype} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in rates.items())
    )
    print(
        "| method | rows/s | CPU-s a row | times the authors | share of matrix rate | peak GB | "
        "Spearman | top 10% |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in METHODS:
        ratios = np.array(wall["authors"][: len(wall[name])]) / np.array(wall[name])
        share = (
            needed
            / float(np.median(wall[name]))
            / rates[next((d for d in OURS if d in name), "float32")]
        )
        rho, overlap = agreement_of(scores["float32"], scores[name])
        print(
            f"| {name} | {rows / np.median(wall[name]):.2f} | {np.median(cpu[name]) / rows:.3f} | "
            f"{np.median(ratios):.2f} ({ratios.min():.2f}–{ratios.max():.2f}) | {share:.0%} | "
            f"{peaks[name]:.2f} | "
            f"{rho:.4f} | {overlap:.2f} |"
        )
    draw({name: rows / float(np.median(wall[name])) for name in METHODS})


def draw(rows_a_second: dict[str, float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    names = sorted(rows_a_second, key=rows_a_second.__getitem__)
    colours = ["tab:orange" if name in OURS else "tab:gray" for name in names]
    axes.bar_label(
        axes.barh(names, [rows_a_second[name] for name in names], color=colours),
        fmt="%.1f",
        padding=3,
    )
    axes.set(xlabel=f"rows/s, GPT-2 124M, {torch.get_num_threads()} cores (orange: hf_superfilter)")
    axes.margins(x=0.1)
    figure.savefig(PICTURE, dpi=80)


def agreement_of(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Spearman over rows defined in both, and the share in common of the top 10%."""
    both = np.isfinite(a) & np.isfinite(b)
    k = len(a) // 10
    top = [set(np.argsort(-np.nan_to_num(x, nan=-np.inf), kind="stable")[:k]) for x in (a, b)]
    return float(spearmanr(a[both], b[both]).statistic), len(top[0] & top[1]) / k


def memory(model: str) -> dict[str, float]:
    """Peak memory in GB of each method in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.peers", "--model", model, "--peak-of"]
    done = {
        m: subprocess.run([*command, m], capture_output=True, text=True, check=True)
        for m in METHODS
    }
    return {method: float(said.stdout.split()[-1]) for method, said in done.items()}


def print_peak(method: str, model: str) -> None:
    make(method, model)(*as_pairs(real_rows("nc/alpaca_46k.jsonl.zst", MEMORY_ROWS)))
    status = Path(
        "/proc/self/status"
    ).read_text()  # getrusage would count what the parent held at the fork
    print(int(status.split("VmHWM:")[1].split()[0]) / 1e6)


def agreement(rows: int = 1_000) -> None:
    """What each dtype does to the ranks, with the embedded strong model."""
    pairs = as_pairs(real_rows("nc/alpaca_46k.jsonl.zst", rows))
    scores = {dtype: make(dtype, embedded_model("strong"))(*pairs) for dtype in OURS}
    for dtype in OURS[1:]:
        rho, overlap = agreement_of(scores["float32"], scores[dtype])
        print(
            f"\nembedded strong, {rows} rows, {dtype} against float32: Spearman {rho:.5f}, top 10% "
            f"{overlap:.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", help="a model folder; by default a random one of GPT-2's shape")
    parser.add_argument(
        "--only", choices=("speed", "agreement"), nargs="+", default=("speed", "agreement")
    )
    parser.add_argument("--peak-of", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not SHARED.is_dir():
        print("skipped: the real rows of ../shared/data are not here")
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.peak_of:
        print_peak(options.peak_of, options.model)
        return
    if "speed" in options.only:
        with tempfile.TemporaryDirectory() as folder:
            speed(options.model or gpt2_shaped(Path(folder)), options.rows, options.rounds)
    if "agreement" in options.only:
        agreement()


if __name__ == "__main__":
    main()
