"""Read columns of text in blocks of rows, so that memory does not grow with their size."""

import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import Batch
from ..errors import SuperfilterError, did_you_mean
from ..tables.row_blocks import row_blocks

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

# Scripts without blanks between words, each of whose characters is a word: Thai to Lao, Burmese,
# Khmer, Japanese, Chinese, Korean.
SINGLE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u312f\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7af"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)


def is_text(feature: Any) -> bool:
    """Return whether a feature of a table is one text in each row."""
    return getattr(feature, "dtype", None) in ("string", "large_string")


def is_texts(feature: Any) -> bool:
    """Return whether a feature is a list of texts in each row, as the turns of a chat are."""
    return is_text(getattr(feature, "feature", None))


def column_blocks(table: "Dataset", column: str) -> "Iterator[pa.ChunkedArray]":
    """Yield the cells of a column in their order, some at a time, see `row_blocks`."""
    for block in row_blocks(table, [column]):
        yield block.column(column)


def text_lengths(table: "Dataset", column: str) -> np.ndarray | None:
    """Count the characters in each row of a column, of all turns of a chat.

    Returns:
        (n,) int64, 0 for null; None where no such column holds texts.

    Example:
        >>> from datasets import Dataset
        >>> table = Dataset.from_dict({"response": ["four", None], "turns": [["a", "bc"], []]})
        >>> text_lengths(table, "response").tolist(), text_lengths(table, "turns").tolist()
        ([4, 0], [3, 0])
    """
    import pyarrow.compute as pc

    feature = table.features.get(column)
    if not is_text(feature) and not is_texts(feature):
        return None
    parts = [np.zeros(0, dtype=np.int64)]
    for cells in column_blocks(table, column):
        if is_text(feature):
            parts.append(pc.fill_null(pc.utf8_length(cells), 0).to_numpy())
        else:
            turns = pc.fill_null(pc.utf8_length(pc.list_flatten(cells)), 0).to_numpy()
            rows = pc.list_parent_indices(cells).to_numpy()
            parts.append(np.bincount(rows, weights=turns, minlength=len(cells)))
    return np.concatenate(parts).astype(np.int64)


def text_heads(table: "Dataset", column: str, characters: int) -> Iterator[str]:
    """Yield the first characters of each row's text, the turns of a chat joined by a space."""
    import pyarrow.compute as pc

    feature = table.features[column]
    for cells in column_blocks(table, column):
        if is_text(feature):
            heads = pc.utf8_slice_codeunits(cells, 0, characters).to_pylist()
        else:
            heads = cells.to_pylist()
        for cell in heads:
            yield _joined(cell)[:characters]


def _joined(cell: Any) -> str:
    if isinstance(cell, list):
        return " ".join(str(turn) for turn in cell if turn)
    return "" if cell is None else str(cell)


def check_text_columns(columns: Any) -> tuple[str, ...]:
    """Check the names of one or more columns of text; YAML hands over a list."""
    listed = isinstance(columns, (list, tuple)) and len(columns) > 0
    if not listed or not all(isinstance(name, str) and name for name in columns):
        raise SuperfilterError(
            f"columns={columns!r}: list the columns of text, such as ['prompt', 'response']"
        )
    return tuple(columns)


def row_texts(table: "Dataset", rows: np.ndarray, columns: Sequence[str]) -> Iterator[str]:
    """Yield the text of each of some rows, a block of them in memory at a time.

    Args:
        rows: (m,) row numbers, in any order.
        columns: joined by a line break, as the turns of a chat are; null is the empty text.

    Raises:
        SuperfilterError: there is no such column, or it does not hold texts.
    """
    check_texts(table, columns)
    for block in row_blocks(table.select_columns(list(columns)).select(rows)):
        yield from joined_texts(block.to_pydict(), columns)


def check_texts(table: "Dataset", columns: Sequence[str]) -> None:
    """Refuse columns that are missing or hold no texts."""
    for column in columns:
        if column not in table.column_names:
            hint = did_you_mean(column, table.column_names)
            raise SuperfilterError(f"no column {column!r} in the table: {hint}")
        feature = table.features[column]
        is_null = getattr(feature, "dtype", None) == "null"  # no row has a text
        if not is_null and not is_text(feature) and not is_texts(feature):
            raise SuperfilterError(
                f"column {column!r} holds {feature!r:.60}, not texts: name columns of text with "
                "columns=[...]"
            )


def joined_texts(batch: Batch, columns: Sequence[str]) -> list[str]:
    """Return the text of each row of a batch, as `row_texts` joins it.

    Example:
        >>> joined_texts({"prompt": ["Hi", None], "turns": [["a", "b"], []]}, ["prompt", "turns"])
        ['Hi\\na\\nb', '\\n']
    """
    parts = [batch[column] for column in columns]
    return ["\n".join(map(_lines, cells)) for cells in zip(*parts, strict=True)]


def _lines(cell: Any) -> str:
    if isinstance(cell, list):
        return "\n".join(turn or "" for turn in cell)
    return cell or ""


@lru_cache(maxsize=1)
def _word() -> "re.Pattern[str]":
    """Compile what a word is: letters and digits, each with the marks on it.

    Vowels of Hindi or Thai are marks, which `re` takes for no part of a word.
    """
    marks = "".join(
        character
        for character in map(chr, range(0x10000))
        if unicodedata.category(character) in ("Mn", "Mc")
    )
    return re.compile(rf"(?=\w)[{SINGLE}][{marks}]*|[^\W{SINGLE}](?:[^\W{SINGLE}]|[{marks}])*")


def words_of(text: str) -> list[str]:
    """List words in lower case; characters of scripts without blanks singly.

    Texts that look alike are alike: letters and marks are composed, wide and narrow forms are one.

    Example:
        >>> words_of("Don't say \u4f60\u597d, Bob!")
        ['don', 't', 'say', '\u4f60', '\u597d', 'bob']
        >>> words_of("Cafe\u0301 \uff21\uff22") == words_of("caf\u00e9 ab")
        True
    """
    return _word().findall(unicodedata.normalize("NFKC", text).casefold())


def word_ngrams(text: str, size: int) -> np.ndarray:
    """Hash the different runs of `size` words of a text.

    A shorter text is one run, and a text without words one run of its characters.

    Returns:
        (g,) uint32, sorted, each once.
    """
    words = words_of(text) or [text]
    runs = [" ".join(words[i : i + size]) for i in range(max(len(words) - size + 1, 1))]
    hashes = [zlib.crc32(run.encode("utf-8", "surrogatepass")) for run in runs]
    return np.unique(np.array(hashes, dtype=np.uint32))
