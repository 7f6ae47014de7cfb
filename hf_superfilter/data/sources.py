"""Rows from wherever they are: a file, a local folder, the Hub, or the embedded sample."""

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..embedded import PREFIX, embedded_sample
from ..errors import did_you_mean
from ..revisions import resolve_revision

if TYPE_CHECKING:
    from datasets import Dataset

SAMPLE = PREFIX + "sample"
SUFFIXES = (
    ".json",
    ".jsonl",
    ".json.gz",
    ".jsonl.gz",
    ".json.zst",
    ".jsonl.zst",
    ".csv",
    ".parquet",
)


def load_rows(
    source: str | Path,
    *,
    split: str | None = None,
    config: str | None = None,
    revision: str | None = None,
) -> "Dataset":
    """Load one split of a data set.

    Args:
        source: a file (json or jsonl, also gz or zst, csv, parquet), a local folder (a saved Dataset,
            or files as on the Hub), a Hub id, or `embedded:sample`.
        split: needed where there are several and none is called `train`.
        config: the name of the data set's configuration, where it has several.
        revision: branch, tag or commit on the Hub.

    Raises:
        FileNotFoundError: no such file, folder or Hub id.
        ValueError: a file that cannot be read, an unknown split or configuration, or no rows.
    """
    name = str(source)
    if name.startswith(PREFIX) and name != SAMPLE:
        raise ValueError(f"no data set {name!r}: {did_you_mean(name, [SAMPLE])}")
    path = Path(embedded_sample() if name == SAMPLE else name).expanduser()
    if path.is_file():
        loaded = _from_file(path)
    elif path.is_dir():
        loaded = _from_folder(path, config)
    elif name.endswith(SUFFIXES) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise FileNotFoundError(
            f"no file {name!r}; in {str(path.parent)!r} {did_you_mean(path.name, there)}"
        )
    else:
        loaded = _from_hub(name, config, revision)
    rows = _one_split(loaded, split, name)
    if len(rows) == 0:
        raise ValueError(f"{name!r} has no rows")
    return rows


def revision_of_rows(source: str, revision: str | None = None) -> str | None:
    """The immutable revision of what `load_rows` loads: a commit, or a digest of a file or folder.

    None where it cannot be known: `load_rows` will say what is wrong, or the cache does not tell.
    """
    try:
        found = embedded_sample() if source == SAMPLE else str(Path(source).expanduser())
        return resolve_revision(
            found if Path(found).exists() else source, revision, repo_type="dataset"
        )
    except FileNotFoundError:
        return None


def _from_file(path: Path) -> Any:
    import pyarrow.parquet as pq
    from datasets import Dataset
    from datasets.exceptions import DatasetsError

    if not path.name.endswith(SUFFIXES):
        raise ValueError(f"{str(path)!r} is of an unknown type: give one of {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".parquet":
            return Dataset.from_parquet(str(path)) if pq.read_metadata(path).num_rows else []
        if path.suffix == ".csv":  # an answer "None" or "N/A" is text and no missing value
            return Dataset.from_csv(str(path), keep_default_na=False, na_values=["", "nan", "NaN"])
        return Dataset.from_dict(_columns_of(_json_rows(path)), on_mixed_types="use_json")
    except (ValueError, TypeError, OverflowError, OSError, DatasetsError) as error:
        if "corresponds to no data" in str(error):  # a csv file with a header alone
            return []
        raise ValueError(f"{str(path)!r} cannot be read: {_reason(error)}") from error


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Where each row stands, and the row: the entries of a JSON array, or the lines of JSON Lines.

    A line ends with a newline character and with nothing else: U+2028 is a character of its text.
    """
    import pyarrow as pa

    codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    with io.TextIOWrapper(
        pa.input_stream(str(path), compression=codec), encoding="utf-8-sig", newline="\n"
    ) as lines:
        filled = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
        for count, (number, line) in enumerate(filled):
            if count == 0 and line.lstrip().startswith("["):
                entries = _parsed("the file", line + lines.read())
                yield from ((f"entry {place}", entry) for place, entry in enumerate(entries, 1))
            else:
                yield f"line {number}", _parsed(f"line {number}", line)


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{error.msg}, line {error.lineno} of it" if error.lineno > 1 else error.msg
        raise ValueError(f"{place} is not JSON ({where}): {text.strip()[:60]!r}") from error


def _columns_of(rows: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    """Rows turned into columns; a key that a row lacks is None there, whichever row has it first."""
    columns: dict[str, list[Any]] = {}
    for count, (place, row) in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{place} is {str(row)[:40]!r}: every row has to be a JSON object")
        for name in row:
            if name not in columns:
                columns[name] = [None] * count
        for name, values in columns.items():
            values.append(row.get(name))
    return columns


def _from_folder(path: Path, config: str | None) -> Any:
    from datasets import load_from_disk

    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        return load_from_disk(str(path))
    return _load(f"no data set in the folder {str(path)!r}", str(path), config)


def _from_hub(name: str, config: str | None, revision: str | None) -> Any:
    missing = f"no data set {name!r}: it is neither a file or folder here nor on the Hub as this machine sees it"
    sha = resolve_revision(name, revision, repo_type="dataset", again=True) if revision else None
    loaded = _load(missing, name, config, sha)
    files = [file["filename"] for rows in loaded.values() for file in rows.cache_files]
    if sha and not all(
        sha in file for file in files
    ):  # what datasets has in its cache when the Hub does not answer
        raise FileNotFoundError(
            f"{name!r} is in the cache, but not at revision {revision!r}, and not to be had on the Hub: go online, and "
            "see that the data set is there and that your token may read it"
        )
    return loaded


def _load(missing: str, name: str, config: str | None, revision: str | None = None) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(name, config, revision=revision)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"{missing} ({_reason(error)})") from error
    except (ValueError, DatasetsError) as error:
        raise ValueError(f"{name!r} cannot be loaded: {_reason(error)}") from error


def _one_split(loaded: Any, split: str | None, name: str) -> "Dataset":
    """The wanted split; without one named, the only one or `train`. A file is a split `train`."""
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    wanted = split or (next(iter(splits)) if len(splits) == 1 else "train")
    if wanted not in splits:
        remedy = "" if split else "; choose one with split"
        raise ValueError(
            f"{name!r} has no split {wanted!r}: {did_you_mean(wanted, map(str, splits))}{remedy}"
        )
    return splits[wanted]


def _reason(error: Exception) -> str:
    """One line of what a library said; behind an "error occurred while generating the dataset" stands its cause."""
    from datasets.exceptions import DatasetBuildError

    said = error.__cause__ if isinstance(error, DatasetBuildError) and error.__cause__ else error
    return " ".join(str(said).split("Example of usage")[0].split()) or type(said).__name__
