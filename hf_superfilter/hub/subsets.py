"""Published subsets, by name: load one, list them, read the recipe that makes one again."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from ..data.sources import load_rows
from ..recipes.catalogue import find_entry
from ..recipes.entries import KINDS
from ..recipes.recipe import FILE as RECIPE
from ..recipes.recipe import Recipe
from .card import check_subset, configs_of, default_of, infos_of, own_splits, rows_of
from .front_matter import read_metadata
from .provenance import CARD
from .repo_files import FACTS

if TYPE_CHECKING:
    from datasets import Dataset


class Subset(NamedTuple):
    """One subset of a repository; None is "not recorded", as for a subset that is not of ours.

    Attributes:
        name: what `load_subset(repo_id, name)` takes.
        rows: rows of all its splits.
        share: rows kept as a share of the rows of the source.
        scorer, selector: as Python, joined by " + " and " > " where there are several.
        created: when it was published (ISO 8601, UTC).
        default: whether it loads without a name.
    """

    name: str
    rows: int | None
    share: float | None
    scorer: str | None
    selector: str | None
    created: str | None
    default: bool


def load_subset(
    repo_id: str,
    name: str | None = None,
    *,
    split: str | None = None,
    revision: str | None = None,
    make: bool = False,
) -> "Dataset":
    """Load a published subset: from a repository, or by one short name from the catalogue.

    Args:
        repo_id: `user/name` on the Hub, a folder that `write_repo` made, or a short name such as
            `alpaca-ifd-10` (see `catalogue.yaml`, and one of your own).
        name: the subset; None is the repository's default.
        split: needed where there are several and none is called `train`.
        revision: branch, tag or commit. One that cannot be had is refused, never replaced by another.
        make: run the recipe of a catalogue entry that is not published, in `runs/<name>`.

    Raises:
        ValueError: an unknown subset or split, with the nearest one.
        FileNotFoundError: no such repository, revision or short name; or not published, and how to make it.
    """
    if entry := _short(repo_id, name, revision):
        if "repo" not in entry:
            return _made(repo_id, entry, make)
        repo_id, name, revision = entry["repo"], entry.get("name"), entry["revision"]
    metadata = _metadata(repo_id, revision)
    return load_rows(repo_id, config=_name(metadata, repo_id, name), split=split, revision=revision)


def list_subsets(repo_id: str, *, revision: str | None = None) -> list[Subset]:
    """The subsets of a repository or of a folder that `write_repo` made, in the card's order."""
    metadata = _metadata(repo_id, revision)
    default = default_of(metadata)
    stated = {info.get("config_name", "default"): rows_of(info) for info in infos_of(metadata)}
    subsets = []
    for config in configs_of(metadata):
        name = str(config["config_name"])
        facts = [_facts(repo_id, name, split, revision) for split in own_splits(config)]
        known = [fact for fact in facts if fact]
        first = known[0] if known else {}
        share = sum(f["kept"] for f in known) / sum(f["rows"] for f in known) if known else None
        subsets.append(
            Subset(
                name,
                sum(fact["kept"] for fact in known) if known else stated.get(name),
                share,
                " + ".join(scorer["said"] for scorer in first.get("scorers", [])) or None,
                " > ".join(step["selector"] for step in first.get("steps", [])) or None,
                first.get("published"),
                name == default,
            )
        )
    return subsets


def load_recipe(
    repo_id: str, name: str | None = None, *, split: str | None = None, revision: str | None = None
) -> Recipe:
    """The recipe that a subset was made by, with data set and models at the commits it used: `.run(folder)` makes it.

    Raises:
        ValueError: an unknown subset, or a recipe that names code which is not of ours (`package.module:Class`).
        FileNotFoundError: no such repository, or no recipe was recorded.
    """
    if entry := _short(repo_id, name, revision):
        if "repo" not in entry:
            return _recipe_of(repo_id, entry)
        repo_id, name, revision = entry["repo"], entry.get("name"), entry["revision"]
    metadata = _metadata(repo_id, revision)
    name = _name(metadata, repo_id, name)
    splits = next(
        own_splits(config) for config in configs_of(metadata) if str(config["config_name"]) == name
    )
    wanted = split or ("train" if "train" in splits else next(iter(splits), "train"))
    text = _text(repo_id, f"{name}/{wanted}/{RECIPE}", revision)
    if text is None:
        raise FileNotFoundError(
            f"no recipe was recorded for {name!r}, split {wanted!r}, of {repo_id!r}"
        )
    _check_only_ours(text, repo_id)
    return Recipe.from_yaml(text)


def _check_only_ours(text: str, repo_id: str) -> None:
    """Refuse a recipe by somebody else that names `package.module:Class`: building it would run what it names."""
    try:
        given = yaml.safe_load(text)
    except yaml.YAMLError:
        return  # Recipe.from_yaml says what is wrong
    entries = [
        entry
        for key in KINDS
        for entry in _each(given.get(key) if isinstance(given, dict) else None)
    ]
    code = next((name for entry in entries for name in _each(entry) if ":" in str(name)), None)
    if code:
        raise ValueError(
            f"the recipe in {repo_id!r} names {str(code)!r}, code that is not of hf_superfilter and is not run unseen: "
            "save its recipe.yaml and give that to Recipe.read if you trust it"
        )


def _each(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, dict)) else [value]


def _short(repo_id: str, name: str | None, revision: str | None) -> dict[str, Any] | None:
    """The catalogue's entry where a short name is given; None where it is a repository or a folder."""
    if "/" in str(repo_id) or Path(repo_id).is_dir():
        return None
    if name is not None or revision is not None:
        raise ValueError(
            f"{repo_id!r} is a short name, which stands for one subset at one revision: give it alone, or 'user/name'"
        )
    return find_entry(str(repo_id))


def _recipe_of(name: str, entry: dict[str, Any]) -> Recipe:
    try:
        return Recipe.from_mapping(entry["recipe"])
    except ValueError as error:
        raise ValueError(f"{name!r} in the catalogue: {error}") from error


def _made(name: str, entry: dict[str, Any], make: bool) -> "Dataset":
    """The rows of a catalogue entry that is a recipe."""
    if not make:
        raise FileNotFoundError(
            f"{name!r} is not published; make it with load_subset({name!r}, make=True), which scores the data set"
        )
    selection = _recipe_of(name, entry).run(Path("runs") / name)
    if selection is None:
        raise ValueError(
            f"only the main one of several processes makes {name!r}: make it in one process before"
        )
    return selection.subset


def _name(metadata: dict[str, Any], repo_id: str, name: str | None) -> str:
    """The subset that is meant, checked."""
    known = [str(config["config_name"]) for config in configs_of(metadata)]
    name = name if name is not None else default_of(metadata)
    if not known:
        raise ValueError(
            f"{repo_id!r} names no subsets in its README.md: load_rows({repo_id!r}) loads what it holds"
        )
    if name is None:
        raise ValueError(f"{repo_id!r} has no default subset: name one of {', '.join(known)}")
    check_subset(name, known, repo_id)
    return name


def _metadata(repo_id: str, revision: str | None) -> dict[str, Any]:
    return read_metadata(_text(repo_id, CARD, revision) or "")


def _facts(repo_id: str, name: str, split: str, revision: str | None) -> dict[str, Any] | None:
    text = _text(repo_id, path := f"{name}/{split}/{FACTS}", revision)
    try:
        facts = json.loads(text) if text else None
        if facts is not None and not {"kept", "rows", "scorers", "steps", "published"} <= {*facts}:
            raise ValueError("facts are missing")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path!r} of {repo_id!r} is damaged ({error}): publish the subset again"
        ) from error
    return facts


def _text(repo_id: str, path: str, revision: str | None) -> str | None:
    """A text file of a repository or local folder, None where it has none of that name."""
    if Path(repo_id).is_dir():
        file = Path(repo_id) / path
        return file.read_text(encoding="utf-8") if file.is_file() else None
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(
            hf_hub_download(repo_id, path, repo_type="dataset", revision=revision)
        ).read_text(encoding="utf-8")
    except errors.LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"the Hub cannot be reached, and the cache holds no {path!r} of {repo_id!r}"
            + (f" at revision {revision!r}" if revision else "")
        ) from error
    except errors.EntryNotFoundError:
        return None
    except (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.HFValidationError,
    ) as error:
        raise FileNotFoundError(
            f"the Hub has no data set {repo_id!r}"
            + (f" at revision {revision!r}" if revision else "")
            + ": check the name, and that your token may read it"
        ) from error
    except errors.HfHubHTTPError as error:
        said = " ".join((error.server_message or type(error).__name__).split())
        raise PermissionError(
            f"the Hub lets you not read {repo_id!r} ({said}): check your token"
        ) from error
