"""Render the Jinja templates of reports and cards."""

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .words import format_number

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGE = Path(__file__).parent.parent
# What Markdown or HTML would read as markup; a single underscore inside a word is none.
_MARKUP = re.compile(r"[\\`*\[\]<>&|#~$!\"']|(?<![^\W_])_|_(?![^\W_])")


def render(template: str, /, **values: Any) -> str:
    """Fill the template `cards/<template>`.

    A name that is not given is an error, and data never becomes template. In `*.html.j2` text is
    escaped for HTML, in `*.md.j2` for Markdown (`as_markdown`), where the filter `fenced` makes a
    block of code of it and `safe` leaves it as it is.
    """
    return _environment(".md." in template).get_template(template).render(**values)


def as_markdown(text: str) -> str:
    """Escape a text for Markdown, in one line.

    It may stand in prose, in a table cell or in `<code>`.

    Example:
        >>> as_markdown("<b>two_words | {{ x }}</b>")
        '&#60;b&#62;two_words &#124; {{ x }}&#60;/b&#62;'
    """
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", " ".join(text.split()))


def fenced(text: str, language: str = "") -> str:
    """Fence a block of code for Markdown."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


@lru_cache(maxsize=2)
def _environment(markdown: bool) -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    # In a wheel the templates lie inside the package; an editable install sees them beside it.
    folders = [PACKAGE / "cards", PACKAGE.parent / "cards"]
    environment = Environment(
        loader=FileSystemLoader(folders),
        undefined=StrictUndefined,
        autoescape=True,  # so that what a macro returns counts as escaped
        keep_trailing_newline=True,
        trim_blocks=markdown,
        lstrip_blocks=markdown,
        finalize=_as_markdown_unless_safe if markdown else None,
    )
    environment.filters["number"] = format_number
    environment.filters["fenced"] = lambda text, language="": Markup(fenced(text, language))
    return environment


def _as_markdown_unless_safe(value: Any) -> Any:
    from markupsafe import Markup

    plain = isinstance(value, str) and not hasattr(value, "__html__")
    return Markup(as_markdown(value)) if plain else value
