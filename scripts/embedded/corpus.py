"""Read the training corpus: openly licensed prose, documentation and instruction rows.

Three kinds of text come out of the source files: plain documents, instruction rows (prompt,
response, end of text), and rows of that shape made from the documents. Rows that measure the
models later (Dolly, Alpaca, GSM8K, everything under `nc/`) are never read, and neither is a
document that the noisy test documents of `text/noisy` were made from.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

# Copies of a document in one pass: general prose is scarce, technical documentation is not.
PROSE = {
    "digitalgov": 1,
    "openstax": 2,
    "wiki_demo": 2,
    "c4_demo": 2,
    "rust_books": 0.6,
    "sqlite_doc": 0.4,
    "python_doc": 0.4,
    "postgresql_doc": 0.4,
    "apache_doc": 0.4,
}
# Copies of a row in one pass: hand-written and model-written rows are few, P3's are many and terse.
INSTRUCTIONS = {
    "gpteacher_codegen": 1,
    "gpteacher_roleplay": 2,
    "t0_open": 0.6,
    "selfinstruct_seed": 3,
    "llmfs_instruct": 2,
}
NOVEL_SHARE = 0.08  # of the pages in one pass: plenty of prose, its English 150 years old
HELD_OUT_SHARE = 0.01  # of documents and rows, by a hash of their text: never trained on
FORM_SHARES = {"plain": 0.4, "alpaca": 0.35, "chat": 0.25}  # forms that users bring

ALPACA_PROMPT = (
    "Below is an instruction that describes a task{with_input}. Write a response that "
    "appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n{input}### Response:"
)
CHAT_PROMPTS = (
    "User: {}\n\nAssistant: ",
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "### Human: {}\n### Assistant: ",
    "[INST] {} [/INST] ",
)
TITLE_PROMPTS = (
    "Write an article about {}.",
    "What is {}?",
    "Explain {}.",
    "Tell me about {}.",
    "{}",
    "What do you know about {}?",
    "Describe {}.",
    "Write about {}",
)
QUESTION_PROMPTS = (
    "What is {}?",
    "What does {} mean?",
    "Define {}.",
    "what is {}",
    "Tell me about {}",
)
QUOTE_PROMPTS = (
    "What does the text say about {}?",
    "Given the text, answer: what about {}?",
    "Extract the sentence on {}.",
    "Based on this text, what can you tell me about {}?",
    "Given a reference text, tell me about {}.",
)
SUMMARY_PROMPTS = (
    "Summarize the text.",
    "What is this passage about?",
    "Give me a one sentence summary of the following text.",
    "Summarise the paragraph below.",
)
CONTINUE_PROMPTS = ("Continue the text.", "Write the next sentences.", "How does this text go on?")
LIST_PROMPTS = ("List {}", "Give me a list: {}", "What are {}?", "{}")
NAME_PROMPTS = (
    "List the names in the text.",
    "Extract the names mentioned in this passage.",
    "Which names does the text mention? Separate them with commas.",
)
CLASS_PROMPTS = (
    "Classify each of the following as {} or {}: {}",
    "Which of these are about {} and which about {}? {}",
    "Identify which of the following belongs to {} or {}: {}",
)


def read_rows(path: Path) -> Iterator[dict]:
    """Yield the objects of a zstd-compressed JSON Lines file, split on newline characters only."""
    with pa.input_stream(str(path), compression="zstd") as stream:
        yield from (json.loads(line) for line in stream.read().decode().split("\n") if line)


def as_prompts(instruction: str, context: str) -> dict[str, str]:
    """Return a row's prompt without a template, in Alpaca's, and as the text of a chat's user."""
    return {
        "plain": f"{instruction}\n{context}\n" if context else f"{instruction}\n",
        "alpaca": ALPACA_PROMPT.format(
            instruction=instruction,
            with_input=", paired with an input that provides further context" if context else "",
            input=f"### Input:\n{context}\n\n" if context else "",
        ),
        "chat": f"{instruction}\n\n{context}" if context else instruction,
    }


def as_text(instruction: str, context: str, response: str, rng: random.Random) -> str:
    """Return the text of a row, its prompt in one of the forms that users bring."""
    form = rng.choices(list(FORM_SHARES), list(FORM_SHARES.values()))[0]
    prompt = as_prompts(instruction, context)[form]
    if form == "chat":
        prompt = rng.choice(CHAT_PROMPTS).format(prompt)
    return prompt + response


def without_line_breaks(text: str) -> str:
    """Join the lines of a paragraph that its source wrapped at a column."""
    return re.sub(r"(?<=[a-z,;)])\n(?=[a-z(])", " ", text.replace("¶", ""))


def title_of(document: dict) -> str:
    """Return the topic that a prompt can ask for, from a document's name or first line."""
    name = document["id"].split("/")[-1].removesuffix(".html")
    if document["source"] == "digitalgov":
        return re.sub(r"^[\d-]+", "", name).replace("-", " ")
    return document["text"].strip().split("\n")[0].strip(" ¶")[:80]


def names_in(text: str) -> list[str]:
    """Return the capitalised phrases inside the sentences of a text, each once, in order."""
    return list(dict.fromkeys(re.findall(r"(?<=[a-z,] )[A-Z][\w-]+(?: [A-Z][\w-]+)*", text)))


def rows_of_a_paragraph(paragraph: str, rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Yield (instruction, input, response) rows whose response stands in the paragraph."""
    sentences = [s for s in re.split(r"(?<=[.!?])\s+", paragraph) if 30 < len(s) < 300]
    if len(sentences) < 2:
        return
    sentence = rng.choice(sentences)
    word = max(re.findall(r"\w+", sentence) or [""], key=len)
    yield rng.choice(QUOTE_PROMPTS).format(word), paragraph, sentence
    yield rng.choice(SUMMARY_PROMPTS), paragraph, sentences[0]
    half = len(sentences) // 2
    yield rng.choice(CONTINUE_PROMPTS), " ".join(sentences[:half]), " ".join(sentences[half:])
    names = names_in(paragraph)
    if len(names) > 1:
        listed = (
            ", ".join(names) if rng.random() < 0.5 else "\n".join(f"- {name}" for name in names)
        )
        yield rng.choice(NAME_PROMPTS), paragraph, listed


def definitions_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield (term, sentences) where a paragraph opens with "The term is a ..."."""
    for paragraph in re.split(r"\n\s*\n", text):
        opening = re.match(
            r"(?:An?|The)? ?([A-Za-z][\w.() -]{2,40}?) (?:is|are) (?:an?|the|used|called)\b",
            paragraph,
        )
        if opening and len(paragraph) > 60:
            yield opening[1], " ".join(paragraph.split())[:700].rsplit(". ", 1)[0].rstrip(".") + "."


def lists_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield (heading, list) where a line is followed by a list with dashes."""
    for block in re.finditer(r"([^\n]{10,120}?):?\n+((?:- [^\n]{3,200}\n+){3,12})", text + "\n"):
        yield block[1].strip(), re.sub(r"\n+", "\n", block[2]).strip()


def shaped_like_instructions(document: dict, rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Yield rows made from one document: its subject, sentences, terms and lists asked for."""
    text = document["text"]
    paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", text) if 200 < len(p) < 1500]
    if not paragraphs:
        return
    yield (
        rng.choice(TITLE_PROMPTS).format(title_of(document)),
        "",
        "\n\n".join(paragraphs[:3])[:2000],
    )
    count = min(len(paragraphs), 2 + len(text) // 4_000)
    for paragraph in rng.sample(paragraphs, count):
        rows = list(rows_of_a_paragraph(paragraph, rng))
        if rows:
            yield rng.choice(rows)
    definitions = list(definitions_in(text))
    for term, explanation in rng.sample(definitions, min(4, len(definitions))):
        yield rng.choice(QUESTION_PROMPTS).format(term), "", explanation
    lists = list(lists_in(text))
    for heading, listed in rng.sample(lists, min(2, len(lists))):
        yield rng.choice(LIST_PROMPTS).format(heading), "", listed


def classification(one: dict, other: dict, rng: random.Random) -> tuple[str, str, str] | None:
    """Return a row that sorts the names of two documents under their titles."""
    groups = [title_of(one), title_of(other)]
    names = [(name, group) for document, group in zip((one, other), groups, strict=True)
             for name in names_in(document["text"][:20_000])[:3]]  # fmt: skip
    if len(names) < 4:
        return None
    rng.shuffle(names)
    instruction = rng.choice(CLASS_PROMPTS).format(*groups, ", ".join(name for name, _ in names))
    if rng.random() < 0.5:
        response = "\n".join(f"{name}: {group}" for name, group in names)
    else:
        response = "\n".join(
            f"{g}: {', '.join(name for name, group in names if group == g)}" for g in groups
        )
    return instruction, "", response


def is_held_out(text: str) -> bool:
    """Say whether the hash of a text puts it among the held-out share."""
    return hashlib.sha256(text.encode()).digest()[0] < 256 * HELD_OUT_SHARE


def with_rows(document: dict, rng: random.Random) -> list[str]:
    """Return the text of a document and of the rows made from it."""
    rows = shaped_like_instructions(document, rng)
    return [document["text"], *(as_text(*row, rng) for row in rows)]


def prose(data: Path, spoilt: set[str], rng: random.Random) -> tuple[list[str], list[str]]:
    """Return the documents and the rows made of them, and the held-out documents."""
    texts: list[str] = []
    held_out: list[str] = []
    read: list[dict] = []
    for source, copies in PROSE.items():
        for document in read_rows(data / f"text/{source}.jsonl.zst"):
            if document["id"] in spoilt:
                continue
            document["text"] = without_line_breaks(document["text"])
            if is_held_out(document["text"]):
                held_out.append(document["text"])
                continue
            for _ in range(int(copies + rng.random())):
                texts += with_rows(document, rng)
                read.append(document)
    pairs = zip(rng.sample(read, len(read)), rng.sample(read, len(read)), strict=True)
    rows = [classification(one, other, rng) for one, other in pairs]
    return texts + [as_text(*row, rng) for row in rows if row], held_out


def novel_pages(data: Path, spoilt: set[str], rng: random.Random) -> list[str]:
    """Return a share of the pages of the novels, 6,000 characters each."""
    texts: list[str] = []
    for novel in read_rows(data / "text/novels.jsonl.zst"):
        if novel["id"] not in spoilt:
            pages = [novel["text"][i : i + 6000] for i in range(0, len(novel["text"]), 6000)]
            texts += [page for page in pages if rng.random() < NOVEL_SHARE]
    return texts


def instruction_rows(data: Path, rng: random.Random) -> tuple[list[str], list[str]]:
    """Return the rows of the instruction sets, and the held-out rows."""
    texts: list[str] = []
    held_out: list[str] = []
    for source, copies in INSTRUCTIONS.items():
        for row in read_rows(data / f"instruct/{source}.jsonl.zst"):
            if not row["output"].strip():
                continue
            place = held_out if is_held_out(row["instruction"] + row["input"]) else texts
            for _ in range(int(copies + rng.random())):
                place.append(as_text(row["instruction"], row["input"], row["output"], rng))
    return texts, held_out


def documents(data: Path, seed: int) -> tuple[list[str], list[str]]:
    """Return the texts of one pass in random order, and the held-out texts.

    The seed decides the order, the forms of the prompts, and the rows made of the documents.
    """
    rng = random.Random(seed)
    spoilt = {row["base"] for row in read_rows(data / "text/noisy.jsonl.zst")}
    texts, held_out = prose(data, spoilt, rng)
    texts += novel_pages(data, spoilt, rng)
    rows, held_out_rows = instruction_rows(data, rng)
    texts += rows
    rng.shuffle(texts)
    return texts, held_out + held_out_rows
