"""Let a model judge the answers of two students, in both orders.

Each answer gets a score from 1 to 10, and each pair is judged twice, with either answer first. As
in Superfiltering (arXiv 2402.00530, section 4.2), an answer wins that has the higher score in both
orders, or in one with a tie in the other; orders that disagree, or two ties, are a tie. The win
score is 1 + (wins - losses) / N: above 1 the first student is better.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..checks import is_count, plain_number
from ..errors import SuperfilterError, WrongTypeError
from ..models.served.openai_chat import Reply
from ..models.served.openai_client import check_endpoint
from ..models.served.questions import BYTES_PER_TOKEN, Server
from ..runs.store import Store

logger = logging.getLogger(__name__)
FILE = "judgements.jsonl"
REPLY_TOKENS = 64  # enough for a judge that does not think before it scores
SIMILAR = 1.25  # answers whose lengths have at most this ratio count as equally long
QUESTION = """\
Two assistants answered the same request. Judge how helpful, correct and complete each answer is.

Request:
{prompt}

Answer 1:
{first}

Answer 2:
{second}

Write one line with two whole numbers from 1 to 10, the score of answer 1 and the score of answer 2,
with a space between them, and nothing else."""
SCORE = r"(?<![-.\d])(10(?:\.0+)?|[1-9](?:\.\d+)?)"  # -8, .5 and 10.5 are none
# No slash between them: "8/10" is one score of ten.
SCORES = re.compile(rf"^\W*{SCORE}\s*[,; ]\s*{SCORE}\W*$")


@dataclass(frozen=True, repr=False, eq=False)
class Judgement:
    """Hold what a judge said of two students' answers.

    Attributes:
        students: their names, the first one's score first.
        outcomes: (n,) 1 the first won, 0 tie, -1 it lost, nan where a reply could not be read.
        orders_agree: share of pairs whose two orders name the same winner, or both a tie.
        first_place: mean score of the answer shown first, less that of the one shown second.
        longer_wins: share of decided pairs of unequal length whose longer answer won.
        at_equal_length: the win score over pairs of similar length, and how many they are.
        file: the raw replies, one JSON object a line.
        cut: (n,) bool, pairs whose scores are not known because a reply was cut.
        reply_tokens: at which it was cut.
    """

    students: tuple[str, str]
    outcomes: np.ndarray
    orders_agree: float | None
    first_place: float | None
    longer_wins: float | None
    at_equal_length: tuple[float | None, int]
    file: Path
    cut: np.ndarray
    reply_tokens: int

    @property
    def wins(self) -> int:
        """How often the first student won."""
        return int((self.outcomes == 1).sum())

    @property
    def ties(self) -> int:
        """How often neither won."""
        return int((self.outcomes == 0).sum())

    @property
    def losses(self) -> int:
        """How often the first student lost."""
        return int((self.outcomes == -1).sum())

    @property
    def unreadable(self) -> int:
        """How many pairs have a reply that is not two scores."""
        return int(np.isnan(self.outcomes).sum())

    @property
    def win_score(self) -> tuple[float, float, float]:
        """Return 1 + (wins - losses) / N, and its 95% interval over prompts (Student's t).

        A win score lies between 0 and 2, and so does its interval.

        Where all pairs came out alike, Student's interval has no width: then any other outcome has
        the share 1 - 0.025^(1/N) at most (Clopper and Pearson, Biometrika 26, 1934).
        """
        from scipy import stats

        read = self.outcomes[~np.isnan(self.outcomes)]
        if len(read) < 2:
            raise SuperfilterError(
                f"{len(read)} of {len(self.outcomes)} pairs could be read, and a win score needs 2 "
                f"at least: {self._remedy() or 'ask another judge, or give more prompts'}"
            )
        score = 1 + float(read.mean())
        if (read == read[0]).all():
            unseen = 1 - 0.025 ** (1 / len(read))
            return score, score - score * unseen, score + (2 - score) * unseen
        error = float(read.std(ddof=1)) / len(read) ** 0.5
        half = float(stats.t.ppf(0.975, len(read) - 1)) * error
        return score, max(0.0, score - half), min(2.0, score + half)

    def _win_score_text(self) -> str:
        if np.count_nonzero(~np.isnan(self.outcomes)) < 2:
            return "the win score is not known, too few pairs could be read"
        score, low, high = self.win_score
        return f"win score {score:.3f} ({low:.3f} to {high:.3f}); above 1 the first is better"

    def _remedy(self) -> str:
        """Say what to do about replies that were cut; "" where none was."""
        count = int(self.cut.sum())
        if not count:
            return ""
        return (
            f"replies on {count} of {len(self.cut)} pairs were cut at {self.reply_tokens:,} tokens "
            "before the scores: give more with max_reply_tokens, and only those are asked for again"
        )

    def __repr__(self) -> str:
        return f"Judgement({self.students[0]!r} against {self.students[1]!r}, {self.wins} wins)"

    def __str__(self) -> str:
        """Return all of it as text."""
        equal, pairs = self.at_equal_length
        lines = [
            f"{self.students[0]} against {self.students[1]}: {self._win_score_text()}",
            f"{self.wins} wins, {self.ties} ties, {self.losses} losses, {self.unreadable} pairs "
            "with a reply that is not two scores",
            f"both orders agree in {_share(self.orders_agree)} of pairs; the answer shown first "
            f"scores {_signed(self.first_place)} higher",
            f"the longer answer wins {_share(self.longer_wins)} of decided pairs; win score at "
            f"similar length {'not known' if equal is None else f'{equal:.3f}'} ({pairs} pairs)",
            f"raw replies: {self.file}",
        ]
        if self._remedy():
            lines.insert(2, self._remedy())
        return "\n".join(lines) + "\n"


def judge(
    students: Mapping[str, "str | Path | Sequence[str]"],
    prompts: Sequence[str],
    *,
    endpoint: str,
    model: str,
    folder: str | Path,
    max_new_tokens: int = 256,
    max_reply_tokens: int = 8_192,
) -> Judgement:
    """Let a model judge the answers of two students to prompts, in both orders.

    Nothing is sent before this is called; how much will be is logged first. Replies are kept in
    `judgements.jsonl` as they come, and none is asked for twice. The key is read from
    OPENAI_API_KEY, and goes only to the server that it belongs to.

    Args:
        students: two, by name: a model (a folder that `StudentSettings(keep=True)` left, say), or
            its answers.
        prompts: n texts, rows held out.
        endpoint: of a server that speaks OpenAI's protocol, `http://localhost:8000/v1`.
        model: the judge's name there.
        folder: for the replies.
        max_new_tokens: of an answer that a student writes.
        max_reply_tokens: of a reply that is not complete after 64, because the judge thinks before
            it scores.

    Raises:
        SuperfilterError: not two students, no prompts, or answers of another number.
        ConnectionError: the server cannot be reached; replies so far are kept.

    Example:
        >>> from hf_superfilter import judge
        >>> judge({"a": ["yes"]}, ["Is it?"], endpoint="http://localhost/v1", model="m", folder="x")
        Traceback (most recent call last):
        ...
        hf_superfilter.errors.SuperfilterError: students=['a']: give two by name, ...
    """
    if not isinstance(students, Mapping) or len(students) != 2:
        raise SuperfilterError(
            f"students={_names_of(students)}: give two by name, each a model or its answers"
        )
    _check_prompts(prompts)
    if not isinstance(model, str) or not model:
        raise SuperfilterError(f"model={model!r}: give the judge's name on the server")
    if not isinstance(folder, (str, Path)):
        raise SuperfilterError(f"folder={folder!r}: name a folder for the replies")
    max_new_tokens, max_reply_tokens = map(plain_number, (max_new_tokens, max_reply_tokens))
    for setting, value in (
        ("max_new_tokens", max_new_tokens), ("max_reply_tokens", max_reply_tokens),
    ):  # fmt: skip
        if not is_count(value):
            raise SuperfilterError(f"{setting}={value!r}: give a number, at least 1")
    store = Store(folder)
    if not store.exclusive:
        raise SuperfilterError(f"folder={folder!r}: replies are kept in a local folder, name one")
    store.check_folder()
    server = Server(check_endpoint(endpoint), model)
    answers = [
        _answers(name, student, prompts, max_new_tokens) for name, student in students.items()
    ]
    questions = _questions(prompts, *answers)
    file = Path(folder) / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    keys = [_key(model, question) for question in questions]
    replies = _read_replies(file)
    # Two equal answers make one question of both orders.
    numbers = {key: number for number, key in enumerate(keys)}
    missing = [
        number
        for key, number in numbers.items()
        if key not in replies or _was_cut(replies[key], max_reply_tokens)
    ]
    _warn_elsewhere([replies[key] for key in numbers if key in replies], server.endpoint)
    _log_cost([questions[number] for number in missing], len(questions), endpoint, max_reply_tokens)

    def keep(place: int, reply: Reply) -> None:
        number = missing[place]
        row, order = divmod(number, 2)
        cut_at = max_reply_tokens if reply.is_cut and scores_in(reply.text) is None else None
        entry = {
            "key": keys[number], "row": row, "order": order, "judge": model,
            "endpoint": server.endpoint, "reply": reply.text, "cut_at": cut_at,
        }  # fmt: skip
        store.append(FILE, json.dumps(entry, ensure_ascii=False))
        replies[keys[number]] = KeptReply(reply.text, cut_at, server.endpoint)

    limits = sorted({min(REPLY_TOKENS, max_reply_tokens), max_reply_tokens})
    server.write([questions[number] for number in missing], limits, _is_complete, keep)
    return _judgement(
        tuple(students), answers, [replies[key] for key in keys], file, max_reply_tokens
    )


class KeptReply(NamedTuple):
    """Hold a reply of the file.

    Attributes:
        text: what the judge wrote, without its thoughts.
        cut_at: the tokens after which it was cut before any scores; None where it was not.
        endpoint: of the server that gave it; "" where that is not recorded.
    """

    text: str
    cut_at: int | None
    endpoint: str


def _was_cut(reply: KeptReply, max_reply_tokens: int) -> bool:
    """Tell whether a reply was cut and may now be longer."""
    return reply.cut_at is not None and reply.cut_at < max_reply_tokens


def _is_complete(text: str) -> bool:
    return scores_in(text) is not None


def _names_of(students: Any) -> Any:
    return list(students) if isinstance(students, Mapping) else type(students).__name__


def _check_prompts(prompts: Any) -> None:
    if isinstance(prompts, (str, Mapping)) or not isinstance(prompts, Sequence):
        raise WrongTypeError(f"prompts is of type {type(prompts).__name__}: give a list of texts")
    if not len(prompts):
        raise SuperfilterError("prompts=[]: there is nothing to answer, give one at least")
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise WrongTypeError(
                f"prompts[{number}] is of type {type(prompt).__name__}: give a text, of a chat "
                "what its template makes of it"
            )


def _answers(name: str, student: Any, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
    if isinstance(student, (str, Path)):
        from ..models.generation import generate

        return generate(str(student), prompts, max_new_tokens=max_new_tokens)
    is_list = isinstance(student, Sequence)
    if (
        not is_list
        or len(student) != len(prompts)
        or not all(isinstance(text, str) for text in student)
    ):
        raise SuperfilterError(
            f"students[{name!r}]: give a model, or one answer as text for each of the "
            f"{len(prompts)} prompts"
        )
    return list(student)


def _questions(prompts: Sequence[str], one: list[str], other: list[str]) -> list[str]:
    """Return two questions a prompt: with the first student's answer first, and second."""
    questions = []
    for prompt, mine, theirs in zip(prompts, one, other, strict=True):
        for first, second in ((mine, theirs), (theirs, mine)):
            questions.append(QUESTION.format(prompt=prompt.strip(), first=first, second=second))
    return questions


def _key(model: str, question: str) -> str:
    return hashlib.sha256(f"{model}\0{question}".encode()).hexdigest()[:16]


def _read_replies(file: Path) -> dict[str, KeptReply]:
    """Read the replies of earlier calls; a line that is no reply, or cut short, is left out."""
    replies: dict[str, KeptReply] = {}
    if not file.is_file():
        return replies
    text = file.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        with file.open("a", encoding="utf-8") as lines:
            lines.write("\n")  # so that the next reply begins a line of its own
    for line in text.split("\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        fields = entry if isinstance(entry, dict) else {}
        key, reply, cut_at = fields.get("key"), fields.get("reply"), fields.get("cut_at")
        if isinstance(key, str) and isinstance(reply, str):
            cut_at = cut_at if is_count(cut_at) else None
            replies[key] = KeptReply(reply, cut_at, str(fields.get("endpoint") or ""))
    return replies


def _warn_elsewhere(kept: Sequence[KeptReply], endpoint: str) -> None:
    """Say which replies another server gave: many take any name for the one model they have."""
    others = [reply.endpoint for reply in kept if reply.endpoint not in ("", endpoint)]
    if others:
        logger.warning(
            "judge: %d of the replies were given at %s and not at %s: take another folder if "
            "another model answers here",
            len(others), ", ".join(sorted(set(others))), endpoint,
        )  # fmt: skip


def _log_cost(questions: Sequence[str], total: int, endpoint: str, max_reply_tokens: int) -> None:
    tokens, count = sum(len(question.encode()) for question in questions), len(questions)
    logger.info(
        "judge: %d of %d questions to ask at %s: about %s tokens to read, at most %s to write (%s "
        "by a judge that thinks before it scores)",
        count, total, endpoint, f"{tokens // BYTES_PER_TOKEN:,}", f"{count * REPLY_TOKENS:,}",
        f"{count * max_reply_tokens:,}",
    )  # fmt: skip


def scores_in(reply: str) -> tuple[float, float] | None:
    """Read two scores from the first line of a reply; None where it is anything else.

    Example:
        >>> scores_in("8 6"), scores_in("7, 7.5"), scores_in("8/10")
        ((8.0, 6.0), (7.0, 7.5), None)
    """
    line = reply.strip().split("\n")[0]
    match = SCORES.match(line)
    if match is None:
        return None
    return float(match[1]), float(match[2])


def _judgement(
    students: tuple[str, ...],
    answers: list[list[str]],
    replies: list[KeptReply],
    file: Path,
    reply_tokens: int,
) -> Judgement:
    """Turn 2n replies into outcomes."""
    scores = [scores_in(reply.text) for reply in replies]
    pairs = list(zip(scores[::2], scores[1::2], strict=True))
    was_cut = np.array([reply.cut_at is not None for reply in replies], dtype=bool)
    leads = np.full((len(pairs), 2), np.nan)  # sign of the first student's lead in each order
    shown_first = []
    for row, (straight, reverse) in enumerate(pairs):
        if straight is None or reverse is None:
            continue
        leads[row] = np.sign(straight[0] - straight[1]), np.sign(reverse[1] - reverse[0])
        shown_first += [straight[0] - straight[1], reverse[0] - reverse[1]]
    outcomes = np.sign(leads.sum(axis=1))
    read = ~np.isnan(outcomes)
    lengths = np.array([[len(text) for text in texts] for texts in answers], dtype=float)
    decided = read & (outcomes != 0) & (lengths[0] != lengths[1])
    longer = np.sign(lengths[0] - lengths[1]) == outcomes
    ratio = (lengths.max(axis=0) + 1) / (lengths.min(axis=0) + 1)
    similar = read & (ratio <= SIMILAR)
    return Judgement(
        students=(students[0], students[1]),
        outcomes=outcomes,
        orders_agree=_mean(leads[read, 0] == leads[read, 1]),
        first_place=_mean(np.array(shown_first)),
        longer_wins=_mean(longer[decided]),
        at_equal_length=(
            1 + float(outcomes[similar].mean()) if similar.any() else None,
            int(similar.sum()),
        ),
        file=file,
        cut=was_cut[::2] | was_cut[1::2],
        reply_tokens=reply_tokens,
    )


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _share(value: float | None) -> str:
    return "an unknown share" if value is None else f"{value:.0%}"


def _signed(value: float | None) -> str:
    return "an unknown amount" if value is None else f"{value:+.2f}"
