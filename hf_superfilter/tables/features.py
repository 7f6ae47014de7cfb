"""Look through nested features of a Dataset."""

from collections.abc import Callable
from typing import Any


def holds(feature: Any, check: Callable[[Any], bool]) -> bool:
    """Check whether a feature is of a kind, or has one of it inside of its structs and lists."""
    from datasets import LargeList, List

    if isinstance(feature, dict):
        return any(holds(part, check) for part in feature.values())
    if isinstance(feature, (List, LargeList)):
        return holds(feature.feature, check)
    return check(feature)
