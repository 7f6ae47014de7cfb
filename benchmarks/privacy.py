"""What `Privacy` finds in real rows: `python -m benchmarks.privacy`. Prints counts and examples."""

import time

import datasets

from hf_superfilter import Privacy, format_pairs, load_rows
from hf_superfilter.scoring.privacy import PATTERNS, identifiers

from .rows import SHARED


def main():
    datasets.disable_progress_bars()
    for name in ("nc/alpaca_46k", "instruct/dolly", "instruct/gpteacher_codegen"):
        batch = format_pairs(load_rows(SHARED / f"{name}.jsonl.zst"))[:]
        start = time.process_time()
        columns = Privacy()(batch)
        seconds = time.process_time() - start
        hit = int((columns["privacy"] > 0).sum())
        print(f"{name}: {hit:,} of {len(batch['prompt']):,} rows hit, {seconds:.1f} s of CPU")
        for kind in PATTERNS:
            texts = [*batch["prompt"], *batch["response"]]
            found = [match for text in texts if text for match in identifiers(text, kind)]
            print(f"    {kind} {len(found):,}: {', '.join(found[:12])}")


if __name__ == "__main__":
    main()
