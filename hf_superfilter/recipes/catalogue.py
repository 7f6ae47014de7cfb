"""Short names: recipes of the package, one a method; curated subsets; and the user's own subsets beside them."""

import os
from pathlib import Path
from typing import Any

import yaml

from ..errors import did_you_mean
from ..revisions import is_commit
from ..yaml_io import load_yaml

OURS = Path(__file__).parent / "catalogue.yaml"
RECIPES = Path(__file__).parent


def user_catalogue() -> Path:
    """The user's own catalogue: `hf_superfilter/catalogue.yaml` in the configuration directory."""
    return (
        Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        / "hf_superfilter"
        / "catalogue.yaml"
    )


def catalogue() -> dict[str, dict[str, Any]]:
    """All entries by short name; the user's take the place of the package's.

    An entry is `{repo, revision, name}`, a published subset at a whole commit, or `{recipe}`, which makes it.

    Raises:
        ValueError: a file that is damaged, or an entry that is neither.
    """
    entries: dict[str, dict[str, Any]] = {}
    for file in (OURS, user_catalogue()):
        if file.is_file():
            entries |= _read(file)
    return entries


def packaged_recipes() -> dict[str, Path]:
    """The files of the package's recipes by name: one for each method, on the embedded sample and models."""
    return {file.stem: file for file in sorted(RECIPES.glob("*.yaml")) if file != OURS}


def entry_of(name: str) -> dict[str, Any]:
    """One entry of the catalogue, or the packaged recipe of that name.

    Raises:
        FileNotFoundError: no such short name, with the nearest one.

    Example:
        >>> entry_of("alpaca-ifd-10")["recipe"]["dataset"]
        'tatsu-lab/alpaca'
    """
    entries, files = catalogue(), packaged_recipes()
    if name not in entries and name in files:
        return {"recipe": load_yaml(files[name].read_text(encoding="utf-8"))}
    if name not in entries:
        known = {*entries, *files}
        raise FileNotFoundError(
            f"no subset {name!r} in the catalogue: {did_you_mean(name, known)}; one on the Hub is 'user/name'"
        )
    return entries[name]


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = load_yaml(file.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            f"the catalogue {str(file)!r} is not YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(entries, dict):
        raise ValueError(f"the catalogue {str(file)!r} is not a mapping of short names to entries")
    for name, entry in entries.items():
        given = set(entry) if isinstance(entry, dict) else set()
        if (
            "/" in str(name)
            or str(name).startswith(".")
            or not (
                given == {"recipe"} or {"repo", "revision"} <= given <= {"repo", "revision", "name"}
            )
        ):
            raise ValueError(
                f"{name!r} in the catalogue {str(file)!r} needs repo and revision (and name), or recipe, and a name "
                f"without '/' that does not begin with '.'; it has {', '.join(sorted(map(str, given))) or repr(entry)}"
            )
        if "repo" in given and not isinstance(entry["repo"], str):
            raise ValueError(
                f"{name!r} in the catalogue {str(file)!r}: repo {entry['repo']!r} is not 'user/name'"
            )
        if "repo" in given and not is_commit(entry["revision"]):
            raise ValueError(
                f"{name!r} in the catalogue {str(file)!r}: revision {entry['revision']!r} is not a whole commit sha, "
                "in quotes"
            )
    return {str(name): entry for name, entry in entries.items()}
