"""IFD and perplexity by a model behind a server: the numbers of the model here, or a sentence."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from openai_server import OpenAIServer, forget_environment
from test_causal_lm import AWKWARD

from hf_superfilter import (
    IFD,
    Perplexity,
    PromptMatch,
    Recipe,
    SuperfilterError,
    TopK,
    compare_models,
    score,
)
from hf_superfilter.models.served import prompt_logprobs
from hf_superfilter.models.served.openai_client import served_model

pytest.importorskip("openai", reason="OpenAI's client is installed with the extra 'api'")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """No route of an earlier server, no key of the user's, no waiting for what fails on purpose."""
    forget_environment(monkeypatch)
    prompt_logprobs.load_remote_lm.cache_clear()


@pytest.fixture
def batch(sample):
    rows = [*AWKWARD, *zip(sample[:12]["prompt"], sample[:12]["response"], strict=True)]
    return {"prompt": [p for p, _ in rows], "response": [r for _, r in rows]}


def assert_equal_columns(served, here):
    assert list(served) == list(here)
    for name, values in here.items():
        if name.endswith("_status") or name.endswith("_tokens"):
            assert list(served[name]) == list(values)
        else:
            np.testing.assert_allclose(served[name], values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("prompts", ["vllm", "echo"])
@pytest.mark.parametrize("model", ["weak", "llama"])  # llama's tokenizer puts a token in front
def test_ifd_by_a_server_is_the_ifd_of_the_same_model_here(model, prompts, batch, request):
    folder = request.getfixturevalue(model)
    with OpenAIServer(folder, prompts=prompts) as server:
        served = IFD("tiny", endpoint=server.url, tokenizer=folder, max_length=256)(batch)
        assert server.at_once > 1, "requests run side by side"
    assert_equal_columns(served, IFD(folder, dtype="float32", max_length=256)(batch))


def test_perplexity_by_a_server_is_that_of_the_same_model_here(weak, batch):
    with OpenAIServer(weak) as server:
        scorer = Perplexity("tiny", endpoint=server.url, tokenizer=weak, append_eos=True)
        served = scorer(batch)
    assert_equal_columns(served, Perplexity(weak, dtype="float32", append_eos=True)(batch))


def test_the_match_of_prompts_by_a_server_is_that_of_the_same_model_here(weak, batch, tmp_path):
    here = PromptMatch(weak, dtype="float32", others=2)
    here = here.prepare(Dataset.from_dict(batch), str(tmp_path))
    with OpenAIServer(weak) as server:
        served = PromptMatch(
            "tiny", endpoint=server.url, tokenizer=weak, others=2, prompts=here.prompts
        )(batch)
    assert_equal_columns(served, here(batch))


def test_a_server_that_tells_nothing_of_the_prompt_is_refused_before_any_row_is_sent(weak, batch):
    with OpenAIServer(weak, prompts="") as server:
        with pytest.raises(SuperfilterError, match="does not tell the log-probabilities of a prom"):
            IFD("tiny", endpoint=server.url, tokenizer=weak)(batch)
        assert set(server.asked) == {prompt_logprobs.PROBE}


def test_an_echo_that_tells_of_each_token_after_itself_is_refused(weak, batch):
    with (
        OpenAIServer(weak, prompts="shifted") as server,
        pytest.raises(SuperfilterError, match="of each token how likely it is after itself"),
    ):
        IFD("tiny", endpoint=server.url, tokenizer=weak)(batch)
    assert len(set(server.asked)) == 2, "no row was sent"


def test_a_server_that_generates_where_none_is_asked_for_is_asked_for_one_token(weak, batch):
    with OpenAIServer(weak, prompts="eager") as server:
        served = IFD("tiny", endpoint=server.url, tokenizer=weak)(batch)
    assert_equal_columns(served, IFD(weak, dtype="float32")(batch))


ONE = {"prompt": ["Say hello."], "response": ["Hello there, my friend."]}


def changed(answer):
    """A kind of server whose answer to a prompt of token ids is changed."""

    class Changed(OpenAIServer):
        def complete_ids(self, body):
            return answer(super().complete_ids(body))

    return Changed


def without(*names):
    def answer(body):
        return body | {"choices": [{k: v for k, v in body["choices"][0].items() if k not in names}]}

    return answer


def with_numbers(change):
    def answer(body):
        numbers = body["choices"][0].get("logprobs", {}).get("token_logprobs", [])
        numbers[1:] = [change(place, number) for place, number in enumerate(numbers[1:])]
        return body

    return answer


with_null = with_numbers(lambda place, number: None if place == 2 else number)
with_odds = with_numbers(lambda place, number: 0.5)


@pytest.mark.parametrize(
    ("prompts", "answer"),
    [
        ("vllm", without("prompt_logprobs", "logprobs")),
        ("vllm", lambda body: {"choices": []}),
        ("vllm", lambda body: {"choices": [{"prompt_logprobs": [None]}]}),
        ("vllm", lambda body: {"object": "error", "message": "no"}),
        ("vllm", lambda body: {"choices": [{"message": {"content": "Hello"}}]}),
        ("echo", with_null),
        ("echo", lambda body: body | {"choices": [{"logprobs": None, "text": ""}]}),
    ],
)
def test_an_answer_without_the_numbers_is_refused_in_one_sentence(prompts, answer, weak):
    with (
        changed(answer)(weak, prompts=prompts) as server,
        pytest.raises(SuperfilterError, match=r"does not tell the log-prob.*serve the model with"),
    ):
        IFD("tiny", endpoint=server.url, tokenizer=weak)(ONE)


def test_numbers_that_are_no_log_probabilities_are_refused(weak):
    with (
        changed(with_odds)(weak, prompts="echo") as server,
        pytest.raises(SuperfilterError, match=r"some are no log-probabilities"),
    ):
        IFD("tiny", endpoint=server.url, tokenizer=weak)(ONE)


@pytest.mark.parametrize(
    ("settings", "without_v1", "model", "error", "sentence"),
    [
        ({}, False, "other", ValueError, "'other' .*does not exist.*check the model's name"),
        ({}, True, "tiny", ValueError, "404.*mostly ends in /v1"),
        ({"fault": lambda number: "500"}, False, "tiny", ConnectionError, "takes no token ids"),
        ({"fault": lambda number: "429"}, False, "tiny", ConnectionError, "429 - .*try again"),
        (
            {"fault": lambda number: "page"},
            False,
            "tiny",
            ValueError,
            "not answer as OpenAI's proto",
        ),
        ({"fault": lambda number: "cut"}, False, "tiny", ConnectionError, "cannot be reached"),
        (
            {"fault": lambda number: "slow"},
            False,
            "tiny",
            ConnectionError,
            "cannot be reached .*time",
        ),
        ({"key": "k"}, False, "tiny", PermissionError, "wants another key .*OPENAI_API_KEY"),
    ],
)
def test_a_server_that_fails_is_one_sentence(
    settings, without_v1, model, error, sentence, weak, monkeypatch
):
    import openai

    monkeypatch.setattr("openai._base_client.DEFAULT_TIMEOUT", openai.Timeout(0.25))
    with OpenAIServer(weak, **settings) as server, pytest.raises(error, match=sentence) as caught:
        address = server.url.removesuffix("/v1") if without_v1 else server.url
        IFD(model, endpoint=address, tokenizer=weak)(ONE)
    assert "\n" not in str(caught.value)


def test_an_address_without_a_list_of_models_asks_for_a_name(weak):
    served_model.cache_clear()
    with OpenAIServer(weak) as server:
        assert served_model(server.url) == "tiny"
        with pytest.raises(SuperfilterError, match=r"list its models \(.*404.*give NAME@http"):
            served_model(server.url.removesuffix("/v1"))


def test_nobody_at_the_address_is_one_sentence(weak):
    with pytest.raises(ConnectionError, match=r"cannot be reached .*start it"):
        IFD("tiny", endpoint="http://127.0.0.1:9/v1", tokenizer=weak)(ONE)


def test_a_slash_at_the_end_a_key_and_a_busy_server_change_no_number(weak, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    here = IFD(weak, dtype="float32")(ONE)
    busy = {0: "429", 2: "500", 3: "429"}
    with OpenAIServer(weak, key="k", fault=lambda number: busy.get(number, "")) as server:
        served = IFD("tiny", endpoint=f"{server.url}/", tokenizer=weak)(ONE)
        assert set(server.keys) == {"k"}
    assert_equal_columns(served, here)


class CutServer(OpenAIServer):
    """A server that reads one token less than it is sent, as with another tokenizer."""

    def complete_ids(self, body):
        return super().complete_ids(body | {"prompt": body["prompt"][1:]})


class ShiftedServer(OpenAIServer):
    """A server that answers about other tokens."""

    def complete_ids(self, body):
        return super().complete_ids(body | {"prompt": [t + 1 for t in body["prompt"]]})


@pytest.mark.parametrize("kind", [CutServer, ShiftedServer])
def test_an_answer_about_other_tokens_is_refused(kind, weak, batch):
    with (
        kind(weak) as server,
        pytest.raises(SuperfilterError, match="about other tokens than were sent"),
    ):
        IFD("tiny", endpoint=server.url, tokenizer=weak)(batch)


class CuttingServer(OpenAIServer):
    """A server that reads the last 32 tokens of a prompt, and answers as to a whole one."""

    def complete_ids(self, body):
        return super().complete_ids(body | {"prompt": body["prompt"][-32:]})


@pytest.mark.parametrize("prompts", ["vllm", "echo"])
def test_a_text_that_the_server_cuts_is_refused_with_what_to_lower(prompts, weak, batch):
    with (
        CuttingServer(weak, prompts=prompts) as server,
        pytest.raises(SuperfilterError, match=r"\(3\d .* for .* tokens, .*: lower max_length\)"),
    ):
        IFD("tiny", endpoint=server.url, tokenizer=weak)(batch)


class SpellingServer(OpenAIServer):
    """An echo that spells its tokens, as vLLM's does."""

    def complete_ids(self, body):
        answer = super().complete_ids(body)
        spelled = [self.tokenizer.decode([number]) for number in body["prompt"]]
        answer["choices"][0].get("logprobs", {})["tokens"] = spelled
        return answer


class LateServer(OpenAIServer):
    """An echo without the first token and with a generated one: as many numbers, one place late."""

    spells = False

    def complete_ids(self, body):
        rest = body["prompt"][1:]
        answer = super().complete_ids(body | {"prompt": rest, "max_tokens": 1})
        logprobs = answer["choices"][0].get("logprobs", {})
        logprobs.pop("top_logprobs", None)
        if self.spells:
            logprobs["tokens"] = [*(self.tokenizer.decode([number]) for number in rest), "a"]
        return answer


class LateSpellingServer(LateServer):
    """The same, which spells its tokens."""

    spells = True


def test_an_echo_that_spells_its_tokens_gives_the_same_numbers(weak, batch):
    with SpellingServer(weak, prompts="echo") as server:
        served = Perplexity("tiny", endpoint=server.url, tokenizer=weak)(batch)
    assert_equal_columns(served, Perplexity(weak, dtype="float32")(batch))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(LateServer, "what belongs to the one behind it"), (LateSpellingServer, "where 'W' was sent")],
)
def test_an_echo_that_is_a_place_late_is_refused(kind, reason, weak, batch):
    with kind(weak, prompts="echo") as server, pytest.raises(SuperfilterError, match=reason):
        IFD("tiny", endpoint=server.url, tokenizer=weak)(batch)


class NamingServer(OpenAIServer):
    """An echo that names its tokens by number, as vLLM's with --return-tokens-as-token-ids."""

    def complete_ids(self, body):
        answer = super().complete_ids(body)
        named = [f"token_id:{number}" for number in body["prompt"]]
        answer["choices"][0].get("logprobs", {})["tokens"] = named
        return answer


def test_an_echo_that_names_its_tokens_by_number_gives_the_same_numbers(weak, batch):
    with NamingServer(weak, prompts="echo") as server:
        served = Perplexity("tiny", endpoint=server.url, tokenizer=weak)(batch)
    assert_equal_columns(served, Perplexity(weak, dtype="float32")(batch))


def test_the_tokenizer_of_another_model_is_refused_where_the_server_spells_tokens(
    weak, batch, tmp_path
):
    """Every number of the other vocabulary is one of the served model's, and means another text."""
    for name in ("config.json", "tokenizer_config.json"):
        shutil.copy(f"{weak}/{name}", tmp_path)
    facts = json.loads(Path(weak, "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"] for token in facts["added_tokens"]}
    vocabulary = facts["model"]["vocab"]
    texts = [text for text in vocabulary if text not in special]
    numbers = [vocabulary[text] for text in texts]
    vocabulary.update(zip(texts, reversed(numbers), strict=True))
    (tmp_path / "tokenizer.json").write_text(json.dumps(facts), encoding="utf-8")
    with (
        OpenAIServer(weak) as server,
        pytest.raises(SuperfilterError, match=r"about other tokens .* is the tokenizer of 'tiny'"),
    ):
        IFD("tiny", endpoint=server.url, tokenizer=str(tmp_path))(batch)


class ChangedNumbers(OpenAIServer):
    """A server that tells `change(log-probability)` in every place of a prompt."""

    def change(self, number, asked):
        raise NotImplementedError

    def complete_ids(self, body):
        answer, asked = super().complete_ids(body), self.tokenizer.decode(body["prompt"])
        choice = answer["choices"][0]
        for entries in choice.get("prompt_logprobs", [])[1:]:
            for entry in entries.values():
                entry["logprob"] = self.change(entry["logprob"], asked)
        told = choice.get("logprobs", {})
        numbers = told.get("token_logprobs", [])
        numbers[1:] = [self.change(number, asked) for number in numbers[1:]]
        for top in filter(None, told.get("top_logprobs", [])):
            top.update({text: self.change(number, asked) for text, number in top.items()})
        return answer


class LogitsServer(ChangedNumbers):
    """Logits, as vLLM tells them with --logprobs-mode raw_logits: GPT-2's are all below 0."""

    def change(self, number, asked):
        return number - 40


class ListingServer(ChangedNumbers):
    """OpenAI's and vLLM's -9999 for what is not among the likeliest tokens."""

    def change(self, number, asked):
        return number if number > -4 else -9999.0


class UnderflowServer(ChangedNumbers):
    """The same of one token alone, as of a model in float16 whose logits overflow."""

    def change(self, number, asked):
        return -9999.0 if "underflow" in asked and number < -11 else number


@pytest.mark.parametrize("prompts", ["vllm", "echo"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [(LogitsServer, r"some are no log-probabilities, -4\d"), (ListingServer, "it knows none")],
)
def test_numbers_that_look_like_log_probabilities_are_refused(kind, reason, prompts, weak, batch):
    with kind(weak, prompts=prompts) as server, pytest.raises(SuperfilterError, match=reason):
        IFD("tiny", endpoint=server.url, tokenizer=weak)(batch)


@pytest.mark.parametrize("prompts", ["vllm", "echo"])
def test_a_token_without_a_log_probability_leaves_its_row_undefined(prompts, weak):
    rows = {
        "prompt": ["Say hello.", "Say underflow."],
        "response": ["Hello there, my friend.", "An underflow is a number. " * 8 + "Qz\u00ff"],
    }
    here = IFD(weak, dtype="float32")(rows)
    with UnderflowServer(weak, prompts=prompts) as server:
        served = IFD("tiny", endpoint=server.url, tokenizer=weak)(rows)
    assert served["ifd"][0] == pytest.approx(here["ifd"][0], rel=1e-4)
    assert np.isnan(served["ifd"][1]) and served["ifd_status"] == ["ok", "not_finite"]


class CachingServer(ChangedNumbers):
    """A server that has old numbers of a text that it has read before, each time others."""

    times = 0

    def complete_ids(self, body):
        self.times += 1
        return super().complete_ids(body)

    def change(self, number, asked):
        return number - 0.5 * (self.times - 1)


@pytest.mark.parametrize("prompts", ["vllm", "echo"])
def test_a_server_that_tells_other_numbers_of_one_text_is_refused(prompts, weak, batch):
    with (
        CachingServer(weak, prompts=prompts) as server,
        pytest.raises(SuperfilterError, match="asked again about one text it tells other numbers"),
    ):
        IFD("tiny", endpoint=server.url, tokenizer=weak)(batch)


class ShortServer(OpenAIServer):
    """An echo that knows nothing where a token is generated too."""

    def complete_ids(self, body):
        answer = super().complete_ids(body)
        if body["max_tokens"]:
            answer["choices"][0]["logprobs"] = {
                "token_logprobs": [None] * (len(body["prompt"]) + 1)
            }
        return answer


def test_an_echo_that_cannot_be_checked_is_one_sentence(weak):
    with (
        ShortServer(weak, prompts="echo") as server,
        pytest.raises(SuperfilterError, match="does not tell the log-probabilities"),
    ):
        IFD("tiny", endpoint=server.url, tokenizer=weak)(ONE)


class RefusingServer(OpenAIServer):
    """A server that refuses any text that holds a word, under a status and with a body."""

    status, body = 413, {"error": {"message": "Request Entity Too Large"}}

    def answer(self, path, body):
        if "friend" in self.tokenizer.decode(body["prompt"]):
            return self.status, self.body
        return super().answer(path, body)


class NoCreditServer(RefusingServer):
    """A gateway without money."""

    status, body = 402, {"error": {"message": "Insufficient credits", "code": 402}}


class ReportingServer(RefusingServer):
    """LM Studio's and OpenRouter's answer: an error under the status of success."""

    status, body = 200, {"error": {"message": "Insufficient credits", "code": 402}}


class TextServer(RefusingServer):
    """The same as text."""

    status, body = 200, {"error": "Unexpected endpoint or method. (POST /completions)"}


WITHIN = {"choices": [{"error": {"message": "Provider returned error", "code": 502}, "text": ""}]}


class WithinServer(RefusingServer):
    """The same within a choice."""

    status, body = 200, WITHIN


@pytest.mark.parametrize(
    ("kind", "error", "sentence"),
    [
        (RefusingServer, ValueError, "refuses the question .*413.*Too Large.*lower max_length"),
        (NoCreditServer, ValueError, "refuses the question .*402.*Insufficient credits"),
        (ReportingServer, ValueError, "refuses the question .*Insufficient credits"),
        (TextServer, ValueError, "refuses the question .*Unexpected endpoint.*ends in /v1"),
        (WithinServer, ConnectionError, "fails .*502: Provider returned error.*run it again"),
    ],
)
def test_a_refusal_of_one_text_is_said_as_the_server_says_it(kind, error, sentence, weak):
    with kind(weak) as server, pytest.raises(error, match=sentence) as caught:
        IFD("tiny", endpoint=server.url, tokenizer=weak)(ONE)
    assert isinstance(caught.value, ConnectionError) == (error is ConnectionError)


def test_what_passes_is_asked_again_and_what_stays_is_resumed(weak, sample, tmp_path):
    rows = sample.select(range(12)).select_columns(["prompt", "response"])
    down = {"now": False}

    def fault(number):
        if down["now"] and number > 16:
            return "500"
        return "429" if number % 7 == 3 else ""

    with OpenAIServer(weak, fault=fault) as server:
        scorer = IFD("tiny", endpoint=server.url, tokenizer=weak)
        down["now"] = True
        with pytest.raises(ConnectionError, match="still fails after some retries"):
            score(rows, [scorer], tmp_path, chunk_size=4)
        finished = len(list(tmp_path.glob("ifd/*.parquet")))
        assert 0 < finished < 3
        down["now"] = False
        served = score(rows, [scorer], tmp_path, chunk_size=4)
    here = IFD(weak, dtype="float32")(rows[:])
    np.testing.assert_allclose(served["ifd"][:], here["ifd"], rtol=1e-4)
    record = json.loads((tmp_path / "run.json").read_text())["scorers"]["ifd"]["made_with"]
    assert record["device"] == server.url and record["asked"] == "completions with prompt_logprobs"
    assert record["tokenizer"].endswith("weak") and record["tokenizer_revision"]


def test_a_laptops_model_is_compared_with_one_behind_a_server(weak, sample, tmp_path):
    rows = sample.select(range(40)).select_columns(["prompt", "response"])
    served_model.cache_clear()
    with OpenAIServer(weak) as server:
        server.names = [weak]  # its own tokenizer lies there
        result = compare_models(rows, ["embedded:weak", server.url], tmp_path / "one", resamples=20)
        assert next(iter(result.agreements.values()))["spearman"] == pytest.approx(1.0, abs=0.01)
        served_model.cache_clear()
        server.names = [weak, "another"]
        with pytest.raises(SuperfilterError, match=r"serves .*, 'another': give NAME@http"):
            compare_models(rows, ["embedded:weak", server.url], tmp_path / "two")
        both = ["embedded:weak", f"{weak}@{server.url}"]
        again = compare_models(rows, both, tmp_path / "two", resamples=20)
    assert again.agreements.keys() == {tuple(both)}


def test_settings_that_the_server_chooses_and_a_tokenizer_for_nothing_are_refused(weak):
    with pytest.raises(SuperfilterError, match="dtype='int8' is the server's to choose"):
        IFD("tiny", endpoint="http://localhost:1/v1", dtype="int8")
    with pytest.raises(SuperfilterError, match="is for a model behind a server"):
        Perplexity(weak, tokenizer=weak)
    with pytest.raises(SuperfilterError, match=r"no local folder .*name it with tokenizer="):
        IFD("a/b", endpoint="http://localhost:1/v1")({"prompt": ["a"], "response": ["b"]})


def test_a_served_scorer_comes_back_from_its_recipe(weak):
    scorer = IFD("tiny", endpoint="http://localhost:8000/v1/", tokenizer=weak)
    recipe = Recipe("embedded:sample", [scorer], [TopK("ifd", 0.1)])
    assert Recipe.from_yaml(recipe.to_yaml()).score == (scorer,)
    assert "endpoint='http://localhost:8000/v1'" in repr(scorer)
    assert scorer.identity()["endpoint"] == "http://localhost:8000/v1"


def test_no_rows_ask_nothing(weak):
    with OpenAIServer(weak) as server:
        table = Dataset.from_dict({"prompt": ["a"], "response": [""]})
        columns = IFD("tiny", endpoint=server.url, tokenizer=weak)(table[:])
        assert columns["ifd_status"] == ["empty_response"]
        assert set(server.asked) == {prompt_logprobs.PROBE}
