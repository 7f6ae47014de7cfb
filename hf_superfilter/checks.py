"""Check and normalise settings that several packages share.

Each `check_` function raises a SuperfilterError that names the setting, the value and what to give.
"""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import SuperfilterError, WrongTypeError


def plain_number(value: Any) -> Any:
    """Turn a numpy scalar into a Python number; return anything else as it is.

    A float goes by its text, so that float32 0.29 becomes 0.29 and not 0.28999999166.

    Example:
        >>> import numpy as np
        >>> plain_number(np.float32(0.29)), plain_number(np.int64(7)), plain_number(None)
        (0.29, 7, None)
    """
    if isinstance(value, np.floating):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value


def plain_numbers(settings: object, *names: str) -> None:
    """Turn numpy scalars among settings into Python numbers.

    The repr and the YAML of a frozen dataclass need them.
    """
    for name in names:
        object.__setattr__(settings, name, plain_number(getattr(settings, name)))


def is_number(value: Any) -> bool:
    """Return whether a setting is a finite number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def is_count(value: Any, least: int = 1) -> bool:
    """Return whether a setting is a whole number, and large enough."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_column(by: Any) -> None:
    """Refuse what cannot be the name of a column."""
    if not isinstance(by, str) or not by:
        raise SuperfilterError(f"by={by!r}: name the column to select by, such as 'ifd'")


def check_seed(seed: Any) -> None:
    """Refuse a seed that is no whole number."""
    if not is_count(seed, least=0):
        raise SuperfilterError(f"seed={seed!r}: give a whole number, 0 or more")


def check_switch(name: str, value: Any) -> None:
    """Refuse a switch that is neither True nor False."""
    if not isinstance(value, bool):
        raise SuperfilterError(f"{name}={value!r}: give True or False")


def check_name(name: str) -> None:
    """Refuse a scorer's name that is no column prefix, folder and YAML value."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w-]*", name):
        raise SuperfilterError(
            f"name={name!r}: a scorer's name is made of letters, digits, '_' and '-'"
        )


def pair_of_columns(columns: Sequence[str]) -> tuple[str, str]:
    """Check the names of the prompt and response columns; YAML hands over a list."""
    listed = isinstance(columns, Sequence) and not isinstance(columns, str)
    if not listed or len(columns) != 2 or not all(isinstance(name, str) for name in columns):
        raise SuperfilterError(
            f"columns={columns!r}: name two columns, the prompt's and the response's"
        )
    return columns[0], columns[1]


def check_vector_column(column: Any) -> None:
    """Refuse what cannot be the name of a column of vectors."""
    if not isinstance(column, str) or not column:
        raise SuperfilterError(
            f"column={column!r}: name the column of vectors, such as 'embedding'"
        )


def is_url(folder: "str | os.PathLike[str]") -> bool:
    """Return whether a folder is an fsspec URL such as `s3://bucket/run`."""
    return "://" in str(folder)


def folder_or_url(folder: "str | os.PathLike[str]") -> Path | str:
    """Return a local folder as a path, and a URL as text, which a path would change."""
    return str(folder) if is_url(folder) else Path(folder)


def one_name(name: str, value: Any, alias: str, other: Any) -> Any:
    """Return the value of an argument that has an older name too.

    Raises:
        SuperfilterError: both names are given, with different values.

    Example:
        >>> one_name("config_name", None, "name", "ifd-10")
        'ifd-10'
    """
    if value is not None and other is not None and value != other:
        raise SuperfilterError(
            f"{name}={value!r} and {alias}={other!r} name the same: give {name} alone"
        )
    return other if value is None else value


def check_type(name: str, value: object, kinds: type | tuple[type, ...], remedy: str) -> None:
    """Check what kind of thing an argument is.

    Raises:
        WrongTypeError: another kind, which is named, with what to give.

    Example:
        >>> check_type("path", 5, str, "give the name of a file")
        Traceback (most recent call last):
        ...
        hf_superfilter.errors.WrongTypeError: path is of type int: give the name of a file
    """
    if not isinstance(value, kinds):
        kind = value.__name__ if isinstance(value, type) else type(value).__name__
        raise WrongTypeError(f"{name} is of type {kind}: {remedy}")
