"""Published subsets, by name: load one, list them, read the recipe that makes one again."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .card import check_subset, default_of
from .catalogue import entry_of
from .provenance import CARD
from .readme import read_metadata
from .recipe import FILE as RECIPE
from .recipe import Recipe
from .repo_files import FACTS
from .sources import load_rows

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
    repo_id: str, name: str | None = None, *, split: str | None = None, revision: str | None = None, make: bool = False
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
    if "/" not in str(repo_id) and not Path(repo_id).is_dir():
        if name is not None:
            raise ValueError(f"{repo_id!r} is a short name, which takes no subset: give 'user/{repo_id}', or no name")
        entry = entry_of(str(repo_id))
        if "repo" not in entry:
            return _made(str(repo_id), entry, make)
        repo_id, name, revision = entry["repo"], entry.get("name"), entry["revision"]
    metadata = _metadata(repo_id, revision)
    return load_rows(repo_id, config=_name(metadata, repo_id, name), split=split, revision=revision)


def list_subsets(repo_id: str, *, revision: str | None = None) -> list[Subset]:
    """The subsets of a repository or of a folder that `write_repo` made, in the card's order."""
    metadata = _metadata(repo_id, revision)
    default = default_of(metadata)
    rows_of = {
        info.get("config_name", "default"): sum(split["num_examples"] for split in info.get("splits") or []) or None
        for info in _listed(metadata.get("dataset_info"))
    }
    subsets = []
    for config in _configs(metadata):
        name = config["config_name"]
        facts = [_facts(repo_id, name, split, revision) for split in _splits(config)]
        known = [fact for fact in facts if fact]
        first = known[0] if known else {}
        share = sum(f["kept"] for f in known) / sum(f["rows"] for f in known) if known else None
        subsets.append(
            Subset(
                name,
                sum(fact["kept"] for fact in known) if known else rows_of.get(name),
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
        ValueError: an unknown subset or split.
        FileNotFoundError: no such repository, or no recipe was recorded.
    """
    if "/" not in str(repo_id) and not Path(repo_id).is_dir():
        entry = entry_of(str(repo_id))
        if "repo" not in entry:
            return Recipe.from_mapping(entry["recipe"])
        repo_id, name, revision = entry["repo"], entry.get("name"), entry["revision"]
    metadata = _metadata(repo_id, revision)
    name = _name(metadata, repo_id, name)
    splits = next(_splits(config) for config in _configs(metadata) if config["config_name"] == name)
    wanted = split or ("train" if "train" in splits else next(iter(splits), "train"))
    text = _text(repo_id, f"{name}/{wanted}/{RECIPE}", revision)
    if text is None:
        raise FileNotFoundError(f"no recipe was recorded for {name!r}, split {wanted!r}, of {repo_id!r}")
    return Recipe.from_yaml(text)


def _made(name: str, entry: dict[str, Any], make: bool) -> "Dataset":
    """The rows of a catalogue entry that is a recipe."""
    if not make:
        raise FileNotFoundError(
            f"{name!r} is not published; make it with load_subset({name!r}, make=True), which scores the data set"
        )
    return Recipe.from_mapping(entry["recipe"]).run(Path("runs") / name).subset


def _name(metadata: dict[str, Any], repo_id: str, name: str | None) -> str:
    """The subset that is meant, checked."""
    known = [config["config_name"] for config in _configs(metadata)]
    name = name if name is not None else default_of(metadata)
    if name is None:
        raise ValueError(f"{repo_id!r} has no default subset: name one of {', '.join(known) or 'none'}")
    check_subset(name, known, repo_id)
    return name


def _metadata(repo_id: str, revision: str | None) -> dict[str, Any]:
    return read_metadata(_text(repo_id, CARD, revision) or "")


def _configs(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**config, "config_name": str(config["config_name"])} for config in _listed(metadata.get("configs"))]


def _splits(config: dict[str, Any]) -> list[str]:
    """The splits of a subset that are of ours."""
    files = [file for file in _listed(config.get("data_files")) if isinstance(file, dict)]
    return [
        file["split"] for file in files if str(file["path"]).startswith(f"{config['config_name']}/{file['split']}/")
    ]


def _facts(repo_id: str, name: str, split: str, revision: str | None) -> dict[str, Any] | None:
    text = _text(repo_id, f"{name}/{split}/{FACTS}", revision)
    return json.loads(text) if text else None


def _text(repo_id: str, path: str, revision: str | None) -> str | None:
    """A text file of a repository or local folder, None where it has none of that name."""
    if Path(repo_id).is_dir():
        file = Path(repo_id) / path
        return file.read_text(encoding="utf-8") if file.is_file() else None
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(repo_id, path, repo_type="dataset", revision=revision)).read_text(encoding="utf-8")
    except errors.LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"the Hub cannot be reached, and the cache holds no {path!r} of {repo_id!r}"
            + (f" at revision {revision!r}" if revision else "")
        ) from error
    except errors.EntryNotFoundError:
        return None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise FileNotFoundError(
            f"the Hub has no data set {repo_id!r}"
            + (f" at revision {revision!r}" if revision else "")
            + ": check the name, and that your token may read it"
        ) from error


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]
