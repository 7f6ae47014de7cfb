"""Trace where a selection comes from.

Data set, licence, models at fixed revisions, recipe.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.sources import SAMPLE
from ..errors import HubError, HubNotFoundError, HubOfflineError, SuperfilterError
from ..hub_client import retry_request, translate_errors
from ..recipes.recipe import Recipe
from ..revisions import is_commit
from ..tables.origin import origin_of
from .front_matter import CARD, decode_card, read_metadata

if TYPE_CHECKING:
    from ..reports.summary import Summary


def provenance_of(summary: "Summary") -> dict[str, Any]:
    """Collect what is on record; None for whatever is not.

    Returns:
        `recipe`, a Recipe that names fixed revisions; `source`, with `dataset`, `revision`,
        `config`, `split` and `columns`; `scorers`, one `{name, entry, python, model, revision}`
        each; `created`.
    """
    manifest, recipe = summary.manifest or {}, summary.recipe
    source = manifest.get("source") or origin_of(summary.table)
    if source is None and recipe is not None:
        source = {"dataset": recipe.dataset, "revision": None}
    return {
        "recipe": pin_recipe(recipe, manifest) if recipe else None,
        "source": source,
        "scorers": [_scorer(name, entry) for name, entry in manifest.get("scorers", {}).items()],
        "created": manifest.get("created"),
    }


def _scorer(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Describe a scorer by its entry of the manifest.

    A plain function has no settings.
    """
    settings, model = entry["scorer"], entry.get("made_with", {})
    return {
        "name": name,
        "entry": settings if isinstance(settings, dict) else None,
        "python": _as_python(settings),
        "model": model.get("model"),
        "revision": model.get("revision"),
    }


def pin_recipe(recipe: Recipe, manifest: dict[str, Any]) -> Recipe:
    """Replace branches in a recipe by the commits that its run resolved."""
    commit = (manifest.get("source") or {}).get("revision")
    scorers = []
    for scorer in recipe.score:
        model = manifest["scorers"].get(getattr(scorer, "name", ""), {}).get("made_with", {})
        has_revision = "revision" in (field.name for field in dataclasses.fields(scorer))
        if has_revision and is_commit(model.get("revision")):
            scorer = dataclasses.replace(scorer, revision=model["revision"])
        scorers.append(scorer)
    revision = commit if is_commit(commit) else recipe.revision
    return dataclasses.replace(recipe, score=tuple(scorers), revision=revision)


def _as_python(entry: Any) -> str:
    """Write an entry as the Python that builds it.

    A plain function is its name.
    """
    if not isinstance(entry, dict):
        return str(entry)
    name, arguments = next(iter(entry.items()))
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def source_metadata(source: dict[str, Any] | None, token: str | None = None) -> dict[str, Any]:
    """Read the YAML of the source's own card: licence, languages, tasks.

    Returns:
        {} where the source has no card or is not known.

    Raises:
        HubNotFoundError: a data set that was on the Hub is not any more (moved, private, deleted).
        HubOfflineError: the Hub cannot be reached.
        HubError: the Hub refuses or fails.
    """
    if not source:
        return {}
    name = str(source["dataset"])
    if name == SAMPLE:
        return {"license": "apache-2.0", "language": ["en"], "task_categories": ["text-generation"]}
    if is_commit(source.get("revision")):
        return _hub_metadata(name, source["revision"], token)
    card = Path(name).expanduser() / CARD
    return read_metadata(decode_card(card.read_bytes())) if card.is_file() else {}


def _hub_metadata(name: str, revision: str, token: str | None) -> dict[str, Any]:
    from huggingface_hub import errors, hf_hub_download

    def download() -> str:
        return hf_hub_download(name, CARD, repo_type="dataset", revision=revision, token=token)

    subject = f"the card of the source {name!r}, whose licence is inherited, cannot be read"
    try:
        with translate_errors(name, revision=revision):
            file = retry_request(download)
    except HubNotFoundError as error:
        raise HubNotFoundError(
            f"the source {name!r} is not on the Hub any more under that name and revision (moved, "
            "private or deleted)"
        ) from error
    except HubOfflineError as error:
        raise HubOfflineError(
            f"{subject}: the Hub cannot be reached, or HF_HUB_OFFLINE is set; run it again "
            "when it can"
        ) from error
    except HubError as error:
        raise type(error)(f"{subject}: {error}") from error
    except errors.LocalEntryNotFoundError as error:
        raise HubOfflineError(f"{subject}: {error}") from error
    except errors.EntryNotFoundError:
        return {}
    try:
        return read_metadata(decode_card(Path(file).read_bytes()))
    except SuperfilterError as error:
        raise SuperfilterError(f"{subject}: {error}") from error
