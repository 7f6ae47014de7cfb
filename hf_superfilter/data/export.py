"""Write the rows of a selection to a file that a trainer reads."""

import datetime as dt
import decimal
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..checks import check_type
from ..errors import SuperfilterError
from ..tables.media import holds_media, iterate_batches
from .layouts import arrange, check_layout

if TYPE_CHECKING:
    from datasets import Dataset


class HasSubset(Protocol):
    """Describe what `select` returns, as far as it is written."""

    @property
    def subset(self) -> "Dataset":
        """The kept rows, best first."""
        ...


def export(
    selection: "HasSubset | Dataset",
    path: str | Path,
    layout: str = "source",
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
) -> Path:
    """Write the kept rows to a file that a trainer reads.

    The file holds the source's own columns and the scores, or the columns of a layout and whatever
    the format does not read. JSON Lines and CSV hold what Parquet holds: numbers that read back
    equal, times as ISO 8601 text, lists and objects as JSON; nan is null.

    Args:
        selection: what `select` returns, or a Dataset.
        path: a file ending in .jsonl, .parquet or .csv, written whole or not at all; without an
            ending a folder, as `Dataset.save_to_disk` writes it.
        layout: source, or one of
            `messages` - TRL, axolotl (`chat_template`), torchtune, OpenAI;
            `prompt-completion` - TRL, which trains on the completion alone;
            `sharegpt` - LLaMA-Factory, axolotl;
            `alpaca` - LLaMA-Factory, axolotl, torchtune;
            `preference` - TRL's DPOTrainer: prompt, chosen, rejected.
        format, columns: how the rows are laid out, as `format_pairs` takes them.

    Returns:
        The path.

    Raises:
        SuperfilterError: an unknown layout or ending, or rows or columns that the layout or the
            file cannot hold.

    Example:
        >>> from datasets import Dataset
        >>> from hf_superfilter import TopK, export, select
        >>> table = Dataset.from_dict({"question": ["1+1?"], "answer": ["2"], "ifd": [0.5]})
        >>> path = export(select(table, TopK("ifd", 1)), "runs/docs/x.jsonl", layout="messages")
        >>> print(path.read_text().replace("}, ", "},\\n"), end="")
        {"messages": [{"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"}], "ifd": 0.5}
    """
    from datasets import Dataset

    check_type("path", path, (str, Path), "give the rows first, and then the file to write")
    check_layout(layout)
    check_suffix(Path(path))
    rows = selection if isinstance(selection, Dataset) else selection.subset
    return write_rows(arrange(rows.with_format(None), layout, format, columns), path)


def write_rows(rows: "Dataset", path: str | Path) -> Path:
    """Write rows to a file of the kind that its ending names, whole or not at all."""
    target = Path(path)
    write = _writer(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        unfinished = Path(folder) / target.name
        write(rows, unfinished)
        if target.is_dir():
            _refuse_foreign_folder(target)
            target.replace(Path(folder) / "replaced")
        unfinished.replace(target)
    return target


def check_suffix(path: Path) -> None:
    """Refuse a file of a kind that cannot be written."""
    _writer(path)


def _writer(path: Path) -> "Callable[[Dataset, Path], None]":
    if path.suffix not in WRITERS:
        endings = ", ".join(suffix for suffix in WRITERS if suffix)
        raise SuperfilterError(
            f"cannot write {str(path)!r}: give a file ending in {endings}, or a folder"
        )
    return WRITERS[path.suffix]


def _refuse_foreign_folder(folder: Path) -> None:
    if not (folder / "state.json").is_file() and any(folder.iterdir()):
        raise SuperfilterError(
            f"the folder {str(folder)!r} holds something else than a saved Dataset: name another"
        )


def _write_parquet(rows: "Dataset", path: Path) -> None:
    rows.to_parquet(str(path))


def _write_folder(rows: "Dataset", path: Path) -> None:
    rows.save_to_disk(str(path))


def _write_jsonl(rows: "Dataset", path: Path) -> None:
    _refuse_bytes(rows, path)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for batch in iterate_batches(rows):
            for cells in zip(*batch.values(), strict=True):
                file.write(_json_text(dict(zip(batch, cells, strict=True))) + "\n")


def _write_csv(rows: "Dataset", path: Path) -> None:
    """Write CSV whose empty texts are in quotes, so that null and "" stay two things."""
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    _refuse_bytes(rows, path)
    kinds = {name: _csv_type(rows, name) for name in rows.column_names}
    with arrow_csv.CSVWriter(str(path), pa.schema(kinds.items())) as file:
        for batch in iterate_batches(rows):
            columns = {}
            for name, cells in batch.items():
                texts = kinds[name] == pa.string()
                values = [_csv_text(cell) for cell in cells] if texts else cells
                columns[name] = pa.array(values, kinds[name], from_pandas=False)
            file.write_table(pa.table(columns))


WRITERS: "dict[str, Callable[[Dataset, Path], None]]" = {
    ".parquet": _write_parquet,
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
    "": _write_folder,
}


def _refuse_bytes(rows: "Dataset", path: Path) -> None:
    """Refuse columns of bytes, which text cannot hold."""
    for name, feature in rows.features.items():
        if holds_media(feature) or "binary" in str(rows.features.arrow_schema.field(name).type):
            raise SuperfilterError(
                f"{path.suffix} is text and cannot hold the column {name!r} ({feature}): write "
                ".parquet or a folder, or remove the column"
            )


def _csv_type(rows: "Dataset", name: str) -> Any:
    """Return the Arrow type in which a column is written: numbers as they are, else text."""
    import pyarrow as pa

    kind = rows.features.arrow_schema.field(name).type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return kind if is_number or pa.types.is_boolean(kind) else pa.string()


def _csv_text(cell: Any) -> str | None:
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, (list, dict)):
        return _json_text(cell)
    return str(_json_value(cell))


def _json_text(value: Any) -> str:
    return json.dumps(_json_value(value), ensure_ascii=False)


def _json_value(value: Any) -> Any:
    """Convert a value to what JSON has: nan is null, a time is text, a whole decimal a number."""
    if isinstance(value, dict):
        return {key: _json_value(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else str(value)
    if isinstance(value, dt.timedelta):
        return str(value)
    return value
