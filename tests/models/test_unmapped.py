"""Weights read without their file's pages: the model that transformers loads, or its own way."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hf_superfilter import CausalLM
from hf_superfilter.models import unmapped
from hf_superfilter.models.loading import load_weights

CPU = torch.device("cpu")


def file_of(folder):
    config = AutoConfig.from_pretrained(folder)
    return unmapped.weights_file(
        str(folder), None, config, type(AutoModelForCausalLM.from_config(config))
    )


@pytest.fixture
def copy(gpt2, tmp_path):
    return Path(shutil.copytree(gpt2, tmp_path / "model"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_the_model_is_the_one_that_transformers_loads(model, dtype, request):
    folder = request.getfixturevalue(model)
    assert file_of(folder) == Path(folder) / "model.safetensors"
    usual = load_weights(folder, None, dtype, CPU, None)
    ours = load_weights(folder, None, dtype, CPU, None, unmapped=True)
    assert type(ours) is type(usual) and ours.training is False
    assert ours.config._attn_implementation == usual.config._attn_implementation
    pairs = zip(ours.named_parameters(), usual.named_parameters(), strict=True)
    for (name, one), (other_name, other) in pairs:
        assert name == other_name and one.dtype == other.dtype
        assert torch.equal(one, other)


def test_weights_in_parts_and_large_files_are_left_to_transformers(copy, monkeypatch):
    monkeypatch.setattr(unmapped, "LARGEST_BYTES", 100)
    assert file_of(copy) is None
    monkeypatch.undo()
    model = AutoModelForCausalLM.from_pretrained(copy)
    (copy / "model.safetensors").unlink()
    model.save_pretrained(copy, max_shard_size="50KB")
    assert file_of(copy) is None
    torch.testing.assert_close(
        dict(CausalLM(str(copy), dtype="float32").model.state_dict()), dict(model.state_dict())
    )


def test_quantised_models_are_left_to_transformers(copy):
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (copy / "config.json").write_text(json.dumps(config))
    assert unmapped.weights_file(str(copy), None, AutoConfig.from_pretrained(copy), None) is None


def test_missing_weights_are_named_as_ever(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights.pop("transformer.h.0.mlp.c_fc.weight")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"transformer\.h\.0\.mlp\.c_fc\.weight missing"):
        CausalLM(str(copy))
