"""PromptMatch against losses computed one by one with transformers, and on rows mixed up."""

import json

import numpy as np
import pytest
from datasets import Dataset
from reference import token_losses

from hf_superfilter import PromptMatch, format_pairs, score
from hf_superfilter.scoring.prompt_match import _prompts_of_others

PROMPTS = ["Name a fruit.\n", "Say hello to me.\n", "Count to three.\n"]
RESPONSES = ["An apple is a fruit.", "Hello there, my friend.", "One, two and three."]


@pytest.fixture
def drawn(tmp_path) -> str:
    """A file of the three prompts."""
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(PROMPTS))
    return str(path)


@pytest.mark.parametrize("name", ["weak", "gpt2", "llama"])
def test_the_match_is_the_least_gain_over_the_other_prompts_computed_one_by_one(
    name, request, drawn
):
    folder = request.getfixturevalue(name)
    scorer = PromptMatch(folder, others=2, prompts=drawn, dtype="float32")
    columns = scorer({"prompt": PROMPTS, "response": RESPONSES})
    for row, response in enumerate(RESPONSES):
        own = token_losses(folder, PROMPTS[row], response)
        others = [
            token_losses(folder, prompt, response).mean()
            for prompt in PROMPTS
            if prompt != PROMPTS[row]
        ]
        assert columns["prompt_match"][row] == pytest.approx(min(others) - own.mean(), abs=2e-5)
        assert columns["prompt_match_tokens"][row] == len(own)
    assert columns["prompt_match_status"] == ["ok"] * 3


def test_a_chat_has_the_mean_over_the_tokens_of_all_its_turns(weak, drawn):
    scorer = PromptMatch(weak, prompts=drawn, dtype="float32", others=2)
    chat = scorer({"prompt": [PROMPTS[:2]], "response": [RESPONSES[:2]]})
    by_prompt = []
    # Each turn has its own two others, so the chat's are compared place by place.
    turns = list(zip(PROMPTS[:2], RESPONSES[:2], strict=True))
    for place in range(2):
        gains = []
        for prompt, response in turns:
            other = _prompts_of_others(PROMPTS, prompt, response, 2)[place]
            gains.append(token_losses(weak, other, response) - token_losses(weak, prompt, response))
        by_prompt.append(np.concatenate(gains).mean())
    assert chat["prompt_match"][0] == pytest.approx(min(by_prompt), abs=2e-5)


def test_the_prompts_of_its_own_chat_are_no_strangers_to_a_response(weak, tmp_path):
    answer = "Three quotes for the roof will be obtained by June, said the chair."
    asked = "What was decided?\n"
    related = [f"{asked}{answer}\nAnd then?\n", f"They said: {answer}\n"]
    strangers = ["Name a colour.\n", "Count to ten.\n"]
    written = tmp_path / "prompts.json"

    def match(*prompts):
        written.write_text(json.dumps(prompts))
        scorer = PromptMatch(weak, others=2, prompts=str(written), dtype="float32")
        return scorer({"prompt": [asked], "response": [answer]})["prompt_match"][0]

    own = token_losses(weak, asked, answer).mean()
    others = [token_losses(weak, stranger, answer).mean() for stranger in strangers]
    expected = pytest.approx(min(others) - own, abs=2e-5)
    assert match(related[0], strangers[0], related[1], strangers[1]) == expected
    # Where there are too few others they are taken too, and the answer is copied from them.
    assert match(*related, strangers[0]) < -1


def test_most_rows_with_a_response_of_another_fall_below_zero_and_most_sound_ones_do_not(
    sample, tmp_path
):
    pairs = format_pairs(sample.select(range(140)))
    good = [row for row in pairs if not row["planted"] and len(row["response"].split()) > 7][:60]
    prompts, responses = ([row[name] for row in good] for name in ("prompt", "response"))
    shifted = responses[30:] + responses[:30]
    table = Dataset.from_dict({"prompt": prompts * 2, "response": responses + shifted})
    matches = np.array(score(table, [PromptMatch("embedded:weak")], str(tmp_path))["prompt_match"])
    sound, mixed = matches[: len(good)], matches[len(good) :]
    assert (mixed > 0).mean() < 0.4, "by chance 1 in 4"
    assert (sound > 0).mean() > 0.6 and np.median(mixed) < 0 < np.median(sound)


def test_the_rows_around_a_row_and_the_size_of_a_batch_change_nothing(sample, tmp_path):
    pairs = format_pairs(sample.select(range(16)))
    scorer = PromptMatch("embedded:weak", dtype="float32", others=3).prepare(pairs, str(tmp_path))
    together = scorer(pairs[:])["prompt_match"]
    alone = [scorer(pairs[row : row + 1])["prompt_match"][0] for row in range(16)]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    mapped = pairs.map(scorer, batched=True, batch_size=7)
    np.testing.assert_allclose(mapped["prompt_match"][:], together, atol=1e-5)
    unprepared = PromptMatch("embedded:weak", dtype="float32", others=3)
    again = score(pairs, [unprepared], str(tmp_path / "run"))
    np.testing.assert_allclose(again["prompt_match"][:], together, atol=1e-5)


def test_what_cannot_be_compared_is_nan_with_its_reason(weak, drawn):
    rows = [
        ("Hi.\n", "Hello there, my friend."),
        ("Hi.\n", ""),
        ("", "Plain text without a prompt."),
        ("word " * 900, "Hello there."),
        ("Hi.\n", "many words in a row " * 400),
        (None, None),
    ]
    batch = {"prompt": [p for p, _ in rows], "response": [r for _, r in rows]}
    columns = PromptMatch(weak, others=2, prompts=drawn, max_length=64)(batch)
    assert columns["prompt_match_status"] == [
        "ok", "empty_response", "no_prompt", "prompt_too_long", "truncated", "empty_response"
    ]  # fmt: skip
    assert np.isfinite(columns["prompt_match"]).tolist() == [True, *[False] * 3, True, False]
    assert columns["prompt_match_tokens"].tolist()[1:4] == [0, 0, 0]


def test_a_prompt_that_leaves_a_response_no_room_is_not_compared_with(weak, tmp_path):
    long, short = "word " * 100, "Say hello to me.\n"
    batch = {"prompt": ["Hi.\n"], "response": ["Hello there, my friend."]}
    for name, prompts in (("both", [long, short]), ("short", [short]), ("long", [long])):
        (tmp_path / f"{name}.json").write_text(json.dumps(["Hi.\n", *prompts]))

    def match(name, others):
        return PromptMatch(
            weak, others=others, prompts=str(tmp_path / f"{name}.json"), max_length=64
        )(batch)

    assert match("both", 2)["prompt_match"][0] == match("short", 1)["prompt_match"][0]
    assert match("long", 1)["prompt_match_status"] == ["prompt_too_long"]


def test_the_prompts_drawn_are_different_ones_of_the_rows_and_not_the_longest(tmp_path):
    texts = [f"Question {number}?\n" for number in range(100)]
    texts += ["A long one? " * 200 + str(number) for number in range(5)]
    rows = Dataset.from_dict({"prompt": texts * 2, "response": ["Yes."] * 210})
    scorer = PromptMatch("embedded:weak").prepare(rows, str(tmp_path))
    prompts = json.loads((tmp_path / "prompts.json").read_text())
    assert len(set(prompts)) == 64 and set(prompts) <= set(texts[:100])
    assert scorer.identity()["prompts"].startswith("sha256:")


def test_rows_of_one_prompt_and_bad_counts_are_told(tmp_path):
    rows = Dataset.from_dict({"prompt": ["Same.\n"] * 9, "response": ["Yes, it is."] * 9})
    with pytest.raises(ValueError, match=r"others=1: the 9 rows .* have 1 different prompts"):
        PromptMatch("embedded:weak", others=1).prepare(rows, str(tmp_path))
    for others in (0, 17, 1.5, True):
        with pytest.raises(ValueError, match=rf"others={others}: .*from 1 to 16"):
            PromptMatch("embedded:weak", others=others)
    with pytest.raises(FileNotFoundError, match=r"no prompts 'x/y\.json': draw them"):
        PromptMatch("embedded:weak", others=1, prompts="x/y.json")(
            {"prompt": ["a"], "response": ["b"]}
        )
    (tmp_path / "two.json").write_text(json.dumps(PROMPTS[:2]))
    short = PromptMatch("embedded:weak", prompts=str(tmp_path / "two.json"), others=2)
    with pytest.raises(ValueError, match=r"others=2: .* holds 2 prompts"):
        short({"prompt": PROMPTS, "response": RESPONSES})
