"""A server on 127.0.0.1 that speaks OpenAI's protocol, backed by a small model, and fails when it
is told to.

It is written against the protocol with plain transformers, not with our code, so that it can be
held against it.
"""

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from reference import plain


def forget_environment(monkeypatch: Any) -> None:
    """Take the user's key away, and the waiting for what fails on purpose."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)


class OpenAIServer:
    """Chat and plain completions of one token with log-probabilities.

    Args:
        folder: the model; its name on the server is `tiny`. Without a chat template chats are
            refused, as vLLM does.
        most: how many log-probabilities it allows.
        fault: number of a request, from 0 -> "429", "500", "cut", "mute" (no log-probabilities),
            "page" (HTML), "slow" (half a second) or "".
        key: what it wants as a key, "" for none.
        prompts: how it tells the log-probabilities of a prompt's tokens: "vllm", by its
            `prompt_logprobs`; "echo", as OpenAI's completions; "shifted", that echo with each token
            after itself; "eager", that echo with 16 tokens generated where none is asked for; "",
            silently not at all.
        thinks: whether a chat begins with a thought, as a model does that thinks before it answers:
            "switch", unless the chat template is told not to; "always"; "" never.
        newer: whether it takes the parameters of OpenAI's newer models alone.
    """

    def __init__(
        self,
        folder: str,
        *,
        most: int = 20,
        fault: Callable[[int], str] = lambda n: "",
        key: str = "",
        prompts: str = "vllm",
        thinks: str = "",
        newer: bool = False,
    ) -> None:
        self.tokenizer, self.model = plain(folder)
        self.most, self.fault, self.key, self.prompts = most, fault, key, prompts
        self.thinks, self.newer = thinks, newer
        self.names = ["tiny"]
        self.asked: list[str] = []
        self.keys: list[str] = []
        self.at_once, self.requests, self._now = 0, 0, 0
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (Handler,), {"model_server": self})
        )
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    def __enter__(self) -> "OpenAIServer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def enter(self, key: str) -> str:
        """A request begins: which fault it meets."""
        with self._lock:
            self.requests += 1
            self._now += 1
            self.at_once = max(self.at_once, self._now)
            self.keys.append(key)
            return self.fault(self.requests - 1)

    def leave(self) -> None:
        with self._lock:
            self._now -= 1

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(status, body) of a request that meets no fault."""
        chat = path.endswith("/chat/completions")
        wanted = body.get("top_logprobs" if chat else "logprobs") or 0
        if body["model"] not in self.names:
            return 404, _refusal(f"The model `{body['model']}` does not exist.")
        if wanted > self.most:
            return 400, _refusal(f"logprobs must be at most {self.most}")
        if chat and self.newer and "max_tokens" in body:
            return 400, _refusal(
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead."
            )
        if chat and not self.tokenizer.chat_template:
            return 400, _refusal(
                "As of transformers v4.44, default chat template is no longer allowed"
            )
        if chat:
            text = self.tokenizer.apply_chat_template(
                body["messages"], tokenize=False, add_generation_prompt=True
            )
        else:
            text = body["prompt"]
        if isinstance(text, list):
            return 200, self.complete_ids(body)
        with self._lock, torch.inference_mode():
            self.asked.append(text)
            ids = self.tokenizer(text, return_tensors="pt", add_special_tokens=not chat)[
                "input_ids"
            ]
            numbers, tokens = self.model(input_ids=ids).logits[0, -1].log_softmax(-1).topk(wanted)
        named = [
            {"token": self.tokenizer.decode([t]), "logprob": p}
            for t, p in zip(tokens.tolist(), numbers.tolist(), strict=True)
        ]
        if chat and self._is_thinking(body):
            thought = {"token": "<think>", "logprob": -1e-4}
            choice = {
                "message": {"content": None, "reasoning_content": "<think>"},
                "logprobs": {"content": [thought | {"top_logprobs": [thought, *named[1:]]}]},
                "finish_reason": "length",
            }
        elif chat:
            choice = {
                "message": {"content": named[0]["token"]},
                "logprobs": {"content": [named[0] | {"top_logprobs": named}]},
            }
        else:
            top: dict[str, float] = {}
            for one in named:  # a dictionary has room for one token of each spelling
                top.setdefault(one["token"], one["logprob"])
            choice = {"text": named[0]["token"], "logprobs": {"top_logprobs": [top]}}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": ids.shape[1]}}

    def _is_thinking(self, body: dict[str, Any]) -> bool:
        options = body.get("chat_template_kwargs") or {}
        return self.thinks == "always" or (
            self.thinks == "switch" and options.get("enable_thinking", True)
        )

    def complete_ids(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a prompt of token ids, and about that prompt as far as it tells."""
        ids = body["prompt"]
        with self._lock, torch.inference_mode():
            self.asked.append(self.tokenizer.decode(ids))
            logprobs = self.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        of_prompt = [float(row[t]) for row, t in zip(logprobs[:-1], ids[1:], strict=True)]
        best = int(logprobs[-1].argmax())
        generated = [(best, float(logprobs[-1, best]))][: body["max_tokens"]]
        choice: dict[str, Any] = {"text": self.tokenizer.decode([t for t, _ in generated])}
        if self.prompts == "vllm" and body.get("prompt_logprobs") is not None:
            entries = [
                self._entry(row, [t, *row.topk(body["prompt_logprobs"]).indices.tolist()])
                for row, t in zip(logprobs[:-1], ids[1:], strict=True)
            ]
            choice["prompt_logprobs"] = [None, *entries]
        told = [p for _, p in generated]
        best_of = logprobs.max(-1)
        tops = list(zip(best_of.indices.tolist(), best_of.values.tolist(), strict=True))
        if self.prompts in ("echo", "eager", "shifted") and body.get("echo"):
            place = 0
            if self.prompts == "shifted":
                place = 1
                of_prompt = [float(row[t]) for row, t in zip(logprobs[1:], ids[1:], strict=True)]
            told = [None, *of_prompt, *told]
            tops = [(0, 0.0), *tops[place:]]
            if self.prompts == "eager" and not body["max_tokens"]:
                told += [-1.0] * 16
        if body.get("logprobs") is not None:
            choice["logprobs"] = {"token_logprobs": told}
            if body["logprobs"]:
                named = [{self.tokenizer.decode([t]): p} for t, p in tops]
                choice["logprobs"]["top_logprobs"] = [None, *named[1:]]
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids)}}

    def _entry(self, row: torch.Tensor, tokens: list[int]) -> dict[str, Any]:
        """What vLLM tells of one place of a prompt: the token there, and the likeliest ones."""
        return {
            str(token): {
                "logprob": float(row[token]),
                "rank": 1 + int((row > row[token]).sum()),
                "decoded_token": self.tokenizer.decode([token]),
            }
            for token in tokens
        }


def _refusal(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error"}}


class Handler(BaseHTTPRequestHandler):
    """Hand requests to the server of the subclass."""

    model_server: OpenAIServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if not self.path.startswith("/v1/"):
            return self._send(404, json.dumps({"detail": "Not Found"}))
        listed = [{"id": name, "object": "model"} for name in self.model_server.names]
        return self._send(200, json.dumps({"object": "list", "data": listed}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.model_server.enter(
            self.headers.get("Authorization", "").removeprefix("Bearer ")
        )
        try:
            self._serve(body, fault)
        finally:
            self.model_server.leave()

    def _serve(self, body: dict[str, Any], fault: str) -> None:
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.model_server.key and sent != self.model_server.key:
            return self._send(401, json.dumps(_refusal(f"Incorrect API key provided: {sent}")))
        if not self.path.startswith("/v1/"):
            return self._send(404, json.dumps({"detail": "Not Found"}))
        if fault == "slow":
            time.sleep(0.5)
        if fault in ("429", "500"):
            return self._send(int(fault), json.dumps(_refusal("try again")))
        if fault == "page":
            return self._send(200, "<html>welcome</html>", "text/html")
        status, answer = self.model_server.answer(self.path, body)
        if fault == "mute":
            answer["choices"][0]["logprobs"] = None
        text = json.dumps(answer)
        if fault == "cut":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text[: len(text) // 2].encode())
            self.close_connection = True
            return None
        return self._send(status, text)

    def _send(self, status: int, text: str, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        pass
