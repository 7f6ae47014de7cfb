"""Write numbers, and describe steps, statuses and scores in words."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..selection.funnel import Step

MAX_PLAIN = 1e9  # numbers beyond are written with an exponent


def step_words(step: "Step") -> str:
    """Say in words what a selector of this package does; "" of any other.

    Example:
        >>> from hf_superfilter import Step, TopK
        >>> step_words(Step("TopK", 10, 2, entry=TopK("ifd", 2).entry()))
        'the rows with the largest ifd'
    """
    if step.entry is None:
        return ""
    name, settings = next(iter(step.entry.items()))
    describe = _DESCRIPTIONS.get(name)
    return "" if describe is None else describe(settings)


def status_words(status: str) -> str:
    """Say in words what a status of this package means; the status itself of any other.

    Example:
        >>> status_words("no_prompt"), status_words("my_own")
        ('there is no prompt', 'my_own')
    """
    return _STATUSES.get(status, status)


def score_format(scores: np.ndarray) -> str:
    """Return the format in which scores are read: whole numbers without decimals.

    Example:
        >>> score_format(np.array([1.0, 8736.0])).format(8736.0), score_format(np.array([0.25]))
        ('8,736', '{:.3f}')
    """
    finite = scores[np.isfinite(scores)]
    return "{:,.0f}" if len(finite) and (finite == np.round(finite)).all() else "{:.3f}"


def unit_of(scorer: dict[str, Any] | None) -> str | None:
    """Return the unit of a scorer's main column, from its entry in a run; None where not known.

    Example:
        >>> unit_of({"scorer": {"Length": {"unit": "tokens", "model": "gpt2"}}})
        'tokens'
    """
    if scorer is None:
        return None
    name, settings = next(iter(scorer["scorer"].items()))
    if name == "Length":
        return str(settings.get("unit", "characters"))
    return _UNITS.get(name)


def format_number(value: float | None, form: str = "{:,}") -> str:
    """Write a number; a huge one with an exponent, an unknown one as "not recorded".

    Example:
        >>> format_number(1234), format_number(0.5, "{:.1%}"), format_number(-1e308, "{:.3f}")
        ('1,234', '50.0%', '-1e+308')
        >>> format_number(None), format_number(float("inf"))
        ('not recorded', 'not recorded')
    """
    if value is None or not math.isfinite(value):
        return "not recorded"
    if abs(value) >= MAX_PLAIN and isinstance(value, float):
        return f"{value:.4g}"
    return form.format(value)


def _threshold(settings: dict[str, Any]) -> str:
    limits = [name for name in ("above", "below") if name in settings]
    column = settings["by"]
    if settings.get("percentiles"):
        column = f"the percentile of {column}"
    if len(limits) == 2:
        return f"rows with {column} between two limits"
    return f"rows with {column} {limits[0]} a limit"


def _top_k(settings: dict[str, Any]) -> str:
    return f"the rows with the {_end(settings)} {settings['by']}"


def _per_cluster(settings: dict[str, Any]) -> str:
    group = settings.get("group")
    parts = "each cluster" if group is None else f"each {group}"
    if settings.get("by") is None:
        return f"random rows of {parts}"
    return f"the rows with the {_end(settings)} {settings['by']} of {parts}"


def _end(settings: dict[str, Any]) -> str:
    return "largest" if settings.get("largest", True) else "smallest"


_DESCRIPTIONS = {
    "FacilityLocation": lambda settings: "the rows that cover the others best",
    "InversePropensity": lambda settings: "rows drawn at random, crowded ones less often",
    "PerCluster": _per_cluster,
    "Prototypes": lambda settings: "the rows least typical of their cluster",
    "RandomSample": lambda settings: "rows drawn at random",
    "SemDedup": lambda settings: "rows without near-duplicates",
    "Threshold": _threshold,
    "TopK": _top_k,
}
_UNITS = {
    "AskLLM": "probability",
    "IFD": "ratio of perplexities",
    "LearningPercentage": "share of what was learned",
}
_STATUSES = {
    "truncated": "cut at the longest length, and scored",
    "empty_response": "the response is empty",
    "empty_text": "the text is empty",
    "no_prompt": "there is no prompt",
    "no_embedding": "there is no vector",
    "too_short": "the response is too short",
    "prompt_too_long": "the prompt fills the model's window",
    "not_finite": "the model returned nan or infinity",
    "not_in_top": "the server did not return the answer's probability",
    "unchanged": "training changed nothing",
    "unreadable": "the row cannot be read",
}
