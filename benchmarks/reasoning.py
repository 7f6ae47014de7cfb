"""Lengths and perplexities of reasoning and answer: `python -m benchmarks.reasoning`.

The 50 rows with typed reasoning and tool calls. Prints numbers; asserts nothing.
"""

import datasets
import numpy as np
from scipy.stats import spearmanr

from hf_superfilter import IFD, Reasoning, format_pairs, load_rows

from .rows import SHARED


def main():
    datasets.disable_progress_bars()
    rows = load_rows(SHARED / "instruct/lf_reason_tool_use_demo_50.jsonl.zst")
    pairs = format_pairs(rows, reasoning="split")
    columns = Reasoning("embedded:strong")(pairs[:])
    ifd = IFD("embedded:strong")(pairs[:])["ifd"]
    print({status: columns["reasoning_status"].count(status) for status in
           sorted(set(columns["reasoning_status"]))})  # fmt: skip
    for name, values in columns.items():
        if name != "reasoning_status":
            good = np.isfinite(values)
            quarters = np.percentile(np.asarray(values)[good], [25, 50, 75])
            print(f"{name}: {good.sum()} rows, quartiles {np.round(quarters, 2).tolist()}")
    gain = columns["reasoning_gain"]
    print(f"gain above 0: {(gain[np.isfinite(gain)] > 0).mean():.0%}")
    good = np.isfinite(ifd)
    length = columns["reasoning_tokens"]
    print(f"IFD with trace length: {spearmanr(ifd[good], length[good])[0]:.2f}")


if __name__ == "__main__":
    main()
