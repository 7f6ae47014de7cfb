"""Run folders on S3: moto's server on this machine, spoken to by the real s3fs.

Needs `pip install 's3fs' 'moto[server]'`, which are too large for the extra `[test]`.
"""

import os
import subprocess
import sys
import threading

import pytest
from datasets import Dataset

from hf_superfilter import Length, SuperfilterError, TopK, score, select, write_report
from hf_superfilter.runs.manifest import read_manifest
from hf_superfilter.runs.store import Store

s3fs = pytest.importorskip("s3fs")
application = pytest.importorskip("moto.moto_server.werkzeug_app")
from werkzeug.serving import make_server  # noqa: E402 - comes with moto's server

pytestmark = [
    # Of botocore, moto and werkzeug, which call what Python has deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
ROWS = [{"prompt": "?", "response": "x" * (number % 40)} for number in range(300)]
LENGTHS = [float(number % 40) for number in range(300)]


class Faults:
    """Pass requests on to moto; answer one of them, or all from there on, with an error."""

    def __init__(self, app):
        self.app, self.count, self.position, self.status, self.lasting = app, 0, None, None, False
        self.log = []

    def plan(self, position, status, *, lasting=False):
        self.count, self.position, self.status, self.lasting = 0, position, status, lasting
        self.log.clear()

    def __call__(self, environ, start_response):
        number, self.count = self.count, self.count + 1
        self.log.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        is_hit = self.position is not None and number == self.position
        if is_hit or (self.lasting and number > self.position):
            start_response(self.status, [("Content-Type", "application/xml")])
            body = b"<Error><Code>Fault</Code><Message>planned by the test</Message></Error>"
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
        return self.app(environ, start_response)


@pytest.fixture(scope="module")
def server():
    faults = Faults(application.DomainDispatcherApplication(application.create_backend_app))
    serving = make_server("127.0.0.1", 0, faults, threaded=True)
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    names = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{serving.server_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "2",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem().mkdir("bucket")
        yield faults
    serving.shutdown()
    thread.join()


@pytest.fixture
def folder(server, request):
    server.plan(None, None)
    yield f"s3://bucket/{abs(hash(request.node.name))}"
    server.plan(None, None)


def scored(folder, scorers=None, chunk_size=50):
    return score(Dataset.from_list(ROWS), scorers or [Length()], folder, chunk_size=chunk_size)


SEEN, LIMIT = [], [300]  # rows that were scored, and after how many it breaks


def breaking(batch):
    if sum(SEEN) >= LIMIT[0]:
        raise KeyboardInterrupt
    SEEN.append(len(batch["response"]))
    return {"breaking": [float(len(text)) for text in batch["response"]]}


def test_a_run_on_s3_resumes_and_is_selected_from_and_reported(folder, tmp_path):
    SEEN.clear()
    LIMIT[:] = [100]
    with pytest.raises(KeyboardInterrupt):
        scored(folder, [breaking])
    assert 100 <= sum(SEEN) < 300
    LIMIT[:] = [300]
    table = scored(folder, [breaking])
    assert sum(SEEN) == 300, "finished chunks are not scored again"
    assert table["breaking"][:] == LENGTHS
    assert read_manifest(folder)["scorers"]["breaking"]["rows"] == 300
    selection = select(table, TopK("breaking", 10), run=folder)
    write_report(selection, tmp_path / "report.html")
    assert "breaking" in (tmp_path / "report.html").read_text()


def test_another_setting_and_a_damaged_object_are_named(folder, caplog):
    scored(folder)
    with pytest.raises(SuperfilterError, match="use another folder"):
        scored(folder, chunk_size=20)
    with pytest.raises(SuperfilterError, match="use another folder or another name"):
        scored(folder, [Length(unit="tokens", model="embedded:weak")])
    store = Store(folder)
    names = [name for name in store.names("length") if name.endswith(".parquet")]
    store.write(f"length/{names[0]}", b"nothing")
    store.write(f"length/{names[1]}", store.read(f"length/{names[2]}"))
    assert scored(folder)["length"][:] == LENGTHS
    assert caplog.text.count("is damaged or not of this run") == 2


def test_two_processes_on_one_folder_of_s3_end_with_one_table(folder, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\n"
        "from datasets import Dataset\n"
        "from hf_superfilter import Length, score\n"
        "rows = Dataset.from_list([{'prompt': '?', 'response': 'x' * (n % 40)} "
        "for n in range(300)])\n"
        "def slow(batch):\n"
        "    time.sleep(0.1)\n"
        "    return {'slow': batch['length']}\n"
        "table = score(rows, [Length(), slow], sys.argv[1], chunk_size=20)\n"
        "print(sum(table['slow'][:]))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, program, folder],
            env=os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert float(output) == sum(LENGTHS)
    assert scored(folder, chunk_size=20)["length"][:] == LENGTHS


@pytest.mark.slow
@pytest.mark.parametrize("status", ["503 Slow Down", "500 Internal Error"])
def test_a_request_that_fails_once_at_any_position_costs_nothing(folder, server, status):
    server.plan(None, None)
    scored(f"{folder}/walk", chunk_size=150)
    requests = list(server.log)
    assert len(requests) > 10
    for position in range(0, len(requests), 6):
        server.plan(position, status)
        assert scored(f"{folder}/{position}", chunk_size=150)["length"][:] == LENGTHS


@pytest.mark.slow
@pytest.mark.parametrize("status", ["403 Forbidden", "503 Slow Down"])
def test_a_store_that_refuses_for_good_is_an_os_error_and_the_run_goes_on_later(
    folder, server, status
):
    scored(f"{folder}/walk", chunk_size=150)
    requests = list(server.log)
    for position in range(0, len(requests), 6):
        server.plan(position, status, lasting=True)
        with pytest.raises(OSError, match=r"."):
            scored(f"{folder}/{position}", chunk_size=150)
        server.plan(None, None)
        assert scored(f"{folder}/{position}", chunk_size=150)["length"][:] == LENGTHS


@pytest.mark.parametrize("reason", ["Could not connect to the endpoint", "Unable to locate cred"])
def test_a_store_that_cannot_be_reached_is_one_sentence(server, monkeypatch, reason):
    import fsspec

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    if "cred" in reason:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"skip_instance_cache": True})
    with pytest.raises(OSError, match=f"'s3://bucket/far' cannot be used .*{reason}"):
        scored("s3://bucket/far")
