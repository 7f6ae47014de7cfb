"""Read sources of other kinds: rows in memory, patterns and lists of files, parts of splits."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import NotFoundError, SuperfilterError, WrongTypeError
from ..hub_client import retry_request, translate_errors
from ..tables.in_memory import rows_in_memory

if TYPE_CHECKING:
    from datasets import Dataset

HUB_URL = re.compile(
    r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<path>.+))?"
)


def rows_given(source: Any) -> "Dataset | None":
    """Return rows that stand in memory as a Dataset, None for the name of a source.

    Raises:
        WrongTypeError: neither rows nor a name.
    """
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

    if isinstance(source, Dataset):
        return source
    is_list = isinstance(source, list | tuple) and len(source) > 0
    if is_list and all(isinstance(part, str | Path) for part in source):
        return None
    if isinstance(source, str | Path):
        if not str(source).strip():
            raise SuperfilterError("the source is an empty text: name a file, a folder or a Hub id")
        return None
    if isinstance(source, DatasetDict | IterableDataset | IterableDatasetDict):
        raise WrongTypeError(
            f"load_rows got {type(source).__name__}, which is loaded already: give it to "
            "format_pairs as it is"
        )
    rows = rows_in_memory(source)
    if rows is not None:
        return rows
    raise WrongTypeError(
        f"load_rows got {type(source).__name__}: give a name, a list of names, a list of dicts or "
        "a pandas frame"
    )


def sources_in(source: Any) -> list[str] | None:
    """List the sources of a list or a pattern, None for a single one.

    Raises:
        NotFoundError: no file fits the pattern.
    """
    if isinstance(source, Sequence) and not isinstance(source, str):
        return [str(part) for part in source]
    name = str(Path(source).expanduser()) if isinstance(source, Path) else source
    if not re.search(r"[*?\[]", name) or Path(name).exists() or "://" in name:
        return None
    path = Path(name).expanduser()
    files = sorted(map(str, Path(path.anchor).glob(str(path.relative_to(path.anchor)))))
    if not files:
        raise NotFoundError(f"no file fits the pattern {name!r}")
    return files


def join_rows(parts: "list[tuple[str, Dataset]]") -> "Dataset":
    """Join the rows of several sources, one after the other.

    Raises:
        SuperfilterError: one has other columns than the first.
    """
    from datasets import concatenate_datasets

    (first, rows), *others = parts
    for name, other in others:
        if set(other.column_names) != set(rows.column_names):
            raise SuperfilterError(
                f"{name!r} has the columns {other.column_names}, and {first!r} "
                f"{rows.column_names}: load them apart"
            )
    try:
        return concatenate_datasets([part for _, part in parts])
    except ValueError as error:
        raise SuperfilterError(
            f"the sources {', '.join(name for name, _ in parts)} cannot be joined: {error}"
        ) from error


def local_copy(name: str, revision: str | None, token: str | None) -> tuple[str, str | None]:
    """Turn `hf://datasets/user/name[@revision][/file]` into a Hub id, or a file that is fetched.

    Returns:
        The source and the revision; as they came where the name is no such URL.
    """
    from huggingface_hub import hf_hub_download

    if not name.startswith("hf://"):
        return name, revision
    match = HUB_URL.fullmatch(name)
    if match is None:
        raise SuperfilterError(f"{name!r}: give hf://datasets/user/name, perhaps with /file")
    repo, path = match["repo"], match["path"]
    revision = match["revision"] or revision
    if path is None:
        return repo, revision

    def download() -> str:
        return str(hf_hub_download(repo, path, repo_type="dataset", revision=revision, token=token))

    with translate_errors(repo, revision=revision):
        return retry_request(download), None


def slice_splits(by_name: Mapping[str, "Dataset"], spec: str, name: str) -> "Dataset":
    """Take parts of splits, as `datasets` writes them: `train[:1000]`, `train[:10%]+test`.

    Raises:
        SuperfilterError: no such part.
    """
    from datasets import ReadInstruction, concatenate_datasets

    lengths = {str(split): len(rows) for split, rows in by_name.items()}
    try:
        parts = ReadInstruction.from_spec(spec).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise SuperfilterError(f"split {spec!r} of {name!r} cannot be read: {reason}") from error
    parts = [part for part in parts if part.from_ < part.to]
    if not parts:
        raise SuperfilterError(
            f"split {spec!r} of {name!r} holds no row: there are {_counted(lengths)}"
        )
    return concatenate_datasets(
        [by_name[part.splitname].select(range(part.from_, part.to)) for part in parts]
    )


def _counted(lengths: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} rows in {split!r}" for split, count in lengths.items())
