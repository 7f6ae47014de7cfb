"""Score rows into a run folder, with any number of processes that come and go.

folder/run.json                        the manifest: rows, settings, revisions, tokens, seconds
folder/chunks.npy                      where the chunks begin, and the bytes of text in each
folder/<scorer>/000000.parquet ...     its columns, one file per chunk of rows
folder/run.log.jsonl                   one line per chunk, as it was finished
"""

import inspect
import io
import logging
import os
import socket
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..base import (
    Columns,
    CountedColumns,
    PreparedScorer,
    Scorer,
    as_scorer,
    scorer_name,
    takes_rank,
)
from ..checks import check_name, is_count, plain_number
from ..errors import SuperfilterError, WrongTypeError
from ..tables.in_memory import rows_in_memory
from ..tables.media import read_batch
from ..tables.origin import origin_of, record_origin
from .bar import Bar, open_bar
from .chunks import LAYOUT, Chunks, layout_of
from .distributed import Process, this_process
from .forecast import forecast
from .manifest import (
    check_fingerprint,
    chunk_identity,
    fingerprint_of,
    open_manifest,
    read_scorer,
    record_first_source,
    record_scorer,
    take_scorer,
)
from .prepare import prepare_scorer
from .scheduler import run_chunks
from .store import Store, sweep_unfinished
from .stream import can_join, join_columns, spool_stream
from .unreadable import (
    MAX_UNREADABLE,
    RECORDED,
    check_count,
    check_reasons,
    check_share,
    unreadable_entries,
)

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)
LEAST_ROWS = 24  # below, what a run takes is not measured in front of it
LONG = 45.0  # seconds of a run that is announced: about a minute
HELD = 1 << 26  # bytes of a scorer's columns; more are mapped from a file of the run folder


def score(
    rows: "Dataset | IterableDataset",
    scorers: "Sequence[Scorer | Callable[..., Any]]",
    folder: str | Path,
    *,
    chunk_size: int = 2_048,
    expect_processes: int | None = None,
    max_unreadable: float = MAX_UNREADABLE,
) -> "Dataset | None":
    """Add every scorer's columns to the rows, and keep finished chunks in a folder.

    Run again after a kill at any moment, it goes on from the finished chunks and gives the same
    table. More scorers may be added to a folder later; a scorer sees the columns of those before
    it. A folder belongs to one setting: its rows, chunk size and the settings of each scorer.

    Any number of processes may work on one folder at once: those of one launch (torchrun,
    accelerate launch), or started by hand on machines that share it. Each takes the largest free
    chunk; one that dies or hangs costs its chunk, which another takes over. A finished run is only
    read, so its folder may be read-only.

    Args:
        rows: a Dataset with the columns that the scorers read, a list of dicts or a pandas frame
            with them; or a stream, which is first written
            to the folder, so that memory holds one chunk of it.
        scorers: callables `batch -> columns`, with different names.
        folder: the run folder, created if need be. An fsspec URL (`s3://`, `gs://`) works too;
            there each process of a launch takes a fixed share, and then whatever is missing.
        chunk_size: rows of a chunk at most; 500 kB of text end one earlier. What a kill can cost.
        expect_processes: refuse to run if the launcher started another number.
        max_unreadable: stop if more than this share of the rows cannot be read or formatted. Up to
            it they get the status `unreadable`, and `run.log.jsonl` their numbers and reasons.

    Returns:
        The rows in their order with all score columns; None on all processes of a launch but the
        main one.

    Raises:
        SuperfilterError: no rows, two scorers of one name, a folder that holds a run of other rows
            or settings, a column that exists already, too many unreadable rows, or a wrong number
            of values or processes.
        OSError: the folder cannot be written.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import Length, score
        >>> rows = Dataset.from_dict({"prompt": ["Hi"], "response": ["Hello"]})
        >>> score(rows, [Length()], "runs/docs")["length"][:]
        [5]
    """
    adapted: list[Any] = [as_scorer(scorer) for scorer in _listed(scorers)]
    names = [scorer_name(scorer) for scorer in adapted]
    process = this_process(expect_processes)
    chunk_size, max_unreadable = plain_number(chunk_size), plain_number(max_unreadable)
    _check_arguments(names, chunk_size)
    check_share(max_unreadable)
    store = Store(folder)
    table, parts = _open_rows(rows, store, chunk_size)
    check_reasons(table, max_unreadable)
    run = open_manifest(store, len(table), chunk_size)["run"]
    origin = origin_of(table)
    if origin is not None and process.is_main:
        record_first_source(store, origin)
    if store.exclusive:
        sweep_unfinished(store.folder)
    starts, sizes = _open_layout(store, table, chunk_size)
    for name, scorer in zip(names, adapted, strict=True):
        fingerprint = fingerprint_of(scorer, table)
        take_scorer(store, name, fingerprint, run, origin)
        chunks = Chunks(store, name, starts, identity=chunk_identity(run, fingerprint))
        if isinstance(scorer, PreparedScorer):
            scorer = as_scorer(prepare_scorer(scorer, table, chunks, process))
        may_exit = name == names[-1] and not process.is_main  # it returns no table
        score_chunk = _chunk_scorer(scorer, name, table, chunks, process, max_unreadable)
        with open_bar(chunks, sizes, process) as bar:
            if process.is_main:
                _check_scorer(scorer, name, store, table, process)
                _announce(scorer, table, chunks, process, bar)
            bar.say("loading the model, first chunk")
            run_chunks(chunks, sizes, score_chunk, process, bar, may_exit=may_exit)
        if may_exit:
            return None
        if process.is_main:
            check_count(_unreadable_rows(chunks), len(table), max_unreadable)
            summary = _summarise(chunks, name, scorer)
            check_fingerprint(store, name, fingerprint)  # where two could take it: a plain URL
            record_scorer(store, name, {**fingerprint, "run": run, **summary})
            _warn_about(name, summary)
        table, parts = _with_columns(table, parts, chunks)
    if origin is not None:
        record_origin(table, origin)
    return table if process.is_main else None


def _listed(scorers: Any) -> list[Any]:
    """Return the scorers as a list, all of them callable and none a class."""
    several = isinstance(scorers, Iterable) and not isinstance(scorers, str | type)
    listed = list(scorers) if several and not callable(scorers) else [scorers]
    for scorer in listed:
        if isinstance(scorer, type):
            raise WrongTypeError(
                f"{scorer.__name__} is a class, not a scorer: give an instance, such as "
                "IFD('openai-community/gpt2')"
            )
        if not callable(scorer):
            raise WrongTypeError(
                f"{scorer!r} is not a scorer: give IFD('openai-community/gpt2') or a function of "
                "a batch"
            )
    return listed


def _check_arguments(names: list[str], chunk_size: int) -> None:
    if not names:
        raise SuperfilterError(
            "score needs at least one scorer, such as IFD('openai-community/gpt2')"
        )
    for name, times in Counter(names).items():
        check_name(name)
        if times > 1:
            raise SuperfilterError(
                f"{times} scorers are named {name!r}: give them names, IFD(..., name='ifd_large')"
            )
    if not is_count(chunk_size):
        raise SuperfilterError(f"chunk_size={chunk_size!r}: give a number of rows, at least 1")


def _open_rows(rows: Any, store: Store, chunk_size: int) -> "tuple[Dataset, list[Dataset]]":
    """Return the rows as a Dataset, and those of a stream also as the parts it lies in."""
    from datasets import Dataset, IterableDataset, concatenate_datasets

    parts: list[Dataset] = []
    if isinstance(rows, IterableDataset):
        parts = spool_stream(rows, store, chunk_size)
        rows = concatenate_datasets(parts)
    given = rows
    if not isinstance(given, Dataset):
        rows = rows_in_memory(given)
    if rows is None:
        raise SuperfilterError(
            f"score takes one Dataset, and got {type(given).__name__}: pick a split, "
            "dataset['train'], or make one with Dataset.from_list"
        )
    if len(rows) == 0:
        raise SuperfilterError("the data set has no rows: there is nothing to score")
    return rows, parts


def _open_layout(store: Store, table: "Dataset", chunk_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Read where the chunks begin and what each costs, or decide it as the first process."""
    try:
        return _check_layout(np.load(io.BytesIO(store.read(LAYOUT))), len(table), chunk_size)
    except FileNotFoundError:
        pass
    except (ValueError, EOFError, OSError) as error:
        reason = (str(error).splitlines() or ["empty"])[0]
        logger.warning("%s/%s is damaged (%s): it is made again", store.folder, LAYOUT, reason)
    starts, sizes = layout_of(table, chunk_size)
    buffer = io.BytesIO()
    np.save(buffer, np.stack([starts, np.append(sizes, 0)]))
    store.write(LAYOUT, buffer.getvalue())
    return starts, sizes


def _check_layout(layout: np.ndarray, rows: int, chunk_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Check that chunks cover all rows once, and are not larger than asked for."""
    if layout.ndim != 2 or layout.shape[0] != 2 or layout.dtype != np.int64:
        raise ValueError(f"{layout.dtype} numbers of shape {layout.shape}")
    starts, sizes = layout[0], layout[1, :-1]
    if starts[0] != 0 or starts[-1] != rows:
        raise ValueError(f"rows {starts[0]} to {starts[-1]}, not 0 to {rows}")
    lengths = np.diff(starts)
    if lengths.min() < 1 or lengths.max() > chunk_size or sizes.min() < 0:
        raise ValueError(f"chunks of {lengths.min()} to {lengths.max()} rows")
    return starts, sizes


def _chunk_scorer(
    scorer: Any,
    name: str,
    table: "Dataset",
    chunks: Chunks,
    process: Process,
    max_unreadable: float,
) -> Callable[[int], dict[str, Any]]:
    """Return a function that scores one chunk, writes its file and returns facts about it."""
    call = _on_device(scorer, process)
    read = scorer.columns_read(table.column_names)
    unreadable: list[dict[str, Any]] = []  # of this process, so that it need not score all rows
    provenance = _on_device(scorer.provenance, process)

    def score_chunk(number: int) -> dict[str, Any]:
        start, span = time.perf_counter(), chunks.span(number)
        batch = read_batch(table, span.start, span.stop)
        returned = call(batch)
        columns = _check_columns(returned, batch, name, len(span))
        _make_counts_whole(columns, name)
        tokens = np.asarray(columns.get(f"{name}_tokens", 0), dtype=np.float64)
        facts = {
            "seconds": time.perf_counter() - start,
            "tokens": float(np.nansum(tokens)),
            "made_with": provenance(),
            "process": f"{socket.gethostname()}:{os.getpid()}",
        }
        if isinstance(returned, CountedColumns) and returned.counts:
            facts["counts"] = returned.counts
        statuses: Any = columns.get(f"{name}_status", ())
        entries = unreadable_entries(batch, statuses, read, span.start)
        if entries:
            facts["unreadable"] = entries
            unreadable.extend(entries)
            check_count(unreadable, len(table), max_unreadable)
        chunks.write(number, columns, facts)
        return facts

    return score_chunk


def _make_counts_whole(columns: Columns, name: str) -> None:
    """Turn the tokens of a batch to integers, null where they are nan."""
    counts = columns.get(f"{name}_tokens")
    if isinstance(counts, np.ndarray) and np.issubdtype(counts.dtype, np.floating):
        columns[f"{name}_tokens"] = [None if np.isnan(n) else int(n) for n in counts.tolist()]


def _check_scorer(scorer: Any, name: str, store: Store, table: "Dataset", process: Process) -> None:
    """Record what a scorer finds out about itself on these rows, once per run folder."""
    if "trial" not in read_scorer(store, name) and store.writable():
        facts = _on_device(scorer.self_check, process)(table)
        if facts:
            record_scorer(store, name, {"trial": facts})


def _announce(scorer: Any, table: "Dataset", chunks: Chunks, process: Process, bar: Bar) -> None:
    """Say what a run of over a minute is about to do, where its log is read."""
    pending = chunks.pending()
    if not pending or not logger.isEnabledFor(logging.INFO):
        return
    left = np.concatenate([np.asarray(chunks.span(number)) for number in pending])
    if len(left) < LEAST_ROWS:
        return
    expected = forecast(
        scorer,
        table,
        left=left,
        processes=process.count,
        call=_on_device(scorer, process),
        say=bar.say,
        is_prepared=True,
    )
    if expected.seconds is None or expected.seconds > LONG:
        logger.info("%s, into %s", expected, chunks.store.folder)


def _on_device(function: Callable[..., Any], process: Process) -> Callable[..., Any]:
    """Bind a scorer's function to this process's device, if it takes a rank."""
    if process.local is None or not takes_rank(function):
        return function
    return partial(function, rank=process.local)


def _check_columns(columns: Any, batch: Mapping[str, Any], name: str, rows: int) -> Columns:
    """Check what a scorer returned for a batch."""
    if inspect.isawaitable(columns) or not isinstance(columns, Mapping) or not columns:
        raise SuperfilterError(
            f"scorer {name!r} returned {type(columns).__name__}, not a dict of columns"
        )
    for column, values in columns.items():
        if len(values) != rows:
            raise SuperfilterError(
                f"scorer {name!r} returned {len(values)} values in {column!r} for {rows} rows"
            )
        if column in batch:
            raise SuperfilterError(
                f"scorer {name!r} would write over the column {column!r} of the rows: give the "
                "scorer another name=, or remove the column first"
            )
    return dict(columns)


def _summarise(chunks: Chunks, name: str, scorer: Any) -> dict[str, Any]:
    """Summarise a finished scorer for the manifest, from what its chunks hold."""
    facts = list(chunks.facts().values())
    schema = chunks.table(0).schema
    main, bounds = scorer.main or schema.names[0], scorer.bounds
    kind = schema.field(main).type if main in schema.names else pa.string()
    has_scores = any(
        is_kind(kind) for is_kind in (pa.types.is_floating, pa.types.is_integer, pa.types.is_null)
    )
    undefined, outside, statuses = 0, Counter[str](), Counter[str]()
    for number in range(len(chunks)):
        table = chunks.table(number)
        if has_scores:
            missing = pc.is_null(table.column(main), nan_is_null=True)
            undefined += int(pc.sum(missing).as_py() or 0)
            outside.update(_count_outside(table.column(main), bounds) if bounds else {})
        if f"{name}_status" in schema.names:
            statuses.update(table.column(f"{name}_status").to_pylist())
    summary: dict[str, Any] = {"columns": schema.names, "main": main, "rows": chunks.rows}
    summary["seconds"] = round(sum(fact["seconds"] for fact in facts), 3)
    if has_scores:
        summary["undefined"] = undefined
        if bounds:
            summary["beyond"] = dict(outside)
    if f"{name}_tokens" in schema.names:
        summary["tokens"] = int(sum(fact["tokens"] for fact in facts))
    if statuses:
        summary["status"] = dict(statuses.most_common())
    sums = {
        "counts": _sum_counts(facts),
        "unreadable": _unreadable_rows(chunks)[:RECORDED],
        "made_with": _merge_provenance([fact["made_with"] for fact in facts]),
    }
    return summary | {key: value for key, value in sums.items() if value}


def _sum_counts(facts: list[dict[str, Any]]) -> dict[str, int]:
    """Sum the rows that a scorer counted in its chunks, see `CountedColumns`."""
    counts = Counter[str]()
    for fact in facts:
        counts.update(fact.get("counts", {}))
    return dict(counts)


def _unreadable_rows(chunks: Chunks) -> list[dict[str, Any]]:
    """List the unreadable rows of all chunks with their reasons."""
    return [entry for facts in chunks.facts().values() for entry in facts.get("unreadable", [])]


def _merge_provenance(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the provenance of chunks; a run that went on elsewhere says "bfloat16; float32"."""
    merged = {}
    for key in entries[0]:
        values = list(dict.fromkeys(entry.get(key) for entry in entries))
        merged[key] = values[0] if len(values) == 1 else "; ".join(map(str, values))
    return merged


def _count_outside(values: pa.ChunkedArray, bounds: tuple[float, float]) -> dict[str, int]:
    """Count the values outside a scorer's usual range; they stay as they are."""
    low, high = bounds
    return {
        f"below {low:g}": int(pc.sum(pc.less(values, low)).as_py() or 0),
        f"above {high:g}": int(pc.sum(pc.greater(values, high)).as_py() or 0),
    }


def _warn_about(name: str, summary: Mapping[str, Any]) -> None:
    for words, rows in summary.get("counts", {}).items():
        logger.warning("%s: %s: %d of %d", name, words, rows, summary["rows"])
    if summary.get("undefined") == summary["rows"]:
        reasons = summary.get("status", "no reason recorded")
        warnings.warn(f"every row of {name!r} is undefined: {reasons}", stacklevel=3)
    dtype = str(summary.get("made_with", {}).get("dtype", ""))
    if ";" in dtype:
        warnings.warn(
            f"the chunks of {name!r} were scored in different arithmetic ({dtype}), which may "
            "change ranks a little: give the scorer a dtype and a new folder to avoid it",
            stacklevel=3,
        )


def _with_columns(
    table: "Dataset", parts: "list[Dataset]", chunks: Chunks
) -> "tuple[Dataset, list[Dataset]]":
    """Add a finished scorer's columns; to a stream's rows part by part, on disk like them.

    Those of other rows are held in memory up to `HELD` bytes; of vectors, say, they are mapped too.
    """
    from datasets import Dataset, concatenate_datasets

    if parts:
        parts = join_columns(parts, chunks)
        return concatenate_datasets(parts), parts
    if chunks.estimate_bytes() > HELD and can_join(chunks):
        return join_columns([table], chunks)[0], parts
    return concatenate_datasets([table, Dataset(chunks.read())], axis=1), parts
