"""A dataset card as text: YAML between two lines of `---`, then Markdown; what is not replaced stays as it is."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

BEGIN, END = "<!-- hf_superfilter: {} -->", "<!-- /hf_superfilter: {} -->"
_FRONT = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)


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
        metadata = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError as error:
        raise ValueError(f"the YAML at the head of README.md is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(metadata or {}, dict):
        raise ValueError(f"the YAML at the head of README.md is no mapping, but {str(metadata)[:60]!r}")
    return metadata or {}


def with_metadata(text: str, changed: Mapping[str, Any]) -> str:
    """A card with some keys of its YAML set; all the others keep their very text, comments included.

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
    kept = [block for key, block in _blocks(found[1] if found else "") if key not in changed]
    front = "".join([*kept, *(_dumped({key: value}) for key, value in changed.items())])
    if yaml.safe_load(front) != {**before, **changed}:  # a layout that cannot be cut by lines, such as one { } over all
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
    both = rf"^{re.escape(begin)}\r?\n.*?^{re.escape(end)}[ \t]*(?:\r?\n|\Z)"
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
    keys = [key for key, _ in root.value] if isinstance(root, yaml.MappingNode) and not root.flow_style else []
    starts = [key.start_mark.index for key in keys]
    blocks: list[tuple[str | None, str]] = [(None, front[: starts[0]])] if starts else []
    for key, start, stop in zip(keys, starts, [*starts, len(front)][1:], strict=True):
        lines = front[start:stop].splitlines(keepends=True)
        own = len(lines)
        while own and (not lines[own - 1].strip() or lines[own - 1].startswith("#")):
            own -= 1
        blocks += [(key.value, "".join(lines[:own])), (None, "".join(lines[own:]))]
    return [(key, lines if lines.endswith("\n") else lines + "\n") for key, lines in blocks if lines]


def _dumped(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=10_000)
