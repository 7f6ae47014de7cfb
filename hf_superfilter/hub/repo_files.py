"""Write a subset into a folder laid out as a repository, beside the others there."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runs.store import atomic_write
from .card import merge_card
from .front_matter import CARD, decode_card
from .layout import ABOUT, ROWS, digest_files, is_version, rows_folder
from .request import SHARD_BYTES, SHARD_SIZE, check_selection, parse_shard_size, subset_name
from .resolution import Files, check_no_script, check_repository, resolve
from .split_files import write_splits

if TYPE_CHECKING:
    from ..selection.funnel import Selection

STANDALONE = ".huggingface.yaml"  # what datasets reads besides the card
LOCK, UNFINISHED = ".write_repo.lock", ".unfinished_"


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
