"""Write the files of a published subset to disk.

Parquet shards, recipe, report, plots, facts.
"""

import json
import math
import re
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow.types import is_nested

from ..checks import is_count
from ..data.own_columns import restore_source
from ..data.sources import SAMPLE
from ..errors import SuperfilterError
from ..recipes.recipe import FILE as RECIPE
from ..reports.page import write_page
from ..reports.plots import selection_plots
from ..reports.summary import Summary
from ..revisions import is_commit
from ..runs.store import atomic_write
from ..tables.row_blocks import row_blocks
from .card import as_list, licence_warning, merge_card, plain
from .front_matter import CARD, decode_card
from .layout import ABOUT, ROWS, about_folder, digest_files, is_version, rows_folder
from .provenance import provenance_of, source_metadata
from .resolution import Files, check_no_script, check_repository, resolve

if TYPE_CHECKING:
    from datasets import Dataset

    from ..selection.funnel import Selection

FACTS, REPORT = "facts.json", "report.html"
STANDALONE = ".huggingface.yaml"  # what datasets reads besides the card
LOCK, UNFINISHED = ".write_repo.lock", ".unfinished_"
SHARD_BYTES, SHARD_SIZE = 500_000_000, "500MB"
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
HUB_ID = rf"{NAME}/{NAME}"
SPLIT = r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*"


def write_repo(
    selection: "Selection | Mapping[str, Selection]",
    folder: str | Path,
    *,
    config_name: str = "default",
    split: str | None = None,
    name: str = "default",
    set_default: bool = False,
    pairs: bool = False,
    vectors: bool = False,
    max_shard_size: int | str = SHARD_SIZE,
    max_shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write what `publish` would commit into a local folder.

    `load_dataset(folder, name)` then loads it. Other subsets in the folder stay; the splits of this
    one are replaced. Several may write into one folder at once, and a killed write leaves what was
    there before.

    Args:
        selection: what `select` returns, as the split `train`; or a dict, split -> selection.
        folder: created if needed.
        config_name: the subset's name; `name` is an alias.
        split: the split of a single selection, `train` by default.
        set_default: make this subset the one that loads without a name, as the first one is anyway.
        pairs: also keep `prompt` and `response` where they were added for scoring.
        vectors: also keep the vectors that scorers of the run added, such as `embedding`.
        max_shard_size: about the size in memory of the rows of one Parquet file: bytes, or a text
            such as "500MB", the default. `max_shard_bytes` is an alias.

    Returns:
        The folder.

    Raises:
        SuperfilterError: a name that the Hub or `datasets` would refuse, nothing kept, or a subset
            that would not load from there, or keep others from loading.
        HubOfflineError: the source is on the Hub, which cannot be reached, and its card is not in
            the cache.

    Example:
        >>> from datasets import Dataset, load_dataset
        >>> from hf_superfilter import TopK, select, write_repo
        >>> table = Dataset.from_dict({"text": ["a", "b", "c"], "quality": [0.1, 0.9, 0.5]})
        >>> folder = write_repo(select(table, TopK("quality", 2)), "runs/docs/repo", name="best-2")
        >>> load_dataset(str(folder), "best-2", split="train")["text"][:]
        ['b', 'c']
    """
    from filelock import FileLock

    name = subset_name(config_name, name)
    shard_bytes = parse_shard_size(max_shard_size, max_shard_bytes)
    splits, home = check_selection(selection, split), Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / LOCK):
        for leftover in home.glob(f"{UNFINISHED}*"):
            shutil.rmtree(leftover)  # of a writer that was killed: living ones hold the lock
        card = home / CARD
        before = decode_card(card.read_bytes()) if card.is_file() else ""
        with tempfile.TemporaryDirectory(dir=home, prefix=UNFINISHED) as temporary:
            new = Path(temporary)
            facts = write_splits(
                splits, new, name, pairs=pairs, vectors=vectors, max_shard_bytes=shard_bytes
            )
            text = merge_card(before, name, facts, str(folder), set_default)
            check_change(
                before,
                text,
                paths_in(home),
                paths_in(new),
                facts_by_name={name: facts},
                home=str(folder),
                standalone=_read_optional(home / STANDALONE),
                set_default=set_default,
            )
            _install(new, home, card, text)
        for split in facts:
            _remove_other_versions(home, name, split, facts[split]["version"])
    return home


def _install(new: Path, home: Path, card: Path, text: str) -> None:
    """Move new versions into place, then the card that names them.

    Whenever the process dies, the card names folders that are there and whole.
    """
    for source in sorted(path for top in (ROWS, ABOUT) for path in new.glob(f"{top}/*/*/*")):
        target = home / source.relative_to(new)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            if ROWS in source.parts and digest_files(sorted(target.iterdir())) == target.name:
                continue  # the same rows again
            target.replace(source.with_name(f"{source.name} before"))
        source.replace(target)
    with atomic_write(card) as unfinished:
        unfinished.write_bytes(text.encode("utf-8"))


def _remove_other_versions(home: Path, name: str, split: str, version: str) -> None:
    """Remove the versions of a split that the card does not name any more."""
    for top in (ROWS, ABOUT):
        for folder in (home / top / name / split).iterdir():
            if is_version(folder.name) and folder.name != version:
                shutil.rmtree(folder)


def paths_in(folder: Path) -> list[str]:
    """List the files of a folder by their paths in it, without those of an unfinished write."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [path.as_posix() for path in paths if not path.parts[0].startswith(UNFINISHED)]


def _read_optional(path: Path) -> str:
    return decode_card(path.read_bytes(), path.name) if path.is_file() else ""


def check_change(
    before: str,
    after: str,
    old_paths: list[str],
    new_paths: list[str],
    *,
    facts_by_name: Mapping[str, Mapping[str, Any]],
    home: str,
    standalone: str,
    set_default: bool,
) -> None:
    """Refuse a new card after which something would not load, or load otherwise than before.

    Args:
        before, after: the card without and with the change.
        old_paths, new_paths: files that are there, and files to be added.
        facts_by_name: subset -> split -> facts of what is published.
        home: the repository or folder.
        standalone: the text of its `.huggingface.yaml`, "" for none.
        set_default: whether another default is wanted.
    """
    check_no_script(old_paths, home)
    published: dict[str, Files] = {}
    for name, splits in facts_by_name.items():
        published[name] = {}
        for split, facts in splits.items():
            folder = rows_folder(name, split, facts["version"]) + "/"
            paths = sorted(path for path in new_paths if path.startswith(folder))
            published[name][split] = tuple(paths)
    check_repository(
        resolve(before, old_paths, standalone),
        resolve(after, {*old_paths, *new_paths}, standalone),
        published,
        home,
        set_default=set_default,
    )


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


def write_splits(
    splits: "Mapping[str, Selection]",
    home: Path,
    name: str,
    *,
    pairs: bool,
    vectors: bool,
    max_shard_bytes: int,
    token: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Write the files of all splits of a subset, and return the facts of each."""
    return {
        split: write_split(
            selection,
            home,
            name,
            split,
            pairs=pairs,
            max_shard_bytes=max_shard_bytes,
            vectors=vectors,
            token=token,
        )
        for split, selection in splits.items()
    }


def write_split(
    selection: "Selection",
    home: Path,
    name: str,
    split: str,
    *,
    pairs: bool,
    max_shard_bytes: int,
    vectors: bool = False,
    token: str | None = None,
) -> dict[str, Any]:
    """Write one split's files into a folder laid out as the repository is.

    Returns:
        The facts: what the card says of the split, and what `facts.json` holds.
    """
    summary = Summary(selection)  # made once, for provenance, card, plots and page
    provenance = provenance_of(summary)
    rows = summary.table.select(selection.rows)
    if not pairs:
        rows = restore_source(rows, (provenance["source"] or {}).get("columns"))
    if not vectors:
        rows = rows.remove_columns(_vectors_made(rows, summary.manifest or {}))
    unversioned = home / "unversioned"
    unversioned.mkdir()
    num_bytes = _write_shards(rows, unversioned, max_shard_bytes)
    version = digest_files(sorted(unversioned.iterdir()))
    target = home / rows_folder(name, split, version)
    target.parent.mkdir(parents=True, exist_ok=True)
    unversioned.replace(target)
    about = home / about_folder(name, split, version)
    about.mkdir(parents=True)
    plots = selection_plots(selection)
    for file, plot in plots.items():
        (about / file).write_bytes(plot.png)
    write_page(summary, plots, about / REPORT)
    facts = {
        **_selection_facts(summary, provenance),
        **_inherited_facts(provenance, token),
        "version": version,
        "published": datetime.now(UTC).isoformat(timespec="seconds"),
        "columns": rows.column_names,
        "left_out": [c for c in summary.table.column_names if c not in rows.column_names],
        "num_bytes": num_bytes,
        "features": rows.features._to_yaml_list(),
        "pictures": [{"file": file, "alt": plot.alt} for file, plot in plots.items()],
        "recipe": None,
    }
    if provenance["recipe"]:
        facts["recipe"] = provenance["recipe"].to_yaml()
        (about / RECIPE).write_text(facts["recipe"], encoding="utf-8")
    facts = {key: _finite(plain(value)) for key, value in facts.items()}
    text = json.dumps(facts, indent=1, ensure_ascii=False, default=str, allow_nan=False)
    (about / FACTS).write_text(text + "\n", encoding="utf-8")
    return facts


def _vectors_made(rows: "Dataset", manifest: Mapping[str, Any]) -> list[str]:
    """Name the columns of vectors that scorers of the run added, such as `embedding`."""
    scorers = manifest.get("scorers", {}).values()
    made = {name for scorer in scorers for name in scorer.get("columns", ())}
    kinds = {field.name: field.type for field in rows.features.arrow_schema}
    return [name for name in rows.column_names if name in made and is_nested(kinds[name])]


def _selection_facts(summary: Summary, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Collect what the selection and its run tell."""
    facts = summary.facts()
    steps = [
        {**step, "entry": applied.entry}
        for step, applied in zip(facts["steps"], summary.selection.steps, strict=True)
    ]
    return {
        **facts,
        "steps": steps,
        # A reason quotes a row that may not be published.
        "unreadable": [entry["row"] for entry in facts["unreadable"]],
        "created": provenance["created"],
        "scorers": provenance["scorers"],
        "tokens": summary.tokens,
        "scripts": summary.scripts,
    }


def _inherited_facts(provenance: Mapping[str, Any], token: str | None) -> dict[str, Any]:
    """Collect what the subset takes over from its source and its models."""
    source, missing = provenance["source"], None
    try:
        card = source_metadata(source, token)
    except FileNotFoundError as error:
        card, missing = {}, str(error)
    on_the_hub = bool(source) and _is_on_the_hub(source["dataset"], source.get("revision"))
    if source:
        is_public = on_the_hub or source["dataset"] == SAMPLE
        source = {**source, "on_the_hub": on_the_hub, "for_all": is_public}
    licences = [str(licence) for licence in as_list(card.get("license")) if licence]
    models = [
        scorer["model"]
        for scorer in provenance["scorers"]
        if _is_on_the_hub(scorer["model"], scorer["revision"])
    ]
    return {
        "source": source,
        "source_missing": missing,
        "license": licences[0] if len(licences) == 1 else licences or None,
        "license_name": card.get("license_name"),
        "license_link": card.get("license_link"),
        "language": [str(code) for code in as_list(card.get("language")) if code],
        "task_categories": [str(task) for task in as_list(card.get("task_categories")) if task],
        "source_datasets": [source["dataset"]] if on_the_hub else [],
        "base_model": list(dict.fromkeys(models)),
    }


def licence_question(selection: "Selection", token: str | None = None) -> str | None:
    """Word what the licence of a selection's source demands; None where it demands nothing.

    Raises:
        HubOfflineError, HubError: the card of the source cannot be read.
    """
    facts = _inherited_facts(provenance_of(Summary(selection)), token)
    return licence_warning(facts["license"])


def _is_on_the_hub(name: str | None, revision: str | None) -> bool:
    """Return whether a data set or model is one of the Hub.

    Only there are revisions commits.
    """
    return bool(name and is_commit(revision) and re.fullmatch(rf"({NAME}/)?{NAME}", name))


def _finite(value: Any) -> Any:
    """Replace numbers that overflowed by None, for which JSON and the card have no other word."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _write_shards(rows: "Dataset", folder: Path, max_shard_bytes: int) -> int:
    """Write rows in their order into one or more Parquet files; pictures and sounds are embedded.

    Returns:
        Their size in memory, in bytes.
    """
    from datasets.features.features import require_storage_embed
    from datasets.table import embed_table_storage

    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        # Gathered once, into files that go with the folder: memory holds a batch, and the cache of
        # datasets no copy.
        if any(map(require_storage_embed, rows.features.values())):
            rows = (
                rows.with_format("arrow")
                .map(
                    embed_table_storage,
                    batched=True,
                    batch_size=100,
                    cache_file_name=f"{scratch}/embedded.arrow",
                )
                .with_format(None)
            )
        if rows._indices is not None:
            rows = _gather(rows, Path(scratch) / "gathered.arrow")
        size = int(rows.data.nbytes)
        shards = min(len(rows), max(1, math.ceil(size / max_shard_bytes)))
        for number in range(shards):
            shard = rows.shard(shards, number, contiguous=True)
            shard.to_parquet(str(folder / f"{number:05d}-of-{shards:05d}.parquet"))
    return size


def _gather(rows: "Dataset", path: Path) -> "Dataset":
    """Copy selected rows to an Arrow file, in their order, and map it."""
    import pyarrow as pa
    from datasets import Dataset

    schema = rows.features.arrow_schema
    with pa.ipc.new_stream(str(path), schema) as file:
        for block in row_blocks(rows):
            file.write_table(block.cast(schema))
    return Dataset.from_file(str(path))
