"""Fixtures of all tests: no network, a local Hub, tiny models built here, the sample as pairs.

torch, transformers and datasets are imported where they are used: the process of pytest-xdist that
hands out tests reads this file too, and needs none of them.
"""

import gc
import os
from tempfile import TemporaryDirectory

from hub_server import HubServer

# All HF_* variables are read when something from Hugging Face is first imported, so the address
# comes first. Nothing listens there until a test asks for the fixture `hub`: until then clients are
# offline.
os.environ["HF_ENDPOINT"] = (SERVER := HubServer()).url
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_ASSETS_CACHE"] = (ASSETS := TemporaryDirectory()).name  # results of self-checks
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"

import shutil
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from hf_superfilter import embedded_model, embedded_sample, format_pairs, hub_client, load_rows
from hf_superfilter.cli import app as cli
from hf_superfilter.data import sources

# On a busy machine an example, and the making of it, may take any time.
NO_CHECKS = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
settings.register_profile("no clock", deadline=None, suppress_health_check=NO_CHECKS)
settings.load_profile("no clock")

SHARED = Path(__file__).parents[2] / "shared" / "data"


def pytest_addoption(parser):
    parser.addoption(
        "--auto-dtype",
        choices=("float32", "bfloat16"),
        help="what dtype='auto' shall be in this run, whatever this processor multiplies natively",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Look for no garbage among what is imported: nearly all of it stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _auto_dtype(pytestconfig):
    wanted = pytestconfig.getoption("auto_dtype")
    with pytest.MonkeyPatch.context() as patch:
        if wanted:
            import torch

            abilities = torch.cpu.get_capabilities() | {
                "avx512_bf16": wanted == "bfloat16",
                "amx_bf16": False,
            }
            patch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
        yield


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Tests neither read nor fill the user's data set cache."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")


def pytest_unconfigure():
    """Give the port of the local Hub back, and remove what the tests cached."""
    SERVER.stop()
    ASSETS.cleanup()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The local Hub, empty, with every client online as the user "me" and all caches under
    tmp_path.
    """
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", "hf_local_write")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf/hub"))
    monkeypatch.setattr(sys, "path", list(sys.path))  # evaluate appends its cache of modules
    monkeypatch.setattr(hub_client, "WAIT", 0.01)  # this Hub is back at once
    _online_datasets(monkeypatch, tmp_path / "hf")
    _online_evaluate(monkeypatch, tmp_path / "hf")
    # huggingface_hub 2.4 hands files to httpx2 as data=, which httpx2 wants to be content=
    warnings.filterwarnings("ignore", "Use 'content=<...>' to upload raw bytes", DeprecationWarning)
    SERVER.reset()
    _forget()
    yield SERVER.start()
    _forget()
    huggingface_hub.close_session()
    SERVER.reset()


@pytest.fixture
def hub_environment(hub, tmp_path) -> dict[str, str]:
    """The environment for a subprocess that shall use the local Hub."""
    return hub.environment(tmp_path / "process")


def _online_datasets(monkeypatch, home):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", home / "datasets/downloads")
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", home / "modules")


def _online_evaluate(monkeypatch, home):
    import evaluate

    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", False)
    monkeypatch.setattr(evaluate.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_CACHE", home / "evaluate")
    monkeypatch.setattr(evaluate.config, "DOWNLOADED_EVALUATE_PATH", home / "evaluate/downloads")
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", home / "metrics")
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", home / "modules")


def _forget():
    """Drop what clients keep in memory about repositories: the next test has others of the same
    name.
    """
    from huggingface_hub import HfFileSystem

    from hf_superfilter import revisions

    HfFileSystem.clear_instance_cache()
    revisions._commit.cache_clear()
    for name in [
        name
        for name in sys.modules
        if name.split(".")[0] in ("evaluate_modules", "datasets_modules")
    ]:
        del sys.modules[name]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run the command line here: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hf-superfilter", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return end.value.code or 0, said.out, said.err

    return run


@pytest.fixture
def refused(command):
    """Run a command that has to end with code 1 and one sentence, which is answered."""

    def run(*arguments):
        code, _, error = command(*arguments)
        last = error.strip().splitlines()[-1]
        assert code == 1 and last.startswith("error: ") and "Traceback" not in error
        return last.removeprefix("error: ")

    return run


@pytest.fixture(scope="session")
def weak():
    """The folder of the embedded weak model."""
    return embedded_model("weak")


@pytest.fixture(scope="session")
def strong():
    """The folder of the embedded strong model."""
    return embedded_model("strong")


@pytest.fixture(scope="session")
def sample():
    """The embedded sample with prompt and response."""
    return format_pairs(load_rows(embedded_sample()))


@pytest.fixture(scope="session")
def quarter_of_sample(tmp_path_factory) -> str:
    """A file of every fourth row of the embedded sample: 130 rows."""
    path = tmp_path_factory.mktemp("sample") / "sample.jsonl"
    lines = Path(embedded_sample()).read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[::4]), encoding="utf-8")
    return str(path)


@pytest.fixture
def short_sample(quarter_of_sample, monkeypatch):
    """Let `embedded:sample` name a quarter of its rows, for what shows the same on few."""
    monkeypatch.setattr(sources, "embedded_sample", lambda: quarter_of_sample)


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> str:
    """A small random Llama whose tokenizer adds BOS."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

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
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )  # fmt: skip
    _spread(LlamaForCausalLM(config)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory) -> str:
    """A small random GPT-2 with the original activation and a window of 128 tokens."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = AutoTokenizer.from_pretrained(embedded_model("weak"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=128,
        n_embd=48,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    _spread(GPT2LMHeadModel(config)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def t5(tmp_path_factory) -> str:
    """A small random T5 whose tokenizer puts the end of text behind a text, as T5's does."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    tokenizer = AutoTokenizer.from_pretrained(embedded_model("weak"))
    tokenizer.pad_token = "<pad>"
    end = (tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end[0]}", special_tokens=[end]
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_ff=64, num_layers=2, num_heads=2, d_kv=16,
        n_positions=256,
        pad_token_id=tokenizer.pad_token_id, decoder_start_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    _spread(T5ForConditionalGeneration(config)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def chat(tmp_path_factory, weak) -> str:
    """The embedded weak model with a chat template."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(weak, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% for turn in messages %}<{{ turn.role }}> {{ turn.content | trim }}\n{% endfor %}"
        "{% if add_generation_prompt %}The answer is{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


def _spread(model):
    """Larger weights, so that a random model's losses differ from token to token."""
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(8)
    return model
