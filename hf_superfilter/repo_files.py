"""The files of a published subset: Parquet shards, recipe, report, pictures, facts. What publish commits, on disk."""

import json
import math
import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .card import merged_card
from .facts import facts_of
from .figures import length_picture, score_picture
from .provenance import CARD, own_columns, provenance_of, source_metadata
from .recipe import FILE as RECIPE
from .report import write_report
from .text_facts import script_facts, token_facts
from .whole_files import whole_file

if TYPE_CHECKING:
    from datasets import Dataset

    from .funnel import Selection

FACTS, REPORT = "facts.json", "report.html"
SHARD_BYTES = 500_000_000
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
HUB_ID = rf"{NAME}/{NAME}"


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

    Example:
        >>> from datasets import Dataset, load_dataset
        >>> from hf_superfilter import TopK, select, write_repo
        >>> table = Dataset.from_dict({"text": ["a", "b", "c"], "quality": [0.1, 0.9, 0.5]})
        >>> folder = write_repo(select(table, TopK("quality", 2)), "runs/docs/repo", name="best-2")
        >>> load_dataset(str(folder), "best-2", split="train")["text"][:]
        ['b', 'c']
    """
    splits, home = splits_of(selection, name), Path(folder)
    facts = {}
    for split, part in splits.items():
        shutil.rmtree(home / name / split, ignore_errors=True)
        facts[split] = write_split(part, home / name / split, pairs=pairs, max_shard_bytes=max_shard_bytes)
    card = home / CARD
    before = card.read_text(encoding="utf-8") if card.is_file() else ""
    text = merged_card(before, name, facts, str(folder), set_default)
    with whole_file(card) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return home


def check_repo_id(repo_id: str) -> None:
    """Refuse what cannot be a repository's name on the Hub."""
    if (
        not re.fullmatch(HUB_ID, str(repo_id))
        or ".." in repo_id
        or "--" in repo_id
        or repo_id.endswith((".", "-", ".git"))
    ):
        raise ValueError(f"repo_id={repo_id!r}: give 'user/name', of letters, digits, '-', '_' and '.'")


def splits_of(selection: "Selection | Mapping[str, Selection]", name: str) -> "dict[str, Selection]":
    """The selections by split, after a check of every name and that there is something in each."""
    if not re.fullmatch(NAME, str(name)) or str(name) == "data" or ".." in str(name):
        raise ValueError(
            f"name={name!r}: a subset's name is made of letters, digits, '-', '_' and '.', begins with a letter or "
            "digit, and is not 'data', which datasets keeps for itself"
        )
    splits = dict(selection) if isinstance(selection, Mapping) else {"train": selection}
    if not splits:
        raise ValueError("there is no split to publish: give a selection, or a dict {'train': selection, ...}")
    for split, part in splits.items():
        if not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", str(split)) or split == "all":
            raise ValueError(
                f"split {split!r}: a split's name is made of letters, digits, '_' and '.', and is not 'all'"
            )
        if not hasattr(part, "subset"):
            raise ValueError(f"split {split!r} is of type {type(part).__name__}: give what select(...) answers")
        if not len(part.rows):
            raise ValueError(f"nothing was kept for the split {split!r}: there are no rows to publish")
    return splits


def write_split(selection: "Selection", folder: Path, *, pairs: bool, max_shard_bytes: int) -> dict[str, Any]:
    """Write one split's files; the answer is what the card says of it, and `facts.json` holds."""
    known = provenance_of(selection)
    columns = own_columns(selection, known["source"])
    rows = selection.subset.with_format(None)
    rows = rows if pairs else rows.select_columns(columns)
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {**facts_of(selection), "created": known["created"], "scorers": known["scorers"]}
    for step, entry in zip(facts["steps"], selection.steps, strict=True):
        step["entry"] = entry.entry
    facts |= _inherited(known)
    facts |= {"tokens": token_facts(selection), "scripts": script_facts(selection)}
    facts |= {"published": datetime.now(UTC).isoformat(timespec="seconds"), "recipe": None, "pictures": []}
    if known["recipe"]:
        facts["recipe"] = known["recipe"].to_yaml()
        (folder / RECIPE).write_text(facts["recipe"], encoding="utf-8")
    for file, picture in (("scores.png", score_picture(selection)), ("lengths.png", length_picture(selection))):
        if picture:
            (folder / file).write_bytes(picture.png)
            facts["pictures"].append({"file": file, "alt": picture.alt})
    write_report(selection, folder / REPORT)
    facts |= {"columns": rows.column_names, "num_bytes": _write_shards(rows, folder, max_shard_bytes)}
    facts["left_out"] = [column for column in selection.table.column_names if column not in rows.column_names]
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
    language = card.get("language")
    models = [scorer["model"] for scorer in known["scorers"] if scorer["model"]]
    recorded = source and source.get("revision")
    on_the_hub = source and len(str(recorded)) == 40 and re.fullmatch(HUB_ID, source["dataset"])
    return {
        "source": source and {**source, "on_the_hub": bool(on_the_hub)},
        "source_missing": missing,
        "license": card.get("license"),
        "language": [str(one) for one in (language if isinstance(language, list) else [language]) if one],
        "source_datasets": [source["dataset"]] if on_the_hub else [],
        "base_model": [m for m in dict.fromkeys(models) if re.fullmatch(HUB_ID, m) and not Path(m).exists()],
    }


def _write_shards(rows: "Dataset", folder: Path, max_shard_bytes: int) -> int:
    """Write the rows in their order into one or more Parquet files; the answer is their size in memory."""
    size = rows.flatten_indices().data.nbytes if rows._indices is not None else rows.data.nbytes
    shards = min(len(rows), max(1, math.ceil(size / max_shard_bytes)))
    for number in range(shards):
        shard = rows.shard(shards, number, contiguous=True)
        shard.to_parquet(str(folder / f"{number:05d}-of-{shards:05d}.parquet"))
    return size
