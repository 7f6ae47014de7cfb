"""A dataset card as text: YAML between two lines of `---`, then Markdown; what is not replaced stays as it is."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from ..yaml_io import dump_yaml

BEGIN, END = "<!-- hf_superfilter: {} -->", "<!-- /hf_superfilter: {} -->"
_FRONT = re.compile(
    r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE
)


def card_text(data: bytes) -> str:
    """A card as it lies in a repository, its ends of lines as they are.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"README.md is not UTF-8 text ({error}): save it as that first") from error


def read_metadata(text: str) -> dict[str, Any]:
    """The YAML at the head of a card, {} where there is none.

    Raises:
        ValueError: it is not YAML, or no mapping.

    Example:
        >>> read_metadata("---\\nlicense: mit\\n---\\n# Rows\\n")
        {'license': 'mit'}
    """
    found = _FRONT.match(text)
    try:
        metadata = _loaded(found[1]) if found else {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"the YAML at the head of README.md is damaged: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(metadata, dict):
        raise ValueError(
            f"the YAML at the head of README.md is no mapping, but {str(metadata)[:60]!r}"
        )
    return metadata


def with_metadata(text: str, changed: Mapping[str, Any]) -> str:
    """A card with some keys of its YAML set, each in its place; all the others keep their very text, with comments.

    Example:
        >>> print(with_metadata("---\\nlanguage: no  # Norwegian\\ntags: []\\n---\\nRows.", {"tags": ["a"]}))
        ---
        language: no  # Norwegian
        tags:
        - a
        ---
        Rows.
    """
    before = read_metadata(text)
    found = _FRONT.match(text)
    new = {
        key: value for key, value in changed.items() if key not in before or before[key] != value
    }
    blocks = _blocks(found[1] if found else "")
    front = "".join(_dumped({key: new.pop(key)}) if key in new else lines for key, lines in blocks)
    front += _dumped(new) if new else ""
    if not _means(
        front, {**before, **changed}
    ):  # a layout that cannot be cut by lines, such as one { } over all
        front = _dumped({**before, **changed})
    return f"---\n{front}---\n{body_of(text)}"


def with_section(text: str, name: str, section: str) -> str:
    """A card whose section `name` is this one: in the old one's place, else at the end.

    A section stands between two comments, each a line of its own, which data in it cannot imitate:
    a whole line that looks like one is indented.

    Example:
        >>> card = with_section("# Rows\\n", "ifd-10", "The best 10%.")
        >>> with_section(card, "ifd-10", "Better.") == with_section("# Rows\\n", "ifd-10", "Better.")
        True
    """
    inner = re.sub(r"^(?=<!-- /?hf_superfilter: )", " ", section.strip("\n"), flags=re.MULTILINE)
    begin, end = BEGIN.format(name), END.format(name)
    whole = f"{begin}\n{inner}\n\n{end}\n"
    first, last = (rf"^{re.escape(mark)}[ \t]*(?:\r?\n|\Z)" for mark in (begin, end))
    both = rf"{first}(?:(?!{first}).)*?{last}"  # not from a beginning that has lost its end
    found = re.search(both, text, re.DOTALL | re.MULTILINE)
    if found:
        return text[: found.start()] + whole + text[found.end() :]
    gap = "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
    return f"{text}{gap}{whole}"


def body_of(text: str) -> str:
    """A card's Markdown, after its YAML."""
    found = _FRONT.match(text)
    return text[found.end() :] if found else text


def _blocks(front: str) -> list[tuple[str | None, str]]:
    """The YAML's top-level entries as (key, their lines); comments above a key stand alone, under None."""
    root = yaml.compose(front)
    if root is None:
        return [(None, front)]
    keys = (
        [key for key, _ in root.value]
        if isinstance(root, yaml.MappingNode) and not root.flow_style
        else []
    )
    starts = [key.start_mark.index for key in keys]
    blocks: list[tuple[str | None, str]] = [(None, front[: starts[0]])] if starts else []
    for key, start, stop in zip(keys, starts, [*starts, len(front)][1:], strict=True):
        lines = front[start:stop].splitlines(keepends=True)
        own = len(lines)
        while own and (not lines[own - 1].strip() or lines[own - 1].startswith("#")):
            own -= 1
        blocks += [(key.value, "".join(lines[:own])), (None, "".join(lines[own:]))]
    return [
        (key, lines if lines.endswith("\n") else lines + "\n") for key, lines in blocks if lines
    ]


def _loaded(front: str) -> Any:
    """What YAML says, {} for nothing; the language `no` is Norwegian, though YAML 1.1 reads it as false."""
    metadata = yaml.safe_load(front) or {}
    if isinstance(metadata, dict) and "language" in metadata:
        given = metadata["language"]
        codes = [
            "no" if code is False else code
            for code in (given if isinstance(given, list) else [given])
        ]
        metadata["language"] = codes if isinstance(given, list) else codes[0]
    return metadata


def _means(front: str, wanted: Mapping[str, Any]) -> bool:
    """Whether YAML says what is wanted; compared as text, in which two nan are equal."""
    try:
        found = _loaded(front)
    except yaml.YAMLError:  # the anchor of an alias went with its key
        return False
    return isinstance(found, dict) and yaml.safe_dump(found) == yaml.safe_dump(dict(wanted))


def _dumped(values: Mapping[str, Any]) -> str:
    return dump_yaml(dict(values), width=10_000)
