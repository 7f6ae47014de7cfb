"""What the benchmarks run on: real rows beside the project, and a random model of GPT-2's shape."""

from itertools import islice
from pathlib import Path

from scripts.embedded.corpus import read_rows

SHARED = Path(__file__).parents[2] / "shared" / "data"


def real_rows(name: str, count: int | None = None) -> list[dict]:
    """The first rows of a zstd-compressed JSON Lines file of `../shared/data`, in file order."""
    return list(islice(read_rows(SHARED / name), count))


def as_pairs(rows: list[dict]) -> tuple[list[str], list[str]]:
    """Prompts and responses in the authors' form, without a template."""
    prompts = [r["instruction"] + "\n" + (r["input"] + "\n" if r["input"] else "") for r in rows]
    return prompts, [r["output"] for r in rows]


def gpt2_shaped(folder: Path) -> str:
    """A random model of GPT-2's 124M shape with GPT-2's real tokenizer, written into a folder.

    Weights are three times as large as initialised, so that losses differ from token to token.
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config())
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(3.0)
    model.save_pretrained(folder)
    GPT2TokenizerFast.from_pretrained(str(SHARED / "gpt2")).save_pretrained(folder)
    return str(folder)
