"""Pick the best part of a data set with a small model: score, select, publish.

Public names are listed in `__init__.pyi`, where type checkers see
them, and load on first use (PEP 562).
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any


def _public_names() -> dict[str, str]:
    """Read the public names and their modules from the stub file."""
    stub = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    imports = [node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)]
    modules = {alias.name: str(node.module) for node in imports for alias in node.names}
    return dict(sorted(modules.items()))


_HOME = _public_names()
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name's module when the name is first used."""
    if name not in _HOME:
        from .errors import did_you_mean

        raise AttributeError(f"hf_superfilter has no {name!r}: {did_you_mean(name, _HOME)}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
