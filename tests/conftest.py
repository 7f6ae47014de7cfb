"""Shared by all tests: no network, tiny models built here, the sample as pairs."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from hf_superfilter import embedded_model, embedded_sample, format_pairs, load_rows

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Tests neither read nor fill the user's data set cache."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def weak():
    """The folder of the embedded weak model."""
    return embedded_model("weak")


@pytest.fixture(scope="session")
def sample() -> Dataset:
    """The embedded sample with prompt and response."""
    return format_pairs(load_rows(embedded_sample()))


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> str:
    """A small random Llama whose tokenizer adds BOS."""
    from tokenizers.processors import TemplateProcessing

    folder = tmp_path_factory.mktemp("llama")
    tokenizer = AutoTokenizer.from_pretrained(embedded_model("weak"))
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    _spread(LlamaForCausalLM(config)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory) -> str:
    """A small random GPT-2 with the original activation and a window of 128 tokens."""
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = AutoTokenizer.from_pretrained(embedded_model("weak"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=128, n_embd=48, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    _spread(GPT2LMHeadModel(config)).save_pretrained(folder)
    return str(folder)


def _spread(model):
    """Larger weights, so that a random model's losses differ from token to token."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(8)
    return model
