"""S-IFD and the error of IFD against a plain loop over tokens of one row at a time."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_superfilter import IFD, Threshold, TopK, select, write_report
from hf_superfilter.models.tokenization import Pair, Window

PROMPTS = ["Say hello.\n", "Name a colour.\n", "Name a colour.\n", "Name a colour.\n"]
RESPONSES = [
    "Hello there, my friend, how are you?",
    "Red is a colour, and so are green and blue.",
    "Red is a colour that many people like.",
    "a a a a a a",
]


class Plain:
    """Losses of a text's tokens by transformers, one text at a time."""

    def __init__(self, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def losses(self, text):
        ids = self.tokenizer(text, return_tensors="pt").input_ids
        probabilities = self.model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        return [-float(row[token]) for row, token in zip(probabilities, ids[0, 1:], strict=True)]

    def differences(self, prompt, response):
        """Given minus alone; both end with the same tokens, scored in both."""
        given, alone = self.losses(prompt + response), self.losses(response)
        return np.array(given[-len(alone) :]) - np.array(alone)


def selective(differences, keep):
    largest = sorted(differences, key=lambda value: -abs(value))
    return math.exp(np.mean(largest[: max(1, round(keep * len(largest)))]))


@pytest.fixture(params=["gpt2", "llama"])
def folder(request):
    return request.getfixturevalue(request.param)


def test_the_selective_score_is_that_of_a_plain_loop_over_tokens(folder):
    plain = Plain(folder)
    differences = [plain.differences(*row) for row in zip(PROMPTS, RESPONSES, strict=True)]
    batch = {"prompt": PROMPTS, "response": RESPONSES}
    for keep in (0.1, 0.5, 0.75, 1.0):
        ours = IFD(folder, variant="selective", keep=keep, dtype="float32")(batch)
        wanted = [selective(of_row, keep) for of_row in differences]
        np.testing.assert_allclose(ours["ifd"], wanted, rtol=2e-5)
    halves = IFD(folder, variant="selective", dtype="float32")(batch)
    np.testing.assert_allclose(halves["ifd"], [selective(d, 0.5) for d in differences], rtol=2e-5)


def test_the_error_is_the_standard_error_of_the_mean_difference_of_any_variant(folder):
    plain = Plain(folder)
    differences = [plain.differences(*row) for row in zip(PROMPTS, RESPONSES, strict=True)]
    batch = {"prompt": PROMPTS, "response": RESPONSES}
    for settings in (
        {},
        {"variant": "aligned"},
        {"variant": "selective", "keep": 0.5},
    ):
        errors = IFD(folder, dtype="float32", **settings)(batch)["ifd_error"]
        share = settings.get("keep", 1.0)
        for ours, of_row in zip(errors, differences, strict=True):
            if "variant" in settings and "llama" in folder and share == 1.0:
                of_row = of_row[1:]  # the first response token is left out
            kept = sorted(of_row, key=lambda value: -abs(value))[: round(share * len(of_row))]
            assert ours == pytest.approx(np.std(kept, ddof=1) / math.sqrt(len(kept)), rel=1e-4)
    assert np.isnan(IFD(folder, variant="loss_ratio")(batch)["ifd_error"]).all()


def test_all_tokens_kept_are_the_aligned_variant(folder):
    batch = {"prompt": PROMPTS, "response": RESPONSES}
    every = IFD(folder, variant="selective", keep=1.0, dtype="float32")(batch)["ifd"]
    variant = "bos" if "llama" in folder else "aligned"  # with a token in front, every token counts
    other = IFD(folder, variant=variant, dtype="float32")(batch)["ifd"]
    np.testing.assert_allclose(every, other, rtol=1e-5)


def test_a_chat_is_the_selection_over_the_tokens_of_all_its_turns(gpt2):
    plain = Plain(gpt2)
    chat = {"prompt": [PROMPTS[:2]], "response": [RESPONSES[:2]]}
    pooled = np.concatenate([plain.differences(PROMPTS[i], RESPONSES[i]) for i in (0, 1)])
    ours = IFD(gpt2, variant="selective", keep=0.3, dtype="float32")(chat)
    assert ours["ifd"][0] == pytest.approx(selective(pooled, 0.3), rel=2e-5)
    every = IFD(gpt2, dtype="float32")(chat)["ifd_error"][0]
    assert every == pytest.approx(np.std(pooled, ddof=1) / math.sqrt(len(pooled)), rel=1e-4)


def test_cut_rows_compare_the_same_tokens(gpt2):
    response = " ".join(f"word{number}" for number in range(60))
    columns = IFD(gpt2, variant="selective", keep=1.0, dtype="float32")(
        {"prompt": ["Say a lot.\n"], "response": [response]}
    )
    assert columns["ifd_status"] == ["truncated"]
    differences = Plain(gpt2)
    ids = differences.tokenizer("Say a lot.\n" + response).input_ids[:128]
    border = len(differences.tokenizer("Say a lot.\n").input_ids)
    given = _losses(differences.model, ids)[border:]  # from the second response token on
    alone = _losses(differences.model, ids[border:])
    wanted = math.exp(np.mean(np.array(given) - np.array(alone)))
    assert columns["ifd"][0] == pytest.approx(wanted, rel=2e-5)


@torch.inference_mode()
def _losses(model, ids):
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    return [-float(row[token]) for row, token in zip(logits, ids[1:], strict=True)]


@pytest.mark.parametrize(
    ("given", "alone", "wanted"),
    [
        (Window([9, 1, 2, 3], 1), Window([1, 2, 3], 1), ([2, 3], [2, 3])),
        (Window([0, 9, 1, 2], 2), Window([0, 1, 2], 1), ([1, 2], [1, 2])),
        (Window([9, 5, 5, 5, 5], 1), Window([5, 5, 5, 5], 1), ([5, 5, 5], [5, 5, 5])),
        (Window([9, 1, 2, 3], 1, "truncated"), Window([1, 2, 3, 4], 1), ([2, 3], [2, 3])),
        (Window([9, 7, 2, 3], 1), Window([1, 8, 2, 3], 1), ([2, 3], [2, 3])),
        (Window([9, 7], 1), Window([1, 8], 1), ([], [])),
        (Window([9, 7], 1), Window([], 1, "empty_response"), ([], [])),
    ],
)
def test_the_tokens_in_common_are_found_with_and_without_a_front_and_when_cut(given, alone, wanted):
    slices = Pair(given, alone).common
    scored = (window.ids[window.start :] for window in (given, alone))
    assert [part[where] for part, where in zip(scored, slices, strict=True)] == list(wanted)


def test_undefined_rows_have_no_error_and_one_token_has_none(llama):
    columns = IFD(llama, variant="selective")(
        {
            "prompt": ["Hi\n", "Hi\n", "", "Hi\n"],
            "response": ["", "a", "Hello there", RESPONSES[0]],
        }
    )
    assert columns["ifd_status"] == ["empty_response", "ok", "no_prompt", "ok"]
    assert np.isnan(columns["ifd"]).tolist() == [True, False, True, False]
    assert np.isnan(columns["ifd_error"]).tolist() == [True, True, True, False]


@pytest.mark.parametrize("keep", [0, 1.5, -0.1, "half", True, float("nan")])
def test_a_share_out_of_range_is_refused(keep):
    with pytest.raises(ValueError, match="keep="):
        IFD("m", variant="selective", keep=keep)


def test_a_share_without_the_selective_variant_is_refused():
    with pytest.raises(ValueError, match=r"keep=0.5: only variant='selective'"):
        IFD("m", keep=0.5)


def test_the_report_counts_the_rows_that_their_error_does_not_tell_from_the_cut(tmp_path):
    ifd = [0.5, 0.8, 0.82, 0.7, 0.95, 1.3]
    errors = [0.1, 0.1, 0.05, 0.01, 0.5, 0.9]
    table = Dataset.from_dict({"response": list("abcdef"), "ifd": ifd, "ifd_error": errors})
    selection = select(table, [Threshold("ifd", below=1.0), TopK("ifd", 3)])
    page = write_report(selection, tmp_path / "report.html").read_text()
    assert "<code>3 kept, 0 dropped</code>" in page
    few = select(table, [Threshold("ifd", below=1.0), TopK("ifd", 2)])
    assert "<code>2 kept, 1 dropped</code>" in write_report(few, tmp_path / "2.html").read_text()
