"""The files of a published subset: Parquet shards, recipe, report, pictures, facts. What publish commits, on disk."""

import json
import math
import re
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import is_count
from ..data.sources import SAMPLE
from ..recipes.recipe import FILE as RECIPE
from ..reports.page import write_page
from ..reports.plots import selection_plots
from ..reports.summary import Summary
from ..revisions import is_commit
from ..runs.store import atomic_write
from .card import configs_of, listed, merged_card, own_splits
from .front_matter import decode_card, read_metadata
from .provenance import CARD, own_columns, provenance_of, source_metadata

if TYPE_CHECKING:
    from datasets import Dataset

    from ..selection.funnel import Selection

FACTS, REPORT = "facts.json", "report.html"
SHARD_BYTES = 500_000_000
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
HUB_ID = rf"{NAME}/{NAME}"
SPLIT = r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*"


def write_repo(
    selection: "Selection | Mapping[str, Selection]",
    folder: str | Path,
    *,
    name: str = "default",
    set_default: bool = False,
    pairs: bool = False,
    max_shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write what `publish` would commit into a local folder, which `load_dataset(folder, name)` loads.

    Other subsets that are in the folder stay; the splits of this one are replaced.

    Args:
        selection: what `select` answers, as the split `train`; or a dict of them, split -> selection.
        folder: made if need be.
        name: the subset's name (a "config" of the data set).
        set_default: make this subset the one that loads without a name, as the first one is anyway.
        pairs: also keep `prompt` and `response` where they were made for scoring.
        max_shard_bytes: about the size in memory of the rows of one Parquet file.

    Returns:
        The folder.

    Raises:
        ValueError: a name that the Hub or `datasets` would refuse, nothing kept, or a subset that is there
            and is not of ours.
        ConnectionError: the source is on the Hub, which cannot be reached, and its card is not in the cache.

    Example:
        >>> from datasets import Dataset, load_dataset
        >>> from hf_superfilter import TopK, select, write_repo
        >>> table = Dataset.from_dict({"text": ["a", "b", "c"], "quality": [0.1, 0.9, 0.5]})
        >>> folder = write_repo(select(table, TopK("quality", 2)), "runs/docs/repo", name="best-2")
        >>> load_dataset(str(folder), "best-2", split="train")["text"][:]
        ['b', 'c']
    """
    splits, home = splits_of(selection, name), Path(folder)
    card = home / CARD
    before = decode_card(card.read_bytes()) if card.is_file() else ""
    there = [file.relative_to(home).as_posix() for file in (home / name).rglob("*")]
    check_folders(there, before, name, splits, str(folder))
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".unfinished_") as beside:
        written = {split: Path(beside) / split for split in splits}
        facts = {
            split: write_split(part, written[split], pairs=pairs, max_shard_bytes=max_shard_bytes)
            for split, part in splits.items()
        }
        text = merged_card(before, name, facts, str(folder), set_default)
        (home / name).mkdir(exist_ok=True)
        with atomic_write(
            card
        ) as unfinished:  # first, so that after a crash the folders are known as ours
            unfinished.write_bytes(text.encode("utf-8"))
        for split, new in written.items():
            if (home / name / split).exists():
                (home / name / split).replace(Path(beside) / f"{split} before")
            new.replace(home / name / split)
    return home


def check_folders(
    files: Iterable[str], card: str, name: str, splits: Iterable[str], home: str
) -> None:
    """Refuse to replace files, by their paths in a repository, in the folder of a split that its card does not name."""
    named = {
        split
        for config in configs_of(read_metadata(card))
        for split in own_splits(config)
        if config["config_name"] == name
    }
    for split in set(splits) - named:
        foreign = next((file for file in files if file.startswith(f"{name}/{split}/")), None)
        if foreign:
            raise ValueError(
                f"{home!r} holds {foreign!r}, which is of no subset that its README.md names: choose another name"
            )


def check_repo_id(repo_id: str) -> None:
    """Refuse what cannot be a repository's name on the Hub."""
    if not re.fullmatch(HUB_ID, str(repo_id)) or re.search(r"\.\.|--|[.-](/|$)|\.git$", repo_id):
        raise ValueError(
            f"repo_id={repo_id!r}: give 'user/name', of letters, digits, '-', '_' and '.'"
        )


def splits_of(
    selection: "Selection | Mapping[str, Selection]", name: str
) -> "dict[str, Selection]":
    """The selections by split, after a check of every name and that there is something in each."""
    if not isinstance(name, str) or not re.fullmatch(NAME, name) or name == "data" or ".." in name:
        raise ValueError(
            f"name={name!r}: a subset's name is made of letters, digits, '-', '_' and '.', begins with a letter or "
            "digit, and is not 'data', which datasets keeps for itself"
        )
    splits = dict(selection) if isinstance(selection, Mapping) else {"train": selection}
    if not splits:
        raise ValueError(
            "there is no split to publish: give a selection, or a dict {'train': selection, ...}"
        )
    for split, part in splits.items():
        if not isinstance(split, str) or not re.fullmatch(SPLIT, split) or split == "all":
            raise ValueError(
                f"split {split!r}: a split's name is made of letters, digits, '_' and '.', and is not 'all'"
            )
        if not hasattr(part, "subset"):
            raise ValueError(
                f"split {split!r} is of type {type(part).__name__}: give what select(...) answers"
            )
        if not len(part.rows):
            raise ValueError(
                f"nothing was kept for the split {split!r}: there are no rows to publish"
            )
    return splits


def write_split(
    selection: "Selection", folder: Path, *, pairs: bool, max_shard_bytes: int
) -> dict[str, Any]:
    """Write one split's files; the answer is what the card says of it, and `facts.json` holds."""
    if not is_count(max_shard_bytes):
        raise ValueError(
            f"max_shard_bytes={max_shard_bytes!r}: give a whole number of bytes, at least 1"
        )
    summary = Summary(selection)  # made once, for provenance, card, plots and page
    known = provenance_of(summary)
    rows = summary.table.select(selection.rows)
    if not pairs:
        rows = rows.select_columns(own_columns(selection, known["source"]))
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {
        **summary.facts(),
        "created": known["created"],
        "scorers": known["scorers"],
    }
    for step, entry in zip(facts["steps"], selection.steps, strict=True):
        step["entry"] = entry.entry
    facts |= _inherited(known)
    facts |= {"tokens": summary.tokens, "scripts": summary.scripts}
    facts |= {
        "published": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": None,
        "pictures": [],
    }
    if known["recipe"]:
        facts["recipe"] = known["recipe"].to_yaml()
        (folder / RECIPE).write_text(facts["recipe"], encoding="utf-8")
    plots = selection_plots(selection)
    for file, plot in plots.items():
        (folder / file).write_bytes(plot.png)
        facts["pictures"].append({"file": file, "alt": plot.alt})
    write_page(summary, plots, folder / REPORT)
    facts |= {
        "columns": rows.column_names,
        "num_bytes": _write_shards(rows, folder, max_shard_bytes),
    }
    facts["left_out"] = [
        column for column in summary.table.column_names if column not in rows.column_names
    ]
    facts["features"] = rows.features._to_yaml_list()
    text = json.dumps(facts, indent=1, ensure_ascii=False, default=str)
    (folder / FACTS).write_text(text + "\n", encoding="utf-8")
    return facts


def _inherited(known: Mapping[str, Any]) -> dict[str, Any]:
    """What the subset takes over from its source and its models."""
    source, missing = known["source"], None
    try:
        card = source_metadata(source)
    except FileNotFoundError as error:
        card, missing = {}, str(error)
    licences = [str(one) for one in listed(card.get("license")) if one]
    models = [
        scorer["model"]
        for scorer in known["scorers"]
        if _on_the_hub(scorer["model"], scorer["revision"])
    ]
    on_the_hub = bool(source) and _on_the_hub(source["dataset"], source.get("revision"))
    return {
        "source": source
        and {
            **source,
            "on_the_hub": on_the_hub,
            "for_all": on_the_hub or source["dataset"] == SAMPLE,
        },
        "source_missing": missing,
        "license": licences[0] if len(licences) == 1 else licences or None,
        "language": [str(one) for one in listed(card.get("language")) if one],
        "source_datasets": [source["dataset"]] if on_the_hub else [],
        "base_model": list(dict.fromkeys(models)),
    }


def _on_the_hub(name: str | None, revision: str | None) -> bool:
    """Whether a data set or model is one of the Hub: only there are revisions commits."""
    return bool(name and is_commit(revision) and re.fullmatch(rf"({NAME}/)?{NAME}", name))


def _write_shards(rows: "Dataset", folder: Path, max_shard_bytes: int) -> int:
    """Write the rows in their order into one or more Parquet files; the answer is their size in memory.

    Pictures and sounds that are files go into the rows.
    """
    from datasets.features.features import require_storage_embed
    from datasets.table import embed_table_storage

    if any(map(require_storage_embed, rows.features.values())):
        rows = (
            rows.with_format("arrow")
            .map(embed_table_storage, batched=True, batch_size=100)
            .with_format(None)
        )
    size = rows.flatten_indices().data.nbytes if rows._indices is not None else rows.data.nbytes
    shards = min(len(rows), max(1, math.ceil(size / max_shard_bytes)))
    for number in range(shards):
        shard = rows.shard(shards, number, contiguous=True)
        shard.to_parquet(str(folder / f"{number:05d}-of-{shards:05d}.parquet"))
    return size
