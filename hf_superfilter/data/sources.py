"""Load rows from a file, a local folder, the Hub, or the embedded sample."""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checks import check_type, one_name
from ..embedded import PREFIX, embedded_sample
from ..errors import HubError, NotFoundError, SuperfilterError, did_you_mean
from ..hub_client import retry_request, translate_errors
from ..revisions import is_commit, resolve_revision
from ..tables.origin import origin_of, record_origin
from .csv_rows import read_csv, read_header, with_values
from .files import READERS, SUFFIXES
from .json_rows import read_json
from .several import join_rows, local_copy, rows_given, slice_splits, sources_in

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

logger = logging.getLogger(__name__)
SAMPLE = PREFIX + "sample"


def load_rows(
    source: "str | Path | Sequence[Any] | pd.DataFrame",
    *,
    split: str | None = None,
    config_name: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    text_columns: Collection[str] = (),
    token: str | None = None,
) -> "Dataset":
    """Load one split of a data set.

    Text stays as it stands in a file: `007` and `nan` in a CSV column that a format reads are text.
    What no column can hold (a lone surrogate, say) is null, and named with its line: in the column
    `unreadable_reason` where a format reads the cell, so that no scorer scores the row, else by a
    warning.

    Args:
        source: a file (json, jsonl, csv or tsv, also gz, bz2, zst or xz; parquet), a local folder
            (a saved Dataset, or files as on the Hub), a Hub id, `hf://datasets/user/name` with or
            without a file, or `embedded:sample`. A pattern (`data/*.jsonl`) or a list of such
            sources loads all, one after the other; a list of dicts and a pandas frame are rows.
        split: needed where there are several and none is called `train`; `train[:1000]`, `[:10%]`
            and `train+test` are read as `datasets` reads them.
        config_name: the data set's subset, where it has several; `config` is an alias.
        token: a token that may read; by default the one that `hf auth login` or HF_TOKEN holds.
        revision: branch, tag or commit on the Hub.
        text_columns: columns that hold text besides those that formats know by name, such as
            those that you will name in `format_pairs(..., columns=)`.

    Raises:
        FileNotFoundError: no such file, folder or Hub id.
        ValueError: a file that cannot be read, an unknown split or configuration, or no rows.
    """
    config = one_name("config_name", config_name, "config", config)
    options_of_text = {"split": split, "config_name": config, "revision": revision}
    for option, value in options_of_text.items():
        check_type(option, value, (str, type(None)), "give text, such as split='train'")
    given = rows_given(source)
    if given is not None:
        return given
    parts = sources_in(source)
    if parts is not None:
        options: dict[str, Any] = {"split": split, "config_name": config, "revision": revision}
        options |= {"text_columns": text_columns, "token": token}
        loaded = [(part, load_rows(part, **options)) for part in parts]
        rows = join_rows(loaded)
        record_origin(rows, _joined_origin(source, [origin_of(part) for _, part in loaded]))
        return rows
    source, revision = local_copy(str(source), revision, token)
    name = str(source)
    if name.startswith(PREFIX) and name != SAMPLE:
        raise SuperfilterError(f"no data set {name!r}: {did_you_mean(name, [SAMPLE])}")
    path = Path(embedded_sample() if name == SAMPLE else name).expanduser()
    if path.is_file():
        splits = _from_file(path, text_columns)
    elif path.is_dir():
        splits = _from_folder(path, config, text_columns)
    elif name.lower().endswith(SUFFIXES) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        neighbours = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise NotFoundError(
            f"no file {name!r}; in {str(path.parent)!r} {did_you_mean(path.name, neighbours)}"
        )
    else:
        splits = _from_hub(name, config, revision, text_columns, token)
    rows = _one_split(splits, split, name)
    if len(rows) == 0:
        raise SuperfilterError(f"{name!r} has no rows: name a file, or a split, that has some")
    _record_origin(rows, name, config, path)
    return rows


def _record_origin(rows: "Dataset", name: str, config: str | None, path: Path) -> None:
    """Record where rows come from: the commit on the Hub, the digest of a file or folder."""
    if path.exists():
        revision: str | None = resolve_revision(str(path), repo_type="dataset")
    else:
        parts = [part for file in rows.cache_files for part in Path(file["filename"]).parts]
        revision = next(filter(is_commit, parts), None)
    split = None if rows.split is None else str(rows.split)
    origin = {"dataset": name, "revision": revision, "config": config, "split": split}
    record_origin(rows, origin)


def _joined_origin(source: Any, origins: "Sequence[Mapping[str, Any] | None]") -> dict[str, Any]:
    """Describe several sources as one: their names, and a digest of all their revisions."""
    known = [origin or {} for origin in origins]
    names = [str(origin.get("dataset")) for origin in known]
    revisions = [str(origin.get("revision")) for origin in known]
    name = source if isinstance(source, str) else ", ".join(names)
    digest = hashlib.sha256("\n".join(revisions).encode()).hexdigest()[:16]
    split = known[0].get("split") if len({origin.get("split") for origin in known}) == 1 else None
    return {"dataset": name, "revision": f"sha256:{digest}", "config": None, "split": split}


def revision_of_rows(source: str, revision: str | None = None) -> str | None:
    """Resolve what `load_rows` loads to an immutable revision.

    Returns:
        A commit, or a digest of a file or folder; None where it cannot be known: `load_rows`
        says what is wrong, or the cache does not tell.
    """
    place = embedded_sample() if source == SAMPLE else str(Path(source).expanduser())
    name = place if Path(place).exists() else source
    try:
        return resolve_revision(name, revision, repo_type="dataset")
    except FileNotFoundError:
        return None


def _from_file(path: Path, text_columns: Collection[str]) -> Any:
    from lzma import LZMAError

    import pyarrow.parquet as pq
    from datasets import Dataset
    from datasets.exceptions import DatasetsError

    if not path.name.lower().endswith(SUFFIXES):
        raise SuperfilterError(
            f"{str(path)!r} is of an unknown type: give one of {', '.join(SUFFIXES)}"
        )
    try:
        if path.suffix.lower() == ".parquet":
            return Dataset.from_parquet(str(path)) if pq.read_metadata(path).num_rows else []
        kinds = {suffix.lower().lstrip(".") for suffix in path.suffixes[-2:]}
        read = read_csv if kinds & set(READERS["csv"]) else read_json
        return read(path, text_columns)
    except (ValueError, TypeError, OSError, EOFError, LZMAError, DatasetsError) as error:
        raise SuperfilterError(f"{str(path)!r} cannot be read: {_reason(error)}") from error


def _from_folder(path: Path, config: str | None, text_columns: Collection[str]) -> Any:
    from datasets import load_from_disk

    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        return load_from_disk(str(path))
    place = str(path if path.name else path.resolve())  # datasets needs a name, and "." is none
    loaded = _load(f"no data set in the folder {str(path)!r}", place, config)
    return _with_values(loaded, text_columns)


def _from_hub(
    name: str,
    config: str | None,
    revision: str | None,
    text_columns: Collection[str],
    token: str | None,
) -> Any:
    missing = (
        f"no data set {name!r}: it is neither a file or folder here nor on the Hub as this machine "
        "sees it"
    )
    sha = None
    if revision:
        sha = resolve_revision(name, revision, repo_type="dataset", again=True, token=token)
    loaded = retry_request(lambda: _load(missing, name, config, sha, token))
    files = [file["filename"] for rows in loaded.splits.values() for file in rows.cache_files]
    # When the Hub does not answer, datasets takes whatever revision its cache holds.
    if sha and not all(sha in file for file in files):
        raise NotFoundError(
            f"{name!r} is in the cache, but not at revision {revision!r}, and the Hub does not "
            "give it: go online, and see that the data set exists and that your token may read it"
        )
    return _with_values(loaded, text_columns)


class _Loaded(NamedTuple):
    """Hold splits, and whether every column of them is text."""

    splits: "dict[str, Dataset]"
    all_text: bool


def _load(
    missing: str,
    name: str,
    config: str | None,
    revision: str | None = None,
    token: str | None = None,
) -> _Loaded:
    """Load all splits with datasets, every column of CSV as text."""
    from datasets import Features, Value, load_dataset, load_dataset_builder
    from datasets.exceptions import DatasetsError
    from datasets.packaged_modules.csv.csv import CsvConfig

    def load() -> _Loaded:
        cached = _cached_as_text(name, config)
        if cached:
            return _Loaded(cached, all_text=True)
        builder = load_dataset_builder(name, config, revision=revision, token=token)
        if not isinstance(builder.config, CsvConfig) or builder.info.features:
            loaded = load_dataset(name, config, revision=revision, token=token)
            return _Loaded(loaded, all_text=False)
        file = str(next(iter(builder.config.data_files.values()))[0])
        features = Features({column: Value("string") for column in read_header(file)})
        as_text = {"features": features, "keep_default_na": False, "na_values": [""]}
        loaded = load_dataset(name, config, revision=revision, token=token, **as_text)
        return _Loaded(loaded, all_text=True)

    try:
        with translate_errors(name, revision=revision):
            return load()
    except (FileNotFoundError, ConnectionError) as error:
        raise NotFoundError(f"{missing} ({_reason(error)})") from error
    except HubError:
        raise
    except (ValueError, DatasetsError) as error:
        raise SuperfilterError(f"{name!r} cannot be loaded: {_reason(error)}") from error


def _cached_as_text(name: str, config: str | None) -> "dict[str, Dataset]":
    """Read a CSV data set that was loaded as text from the cache, for a session without the Hub.

    `load_dataset` looks for it under the arguments of that load, the names of the columns, which
    only the file tells.

    Returns:
        The splits of the newest version; none with the Hub at hand, or where nothing is cached.
    """
    import datasets

    if not datasets.config.HF_HUB_OFFLINE:
        return {}
    folder = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")
    versions = list(folder.glob(f"{config or 'default'}-*/*/*/dataset_info.json"))
    if not versions:
        return {}
    newest = max(versions, key=lambda info: info.stat().st_mtime)
    splits = {}
    for split in json.loads(newest.read_text(encoding="utf-8"))["splits"]:
        files = sorted(newest.parent.glob(f"*-{split}*.arrow"))
        parts = [datasets.Dataset.from_file(str(file), split=split) for file in files]
        splits[split] = datasets.concatenate_datasets(parts)
    return splits


def _with_values(loaded: _Loaded, text_columns: Collection[str]) -> "dict[str, Dataset]":
    """Convert the columns of CSV that hold only numbers."""
    if not loaded.all_text:
        return loaded.splits
    return {split: with_values(rows, text_columns) for split, rows in loaded.splits.items()}


def _one_split(splits: Any, split: str | None, name: str) -> "Dataset":
    """Pick the named split, or else the only one or `train`."""
    by_name = splits if isinstance(splits, dict) else {"train": splits}
    default = next(iter(by_name)) if len(by_name) == 1 else "train"
    wanted = split or default
    if wanted not in by_name and ("[" in wanted or "+" in wanted):
        return slice_splits(by_name, default + wanted if wanted[0] == "[" else wanted, name)
    if split is None and len(by_name) > 1 and wanted in by_name:
        others = ", ".join(str(other) for other in by_name if other != wanted)
        logger.info("split %r of %s; there are also: %s", wanted, name, others)
    if wanted not in by_name:
        remedy = "" if split else "; choose one with split"
        raise SuperfilterError(
            f"{name!r} has no split {wanted!r}: {did_you_mean(wanted, map(str, by_name))}{remedy}"
        )
    rows: Dataset = by_name[wanted]
    return rows


def _reason(error: BaseException) -> str:
    """Shorten a library's message to one line, that of its cause."""
    from datasets.exceptions import DatasetBuildError

    if isinstance(error, DatasetBuildError) and error.__cause__:
        error = error.__cause__
    message = str(error).split("Example of usage")[0]
    return " ".join(message.split()) or type(error).__name__
