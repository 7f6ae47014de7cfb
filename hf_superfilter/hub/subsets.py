"""Load published subsets by name, list them, and read the recipes that made them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checks import check_type, one_name
from ..data.sources import load_rows
from ..errors import HubNotFoundError, NotFoundError, SuperfilterError
from ..recipes.catalogue import find_entry
from ..recipes.entries import endpoints_in, names_in
from ..recipes.recipe import FILE as RECIPE
from ..recipes.recipe import Recipe
from ..yaml_io import load_yaml
from .card import check_subset, configs_of, default_of, infos_of, rows_of
from .front_matter import read_metadata
from .layout import about_folder, published_splits
from .snapshot import Snapshot
from .split_files import FACTS

if TYPE_CHECKING:
    from datasets import Dataset


class Subset(NamedTuple):
    """Describe one subset of a repository; None is "not recorded".

    Attributes:
        name: what `load_subset(repo_id, config_name)` takes; `config_name` is the same.
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

    @property
    def config_name(self) -> str:
        """Name the subset as `datasets` calls it."""
        return self.name


def load_subset(
    repo_id: str,
    config_name: str | None = None,
    *,
    name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    make: bool = False,
) -> "Dataset":
    """Load a published subset from a repository, or by one short name from the catalogue.

    Args:
        repo_id: `user/name` on the Hub, a folder that `write_repo` wrote, or a short name such as
            `alpaca-ifd-10` (see `catalogue.yaml`, and one of your own).
        config_name: the subset; None is the repository's default. `name` is an alias.
        split: needed where there are several and none is called `train`.
        revision: branch, tag or commit. One that is not available is refused, never replaced by
            another.
        token: a token that may read; by default the one that `hf auth login` or HF_TOKEN holds.
        make: run the recipe of a catalogue entry that is not published, in `runs/<name>`.

    Raises:
        SuperfilterError: an unknown subset or split, with the nearest one.
        NotFoundError: no such repository, revision or short name; or not published, and how to make
            it.
        HubAccessError, HubOfflineError, HubError: the Hub refuses, cannot be reached, or fails.
    """
    name = one_name("config_name", config_name, "name", name)
    entry = _find_short_name(repo_id, name, revision)
    if entry is not None:
        if "repo" not in entry:
            return _make(repo_id, entry, make)
        repo_id, name, revision = entry["repo"], entry.get("name"), entry["revision"]
    snapshot = Snapshot(repo_id, revision, token)
    config = _find_config(read_metadata(snapshot.read_card()), repo_id, name)
    return load_rows(repo_id, config_name=config, split=split, revision=revision, token=token)


def list_subsets(
    repo_id: str, *, revision: str | None = None, token: str | None = None
) -> list[Subset]:
    """List the subsets of a repository or of a folder that `write_repo` wrote, in the card's order.

    Offline, what the cached card says.

    Args:
        repo_id: `user/name` on the Hub, or a folder that `write_repo` wrote.
        revision: branch, tag or commit.
        token: a token that may read; by default the one that `hf auth login` or HF_TOKEN holds.

    Raises:
        NotFoundError: no such repository or revision.
        HubAccessError, HubOfflineError, HubError: the Hub refuses, cannot be reached, or fails.
    """
    check_type("repo_id", repo_id, (str, Path), "give 'user/name' or a folder")
    snapshot = Snapshot(repo_id, revision, token)
    metadata = read_metadata(snapshot.read_card())
    default = default_of(metadata)
    stated = {str(info.get("config_name", "default")): rows_of(info) for info in infos_of(metadata)}
    subsets = []
    for config in configs_of(metadata):
        name = str(config["config_name"])
        facts = []
        for split, version in published_splits(config).items():
            entry = _read_facts(snapshot, f"{about_folder(name, split, version)}/{FACTS}")
            facts += [entry] if entry else []
        subsets.append(_describe(name, facts, stated.get(name), name == default))
    return subsets


def _describe(
    name: str, facts: list[dict[str, Any]], stated_rows: int | None, is_default: bool
) -> Subset:
    """Sum up a subset from the facts of its splits, as far as there are some."""
    if not facts:
        return Subset(name, stated_rows, None, None, None, None, is_default)
    kept, rows = sum(entry["kept"] for entry in facts), sum(entry["rows"] for entry in facts)
    scorers = [scorer["python"] for scorer in facts[0]["scorers"]]
    selectors = [step["selector"] for step in facts[0]["steps"]]
    return Subset(
        name,
        kept,
        kept / rows if rows else None,
        " + ".join(scorers) or None,
        " > ".join(selectors) or None,
        facts[0]["published"],
        is_default,
    )


def load_recipe(
    repo_id: str,
    config_name: str | None = None,
    *,
    name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    allow_endpoint: bool = False,
) -> Recipe:
    """Read the recipe that made a subset; its `run(folder)` makes the subset again.

    Data set and models stand at the commits that were used.

    Args:
        repo_id, config_name, name, revision, token: as `load_subset` takes them.
        split: by default `train`, else the first.
        allow_endpoint: take a recipe that names a server, to which running it would send rows.

    Raises:
        SuperfilterError: an unknown subset, or a recipe that names code of somebody else
            (`package.module:Class`), or a server.
        NotFoundError: no such repository, or no recipe was recorded.
        HubAccessError, HubOfflineError, HubError: the Hub refuses, cannot be reached, or fails.
    """
    name = one_name("config_name", config_name, "name", name)
    entry = _find_short_name(repo_id, name, revision)
    if entry is not None:
        if "repo" not in entry:
            return _build_recipe(repo_id, entry)
        repo_id, name, revision = entry["repo"], entry.get("name"), entry["revision"]
    snapshot = Snapshot(repo_id, revision, token)
    metadata = read_metadata(snapshot.read_card())
    name = _find_config(metadata, repo_id, name)
    splits: dict[str, str] = {}
    for config in configs_of(metadata):
        if str(config["config_name"]) == name:
            splits = published_splits(config)
    if split is None:
        split = "train" if "train" in splits else next(iter(splits), "train")
    text = None
    if split in splits:
        text = snapshot.read_text(f"{about_folder(name, split, splits[split])}/{RECIPE}")
    if text is None:
        raise NotFoundError(f"no recipe was recorded for {name!r}, split {split!r}, of {repo_id!r}")
    _check_origin(text, str(repo_id), allow_endpoint)
    return Recipe.from_yaml(text)


def _check_origin(text: str, repo_id: str, allow_endpoint: bool) -> None:
    """Refuse a recipe of somebody else that would run foreign code, or send rows to a server."""
    recipe = load_yaml(text, "the recipe")
    for name in names_in(recipe):
        if ":" in name:
            raise SuperfilterError(
                f"the recipe in {repo_id!r} names {name!r}, code that is not of hf_superfilter and "
                "is not run unseen: save its recipe.yaml and give that to Recipe.read if you trust "
                "it"
            )
    for endpoint in endpoints_in(recipe):
        if not allow_endpoint:
            raise SuperfilterError(
                f"the recipe in {repo_id!r} sends rows to the server {endpoint!r}: give "
                "load_recipe(..., allow_endpoint=True), or --allow-endpoint on the command line, "
                "if you trust it"
            )


def _find_short_name(repo_id: str, name: str | None, revision: str | None) -> dict[str, Any] | None:
    """Find the catalogue's entry of a short name.

    None for a repository or a folder.
    """
    check_type("repo_id", repo_id, (str, Path), "give 'user/name', a folder or a short name")
    if "/" in str(repo_id) or Path(repo_id).is_dir():
        return None
    if name is not None or revision is not None:
        raise SuperfilterError(
            f"{repo_id!r} is a short name, which stands for one subset at one revision: give it "
            "alone, or 'user/name'"
        )
    return find_entry(str(repo_id))


def _build_recipe(name: str, entry: Mapping[str, Any]) -> Recipe:
    try:
        return Recipe.from_mapping(entry["recipe"])
    except ValueError as error:
        raise SuperfilterError(f"{name!r} in the catalogue: {error}") from error


def _make(name: str, entry: Mapping[str, Any], make: bool) -> "Dataset":
    """Run the recipe of a catalogue entry."""
    if not make:
        raise NotFoundError(
            f"{name!r} is not published; make it with load_subset({name!r}, make=True), which "
            "scores the data set"
        )
    selection = _build_recipe(name, entry).run(Path("runs") / name)
    if selection is None:
        raise SuperfilterError(
            f"only the main one of several processes makes {name!r}: make it in one process before"
        )
    return selection.subset


def _find_config(metadata: Mapping[str, Any], repo_id: str, name: str | None) -> str:
    """Return the subset of a name, or the default, after a check that it is there."""
    names = [str(config["config_name"]) for config in configs_of(metadata)]
    if not names:
        raise SuperfilterError(
            f"{repo_id!r} names no subsets in its README.md: load_rows({repo_id!r}) loads what it "
            "holds"
        )
    if name is None:
        name = default_of(metadata)
    if name is None:
        raise SuperfilterError(f"{repo_id!r} has no default subset: name one of {', '.join(names)}")
    check_subset(name, names, repo_id)
    return name


def _read_facts(snapshot: Snapshot, path: str) -> dict[str, Any] | None:
    """Read the facts of a split.

    None where there are none, or the cache lacks them offline.
    """
    try:
        text = snapshot.read_text(path)
    except HubNotFoundError:
        return None
    if text is None:
        return None
    try:
        facts = json.loads(text)
        _check_facts(facts)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise SuperfilterError(
            f"{path!r} of {snapshot.repo_id!r} is damaged ({error}): publish the subset again"
        ) from error
    return dict(facts)


def _check_facts(facts: Any) -> None:
    """Refuse facts that somebody wrote by hand, wrongly.

    Nothing of them is shown unchecked.
    """
    if not isinstance(facts, dict):
        raise TypeError("no mapping")
    for key in ("kept", "rows"):
        if type(facts[key]) is not int or facts[key] < 0:
            raise ValueError(f"{key} is {facts[key]!r:.40}")
    texts = [facts["published"]]
    texts += [scorer["python"] for scorer in facts["scorers"]]
    texts += [step["selector"] for step in facts["steps"]]
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{text!r:.40} is no text")
