"""Read and write YAML: bounded when read, unambiguous when written.

Recipes and run records are YAML 1.2, where `2e-5` is a number and `no` is text. The Hub and
`datasets` read the front matter of a card as YAML 1.1, where both are the other way round. So text
that either version would take for something else is written in quotes, and a float always with a
point.
"""

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .errors import SuperfilterError

if TYPE_CHECKING:
    from ruamel.yaml import YAML

MAX_CHARACTERS = 2_000_000
MAX_NODES = 200_000
MAX_DEPTH = 64
# Line ends of Unicode, which YAML 1.1 folds when it reads them unescaped.
LINE_ENDS = "\x85\u2028\u2029"


def load_yaml(text: str, what: str = "the text") -> Any:
    """Parse YAML 1.2 into plain values.

    Args:
        text: the YAML, of any origin: size, depth and the expansion of aliases are bounded.
        what: what the text is, for errors.

    Raises:
        SuperfilterError: it is not YAML, holds a key twice, or exceeds a bound.

    Example:
        >>> load_yaml("{learning_rate: 2e-5, k: 1E-1, model: 2e, name: e5, yes: no}")
        {'learning_rate': 2e-05, 'k': 0.1, 'model': '2e', 'name': 'e5', 'yes': 'no'}
    """
    from ruamel.yaml import YAML

    check_bounds(text, what)
    try:
        return YAML(typ="safe", pure=True).load(text)
    except _load_errors() as error:
        raise SuperfilterError(f"{what} is not YAML: {_reason(error)}") from error


def check_bounds(text: str, what: str) -> None:
    """Refuse YAML that is huge, deep, or explodes when its aliases are expanded.

    Reads the events of the parser only, so the cost is linear in the text whatever it stands for.
    Text that is not YAML passes: whoever parses it says where it breaks.

    Raises:
        SuperfilterError: it exceeds a bound.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if len(text) > MAX_CHARACTERS:
        raise SuperfilterError(
            f"{what} has {len(text):,} characters: more than {MAX_CHARACTERS:,} are not read"
        )
    nodes = _NodeCount(what)
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            nodes.add(event)
    except YAMLError:
        return


class _NodeCount:
    """Count the nodes that a document stands for, aliases expanded.

    A stack holds the open collections, each with its anchor and its nodes so far. An alias adds the
    nodes of its anchor, so nine lists of ten aliases to the list before count 10⁹ without being
    built.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.anchors: dict[str, int] = {}
        self.stack: list[tuple[str | None, int]] = [(None, 0)]

    def add(self, event: Any) -> None:
        """Count one event of the parser."""
        from ruamel.yaml import events

        if isinstance(event, events.CollectionStartEvent):
            self.stack.append((event.anchor, 1))
        elif isinstance(event, events.CollectionEndEvent):
            anchor, nodes = self.stack.pop()
            self._close(anchor, nodes)
        elif isinstance(event, events.ScalarEvent):
            self._close(event.anchor, 1)
        elif isinstance(event, events.AliasEvent):
            if event.anchor not in self.anchors:
                self._refuse(f"the alias *{event.anchor} to nothing, or to what it stands in")
            self._close(None, self.anchors[event.anchor])
        if len(self.stack) > MAX_DEPTH:
            self._refuse(f"more than {MAX_DEPTH} levels")
        if self.stack[-1][1] > MAX_NODES:
            self._refuse(f"more than {MAX_NODES:,} values, aliases expanded")

    def _close(self, anchor: str | None, nodes: int) -> None:
        if anchor is not None:
            self.anchors[anchor] = nodes
        parent, sum_so_far = self.stack[-1]
        self.stack[-1] = (parent, sum_so_far + nodes)

    def _refuse(self, reason: str) -> None:
        raise SuperfilterError(f"{self.what} holds {reason}: write it plainly")


def dump_yaml(values: Any, width: int = 80) -> str:
    """Write plain values as YAML that versions 1.1 and 1.2 read alike; keys keep their order.

    Example:
        >>> print(dump_yaml({"k": 2e-5, "name": "é", "language": "no"}), end="")
        k: 2.0e-05
        name: é
        language: 'no'
    """
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt", pure=True)
    yaml.width = width
    return dump_with(yaml, quoted(values))


def dump_with(yaml: "YAML", values: Any) -> str:
    """Return what a YAML writer writes."""
    text = io.StringIO()
    yaml.representer.add_representer(float, _represent_float)
    yaml.dump(values, text)
    return text.getvalue().removesuffix("...\n")


def quoted(value: Any) -> Any:
    """Copy plain values, with quotes around text that would be read as something else."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString, SingleQuotedScalarString

    if isinstance(value, dict):
        return {quoted(key): quoted(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [quoted(item) for item in value]
    if type(value) is str and any(end in value for end in LINE_ENDS):
        return DoubleQuotedScalarString(value)
    if type(value) is str and is_ambiguous(value):
        return SingleQuotedScalarString(value)
    return value


def is_ambiguous(text: str) -> bool:
    """Return whether unquoted text is a number, a date, a truth value or null to some version.

    Example:
        >>> [text for text in ("no", "2e-5", "1:30", "2024-01-31", "", "ifd") if is_ambiguous(text)]
        ['no', '2e-5', '1:30', '2024-01-31', '']
    """
    from ruamel.yaml.nodes import ScalarNode

    tags = {str(_resolver(version).resolve(ScalarNode, text, (True, False))) for version in (1, 2)}
    return tags != {"tag:yaml.org,2002:str"}


@lru_cache(maxsize=2)
def _resolver(minor: int) -> Any:
    from ruamel.yaml.resolver import VersionedResolver

    return VersionedResolver(version=(1, minor))


def _represent_float(representer: Any, value: float) -> Any:
    """Write 2e-05 as 2.0e-05, which version 1.1 needs to see a number."""
    node = representer.represent_float(value)
    mantissa, exponent, power = node.value.partition("e")
    if exponent and "." not in mantissa:
        node.value = f"{mantissa}.0e{power}"
    return node


def _load_errors() -> tuple[type[Exception], ...]:
    """Return what ruamel.yaml raises for bad text.

    ValueError is an impossible date or number.
    """
    from ruamel.yaml.error import YAMLError

    return YAMLError, ValueError, TypeError, OverflowError, RecursionError


def _reason(error: BaseException) -> str:
    """Return what is wrong with YAML and where, in one line."""
    problem = getattr(error, "problem", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return place + (" ".join(str(problem).split()) or type(error).__name__)
