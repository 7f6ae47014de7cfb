"""Write a whole run down.

Data set, format, scorers and selectors, in Python or in YAML.
"""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import UNREADABLE, scorer_name
from ..checks import one_name, plain_numbers
from ..data.pairs import format_pairs
from ..data.sources import load_rows, revision_of_rows
from ..data.templates import date_in_template
from ..errors import NotFoundError, SuperfilterError, did_you_mean
from ..revisions import is_commit
from ..runs.distributed import this_process
from ..runs.manifest import read_manifest, record_source
from ..runs.runner import score
from ..runs.store import Store
from ..runs.unreadable import MAX_UNREADABLE, check_share
from ..selection.funnel import Selection
from ..tables.origin import origin_of
from ..yaml_io import dump_yaml, load_yaml
from .entries import EXAMPLES, KINDS, as_entry, build, build_all
from .row_columns import row_columns, select_in_run

if TYPE_CHECKING:
    from datasets import Dataset

FILE, SCORED = "recipe.yaml", "scored.parquet"
REQUIRED_TEXTS = ("dataset", "format", "template", "reasoning")
OPTIONAL_TEXTS = ("split", "config", "revision", "tokenizer")


@dataclass(frozen=True)
class Recipe:
    """Describe a run: a data set, how it is read, the scorers and the selectors.

    Args:
        dataset: as `load_rows` takes it: a file, a folder, a Hub id, or `embedded:sample`.
        score: scorers, in order.
        select: selectors, in order; a recipe without any only scores.
        split, config, revision: which part of the data set.
        format, template, tokenizer, template_kwargs, reasoning, columns: as `format_pairs` takes
            them.
        max_unreadable: stop if more than this share of the rows cannot be read or formatted.

    Example:
        >>> from hf_superfilter import IFD, Recipe, TopK
        >>> recipe = Recipe("embedded:sample", [IFD("embedded:weak")], [TopK("ifd", 0.1)])
        >>> print(recipe.to_yaml())
        dataset: embedded:sample
        score:
        - IFD:
            model: embedded:weak
        select:
        - TopK:
            by: ifd
            k: 0.1
        <BLANKLINE>
    """

    dataset: str
    score: tuple[Any, ...] = ()
    select: tuple[Any, ...] = ()
    split: str | None = None
    config: str | None = None
    revision: str | None = None
    format: str = "auto"
    template: str = "none"
    tokenizer: str | None = None
    template_kwargs: dict[str, Any] | None = field(default=None)
    reasoning: str = "keep"
    columns: dict[str, str] | None = field(default=None)
    max_unreadable: float = MAX_UNREADABLE

    def __post_init__(self) -> None:
        """Check that the parts are there and of the right kind."""
        for key, (_, kind) in KINDS.items():
            parts = getattr(self, key)
            if not isinstance(parts, (list, tuple)) or not all(map(callable, parts)):
                raise SuperfilterError(f"{key}={parts!r}: a recipe needs a list of {kind}s")
            classes = [part.__name__ for part in parts if isinstance(part, type)]
            if classes:
                raise SuperfilterError(
                    f"{key}: {classes[0]} is a class, not a {kind}: give an instance, "
                    f"{classes[0]}(...)"
                )
            object.__setattr__(self, key, tuple(parts))
        if not self.score:
            raise SuperfilterError("score=(): a recipe needs a list of scorers, at least one")
        for key in REQUIRED_TEXTS:
            _check_text(key, getattr(self, key))
        for key in OPTIONAL_TEXTS:
            if getattr(self, key) is not None:
                _check_text(key, getattr(self, key))
        _check_columns(self.columns)
        _check_template_kwargs(self.template_kwargs)
        plain_numbers(self, "max_unreadable")
        check_share(self.max_unreadable)

    @classmethod
    def read(cls, path: str | Path) -> "Recipe":
        """Read a YAML file.

        Raises:
            NotFoundError: no such file.
            SuperfilterError: not YAML, an unknown key, name or argument, or a value of the wrong
                type.
        """
        file = Path(path)
        if not file.is_file():
            names = [recipe_file.name for recipe_file in file.parent.glob("*.yaml")]
            raise NotFoundError(f"no recipe {str(file)!r}: {did_you_mean(file.name, names)}")
        try:
            return cls.from_yaml(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise SuperfilterError(
                f"the recipe {str(file)!r} is not UTF-8 text: {error}"
            ) from error

    @classmethod
    def from_yaml(cls, text: str) -> "Recipe":
        """Build a recipe from YAML text.

        The errors are those of `read`.
        """
        return cls.from_mapping(load_yaml(text, "the recipe"))

    @classmethod
    def from_mapping(cls, values: Any) -> "Recipe":
        """Build a recipe from parsed YAML.

        The errors are those of `read`.
        """
        needed = "it needs the keys dataset and score, and select to select"
        if not isinstance(values, dict):
            raise SuperfilterError(f"the recipe is not a mapping: {needed}")
        values = _without_alias(values)
        keys = [f.name for f in fields(cls)]
        for key in values:
            if key not in keys:
                raise SuperfilterError(
                    f"unknown key {key!r} in the recipe: {did_you_mean(key, keys)}"
                )
        for key in ("dataset", "score"):
            if key not in values:
                raise SuperfilterError(f"the recipe has no {key!r}: {needed}")
        parts = {key: build_all(values[key], key) for key in KINDS if key in values}
        return cls(**{**values, **parts})

    def to_yaml(self) -> str:
        """Write YAML that `from_yaml` turns into an equal recipe, without defaults."""
        values: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in KINDS and value:
                values[f.name] = [as_entry(part) for part in value]
            elif value != f.default:
                values[f.name] = value
        return dump_yaml(values)

    def load_pairs(self) -> "tuple[Dataset, dict[str, Any]]":
        """Load and format the rows, without scoring any.

        Returns:
            The rows with `prompt` and `response`, and what a run records of their source.
        """
        revision = revision_of_rows(self.dataset, self.revision)
        pinned = revision if is_commit(revision) else self.revision
        rows = load_rows(
            self.dataset,
            split=self.split,
            config_name=self.config,
            revision=pinned,
            text_columns=(self.columns or {}).values(),
        )
        pairs = format_pairs(
            rows,
            self.format,
            template=self.template,
            tokenizer=self.tokenizer,
            template_kwargs=self.template_kwargs,
            reasoning=self.reasoning,
            columns=self.columns,
        )
        source = {
            "dataset": self.dataset,
            "revision": revision,
            "config": self.config,
            "split": self.split,
            "columns": [name for name in rows.column_names if name != UNREADABLE],
        }
        origin = origin_of(pairs) or {}
        if "reading" in origin:
            source["reading"] = origin["reading"]
        date = date_in_template(self.template, self.tokenizer)
        if date is not None:
            source["template_date"] = date
        return pairs, source

    def score_rows(
        self, folder: str | Path, *, expect_processes: int | None = None
    ) -> "Dataset | None":
        """Load, format and score the rows into a run folder.

        The folder then holds the run, `recipe.yaml` and `scored.parquet`, all rows.

        Returns:
            The scored table; None on all processes of a launch but the main one.
        """
        return self._score(folder, expect_processes)[0]

    def _score(
        self, folder: str | Path, expect_processes: int | None, selectors: tuple[Any, ...] = ()
    ) -> "tuple[Dataset | None, Dataset | None]":
        """Score the rows, and compute what selectors read of each row first.

        Returns:
            The scored table, and the selectors' columns; None on all processes but the main one.
        """
        # What would fail at the end fails here, before any row is read.
        this_process(expect_processes)
        store, text = Store(folder), self.to_yaml()
        pairs, source = self.load_pairs()
        columns = row_columns(pairs, selectors, folder)
        table = score(pairs, self.score, folder, max_unreadable=self.max_unreadable)
        if table is None:
            return None, None
        record_source(store, source)
        with store.file(SCORED) as unfinished:
            table.to_parquet(str(unfinished))
        store.write(FILE, text.encode())
        return table, columns

    def merge(self, recorded: "Recipe | None") -> "Recipe":
        """Put the scorers of a run's recorded recipe before the own ones.

        A second `score` on a folder so loses no scorer of the first; one of the same name takes
        its place. What is not said of config, revision, tokenizer, template_kwargs, columns and
        selectors is as recorded. Whether both read the same rows is checked by the run folder.

        Example:
            >>> from hf_superfilter import Length, Perplexity
            >>> first = Recipe("embedded:sample", [Length(), Perplexity("embedded:weak")])
            >>> second = Recipe("embedded:sample", [Length("tokens", model="embedded:weak")])
            >>> second.merge(first).score
            (Length(unit='tokens', model='embedded:weak'), Perplexity(model='embedded:weak'))
        """
        if recorded is None:
            return self
        scorers = {scorer_name(scorer): scorer for scorer in (*recorded.score, *self.score)}
        return replace(
            self,
            score=tuple(scorers.values()),
            select=self.select or recorded.select,
            config=self.config or recorded.config,
            revision=self.revision or recorded.revision,
            tokenizer=self.tokenizer or recorded.tokenizer,
            template_kwargs=self.template_kwargs or recorded.template_kwargs,
            columns=self.columns or recorded.columns,
        )

    def run(self, folder: str | Path, *, expect_processes: int | None = None) -> Selection | None:
        """Score the rows and select; `selected.parquet` holds the kept rows, best first.

        Args:
            folder: the run folder, a path or an fsspec URL.
            expect_processes: refuse to run if the launcher started another number.

        Returns:
            The selection; None on all processes of a launch but the main one.

        Raises:
            SuperfilterError: the recipe has no selector, or loading, formatting, scoring or
                selecting refuses.
        """
        if not self.select:
            raise SuperfilterError(
                "the recipe selects nothing: it needs a list of entries under 'select' such as "
                f"{EXAMPLES['select']}"
            )
        table, columns = self._score(folder, expect_processes, self.select)
        if table is None:
            return None
        selection = select_in_run(
            table,
            self.select,
            folder,
            columns=columns,
            source_columns=recorded_source_columns(folder),
        )
        with Store(folder).file("selected.parquet") as unfinished:
            selection.subset.to_parquet(str(unfinished))
        return selection


def _without_alias(values: dict[str, Any]) -> dict[str, Any]:
    """Read the key `config_name`, which `datasets` uses, as `config`."""
    if "config_name" not in values:
        return values
    config = one_name("config_name", values["config_name"], "config", values.get("config"))
    others = {key: value for key, value in values.items() if key != "config_name"}
    return {**others, "config": config}


def recorded_source_columns(run: str | Path) -> list[str] | None:
    """Read the names of the source's own columns; None where they are not recorded."""
    source = read_manifest(run).get("source") or {}
    columns: list[str] | None = source.get("columns")
    return columns


def recorded_recipe(run: str | Path | None) -> Recipe | None:
    """Read the recipe that made a run folder.

    None where none is recorded.
    """
    if run is None or not Store(run).has(FILE):
        return None
    try:
        text = Store(run).read(FILE).decode("utf-8")
    except UnicodeDecodeError as error:
        raise SuperfilterError(
            f"{FILE} in {str(run)!r} is not UTF-8 text ({error}): put its recipe back, or run it "
            "again"
        ) from error
    return Recipe.from_yaml(text)


def recipe_of(selection: Selection) -> Recipe | None:
    """Return the recipe that makes a selection.

    It is the recorded one of the run, with the selectors that were really applied. None where no
    recipe is recorded, or a selector is a plain function, which cannot be written down.
    """
    recipe = recorded_recipe(selection.run)
    entries = [step.entry for step in selection.steps]
    if recipe is None or None in entries:
        return None
    return replace(recipe, select=tuple(build(entry, "select") for entry in entries))


def _check_text(key: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        kind = type(value).__name__
        raise SuperfilterError(f"{key}: {value!r} in the recipe has to be text, not {kind}")


def _check_columns(columns: Any) -> None:
    if columns is None:
        return
    if not isinstance(columns, dict) or not all(
        isinstance(name, str) for pair in columns.items() for name in pair
    ):
        raise SuperfilterError(
            f"columns: {columns!r} in the recipe has to map a format's names to the data set's"
        )


def _check_template_kwargs(values: Any) -> None:
    if values is None:
        return
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise SuperfilterError(
            f"template_kwargs: {values!r} in the recipe has to map names in the chat template "
            "to values, such as {enable_thinking: false}"
        )
