"""Losses in blocks of the vocabulary: equal to plain ones, whatever stands behind the head."""

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from hf_superfilter.models import lm_head
from hf_superfilter.models.cpu_linear import onednn_is_faster
from hf_superfilter.models.lm_head import LogitsAt

pytestmark = pytest.mark.skipif(
    not onednn_is_faster(torch.zeros(1, dtype=torch.bfloat16)),
    reason="the processor does not multiply bfloat16",
)
SIZES = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def losses(model, ids, dtype=torch.bfloat16):
    """Losses by `LogitsAt`, and plain ones from float32 logits of the same weights."""
    model = model.to(dtype).eval()
    logits_at = LogitsAt(model, dtype)
    cells = torch.arange(ids.shape[1] - 1).numpy()
    with torch.inference_mode():
        fast = logits_at.losses(ids.numpy(), cells + 1, cells)
        logits = model.float()(ids).logits[0, :-1]
    return logits_at, fast, torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")


@pytest.mark.parametrize("vocabulary", [7, 2_048, 2_049, 5_000])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.02), (torch.float32, 1e-5)])
def test_losses_are_those_of_the_plain_model_for_any_vocabulary(vocabulary, tied, dtype, error):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=tied, **SIZES)
    ids = torch.randint(0, vocabulary, (1, 30))
    logits_at, fast, plain = losses(LlamaForCausalLM(config), ids, dtype)
    assert logits_at._blocks is not None
    torch.testing.assert_close(fast, plain, rtol=0, atol=error)


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.05), (torch.float32, 1e-4)])
def test_a_bias_and_a_factor_of_the_logits_count(dtype, error):
    torch.manual_seed(0)
    ids = torch.randint(0, 3_000, (1, 30))
    phi = PhiForCausalLM(PhiConfig(vocab_size=3_000, **SIZES))
    with torch.no_grad():
        phi.lm_head.bias.normal_(0, 2)
    cohere = CohereForCausalLM(CohereConfig(vocab_size=3_000, logit_scale=0.25, **SIZES))
    with torch.no_grad():
        cohere.lm_head.weight.mul_(20)
    for model in (phi, cohere):
        logits_at, fast, plain = losses(model, ids, dtype)
        assert logits_at._blocks is not None
        assert plain.std() > 0.1
        torch.testing.assert_close(fast, plain, rtol=0, atol=error)


# At a cap of 1,000 logits up to 50 change by a thousandth, less than bfloat16 rounds them.
@pytest.mark.parametrize(
    ("dtype", "cap", "error"),
    [(torch.bfloat16, 30.0, 0.05), (torch.float32, 30.0, 1e-5), (torch.float32, 1_000.0, 1e-5)],
)
def test_logits_that_are_bent_behind_the_head_are_not_computed_in_blocks(dtype, cap, error):
    torch.manual_seed(0)
    ids = torch.randint(0, 3_000, (1, 30))
    config = Gemma2Config(vocab_size=3_000, final_logit_softcapping=cap, **SIZES)
    logits_at, fast, plain = losses(Gemma2ForCausalLM(config), ids, dtype)
    assert logits_at._blocks is None
    torch.testing.assert_close(fast, plain, rtol=0, atol=error)


def test_a_large_constant_in_all_logits_costs_no_precision():
    # GPT-2's logits lie around -100, where bfloat16 has steps of 0.5.
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=48, n_layer=2, n_head=4))
    offset = torch.randn(48)
    with torch.no_grad():
        model.transformer.ln_f.bias.copy_(offset * 10)
        model.transformer.wte.weight.mul_(5).add_(-offset / 5)
    ids = torch.randint(0, 50_257, (1, 30))
    _, fast, plain = losses(model, ids)
    with torch.inference_mode():
        assert model(ids).logits.mean() < -60
    torch.testing.assert_close(fast, plain, rtol=0, atol=0.1)
    assert float((fast - plain).abs().mean()) < 0.03


def test_positions_beyond_one_block_keep_their_order(monkeypatch):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=3_000, **SIZES))
    ids = torch.randint(0, 3_000, (1, 30))
    whole = losses(model, ids)[1]
    monkeypatch.setattr(lm_head, "BLOCK_ROWS", 7)
    torch.testing.assert_close(losses(model, ids)[1], whole, rtol=0, atol=1e-3)
