"""score(): scorers over rows into a run folder, resumable. The only file that knows ranks.

folder/run.json             what was scored with what: rows, settings, revisions, tokens, seconds, device
folder/<scorer>/000000.parquet ...     its columns, one file per chunk of rows
"""

import inspect
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .chunks import Chunks
from .contracts import Columns, Scorer, check_name
from .record import check_claim, claim_digest, claim_of, note_scorer, open_record

if TYPE_CHECKING:
    from datasets import Dataset


def score(
    rows: "Dataset", scorers: "Sequence[Scorer | Callable]", folder: str | Path, *, chunk_size: int = 2_048
) -> "Dataset":
    """Add every scorer's columns to the rows, keeping each finished chunk in a run folder.

    Run again after a kill at any moment, it goes on from the chunks that are there and gives the same
    table. More scorers may be added to a folder later; a scorer sees the columns of those before it.

    Args:
        rows: a Dataset with the columns that the scorers read.
        scorers: callables `batch -> columns`, with different names.
        folder: the run folder; made if need be.
        chunk_size: rows of a chunk, the work a kill can cost.

    Returns:
        The rows in their order with all score columns.

    Raises:
        ValueError: no rows, two scorers of one name, a folder that holds a run of other rows or
            settings, a column that is there already, or a wrong number of values.
        OSError: the folder cannot be written.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import Length, score
        >>> rows = Dataset.from_dict({"prompt": ["Hi"], "response": ["Hello"]})
        >>> score(rows, [Length()], "runs/docs")["length"][:]
        [5.0]
    """
    if callable(scorers):
        scorers = [scorers]
    names = [name_of(scorer) for scorer in scorers]
    _check_input(rows, names, folder, chunk_size)
    run, table = Path(folder), rows
    open_record(run, len(rows), chunk_size)
    for name, scorer in zip(names, scorers, strict=True):
        claim = claim_of(scorer, name, table)
        check_claim(run, name, claim)
        note_scorer(run, name, claim)
        chunks = Chunks(run / name, len(rows), chunk_size, claim=claim_digest(claim))
        if hasattr(scorer, "prepare"):
            scorer = scorer.prepare(table, str(run / name))
        _fill(chunks, table, name, scorer)
        columns = chunks.read()
        summary = _summary(columns, chunks, name, scorer)
        note_scorer(run, name, summary)
        _warn_about(name, summary)
        table = _with_columns(table, columns)
    return table


def name_of(scorer: object) -> str:
    """A scorer's name: its own, or that of the plain function."""
    name = getattr(scorer, "name", None) or getattr(scorer, "__name__", type(scorer).__name__)
    return str(name).strip("<>")


def _check_input(rows: Any, names: list[str], folder: str | Path, chunk_size: int) -> None:
    from datasets import Dataset

    if not names:
        raise ValueError("score needs at least one scorer, such as IFD('openai-community/gpt2')")
    for name, times in Counter(names).items():
        check_name(name)
        if times > 1:
            raise ValueError(f"{times} scorers are named {name!r}: give them names, IFD(..., name='ifd_large')")
    if not isinstance(rows, Dataset):
        raise ValueError(
            f"score takes one Dataset, and got {type(rows).__name__}: pick a split, dataset['train'], make one with "
            "Dataset.from_list, or map a streaming data set with the scorer itself"
        )
    if len(rows) == 0:
        raise ValueError("the data set has no rows: there is nothing to score")
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size!r}: give a number of rows, at least 1")
    if "://" in str(folder):
        raise ValueError(f"folder={str(folder)!r}: score writes to a local folder so far, not to a URL")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("score works in one process so far: start it without torchrun or accelerate launch")


def _fill(chunks: Chunks, table: "Dataset", name: str, scorer: Callable) -> None:
    """Score the chunks that are not done, under one progress bar with rows and tokens a second."""
    pending = chunks.pending()
    if not pending:
        return
    from datasets.utils import tqdm

    done = chunks.rows - sum(len(chunks.span(number)) for number in pending)
    tokens, began = 0.0, time.perf_counter()
    plain = table.with_format(None)
    with tqdm(total=chunks.rows, initial=done, unit="rows", desc=f"Scoring {name}") as bar:
        for number in pending:
            start = time.perf_counter()
            span = chunks.span(number)
            columns = _call(scorer, plain[span.start : span.stop], name, len(span))
            mine = float(np.nansum(np.asarray(columns.get(f"{name}_tokens", 0), dtype=np.float64)))
            facts = {"seconds": time.perf_counter() - start, "tokens": mine}
            made_with = scorer.provenance() if hasattr(scorer, "provenance") else {}
            chunks.write(number, columns, facts | {"made_with": made_with})
            tokens += mine
            bar.update(len(span))
            if tokens:
                bar.set_postfix_str(f"{tokens / (time.perf_counter() - began):,.0f} tokens/s")


def _call(scorer: Callable, batch: dict[str, Any], name: str, rows: int) -> Columns:
    """The scorer's answer, checked."""
    columns = scorer(batch)
    if inspect.isawaitable(columns) or not isinstance(columns, Mapping) or not columns:
        raise ValueError(f"scorer {name!r} answered with {type(columns).__name__}, not with a dict of columns")
    for column, values in columns.items():
        if len(values) != rows:
            raise ValueError(f"scorer {name!r} answered with {len(values)} values in {column!r} for {rows} rows")
        if column in batch:
            raise ValueError(
                f"scorer {name!r} would write over the column {column!r} of the rows: give the scorer another "
                "name=, or remove the column first"
            )
    return dict(columns)


def _summary(columns: pa.Table, chunks: Chunks, name: str, scorer: object) -> dict[str, Any]:
    """What `run.json` says of a finished scorer, all of it from what the chunks hold."""
    facts = chunks.facts()
    summary: dict[str, Any] = {
        "columns": columns.column_names,
        "main": getattr(scorer, "main", columns.column_names[0]),
        "rows": chunks.rows,
        "seconds": round(sum(fact["seconds"] for fact in facts), 3),
    }
    main = columns.column(summary["main"]) if summary["main"] in columns.column_names else None
    if main is not None and pa.types.is_floating(main.type):
        summary["undefined"] = int(pc.sum(pc.fill_null(pc.is_nan(main), True)).as_py() or 0)
    if f"{name}_tokens" in columns.column_names:
        summary["tokens"] = int(sum(fact["tokens"] for fact in facts))
    if f"{name}_status" in columns.column_names:
        summary["status"] = dict(Counter(columns.column(f"{name}_status").to_pylist()).most_common())
    made_with = [fact["made_with"] for fact in facts]
    if any(made_with):
        # A run that went on elsewhere says so: "bfloat16; float32".
        found = {key: list(dict.fromkeys(made.get(key) for made in made_with)) for key in made_with[0]}
        summary["made_with"] = {k: v[0] if len(v) == 1 else "; ".join(map(str, v)) for k, v in found.items()}
    return summary


def _warn_about(name: str, summary: Mapping[str, Any]) -> None:
    if summary.get("undefined") == summary["rows"]:
        reasons = summary.get("status", "no reason recorded")
        warnings.warn(f"every row of {name!r} is undefined: {reasons}", stacklevel=3)
    dtype = str(summary.get("made_with", {}).get("dtype", ""))
    if ";" in dtype:
        warnings.warn(
            f"the chunks of {name!r} were scored in different arithmetic ({dtype}), which may change ranks a little: "
            "give the scorer a dtype and a new folder to avoid it",
            stacklevel=3,
        )


def _with_columns(table: "Dataset", columns: pa.Table) -> "Dataset":
    """The table with new columns at its end."""
    from datasets import Dataset, concatenate_datasets

    return concatenate_datasets([table, Dataset(columns)], axis=1)
