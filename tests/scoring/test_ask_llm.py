"""Ask-LLM is a softmax at the answer position; the question stays whole, the text is cut."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import OneQuestionAtATime
from scipy.stats import spearmanr
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaModel,
    ViTConfig,
    ViTModel,
)

from hf_superfilter import IFD, AskLLM, Recipe, TopK, score
from hf_superfilter.data.chats import flatten_turns
from hf_superfilter.models.next_token import load_answers, load_reader
from hf_superfilter.models.text_tokenizer import MarkedText
from hf_superfilter.revisions import resolve_revision
from hf_superfilter.scoring._questions import QUESTIONS

FORMS = [blank + form for form in ("yes", "Yes", "YES") for blank in ("", " ", "\n")]
LONG = "Water is made of hydrogen and oxygen, and 🎉 boils at one hundred degrees. " * 60


@pytest.fixture
def rows(sample):
    some = sample.select(range(20))
    prompts = [*some["prompt"], "", "", "Chinese\n", "", "Blank\n"]
    responses = [
        *some["response"],
        "Plain text.",
        LONG,
        "北京是中国的首都。" * 40,
        "\n\n  text  ",
        "a",
    ]
    return {"prompt": prompts, "response": responses}


def single_tokens(tokenizer, forms):
    """By the tokenizer's own vocabulary: what each form is where it is a single token."""
    newline = tokenizer("\n", add_special_tokens=False).input_ids
    found = set()
    for form in forms:
        ids = tokenizer(form, add_special_tokens=False).input_ids
        ids = ids[len(newline) :] if form.startswith("\n") else ids
        found |= set(ids) if len(ids) == 1 else set()
    return sorted(found)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("model", ["t5", "llama", "chat", "weak"])
def test_it_equals_a_plain_softmax_of_one_row_at_a_time(request, model, question, rows):
    folder = request.getfixturevalue(model)
    ask, reference = AskLLM(folder, question, dtype="float32"), OneQuestionAtATime(folder)
    columns, asked = ask(rows), ask.questions(rows)
    yes = single_tokens(reference.tokenizer, FORMS)
    no = single_tokens(
        reference.tokenizer,
        [form.replace("yes", "no").replace("Yes", "No").replace("YES", "NO") for form in FORMS],
    )
    defined = [i for i, question in enumerate(asked) if question is not None]
    assert len(defined) >= 15
    assert defined == np.flatnonzero(np.isfinite(columns["ask_llm"])).tolist()
    for i in defined:
        p = reference.softmax(asked[i], special=model != "chat")
        wanted = {
            "ask_llm": p[yes].sum(),
            "ask_llm_relative": p[yes].sum() / (p[yes].sum() + p[no].sum()),
        }
        for (
            column,
            share,
        ) in wanted.items():  # in nats: rounding of the large logits of this model grows with them
            assert math.log(columns[column][i]) == pytest.approx(
                math.log(share), rel=1e-4, abs=1e-4
            )


@pytest.mark.parametrize("model", ["t5", "llama"])
def test_a_probability_does_not_depend_on_batch_size_or_order(request, model, rows):
    folder = request.getfixturevalue(model)
    wanted = AskLLM(folder, dtype="float32")(rows)["ask_llm"]
    backwards = {name: column[::-1] for name, column in rows.items()}
    for budget in (2, 700, 20_000):
        ask = AskLLM(folder, dtype="float32", batch_tokens=budget)
        np.testing.assert_allclose(
            np.log(ask(backwards)["ask_llm"][::-1]), np.log(wanted), rtol=1e-5
        )


@pytest.mark.parametrize("model", ["t5", "llama"])
def test_only_the_answer_position_reaches_the_vocabulary(request, model, rows):
    folder = request.getfixturevalue(model)
    ask = AskLLM(folder, dtype="float32")
    answers = ask._answers(None)
    logits = answers.lm._logits_at if model == "llama" else answers._first_token
    projected = []
    hook = logits.projection.register_forward_hook(
        lambda module, inputs, output: projected.append(output.shape[:-1].numel())
    )
    ask(rows)
    hook.remove()
    assert sum(projected) == len(rows["prompt"])


def test_it_shares_the_weights_of_every_scorer_that_uses_the_same_model(llama):
    assert AskLLM(llama)._answers(None).lm is IFD(llama).language_model()


# The embedded models answer nearly alike for all texts: rounding moves more of their ranks.
@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_bfloat16_ranks_texts_as_float32_does(model, request, sample):
    folder = request.getfixturevalue(model)
    scores = [
        np.asarray(AskLLM(folder, dtype=dtype)(sample[:120])["ask_llm_relative"])
        for dtype in ("float32", "bfloat16")
    ]
    defined = np.isfinite(scores[0])
    assert spearmanr(scores[0][defined], scores[1][defined]).statistic >= 0.99


@pytest.mark.parametrize("model", ["t5", "llama"])
def test_out_of_memory_halves_the_budget_and_goes_on(request, model, rows):
    folder = request.getfixturevalue(model)
    wanted = AskLLM(folder, dtype="float32")(rows)["ask_llm"]
    answers = load_answers.__wrapped__(folder, resolve_revision(folder), "float32", "cpu", None)
    failures = []

    def refuse(module, args):
        if args[0].numel() > 600:
            failures.append(args[0].numel())
            raise torch.OutOfMemoryError("no memory left for this test")

    body = getattr(answers, "lm", answers).model
    hook = (
        body.encoder if model == "t5" else body.get_input_embeddings()
    ).register_forward_pre_hook(
        (lambda module, args, kwargs: refuse(module, (kwargs["input_ids"],)))
        if model == "t5"
        else refuse,
        with_kwargs=model == "t5",
    )
    ask = AskLLM(folder, dtype="float32")
    questions = [
        question.units for question in ask._questions(flatten_turns(rows, ("prompt", "response")))
    ]
    tokens = [list(ask._tokens(("yes",)).values())]
    np.testing.assert_allclose(
        np.log(answers.probability(questions, tokens)[:, 0]), np.log(wanted), rtol=1e-4
    )
    hook.remove()
    assert failures and failures == sorted(failures, reverse=True)
    assert getattr(answers, "lm", answers).batch_tokens <= 1_100


# The text is cut, never the question


def test_the_text_is_cut_and_the_question_stays(t5, weak):
    for folder, limit in ((t5, 256), (weak, 300)):
        ask = AskLLM(folder, max_length=limit)
        short, long = ask.questions({"prompt": ["", ""], "response": ["Water.", LONG]})
        begin, end = QUESTIONS["pretraining"].split("{text}")
        assert short == f"{begin}Water.{end}"
        kept = long.removeprefix(begin).removesuffix(end)
        assert long == begin + kept + end and LONG.startswith(kept) and len(kept) > 200
        ((_, tokens),) = load_reader(folder, resolve_revision(folder)).read([MarkedText(long)])
        assert limit - 4 <= len(tokens) <= limit, "no more is cut than has to be"
        assert ask({"prompt": [""], "response": [LONG]})["ask_llm_status"] == ["truncated"]


def test_in_a_chat_template_the_question_stays_whole_too(chat):
    ask = AskLLM(chat, max_length=200)
    (question,) = ask.questions({"prompt": [""], "response": [LONG]})
    end = QUESTIONS["pretraining"].split("{text}")[1].strip()
    assert question.startswith("<user> ###\nWater is") and question.endswith(
        f"{end}\nThe answer is"
    )


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300),
    limit=st.integers(16, 40),
)
def test_any_text_is_cut_to_a_beginning_of_itself_that_fits(weak, text, limit):
    ask = AskLLM(weak, "Good?\n{text}\nOPTIONS: yes no", max_length=limit)
    (question,) = ask.questions({"prompt": [""], "response": [text]})
    if not text.strip():
        assert question is None
        return
    kept = question.removeprefix("Good?\n").removesuffix("\nOPTIONS: yes no")
    assert text.startswith(kept)
    ((_, tokens),) = load_reader(weak, resolve_revision(weak)).read([MarkedText(question)])
    assert len(tokens) <= limit


def test_statuses_say_why(weak):
    rows = [("", "Water."), ("Hi\n", ""), ("Hi\n", " \n"), (LONG, "Water."), ("Hi\n", LONG)]
    batch = {"prompt": [p for p, _ in rows], "response": [r for _, r in rows]}
    about_text = AskLLM(weak, max_length=300)(batch)
    assert about_text["ask_llm_status"] == [
        "ok",
        "empty_response",
        "empty_response",
        "truncated",
        "truncated",
    ]
    about_pair = AskLLM(weak, "instruction", max_length=300)(batch)
    assert about_pair["ask_llm_status"] == [
        "ok",
        "empty_response",
        "empty_response",
        "prompt_too_long",
        "truncated",
    ]
    assert np.isfinite(about_pair["ask_llm"]).tolist() == [True, False, False, False, True]
    assert np.isfinite(about_pair["ask_llm_relative"]).tolist() == [True, False, False, False, True]


def test_a_model_that_answers_with_nan_gives_not_finite(tmp_path, gpt2):
    model = GPT2LMHeadModel.from_pretrained(gpt2)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(gpt2).save_pretrained(tmp_path)
    columns = AskLLM(str(tmp_path), "Good? {text}")({"prompt": [""], "response": ["Hello there"]})
    assert columns["ask_llm_status"] == ["not_finite"] and math.isnan(columns["ask_llm"][0])


def test_a_chat_is_asked_about_as_its_last_answer_after_all_that_was_said():
    prompts, answers = ["Hi\n", "Hi\nHello\nHow?\n"], ["Hello", "Well"]
    ask = AskLLM("embedded:weak", "instruction")
    whole, pair = (
        {"prompt": [prompts], "response": [answers]},
        {"prompt": prompts[1:], "response": answers[1:]},
    )
    assert ask.questions(whole) == ask.questions(pair)
    assert "Instruction:\nHi\nHello\nHow?\n\n\nResponse:\nWell\n###" in ask.questions(whole)[0]
    unanswered = {"prompt": [prompts], "response": [["Hello", ""]]}
    assert ask.questions(unanswered) == ask.questions({"prompt": ["Hi\n"], "response": ["Hello"]})


def test_braces_in_a_text_are_text():
    (question,) = AskLLM("embedded:weak", "Good? {text}").questions(
        {"prompt": [""], "response": ["{x} {text} {0}"]}
    )
    assert question == "Good? {x} {text} {0}"


def test_tokens_are_those_of_the_response_so_that_a_budget_can_be_kept(weak, rows):
    columns = AskLLM(weak)(rows)
    tokenizer = load_reader(weak, resolve_revision(weak)).tokenizer
    assert columns["ask_llm_tokens"].tolist() == [
        len(tokenizer(r).input_ids) for r in rows["response"]
    ]


@pytest.mark.parametrize(
    ("fixture", "template", "begins"),
    [
        ("t5", None, False),
        ("llama", None, True),
        ("llama", "<s>{{ messages[0].content }}", True),
        ("llama", "{{ messages[0].content }}", False),
    ],
)
def test_a_decoder_is_asked_with_the_marks_of_a_beginning_and_without_an_end(
    request, tmp_path, fixture, template, begins
):
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(fixture))
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    GPT2Config(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    (question,) = AskLLM(str(tmp_path))._questions(
        flatten_turns({"prompt": [""], "response": ["Water."]}, ("prompt", "response"))
    )
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert (question.units[0] == bos, question.units[-1] == eos) == (begins, False)
    assert question.units.count(bos) == begins, "a chat template that writes it gets no second one"


# Answers


def test_the_forms_of_an_answer_are_those_that_are_one_token(weak, t5):
    for folder in (weak, t5):
        reader = load_reader(folder, resolve_revision(folder))
        found = reader.tokens_of(["yes", "Yes", "YES"])
        assert list(found) == ["yes", " yes", "Yes", " Yes"], (
            "the embedded tokenizer makes several tokens of YES"
        )
        assert [reader.tokenizer.decode([token]) for token in found.values()] == list(found)


def test_where_blanks_belong_to_words_the_bare_and_the_marked_word_both_count(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import TokenizersBackend

    words = ["<unk>", "▁", "▁yes", "yes", "▁no", "\n", "▁good", "x", "▁x", "y", "e", "s"]
    vocabulary = [
        (word, -float(len(words) - i) if len(word) > 1 else -20.0) for i, word in enumerate(words)
    ]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    TokenizersBackend(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(tmp_path)
    GPT2Config(vocab_size=len(words)).save_pretrained(tmp_path)
    found = load_reader(str(tmp_path), resolve_revision(str(tmp_path))).tokens_of(["yes"])
    assert sorted(words[token] for token in found.values()) == ["yes", "▁yes"]


def test_a_tokenizer_that_makes_several_tokens_of_yes_is_said(weak):
    ask = AskLLM(weak, yes=("indubitably so",))
    with pytest.raises(
        ValueError,
        match="several tokens of each of 'indubitably so', 'Indubitably so', 'INDUBITABLY SO'",
    ):
        ask({"prompt": [""], "response": ["Water."]})


def test_other_answers_give_other_numbers_and_a_word_as_written_is_taken_as_written(weak):
    batch = {"prompt": [""], "response": ["Water."]}
    p = {
        words: AskLLM(weak, yes=words, dtype="float32")(batch)["ask_llm"][0]
        for words in [("yes",), ("Yes",), ("yes", "true")]
    }
    assert p["Yes",] < p["yes",] < p["yes", "true"]
    assert "' true' (" in AskLLM(weak, yes=("yes", "true")).provenance()["yes"]


def test_the_recipe_keeps_the_answers_and_the_run_the_tokens(tmp_path, sample):
    recipe = Recipe(
        "embedded:sample",
        score=[AskLLM("embedded:weak", "instruction", yes=["yes"])],
        select=[TopK("ask_llm", 0.1)],
    )
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert "'yes':\n    - 'yes'\n    'no':\n    - 'no'\n" in recipe.to_yaml()
    score(sample.select(range(6)), recipe.score, tmp_path / "run")
    made = json.loads((tmp_path / "run/run.json").read_text())["scorers"]["ask_llm"]["made_with"]
    assert made["model"] == "embedded:weak" and made["revision"].startswith("sha256:")
    assert "' Yes' (" in made["yes"] and "'NO' (" in made["no"]


# Bad input


@pytest.mark.parametrize("arguments", ["yes: ['sure']", "'yes': [sure]"])
def test_yes_is_a_word_in_a_recipe_with_and_without_quotes(arguments):
    (scorer,) = Recipe.from_yaml(
        "dataset: embedded:sample\nselect: [TopK: {by: ask_llm, k: 2}]\n"
        f"score:\n- AskLLM: {{model: 'embedded:weak', {arguments}}}\n"
    ).score
    assert scorer == AskLLM("embedded:weak", yes=("sure",))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompt": "pretrainig"}, "did you mean 'pretraining'"),
        ({"prompt": "Good? {txt}"}, r"field \{txt\}: did you mean 'text'"),
        ({"prompt": "Good? {}"}, "has the field"),
        ({"prompt": "Good? {0}"}, "has the field"),
        ({"prompt": "Good? {text:d}"}, r"field \{text:d\}: did you mean 'text'"),
        ({"prompt": "Good? {text!r}"}, r"field \{text!r\}"),
        ({"prompt": "Good? {text:{x}}"}, r"field \{text:\{x\}\}"),
        ({"prompt": "Good? {prompt}"}, "ask about"),
        ({"prompt": "Good? {text} {response}"}, "ask about"),
        ({"prompt": "Good? {text"}, "cannot be filled"),
        ({"prompt": 3}, "prompt=3"),
        ({"yes": ()}, r"yes=\(\)"),
        ({"no": ("",)}, "no="),
        ({"yes": 3}, "yes=3"),
        ({"no": ("no", "yes")}, "'YES' cannot mean both"),
    ],
)
def test_bad_questions_and_answers_are_refused_at_once(settings, said):
    with pytest.raises(ValueError, match=said):
        AskLLM("m", **settings)


def test_a_question_that_fills_the_window_by_itself_is_said(weak):
    with pytest.raises(ValueError, match=r"the question alone takes .* of the 50"):
        AskLLM(weak, max_length=50)({"prompt": [""], "response": ["Water."]})
    with pytest.raises(ValueError, match="at most 1024 tokens"):
        AskLLM(weak, max_length=2_000)({"prompt": [""], "response": ["Water."]})


def test_a_model_without_a_vocabulary_head_is_said(tmp_path, weak):
    config = LlamaConfig(
        vocab_size=9_000,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        tie_word_embeddings=False,
    )
    vision = ViTConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=8,
        patch_size=4,
    )
    for name, model in (("body", LlamaModel(config)), ("vision", ViTModel(vision))):
        model.save_pretrained(tmp_path / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(f"{weak}/{file}", tmp_path / name)
        with pytest.raises(ValueError, match="vocabulary head"):
            AskLLM(str(tmp_path / name))({"prompt": [""], "response": ["Water."]})
