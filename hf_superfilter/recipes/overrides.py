"""A recipe on other data, with another model, another budget: what the command line may change of it."""

from collections.abc import Mapping
from typing import Any

from ..errors import did_you_mean
from ..yaml_io import load_yaml
from .recipe import KINDS, Recipe, build, parameters_of


def varied(
    recipe: Recipe,
    *,
    dataset: str | None = None,
    format: str | None = None,
    split: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Recipe:
    """A recipe with some of what it says exchanged.

    Args:
        dataset: another data set, of which nothing is known: format, split, config, revision and columns of
            the old one are forgotten.
        format, split: how and which part of it is read.
        settings: `argument` or `Name.argument` -> value. An argument is exchanged wherever the recipe states it, or,
            where it nowhere does, in every scorer and selector that has one; with a name in front (a class, or a
            scorer's name) in that one only.

    Raises:
        ValueError: no scorer or selector of the recipe has such an argument, or it refuses the value.

    Example:
        >>> recipe = Recipe.from_mapping(
        ...     {"dataset": "embedded:sample", "score": ["Length"], "select": [{"RandomSample": {"k": 0.1}}]}
        ... )
        >>> varied(recipe, settings={"k": 5, "seed": 1}).select
        (RandomSample(k=5, seed=1),)
    """
    plain = load_yaml(recipe.to_yaml())
    if dataset is not None:
        plain = {key: plain[key] for key in (*KINDS, "template", "tokenizer") if key in plain} | {
            "dataset": dataset
        }
    plain |= {
        key: value for key, value in (("format", format), ("split", split)) if value is not None
    }
    for setting, value in (settings or {}).items():
        _exchange(plain, setting, value)
    return Recipe.from_mapping(plain)


def _exchange(plain: dict[str, Any], setting: str, value: Any) -> None:
    """Put a value in the place of a setting's in the entries of a recipe."""
    owner, _, argument = setting.rpartition(".")
    entries = [
        (key, name, entry[name]) for key in KINDS for entry in plain.get(key, []) for name in entry
    ]
    mine = [
        e
        for e in entries
        if not owner or owner in (e[1], getattr(build({e[1]: e[2]}, e[0]), "name", None))
    ]
    if not mine:
        known = [name for _, name, _ in entries]
        raise ValueError(f"{setting!r}: the recipe has no {owner!r}; {did_you_mean(owner, known)}")
    able = [arguments for key, name, arguments in mine if argument in parameters_of(name, key)]
    if not able:
        takes = {argument for key, name, _ in mine for argument in parameters_of(name, key)}
        who = owner or "the recipe"
        raise ValueError(
            f"{setting!r}: {who} takes no argument {argument!r}; {did_you_mean(argument, takes)}"
        )
    for arguments in [stated for stated in able if argument in stated] or able:
        arguments[argument] = value
