"""Read and change the text of a dataset card, and keep what is not changed.

A card is YAML between two lines of `---`, then Markdown.
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from typing import Any

from ..errors import SuperfilterError
from ..yaml_io import check_bounds, dump_with, dump_yaml, quoted

CARD = "README.md"
BEGIN, END = "<!-- hf_superfilter: {} -->", "<!-- /hf_superfilter: {} -->"
HEAD = "the YAML at the head of README.md"
WIDTH = 10_000  # no text of a card is folded
_FRONT = re.compile(
    r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE
)
_INDENTED_LIST = re.compile(r"^( *)[^\s#-][^\n]*:[ \t]*\r?\n\1( +)- ", re.MULTILINE)


def decode_card(data: bytes, path: str = CARD) -> str:
    """Decode a card or another text file of a repository, and keep its line ends.

    Raises:
        SuperfilterError: it is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SuperfilterError(
            f"{path} is not UTF-8 text ({error}): save it as that first"
        ) from error


def read_metadata(text: str) -> dict[str, Any]:
    """Parse the YAML at the head of a card as the Hub and `datasets` do; {} without any.

    Raises:
        SuperfilterError: it is not YAML, is no mapping, or exceeds a bound of `check_bounds`.

    Example:
        >>> read_metadata("---\\nlicense: mit\\nlanguage: no\\n---\\n# Rows\\n")
        {'license': 'mit', 'language': 'no'}
    """
    return _parse_front(_front_of(text))


def set_metadata(text: str, changes: Mapping[str, Any]) -> str:
    """Set keys of a card's YAML; comments and the text of every other key stay.

    Example:
        >>> card = "---\\nlanguage: no  # Norwegian\\ntags: [b]  # ours\\n---\\nRows."
        >>> print(set_metadata(card, {"tags": ["a"]}))
        ---
        language: no  # Norwegian
        tags: [a]    # ours
        ---
        Rows.
    """
    from ruamel.yaml.error import YAMLError

    front = _front_of(text)
    before = _parse_front(front)
    wanted = {**before, **changes}
    changed = {key: value for key, value in changes.items() if before.get(key, ...) != value}
    try:
        new_front = _edit_blocks(front, changed)
    except YAMLError:  # what version 1.1 alone reads, such as U+2028 for the end of a line
        new_front = ""
    # A layout that cannot be edited key by key, such as { } around all, is written anew.
    if not _is_equal(new_front, wanted):
        new_front = dump_yaml(wanted, WIDTH)
    return f"---\n{new_front}---\n{body_of(text)}"


def set_section(text: str, name: str, section: str) -> str:
    """Replace the section of a name in a card, or append it.

    A section stands between two comments, each a line of its own, which data in it cannot imitate:
    a whole line that looks like one is indented.

    Example:
        >>> card = set_section("# Rows\\n", "ifd-10", "The best 10%.")
        >>> set_section(card, "ifd-10", "Better.") == set_section("# Rows\\n", "ifd-10", "Better.")
        True
    """
    inner = re.sub(r"^(?=<!-- /?hf_superfilter: )", " ", section.strip("\n"), flags=re.MULTILINE)
    begin, end = BEGIN.format(name), END.format(name)
    block = f"{begin}\n{inner}\n\n{end}\n"
    first, last = (rf"^{re.escape(mark)}[ \t]*(?:\r?\n|\Z)" for mark in (begin, end))
    both = rf"{first}(?:(?!{first}).)*?{last}"  # not from a beginning that has lost its end
    old = re.search(both, text, re.DOTALL | re.MULTILINE)
    if old:
        return text[: old.start()] + block + text[old.end() :]
    if not text or text.endswith("\n\n"):
        return text + block
    if text.endswith("\n"):
        return f"{text}\n{block}"
    return f"{text}\n\n{block}"


def body_of(text: str) -> str:
    """Return a card's Markdown, after its YAML."""
    match = _FRONT.match(text)
    return text[match.end() :] if match else text


def _front_of(text: str) -> str:
    match = _FRONT.match(text)
    return match[1] if match else ""


def _parse_front(front: str) -> dict[str, Any]:
    """Parse front matter into values that the caller may change."""
    return deepcopy(_parsed(front))


# A publication reads each of its few cards about ten times, and YAML is slow to read.
@lru_cache(maxsize=8)
def _parsed(front: str) -> dict[str, Any]:
    """Parse front matter with the parser of the Hub's clients, which is PyYAML's."""
    import yaml

    check_bounds(front, HEAD)
    try:
        metadata = yaml.safe_load(front)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise SuperfilterError(f"{HEAD} is damaged: {reason}") from error
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise SuperfilterError(
            f"{HEAD} is no mapping, but {str(metadata)[:60]!r}: correct or remove it"
        )
    odd = [key for key in metadata if not isinstance(key, str)]
    if odd:  # the clients fail on it, whatever is asked for
        raise SuperfilterError(
            f"{HEAD} has the key {odd[0]!r}, which is no text to YAML: write it in quotes"
        )
    if "language" in metadata:
        metadata["language"] = _languages(metadata["language"])
    return metadata


def _languages(value: Any) -> Any:
    """Return language codes as text.

    Norwegian is `no`, which YAML 1.1 reads as false.
    """
    if isinstance(value, list):
        return [_languages(code) for code in value]
    return "no" if value is False else value


def _edit_blocks(front: str, changed: Mapping[str, Any]) -> str:
    """Edit the lines of each changed key where they are, and append those of new keys."""
    lines = ""
    new = dict(changed)
    for key, block in _blocks(front):
        if key in new:
            content = _without_end(block)
            block = _round_trip(content, key, new.pop(key)) + block[len(content) :]
        lines += block
    if lines and not lines.endswith("\n"):
        lines += "\n"
    return lines + (dump_yaml(new, WIDTH) if new else "")


def _blocks(front: str) -> list[tuple[str | None, str]]:
    """Cut front matter into (key, its lines).

    What stands before the first key is under None.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.nodes import MappingNode

    root = YAML(typ="rt", pure=True).compose(front)
    if not isinstance(root, MappingNode) or root.flow_style or not root.value:
        return [(None, front.removesuffix("...\n"))]
    starts = [key.start_mark.index for key, _ in root.value]
    blocks: list[tuple[str | None, str]] = [(None, front[: starts[0]])]
    for (key, _), start, stop in zip(root.value, starts, [*starts[1:], len(front)], strict=True):
        blocks.append((key.value, front[start:stop].removesuffix("...\n")))
    return blocks


def _without_end(block: str) -> str:
    """Return a block without the comments and empty lines after it.

    They are about the next key.
    """
    lines = block.splitlines(keepends=True)
    while lines and (not lines[-1].strip() or lines[-1].startswith("#")):
        lines.pop()
    return "".join(lines)


def _round_trip(block: str, key: str, value: Any) -> str:
    """Set the one key of a block with ruamel.yaml, which keeps comments, quotes and order."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="rt", pure=True)
    yaml.Resolver = _text_resolver()
    yaml.preserve_quotes = True
    yaml.width = WIDTH
    indented = _INDENTED_LIST.search(block)
    if indented:
        dash = len(indented[2])
        yaml.indent(mapping=2, sequence=dash + 2, offset=dash)
    try:
        document = yaml.load(block)
    except YAMLError:  # an alias whose anchor stands in another block
        return dump_yaml({key: value}, WIDTH)
    document[key] = _merge(document[key], value)
    return dump_with(yaml, document)


def _merge(old: Any, new: Any) -> Any:
    """Change a parsed value into a plain one in place, so that comments inside it stay."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [key for key in old if key not in new]:
            del old[key]
        for key, value in new.items():
            old[key] = _merge(old.get(key), value)
        return old
    if isinstance(old, list) and isinstance(new, list):
        for place, value in enumerate(new):
            if place < len(old):
                old[place] = _merge(old[place], value)
            else:
                old.append(_as_text(quoted(value)))
        del old[len(new) :]
        return old
    meaning = _meaning(old)
    if meaning == new and type(meaning) is type(new):
        return old  # 1.50 stays 1.50, and "a" in quotes
    return _as_text(quoted(new))


def _meaning(scalar: Any) -> Any:
    """Return what a scalar read by `_text_resolver` means to the clients."""
    import yaml
    from ruamel.yaml.scalarstring import PlainScalarString, ScalarString

    if isinstance(scalar, ScalarString) and not isinstance(scalar, PlainScalarString):
        return str(scalar)
    if isinstance(scalar, str):
        return yaml.safe_load(scalar)
    return scalar


def _as_text(value: Any) -> Any:
    """Turn numbers, truth values, dates and null into text that `_text_resolver` leaves alone."""
    if isinstance(value, dict):
        return {_as_text(key): _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if isinstance(value, str):
        return value
    return dump_yaml([value]).removeprefix("-").strip() or "null"


def _text_resolver() -> type:
    """Return a resolver to which every unquoted scalar is text, to be written as it was read."""
    from ruamel.yaml.nodes import ScalarNode
    from ruamel.yaml.resolver import VersionedResolver
    from ruamel.yaml.tag import Tag

    class TextResolver(VersionedResolver):
        def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
            if kind is ScalarNode and implicit[0] and value != "":
                return Tag(suffix="tag:yaml.org,2002:str")
            return super().resolve(kind, value, implicit)

    return TextResolver


def _is_equal(front: str, wanted: Mapping[str, Any]) -> bool:
    """Compare what YAML means with what is wanted.

    As text, in which two nan are equal.
    """
    import yaml

    try:
        metadata = _parse_front(front)
    except SuperfilterError:
        return False
    return yaml.safe_dump(metadata) == yaml.safe_dump(dict(wanted))
