"""Where a selection comes from, as far as its run tells: data set, licence, models at fixed revisions, recipe."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.formats import detect_format
from ..data.sources import SAMPLE
from ..recipes.recipe import Recipe
from ..revisions import is_commit
from .front_matter import read_metadata

if TYPE_CHECKING:
    from ..reports.summary import Summary
    from ..selection.funnel import Selection

CARD = "README.md"


def provenance_of(summary: "Summary") -> dict[str, Any]:
    """What is on record; None for whatever is not.

    `recipe` (a Recipe that names fixed revisions); `source`: `dataset`, `revision`, `config`, `split`,
    `columns`; `scorers`: one `{"name", "entry", "said", "model", "revision"}` each; `created`.
    """
    record, recipe = summary.manifest or {}, summary.recipe
    source = record.get("source") or (
        {"dataset": recipe.dataset, "revision": None} if recipe else None
    )
    scorers = [
        {
            "name": name,
            "entry": entry["scorer"] if isinstance(entry["scorer"], dict) else None,
            "said": _said(entry["scorer"]),
            **{key: entry.get("made_with", {}).get(key) for key in ("model", "revision")},
        }
        for name, entry in record.get("scorers", {}).items()
    ]
    return {
        "recipe": pinned(recipe, record) if recipe else None,
        "source": source,
        "scorers": scorers,
        "created": record.get("created"),
    }


def pinned(recipe: Recipe, record: dict[str, Any]) -> Recipe:
    """A recipe with the commits that its run resolved in place of branches, so that it makes the same again."""
    commit = (record.get("source") or {}).get("revision")
    scorers = []
    for scorer in recipe.score:
        made_with = record["scorers"].get(getattr(scorer, "name", ""), {}).get("made_with", {})
        fixed = is_commit(made_with.get("revision")) and hasattr(scorer, "revision")
        scorers.append(
            dataclasses.replace(scorer, revision=made_with["revision"]) if fixed else scorer
        )
    return dataclasses.replace(
        recipe, score=tuple(scorers), revision=commit if is_commit(commit) else recipe.revision
    )


def _said(entry: Any) -> str:
    """A scorer's entry as the Python that builds it; a plain function is its name."""
    if not isinstance(entry, dict):
        return str(entry)
    name, arguments = next(iter(entry.items()))
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def own_columns(selection: "Selection", source: dict[str, Any] | None) -> list[str]:
    """The table's columns without the `prompt` and `response` that were made for scoring.

    Which were made is on record for a recipe's run. Else they count as made where the other columns are
    those of a format that makes them.
    """
    there = selection.table.column_names
    made = {"prompt", "response"} & set(there)
    if source and source.get("columns") is not None:
        made -= set(source["columns"])
    elif made != {"prompt", "response"}:
        made = set()
    else:
        made -= set(_used_by_a_format([name for name in there if name not in made]))
    return [name for name in there if name not in made]


def _used_by_a_format(others: list[str]) -> set[str]:
    """Which of prompt and response the rows had before any were made, judged by their other columns."""
    for own in (set(), {"response"}, {"prompt"}):
        try:
            if detect_format([*others, *own]) != "text":
                return own
        except ValueError:
            continue
    return {"prompt", "response"}


def source_metadata(source: dict[str, Any] | None) -> dict[str, Any]:
    """The YAML of the source's own card: licence, languages ...; {} where the source has none or is not known.

    Raises:
        FileNotFoundError: a data set that was on the Hub and is not there (moved, private, deleted).
        ConnectionError: the Hub cannot be reached.
    """
    if not source:
        return {}
    name = str(source["dataset"])
    if name == SAMPLE:
        return {"license": "apache-2.0", "language": ["en"]}
    if not is_commit(source.get("revision")):  # a file or folder
        card = Path(name).expanduser() / CARD
        return read_metadata(card.read_text(encoding="utf-8")) if card.is_file() else {}
    from huggingface_hub import errors, hf_hub_download

    try:
        file = hf_hub_download(name, CARD, repo_type="dataset", revision=source["revision"])
    except errors.LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"the card of the source {name!r}, whose licence is inherited, cannot be read: the Hub cannot be reached, "
            "or HF_HUB_OFFLINE is set; run it again when it can"
        ) from error
    except errors.EntryNotFoundError:
        return {}
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise FileNotFoundError(
            f"the source {name!r} is not on the Hub any more under that name and revision (moved, private or deleted)"
        ) from error
    return read_metadata(Path(file).read_text(encoding="utf-8"))
