"""publish(): one commit on the Hub with everything of a subset. The only file that writes to the Hub."""

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .card import licence_warning, merged_card
from .provenance import CARD
from .readme import read_metadata
from .repo_files import SHARD_BYTES, check_repo_id, splits_of, write_split

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from .funnel import Selection

_T = TypeVar("_T")
RACES = 40  # how often others may commit first before publish gives up
FAILURES = 4  # how often the Hub may fail on the way
DATA = (".parquet", ".json", ".jsonl", ".csv", ".tsv", ".txt", ".arrow", ".zip", ".gz", ".zst", ".tar")


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
    splits = splits_of(selection, name)
    target = _Target(HfApi(token=token), repo_id, revision, create_pr)
    with tempfile.TemporaryDirectory(prefix="hf_superfilter_") as folder:
        home = Path(folder)
        with _one_sentence(repo_id, "while the card of the source was read"):
            facts = {
                split: write_split(part, home / name / split, pairs=pairs, max_shard_bytes=max_shard_bytes)
                for split, part in splits.items()
            }
        _announce(repo_id, name, facts, home, "a pull request" if create_pr else revision or "main", private)
        with _one_sentence(repo_id, "before anything was committed; nothing was changed, run it again"):
            _open(target, token, private)
            _patiently(lambda: _upload(target, home))
        with _one_sentence(repo_id, "while committing; run it again, which is safe whether the commit arrived or not"):
            return _patiently(lambda: _commit(target, name, facts, home, set_default))


def _announce(repo_id: str, name: str, facts: Mapping[str, Any], home: Path, where: str, private: bool) -> None:
    """Print what is about to be published."""
    files = [path for path in home.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    print(f"publish {name!r} to {repo_id} ({where}; a new repository is {'private' if private else 'PUBLIC'}):")
    for split, fact in facts.items():
        print(f"  split {split}: {fact['kept']:,} of {fact['rows']:,} rows, columns {', '.join(fact['columns'])}")
        if fact["left_out"]:
            print(f"  left out, made for scoring: {', '.join(fact['left_out'])} (pairs=True publishes them)")
        if fact["recipe"] and not fact["source"]["on_the_hub"]:
            print(f"  the recipe names {fact['source']['dataset']!r}, which others cannot load from the Hub")
        for warning in filter(None, (licence_warning(fact["license"]), fact["source_missing"])):
            print(f"  WARNING: {warning}")
    print(f"  {len(files) + 1} files, {size:,.1f} MB, in one commit", flush=True)


def _open(target: _Target, token: str | None, private: bool) -> None:
    """See that the repository and the branch are there."""
    from huggingface_hub import get_token

    if not (token or get_token()):
        raise PermissionError("no token for the Hub: log in with 'hf auth login', or set HF_TOKEN to one that writes")
    target.api.create_repo(target.repo_id, repo_type="dataset", private=private, exist_ok=True)
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


def _commit(target: _Target, name: str, facts: Mapping[str, Any], home: Path, set_default: bool) -> str:
    """One commit on top of the head as it is now, or an error 412 where another came first."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api, repo_id = target.api, target.repo_id
    head = api.dataset_info(repo_id, revision=target.revision)
    there = [file.rfilename for file in head.siblings or []]
    card = api.hf_hub_download(repo_id, CARD, repo_type="dataset", revision=head.sha) if CARD in there else None
    before = Path(card).read_text(encoding="utf-8") if card else ""
    _check_nothing_hidden(repo_id, before, there)
    text = merged_card(before, name, facts, repo_id, set_default)
    additions = _additions(home)
    new = {addition.path_in_repo for addition in additions}
    old = [path for path in there for split in facts if path.startswith(f"{name}/{split}/") and path not in new]
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


def _patiently(step: Callable[[], _T]) -> _T:
    """Try a step again after a lost race (409, 412), a failure of the Hub (5xx) or a broken connection."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    races = failures = 0
    while True:
        try:
            return step()
        except OfflineModeIsEnabled:
            raise
        except (HfHubHTTPError, *_broken()) as error:
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            races += status in (409, 412)
            failures += status is None or status >= 500
            if not (status in (409, 412) or status is None or status >= 500) or races > RACES or failures > FAILURES:
                raise
            time.sleep(random.uniform(0.1, 0.3) * min(races + 2**failures, 20))


def _broken() -> tuple[Any, ...]:
    """What a broken connection raises in whichever HTTP library huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    bases = [base for base in HfHubHTTPError.__bases__ if base is not OSError and issubclass(base, Exception)]
    return (ConnectionError, *bases)


@contextmanager
def _one_sentence(repo_id: str, when: str) -> Iterator[None]:
    """Turn what the Hub's client raises into one sentence; tokens are in none of its messages."""
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise ConnectionError(f"{repo_id!r}: the Hub is not asked, because HF_HUB_OFFLINE is set") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise FileNotFoundError(
            f"the Hub has no data set {repo_id!r} (or not that branch), or your token may not see it; {when}"
        ) from error
    except errors.HfHubHTTPError as error:
        status, said = error.response.status_code, error.server_message or type(error).__name__
        if status in (401, 403):
            raise PermissionError(f"your token may not write to {repo_id!r} ({said}): use one that may") from error
        raise OSError(f"the Hub answered {status} for {repo_id!r} ({said}) {when}") from error
    except _broken() as error:
        if isinstance(error, ConnectionError) and "the source" in str(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConnectionError(f"the connection to the Hub broke ({reason}) {when}") from error
