"""datasets, evaluate, transformers and other processes on the local Hub, as everyone uses them."""

import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import CommitOperationAdd, HfApi, HfFileSystem, get_session, snapshot_download
from huggingface_hub.errors import BadRequestError

CARD = """---
configs:
- config_name: small
  data_files: small/*.parquet
- config_name: large
  default: true
  data_files:
  - split: train
    path: large/*.parquet
---
"""


def parquet(**columns) -> bytes:
    buffer = BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


ROWS = parquet(a=[1, 2])


def test_long_listings_come_in_pages(hub):
    hub.page_size = 3
    hub.commit(
        "dataset", "me/x", {f"folder {number % 2}/{number}.txt": b"x" for number in range(8)}
    )
    files = HfApi().list_repo_files("me/x", repo_type="dataset")
    assert len(files) == 9
    assert len(hub.log("GET", "/tree/")) == 4
    rows = list(HfApi().list_repo_tree("me/x", "folder 1", repo_type="dataset", expand=True))
    assert [row.path for row in rows] == [f"folder 1/{number}.txt" for number in (1, 3, 5, 7)]
    assert {row.last_commit.title for row in rows} == {"Committed by a test"}
    for _ in range(4):
        hub.commit("dataset", "me/x", {"a.txt": str(time.time_ns())})
    assert len(HfApi().list_repo_commits("me/x", repo_type="dataset")) == 6


def test_a_range_is_read_without_the_rest(hub):
    hub.commit("dataset", "me/x", {"a.parquet": bytes(range(200))})
    path = "datasets/me/x/a.parquet"
    assert HfFileSystem().cat_file(path, start=10, end=20) == bytes(range(10, 20))
    assert HfFileSystem().cat_file(path, start=-5) == bytes(range(195, 200))
    url = f"{hub.url}/{path.replace('a.parquet', 'resolve/main/a.parquet')}"
    assert get_session().get(url, headers={"Range": "bytes=200-"}).status_code == 416
    info = HfApi().get_paths_info("me/x", ["a.parquet", "none"], repo_type="dataset")
    assert [(row.size, row.lfs.size) for row in info] == [(200, 200)]


def test_a_snapshot_has_every_file_of_its_commit(hub):
    old = hub.commit("dataset", "me/x", {"a.txt": b"old", "deep/er/b.parquet": ROWS})
    hub.commit("dataset", "me/x", {"a.txt": b"new"})
    folder = Path(snapshot_download("me/x", repo_type="dataset", revision=old))
    assert ((folder / "a.txt").read_text(), folder.name) == ("old", old)
    assert pq.read_table(folder / "deep/er/b.parquet").to_pydict() == {"a": [1, 2]}


def test_load_dataset_finds_configs_and_revisions(hub):
    files = {"README.md": CARD, "small/a.parquet": parquet(a=[1]), "large/a.parquet": ROWS}
    old = hub.commit("dataset", "me/x", files)
    hub.commit("dataset", "me/x", {"large/b.parquet": parquet(a=[3])})
    assert load_dataset("me/x", "small", split="train")["a"][:] == [1]
    assert load_dataset("me/x", split="train")["a"][:] == [1, 2, 3]
    assert load_dataset("me/x", "large", revision=old, split="train")["a"][:] == [1, 2]


def test_load_dataset_streams(hub):
    hub.commit(
        "dataset", "me/x", {"README.md": CARD, "small/a.parquet": ROWS, "large/a.parquet": ROWS}
    )
    rows = load_dataset("me/x", streaming=True, split="train")
    assert [row["a"] for row in rows] == [1, 2]


def test_a_moved_repository_is_found_under_its_old_name(hub):
    hub.commit(
        "dataset", "me/x", {"README.md": CARD, "small/a.parquet": ROWS, "large/a.parquet": ROWS}
    )
    HfApi().move_repo("me/x", "me/y", repo_type="dataset")
    assert HfApi().dataset_info("me/x").id == "me/y"
    assert load_dataset("me/x", split="train")["a"][:] == [1, 2]
    hub.move("dataset", "me/y", "me/z")
    operations = [CommitOperationAdd("b.parquet", ROWS), CommitOperationAdd("b.txt", b"b")]
    HfApi().create_commit(
        "me/x", operations, commit_message="Under the first name", repo_type="dataset"
    )
    assert "b.parquet" in HfApi().list_repo_files("me/x", repo_type="dataset")
    assert hub.commits("dataset", "me/z")[0].title == "Under the first name"


def test_push_to_hub_adds_a_config_and_keeps_the_other(hub):
    rows = Dataset.from_dict({"a": [1, 2]})
    rows.push_to_hub("me/pushed", "one", set_default=True)
    rows.push_to_hub("me/pushed", "two", private=True)
    assert load_dataset("me/pushed", "one", split="train")["a"][:] == [1, 2]
    assert b"config_name: two" in hub.files("dataset", "me/pushed")["README.md"]


def test_transformers_loads_a_model_that_was_uploaded(hub, llama):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    HfApi().create_repo("me/tiny")
    HfApi().upload_folder(repo_id="me/tiny", folder_path=llama)
    model = AutoModelForCausalLM.from_pretrained("me/tiny")
    assert model.config.hidden_size == 64
    assert AutoTokenizer.from_pretrained("me/tiny").bos_token == "<s>"


METRIC = """import datasets
import evaluate
class Share(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("float64")})
        return evaluate.MetricInfo(description="", citation="", features=features)
    def _compute(self, predictions):
        return {"share": sum(predictions) / len(predictions)}
"""


def test_evaluate_loads_a_metric_from_a_space(hub):
    import evaluate

    HfApi().create_repo("me/share", repo_type="space", space_sdk="static")
    assert HfApi().space_info("me/share").sdk == "static"
    operations = [CommitOperationAdd("share.py", METRIC.encode())]
    HfApi().create_commit("me/share", operations, commit_message="A metric", repo_type="space")
    assert evaluate.load("me/share").compute(predictions=[1.0, 0.0]) == {"share": 0.5}
    assert {"README.md", "index.html", "share.py"} <= hub.files("space", "me/share").keys()


def test_another_process_uses_this_hub(hub, hub_environment):
    program = (
        "from datasets import Dataset; Dataset.from_dict({'a': [1]}).push_to_hub('me/elsewhere')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=hub_environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "README.md" in hub.files("dataset", "me/elsewhere")


def test_it_runs_by_itself_and_is_told_what_to_do_over_http(hub):
    program = [sys.executable, str(Path(__file__).parents[1] / "hub_server.py")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        api = HfApi(endpoint=url)
        api.create_repo("me/x", repo_type="dataset")

        def control(**call) -> object:
            return get_session().post(f"{url}/_control", json=call).json()

        assert (
            control(call="head", type="dataset", id="me/x")["result"]
            == api.dataset_info("me/x").sha
        )
        assert control(call="fail", status=400, path="/tag/") == {"result": None}
        with pytest.raises(BadRequestError):
            api.create_tag("me/x", tag="v1", repo_type="dataset")
        assert "No call" in control(call="stop")["error"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
