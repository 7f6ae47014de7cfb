"""Qualify a verdict: amounts, lengths, other rows and figures, and what would show more."""

from collections.abc import Iterable, Mapping, Sequence

from .differences import BETTER, SAME, WORSE, Difference
from .figures import FIGURES

FEW_DRAWS = 5  # with fewer, how much draws differ is hardly known


def notes_on_sets(
    compared: Sequence[Difference], names: Iterable[str], equals: Mapping[str, str]
) -> list[str]:
    """Say by how much an arm is better or worse on each set, at equal rows and tokens."""
    notes = []
    for name in names:
        parts = [
            f"{_amount(one)} at {equals[one.against]}" for one in compared if one.rows_of == name
        ]
        if parts:
            notes.append(f"on {name}: {', '.join(parts)}")
    return notes


def _amount(one: Difference) -> str:
    return one.verdict if one.word == SAME else f"{abs(one.value):.3f} {one.word}"


def notes_on_power(halves: Sequence[Difference]) -> list[str]:
    """Say which difference would have been seen, and what would make a smaller one seen."""
    one = max(halves, key=lambda half: half.smallest)
    seen = f"a difference of {one.smallest:.3f} would have been seen in 80 of 100 cases"
    rows = one.shares.get("rows", 0.0)
    draws = one.shares.get("draw", 0.0) + one.shares.get("draws", 0.0)
    if one.draws < FEW_DRAWS:
        more = f"take more than {one.draws} draws, by which one knows how much draws differ"
    elif rows > draws:
        more = f"hold out more rows, which make {rows:.0%} of the variance"
    else:
        more = (
            f"select more rows, since {draws:.0%} of the variance is that one draw of as many "
            "differs from another"
        )
    return [f"{seen}; to see a smaller one {more}"]


def notes_on_length(lengths: Difference | None, word: str, equals: Mapping[str, str]) -> list[str]:
    """Tell a score from a length, by random rows of equal lengths."""
    if lengths is None:
        return []
    held = equals[lengths.against]
    if held != "equal lengths":
        return [f"not compared with random rows of equal lengths: those have {held}"]
    if lengths.word == BETTER:
        return [
            f"more than its length: {-lengths.value:.3f} nats better than random rows of equal "
            "lengths"
        ]
    if lengths.word == WORSE:
        return [f"{lengths.value:.3f} nats worse than random rows of equal lengths"]
    if word == BETTER:
        return [
            "no more than its length: no difference seen to random rows of equal lengths (below "
            f"{lengths.smallest:.3f})"
        ]
    return [
        f"no difference seen to random rows of equal lengths (below {lengths.smallest:.3f})",
    ]


def notes_on_figures(others: Sequence[Difference], held_out: str) -> list[str]:
    """Say which other figures differ, whatever the primary one says."""
    notes = []
    for figure in FIGURES:
        seen = [
            one
            for one in others
            if one.figure == figure and one.rows_of == held_out and one.word != SAME
        ]
        if seen:
            parts = [f"{one.word} than {one.against} by {abs(one.value):.3f}" for one in seen]
            notes.append(f"{figure}: {', '.join(parts)}")
    return notes
