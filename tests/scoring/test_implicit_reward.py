"""ImplicitReward against log-likelihoods summed token by token with transformers."""

import math

import numpy as np
import pytest
from reference import token_losses

from hf_superfilter import ImplicitReward, format_pairs
from hf_superfilter.data.sources import load_rows

PROMPT, CHOSEN, REJECTED = "Say hello.\n", "Hello there, my friend.", "Go away, please, at once."


def log_likelihood(folder, prompt, response):
    """The sum over the response's tokens; the prompt ends at a token's end."""
    return -token_losses(folder, prompt, response).sum()


def rewards(policy, reference, beta):
    return [
        beta * (log_likelihood(policy, PROMPT, text) - log_likelihood(reference, PROMPT, text))
        for text in (CHOSEN, REJECTED)
    ]


@pytest.fixture
def batch():
    return {"prompt": [PROMPT], "response": [CHOSEN], "response_rejected": [REJECTED]}


@pytest.mark.parametrize("beta", [0.1, 1])
def test_the_gap_is_that_of_log_likelihoods_summed_one_by_one(gpt2, weak, llama, batch, beta):
    for policy, reference in ((gpt2, weak), (llama, gpt2)):
        scorer = ImplicitReward(policy, reference=reference, beta=beta, dtype="float32")
        columns = scorer(batch)
        chosen, rejected = rewards(policy, reference, beta)
        assert columns["implicit_reward_chosen"][0] == pytest.approx(chosen, rel=1e-4)
        assert columns["implicit_reward_rejected"][0] == pytest.approx(rejected, rel=1e-4)
        assert columns["implicit_reward"][0] == pytest.approx(chosen - rejected, rel=1e-3)
        assert columns["implicit_reward_status"] == ["ok"]


def test_the_gap_turns_round_with_the_preference_and_with_the_models(gpt2, weak, batch):
    turned = {**batch, "response": [REJECTED], "response_rejected": [CHOSEN]}
    scorer = ImplicitReward(gpt2, reference=weak, dtype="float32")
    other = ImplicitReward(weak, reference=gpt2, dtype="float32")
    gap = scorer(batch)["implicit_reward"][0]
    assert scorer(turned)["implicit_reward"][0] == pytest.approx(-gap)
    assert other(batch)["implicit_reward"][0] == pytest.approx(-gap)


def test_a_missing_side_is_nan_with_its_reason(gpt2, weak):
    columns = ImplicitReward(gpt2, reference=weak)(
        {"prompt": [PROMPT] * 3, "response": [CHOSEN, "", CHOSEN],
         "response_rejected": [None, REJECTED, REJECTED]}
    )  # fmt: skip
    assert np.isnan(columns["implicit_reward"]).tolist() == [True, True, False]
    assert columns["implicit_reward_status"] == ["empty_response", "empty_response", "ok"]
    assert math.isfinite(columns["implicit_reward_chosen"][0])


def test_a_chat_sums_over_its_turns(gpt2, weak):
    prompts = [PROMPT, "Name a colour.\n"]
    chat = {"prompt": [prompts], "response": [[CHOSEN, "Red."]], "response_rejected": [["", "No."]]}
    single = {"prompt": prompts, "response": [CHOSEN, "Red."], "response_rejected": ["x", "No."]}
    scorer = ImplicitReward(gpt2, reference=weak, dtype="float32")
    parts = scorer(single)
    columns = scorer(chat)
    assert columns["implicit_reward_chosen"][0] == pytest.approx(
        parts["implicit_reward_chosen"].sum(), rel=1e-5
    )
    assert columns["implicit_reward_rejected"][0] == pytest.approx(
        parts["implicit_reward_rejected"][1], rel=1e-5
    )


def test_rows_of_a_preference_file_are_scored_as_they_are_formatted(tmp_path, gpt2, weak):
    path = tmp_path / "dpo.jsonl"
    path.write_text('{"prompt": "Say hello.", "chosen": "Hello.", "rejected": "No."}\n' * 2)
    pairs = format_pairs(load_rows(path))
    table = pairs.map(ImplicitReward(gpt2, reference=weak), batched=True)
    assert np.isfinite(table["implicit_reward"][:]).all()


@pytest.mark.parametrize(
    "settings",
    [{}, {"reference": ""}, {"reference": "m", "beta": 0}, {"reference": "m", "beta": "a"},
     {"reference": "m", "reference_revision": 3}],
    ids=str,
)  # fmt: skip
def test_a_bad_setting_is_refused(settings):
    with pytest.raises(ValueError, match=r"reference|beta="):
        ImplicitReward("m", **settings)
