"""Check what is asked to be published: names, splits, sizes."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..checks import is_count, plain_number
from ..errors import SuperfilterError

if TYPE_CHECKING:
    from ..selection.funnel import Selection

SHARD_BYTES, SHARD_SIZE = 500_000_000, "500MB"
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
HUB_ID = rf"{NAME}/{NAME}"
SPLIT = r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*"


def subset_name(config_name: str, name: str) -> str:
    """Return the subset's name, given under either keyword, after a check.

    Raises:
        SuperfilterError: two different names, or one that the Hub or `datasets` would refuse.
    """
    if name == "default":
        keyword, given = "config_name", config_name
    else:
        keyword, given = "name", name
    if config_name not in ("default", given):
        raise SuperfilterError(
            f"config_name={config_name!r} and name={name!r} name the same: give config_name alone"
        )
    is_name = isinstance(given, str) and re.fullmatch(NAME, given)
    if not is_name or given == "data" or ".." in given:
        raise SuperfilterError(
            f"{keyword}={given!r}: a subset's name is made of letters, digits, '-', '_' and '.', "
            "begins with a letter or digit, and is not 'data', which datasets keeps for itself"
        )
    return given


def parse_shard_size(size: int | str, size_in_bytes: int = SHARD_BYTES) -> int:
    """Parse the size of a Parquet file, in bytes.

    Args:
        size: bytes, or a text such as "500MB" or "1GiB", as `Dataset.push_to_hub` takes it.
        size_in_bytes: the older argument `max_shard_bytes`, which counts where it is not the
            default.

    Raises:
        SuperfilterError: neither, or less than one byte.
    """
    from datasets.utils.py_utils import convert_file_size_to_int

    size, size_in_bytes = plain_number(size), plain_number(size_in_bytes)
    if size_in_bytes != SHARD_BYTES:
        if not is_count(size_in_bytes):
            raise SuperfilterError(
                f"max_shard_bytes={size_in_bytes!r}: give a whole number of bytes, at least 1"
            )
        return size_in_bytes
    parsed: object = size
    if isinstance(size, str):
        try:
            parsed = convert_file_size_to_int(size)
        except ValueError:
            parsed = None
    if not is_count(parsed):
        raise SuperfilterError(
            f'max_shard_size={size!r}: give a size such as "500MB", or a whole number of bytes, '
            "at least 1"
        )
    return int(str(parsed))


def check_repo_id(repo_id: str) -> None:
    """Refuse what cannot be the name of a repository that loads."""
    if not re.fullmatch(HUB_ID, str(repo_id)) or re.search(r"\.\.|--|[.-](/|$)|\.git$", repo_id):
        raise SuperfilterError(
            f"repo_id={repo_id!r}: give 'user/name', of letters, digits, '-', '_' and '.'"
        )
    if repo_id.endswith(".py"):
        raise SuperfilterError(
            f"repo_id={repo_id!r}: give a name that does not end in .py, which datasets takes for "
            "a loading script"
        )


def check_selection(
    selection: "Selection | Mapping[str, Selection]", split: str | None = None
) -> "dict[str, Selection]":
    """Return the selections by split, after a check of their names and of what they hold."""
    if isinstance(selection, Mapping) and split is not None:
        raise SuperfilterError(
            f"split={split!r}: a dict of selections names its splits itself: leave split out"
        )
    by_split = selection if isinstance(selection, Mapping) else {split or "train": selection}
    splits = dict(by_split)
    if not splits:
        raise SuperfilterError(
            "there is no split to publish: give a selection, or a dict {'train': selection, ...}"
        )
    for split, part in splits.items():
        _check_split(split, part)
    return splits


def _check_split(split: Any, selection: Any) -> None:
    from ..selection.funnel import Selection

    if not isinstance(split, str) or not re.fullmatch(SPLIT, split) or split == "all":
        raise SuperfilterError(
            f"split {split!r}: a split's name is made of letters, digits, '_' and '.', and is not "
            "'all'"
        )
    if not isinstance(selection, Selection):
        raise SuperfilterError(
            f"split {split!r} is of type {type(selection).__name__}: give what select(...) returns"
        )
    if not len(selection.rows):
        raise SuperfilterError(
            f"nothing was kept for the split {split!r}: there are no rows to publish"
        )
