"""Change a recipe from the command line.

Other data, another model, another budget.
"""

from collections.abc import Mapping
from typing import Any

from ..errors import SuperfilterError, did_you_mean
from ..yaml_io import load_yaml
from .entries import KINDS, all_entries, find_class, parameters_of
from .recipe import Recipe


def override(
    recipe: Recipe,
    *,
    dataset: str | None = None,
    format: str | None = None,
    split: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    reasoning: str | None = None,
    max_unreadable: float | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Recipe:
    """Replace parts of a recipe.

    Args:
        dataset: another data set, of which nothing is known: format, split, config, revision and
            columns of the old one are forgotten.
        format, split: how and which part of it is read.
        template_kwargs, reasoning: as `format_pairs` takes them.
        max_unreadable: the share of the rows that may be unreadable.
        settings: `argument` or `Name.argument` -> value. An argument is replaced wherever the
            recipe states it, or, where it nowhere does, in every scorer and selector that has one;
            with a name in front (a class, or a scorer's name) in that one only.

    Raises:
        SuperfilterError: no scorer or selector of the recipe has such an argument, or it refuses
            the value.

    Example:
        >>> from hf_superfilter import Length, RandomSample
        >>> recipe = Recipe("embedded:sample", [Length()], [RandomSample(0.1)])
        >>> override(recipe, settings={"k": 5, "seed": 1}).select
        (RandomSample(k=5, seed=1),)
    """
    values = load_yaml(recipe.to_yaml())
    if dataset is not None:
        kept = (*KINDS, "template", "tokenizer", "template_kwargs", "reasoning", "max_unreadable")
        values = {key: values[key] for key in kept if key in values} | {"dataset": dataset}
    changes = {
        "format": format,
        "split": split,
        "template_kwargs": template_kwargs,
        "reasoning": reasoning,
        "max_unreadable": max_unreadable,
    }
    values |= {key: value for key, value in changes.items() if value is not None}
    for setting, value in (settings or {}).items():
        override_argument(values, setting, value)
    return Recipe.from_mapping(values)


def override_argument(values: Mapping[str, Any], setting: str, value: Any) -> None:
    """Set an argument in the entries of a recipe, which may lack others yet.

    Args:
        values: the recipe as YAML holds it; its entries are changed.
        setting: `argument` or `Name.argument`.
        value: the argument's new value.
    """
    owner, _, argument = setting.rpartition(".")
    parts = list(all_entries(values))
    addressed = [part for part in parts if not owner or owner in _names_of(*part)]
    if not addressed:
        names = [name for _, name, _ in parts]
        raise SuperfilterError(
            f"{setting!r}: the recipe has no {owner!r}; {did_you_mean(owner, names)}"
        )
    takers = [
        arguments for key, name, arguments in addressed if argument in parameters_of(name, key)
    ]
    if not takers:
        accepted = {name for key, kind, _ in addressed for name in parameters_of(kind, key)}
        raise SuperfilterError(
            f"{setting!r}: {owner or 'the recipe'} takes no argument {argument!r}; "
            f"{did_you_mean(argument, accepted)}"
        )
    stating = [arguments for arguments in takers if argument in arguments]
    for arguments in stating or takers:
        arguments[argument] = value


def _names_of(key: str, name: str, arguments: dict[str, Any]) -> set[str]:
    """Return what an entry can be addressed by.

    Its class, and a scorer's own name.
    """
    return {name, str(arguments.get("name") or getattr(find_class(name, key), "name", name))}
