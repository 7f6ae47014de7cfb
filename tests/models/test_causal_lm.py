"""The hot path: the losses of one row at a time, whatever batch, order and arithmetic."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import OneRowAtATime
from scipy.stats import spearmanr

from hf_superfilter import IFD, CausalLM
from hf_superfilter.models import loading
from hf_superfilter.models.lm_head import BLOCK_ROWS
from hf_superfilter.models.tokenization import Window

AWKWARD = [
    ("Say hello.\n", "Hello there, how are you today?"),
    ("Empty.\n", ""),
    ("One token.\n", "a"),
    ("Long answer.\n", "This sentence goes on and on. " * 500),
    ("A long prompt. " * 600, "It is too long to leave room."),
    ("Emoji 🎉\n", "🎉🎊 party 🥳🥳"),
    ("用中文回答\n", "北京是中国的首都。"),
    ("Code\n", "def f(x):\n    return [y ** 2 for y in x]\n"),
    ("Newline first\n", "\n\nThen the answer."),
    ("Trailing blanks\n", "answer   "),
    ("Separator\n", "one\u2028two\u2029three\x85four"),
    ("No newline", "joined to the prompt"),
    ("", "No prompt at all, only text."),
    ("Blank\n", "   "),
    ("", "No prompt, and longer than the window. " * 400),
]


@pytest.fixture(scope="module")
def lm(weak):
    return CausalLM(weak, dtype="float32")


@pytest.fixture(scope="module")
def pairs(sample):
    return sample["prompt"][:], sample["response"][:]


def test_ifd_equals_the_authors_procedure_on_awkward_and_on_real_rows(weak, sample):
    rows = AWKWARD + list(zip(sample["prompt"][:60], sample["response"][:60], strict=True))
    reference = OneRowAtATime(weak)
    ours = IFD(weak, dtype="float32")(
        {"prompt": [p for p, _ in rows], "response": [r for _, r in rows]}
    )
    wanted = np.array([reference.nats(*row) for row in rows])
    np.testing.assert_allclose(ours["ifd"], wanted[:, 2], rtol=1e-4)
    defined = np.isfinite(wanted[:, 2])
    np.testing.assert_allclose(
        np.asarray(ours["ifd_ppl"])[defined], np.exp(wanted[defined, 0]), rtol=1e-4
    )
    np.testing.assert_allclose(
        np.asarray(ours["ifd_ppl_alone"])[defined], np.exp(wanted[defined, 1]), rtol=1e-4
    )


def test_a_tokenizer_that_adds_bos_scores_every_response_token_in_both_passes(llama):
    reference, ifd = OneRowAtATime(llama, max_length=256), IFD(llama, dtype="float32")
    rows = [row for row in AWKWARD if row[0]]
    ours = ifd({"prompt": [p for p, _ in rows], "response": [r for _, r in rows]})
    wanted = np.array([reference.nats(*row).ifd for row in rows])
    np.testing.assert_allclose(ours["ifd"], wanted, rtol=1e-4)
    assert ours["ifd_status"][2] == "ok", "with BOS a single response token can be scored alone"


def test_the_nats_of_a_row_do_not_depend_on_batch_size_or_order(lm, pairs):
    windows = [w for pair in lm.windows(*pairs) for w in pair][::20]
    whole, counts = lm.losses(windows)
    for budget in (64, 700, 20_000):
        other, other_counts = lm.losses(windows, batch_tokens=budget)
        np.testing.assert_allclose(other, whole, rtol=1e-5)
        np.testing.assert_array_equal(counts, other_counts)
    backwards, _ = lm.losses(windows[::-1])
    np.testing.assert_allclose(backwards[::-1], whole, rtol=1e-5)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_windows_in_any_company_have_the_nats_they_have_alone(lm, data):
    sizes = data.draw(st.lists(st.integers(1, 80), min_size=1, max_size=8))
    windows = [
        Window([(7 * i + 13 * t) % 8000 for t in range(size)], data.draw(st.integers(1, size)))
        for i, size in enumerate(sizes)
    ]
    together, counts = lm.losses(windows, batch_tokens=data.draw(st.integers(1, 300)))
    alone = np.concatenate([lm.losses([window])[0] for window in windows])
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert counts.tolist() == [window.scored for window in windows]
    assert (np.isnan(together) == (counts == 0)).all()


def test_bfloat16_ranks_real_rows_as_float32_does(weak, sample):
    scores = [
        np.asarray(IFD(weak, dtype=dtype)(sample[:])["ifd"]) for dtype in ("float32", "bfloat16")
    ]
    defined = np.isfinite(scores[0])
    assert (defined == np.isfinite(scores[1])).all()
    assert spearmanr(scores[0][defined], scores[1][defined]).statistic >= 0.999
    k = len(defined) // 10
    top = [set(np.argsort(-np.nan_to_num(s, nan=-1), kind="stable")[:k]) for s in scores]
    assert len(top[0] & top[1]) / k >= 0.98


def test_only_scored_positions_reach_the_vocabulary(lm, pairs, monkeypatch):
    windows = [pair.given for pair in lm.windows(*[column[:40] for column in pairs])]
    blocks, projected = lm._logits_at._blocks, 0

    def count_in_blocks(states, targets):
        nonlocal projected
        projected += len(states)
        assert len(states) <= BLOCK_ROWS, "logits are made in blocks"
        return blocks(states, targets)

    def count(module, inputs, output):
        nonlocal projected
        projected += inputs[0].shape[1]
        assert inputs[0].shape[1] <= module.rows, "logits are made in chunks"

    if blocks is not None:  # where oneDNN is fast
        monkeypatch.setattr(lm._logits_at, "_blocks", count_in_blocks)
    hook = lm._logits_at.projection.register_forward_hook(count)
    lm.losses(windows)
    hook.remove()
    assert projected == sum(window.scored for window in windows)


def test_batches_hold_nearly_equal_lengths(lm, pairs):
    texts = [window for pair in lm.windows(*pairs) for window in pair if window.scored]
    # Of each the last token is scored: what reaches the vocabulary is not looked at here.
    windows = [window._replace(start=len(window.ids) - 1) for window in texts]
    seen = []
    hook = lm.model.get_input_embeddings().register_forward_pre_hook(
        lambda module, args: seen.append(args[0].numel())
    )
    lm.losses(windows)
    hook.remove()
    tokens = sum(len(window.ids) for window in windows)
    assert sum(seen) <= 1.03 * tokens


def test_out_of_memory_halves_the_budget_once_and_goes_on(weak, pairs):
    lm = CausalLM(weak, dtype="float32")
    windows = [window for pair in lm.windows(*pairs) for window in pair][::12]
    whole, _ = lm.losses(windows)
    failures = []

    def refuse(module, args):
        if args[0].numel() > 1_500:
            failures.append(args[0].numel())
            raise torch.OutOfMemoryError("no memory left for this test")

    lm.model.get_input_embeddings().register_forward_pre_hook(refuse)
    np.testing.assert_allclose(lm.losses(windows)[0], whole, rtol=1e-5)
    assert len(failures) == 1, "after one failure every batch keeps to the smaller budget"
    assert 700 <= lm.batch_tokens <= 1_024


def test_a_row_that_never_fits_into_memory_is_one_clear_error(weak):
    lm = CausalLM(weak, dtype="float32")

    def refuse(module, args):
        raise torch.OutOfMemoryError("none at all")

    lm.model.get_input_embeddings().register_forward_pre_hook(refuse)
    with pytest.raises(MemoryError, match="lower max_length"):
        lm.nll(["Hi\n"], ["Hello there"])


@pytest.mark.parametrize("scale", [{"final_logit_softcapping": 2.0}, {"logit_scale": 0.1}])
def test_what_a_model_does_after_the_projection_counts(tmp_path, weak, scale):
    from transformers import (
        AutoTokenizer,
        CohereConfig,
        CohereForCausalLM,
        Gemma2Config,
        Gemma2ForCausalLM,
    )

    tokenizer = AutoTokenizer.from_pretrained(weak)
    config, make = (
        (Gemma2Config, Gemma2ForCausalLM)
        if "final_logit_softcapping" in scale
        else (CohereConfig, CohereForCausalLM)
    )
    torch.manual_seed(0)
    small = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "pad_token_id": None,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    made = make(config(**small, **scale))
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(8)
    made.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reference = OneRowAtATime(str(tmp_path), max_length=256).nats(
        "Say hello.\n", "Hello there, my friend."
    )
    nats, _ = CausalLM(str(tmp_path), dtype="float32").nll(
        ["Say hello.\n"], ["Hello there, my friend."]
    )
    assert nats[0] == pytest.approx(reference.given, rel=1e-4)


def test_the_gelu_in_one_kernel_is_the_same_function(gpt2):
    reference = OneRowAtATime(gpt2, max_length=128).nats("Say hello.\n", "Hello there, my friend.")
    lm = CausalLM(gpt2, dtype="float32")
    assert not any(type(module).__name__ == "NewGELUActivation" for module in lm.model.modules())
    assert lm.nll(["Say hello.\n"], ["Hello there, my friend."])[0][0] == pytest.approx(
        reference.given, rel=1e-4
    )


def test_append_eos_scores_the_end_of_text_as_the_last_token(lm):
    without, n = lm.nll(["Hi\n"], ["Hello there"])
    with_eos, m = lm.nll(["Hi\n"], ["Hello there"], append_eos=True)
    assert m[0] == n[0] + 1
    assert with_eos[0] != without[0]


def test_a_response_without_tokens_has_no_nats_even_with_the_end_of_text(lm):
    nats, tokens = lm.nll(["Hi\n"], [""], append_eos=True)
    assert np.isnan(nats).all() and tokens.tolist() == [0]


def test_a_model_folder_that_changed_is_loaded_again(tmp_path, weak):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(weak, tmp_path / "model")
    batch = {"prompt": ["Say hello.\n"], "response": ["Hello there, my friend."]}
    scorer = IFD(str(tmp_path / "model"), dtype="float32")
    before = scorer(batch)["ifd"][0]
    file = tmp_path / "model/model.safetensors"
    save_file(
        {name: tensor * 1.5 for name, tensor in load_file(file).items()}, file, {"format": "pt"}
    )
    assert scorer(batch)["ifd"][0] != before
    assert scorer(batch)["ifd"][0] == IFD(str(tmp_path / "model"), dtype="float32")(batch)["ifd"][0]


@pytest.mark.parametrize(
    "setting",
    [
        {"device": "gpu"},
        {"device": "cuda"},
        {"device": "mps"},
        {"attn_implementation": "flash_attention_2"},
    ],
)
def test_a_device_or_attention_that_is_not_there_says_so(weak, setting):
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if present.get(setting.get("device")):
        return
    with pytest.raises(ValueError, match=next(iter(setting))):
        CausalLM(weak, **setting)


def test_numbers_leave_the_device_before_they_are_made_double():
    """Apple's GPUs have no float64, and none is at hand to see it."""
    files = Path(loading.__file__).parent.rglob("*.py")
    calls = [
        line for file in files for line in file.read_text().splitlines() if ".double()" in line
    ]
    assert calls and all(".cpu().double()" in line for line in calls)


def test_a_tokenizer_without_eos_is_fine_until_eos_is_asked_for(tmp_path, weak):
    import shutil

    shutil.copytree(weak, tmp_path, dirs_exist_ok=True)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.eos_token = tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path)
    lm = CausalLM(str(tmp_path), dtype="float32")
    assert np.isfinite(lm.nll(["Hi\n"], ["Hello there"])[0]).all()
    with pytest.raises(ValueError, match="no EOS token"):
        lm.nll(["Hi\n"], ["Hello there"], append_eos=True)


def test_a_folder_without_weights_and_one_without_a_config_say_so(tmp_path, weak):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        CausalLM(str(tmp_path))
    import shutil

    shutil.copy(f"{weak}/config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="no weights"):
        CausalLM(str(tmp_path))


def test_a_model_without_a_tokenizer_says_so(tmp_path, gpt2):
    import shutil

    for name in ("config.json", "model.safetensors"):
        shutil.copy(f"{gpt2}/{name}", tmp_path)
    with pytest.raises((FileNotFoundError, ValueError, OSError), match="tokenizer"):
        CausalLM(str(tmp_path))


def test_damaged_weights_say_so(tmp_path, weak):
    import shutil

    shutil.copytree(weak, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(OSError, match="cannot be read"):
        CausalLM(str(tmp_path))


def test_an_unknown_model_says_so():
    with pytest.raises(FileNotFoundError, match="no model of that name"):
        CausalLM("nobody/nothing-at-all")


def test_an_encoder_decoder_model_is_refused(tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    T5ForConditionalGeneration(
        T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8)
    ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="encoder-decoder"):
        CausalLM(str(tmp_path))


def test_a_window_longer_than_the_model_reads_is_refused(gpt2):
    with pytest.raises(ValueError, match="at most 128 tokens"):
        CausalLM(gpt2, dtype="float32").nll(["a"], ["b"], max_length=129)


def test_an_unknown_dtype_is_said(weak):
    with pytest.raises(ValueError, match="dtype='bf16': did you mean 'bfloat16'"):
        CausalLM(weak, dtype="bf16")
