"""Look up short names.

Recipes of the package, curated subsets, and the user's own entries.
"""

import os
from pathlib import Path
from typing import Any

from ..errors import NotFoundError, SuperfilterError, did_you_mean
from ..revisions import is_commit
from ..yaml_io import load_yaml

RECIPES = Path(__file__).parent
PACKAGE_CATALOGUE = RECIPES / "catalogue.yaml"


def user_catalogue() -> Path:
    """Return the path of the user's own catalogue, in the configuration directory."""
    configuration = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(configuration) / "hf_superfilter" / "catalogue.yaml"


def read_catalogue() -> dict[str, dict[str, Any]]:
    """Read all entries by short name; the user's replace the package's.

    An entry is `{repo, revision, name}`, a published subset at a whole commit, or `{recipe}`.

    Raises:
        SuperfilterError: a damaged file, or an entry that is neither.
    """
    entries: dict[str, dict[str, Any]] = {}
    for file in (PACKAGE_CATALOGUE, user_catalogue()):
        if file.is_file():
            entries |= _read_file(file)
    return entries


def packaged_recipes() -> dict[str, Path]:
    """Return the files of the package's recipes by name, one for each method."""
    files = sorted(RECIPES.glob("*.yaml"))
    return {file.stem: file for file in files if file != PACKAGE_CATALOGUE}


def find_entry(name: str) -> dict[str, Any]:
    """Find an entry of the catalogue, or the packaged recipe of that name.

    Raises:
        NotFoundError: no such short name, with the nearest one.

    Example:
        >>> find_entry("alpaca-ifd-10")["recipe"]["dataset"]
        'tatsu-lab/alpaca'
    """
    entries, files = read_catalogue(), packaged_recipes()
    if name in entries:
        return entries[name]
    if name in files:
        return {"recipe": load_yaml(files[name].read_text(encoding="utf-8"), f"recipe {name!r}")}
    raise NotFoundError(
        f"no subset {name!r} in the catalogue: {did_you_mean(name, {*entries, *files})}; "
        "one on the Hub is 'user/name'"
    )


def _read_file(file: Path) -> dict[str, dict[str, Any]]:
    subject = f"the catalogue {str(file)!r}"
    try:
        entries = load_yaml(file.read_text(encoding="utf-8"), subject) or {}
    except UnicodeDecodeError as error:
        raise SuperfilterError(f"{subject} is not YAML: {error}") from error
    if not isinstance(entries, dict):
        raise SuperfilterError(f"{subject} is not a mapping of short names to entries")
    for name, entry in entries.items():
        _check_entry(name, entry, subject)
    return entries


def _check_entry(name: Any, entry: Any, subject: str) -> None:
    """Refuse an entry that neither names a published subset nor holds a recipe."""
    keys = set(entry) if isinstance(entry, dict) else set()
    is_subset = {"repo", "revision"} <= keys <= {"repo", "revision", "name"}
    is_name = isinstance(name, str) and "/" not in name and not name.startswith(".")
    if not is_name or not (is_subset or keys == {"recipe"}):
        listed = ", ".join(sorted(map(str, keys))) or repr(entry)
        raise SuperfilterError(
            f"{name!r} in {subject} needs repo and revision (and name), or recipe, and a name "
            f"without '/' that does not begin with '.'; it has {listed}"
        )
    if is_subset and not isinstance(entry["repo"], str):
        raise SuperfilterError(f"{name!r} in {subject}: repo {entry['repo']!r} is not 'user/name'")
    if is_subset and not is_commit(entry["revision"]):
        raise SuperfilterError(
            f"{name!r} in {subject}: revision {entry['revision']!r} is not a whole "
            "commit sha, in quotes"
        )
