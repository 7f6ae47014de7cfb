"""Write the files of a split: Parquet shards, recipe, report, plots, facts."""

import json
import math
import re
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow.types import is_nested

from ..data.own_columns import restore_source
from ..data.sources import SAMPLE
from ..recipes.recipe import FILE as RECIPE
from ..reports.page import write_page
from ..reports.plots import selection_plots
from ..reports.summary import Summary
from ..revisions import is_commit
from ..tables.row_blocks import row_blocks
from .card import as_list, licence_warning, plain
from .layout import about_folder, digest_files, rows_folder
from .provenance import provenance_of, source_metadata
from .request import NAME

if TYPE_CHECKING:
    from datasets import Dataset

    from ..selection.funnel import Selection

FACTS, REPORT = "facts.json", "report.html"


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
