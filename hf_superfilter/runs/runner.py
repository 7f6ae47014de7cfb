"""score(): scorers over rows into a run folder, by any number of processes that come and go.

folder/run.json                        what was scored with what: rows, settings, revisions, tokens, seconds, device
folder/chunks.npy                      where the chunks begin, and the bytes of text in each
folder/<scorer>/000000.parquet ...     its columns, one file per chunk of rows
folder/run.log.jsonl                   one line per chunk, as it was finished
"""

import inspect
import io
import os
import socket
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..base import Columns, PreparedScorer, Scorer, as_scorer, scorer_name, takes_rank
from ..checks import check_name
from .chunks import Chunks, layout_of
from .distributed import Process, this_process
from .manifest import (
    check_fingerprint,
    fingerprint_digest,
    fingerprint_of,
    open_manifest,
    read_scorer,
    record_scorer,
)
from .prepare import prepared
from .scheduler import work
from .store import Store
from .stream import spool

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

LAYOUT = "chunks.npy"


def score(
    rows: "Dataset | IterableDataset",
    scorers: "Sequence[Scorer | Callable]",
    folder: str | Path,
    *,
    chunk_size: int = 2_048,
    expect_processes: int | None = None,
) -> "Dataset | None":
    """Add every scorer's columns to the rows, keeping each finished chunk in a run folder.

    Run again after a kill at any moment, it goes on from the chunks that are there and gives the same
    table. More scorers may be added to a folder later; a scorer sees the columns of those before it.

    Any number of processes may work on one folder at once: those of one launch (torchrun, accelerate launch),
    or started by hand on machines that share it. Each takes the largest chunk that nobody has; one that
    dies or hangs costs its chunk, which another takes over.

    Args:
        rows: a Dataset with the columns that the scorers read; or a stream, which is first written to the
            folder, so that memory holds one chunk of it.
        scorers: callables `batch -> columns`, with different names.
        folder: the run folder; made if need be. An fsspec URL (`s3://`, `gs://`) works too; there each
            process of a launch takes a fixed share, and then whatever is missing.
        chunk_size: rows of a chunk at most; 500 kB of text end one earlier. The work a kill can cost.
        expect_processes: refuse to run if the launcher started another number.

    Returns:
        The rows in their order with all score columns; None on all processes of a launch but the main one.

    Raises:
        ValueError: no rows, two scorers of one name, a folder that holds a run of other rows or
            settings, a column that is there already, or a wrong number of values or processes.
        OSError: the folder cannot be written.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import Length, score
        >>> rows = Dataset.from_dict({"prompt": ["Hi"], "response": ["Hello"]})
        >>> score(rows, [Length()], "runs/docs")["length"][:]
        [5.0]
    """
    listed = [scorers] if callable(scorers) else scorers
    adapted: list[Any] = [as_scorer(scorer) for scorer in listed]
    names = [scorer_name(scorer) for scorer in adapted]
    process = this_process(expect_processes)
    table, store = _opened(rows, names, Store(folder), chunk_size)
    mapped = table is not rows  # a stream: its scores stay on disk too
    starts, sizes = _layout(store, table, chunk_size)
    for name, scorer in zip(names, adapted, strict=True):
        claim = fingerprint_of(scorer, table)
        check_fingerprint(store, name, claim)
        record_scorer(store, name, claim)
        chunks = Chunks(store, name, starts, claim=fingerprint_digest(claim))
        if isinstance(scorer, PreparedScorer):
            scorer = as_scorer(prepared(scorer, table, chunks, process))
        if process.is_main:
            _check_itself(scorer, name, store, table, process)
        leaves = name == names[-1] and not process.is_main  # nobody needs its table
        work(
            chunks,
            sizes,
            _chunk_scorer(scorer, name, table, chunks, process),
            process,
            leaves=leaves,
        )
        if leaves:
            return None
        if process.is_main:
            record_scorer(store, name, summary := _summary(chunks, name, scorer))
            _warn_about(name, summary)
        table = _with_columns(table, chunks, mapped)
    return table if process.is_main else None


def _opened(rows: Any, names: list[str], store: Store, chunk_size: int) -> "tuple[Dataset, Store]":
    """The rows as a Dataset, and the run folder with its record; or what is wrong with either."""
    from datasets import Dataset, IterableDataset

    if not names:
        raise ValueError("score needs at least one scorer, such as IFD('openai-community/gpt2')")
    for name, times in Counter(names).items():
        check_name(name)
        if times > 1:
            raise ValueError(
                f"{times} scorers are named {name!r}: give them names, IFD(..., name='ifd_large')"
            )
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size!r}: give a number of rows, at least 1")
    if isinstance(rows, IterableDataset):
        rows = spool(rows, store, chunk_size)
    if not isinstance(rows, Dataset):
        raise ValueError(
            f"score takes one Dataset, and got {type(rows).__name__}: pick a split, dataset['train'], or make one with "
            "Dataset.from_list"
        )
    if len(rows) == 0:
        raise ValueError("the data set has no rows: there is nothing to score")
    open_manifest(store, len(rows), chunk_size)
    return rows, store


def _layout(store: Store, table: "Dataset", chunk_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the chunks begin, and what each costs: as the first process that came wrote it down."""
    with suppress(
        FileNotFoundError, ValueError, EOFError
    ):  # not there, or damaged: it is made again
        known = np.load(io.BytesIO(store.read(LAYOUT)))
        if known.ndim == 2 and known[0, -1] == len(table):
            return known[0], known[1, :-1]
    starts, sizes = layout_of(table, chunk_size)
    buffer = io.BytesIO()
    np.save(buffer, np.stack([starts, np.append(sizes, 0)]))
    store.write(LAYOUT, buffer.getvalue())
    return starts, sizes


def _chunk_scorer(
    scorer: Any, name: str, table: "Dataset", chunks: Chunks, process: Process
) -> Callable:
    """What is done for one chunk: score its rows and put the file; it answers with the facts about it."""
    plain, placed = table.with_format(None), _placed(scorer, process)
    provenance = _placed(scorer.provenance, process)

    def score_chunk(number: int) -> dict[str, Any]:
        start, span = time.perf_counter(), chunks.span(number)
        columns = _checked(placed(batch := plain[span.start : span.stop]), batch, name, len(span))
        tokens = float(np.nansum(np.asarray(columns.get(f"{name}_tokens", 0), dtype=np.float64)))
        facts = {
            "seconds": time.perf_counter() - start,
            "tokens": tokens,
            "made_with": provenance(),
        }
        facts["process"] = f"{socket.gethostname()}:{os.getpid()}"
        chunks.write(number, columns, facts)
        return facts

    return score_chunk


def _check_itself(
    scorer: Any, name: str, store: Store, table: "Dataset", process: Process
) -> None:
    """Record what a scorer finds out about itself, once in the life of a run folder."""
    if "trial" not in read_scorer(store, name):
        facts = _placed(scorer.self_check, process)(table)
        if facts:
            record_scorer(store, name, {"trial": facts})


def _placed(function: Callable, process: Process) -> Callable:
    """A scorer's function that runs on this process's device, if it takes a rank."""
    if process.local is None or not takes_rank(function):
        return function
    return partial(function, rank=process.local)


def _checked(columns: Any, batch: Mapping[str, Any], name: str, rows: int) -> Columns:
    """A scorer's answer, if it is one."""
    if inspect.isawaitable(columns) or not isinstance(columns, Mapping) or not columns:
        raise ValueError(
            f"scorer {name!r} answered with {type(columns).__name__}, not with a dict of columns"
        )
    for column, values in columns.items():
        if len(values) != rows:
            raise ValueError(
                f"scorer {name!r} answered with {len(values)} values in {column!r} for {rows} rows"
            )
        if column in batch:
            raise ValueError(
                f"scorer {name!r} would write over the column {column!r} of the rows: give the scorer another "
                "name=, or remove the column first"
            )
    return dict(columns)


def _summary(chunks: Chunks, name: str, scorer: Any) -> dict[str, Any]:
    """What `run.json` says of a finished scorer, all of it from what the chunks hold."""
    facts = list(chunks.facts().values())
    columns, undefined, statuses = chunks.table(0).column_names, 0, Counter[str]()
    main = scorer.main or columns[0]
    defines = main in columns and pa.types.is_floating(chunks.table(0).column(main).type)
    bounds, beyond = scorer.bounds, Counter[str]()
    for number in range(len(chunks)):
        part = chunks.table(number)
        if defines:
            undefined += int(pc.sum(pc.fill_null(pc.is_nan(part.column(main)), True)).as_py() or 0)
            beyond.update(_beyond(part.column(main), bounds) if bounds else {})
        if f"{name}_status" in columns:
            statuses.update(part.column(f"{name}_status").to_pylist())
    summary: dict[str, Any] = {"columns": columns, "main": main, "rows": chunks.rows}
    summary["seconds"] = round(sum(fact["seconds"] for fact in facts), 3)
    if defines:
        summary["undefined"] = undefined
        if bounds:
            summary["beyond"] = dict(beyond)
    if f"{name}_tokens" in columns:
        summary["tokens"] = int(sum(fact["tokens"] for fact in facts))
    if statuses:
        summary["status"] = dict(statuses.most_common())
    made_with = [fact["made_with"] for fact in facts]
    if any(made_with):
        # A run that went on elsewhere says so: "bfloat16; float32".
        found = {
            key: list(dict.fromkeys(made.get(key) for made in made_with)) for key in made_with[0]
        }
        summary["made_with"] = {
            k: v[0] if len(v) == 1 else "; ".join(map(str, v)) for k, v in found.items()
        }
    return summary


def _beyond(values: pa.ChunkedArray, bounds: tuple[float, float]) -> dict[str, int]:
    """How many values lie outside the range that a scorer names as the usual one; they are kept as they are."""
    outside = {
        f"below {bounds[0]:g}": pc.less(values, bounds[0]),
        f"above {bounds[1]:g}": pc.greater(values, bounds[1]),
    }
    return {words: int(pc.sum(found).as_py() or 0) for words, found in outside.items()}


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


def _with_columns(table: "Dataset", chunks: Chunks, mapped: bool) -> "Dataset":
    """The table with new columns at its end; mapped from a file where the rows are."""
    from datasets import Dataset, concatenate_datasets

    if not mapped:
        return concatenate_datasets([table, Dataset(chunks.read())], axis=1)
    file = f"{chunks.name}/columns.arrow"
    with chunks.store.file(file) as unfinished:
        chunks.write_arrow(unfinished)
    return concatenate_datasets([table, Dataset.from_file(str(chunks.store.path(file)))], axis=1)
