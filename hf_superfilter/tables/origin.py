"""Carry what is known of the rows' source along with a Dataset, through map, filter and select."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

KEY = "hf_superfilter"


def origin_of(rows: "Dataset") -> dict[str, Any] | None:
    """Return the source of rows that `load_rows` loaded, None where it is not known.

    Returns:
        `dataset`, `revision`, `config`, `split`, and `columns` once `format_pairs` has seen them.
    """
    checksums = rows.info.download_checksums
    origin = checksums.get(KEY) if isinstance(checksums, Mapping) else None
    return dict(origin) if origin else None


def record_origin(rows: "Dataset", origin: Mapping[str, Any]) -> None:
    """Record the source of rows in their own `info`.

    `datasets` copies its field for checksums of downloads to whatever is made of the rows.
    """
    checksums = rows.info.download_checksums or {}
    rows.info.download_checksums = {**checksums, KEY: dict(origin)}
