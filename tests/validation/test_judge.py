"""A judge hears both orders, and what it says of places and lengths is printed."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from scipy import stats

from hf_superfilter import SuperfilterError, judge
from hf_superfilter.validation.judge import FILE, scores_in

pytest.importorskip("openai", reason="asking a judge needs OpenAI's client")
PROMPTS = [f"Request {number}\n" for number in range(6)]


def plain(body, reply):
    """Reply as a model does that does not think before."""
    return 200, {"choices": [{"message": {"content": reply}}]}


class JudgeServer:
    """Replies to every question with what `opinion(answer 1, answer 2)` returns, as `model` does.

    A model gets the body of a request and the reply, and returns a status and an answer.
    """

    def __init__(self, opinion, model=plain):
        self.opinion, self.model, self.questions, self.bodies = opinion, model, [], []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                question = body["messages"][0]["content"]
                server.questions.append(question)
                server.bodies.append(body)
                first = question.split("Answer 1:\n")[1].split("\n\nAnswer 2:\n")
                second = first[1].split("\n\nWrite one line")[0]
                reply = server.opinion(first[0], second)
                status, answer = server.model(body, reply)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        options = {"poll_interval": 0.01}
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs=options, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def asked(opinion, students, folder, prompts=PROMPTS, **options):
    with JudgeServer(opinion) as server:
        result = judge(
            students, prompts, endpoint=server.url, model="judge", folder=folder, **options
        )
    return result, server.questions


def points(answer):
    return int(answer.split()[-1])


def by_points(first, second):
    return f"{points(first)} {points(second)}"


ANSWERS = {
    "a": ["says 9", "says 9", "says 9", "says 5", "says 2", "says 7"],
    "b": ["says 3", "says 3", "says 3", "says 5", "says 8", "says 6"],
}


def test_the_win_score_is_one_plus_wins_less_losses_over_all_with_its_interval(tmp_path):
    result, questions = asked(by_points, ANSWERS, tmp_path)
    assert (result.wins, result.ties, result.losses, result.unreadable) == (4, 1, 1, 0)
    outcomes = np.array([1, 1, 1, 0, -1, 1])
    score, low, high = result.win_score
    assert score == pytest.approx(1 + 3 / 6)
    half = 2.5706 * outcomes.std(ddof=1) / np.sqrt(6)
    assert (low, high) == (
        pytest.approx(score - half, rel=1e-4),
        pytest.approx(min(score + half, 2), rel=1e-4),
    )
    assert len(questions) == 11, "equal answers are asked about once"
    assert result.orders_agree == 1.0
    assert "win score 1.500" in str(result)


def test_a_judge_that_likes_the_first_place_makes_ties_and_is_told_apart(tmp_path):
    result, _ = asked(lambda first, second: "9 4", ANSWERS, tmp_path)
    assert (result.wins, result.ties, result.losses) == (0, 6, 0)
    assert result.orders_agree == 0.0 and result.first_place == 5.0


def test_a_win_with_a_tie_in_the_other_order_is_a_win(tmp_path):
    def opinion(first, second):
        return "6 6" if first == "mine" else "4 8"

    result, _ = asked(opinion, {"a": ["mine"] * 2, "b": ["yours"] * 2}, tmp_path, PROMPTS[:2])
    assert result.wins == 2 and result.orders_agree == 0.0


def test_a_judge_that_likes_length_is_seen_and_equal_lengths_are_counted_apart(tmp_path):
    students = {
        "a": ["x" * 50, "x" * 50, "x" * 10, "x" * 20],
        "b": ["y" * 9, "y" * 9, "y" * 40, "y" * 20],
    }

    def opinion(first, second):
        return f"{min(9, len(first) // 5 + 1)} {min(9, len(second) // 5 + 1)}"

    result, _ = asked(opinion, students, tmp_path, PROMPTS[:4])
    assert result.longer_wins == 1.0
    assert result.at_equal_length == (1.0, 1)


def test_replies_that_are_not_two_scores_are_counted_apart(tmp_path):
    def opinion(first, second):
        return "Answer 1 is much better!" if "9" in first + second else by_points(first, second)

    result, _ = asked(opinion, ANSWERS, tmp_path)
    assert result.unreadable == 3 and result.wins + result.ties + result.losses == 3


def test_replies_are_kept_and_none_is_asked_for_twice(tmp_path):
    first, questions = asked(by_points, ANSWERS, tmp_path)
    lines = (tmp_path / FILE).read_text().splitlines()
    assert len(lines) == 11 and {"row", "order", "reply", "judge"} <= set(json.loads(lines[0]))
    kept = "\n".join(lines[:7]) + "\n" + lines[7][:10]  # a kill in the middle of a line
    (tmp_path / FILE).write_text(kept)
    again, asked_again = asked(by_points, ANSWERS, tmp_path)
    assert len(questions) == 11 and len(asked_again) == 4
    assert again.win_score == first.win_score
    _, nothing = asked(by_points, ANSWERS, tmp_path)
    assert nothing == []


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ("8 6", (8, 6)),
        ("**10, 7.5**\nThe first is better.", (10, 7.5)),
        ("- 8; 6", (8, 6)),
        ("8/10", None),
        ("8/10\n6/10", None),
        ("-8 6", None),
        ("8 -6", None),
        ("10.5 6", None),
        ("11 6", None),
        ("0 6", None),
        ("8 6 7", None),
        ("", None),
    ],
)
def test_only_two_scores_from_1_to_10_are_read(reply, scores):
    assert scores_in(reply) == scores


def test_pairs_that_all_come_out_alike_have_an_interval_of_some_width(tmp_path):
    students = {"a": [f"says {n} 9" for n in range(6)], "b": [f"says {n} 2" for n in range(6)]}
    won, _ = asked(by_points, students, tmp_path / "won")
    # P(no other outcome in 6 pairs) = 0.975 where the others' share is scipy's one-sided bound.
    bound = stats.binomtest(0, 6).proportion_ci(0.95, method="exact").high
    assert won.win_score == pytest.approx((2, 2 - 2 * bound, 2))
    tied, _ = asked(lambda first, second: "5 5", students, tmp_path / "tied")
    assert tied.win_score == pytest.approx((1, 1 - bound, 1 + bound))
    assert tied.win_score[1] < 1 < tied.win_score[2]


def test_a_win_score_has_no_interval_beyond_what_it_can_be(tmp_path):
    mine, theirs = ["9"] * 9 + ["5"], ["2"] * 9 + ["5"]
    students = {"a": [f"says {n} {p}" for n, p in enumerate(mine)],
                "b": [f"says {n} {p}" for n, p in enumerate(theirs)]}  # fmt: skip
    prompts = [f"Prompt {n}" for n in range(10)]
    won, _ = asked(by_points, students, tmp_path / "won", prompts)
    lost, _ = asked(by_points, dict(zip("ab", reversed(students.values()), strict=True)),
                    tmp_path / "lost", prompts)  # fmt: skip
    half = stats.t.ppf(0.975, 9) * np.array([1] * 9 + [0]).std(ddof=1) / np.sqrt(10)
    assert won.win_score == pytest.approx((1.9, 1.9 - half, 2))
    assert lost.win_score == pytest.approx((0.1, 0, 0.1 + half))


def test_replies_of_another_server_are_said(tmp_path, caplog):
    """Servers of one model take any name for it, such as "default"."""
    asked(by_points, ANSWERS, tmp_path)
    assert "another model answers" not in caplog.text
    result, questions = asked(by_points, ANSWERS, tmp_path)
    assert not questions and result.wins == 4
    assert re.search(r"11 of the replies were given at http://127.0.0.1:\d+/v1 and", caplog.text)


def test_lines_that_are_no_replies_are_left_out(tmp_path):
    (tmp_path / FILE).write_text('null\n5\n{"key": 3}\n{"key": "x", "reply": null}\n[1]\n')
    result, questions = asked(by_points, ANSWERS, tmp_path)
    assert result.wins == 4 and len(questions) == 11


def test_students_write_their_answers_themselves(weak, tmp_path, caplog):
    caplog.set_level("INFO", logger="hf_superfilter")
    with JudgeServer(lambda first, second: "5 5") as server:
        result = judge(
            {"weak": weak, "silent": [""] * 2},
            PROMPTS[:2],
            endpoint=server.url,
            model="judge",
            folder=tmp_path,
            max_new_tokens=5,
        )
    assert result.ties == 2
    assert "4 of 4 questions to ask" in caplog.text and "tokens to read" in caplog.text


@pytest.mark.parametrize(
    ("students", "prompts", "reason"),
    [
        ({"a": ["x"]}, ["p"], "give two by name"),
        ({"a": ["x"], "b": ["y"]}, [], "nothing to answer"),
        ({"a": ["x", "z"], "b": ["y"]}, ["p"], "one answer as text"),
        ({"a": None, "b": ["y"]}, ["p"], "one answer as text"),
        ([["x"], ["y"]], ["p"], "students=list: give two by name"),
        ({"a": ["x"], "b": ["y"]}, "p", "prompts is of type str"),
        ({"a": ["x"], "b": ["y"]}, None, "prompts is of type NoneType"),
        ({"a": ["x"], "b": ["y"]}, [["p"]], "prompts.0. is of type list"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_is_sent(
    students, prompts, reason, tmp_path
):
    with pytest.raises(SuperfilterError, match=reason):
        judge(students, prompts, endpoint="http://127.0.0.1:9/v1", model="m", folder=tmp_path)
    assert not (tmp_path / FILE).exists()


# Models that think, and models that take other parameters


THOUGHT = "Answer 1 is right. 5 5 would be fair, but" + " hmm" * 300


def replies(content, reasoning="", field="reasoning_content", reason="stop"):
    message = {"content": content, field: reasoning or None}
    return 200, {"choices": [{"message": message, "finish_reason": reason}]}


def has_room(body):
    return (body.get("max_tokens") or body["max_completion_tokens"]) >= 300


def thinks_in_marks(body, reply):
    """As vLLM, SGLang and llama.cpp serve a thinking model without a parser of its thoughts."""
    text = f"<think>\n{THOUGHT}\n</think>\n\n{reply}"
    return replies(text) if has_room(body) else replies(text[:200], reason="length")


def thinks_behind_the_mark(body, reply):
    """As the same where the chat template writes the opening mark (DeepSeek R1, QwQ)."""
    text = f"{THOUGHT}\n</think>\n\n{reply}"
    return replies(text) if has_room(body) else replies(text[:200], reason="length")


def thinks_apart(field):
    """As the same with a parser: `reasoning_content`, or `reasoning` since vLLM 0.11."""

    def model(body, reply):
        if has_room(body):
            return replies(reply, THOUGHT, field)
        return replies(None, THOUGHT[:200], field, reason="length")

    return model


def thinks_in_parts(body, reply):
    """As Mistral's API gives a content of parts."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}
    if has_room(body):
        return replies([thought, {"type": "text", "text": reply}])
    return replies([thought], reason="length")


def answers_in_thoughts(body, reply):
    """As servers do that are told the model does not think, and parse thoughts all the same."""
    return replies(None, reply)


def refusal(name, message):
    error = {"message": message, "type": "invalid_request_error", "param": name}
    return 400, {"error": error}


def thinks_in_secret(body, reply):
    """As OpenAI's o-series and GPT-5: two parameters are refused, thoughts are not shown."""
    if "max_tokens" in body:
        return refusal(
            "max_tokens",
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
        )
    if body.get("temperature", 1) != 1:
        return refusal(
            "temperature",
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default "
            "(1) value is supported.",
        )
    return replies(reply) if has_room(body) else replies("", reason="length")


def refuses_small_limits(body, reply):
    """As OpenAI's do where thoughts take all the tokens."""
    if not has_room(body):
        return refusal(
            None,
            "Could not finish the message because max_tokens or model output limit was reached. "
            "Please try again with higher max_tokens.",
        )
    return replies(reply)


MODELS = {
    "marks": thinks_in_marks,
    "closing mark alone": thinks_behind_the_mark,
    "reasoning_content": thinks_apart("reasoning_content"),
    "reasoning": thinks_apart("reasoning"),
    "parts": thinks_in_parts,
    "all is thought": answers_in_thoughts,
    "other parameters": thinks_in_secret,
    "small limits refused": refuses_small_limits,
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_judge_that_thinks_before_it_scores_is_read_as_one_that_does_not(model, tmp_path):
    with JudgeServer(by_points, model) as server:
        result = judge(ANSWERS, PROMPTS, endpoint=server.url, model="judge", folder=tmp_path)
    assert (result.wins, result.ties, result.losses, result.unreadable) == (4, 1, 1, 0)
    assert not result.cut.any() and "cut" not in str(result)


def test_what_a_model_takes_is_learned_from_its_refusals_and_kept(tmp_path):
    with JudgeServer(by_points, thinks_in_secret) as server:
        judge(ANSWERS, PROMPTS, endpoint=server.url, model="judge", folder=tmp_path / "first")
        before = len(server.bodies)
        judge(ANSWERS, PROMPTS, endpoint=server.url, model="judge", folder=tmp_path / "second")
    for body in server.bodies[before:]:
        assert "max_completion_tokens" in body and not {"max_tokens", "temperature"} & set(body)


def test_a_reply_that_is_cut_after_the_scores_is_complete(tmp_path):
    def explains(body, reply):
        return replies(f"{reply}\nBecause it is shorter, and", reason="length")

    with JudgeServer(by_points, explains) as server:
        result = judge(ANSWERS, PROMPTS, endpoint=server.url, model="judge", folder=tmp_path)
    assert result.wins == 4 and len(server.bodies) == 11


def test_replies_that_are_cut_are_said_as_such_and_asked_for_again_with_more_tokens(tmp_path):
    with JudgeServer(by_points, thinks_apart("reasoning")) as server:
        options = {"endpoint": server.url, "model": "judge", "folder": tmp_path}
        cut = judge(ANSWERS, PROMPTS, max_reply_tokens=200, **options)
        assert cut.unreadable == cut.cut.sum() == 6
        sentence = "replies on 6 of 6 pairs were cut at 200 tokens before the scores: give more"
        assert sentence in str(cut) and "the win score is not known" in str(cut)
        with pytest.raises(SuperfilterError, match="cut at 200 tokens"):
            cut.win_score  # noqa: B018
        before = len(server.bodies)
        judge(ANSWERS, PROMPTS, max_reply_tokens=200, **options)
        assert len(server.bodies) == before, "more would not come"
        assert judge(ANSWERS, PROMPTS, max_reply_tokens=400, **options).wins == 4


def test_a_longer_reply_that_the_server_refuses_is_said_to_be_too_long(tmp_path):
    def small_window(body, reply):
        if body.get("max_tokens", 0) > 4_000:
            return refusal(None, "max_tokens is too large: the window is 4096 tokens.")
        return thinks_in_marks(body, reply)

    with JudgeServer(by_points, small_window) as server:
        options = {"endpoint": server.url, "model": "judge", "folder": tmp_path}
        with pytest.raises(SuperfilterError, match=r"8,192 tokens, .* give fewer, max_reply_tok"):
            judge(ANSWERS, PROMPTS, **options)
        assert judge(ANSWERS, PROMPTS, max_reply_tokens=2_000, **options).wins == 4


def test_a_refusal_for_another_reason_is_reported_as_the_server_says_it(tmp_path):
    def small(body, reply):
        # vLLM's words where question and reply together do not fit into the model's window.
        return refusal(
            "max_tokens",
            "'max_tokens' or 'max_completion_tokens' is too large: 64. This model's maximum "
            "context length is 32 tokens and your request has 30 input tokens.",
        )

    with (
        JudgeServer(by_points, small) as server,
        pytest.raises(SuperfilterError, match="is too large: 64"),
    ):
        judge(ANSWERS, PROMPTS, endpoint=server.url, model="judge", folder=tmp_path)
