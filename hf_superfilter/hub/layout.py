"""Define where the files of a published subset lie in a repository.

    __subsets__/<name>/<split>/<version>/00000-of-00001.parquet      its rows
    __about__/<name>/<split>/<version>/facts.json, recipe.yaml, ...  what is known about them

`datasets` skips folders whose name begins with two underscores unless a pattern spells them out, so
patterns of other subsets, such as `**/*.parquet` or `**/train/*`, reach neither. The version is a
digest of the rows. It stands in the card, so a card names the files of one version, and clients
that cache by card and patterns notice other rows.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROWS, ABOUT = "__subsets__", "__about__"
DIGITS = 12
_VERSION = re.compile(rf"[0-9a-f]{{{DIGITS}}}")


def rows_folder(name: str, split: str, version: str) -> str:
    """Return the folder of a split's Parquet files."""
    return f"{ROWS}/{name}/{split}/{version}"


def about_folder(name: str, split: str, version: str) -> str:
    """Return the folder of what is known about a split."""
    return f"{ABOUT}/{name}/{split}/{version}"


def pattern_of(name: str, split: str, version: str) -> str:
    """Return the pattern of a split's files, as the card names it."""
    return f"{rows_folder(name, split, version)}/*.parquet"


def published_splits(config: Mapping[str, Any]) -> dict[str, str]:
    """Return split -> version of what hf_superfilter published of an entry of `configs`."""
    files = config.get("data_files")
    splits = {}
    for entry in files if isinstance(files, list) else []:
        if not isinstance(entry, dict):
            continue
        path, split = entry.get("path"), entry.get("split")
        version = path.split("/")[-2] if isinstance(path, str) and path.count("/") == 4 else ""
        is_ours = path == pattern_of(str(config.get("config_name")), str(split), version)
        if is_ours and _VERSION.fullmatch(version):
            splits[str(split)] = version
    return splits


def digest_files(files: Iterable[Path]) -> str:
    """Return the version of some files.

    A digest of their contents, in order.
    """
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:DIGITS]


def is_version(folder_name: str) -> bool:
    """Return whether the name of a folder is that of a version."""
    return bool(_VERSION.fullmatch(folder_name))
