"""Read rows without decoding their pictures, sounds and videos.

A picture that cannot be opened, or a decoder that is not installed, would end a run that never
looks at it. Arrow hands a media cell over as it is stored: `{"bytes": ..., "path": ...}`.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from .features import holds
from .row_blocks import row_blocks

if TYPE_CHECKING:
    from datasets import Dataset


def undecoded(feature: Any) -> Any:
    """Return a feature with the decoding of every media feature in it turned off."""
    from datasets import LargeList, List

    if isinstance(feature, dict):
        return {name: undecoded(part) for name, part in feature.items()}
    if isinstance(feature, (List, LargeList)):
        return replace(feature, feature=undecoded(feature.feature))
    if is_media(feature):
        return replace(feature, decode=False)
    return feature


def is_media(feature: Any) -> bool:
    """Check whether a feature is a picture, sound, video or document that can be decoded."""
    from datasets import Json

    # Json has the switch too, but only its decoded values are those of the data.
    if isinstance(feature, Json) or not is_dataclass(feature):
        return False
    return "decode" in {field.name for field in fields(feature)}


def holds_media(feature: Any) -> bool:
    """Check whether a feature is of media, or has some inside."""
    return holds(feature, is_media)


def read_batch(rows: "Dataset", start: int, stop: int) -> dict[str, list[Any]]:
    """Read some rows as columns of Python values, media as stored."""
    from datasets import Features

    features = Features(undecoded(dict(rows.features)))
    cells = rows.with_format("arrow")[start:stop].to_pydict()
    batch: dict[str, list[Any]] = features.decode_batch(cells)
    return batch


def read_row(rows: "Dataset", number: int) -> dict[str, Any]:
    """Read one row as Python values, media as stored."""
    return {name: cells[0] for name, cells in read_batch(rows, number, number + 1).items()}


def iterate_batches(rows: "Dataset") -> Iterator[dict[str, list[Any]]]:
    """Read all rows as `read_batch` does, a block of them in memory at a time."""
    from datasets import Features

    features = Features(undecoded(dict(rows.features)))
    for block in row_blocks(rows):
        yield features.decode_batch(block.to_pydict())
