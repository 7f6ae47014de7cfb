"""Parity with the authors and with the other tools, on real rows and the real GPT-2 tokenizer.

The rows and the tokenizer files lie beside the project: without them these tests are skipped.
"""

import json
import math

import numpy as np
import pytest
import torch
from conftest import SHARED
from reference import OneRowAtATime

from hf_superfilter import IFD

pytestmark = pytest.mark.skipif(not (SHARED / "gpt2").is_dir(), reason="../shared/data is not here")

X86 = pytest.mark.skipif(
    "x86" not in torch.backends.quantized.supported_engines, reason="int8 is for x86 processors"
)
ARITHMETIC = [
    ("float32", 1e-4),
    pytest.param("int8", 0.1, marks=X86),
]  # largest relative difference of an IFD
LATER = [
    ("float32", 1e-4),
    pytest.param("int8", 0.1, marks=[X86, pytest.mark.slow]),
]  # the same products


def real(name, count):
    import pyarrow as pa

    with pa.input_stream(str(SHARED / name), compression="zstd") as stream:
        rows = [json.loads(line) for line in stream.read().decode().split("\n")[:count]]
    return [
        (r["instruction"] + "\n" + (r["input"] + "\n" if r["input"] else ""), r["output"])
        for r in rows
    ]


@pytest.fixture(scope="module")
def rows():
    """300 rows: Alpaca, code, Chinese, and the awkward ones."""
    from test_causal_lm import AWKWARD

    picked = real("nc/alpaca_46k.jsonl.zst", 203) + real("instruct/gpteacher_codegen.jsonl.zst", 40)
    picked += real("nc/lf_alpaca_zh_demo.jsonl.zst", 40)
    picked += [
        ("Three thousand tokens\n", " word" * 3_000),
        (" word" * 3_000, "No room."),
        ("Nearly\n" + " w" * 1_020, "one two three four"),
    ]
    rows = picked + AWKWARD
    assert len(rows) >= 300
    return rows


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A GPT-2 with the real tokenizer and window, narrow enough for a test."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

    folder = tmp_path_factory.mktemp("gpt2-real-tokenizer")
    torch.manual_seed(0)
    made = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2))
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim == 2:
                weight.mul_(8)
    made.save_pretrained(folder)
    GPT2TokenizerFast.from_pretrained(str(SHARED / "gpt2")).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def batch(rows):
    return {"prompt": [p for p, _ in rows], "response": [r for _, r in rows]}


@pytest.fixture(scope="module")
def reference(model):
    return OneRowAtATime(model)


@pytest.fixture(scope="module")
def authors(reference, rows):
    return [reference.nats(*row) for row in rows]


@pytest.mark.parametrize(("dtype", "tolerance"), ARITHMETIC)
def test_every_finite_ifd_of_300_real_rows_agrees_with_the_authors_and_the_same_rows_are_undefined(
    model, batch, authors, dtype, tolerance
):
    ours = np.asarray(IFD(model, dtype=dtype)(batch)["ifd"])
    wanted = np.array([nats.ifd for nats in authors])
    assert np.isnan(ours).tolist() == np.isnan(wanted).tolist()
    assert 4 <= np.isnan(wanted).sum() < 20
    np.testing.assert_allclose(ours, wanted, rtol=tolerance)


def test_the_tokenizer_gives_the_golden_ids(model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    for line in (SHARED / "gpt2/golden.jsonl").read_text(encoding="utf-8").split("\n"):
        if line:
            golden = json.loads(line)
            assert tokenizer(golden["text"])["input_ids"] == golden["ids"]


@pytest.mark.parametrize(("dtype", "tolerance"), LATER)
def test_variant_bos_is_what_oda_datascorer_computes_but_for_its_split_tokenisation(
    model, rows, reference, dtype, tolerance
):
    """EOS before the response in both passes, so that every response token is scored in both."""
    batch = {"prompt": [p for p, _ in rows[:60]], "response": [r for _, r in rows[:60]]}
    ours = np.asarray(IFD(model, dtype=dtype, variant="bos")(batch)["ifd"])
    tokenizer, wanted = reference.tokenizer, []
    for prompt, response in rows[:60]:
        whole, p, r = (
            tokenizer(text)["input_ids"] for text in (prompt + response, prompt, response)
        )
        eos = tokenizer.eos_token_id
        given = reference.loss(torch.tensor([[eos, *whole]]), len(p) + 1)
        wanted.append(math.exp(given - reference.loss(torch.tensor([[eos, *r]]), 1)))
    np.testing.assert_allclose(ours, wanted, rtol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), LATER)
def test_variant_loss_ratio_is_cherrys_and_data_juicers_ratio_of_mean_losses(
    model, batch, authors, dtype, tolerance
):
    ours = np.asarray(IFD(model, dtype=dtype, variant="loss_ratio")(batch)["ifd"])
    wanted = np.array([nats.given / nats.alone for nats in authors])
    wanted[np.isnan([nats.ifd for nats in authors])] = np.nan
    np.testing.assert_allclose(ours, wanted, rtol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), LATER)
def test_a_window_of_512_reproduces_the_tool_that_reads_512_tokens(model, rows, dtype, tolerance):
    some = rows[:40] + rows[-30:]  # the long ones stand at the end
    batch = {"prompt": [p for p, _ in some], "response": [r for _, r in some]}
    scored = IFD(model, dtype=dtype, max_length=512)(batch)
    assert scored["ifd_status"].count("truncated") >= 2
    shorter = OneRowAtATime(model, max_length=512)
    np.testing.assert_allclose(
        scored["ifd"], [shorter.nats(*row).ifd for row in some], rtol=tolerance
    )
