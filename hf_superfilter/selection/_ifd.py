"""Recognise IFD scores, of which only values below 1 are worth selecting."""

from typing import TYPE_CHECKING

from ..data.columns import numbers_of

if TYPE_CHECKING:
    from datasets import Dataset

IFD_LIMIT = 1.0  # at and above it, the prompt does not help to predict the response


def is_ifd(table: "Dataset", column: str) -> bool:
    """Return whether a column is an IFD score: its two perplexities stand beside it."""
    return {f"{column}_ppl", f"{column}_ppl_alone"} <= set(table.column_names)


def has_low_ifd(table: "Dataset", column: str) -> bool:
    """Return whether a column is an IFD score with a value below 1."""
    return is_ifd(table, column) and bool((numbers_of(table, column) < IFD_LIMIT).any())
