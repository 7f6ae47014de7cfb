"""Speed of IFD beside every peer in one run: `python -m benchmarks.peers` (make bench). Prints
tables; asserts nothing.

speed: interleaved in one process, the authors' loop, ours in float32, bfloat16 and int8, OpenVINO
and CTranslate2 where they are installed, and two tools' way of batching, on the first rows of
`nc/alpaca_46k` and random models of the shapes of GPT-2 and SmolLM2-135M; then the peak memory of
each in a process of its own, and a picture. agreement: what each dtype does to the ranks.
Machines are shared and noisy: read the ratios. With `--threads 1` every time is CPU-seconds, which
others on the machine change less.

The engines were openvino 2026.4.1 and ctranslate2 4.8.5, in an environment apart from the
project's: `pip install openvino==2026.4.1 ctranslate2==4.8.5`.
"""

import argparse
import importlib.util
import json
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
from transformers import AutoModelForCausalLM

from benchmarks.authors import Authors
from benchmarks.others import CTranslate2, DataJuicer, OdaDataScorer, OpenVINO
from benchmarks.rows import SHARED, as_pairs, gpt2_shaped, llama_shaped, real_rows
from hf_superfilter import IFD, embedded_model
from hf_superfilter.models.cpu_linear import Int8Linear, use_onednn

OURS = ("float32", "bfloat16", "int8")
ENGINES = {"openvino": OpenVINO, "ctranslate2": CTranslate2}
OFFERED = (
    "openvino float32",
    "openvino bfloat16",
    "ctranslate2 float32",
    "ctranslate2 int8",
)
PEERS = tuple(name for name in OFFERED if importlib.util.find_spec(name.split()[0]))
METHODS = ("authors", *OURS, *PEERS, "as data-juicer", "as oda-datascorer")
ONCE = ("as data-juicer", "as oda-datascorer")  # slow: in the first round only
SHAPES = {"gpt2": gpt2_shaped, "llama": llama_shaped}
PICTURE = Path(__file__).with_name("peers.png")
MEMORY_ROWS = 24
FEATURES = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")

Method = Callable[[list[str], list[str]], np.ndarray]


def make(method: str, model: str, device: str = "cpu") -> Method:
    """A function from prompts and responses to IFD."""
    if method == "authors":
        return Authors(model, device).ifd
    if method in PEERS:
        engine, dtype = method.split()
        return ENGINES[engine](model, dtype, torch.get_num_threads()).ifd
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
        start, count = clock(), 0
        while (spent := clock() - start) < seconds:
            multiply()
            wait()
            count += 1
    return count * 2 * tokens * 768 * 3_072 / spent


def clock() -> float:
    """Seconds: of the wall's clock, or of the CPU where one thread computes."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def operations(model: str, prompts: list[str], responses: list[str]) -> float:
    """Multiply-adds, counted twice, that IFD needs: layers on all tokens, the vocabulary on scored
    ones.
    """
    lm = IFD(model, dtype="float32").language_model()
    config = lm.model.config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config)
    tables = [part for part in plain.modules() if isinstance(part, torch.nn.Embedding)]
    weights = plain.num_parameters() - sum(table.weight.numel() for table in tables)
    total = 0.0
    for pair in lm.windows(prompts, responses):
        for window in pair if pair.alone.scored else ():
            n = len(window.ids)
            # Attention of a causal model is half of 4 n n d.
            total += 2 * n * weights + 2 * n * n * config.hidden_size * config.num_hidden_layers
            total += 2 * window.scored * config.hidden_size * config.vocab_size
    return total


def processor() -> str:
    """The processor, its features that matter here, and the threads that compute."""
    told = dict(
        line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line
    )
    told = {key.strip(): value.strip() for key, value in told.items()}
    name = f"{told['model name']} (family {told['cpu family']}, model {told['model']})"
    capabilities = torch.cpu.get_capabilities()
    features = [feature for feature in FEATURES if capabilities.get(feature)]
    return f"{name}: {' '.join(features)}; {torch.get_num_threads()} threads of {os.cpu_count()}"


def speed(
    model: str, shape: str, rows: int, rounds: int, names: list[str], with_memory: bool
) -> None:
    """The interleaved table, with memory, and the picture."""
    prompts, responses = as_pairs(real_rows("nc/alpaca_46k.jsonl.zst", rows))
    methods = {method: make(method, model) for method in names}
    for method in methods.values():
        method(prompts[:3], responses[:3])
    spent: dict[str, list[float]] = {method: [] for method in names}
    scores, rates = {}, dict.fromkeys(OURS, 0.0)
    for number in range(rounds):
        rates = {dtype: max(rate, matrix_rate(dtype)) for dtype, rate in rates.items()}
        for name in [name for name in names if number == 0 or name not in ONCE]:
            start = clock()
            scores[name] = methods[name](prompts, responses)
            spent[name].append(clock() - start)
    needed = operations(model, prompts, responses)
    peaks = dict.fromkeys(names, float("nan"))
    if with_memory:
        peaks = memory(model, names, prompts[:MEMORY_ROWS], responses[:MEMORY_ROWS])
    unit = "CPU-second" if torch.get_num_threads() == 1 else "second"
    print(f"\n{processor()}")
    print(f"{shape}: {rows} rows, {rounds} rounds; {needed / rows / 1e9:.1f} GFLOP a row")
    for dtype, rate in rates.items():
        print(f"matrix rate in {dtype}: {rate / 1e9:,.0f} G a {unit}")
    print(
        f"| method | rows a {unit} | times the authors | times the fastest engine | "
        "share of matrix rate | peak GB | Spearman | top 10% |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    best = {name: float(np.min(seconds)) for name, seconds in spent.items()}
    for name in names:
        dtype = next((dtype for dtype in OURS if dtype in name), "float32")
        share = needed / best[name] / rates[dtype]
        rho, overlap = agreement_of(scores["float32"], scores[name])
        engines = [best[peer] for peer in names if peer in PEERS and peer.endswith(dtype)]
        lead = f"{min(engines) / best[name]:.2f}" if name in OURS and engines else ""
        print(
            f"| {name} | {rows / best[name]:.2f} | {best['authors'] / best[name]:.2f} | {lead} | "
            f"{share:.0%} | {peaks[name]:.2f} | {rho:.4f} | {overlap:.2f} |"
        )
    if shape == "gpt2":
        draw({name: rows / best[name] for name in names}, unit)


def draw(rows_a_second: dict[str, float], unit: str) -> None:
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
    axes.set(xlabel=f"rows a {unit}, GPT-2's shape (orange: hf_superfilter)")
    axes.margins(x=0.1)
    figure.savefig(PICTURE, dpi=80)


def agreement_of(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Spearman over rows defined in both, and the share in common of the top 10%."""
    from scipy.stats import spearmanr  # here, since it would count as memory of every method

    both = np.isfinite(a) & np.isfinite(b)
    k = max(1, len(a) // 10)
    top = [set(np.argsort(-np.nan_to_num(x, nan=-np.inf), kind="stable")[:k]) for x in (a, b)]
    return float(spearmanr(a[both], b[both]).statistic), len(top[0] & top[1]) / k


def memory(
    model: str, names: list[str], prompts: list[str], responses: list[str]
) -> dict[str, float]:
    """Peak memory in GB of each method in a process of its own."""
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-m", "benchmarks.peers", "--model", model, "--threads", threads]
    options = {"input": json.dumps([prompts, responses]), "capture_output": True, "text": True}
    done = {
        name: subprocess.run([*command, "--peak-of", name], check=True, **options) for name in names
    }
    return {method: float(said.stdout.split()[-1]) for method, said in done.items()}


def print_peak(method: str, model: str) -> None:
    """Score the rows of the standard input; print the most memory that this process held."""
    make(method, model)(*json.load(sys.stdin))
    # getrusage would count what the parent held at the fork.
    status = Path("/proc/self/status").read_text()
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
    parser.add_argument("--threads", type=int, help="by default one for each core")
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=METHODS)
    parser.add_argument("--shapes", choices=SHAPES, nargs="+", default=tuple(SHAPES))
    parser.add_argument("--model", help="a model folder; by default random ones of the shapes")
    parser.add_argument(
        "--only",
        choices=("speed", "memory", "agreement"),
        nargs="+",
        default=("speed", "memory", "agreement"),
        help="memory goes with speed",
    )
    parser.add_argument("--peak-of", choices=METHODS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not SHARED.is_dir():
        print("skipped: the real rows of ../shared/data are not here")
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.peak_of:
        print_peak(options.peak_of, options.model)
        return
    for shape in options.shapes if "speed" in options.only else ():
        with tempfile.TemporaryDirectory() as folder:
            model = options.model or SHAPES[shape](Path(folder))
            names, with_memory = list(options.methods), "memory" in options.only
            speed(model, shape, options.rows, options.rounds, names, with_memory)
    if "agreement" in options.only:
        agreement()


if __name__ == "__main__":
    main()
