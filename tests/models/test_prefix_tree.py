"""Windows that begin alike: the losses of one at a time, each shared token computed once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoTokenizer,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from hf_superfilter import CausalLM
from hf_superfilter.models import prefix_tree as prefixes
from hf_superfilter.models.batching import tokens_that_fit
from hf_superfilter.models.prefix_tree import families
from hf_superfilter.models.tokenization import Window

SYSTEM = "You are a helpful assistant. Answer briefly.\n"
PROMPTS = [
    SYSTEM + question + "\n"
    for question in ("What is the sea made of?", "What is the sun?", "Say hello.")
]
ANSWERS = [
    "Water and salt.",
    "Water and much salt, I think.",
    "",
    "a",
    "It is hot. " * 90,
    "Water and salt.",
]
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
}


@pytest.fixture(scope="module")
def models(gpt2, llama):
    return {"gpt2": CausalLM(gpt2, dtype="float32"), "llama": CausalLM(llama, dtype="float32")}


@pytest.fixture
def save(tmp_path, weak):
    """A function that saves a small model with the embedded tokenizer and loads it again."""

    def run(kind, config):
        tokenizer = AutoTokenizer.from_pretrained(weak)
        torch.manual_seed(0)
        made = kind(
            config(
                vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, pad_token_id=0, **SMALL
            )
        )
        with torch.no_grad():
            for weight in made.parameters():
                weight.mul_(8 if weight.ndim == 2 else 1)
        made.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return CausalLM(str(tmp_path), dtype="float32")

    return run


def pairs_of(lm):
    rows = [(prompt, answer) for prompt in PROMPTS for answer in ANSWERS]
    pairs = lm.windows([p for p, _ in rows], [a for _, a in rows])
    return [window for pair in pairs for window in pair]


def without_trees(lm):
    return replace(lm.fast_paths, paths=tuple(set(lm.fast_paths.paths) - {"trees"}))


def one_at_a_time(lm, windows):
    return np.concatenate([lm.losses([window])[0] for window in windows])


def tokens_read(lm, windows, **settings):
    """The losses of the windows and how many tokens entered the first layer for them."""
    seen = []
    hook = lm.model.get_input_embeddings().register_forward_pre_hook(
        lambda module, args: seen.append(args[0].numel())
    )
    nats, _ = lm.losses(windows, **settings)
    hook.remove()
    return nats, sum(seen)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("budget", [None, 90])
def test_rows_that_share_prompts_templates_and_answers_have_the_nats_they_have_alone(
    models, name, budget
):
    lm = models[name]
    windows = pairs_of(lm)
    assert {"ok", "truncated", "empty_response"} <= {window.status for window in windows}
    nats, read = tokens_read(lm, windows, batch_tokens=budget)
    np.testing.assert_allclose(nats, one_at_a_time(lm, windows), rtol=1e-5)
    assert read < (0.6 if budget is None else 1) * sum(
        len(window.ids) for window in windows if window.scored
    )


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_family_of_windows_has_the_nats_they_have_alone(models, data):
    lm = models[data.draw(st.sampled_from(["gpt2", "llama"]))]
    rows = data.draw(
        st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=12), min_size=1, max_size=10)
    )
    windows = [Window(ids, data.draw(st.integers(1, len(ids)))) for ids in rows]
    nats, counts = lm.losses(windows, batch_tokens=data.draw(st.integers(1, 60)))
    np.testing.assert_allclose(nats, one_at_a_time(lm, windows), rtol=1e-5)
    assert counts.tolist() == [window.scored for window in windows]


def test_each_distinct_beginning_goes_through_the_model_once(models):
    windows = [Window([1, 2, 3, *rest], 2) for rest in ([4, 5, 6], [4, 5], [4, 7, 8], [9], [9], [])]
    distinct = {tuple(window.ids[: i + 1]) for window in windows for i in range(len(window.ids))}
    assert tokens_read(models["gpt2"], windows)[1] == len(distinct)


def test_rows_that_begin_differently_are_packed_without_padding_and_score_as_without(
    models, sample, monkeypatch
):
    lm = models["gpt2"]
    some = [
        window
        for pair in lm.windows(sample["prompt"][:60], sample["response"][:60])
        for window in pair
    ]
    windows = [window for window in some if window.scored]
    assert len(families([window.ids for window in windows])[0]) == 0
    assert "trees" in lm.fast_paths
    packed, read = tokens_read(lm, windows)
    assert read == sum(len(window.ids) for window in windows)
    monkeypatch.setattr(lm, "fast_paths", without_trees(lm))
    plain, _ = lm.losses(windows)
    np.testing.assert_allclose(packed, plain, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), max_size=12))
def test_families_are_sorted_and_know_what_neighbours_share(rows):
    order, common = families(rows)
    assert len(set(order.tolist())) == len(order) and [rows[i] for i in order] == sorted(
        rows[i] for i in order
    )
    for before, own, shared in zip(order, order[1:], common[1:], strict=False):
        same = [x == y for x, y in zip(rows[before], rows[own], strict=False)]
        assert shared in (0, [*same, False].index(False)), "all that is shared, or a new family"
    assert not len(order) or common[0] == 0


@pytest.mark.parametrize(
    ("kind", "config"), [(GPTNeoXForCausalLM, GPTNeoXConfig), (OPTForCausalLM, OPTConfig)]
)
def test_other_kinds_of_positions_share_too(save, kind, config):
    lm = save(kind, config)
    windows = pairs_of(lm)
    assert "trees" in lm.fast_paths
    np.testing.assert_allclose(lm.losses(windows)[0], one_at_a_time(lm, windows), rtol=1e-5)


def test_a_model_that_cannot_share_is_run_the_plain_way(save, gpt2):
    sliding = save(
        MistralForCausalLM,
        lambda **some: MistralConfig(
            sliding_window=8, num_key_value_heads=1, intermediate_size=64, **some
        ),
    )
    for lm in (sliding, CausalLM(gpt2, dtype="float32", attn_implementation="eager")):
        windows = [window for window in pairs_of(lm) if window.scored and len(window.ids) < 60]
        nats, read = tokens_read(lm, windows)
        assert "trees" not in lm.fast_paths and read >= sum(len(window.ids) for window in windows)
        np.testing.assert_allclose(nats, one_at_a_time(lm, windows), rtol=1e-5)


def test_when_memory_ends_trees_get_smaller_and_the_model_attends_as_before(gpt2):
    lm = CausalLM(gpt2, dtype="float32")
    windows, failures = pairs_of(lm), []
    alone = one_at_a_time(lm, windows)

    def refuse(module, args):
        if args[0].numel() > 300:
            failures.append(args[0].numel())
            raise torch.OutOfMemoryError("no memory left for this test")

    hook = lm.model.get_input_embeddings().register_forward_pre_hook(refuse)
    nats, _ = lm.losses(windows)
    hook.remove()
    np.testing.assert_allclose(nats, alone, rtol=1e-5)
    assert failures and lm.model.config._attn_implementation == "sdpa"


# All windows stand in trees; on a GPU attention takes torch's kernel for any lengths


def behind_each_other(
    query, key, value, ends, key_ends, longest, key_longest, *, scale, window_size, enable_gqa
):
    """What that kernel computes, one sequence at a time."""
    assert window_size == (-1, 0), "causal"
    assert ends.dtype == torch.int32 and torch.equal(ends, key_ends)
    assert longest == key_longest == int(ends.diff().max())
    parts = [x.tensor_split(ends[1:-1].tolist()) for x in (query, key, value)]
    made = [
        torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(0, 1) for x in states), is_causal=True, scale=scale, enable_gqa=enable_gqa
        )
        for states in zip(*parts, strict=True)
    ]
    return torch.cat(made, dim=1).transpose(0, 1)


@pytest.fixture(params=["side by side", "one behind the other"])
def packing(request, models, monkeypatch):
    for lm in models.values():
        monkeypatch.setattr(lm, "_packs", True)
    if request.param == "one behind the other":
        monkeypatch.setattr(prefixes, "VARLEN_ATTENTION", behind_each_other)
        monkeypatch.setattr(prefixes, "_takes_varlen", lambda query: True)
    return models


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("alike", [True, False])
def test_packed_windows_have_the_nats_they_have_alone_and_no_token_is_padding(
    packing, sample, name, alike, monkeypatch
):
    lm = packing[name]
    pairs = lm.windows(sample["prompt"][:40], sample["response"][:40])
    windows = (
        pairs_of(lm) if alike else [window for pair in pairs for window in pair if window.scored]
    )
    nats, read = tokens_read(lm, windows, batch_tokens=4_000)
    monkeypatch.setattr(lm, "fast_paths", without_trees(lm))
    plain, _ = lm.losses(windows)
    np.testing.assert_allclose(nats, plain, rtol=1e-5)
    tokens = sum(len(window.ids) for window in windows if window.scored)
    assert read < tokens if alike else read == tokens


def test_a_batch_fills_half_of_the_free_memory_within_limits(models):
    config = models["llama"].model.config
    each = 4 * (6 * config.hidden_size + 4 * config.intermediate_size)
    assert tokens_that_fit(2 * 5_000 * each, config) == 5_000
    assert tokens_that_fit(1, config) == 1_024 and tokens_that_fit(1 << 50, config) == 65_536
    gpt2 = models["gpt2"].model.config
    assert tokens_that_fit(2 * 5_000 * 4 * 22 * gpt2.n_embd, gpt2) == 5_000
