"""A recipe: one run, written down as the constructors' arguments, in Python or in YAML."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..base import Settings
from ..data.formats import format_pairs
from ..data.sources import load_rows, revision_of_rows
from ..errors import did_you_mean
from ..revisions import is_commit
from ..runs.distributed import this_process
from ..runs.manifest import record_source
from ..runs.runner import score, scorer_name
from ..runs.store import Store
from ..selection.funnel import Selection, select
from ..yaml_io import dump_yaml, load_yaml

if TYPE_CHECKING:
    from datasets import Dataset

FILE, SCORED = "recipe.yaml", "scored.parquet"
KINDS = {"score": ("scoring.", "scorer"), "select": ("selection.", "selector")}
ENTRY = {
    "score": "'- IFD: {model: openai-community/gpt2}'",
    "select": "'- TopK: {by: ifd, k: 0.10}'",
}
TEXTS = ("dataset", "format", "template", "split", "config", "revision", "tokenizer")


@dataclass(frozen=True)
class Recipe:
    """A data set, how it is read, the scorers and the selectors.

    Args:
        dataset: as `load_rows` takes it: a file, a folder, a Hub id, or `embedded:sample`.
        score: scorers, in order.
        select: selectors, in order; a recipe without any only scores.
        split, config, revision: which part of the data set.
        format, template, tokenizer, columns: as `format_pairs` takes them.

    Example:
        >>> from hf_superfilter import IFD, Recipe, TopK
        >>> recipe = Recipe("embedded:sample", score=(IFD("embedded:weak"),), select=(TopK("ifd", 0.1),))
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
    columns: dict[str, str] | None = field(default=None)

    def __post_init__(self) -> None:
        """Check that the parts are there and of the right kind."""
        for key, (_, kind) in KINDS.items():
            parts = getattr(self, key)
            missing = key == "score" and not parts
            if not isinstance(parts, (list, tuple)) or missing or not all(map(callable, parts)):
                raise ValueError(
                    f"{key}={parts!r}: a recipe needs a list of {kind}s"
                    + ", at least one" * missing
                )
            object.__setattr__(self, key, tuple(parts))
        for key in TEXTS:
            value = getattr(self, key)
            if not (isinstance(value, str) and value) and (value is not None or key in TEXTS[:3]):
                raise ValueError(
                    f"{key}: {value!r} in the recipe has to be text, not {type(value).__name__}"
                )
        if self.columns is not None and not (
            isinstance(self.columns, dict)
            and all(isinstance(x, str) for pair in self.columns.items() for x in pair)
        ):
            raise ValueError(
                f"columns: {self.columns!r} in the recipe has to map a format's names to the data set's"
            )

    @classmethod
    def read(cls, path: str | Path) -> "Recipe":
        """Read a YAML file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not YAML, an unknown key, name or argument, or a value of the wrong type.
        """
        file = Path(path)
        if not file.is_file():
            there = [p.name for p in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
            raise FileNotFoundError(f"no recipe {str(file)!r}: {did_you_mean(file.name, there)}")
        try:
            return cls.from_yaml(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"the recipe {str(file)!r} is not UTF-8 text: {error}") from error

    @classmethod
    def from_yaml(cls, text: str) -> "Recipe":
        """Build a recipe from YAML text; the errors are those of `read`."""
        try:
            given = load_yaml(text)
        except yaml.YAMLError as error:
            raise ValueError(f"the recipe is not YAML: {' '.join(str(error).split())}") from error
        return cls.from_mapping(given)

    @classmethod
    def from_mapping(cls, given: Any) -> "Recipe":
        """Build a recipe from what its YAML says; the errors are those of `read`."""
        if not isinstance(given, dict):
            raise ValueError(
                "the recipe is not a mapping: it needs the keys dataset and score, and select to select"
            )
        known = [f.name for f in fields(cls)]
        for key in given:
            if key not in known:
                raise ValueError(f"unknown key {key!r} in the recipe: {did_you_mean(key, known)}")
        for key in ("dataset", "score"):
            if key not in given:
                raise ValueError(
                    f"the recipe has no {key!r}: it needs the keys dataset and score, and select to select"
                )
        return cls(**{**given, **{key: _parts(given[key], key) for key in KINDS if key in given}})

    def to_yaml(self) -> str:
        """The recipe as YAML that `from_yaml` turns into an equal recipe; defaults are left out."""
        plain: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in KINDS and value:
                plain[f.name] = [_entry(part) for part in value]
            elif value != f.default:
                plain[f.name] = value
        return dump_yaml(plain)

    def score_rows(
        self, folder: str | Path, *, expect_processes: int | None = None
    ) -> "Dataset | None":
        """Load, format and score; the folder then holds the run, `recipe.yaml` and `scored.parquet`, all rows.

        None on all processes of a launch but the main one.
        """
        this_process(expect_processes)  # a wrong number of processes is said before any row is read
        store, text = Store(folder), self.to_yaml()  # and so is what cannot be written down
        revision = revision_of_rows(self.dataset, self.revision)
        pinned = revision if is_commit(revision) else self.revision
        rows = load_rows(self.dataset, split=self.split, config=self.config, revision=pinned)
        pairs = format_pairs(
            rows,
            self.format,
            template=self.template,
            tokenizer=self.tokenizer,
            columns=self.columns,
        )
        table = score(pairs, self.score, folder)
        if table is None:
            return None
        known = {
            "dataset": self.dataset,
            "revision": revision,
            "config": self.config,
            "split": self.split,
        }
        record_source(store, {**known, "columns": rows.column_names})
        with store.file(SCORED) as unfinished:
            table.to_parquet(str(unfinished))
        store.write(FILE, text.encode())
        return table

    def beside(self, recorded: "Recipe | None") -> "Recipe":
        """This recipe with the recorded one's scorers before its own, so that a second scoring loses none of the first.

        A scorer of the same name takes the place of the recorded one. What `score` on the command line
        cannot say (config, revision, tokenizer, columns) and, without selectors here, the selectors are
        the recorded ones'. Whether both read the same rows is seen by the run folder, not here.

        Example:
            >>> from hf_superfilter import Length, Perplexity
            >>> first = Recipe("embedded:sample", score=[Length(), Perplexity("embedded:weak")])
            >>> second = Recipe("embedded:sample", score=[Length("tokens", model="embedded:weak")])
            >>> second.beside(first).score
            (Length(unit='tokens', model='embedded:weak'), Perplexity(model='embedded:weak'))
        """
        if recorded is None:
            return self
        scorers = {scorer_name(scorer): scorer for scorer in (*recorded.score, *self.score)}
        kept = {
            key: getattr(recorded, key) for key in ("config", "revision", "tokenizer", "columns")
        }
        return replace(
            self, score=tuple(scorers.values()), select=self.select or recorded.select, **kept
        )

    def run(self, folder: str | Path, *, expect_processes: int | None = None) -> Selection | None:
        """Score the rows and select; the folder then also holds `selected.parquet`, the kept rows, best first.

        The folder may be an fsspec URL. None on all processes of a launch but the main one.

        Raises:
            ValueError: the recipe has no selector; besides whatever loading, formatting and scoring refuse.
        """
        if not self.select:
            raise ValueError(
                f"the recipe selects nothing: it needs a list of entries under 'select' such as {ENTRY['select']}"
            )
        table = self.score_rows(folder, expect_processes=expect_processes)
        if table is None:
            return None
        selection = select(table, self.select, run=folder)
        with Store(folder).file("selected.parquet") as unfinished:
            selection.subset.to_parquet(str(unfinished))
        return selection


def recorded_recipe(run: str | Path | None) -> Recipe | None:
    """The recipe that a run folder was made by, None where none is recorded."""
    if run is None or not Store(run).has(FILE):
        return None
    return Recipe.from_yaml(Store(run).read(FILE).decode())


def recipe_of(selection: Selection) -> Recipe | None:
    """The recipe that makes a selection: the recorded one of its run, with the selectors that were really applied.

    None where no recipe is recorded, or a selector is a plain function, which cannot be written down.
    """
    recipe, entries = recorded_recipe(selection.run), [step.entry for step in selection.steps]
    if recipe is None or None in entries:
        return None
    return replace(recipe, select=tuple(build(entry, "select") for entry in entries))


def _parts(entries: Any, key: str) -> tuple[Any, ...]:
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            f"{key}: {_shown(entries)} in the recipe has to be a list of entries such as {ENTRY[key]}"
        )
    return tuple(build(entry, key) for entry in entries)


def build(entry: Any, key: str) -> Any:
    """The scorer (`key` "score") or selector ("select") of an entry: `Name`, or `{Name: {argument: value}}`.

    Raises:
        ValueError: an unknown name or argument, one that is missing, or a value that the constructor refuses.
    """
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ValueError(f"{key}: {_shown(entry)} is not one entry such as {ENTRY[key]}")
    name, arguments = next(iter(entry.items()))
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, dict):
        raise ValueError(
            f"{name}: {_shown(arguments)} is not arguments and values such as {ENTRY[key]}"
        )
    made_by, known = _find(str(name), key), parameters_of(str(name), key)
    for argument in arguments:
        if isinstance(argument, bool):  # as YAML reads yes, no, on and off
            raise ValueError(
                f"{name} has an argument that YAML reads as {argument}: write 'yes' and 'no' in quotes"
            )
        if argument not in known:
            raise ValueError(
                f"{name} has no argument {argument!r}: {did_you_mean(argument, known)}"
            )
    for argument, parameter in known.items():
        if parameter.default is parameter.empty and argument not in arguments:
            raise ValueError(f"{name} needs the argument {argument!r}, such as {ENTRY[key]}")
    try:
        return made_by(**arguments)
    except (
        TypeError,
        ValueError,
    ) as error:  # a constructor that is not ours may answer a wrong type with either
        raise ValueError(f"{name}: {error}") from error


def parameters_of(name: str, key: str) -> Mapping[str, inspect.Parameter]:
    """What the scorer (`key` "score") or selector ("select") of a name can be told."""
    return inspect.signature(_find(name, key)).parameters


def _find(name: str, key: str) -> Any:
    """A class by its public name, or by `package.module:Class`."""
    module, colon, attribute = name.partition(":")
    if colon:
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{name!r} cannot be imported: {error}") from error
        if not isinstance(found, type):
            raise ValueError(
                f"{name!r} is no class: name one, whose instances are {KINDS[key][1]}s"
            )
        return found
    package = import_module("hf_superfilter")
    known = [public for public, home in package._HOME.items() if home.startswith(KINDS[key][0])]
    if name not in known:
        raise ValueError(f"no {KINDS[key][1]} {name!r}: {did_you_mean(name, known)}")
    return getattr(package, name)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _entry(part: Any) -> dict[str, Any]:
    """The YAML entry of a scorer or selector."""
    if not isinstance(part, Settings):
        raise ValueError(
            f"{part!r} cannot be written into a recipe: only scorers and selectors with settings can"
        )
    return part.entry()
