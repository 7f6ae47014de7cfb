"""score(): scorers over rows into a run folder, resumable. The only file that knows ranks.

folder/run.json             what was scored with what: rows, settings, revisions, tokens, seconds, device
folder/<scorer>/000000.parquet ...     its columns, one file per chunk of rows
"""

import hashlib
import inspect
import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from .chunks import Chunks
from .contracts import Columns, Scorer, Settings, check_name

if TYPE_CHECKING:
    from datasets import Dataset

PACKAGES = ("hf-superfilter", "datasets", "transformers", "torch")


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
            settings, or a scorer that answers with a wrong number of values.
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
    _check_input(rows, names)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("score works in one process so far: start it without torchrun or accelerate launch")
    run = Path(folder)
    record = _open_record(run, rows, chunk_size)
    table = rows
    for name, scorer in zip(names, scorers, strict=True):
        chunks = Chunks(run / name, len(rows), chunk_size)
        _claim(record, run, name, scorer, table)
        if hasattr(scorer, "prepare"):
            scorer = scorer.prepare(table, str(run / name))
        _fill(chunks, table, name, scorer)
        columns = chunks.read()
        record["scorers"][name] |= _summary(columns, chunks, name, scorer)
        _write_json(run / "run.json", record)
        _warn_if_all_undefined(name, record["scorers"][name])
        table = _with_columns(table, columns)
    return table


def read_record(folder: str | Path) -> dict[str, Any]:
    """The contents of a run's `run.json`.

    Raises:
        FileNotFoundError: the folder holds no run.
    """
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} is not a run folder: it holds no run.json; make one with score or run"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record.get("scorers"), dict):
            raise ValueError("no scorers in it")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}): use another folder") from error
    return record


def name_of(scorer: object) -> str:
    """A scorer's name: its own, or that of the plain function."""
    name = getattr(scorer, "name", None) or getattr(scorer, "__name__", type(scorer).__name__)
    return str(name).strip("<>")


def describe(scorer: object) -> dict[str, Any]:
    """What a scorer is, as JSON: its constructor's arguments and identity, or a digest of a plain function."""
    if isinstance(scorer, Settings):
        kind, arguments = type(scorer), json.loads(json.dumps(scorer.settings()))
        ours = kind.__module__.startswith(f"{__package__}.")
        return {
            "scorer": {kind.__name__ if ours else f"{kind.__module__}:{kind.__name__}": arguments},
            "arithmetic": scorer.arithmetic,
            "identity": scorer.identity(),
        }
    from datasets.fingerprint import Hasher

    return {"scorer": name_of(scorer), "identity": {"digest": Hasher.hash(scorer)}}


def _check_input(rows: "Dataset", names: list[str]) -> None:
    if not names:
        raise ValueError("score needs at least one scorer, such as IFD('openai-community/gpt2')")
    for name, times in Counter(names).items():
        check_name(name)
        if times > 1:
            raise ValueError(f"{times} scorers are named {name!r}: give them names, IFD(..., name='ifd_large')")
    if not hasattr(rows, "__len__") or isinstance(rows, Mapping):
        raise ValueError(
            f"score takes one Dataset, and got {type(rows).__name__}: pick a split, dataset['train'], "
            "or map a streaming data set with the scorer itself"
        )
    if len(rows) == 0:
        raise ValueError("the data set has no rows: there is nothing to score")


def _open_record(run: Path, rows: "Dataset", chunk_size: int) -> dict[str, Any]:
    """The run's record, new or as it stands; a folder of another run is refused."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        record = read_record(run) if (run / "run.json").exists() else {}
        if not os.access(run, os.W_OK):
            raise PermissionError(13, "no permission to write")
    except OSError as error:
        raise OSError(
            f"the run folder {str(run)!r} cannot be used ({error.strerror or error}): choose another"
        ) from error
    now = {"rows": len(rows), "chunk_size": chunk_size}
    for fact, value in now.items():
        if record.get(fact, value) != value:
            raise ValueError(
                f"the run folder {str(run)!r} was made with {fact} {record[fact]}, not {value}: use another folder"
            )
    fresh = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **now,
        "packages": {package: _version(package) for package in PACKAGES},
        "scorers": {},
    }
    return {**fresh, **record}


def _claim(record: dict[str, Any], run: Path, name: str, scorer: object, table: "Dataset") -> None:
    """Write down what is about to be scored, or refuse a folder where the name stands for something else."""
    columns = list(getattr(scorer, "columns", table.column_names))
    new = describe(scorer) | {"data": digest_of(table, columns)}
    old = record["scorers"].get(name)
    if old is not None:
        for part in ("scorer", "arithmetic", "identity", "data"):
            if old.get(part) != new.get(part):
                raise ValueError(
                    f"the run folder {str(run)!r} holds scores named {name!r} made "
                    f"{_difference(part, old.get(part), new.get(part))}: use another folder or another name"
                )
    else:
        record["scorers"][name] = new
    _write_json(run / "run.json", record)


def _difference(part: str, old: Any, new: Any) -> str:
    if part == "data":
        return "from other rows"
    if part == "scorer" and isinstance(old, dict) and isinstance(new, dict) and list(old) == list(new):
        before, after = next(iter(old.values())), next(iter(new.values()))
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                return f"with {key}={before.get(key, 'its default')!r}, not {after.get(key, 'its default')!r}"
    return f"with {part} {old!r}, not {new!r}"


def digest_of(table: "Dataset", columns: Sequence[str]) -> str:
    """A digest of the contents of some columns, equal for equal rows in any process and on any machine."""
    digest = hashlib.sha256()
    present = [column for column in columns if column in table.column_names]
    for batch in table.select_columns(present).iter(batch_size=10_000) if present else ():
        digest.update(json.dumps(batch, default=str, ensure_ascii=True).encode())
    return f"sha256:{digest.hexdigest()[:16]}"


def _fill(chunks: Chunks, table: "Dataset", name: str, scorer: Callable) -> None:
    """Score the chunks that are not done, under one progress bar with rows and tokens a second."""
    pending = chunks.pending()
    if not pending:
        return
    from datasets.utils import tqdm

    done = chunks.rows - sum(len(chunks.span(number)) for number in pending)
    tokens, began = 0.0, time.perf_counter()
    with tqdm(total=chunks.rows, initial=done, unit="rows", desc=f"Scoring {name}") as bar:
        for number in pending:
            start = time.perf_counter()
            span = chunks.span(number)
            batch = table[span.start : span.stop]
            columns = _call(scorer, batch, name, len(span))
            counted = columns.get(f"{name}_tokens")
            mine = float(sum(counted)) if counted is not None else 0.0
            facts = {"seconds": time.perf_counter() - start, "tokens": mine}
            chunks.write(number, columns, facts)
            tokens += mine
            bar.update(len(span))
            if tokens:
                bar.set_postfix_str(f"{tokens / (time.perf_counter() - began):,.0f} tokens/s")


def _call(scorer: Callable, batch: dict[str, Any], name: str, rows: int) -> Columns:
    columns = scorer(batch)
    if inspect.isawaitable(columns) or not isinstance(columns, Mapping):
        raise ValueError(f"scorer {name!r} answered with {type(columns).__name__}, not with a dict of columns")
    for column, values in columns.items():
        if len(values) != rows:
            raise ValueError(f"scorer {name!r} answered with {len(values)} values in {column!r} for {rows} rows")
    return dict(columns)


def _summary(columns: Any, chunks: Chunks, name: str, scorer: object) -> dict[str, Any]:
    """What `run.json` says of a finished scorer."""
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
    if hasattr(scorer, "provenance"):
        summary["made_with"] = scorer.provenance()
    return summary


def _warn_if_all_undefined(name: str, summary: Mapping[str, Any]) -> None:
    if summary.get("undefined") == summary["rows"]:
        warnings.warn(
            f"every row of {name!r} is undefined: {summary.get('status', 'no reason recorded')}", stacklevel=3
        )


def _with_columns(table: "Dataset", columns: Any) -> "Dataset":
    """The table with new columns at its end; columns of the same names are replaced."""
    from datasets import Dataset, concatenate_datasets

    kept = table.remove_columns([name for name in columns.column_names if name in table.column_names])
    return concatenate_datasets([kept, Dataset(columns)], axis=1)


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
    unfinished.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return "not installed"
