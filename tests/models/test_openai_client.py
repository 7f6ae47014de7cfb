"""Ask-LLM behind an endpoint: the same numbers as here, and a failure costs time or is a sentence,
never a score.
"""

import json
import logging
import pickle
import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from openai_server import OpenAIServer, forget_environment
from reference import OneQuestionAtATime

from hf_superfilter import AskLLM, Recipe, SuperfilterError, TopK, score
from hf_superfilter.models.served import openai_client, questions

pytest.importorskip("openai", reason="OpenAI's client is installed with the extra 'api'")

QUESTION = "{text}\nIs this good? The answer is"
WORDS = {
    "yes": ("a", "an"),
    "no": ("the",),
}  # what the embedded model, which cannot answer, likes to say
KEY = "sk-a-secret-that-must-not-leak"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """No route of an earlier server, no key of the user's, no waiting for what fails on purpose."""
    forget_environment(monkeypatch)
    questions._find_route.cache_clear()


@pytest.fixture(params=["weak", "chat"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def rows(sample):
    return sample.select(range(24)).select_columns(["prompt", "response"])


def ask(server, **settings):
    return AskLLM("tiny", QUESTION, **WORDS, endpoint=server.url, **settings)


def test_what_the_server_names_is_what_a_plain_softmax_says(folder, rows):
    with OpenAIServer(folder) as server:
        columns = ask(server)(rows[:])
    here = AskLLM(folder, QUESTION, **WORDS, dtype="float32")
    exact, reference = here(rows[:]), OneQuestionAtATime(folder)
    defined = np.isfinite(columns["ask_llm"])
    assert defined.sum() >= 10
    assert [s == "not_in_top" for s in columns["ask_llm_status"]] == (
        ~defined & np.isfinite(exact["ask_llm"])
    ).tolist()
    for i, question in enumerate(here.questions(rows[:])):
        if question is not None:
            p, tokens = reference.softmax(question, special="chat" not in folder).topk(20)
            texts = [reference.tokenizer.decode([t]).strip() for t in tokens.tolist()]
            named = [
                float(p)
                for p, text in zip(p, texts, strict=True)
                if text in ("a", "A", "an", "An", "AN")
            ]
            assert columns["ask_llm"][i] == pytest.approx(
                sum(named) if named else np.nan, rel=1e-4, nan_ok=True
            )
            if named:  # what is not named is rarer than what is
                assert -1e-6 <= exact["ask_llm"][i] - columns["ask_llm"][i] <= 10 * float(p[-1])


def test_a_chat_is_asked_for_where_there_is_one_and_a_completion_elsewhere(folder, rows):
    with OpenAIServer(folder) as server:
        scorer = ask(server)
        scorer(rows[:2])
        assert sorted(server.asked[1:]) == sorted(
            AskLLM(folder, QUESTION, **WORDS).questions(rows[:2])
        )
        path = "chat/completions" if "chat" in folder else "completions"
        assert scorer.provenance()["asked"] == f"{path}, 20 log-probabilities"
        assert scorer.questions(rows[:1]) == [
            QUESTION.format(text=rows["prompt"][0] + rows["response"][0])
        ]


def test_a_server_that_names_five_tokens_is_asked_for_five(chat, rows):
    with OpenAIServer(chat, most=5) as server:
        scorer = ask(server)
        few = scorer(rows[:])["ask_llm"]
        assert scorer.provenance()["asked"] == "chat/completions, 5 log-probabilities"
    with OpenAIServer(chat) as server:
        many = ask(server)(rows[:])["ask_llm"]
    both = np.isfinite(few)
    assert both.any() and np.isfinite(many[both]).all() and (few[both] <= many[both] + 1e-6).all()


def test_an_answer_that_the_server_does_not_name_is_undefined_not_zero(weak, rows):
    with OpenAIServer(weak) as server:
        columns = AskLLM("tiny", yes="zygote", no="quartz", endpoint=server.url)(rows[:3])
        mixed = AskLLM("tiny", QUESTION, yes=WORDS["yes"], no="quartz", endpoint=server.url)(
            rows[:12]
        )
    assert columns["ask_llm_status"] == ["not_in_top"] * 3
    assert np.isnan(columns["ask_llm"]).all() and np.isnan(columns["ask_llm_relative"]).all()
    assert np.isfinite(mixed["ask_llm"]).any(), "P(yes) needs no P(no)"
    assert np.isnan(mixed["ask_llm_relative"]).all(), "the relative one does"


def test_failures_that_pass_cost_time_but_no_number(chat, rows):
    with OpenAIServer(chat) as server:
        wanted = ask(server)(rows[:])
    kinds = ["429", "", "500", "", "cut", ""]
    # Only among the first requests: no row may meet one at all of its seven tries.
    faults = [kinds[number % 6] for number in range(40)] + [""] * 1_000
    with OpenAIServer(chat, fault=faults.__getitem__) as server:
        questions._find_route.cache_clear()
        found = ask(server)(rows[:])
        assert server.requests > len(rows) * 1.5
        assert 1 < server.at_once <= openai_client.CONCURRENT_REQUESTS
    for name, values in wanted.items():
        np.testing.assert_array_equal(values, found[name])


def test_a_failed_chunk_is_an_error_and_a_second_run_asks_only_for_what_is_missing(
    tmp_path, chat, rows
):
    asked = {"limit": 12}
    with OpenAIServer(
        chat, fault=lambda number: "" if number < asked["limit"] else "mute"
    ) as server:
        with pytest.raises(ValueError, match="without log-probabilities"):
            score(rows, [ask(server)], tmp_path / "run", chunk_size=4)
        done = len(list((tmp_path / "run/ask_llm").glob("*.parquet")))
        assert 1 <= done < 6
        asked["limit"], before = 10_000, server.requests
        table = score(rows, [ask(server)], tmp_path / "run", chunk_size=4)
        assert server.requests - before == 24 - 4 * done
        np.testing.assert_array_equal(table["ask_llm"][:], ask(server)(rows[:])["ask_llm"])
    made = json.loads((tmp_path / "run/run.json").read_text())["scorers"]["ask_llm"]["made_with"]
    assert (
        made["model"] == "tiny"
        and made["device"] == server.url
        and made["revision"] == "chosen by the server"
    )


def test_a_text_is_cut_by_its_bytes(chat):
    batch = {"prompt": ["", ""], "response": ["北京是中国的首都。" * 100, "Water."]}
    with OpenAIServer(chat) as server:
        scorer = ask(server, max_length=50)
        assert scorer(batch)["ask_llm_status"][0] in ("truncated", "not_in_top")
        (long, short) = scorer.questions(batch)
    assert 197 <= len(long.encode()) <= 200 and long.endswith("\nIs this good? The answer is")
    assert short == "Water.\nIs this good? The answer is"


def test_a_token_that_the_server_chose_counts_also_where_its_list_leaves_it_out():
    first = {"token": "Yes", "logprob": -0.1, "top_logprobs": [{"token": "No", "logprob": -3}]}
    assert questions._top_logprobs({"choices": [{"logprobs": {"content": [first]}}]}) == [
        ("No", -3.0),
        ("Yes", -0.1),
    ]


def test_a_model_that_thinks_before_it_answers_is_told_not_to(chat, rows):
    with OpenAIServer(chat) as server:
        plain = ask(server)(rows[:4])
    with OpenAIServer(chat, thinks="switch") as server:
        scorer = ask(server)
        np.testing.assert_array_equal(scorer(rows[:4])["ask_llm"], plain["ask_llm"])
        assert scorer.provenance()["asked"].endswith("20 log-probabilities, without thinking")


def test_a_model_that_cannot_but_think_is_refused_and_gives_no_number(chat, rows):
    with (
        OpenAIServer(chat, thinks="always") as server,
        pytest.raises(ValueError, match=r"'tiny' at .* thinks before it answers"),
    ):
        ask(server)(rows[:2])


def test_a_model_that_wants_max_completion_tokens_gets_them(chat, rows):
    with OpenAIServer(chat) as server:
        plain = ask(server)(rows[:4])
    with OpenAIServer(chat, newer=True) as server:
        newer = ask(server)(rows[:4])
        assert server.requests == 6, "one refusal, the probe, the rows"
    np.testing.assert_array_equal(newer["ask_llm"], plain["ask_llm"])


# Secrets and identity


def test_the_key_comes_from_the_environment_and_is_nowhere_else(
    tmp_path, monkeypatch, caplog, chat, rows
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with OpenAIServer(chat, key=KEY) as server:
        scorer = ask(server)
        score(rows.select(range(3)), [scorer], tmp_path / "run")
        assert set(server.keys) == {KEY}
        recipe = Recipe("embedded:sample", score=[scorer], select=[TopK("ask_llm", 2)]).to_yaml()
        texts = [
            repr(scorer),
            recipe,
            caplog.text,
            *(f.read_text("latin-1") for f in (tmp_path / "run").rglob("*") if f.is_file()),
        ]
        assert not any(KEY in text for text in texts) and KEY.encode() not in pickle.dumps(scorer)


def test_a_wrong_key_is_said_without_it(monkeypatch, chat, rows):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with (
        OpenAIServer(chat, key="another") as server,
        pytest.raises(PermissionError, match="OPENAI_API_KEY") as error,
    ):
        ask(server)(rows[:1])
    assert KEY not in str(error.value) and "***" in str(error.value)


def test_a_key_read_from_a_file_with_its_newline_is_the_key_and_never_told(monkeypatch, chat, rows):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    with OpenAIServer(chat, key=KEY) as server:
        ask(server)(rows[:1])
        assert set(server.keys) == {KEY}
    with (
        OpenAIServer(chat, key="another") as server,
        pytest.raises(PermissionError, match="OPENAI_API_KEY") as error,
    ):
        ask(server)(rows[:1])
    assert KEY not in str(error.value)


@pytest.mark.parametrize("key", ["\u201csk-quoted\u201d", "sk-one\nsk-two"])
def test_a_key_that_cannot_be_sent_is_one_sentence_without_it(key, monkeypatch, chat, rows):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with (
        OpenAIServer(chat) as server,
        pytest.raises(SuperfilterError, match="OPENAI_API_KEY holds a character") as error,
    ):
        ask(server)(rows[:1])
    assert "sk-" not in str(error.value)


@pytest.mark.parametrize(
    ("proxy", "reason"),
    [
        ("socks://127.0.0.1:1080/", "Unknown scheme for proxy URL"),
        ("socks5://127.0.0.1:1080", "socksio"),
    ],
)
def test_a_proxy_that_the_client_does_not_know_is_one_sentence(proxy, reason, monkeypatch, rows):
    """The first is what desktops set, the second needs a package more."""
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(SuperfilterError, match=rf"{reason}.*NO_PROXY=gpu.example"):
        AskLLM("tiny", QUESTION, **WORDS, endpoint="http://gpu.example/v1")(rows[:1])


def test_a_key_that_is_not_sent_hides_no_other_reason(monkeypatch, rows):
    monkeypatch.setenv("OPENAI_API_KEY", "\u201csk-quoted\u201d")
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:1080/")
    with pytest.raises(SuperfilterError, match="the proxy that the environment names"):
        AskLLM("tiny", QUESTION, **WORDS, endpoint="http://gpu.example/v1")(rows[:1])


def test_the_key_goes_to_its_own_server_only(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert (
        openai_client._key_for("https://api.openai.com/v1")
        == KEY
        == openai_client._key_for("http://127.0.0.1:8000/v1")
    )
    for elsewhere in (
        "https://example.com/v1",
        "http://api.openai.com/v1",
        "https://api.openai.com.example.com/v1",
    ):
        assert openai_client._key_for(elsewhere) == ""
    monkeypatch.setenv("OPENAI_BASE_URL", "https://example.com/v1")
    assert (
        openai_client._key_for("https://example.com/v1") == KEY
        and openai_client._key_for("https://api.openai.com/v1") == ""
    )


def test_the_identity_is_the_endpoint_and_the_name_of_the_model():
    here = AskLLM("tiny", endpoint="http://localhost:1/v1/")
    assert here.identity() == {"endpoint": "http://localhost:1/v1", "model": "tiny"}
    assert eval(repr(here)) == here == AskLLM("tiny", endpoint="http://localhost:1/v1")
    others = [
        AskLLM("tiny", endpoint="http://localhost:2/v1"),
        AskLLM("other", endpoint="http://localhost:1/v1"),
    ]
    assert len({Hasher.hash(one) for one in (here, *others)}) == 3


# Bad input


def test_a_server_that_is_not_there_is_one_sentence():
    with pytest.raises(
        ConnectionError,
        match=r"the server at http://127\.0\.0\.1:9/v1 cannot be reached .*start it",
    ):
        AskLLM("tiny", endpoint="http://127.0.0.1:9/v1")({"prompt": [""], "response": ["Water."]})


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("mute", ValueError, "--max-logprobs 20"),
        ("page", ValueError, "does not answer as OpenAI's protocol says"),
        ("500", ConnectionError, "still fails after .* 500 - .*try again"),
        ("cut", ConnectionError, "cannot be reached"),
    ],
)
def test_a_server_that_never_answers_well_is_said(chat, rows, fault, error, said):
    with OpenAIServer(chat, fault=lambda number: fault) as server, pytest.raises(error, match=said):
        ask(server)(rows[:2])


def test_a_model_that_the_server_does_not_know_is_said(chat, rows):
    with (
        OpenAIServer(chat) as server,
        pytest.raises(ValueError, match=r"refuses .*'other' .*does not exist"),
    ):
        AskLLM("other", endpoint=server.url)(rows[:1])


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "localhost:8000",
        "ftp://localhost/v1",
        "http://",
        "http://localhost:x/v1",
        3,
        "http://me:secret@localhost/v1",
        "http://localhost/v1?key=secret",
    ],
)
def test_what_is_no_address_or_holds_a_secret_is_refused(endpoint):
    with pytest.raises(ValueError, match="endpoint") as error:
        AskLLM("tiny", endpoint=endpoint)
    assert "me:" not in str(error.value) and "key=secret" not in str(error.value)


@pytest.mark.parametrize(
    "setting", [{"dtype": "float32"}, {"device": "cpu"}, {"revision": "main"}, {"batch_tokens": 9}]
)
def test_what_only_the_server_can_choose_is_refused(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))}=.* is the server's to choose"):
        AskLLM("tiny", endpoint="http://localhost/v1", **setting)


def test_without_the_extra_the_command_says_what_to_install(tmp_path):
    (tmp_path / "openai.py").write_text("raise ModuleNotFoundError('No module named openai')")
    (tmp_path / "recipe.yaml").write_text(
        "dataset: embedded:sample\nscore:\n- AskLLM: {model: tiny, endpoint: "
        "'http://127.0.0.1:9/v1'}\n"
    )
    path = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    program = f"{path}; from hf_superfilter.cli.app import main; main()"
    command = [
        sys.executable,
        "-c",
        program,
        "run",
        str(tmp_path / "recipe.yaml"),
        "--folder",
        str(tmp_path / "run"),
    ]
    recipe = (tmp_path / "recipe.yaml").read_text() + "select:\n- TopK: {by: ask_llm, k: 2}\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "error: asking an endpoint needs OpenAI's client: install it with pip install "
        "'hf-superfilter[api]'"
    )


def test_map_works_with_an_endpoint(chat):
    rows = Dataset.from_dict({"prompt": ["", ""], "response": ["Water is wet.", ""]})
    with OpenAIServer(chat) as server:
        table = rows.map(ask(server), batched=True)
    assert (
        table["ask_llm_status"][1] == "empty_response"
        and "ask_llm_tokens" not in table.column_names
    )
