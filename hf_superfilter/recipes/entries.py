"""Build scorers and selectors from the entries of a recipe."""

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from ..base import Settings
from ..errors import SuperfilterError, did_you_mean

# Key of a recipe -> the package that its entries live in, and what one of them is called.
KINDS = {"score": ("scoring.", "scorer"), "select": ("selection.", "selector")}
EXAMPLES = {
    "score": "'- IFD: {model: openai-community/gpt2}'",
    "select": "'- TopK: {by: ifd, k: 0.10}'",
}
NOT_BUILT = {"Selection", "Step", "select"}  # public names of selection that are no selector
MAX_QUOTED = 60


def build_all(entries: Any, key: str) -> tuple[Any, ...]:
    """Build all scorers or selectors of a recipe."""
    if not isinstance(entries, list) or not entries:
        raise SuperfilterError(
            f"{key}: {_quote(entries)} in the recipe has to be a list of entries such as "
            f"{EXAMPLES[key]}"
        )
    return tuple(build(entry, key) for entry in entries)


def build(entry: Any, key: str) -> Any:
    """Build the scorer or selector of an entry.

    Args:
        entry: `Name`, or `{Name: {argument: value}}`; a class of somebody else is `module:Class`.
        key: "score" or "select".

    Raises:
        SuperfilterError: an unknown name or argument, a missing one, or a value that the
            constructor refuses.
    """
    name, arguments = _name_and_arguments(entry, key)
    factory, parameters = find_class(name, key), parameters_of(name, key)
    for argument in arguments:
        if argument not in parameters:
            raise SuperfilterError(
                f"{name} has no argument {argument!r}: {did_you_mean(argument, parameters)}"
            )
    for argument, parameter in parameters.items():
        if parameter.default is parameter.empty and argument not in arguments:
            raise SuperfilterError(
                f"{name} needs the argument {argument!r}, such as {_example(name, argument, key)}"
            )
    try:
        return factory(**arguments)
    except (TypeError, ValueError) as error:
        # A constructor of somebody else may raise either for a value of the wrong type.
        raise SuperfilterError(f"{name}: {error}") from error


def _example(name: str, argument: str, key: str) -> str:
    """Write an entry that has the argument, as a whole where the example is of that class."""
    return EXAMPLES[key] if f" {name}:" in EXAMPLES[key] else f"'- {name}: {{{argument}: ...}}'"


def _name_and_arguments(entry: Any, key: str) -> tuple[str, dict[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise SuperfilterError(f"{key}: {_quote(entry)} is not one entry such as {EXAMPLES[key]}")
    name, arguments = next(iter(entry.items()))
    if arguments is None:
        return str(name), {}
    if not isinstance(arguments, dict):
        raise SuperfilterError(
            f"{name}: {_quote(arguments)} is not arguments and values such as {EXAMPLES[key]}"
        )
    return str(name), arguments


def parameters_of(name: str, key: str) -> Mapping[str, inspect.Parameter]:
    """Return the arguments that a scorer or selector takes, by name."""
    return inspect.signature(find_class(name, key)).parameters


def find_class(name: str, key: str) -> Any:
    """Find a class by its public name, or by `package.module:Class`."""
    kind = KINDS[key][1]
    if ":" in name:
        return _import_class(name, kind)
    names = public_names(key)
    if name not in names:
        raise SuperfilterError(f"no {kind} {name!r}: {did_you_mean(name, names)}")
    return getattr(import_module("hf_superfilter"), name)


def public_names(key: str) -> list[str]:
    """Return the public names of all scorers or selectors."""
    homes = import_module("hf_superfilter")._HOME
    return [
        name
        for name, home in homes.items()
        if home.startswith(KINDS[key][0]) and name not in NOT_BUILT
    ]


def _import_class(name: str, kind: str) -> type:
    module, _, attribute = name.partition(":")
    try:
        value = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise SuperfilterError(f"{name!r} cannot be imported: {error}") from error
    if not isinstance(value, type):
        raise SuperfilterError(f"{name!r} is no class: name one, whose instances are {kind}s")
    return value


def as_entry(part: Any) -> dict[str, Any]:
    """Return the YAML entry of a scorer or selector."""
    if not isinstance(part, Settings):
        raise SuperfilterError(
            f"{part!r} cannot be written into a recipe: only scorers and selectors with settings "
            "can"
        )
    if not part.is_writable:
        raise SuperfilterError(
            f"{part!r} cannot be written into a recipe: it holds rows; give the name of a file or "
            "data set instead"
        )
    return part.entry()


def names_in(recipe: Any) -> Iterator[str]:
    """Yield every name of a class in a parsed recipe, whatever its form.

    Nothing is built.
    """
    for _, name, _ in all_entries(recipe):
        yield name


def endpoints_in(recipe: Any) -> Iterator[str]:
    """Yield every server that a parsed recipe names."""
    for _, _, arguments in all_entries(recipe):
        if isinstance(arguments, dict) and arguments.get("endpoint") is not None:
            yield str(arguments["endpoint"])


def all_entries(recipe: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield (key, name, arguments) of every entry, also where a mapping stands for the list."""
    for key in KINDS:
        entries = recipe.get(key) if isinstance(recipe, dict) else None
        for entry in entries if isinstance(entries, list) else [entries]:
            if isinstance(entry, dict):
                for name, arguments in entry.items():
                    yield key, str(name), arguments
            elif entry is not None:
                yield key, str(entry), None


def _quote(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_QUOTED else f"{text[: MAX_QUOTED - 1]}…"
