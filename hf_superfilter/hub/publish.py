"""publish(): one commit on the Hub with everything of a subset; publish_metric(). All that writes to the Hub."""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..metrics import metric_path
from ..revisions import is_commit
from .card import licence_warning, merged_card
from .client import one_sentence, patiently
from .front_matter import decode_card, read_metadata
from .provenance import CARD
from .repo_files import SHARD_BYTES, check_folders, check_repo_id, splits_of, write_split

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from ..selection.funnel import Selection

DATA = (
    ".parquet", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".xml", ".arrow", ".h5", ".hdf5",
    ".zip", ".gz", ".bz2", ".xz", ".lz4", ".zst", ".tar",
)  # fmt: skip


@dataclass(frozen=True)
class _Target:
    """Where to publish."""

    api: "HfApi"
    repo_id: str
    revision: str | None
    create_pr: bool


def publish(
    selection: "Selection | Mapping[str, Selection]",
    repo_id: str,
    *,
    name: str = "default",
    private: bool = True,
    set_default: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    token: str | None = None,
    pairs: bool = False,
    max_shard_bytes: int = SHARD_BYTES,
) -> str:
    """Publish a selection as a subset of a data set on the Hub, which `load_dataset(repo_id, name)` loads.

    One commit holds the rows (Parquet, best first), the card, the recipe and the report. Publishing a
    name again replaces the splits that are given; every other subset, the card's foreign keys and all
    that was written by hand stay. Several may publish into one repository at once: who loses a race
    merges the card anew and tries again, and data is uploaded once. Recipe, report and costs come from
    the selection's run; the card says "not recorded" where there is none.

    Args:
        selection: what `select` answers, as the split `train`; or a dict of them, split -> selection.
        repo_id: `user/name` on the Hub; made if need be.
        name: the subset's name (a "config" of the data set).
        private: whether a repository that is made now is private; one that exists stays as it is.
        set_default: make this subset the one that loads without a name, as the first one is anyway.
        create_pr: open a pull request instead of committing to the branch.
        revision: the branch, by default `main`; made if need be.
        token: a token that may write; by default the one that `hf auth login` or HF_TOKEN holds.
        pairs: also publish `prompt` and `response` where they were made for scoring.
        max_shard_bytes: about the size in memory of the rows of one Parquet file.

    Returns:
        The URL of the commit.

    Raises:
        ValueError: a name that the Hub or `datasets` would refuse, nothing kept, a subset of that name
            that is not of ours, or a second default.
        PermissionError: no token, or one that may not write there.
        FileNotFoundError: no such repository or branch as far as the token sees.
        ConnectionError: the Hub cannot be reached, or the connection broke.
        OSError: the Hub refused or failed. After any error the repository is as it was, but that one made
            just now stays, empty.
    """
    from huggingface_hub import HfApi

    check_repo_id(repo_id)
    _check_branch(revision)
    splits = splits_of(selection, name)
    _check_token(token)
    target = _Target(HfApi(token=token), repo_id, revision, create_pr)
    with tempfile.TemporaryDirectory(prefix="hf_superfilter_") as folder:
        home = Path(folder)
        with one_sentence(repo_id, "while the card of the source was read"):
            facts = {
                split: write_split(
                    part, home / name / split, pairs=pairs, max_shard_bytes=max_shard_bytes
                )
                for split, part in splits.items()
            }
        _announce(
            repo_id,
            name,
            facts,
            home,
            "a pull request" if create_pr else revision or "main",
            private,
        )
        with one_sentence(
            repo_id, "before anything was committed; nothing was changed, run it again"
        ):
            _open(target, private)
            patiently(lambda: _upload(target, home))
        with one_sentence(
            repo_id,
            "while committing; run it again, which is safe whether the commit arrived or not",
        ):
            return patiently(lambda: _commit(target, name, facts, home, set_default))


def _announce(
    repo_id: str, name: str, facts: Mapping[str, Any], home: Path, where: str, private: bool
) -> None:
    """Print what is about to be published."""
    files = [path for path in home.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    print(
        f"publish {name!r} to {repo_id} ({where}; a new repository is {'private' if private else 'PUBLIC'}):"
    )
    for split, fact in facts.items():
        print(
            f"  split {split}: {fact['kept']:,} of {fact['rows']:,} rows, columns {', '.join(fact['columns'])}"
        )
        if fact["left_out"]:
            print(
                f"  left out, made for scoring: {', '.join(fact['left_out'])} (pairs=True publishes them)"
            )
        if fact["recipe"] and not fact["source"]["for_all"]:
            print(
                f"  the recipe names {fact['source']['dataset']!r}, which others cannot load from the Hub"
            )
        for warning in filter(None, (licence_warning(fact["license"]), fact["source_missing"])):
            print(f"  WARNING: {warning}")
    print(f"  {len(files) + 1} files, {size:,.1f} MB, in one commit", flush=True)


def _check_branch(revision: str | None) -> None:
    """Refuse what cannot be a branch."""
    if revision is None:
        return
    if (
        not re.fullmatch(r"\w[\w./-]*(?<![./-])", str(revision), re.ASCII)
        or ".." in revision
        or is_commit(revision)
    ):
        raise ValueError(
            f"revision={revision!r}: give the name of a branch, of letters, digits, '-', '_', '.' and '/'"
        )


def _check_token(token: str | None) -> None:
    """Refuse to go without a token, and one that an error about the request would quote."""
    from huggingface_hub import get_token

    token = token or get_token()
    if not token:
        raise PermissionError(
            "no token for the Hub: log in with 'hf auth login', or set HF_TOKEN to one that writes"
        )
    if not re.fullmatch("[!-~]+", token):
        raise PermissionError(
            "the token holds a blank, a line break or a letter that no token has: give it without"
        )


def _open(target: _Target, private: bool) -> None:
    """See that the repository and the branch are there."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        now = target.api.dataset_info(target.repo_id).id
    except RepositoryNotFoundError:
        target.api.create_repo(target.repo_id, repo_type="dataset", private=private, exist_ok=True)
        now = target.repo_id
    if (
        now != target.repo_id
    ):  # to create the old name anew would cut the redirection that the Hub keeps
        raise FileNotFoundError(
            f"{target.repo_id!r} is called {now!r} on the Hub now: publish to that name"
        )
    branch = target.revision
    if branch and not target.create_pr and not branch.startswith("refs/"):
        target.api.create_branch(target.repo_id, branch=branch, repo_type="dataset", exist_ok=True)


def _additions(home: Path) -> list[Any]:
    """The files of the folder as new operations: those of an earlier attempt remember what the Hub held then."""
    from huggingface_hub import CommitOperationAdd

    files = sorted(path for path in home.rglob("*") if path.is_file())
    return [CommitOperationAdd(path.relative_to(home).as_posix(), str(path)) for path in files]


def _upload(target: _Target, home: Path) -> None:
    """Upload the data, once: commits that follow find it there."""
    target.api.preupload_lfs_files(
        target.repo_id,
        _additions(home),
        repo_type="dataset",
        revision=target.revision,
        create_pr=target.create_pr,
        free_memory=False,
    )


def _commit(
    target: _Target, name: str, facts: Mapping[str, Any], home: Path, set_default: bool
) -> str:
    """One commit on top of the head as it is now, or an error 412 where another came first."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api, repo_id = target.api, target.repo_id
    head = api.dataset_info(repo_id, revision=target.revision)
    there = [file.rfilename for file in head.siblings or []]
    card = (
        api.hf_hub_download(repo_id, CARD, repo_type="dataset", revision=head.sha)
        if CARD in there
        else None
    )
    before = decode_card(Path(card).read_bytes()) if card else ""
    _check_nothing_hidden(repo_id, before, there)
    check_folders(there, before, name, facts, repo_id)
    text = merged_card(before, name, facts, repo_id, set_default)
    additions = _additions(home)
    new = {addition.path_in_repo for addition in additions}
    old = [
        path
        for path in there
        for split in facts
        if path.startswith(f"{name}/{split}/") and path not in new
    ]
    commit = api.create_commit(
        repo_id,
        [*additions, *map(CommitOperationDelete, old), CommitOperationAdd(CARD, text.encode())],
        commit_message=f"Publish {name} ({', '.join(facts)}) with hf_superfilter",
        repo_type="dataset",
        revision=target.revision,
        parent_commit=head.sha,
        create_pr=target.create_pr,
    )
    return str(commit.commit_url)


def _check_nothing_hidden(repo_id: str, card: str, files: list[str]) -> None:
    """Refuse a repository whose rows load without being named in its card: the names written there would hide them."""
    data = [file for file in files if file.endswith(DATA) and not file.startswith(".")]
    if data and not read_metadata(card).get("configs"):
        raise ValueError(
            f"{repo_id!r} holds data, such as {data[0]!r}, that its README.md does not name under 'configs': a subset "
            "named there would hide it from load_dataset. Name it there first, or publish to another repository"
        )


def publish_metric(
    repo_id: str, *, name: str = "rank_consistency", private: bool = False, token: str | None = None
) -> str:
    """Publish a metric of this package as a Space, in one commit; then `evaluate.load(repo_id)` loads it anywhere.

    Args:
        repo_id: `user/rank_consistency`; the Space is made if need be. `evaluate` looks for a script of the Space's
            own name, so that it has to be the metric's.
        name: the metric.
        private: whether a Space that is made now is private.
        token: a token that may write; by default the one that `hf auth login` or HF_TOKEN holds.

    Returns:
        The URL of the commit.

    Raises:
        ValueError: a name that the Hub would refuse or `evaluate` would not find.
        PermissionError, ConnectionError, OSError: as `publish`; the Space is as it was.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    check_repo_id(repo_id)
    if repo_id.split("/")[1] != name:
        raise ValueError(
            f"repo_id={repo_id!r}: evaluate finds the metric only in 'user/{name}', by the script's name"
        )
    api, folder = HfApi(token=token), Path(metric_path(name))
    files = [
        path for path in sorted(folder.iterdir()) if path.is_file() and path.name != "__init__.py"
    ]
    print(
        f"publish the metric {name!r} to the Space {repo_id}: {', '.join(path.name for path in files)}",
        flush=True,
    )

    def commit() -> str:
        head = api.space_info(repo_id).sha
        files_now = [CommitOperationAdd(path.name, str(path)) for path in files]
        message = f"Publish {name} with hf_superfilter"
        made = api.create_commit(
            repo_id, files_now, commit_message=message, repo_type="space", parent_commit=head
        )
        return str(made.commit_url)

    with one_sentence(
        repo_id, "while committing; run it again, which is safe whether the commit arrived or not"
    ):
        _check_token(token)
        api.create_repo(
            repo_id, repo_type="space", space_sdk="static", private=private, exist_ok=True
        )
        return patiently(commit)
