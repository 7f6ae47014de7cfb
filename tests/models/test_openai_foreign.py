"""A server that a recipe from elsewhere names: nothing of the environment goes there."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hf_superfilter import SuperfilterError
from hf_superfilter.models.served.questions import Server, _find_route

SECRETS = {
    "OPENAI_API_KEY": "sk-secret-key",
    "OPENAI_ADMIN_KEY": "secret-admin",
    "OPENAI_ORG_ID": "secret-organization",
    "OPENAI_PROJECT_ID": "secret-project",
    "OPENAI_CUSTOM_HEADERS": "X-Secret: secret-header\nUser-Agent: secret-agent",
}


@contextmanager
def recorder(status, **headers):
    """Run a server on another loopback address, which counts as foreign."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            requests.append((dict(self.headers), body))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.2", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.2:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    _find_route.cache_clear()


def test_no_header_of_the_environment_goes_to_a_foreign_server():
    with recorder(400) as (endpoint, requests), pytest.raises(SuperfilterError):
        Server(endpoint, "m").probability(["Is it?"], [["yes"]])
    assert requests
    for headers, body in requests:
        assert "secret" not in str(headers) + str(body)
        assert not [name for name in headers if name.lower().startswith(("x-", "authorization"))]


def test_a_redirect_is_named_and_not_followed():
    with (
        recorder(200) as (elsewhere, received),
        recorder(307, Location=f"{elsewhere}/chat/completions") as (endpoint, requests),
    ):
        with pytest.raises(SuperfilterError, match=r"redirects to .*, which is not followed"):
            Server(endpoint, "m").probability(["Is it?"], [["yes"]])
        assert requests
        assert not received
