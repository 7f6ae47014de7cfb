"""Put the comparisons of a selection into one word and one sentence.

"Better than random" needs rows of equal tokens, no loss against as many rows, and no loss on the
target; "more than its length", the comparison with rows of equal lengths.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .arms import words_of
from .differences import BETTER, DEPENDS, SAME, WORSE, Difference, difference, holm
from .figures import FIGURES, PRIMARY, Measured
from .notes import notes_on_figures, notes_on_length, notes_on_power, notes_on_sets

MEANS = ("token mean", "row mean")
QUARTERS = ("quartile 1", "quartile 2", "quartile 3", "quartile 4")
HALVES = ("random", "random-tokens")  # equal rows, equal tokens
AS_MANY = {"random": "rows", "random-tokens": "tokens", "random-lengths": "lengths"}
EQUAL = [f"equal {held}" for held in AS_MANY.values()]
NEAR = 0.02  # rows or tokens that differ by a smaller part count as equal


@dataclass(frozen=True)
class Size:
    """Hold how much an arm trains on.

    Attributes:
        rows: their number, the mean over draws.
        tokens: response tokens.
    """

    rows: float
    tokens: float


@dataclass(frozen=True)
class Verdict:
    """Hold what the comparisons of one arm come to.

    Attributes:
        arm: the arm's name.
        word: better, worse, no difference seen, or depends.
        text: a sentence.
        notes: what qualifies it.
    """

    arm: str
    word: str
    text: str
    notes: tuple[str, ...] = ()


def secondary(arm: str, against: Sequence[str], sets: Mapping[str, Measured]) -> list[Difference]:
    """Compare an arm on every other figure, corrected as a family of their own."""
    family = [
        (name, figure, random)
        for name in sets
        for figure in FIGURES
        if figure != PRIMARY
        for random in against
    ]
    compared = [
        difference(arm, random, name, figure, sets[name], len(family))
        for name, figure, random in family
        if _has_rows(figure, sets[name][arm].ends.sum())
    ]
    return holm(compared)


def _has_rows(figure: str, ends: int) -> bool:
    return figure != "end of text" or ends > 0


def verdict_of(
    arm: str,
    primary: Sequence[Difference],
    others: Sequence[Difference],
    *,
    held_out: str,
    target: str | None,
    sizes: Mapping[str, Size] | None = None,
) -> Verdict:
    """Judge an arm by its pre-stated comparisons.

    Random arms are drawn for one selection: of an arm whose rows or tokens differ from theirs the
    verdict says so, and calls neither equal. So it does of the selection itself where it is so
    small that rows of equal tokens or lengths only come near it.

    Args:
        arm: its name.
        primary: its comparisons on the primary figure, corrected; all sets and random arms.
        others: those on the other figures, corrected.
        held_out: the name of the set that the rows were held out of.
        target: the name of the target set; None without one.
        sizes: of all arms by name; None takes all that are compared to be equal.
    """
    own = [one for one in primary if one.arm == arm]
    words = {one.against: one for one in own if one.rows_of == held_out}
    halves = [words[name] for name in HALVES if name in words] or list(words.values())
    compared = {one.against for one in halves}
    equals = {name: _held_equal(arm, name, sizes or {}) for name in words}
    doubts = _doubts(halves, own, others, held_out, equals)
    word, text = _headline(arm, halves, doubts, equals)
    notes = []
    if word == DEPENDS:
        notes += notes_on_sets(halves, [held_out], equals)
    if equals.get("random-tokens") != "equal tokens" and word == BETTER:
        notes.append("not compared with random rows of equal tokens, so length may be all of it")
    notes += notes_on_length(words.get("random-lengths"), word, equals)
    elsewhere = [one for one in own if one.rows_of != held_out and one.against in compared]
    notes += notes_on_sets(elsewhere, dict.fromkeys(one.rows_of for one in own), equals)
    if word == SAME:
        notes += notes_on_power(halves)
    notes += notes_on_figures(others, held_out)
    if target is None:
        measured = "the rows held out are of the same source"
        if not elsewhere:
            measured = "measured on rows of the same source alone"
        notes.append(
            f"{measured}, which favours random rows: give a target, rows of another source"
        )
    return Verdict(arm, word, text, tuple(notes))


def _held_equal(arm: str, against: str, sizes: Mapping[str, Size]) -> str:
    """Say what an arm and a random one have equal, or how much each of them has."""
    held = AS_MANY.get(against, against)
    if arm not in sizes or against not in sizes:
        return f"equal {held}"
    own, drawn = sizes[arm], sizes[against]
    if held != "tokens" and not _is_near(own.rows, drawn.rows):
        return f"{drawn.rows:,.0f} rows where it has {own.rows:,.0f}"
    if held != "rows" and not _is_near(own.tokens, drawn.tokens):
        return f"{drawn.tokens:,.0f} tokens where it has {own.tokens:,.0f}"
    return f"equal {held}"


def _is_near(value: float, other: float) -> bool:
    return abs(value - other) <= NEAR * other


def _headline(
    arm: str, halves: Sequence[Difference], doubts: list[str], equals: Mapping[str, str]
) -> tuple[str, str]:
    words = {one.word for one in halves}
    label = words_of(arm)
    if words == {SAME} and not doubts:
        smallest = max(one.smallest for one in halves)
        text = f"{label}: {SAME} to random rows (below {smallest:.3f} nats per token)"
        unequal = [equals[one.against] for one in halves if equals[one.against] not in EQUAL]
        return SAME, f"{text}, which have {' and '.join(unequal)}" if unequal else text
    if doubts:
        return DEPENDS, f"{label}: depends on {'; and on '.join(doubts)}"
    amounts = _amounts(halves, equals)
    if BETTER in words:
        return BETTER, f"{label}: better than random rows, by {amounts}"
    return WORSE, f"{label}: worse than random rows, random is better, by {amounts}"


def _amounts(halves: Sequence[Difference], equals: Mapping[str, str]) -> str:
    """Say how large the differences are that were seen, and where none was."""
    seen, unseen = [], []
    for one in halves:
        if one.word == SAME:
            unseen.append(f"{SAME} at {equals[one.against]} (below {one.smallest:.3f})")
        else:
            seen.append(f"{abs(one.value):.3f} nats per token at {equals[one.against]}")
    return "; ".join([" and ".join(seen), *unseen])


def _doubts(
    halves: Sequence[Difference],
    own: Sequence[Difference],
    others: Sequence[Difference],
    held_out: str,
    equals: Mapping[str, str],
) -> list[str]:
    """List what the answer depends on."""
    doubts = []
    by_name = {one.against: one.word for one in halves}
    words = set(by_name.values())
    if len(words) > 1 and not _is_clear(by_name):
        parts = [f"{equals[name]}: {word}" for name, word in by_name.items()]
        doubts.append(f"whether rows or tokens are held equal ({', '.join(parts)})")
    seen = words & {BETTER, WORSE}
    # Better than one random arm there and worse than another are two answers, not the later one.
    elsewhere = [
        (one.rows_of, one.word)
        for one in own
        if one.rows_of != held_out and one.against in by_name and one.word != SAME
    ]
    if any(word not in seen for _, word in elsewhere):
        parts = [f"{held_out}: {word}" for word in sorted(seen or {SAME})]
        parts += [f"{name}: {word}" for name, word in dict.fromkeys(elsewhere)]
        doubts.append(f"the rows it is measured on ({', '.join(parts)})")
    opposed = _opposed_figures(seen, others, held_out, set(by_name))
    if opposed:
        doubts.append(f"how losses are averaged ({', '.join(opposed)})")
    return doubts


def _is_clear(words: Mapping[str, str]) -> bool:
    """Tell whether two different words still make one: better at equal tokens, and not worse."""
    return words.get("random-tokens") == BETTER and words.get("random") == SAME


def _opposed_figures(
    seen: set[str], others: Sequence[Difference], held_out: str, against: set[str]
) -> list[str]:
    """Name the figures that contradict the primary one, or, where it sees nothing, each other."""
    figures = MEANS if seen else (*MEANS, *QUARTERS)
    relevant = [
        one
        for one in others
        if one.rows_of == held_out
        and one.figure in figures
        and one.against in against
        and one.word != SAME
    ]
    words = {one.word for one in relevant}
    if len(words - seen) != (1 if seen else 2) or len(seen) > 1:
        return []
    shown = [one for one in relevant if one.word not in seen]
    parts = [f"{PRIMARY}: {word}" for word in seen]
    return parts + list(dict.fromkeys(f"{one.figure}: {one.word}" for one in shown))
