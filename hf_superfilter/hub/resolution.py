"""Resolve a repository as `datasets` does: which files does each subset load, and with what?

A card that looks right may not load. `datasets` takes one builder for all subsets, by the files of
the first; a pattern of one subset may reach the files of another; a script of the repository's
name stops everything. So the repository is resolved by the functions of `datasets` itself before
something is written to it, over the names of its files in memory.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..errors import SuperfilterError
from .front_matter import read_metadata

Files = dict[str, tuple[str, ...]]  # split -> paths, sorted
PARQUET = "parquet"


@dataclass(frozen=True)
class Resolution:
    """Describe what clients see of a repository.

    Attributes:
        builder: the module of `datasets` that reads all subsets; None where nothing loads.
        default: the subset that loads without a name.
        subsets: name -> the files of each split; without those that do not load.
        is_named: whether the card names the subsets; else `datasets` guesses one.
    """

    builder: str | None = None
    default: str | None = None
    subsets: dict[str, Files] = field(default_factory=dict)
    is_named: bool = False


def resolve(card: str, paths: Iterable[str], standalone: str = "") -> Resolution:
    """Resolve a repository.

    Args:
        card: the text of its README.md.
        paths: the paths of its files.
        standalone: the text of its `.huggingface.yaml`, which `datasets` prefers to the card.
    """
    from datasets.exceptions import DatasetsError
    from datasets.utils.metadata import MetadataConfigs

    metadata = read_metadata(card) | read_metadata(f"---\n{standalone}\n---\n")
    with _in_memory(paths) as base:
        try:
            configs = MetadataConfigs.from_dataset_card_data(metadata)
            if not configs:
                return _resolve_unnamed(base)
            _check_configs(base, configs)
            return Resolution(
                builder=_builder_of(base, next(iter(configs.values()))),
                default=_default_of(configs, metadata),
                subsets=_resolve_all(base, configs),
                is_named=True,
            )
        except (ValueError, TypeError, FileNotFoundError, DatasetsError):
            return Resolution()  # datasets loads nothing from it either


def check_repository(
    before: Resolution,
    after: Resolution,
    published: Mapping[str, Files],
    home: str,
    *,
    set_default: bool,
) -> None:
    """Refuse a change after which something would load otherwise than it should.

    Args:
        before, after: the repository without and with the change.
        published: subset -> the files that it has to load, split by split.
        home: the repository's or folder's name.
        set_default: whether another default is wanted.

    Raises:
        SuperfilterError: what would not load, in one sentence.
    """
    _check_others(before, after, published, home)
    for name, files in published.items():
        loaded = after.subsets.get(name, {})
        if after.builder not in (None, PARQUET):
            first = next(iter(after.subsets), name)
            raise SuperfilterError(
                f"datasets reads every subset of {home!r} as {after.builder}, as the files of its "
                f"first, {first!r}, are: a subset in Parquet would not load beside it; publish to "
                "another repository"
            )
        is_whole = all(loaded.get(split) == paths for split, paths in files.items())
        if after.builder is None or not is_whole:
            raise SuperfilterError(
                f"{name!r} would not load from {home!r}, by what its README.md or "
                ".huggingface.yaml says: publish to another repository"
            )
    if before.default is not None and not set_default and after.default != before.default:
        raise SuperfilterError(
            f"{home!r} would not load {before.default!r} without a name any more: write "
            "'default: true' under it in the README.md first"
        )


def check_no_script(paths: Iterable[str], home: str) -> None:
    """Refuse a repository with a loading script, from which `datasets` loads nothing.

    Raises:
        SuperfilterError: it has one.
    """
    script = home.rstrip("/").split("/")[-1].removesuffix(".py") + ".py"
    if script in paths:
        raise SuperfilterError(
            f"{home!r} holds the loading script {script!r}, for which datasets refuses to load "
            "anything: delete it first, or publish to another repository"
        )


def _check_others(
    before: Resolution, after: Resolution, published: Mapping[str, Files], home: str
) -> None:
    """Refuse to change which files another subset loads, and how they are read."""
    if before.subsets and not before.is_named:
        path = next(path for files in before.subsets.values() for path in sum(files.values(), ()))
        raise SuperfilterError(
            f"{home!r} holds data, such as {path!r}, that its README.md does not name under "
            "'configs': a subset named there would hide it from load_dataset. Name it there first, "
            "or publish to another repository"
        )
    for name, files in before.subsets.items():
        own_files = published.get(name, {})
        other_files = {split: paths for split, paths in files.items() if split not in own_files}
        loaded = after.subsets.get(name, {})
        if any(loaded.get(split) != paths for split, paths in other_files.items()):
            raise SuperfilterError(
                f"{home!r} has a subset {name!r} whose patterns would load other files than now: "
                "narrow them in its README.md, or publish to another repository"
            )
    if before.subsets and after.builder != before.builder:
        raise SuperfilterError(
            f"datasets would read {home!r} as {after.builder} and not as {before.builder} any "
            "more: publish to another repository"
        )


@contextmanager
def _in_memory(paths: Iterable[str]) -> Iterator[str]:
    """Lay empty files of some names into the memory file system.

    Their folder is removed again.
    """
    import fsspec

    memory = fsspec.filesystem("memory")
    root = f"/hf_superfilter-{uuid.uuid4().hex}"
    memory.mkdir(root)
    try:
        for path in paths:
            memory.pipe_file(f"{root}/{path}", b"")
        yield f"memory://{root}"
    finally:
        memory.rm(root, recursive=True)


def _resolve_unnamed(base: str) -> Resolution:
    """Resolve a repository whose card names no subsets.

    `datasets` guesses splits by file names.
    """
    from datasets.data_files import get_data_patterns

    files = _files_of(base, get_data_patterns(base))
    builder = _infer_builder(base, files)
    has_tasks = any(path.endswith("task.toml") for path in sum(files.values(), ()))
    if builder is None or (builder == "harbor" and not has_tasks):
        return Resolution()  # notes in Markdown are no data
    return Resolution(builder, "default", {"default": files})


def _check_configs(base: str, configs: Mapping[str, Any]) -> None:
    """Raise what `datasets` raises, whichever subset is asked for, where one of them is wrong."""
    from datasets.builder import BuilderConfig
    from datasets.data_files import get_data_patterns

    for name, config in configs.items():
        folder = config.get("data_dir")
        BuilderConfig(name=name, data_dir=folder)
        if config.get("data_files") is None:
            get_data_patterns(f"{base}/{folder}" if folder else base)


def _resolve_all(base: str, configs: Mapping[str, Any]) -> dict[str, Files]:
    """Return the files of every subset that has some."""
    subsets = {}
    for name, config in configs.items():
        try:
            subsets[str(name)] = _files_of_config(base, config)
        except (ValueError, TypeError, FileNotFoundError):
            continue  # it does not load now, so that nothing can be taken from it
    return subsets


def _files_of_config(base: str, config: Mapping[str, Any]) -> Files:
    from datasets.data_files import get_data_patterns, sanitize_patterns

    folder = f"{base}/{config['data_dir']}" if config.get("data_dir") else base
    if config.get("data_files") is None:
        return _files_of(base, get_data_patterns(folder), folder)
    return _files_of(base, sanitize_patterns(config["data_files"]), folder)


def _files_of(base: str, patterns: Mapping[str, Any], folder: str | None = None) -> Files:
    """Return split -> files, by their paths in the repository.

    Other addresses stay as they are.
    """
    from datasets.data_files import resolve_pattern
    from datasets.load import _ALL_ALLOWED_EXTENSIONS
    from datasets.utils.file_utils import is_relative_path

    files: Files = {}
    for split, split_patterns in patterns.items():
        paths: list[str] = []
        for pattern in split_patterns:
            if not is_relative_path(pattern):
                paths.append(pattern)
                continue
            try:
                paths += resolve_pattern(pattern, folder or base, _ALL_ALLOWED_EXTENSIONS)
            except FileNotFoundError:
                if not any(sign in pattern for sign in "*?["):
                    raise
        files[str(split)] = tuple(sorted(path.removeprefix(f"{base}/") for path in paths))
    return files


def _builder_of(base: str, first: Mapping[str, Any]) -> str | None:
    """Return the builder of all subsets, which is that of the files of the first."""
    from datasets.data_files import get_data_patterns

    if "data_files" in first and first["data_files"] is None:
        return None  # datasets fails there, though not in a later subset
    if "data_files" in first:
        return _infer_builder(base, _files_of_config(base, first))
    return _infer_builder(base, _files_of(base, get_data_patterns(base)))


def _infer_builder(base: str, files: Files) -> str | None:
    from datasets.exceptions import DatasetsError
    from datasets.load import infer_module_for_data_files

    if any(path.endswith(".zip") for path in sum(files.values(), ())):
        return "archives"  # what is inside decides, and would have to be downloaded
    splits: Any = {split: [f"{base}/{path}" for path in paths] for split, paths in files.items()}
    try:
        module, _ = infer_module_for_data_files(splits)
    except (ValueError, DatasetsError):
        return None
    return str(module)


def _default_of(configs: Any, metadata: Mapping[str, Any]) -> str | None:
    """Return the subset that loads without a name.

    The card's default, else the only info.
    """
    from datasets.info import DatasetInfosDict

    default = configs.get_default_config_name()
    infos = DatasetInfosDict.from_dataset_card_data(metadata)
    if default is None and len(infos) == 1:
        default = next(iter(infos))
    return None if default is None else str(default)
