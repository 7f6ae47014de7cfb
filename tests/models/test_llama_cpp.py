"""A server and an engine that are not ours: `python -m llama_cpp.server`, of llama-cpp-python.

It is built from C++ and wants other versions than the project pins, so it lives in an environment
of its own:

    python -m venv ../llama && ../llama/bin/pip install "llama-cpp-python[server]" gguf
    LLAMA_CPP_PYTHON=../llama/bin/python pytest -m slow tests/models/test_llama_cpp.py

Its completions take text alone, no token ids, and their echo leaves out the first token's number;
without `--logits_all true` they have none. So it cannot serve `IFD(endpoint=...)`, and has to be
refused; what it says of texts behind a front token has to be what the model says here.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from hf_superfilter import IFD, SuperfilterError, embedded_model
from hf_superfilter.models.causal_lm import CausalLM
from hf_superfilter.models.tokenization import Window

pytestmark = pytest.mark.slow
PYTHON = os.environ.get("LLAMA_CPP_PYTHON", sys.executable)
NEEDED = "import llama_cpp.server.app, gguf"


def post(url, **body):
    data = json.dumps({"model": "m", "temperature": 0} | body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def wait_for(server, url):
    """Wait until the server answers; it loads the model first."""
    while server.poll() is None:
        try:
            return urllib.request.urlopen(f"{url}/models", timeout=5).close()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise AssertionError(f"llama_cpp.server ended with {server.returncode}")


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory):
    """The address of a llama.cpp that serves embedded:strong."""
    if subprocess.run([PYTHON, "-c", NEEDED], capture_output=True).returncode:
        pytest.skip(f"{PYTHON} has no llama-cpp-python[server] and gguf: name one that has them")
    file = tmp_path_factory.mktemp("gguf") / "strong.gguf"
    script = Path(__file__).with_name("write_gguf.py")
    subprocess.run([PYTHON, script, embedded_model("strong"), file], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"model": file, "logits_all": "true", "n_ctx": 1024, "n_threads": 1, "port": port}
    options |= {"type_k": 0, "type_v": 0}  # keys and values in float32, which it rounds otherwise
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [PYTHON, "-m", "llama_cpp.server", *words]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}/v1"
        wait_for(server, url)
        yield url
    finally:
        server.terminate()
        server.wait()


def test_what_another_engine_says_of_a_text_is_what_the_model_says_here(llama_cpp, sample):
    model = CausalLM(embedded_model("strong"), dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(embedded_model("strong"))
    compared = 0
    for row in sample.select(range(8)):
        text = f"{row['prompt']}\n{row['response']}"[:2_000]
        ids = [tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]
        answer = post(f"{llama_cpp}/completions", prompt=text, max_tokens=1, echo=True, logprobs=1)
        theirs = answer["choices"][0]["logprobs"]
        if theirs["tokens"][:-1] != [tokenizer.decode([number]) for number in ids[1:]]:
            continue  # older versions split some blanks in another way
        nats, _ = model.token_losses([Window(ids, 2)])
        np.testing.assert_allclose(theirs["token_logprobs"][1:-1], -nats, atol=1e-2)
        assert theirs["token_logprobs"][0] is None
        compared += 1
    assert compared >= 4


def test_it_takes_no_token_ids_and_is_refused_in_one_sentence(llama_cpp):
    pytest.importorskip("openai", reason="OpenAI's client is installed with the extra 'api'")
    scorer = IFD("m", endpoint=llama_cpp, tokenizer="embedded:strong")
    with pytest.raises(SuperfilterError, match=r"takes no token ids|refuses the question"):
        scorer({"prompt": ["Say hello."], "response": ["Hello there, my friend."]})
