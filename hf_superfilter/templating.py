"""Jinja templates of reports and cards: strict, escaped in HTML, found in the package or beside it."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGE = Path(__file__).parent


def render(name: str, **values: Any) -> str:
    """Fill the template `cards/<name>`; a name that is not given is an error, and data never becomes template."""
    return _environment().get_template(name).render(**values)


@lru_cache(maxsize=1)
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # In a wheel the templates lie inside the package; an editable install sees them beside it.
    folders = [PACKAGE / "cards", PACKAGE.parent / "cards"]
    return Environment(
        loader=FileSystemLoader(folders),
        undefined=StrictUndefined,
        autoescape=lambda name: bool(name) and ".html" in str(name),
        keep_trailing_newline=True,
    )
