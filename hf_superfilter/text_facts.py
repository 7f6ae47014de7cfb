"""What a selection did to tokens and writing systems: kept rows against all of them."""

import unicodedata
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .facts import kept_mask
from .table import holds_numbers, numbers_of

if TYPE_CHECKING:
    from .funnel import Selection

LETTERS = 200  # of each response, enough to tell its writing system


def token_facts(selection: "Selection") -> list[dict[str, Any]]:
    """Response tokens by every `*_tokens` column: sums and means over the kept and over all defined rows."""
    kept, facts = kept_mask(selection), []
    for column in selection.table.column_names:
        if not column.endswith("_tokens") or not holds_numbers(selection.table, column):
            continue
        values = numbers_of(selection.table, column)
        defined = np.isfinite(values)
        mine, every = values[defined & kept], values[defined]
        if len(every):
            means = {"mean_kept": float(mine.mean()) if len(mine) else None, "mean_all": float(every.mean())}
            facts.append({"column": column, "kept": int(mine.sum()), "all": int(every.sum()), **means})
    return facts


def script_facts(selection: "Selection") -> list[dict[str, Any]]:
    """Rows and kept rows by the writing system that most letters of a response belong to; [] without responses.

    Read from the first letters of each response; the name is the first word of the letters' Unicode names.
    """
    if "response" not in selection.table.column_names:
        return []
    kept = kept_mask(selection)
    scripts = [_script(_text(cell)) for cell in selection.table["response"][:]]
    mine = Counter(script for script, k in zip(scripts, kept, strict=True) if k)
    return [{"script": name, "rows": rows, "kept": mine[name]} for name, rows in Counter(scripts).most_common()]


def _text(cell: Any) -> str:
    return " ".join(filter(None, map(str, cell))) if isinstance(cell, list) else str(cell or "")


def _script(text: str) -> str:
    head = text[: 4 * LETTERS]
    if head.isascii():
        return "Latin" if any(map(str.isalpha, head)) else "no letters"
    letters = [letter for letter in head if letter.isalpha()][:LETTERS]
    return Counter(map(_script_of_letter, letters)).most_common(1)[0][0] if letters else "no letters"


@lru_cache(maxsize=4_096)
def _script_of_letter(letter: str) -> str:
    word = unicodedata.name(letter, "unknown").split()[0]
    return {"CJK": "Han"}.get(word, word.capitalize())
