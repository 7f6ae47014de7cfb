"""dtype="int8": the same path in 8-bit integers, a trial of the ranks, and clear refusals."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from hf_superfilter import (
    IFD,
    AskLLM,
    CausalLM,
    Embed,
    LearningPercentage,
    Perplexity,
    TextEncoder,
    score,
)
from hf_superfilter.models import cpu_linear as int8
from hf_superfilter.models.loading import pick_dtype

pytestmark = pytest.mark.skipif(
    "x86" not in torch.backends.quantized.supported_engines,
    reason="int8 kernels are for x86 processors",
)


@pytest.fixture(scope="module")
def lm(weak):
    return CausalLM(weak, dtype="int8")


def in_int8_and_float32(scorer, model, batch, **settings):
    both = [scorer(model, dtype=dtype, **settings)(batch) for dtype in ("int8", "float32")]
    return [{key: np.asarray(values) for key, values in columns.items()} for columns in both]


def test_a_layer_is_the_linear_layer_to_within_its_rounding():
    torch.manual_seed(0)
    layer = torch.nn.Linear(300, 70)
    with torch.no_grad():
        layer.weight[3], layer.weight[4] = 0, layer.weight[4] * 1e3  # a row's scale is its own
    states = torch.randn(2, 9, 300) * torch.logspace(-3, 3, 9)[None, :, None]
    states[1, 4] = 0
    with torch.inference_mode():
        found, wanted = int8.Int8Linear(layer)(states), layer(states)
        rounding = states.abs().amax(-1, keepdim=True) / 254 * layer.weight.abs().sum(1)
        rounding += layer.weight.abs().amax(1) / 254 * states.abs().sum(-1, keepdim=True)
    assert found.shape == wanted.shape and found.dtype == torch.float32
    assert ((found - wanted).abs() <= 1.1 * rounding + 1e-5).all()


def test_no_sum_overflows_where_pairs_of_products_are_summed_in_16_bits(monkeypatch):
    monkeypatch.setattr(int8, "has_vnni", lambda: False)
    layer = torch.nn.Linear(64, 8, bias=False)
    whole = int8.Int8Linear(layer).scales
    largest = (layer.weight.detach() / whole[:, None]).round().abs().max()
    assert 2 * 255 * largest < 2**15


@pytest.mark.parametrize("variant", ["superfiltering", "bos", "aligned", "loss_ratio"])
def test_ifd_ranks_real_rows_as_float32_does_with_the_same_statuses_and_tokens(
    strong, sample, variant
):
    batch = sample[:150]
    ours, exact = in_int8_and_float32(IFD, strong, batch, variant=variant)
    assert (ours["ifd_status"] == exact["ifd_status"]).all()
    np.testing.assert_array_equal(ours["ifd_tokens"], exact["ifd_tokens"])
    defined = np.isfinite(exact["ifd"])
    assert (np.isfinite(ours["ifd"]) == defined).all()
    assert spearmanr(ours["ifd"][defined], exact["ifd"][defined]).statistic >= 0.99
    np.testing.assert_allclose(ours["ifd_ppl"][defined], exact["ifd_ppl"][defined], rtol=0.2)


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_awkward_rows_of_other_models_have_the_same_statuses_and_nearly_the_same_losses(
    model, request
):
    from test_causal_lm import AWKWARD

    batch = {"prompt": [p for p, _ in AWKWARD], "response": [r for _, r in AWKWARD]}
    ours, exact = in_int8_and_float32(Perplexity, request.getfixturevalue(model), batch)
    assert (ours["ppl_status"] == exact["ppl_status"]).all()
    assert {"ok", "truncated", "empty_response"} <= set(exact["ppl_status"])
    np.testing.assert_allclose(np.log(ours["ppl"]), np.log(exact["ppl"]), atol=0.5)


def test_the_nats_of_a_row_do_not_depend_on_batch_size_or_order(lm, sample):
    windows = [
        w for pair in lm.windows(sample["prompt"][:60], sample["response"][:60]) for w in pair
    ]
    whole, _ = lm.losses(windows)
    for budget in (64, 20_000):
        # Sums in another order move an activation across the edge between two steps.
        np.testing.assert_allclose(
            lm.losses(windows[::-1], batch_tokens=budget)[0][::-1], whole, atol=5e-3
        )


def test_every_product_with_weights_is_in_int8(lm):
    names = [type(module).__name__ for module in lm.model.modules()]
    assert not {"Linear", "Conv1D"} & set(names)
    assert names.count("Int8Linear") == 4 * lm.model.config.n_layer + 1


def test_no_more_logits_are_made_at_once_than_in_float32(lm, weak):
    assert lm._logits_at.rows == CausalLM(weak, dtype="float32")._logits_at.rows < 10_000


@pytest.fixture(scope="module")
def calm_t5(t5, tmp_path_factory):
    """The random T5 without its large weights, which make any rounding grow from layer to layer."""
    from transformers import T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5") / "calm"
    shutil.copytree(t5, folder)
    model = T5ForConditionalGeneration.from_pretrained(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.div_(8 if weight.ndim == 2 else 1)
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("model", ["gpt2", "llama", "calm_t5"])
def test_ask_llm_answers_in_int8_with_causal_and_with_encoder_decoder_models(
    model, request, sample
):
    ours, exact = in_int8_and_float32(AskLLM, request.getfixturevalue(model), sample[:40])
    assert (ours["ask_llm_status"] == exact["ask_llm_status"]).all()
    # A yes is one token, whose logit holds the sum of many roundings.
    differences = np.abs(np.log(ours["ask_llm"]) - np.log(exact["ask_llm"]))
    assert (np.isnan(ours["ask_llm"]) == np.isnan(exact["ask_llm"])).all()
    assert np.nanquantile(differences, 0.95) <= 0.3 and np.nanmax(differences) <= 0.5
    assert (ours["ask_llm"] != exact["ask_llm"]).any()


def test_the_first_run_on_a_data_set_says_how_far_the_ranks_agree_and_later_ones_do_not(
    weak, sample, tmp_path, caplog
):
    rows = sample.select(range(210))
    with caplog.at_level(logging.WARNING):
        score(rows, [IFD(weak, dtype="int8")], tmp_path / "run")
        (said,) = [r.message for r in caplog.records if "int8" in r.message]
        score(rows, [IFD(weak, dtype="int8")], tmp_path / "run")
        score(rows.select(range(5)), [IFD(weak, dtype="float32")], tmp_path / "exact")
    assert sum("int8" in r.message for r in caplog.records) == 1
    made = json.loads((tmp_path / "run/run.json").read_text())["scorers"]["ifd"]
    assert made["made_with"]["dtype"] == "int8"
    found = made["trial"]
    assert (
        150 <= found["rows"] <= 200
        and 0.99 <= found["spearman"] < 1
        and 0.8 <= found["top_10_percent"] <= 1
    )
    assert f"Spearman {found['spearman']:.4f}, {found['top_10_percent']:.2f} of the top 10%" in said
    assert "trial" not in json.loads((tmp_path / "exact/run.json").read_text())["scorers"]["ifd"]


def test_what_int8_is_not_for_is_refused(weak, llama):
    with pytest.raises(ValueError, match="is for CPUs: on cuda:0 give"):
        pick_dtype("int8", torch.device("cuda:0"), int8=True)
    with pytest.raises(ValueError, match="scores of language models only"):
        TextEncoder(weak, dtype="int8")
    for scorer in (Embed, LearningPercentage):
        with pytest.raises(ValueError, match="dtype='int8'"):
            scorer(weak, dtype="int8")


def test_a_model_whose_weights_are_not_in_linear_layers_is_refused():
    experts = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(4, 16, 16))])
    model = torch.nn.Sequential(
        torch.nn.Embedding(100, 8), torch.nn.Linear(16, 16, bias=False), experts
    )
    with pytest.raises(
        ValueError,
        match="those of 'experts' hold only 20% of what it multiplies by: give dtype='auto'",
    ):
        int8.use_int8(model, "experts")
