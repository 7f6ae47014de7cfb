"""What the embedded models read: openly licensed prose, documentation and instruction rows.

Two kinds of text come out of the source files: plain documents, and documents shaped like
instruction rows (prompt, response, end of text). Rows that measure the models later (Dolly,
Alpaca, GSM8K, everything under `nc/`) are never read, and neither is a document that the noisy
test documents of `text/noisy` were made from.
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

PROSE = ("digitalgov", "openstax", "sqlite_doc", "python_doc", "postgresql_doc", "rust_books", "apache_doc",
         "wiki_demo", "c4_demo")  # fmt: skip
INSTRUCTIONS = (
    "gpteacher_codegen",
    "gpteacher_roleplay",
    "t0_open",
    "selfinstruct_seed",
    "llmfs_instruct",
)
NOVEL_SHARE = 0.45  # of each novel: prose in plenty, but its English is 150 years old
ALPACA_PROMPT = (
    "Below is an instruction that describes a task{with_input}. Write a response that "
    "appropriately "
    "completes the request.\n\n### Instruction:\n{instruction}\n\n{input}### Response:"
)
TITLE_PROMPTS = (
    "Write an article about {}.",
    "What is {}?",
    "Explain {}.",
    "Tell me about {}.",
    "{}",
)
QUOTE_PROMPTS = (
    "What does the text say about {}?",
    "Given the text, answer: what about {}?",
    "Extract the sentence on {}.",
)


def read_rows(path: Path) -> Iterator[dict]:
    """The objects of a zstd-compressed JSON Lines file, split on newline characters only."""
    with pa.input_stream(str(path), compression="zstd") as stream:
        yield from (json.loads(line) for line in stream.read().decode().split("\n") if line)


def as_prompts(instruction: str, context: str) -> tuple[str, str]:
    """The two prompts a row is read with: the Superfiltering authors' plain one, and Alpaca's."""
    plain = f"{instruction}\n{context}\n" if context else f"{instruction}\n"
    alpaca = ALPACA_PROMPT.format(
        instruction=instruction,
        with_input=", paired with an input that provides further context" if context else "",
        input=f"### Input:\n{context}\n\n" if context else "",
    )
    return plain, alpaca


def title_of(document: dict) -> str:
    """A document's subject, from its name or its first line: the topic a prompt can ask for."""
    name = document["id"].split("/")[-1].removesuffix(".html")
    if document["source"] == "digitalgov":
        return re.sub(r"^[\d-]+", "", name).replace("-", " ")
    return document["text"].strip().split("\n")[0].strip(" ¶")[:80]


def shaped_like_instructions(document: dict, rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """(instruction, input, response) rows made from one document: its subject asked for, a sentence
    found in it.
    """
    paragraphs = [
        " ".join(p.split()) for p in re.split(r"\n\s*\n", document["text"]) if 200 < len(p) < 1500
    ]
    if not paragraphs:
        return
    yield (
        rng.choice(TITLE_PROMPTS).format(title_of(document)),
        "",
        "\n\n".join(paragraphs[:3])[:2000],
    )
    for paragraph in rng.sample(paragraphs, min(3, len(paragraphs))):
        sentences = [s for s in re.split(r"(?<=[.!?])\s+", paragraph) if 30 < len(s) < 300]
        if len(sentences) > 1:
            sentence = rng.choice(sentences)
            word = max(re.findall(r"\w+", sentence), key=len)
            yield rng.choice(QUOTE_PROMPTS).format(word), paragraph, sentence


def documents(data: Path, seed: int) -> list[tuple[str, str]]:
    """(kind, text) of every training document, ordered so that instruction rows come mostly late.

    `kind` is "novel", "prose" or "instruction". A document's place is a random number; an
    instruction row draws two and takes the larger, so that its density grows towards the end.
    """
    rng = random.Random(seed)
    held_out = {row["base"] for row in read_rows(data / "text/noisy.jsonl.zst")}
    placed: list[tuple[float, str, str]] = []

    def add_rows(instruction: str, context: str, response: str, prompts: int) -> None:
        if response.strip():
            for prompt in rng.sample(as_prompts(instruction, context), prompts):
                placed.append((max(rng.random(), rng.random()), "instruction", prompt + response))

    for source in PROSE:
        for document in read_rows(data / f"text/{source}.jsonl.zst"):
            if document["id"] not in held_out:
                placed.append((rng.random(), "prose", document["text"]))
                for parts in shaped_like_instructions(document, rng):
                    add_rows(*parts, prompts=1)
    for novel in read_rows(data / "text/novels.jsonl.zst"):
        if novel["id"] not in held_out:
            pages = [novel["text"][i : i + 6000] for i in range(0, len(novel["text"]), 6000)]
            placed += [
                (rng.random() * 0.8, "novel", p) for p in pages if rng.random() < NOVEL_SHARE
            ]
    for source in INSTRUCTIONS:
        for row in read_rows(data / f"instruct/{source}.jsonl.zst"):
            add_rows(
                row["instruction"],
                row["input"],
                row["output"],
                prompts=1 if source == "t0_open" else 2,
            )
    return [(kind, text) for _, kind, text in sorted(placed)]
