"""Fast paths are used where they agree with the plain forward pass; the result is remembered."""

import logging

import numpy as np
import pytest
import torch
from architectures import rows, save_tiny
from transformers import CONFIG_MAPPING

from hf_superfilter import CausalLM, Perplexity
from hf_superfilter.models import self_check
from hf_superfilter.models.loading import load_weights
from hf_superfilter.models.prefix_tree import Tree


@pytest.fixture(autouse=True)
def assets(tmp_path, monkeypatch):
    """An empty memory of self-checks."""
    folder = tmp_path / "assets"
    monkeypatch.setattr(self_check, "cached_assets_path", lambda *names: _made(folder))
    return folder


def _made(folder):
    folder.mkdir(exist_ok=True)
    return folder


def test_a_plain_model_runs_on_every_path_and_keeps_its_layers_in_the_check(gpt2):
    model = load_weights(gpt2, None, torch.float32, torch.device("cpu"), None)
    kinds = [type(module) for module in model.modules()]
    result = self_check.check_causal_lm(model, torch.float32, gpt2, "sha256:0")
    assert (
        set(result.paths) == {"split", "padding", "trees", "layers", "packed"} and not result.faults
    )
    assert [type(module) for module in model.modules()] == kinds


def test_a_path_that_differs_is_not_used_and_one_line_says_so(gpt2, monkeypatch, caplog):
    batch = rows()
    wanted = CausalLM(gpt2, dtype="float32").nll(batch["prompt"], batch["response"])[0]
    monkeypatch.setattr(self_check, "VERSION", -1)
    attend = Tree.attend

    def doubled(tree, *states, **options):
        return 2 * attend(tree, *states, **options)[0], None

    monkeypatch.setattr(Tree, "attend", doubled)
    lm = CausalLM(gpt2, dtype="float32")
    (line,) = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert "runs without trees: differs by" in line and "trees" not in lm.fast_paths
    nats, _ = lm.nll(batch["prompt"], batch["response"])
    np.testing.assert_allclose(nats, wanted, rtol=1e-5)


@pytest.mark.parametrize("path", ["split", "padding", "layers", "trees"])
def test_a_path_that_raises_is_left_out_alone(gpt2, monkeypatch, path):
    fault = self_check._CausalCheck.fault
    monkeypatch.setattr(
        self_check._CausalCheck,
        "fault",
        lambda check, paths: "raises" if path in paths else fault(check, paths),
    )
    batch = rows()
    lm = CausalLM(gpt2, dtype="float32")
    assert path not in lm.fast_paths
    plain = [lm.nll([p], [r])[0][0] for p, r in zip(*batch.values(), strict=True)]
    np.testing.assert_allclose(lm.nll(*batch.values())[0], plain, rtol=1e-5)


def test_a_result_is_remembered_and_depends_on_the_dtype(gpt2, assets, monkeypatch):
    CausalLM(gpt2, dtype="float32")
    assert len(list(assets.glob("*.json"))) == 1

    def refuse(*_):
        raise AssertionError("checked again")

    with monkeypatch.context() as patch:
        patch.setattr(self_check, "_CausalCheck", refuse)
        assert "trees" in CausalLM(gpt2, dtype="float32").fast_paths
    CausalLM(gpt2, dtype="bfloat16")
    assert len(list(assets.glob("*.json"))) == 2


def test_a_damaged_memory_is_written_again(gpt2, assets):
    CausalLM(gpt2, dtype="float32")
    (file,) = assets.glob("*.json")
    file.write_text("[]")
    assert "trees" in CausalLM(gpt2, dtype="float32").fast_paths
    assert "paths" in file.read_text()


def test_short_and_long_rows_of_longrope_share_no_batch(tmp_path):
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 40,
    }
    settings = {"rope_parameters": rope, "original_max_position_embeddings": 40}
    save_tiny(CONFIG_MAPPING["phi3"], tmp_path, **settings)
    scorer = Perplexity(str(tmp_path), dtype="float32")
    texts = ["Water and salt. " * count for count in (1, 4, 8, 9, 10, 12, 20)]
    together = scorer({"prompt": [""] * len(texts), "response": texts})["ppl"]
    alone = [scorer({"prompt": [""], "response": [text]})["ppl"][0] for text in texts]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.skipif(
    "x86" not in torch.backends.quantized.supported_engines, reason="int8 is for x86 processors"
)
def test_a_model_that_int8_does_not_fit_runs_in_float32_and_says_so(tmp_path, caplog):
    save_tiny(CONFIG_MAPPING["rwkv"], tmp_path)
    lm = CausalLM(str(tmp_path), dtype="int8")
    batch = rows()
    exact = CausalLM(str(tmp_path), dtype="float32").nll(*batch.values())[0]
    if lm.dtype == torch.float32:
        assert "runs without int8" in caplog.text
        np.testing.assert_allclose(lm.nll(*batch.values())[0], exact, rtol=1e-5)
    else:
        np.testing.assert_allclose(lm.nll(*batch.values())[0], exact, atol=0.5)
