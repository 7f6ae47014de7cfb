"""Write the card of an embedded model, and the digests of all embedded files."""

import hashlib
import json
from pathlib import Path

EMBEDDED = Path(__file__).parents[2] / "hf_superfilter/embedded"
DIGESTS = EMBEDDED / "SHA256SUMS"
CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
tags: [hf_superfilter, data-selection]
---

# {name}: the embedded {name} model of hf_superfilter

A GPT-2-architecture language model of {parameters:.1f} million parameters ({layers} layers of width
{width}, 8,192 byte-level BPE tokens, a window of 1,024), trained by this project. It exists so that
demo, tests and notebooks run on something real without a network. It is a ranking model of very
modest skill: it writes no usable text and knows nothing. For data that matters, score with
`openai-community/gpt2` or larger.

## Training

{history}

{tokens:,} tokens in {batch_tokens:,}-token batches, from a stream of {corpus:,}; Muon for the
matrices, AdamW for the rest, bfloat16 products; warm-up, constant rate, cool-down to zero; last
training loss {loss:.2f}, held-out loss {held_out:.2f} nats a token (`training.jsonl` has the log).
Made by `{command}`.

| read | licence |
|---|---|
| digital.gov articles | CC0 / US public domain |
| OpenStax textbooks (philosophy, political science) | CC BY 4.0, OpenStax, Rice University |
| SQLite, PostgreSQL, Python, Apache httpd docs | public domain, PostgreSQL, PSF-2.0, Apache-2.0 |
| the Rust books | MIT OR Apache-2.0 |
| samples of Wikipedia and of C4 | CC BY-SA 3.0, ODC-BY |
| GPTeacher code and role-play | MIT |
| Self-Instruct seed tasks, LLMs-from-scratch instructions | Apache-2.0 |
| P3 tasks as of T0 | Apache-2.0, and the underlying sets' own |
| English novels before 1929, a share of their pages | public domain in the US |
| rows made of the documents: a title, sentence, term or list asked for | as the documents |

Two fifths of the instruction rows have no template, a third Alpaca's, the rest a chat's. Never
read: Dolly, Alpaca, GSM8K, AlpacaEval, and the documents that the noisy test documents were made
from.

## Measured

By `python -m benchmarks.embedded_quality`, on rows that were never read.

{quality}
"""


def read_log(folder: Path) -> tuple[dict, list[dict]]:
    """Read `training.jsonl`: the facts of its first line, and one entry a measurement."""
    first, *log = [
        json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()
    ]
    return first, log


def write_card(folder: Path) -> None:
    """Write `README.md` of a model folder from its `training.jsonl` and, if there, `quality.md`."""
    first, log = read_log(folder)
    quality = folder / "quality.md"
    measured = quality.read_text(encoding="utf-8") if quality.exists() else "Not measured yet."
    plan = first["plan"]
    card = CARD.format(
        name=folder.name,
        history=first["history"],
        command=first["command"],
        parameters=first["parameters"] / 1e6,
        layers=plan["layers"],
        width=plan["width"],
        batch_tokens=plan["batch_tokens"],
        tokens=log[-1]["tokens"],
        corpus=first["corpus"],
        loss=log[-1]["loss"],
        held_out=log[-1]["held_out_loss"],
        quality=measured.strip(),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def digests() -> dict[str, str]:
    """Return the SHA-256 of every embedded file that is no Python, by its name in the folder."""
    files = [*EMBEDDED.glob("*/*"), *EMBEDDED.glob("*.jsonl")]
    return {
        file.relative_to(EMBEDDED).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(files)
        if file.is_file() and "__pycache__" not in file.parts
    }


def write_digests() -> None:
    """Record the digests; a test compares them with the files."""
    DIGESTS.write_text("".join(f"{digest}  {name}\n" for name, digest in digests().items()))


if __name__ == "__main__":
    write_digests()
