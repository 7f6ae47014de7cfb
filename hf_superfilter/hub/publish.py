"""Publish selections on the Hub, each as a subset, in one commit."""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..base import UNREADABLE
from ..data.own_columns import ADDED
from ..errors import AccessError, HubNotFoundError, SuperfilterError
from ..hub_client import retry_commit, retry_request, translate_errors
from ..metrics import metric_path
from ..revisions import is_commit
from .card import licence_warning, merge_card
from .commit import commit_of
from .front_matter import CARD, decode_card
from .layout import ABOUT, ROWS, is_version
from .repo_files import STANDALONE, check_change, paths_in
from .request import (
    SHARD_BYTES,
    SHARD_SIZE,
    check_repo_id,
    check_selection,
    parse_shard_size,
    subset_name,
)
from .split_files import write_splits

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

    from ..selection.funnel import Selection

BEFORE_COMMIT = "before anything was committed; nothing was changed, run it again"
WHILE_COMMITTING = "while committing; run it again, which is safe whether the commit arrived or not"


def publish(
    selection: "Selection | Mapping[str, Selection]",
    repo_id: str,
    config_name: str = "default",
    *,
    split: str | None = None,
    name: str = "default",
    private: bool = True,
    set_default: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | None = None,
    pairs: bool = False,
    vectors: bool = False,
    max_shard_size: int | str = SHARD_SIZE,
    max_shard_bytes: int = SHARD_BYTES,
) -> "CommitInfo":
    """Publish a selection as a subset of a data set on the Hub.

    `load_dataset(repo_id, config_name)` then loads it. One commit holds the rows (Parquet, best
    first), the card, the recipe and the report. Publishing a name again replaces the splits that
    are given; every other subset, the card's other keys and all that was written by hand stay.
    Several may publish into one repository at once: a publisher that loses the race merges again
    and retries, and data is uploaded once. Recipe, report and costs come from the selection's run;
    the card says "not recorded" where there is none.

    Args:
        selection: what `select` returns, as the split `train`; or a dict, split -> selection.
        repo_id: `user/name` on the Hub; created if needed.
        config_name: the subset's name; `name` is an alias.
        split: the split of a single selection, `train` by default.
        private: whether a repository that is created now is private; an existing one stays as it
            is.
        set_default: make this subset the one that loads without a name, as the first one is anyway.
        create_pr: open a pull request instead of committing to the branch.
        revision: the branch, by default `main`; created if needed.
        commit_message: the first line of the commit.
        token: a token that may write; by default the one that `hf auth login` or HF_TOKEN holds.
        pairs: also publish `prompt` and `response` where they were added for scoring.
        vectors: also publish the vectors that scorers of the run added, such as `embedding`.
        max_shard_size: about the size in memory of the rows of one Parquet file: bytes, or a text
            such as "500MB", the default. `max_shard_bytes` is an alias.

    Returns:
        huggingface_hub's `CommitInfo`, a text that is the URL of the commit.

    Raises:
        SuperfilterError: a name that the Hub or `datasets` would refuse, nothing kept, or a subset
            that would not load from there, or keep others from loading.
        AccessError: no token, or one that may not write there.
        HubNotFoundError: no such repository or branch as far as the token sees.
        HubOfflineError: the Hub cannot be reached, or the connection broke.
        HubError: the Hub refused or failed. After any error the repository is as it was, but that
            one created just now stays, empty.
    """
    from huggingface_hub import HfApi

    check_repo_id(repo_id)
    _check_branch(revision)
    name = subset_name(config_name, name)
    shard_bytes = parse_shard_size(max_shard_size, max_shard_bytes)
    splits = check_selection(selection, split)
    check_token(token)
    with tempfile.TemporaryDirectory(prefix="hf_superfilter_") as temporary:
        folder = Path(temporary)
        with translate_errors(repo_id, progress="while the card of the source was read"):
            facts = write_splits(
                splits,
                folder,
                name,
                pairs=pairs,
                vectors=vectors,
                max_shard_bytes=shard_bytes,
                token=token,
            )
        target = _Target(HfApi(token=token), repo_id, revision, create_pr)
        message = commit_message or f"Publish {name} ({', '.join(facts)}) with hf_superfilter"
        upload = _Upload(target, folder, paths_in(folder), name, facts, set_default, message)
        print(  # noqa: T201 - before it happens, whoever calls
            _describe(folder, repo_id, name, facts, private, create_pr, revision), flush=True
        )
        with translate_errors(repo_id, revision=revision, writing=True, progress=BEFORE_COMMIT):
            _create_if_missing(target, private)
            retry_request(upload.plan)  # what cannot be promised is refused before the upload
            retry_request(upload.upload_data)
        with translate_errors(repo_id, revision=revision, writing=True, progress=WHILE_COMMITTING):
            return commit_of(retry_commit(upload.commit))


@dataclass(frozen=True)
class _Target:
    """Name where to publish."""

    api: "HfApi"
    repo_id: str
    revision: str | None
    create_pr: bool


class _Plan(NamedTuple):
    """Hold what a commit does to a branch as it is now."""

    parent: str
    card: str
    deletions: list[str]


@dataclass(frozen=True)
class _Upload:
    """Commit the files of a folder, and the card that names them."""

    target: _Target
    folder: Path
    paths: list[str]  # of the files, in the folder and in the repository
    name: str
    facts: Mapping[str, Any]
    set_default: bool
    message: str

    def plan(self) -> _Plan:
        """Merge the card into the branch as it is now, and check that everything would load."""
        target = self.target
        head = target.api.dataset_info(target.repo_id, revision=target.revision)
        old_paths = [file.rfilename for file in head.siblings or []]
        before = self._read(CARD, old_paths, head.sha)
        after = merge_card(before, self.name, self.facts, target.repo_id, self.set_default)
        deletions = [path for path in old_paths if self._is_replaced(path)]
        check_change(
            before,
            after,
            old_paths,
            self.paths,
            facts_by_name={self.name: self.facts},
            home=target.repo_id,
            standalone=self._read(STANDALONE, old_paths, head.sha),
            set_default=self.set_default,
        )
        return _Plan(str(head.sha), after, [path for path in deletions if path not in self.paths])

    def upload_data(self) -> None:
        """Upload the data, once.

        The commits that follow find it on the Hub.
        """
        self.target.api.preupload_lfs_files(
            self.target.repo_id,
            self._additions(),
            repo_type="dataset",
            revision=self.target.revision,
            create_pr=self.target.create_pr,
            free_memory=False,
        )

    def commit(self) -> "CommitInfo":
        """Commit on top of the head as it is now.

        Status 412 where another came first.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        plan, target = self.plan(), self.target
        return target.api.create_commit(
            target.repo_id,
            [
                *self._additions(),
                *map(CommitOperationDelete, plan.deletions),
                CommitOperationAdd(CARD, plan.card.encode()),
            ],
            commit_message=self.message,
            repo_type="dataset",
            revision=target.revision,
            parent_commit=plan.parent,
            create_pr=target.create_pr,
        )

    def _additions(self) -> list[Any]:
        """Return new operations.

        Those of an earlier attempt remember what the Hub held then.
        """
        from huggingface_hub import CommitOperationAdd

        return [CommitOperationAdd(path, str(self.folder / path)) for path in self.paths]

    def _read(self, path: str, paths: list[str], sha: str | None) -> str:
        if path not in paths:
            return ""
        file = self.target.api.hf_hub_download(
            self.target.repo_id, path, repo_type="dataset", revision=sha
        )
        return decode_card(Path(file).read_bytes(), path)

    def _is_replaced(self, path: str) -> bool:
        """Return whether a file belongs to a version of the splits that are published."""
        parts = path.split("/")
        return (
            len(parts) > 4
            and parts[0] in (ROWS, ABOUT)
            and parts[1] == self.name
            and parts[2] in self.facts
            and is_version(parts[3])
        )


def describe_publication(
    selection: "Selection",
    repo_id: str,
    config_name: str = "default",
    *,
    split: str | None = None,
    private: bool = True,
    create_pr: bool = False,
    revision: str | None = None,
    pairs: bool = False,
    vectors: bool = False,
) -> str:
    """Describe what `publish` would commit, without asking for a token or sending anything."""
    check_repo_id(repo_id)
    name = subset_name(config_name, "default")
    splits = check_selection(selection, split)
    with tempfile.TemporaryDirectory(prefix="hf_superfilter_") as temporary:
        folder = Path(temporary)
        facts = write_splits(
            splits, folder, name, pairs=pairs, vectors=vectors, max_shard_bytes=SHARD_BYTES
        )
        return _describe(folder, repo_id, name, facts, private, create_pr, revision)


def _describe(
    folder: Path,
    repo_id: str,
    name: str,
    facts: Mapping[str, Any],
    private: bool,
    create_pr: bool,
    revision: str | None,
) -> str:
    """Describe what is about to be published."""
    paths = paths_in(folder)
    size = sum((folder / path).stat().st_size for path in paths) / 1e6
    branch = "a pull request" if create_pr else revision or "main"
    visibility = "private" if private else "PUBLIC"
    lines = [f"publish {name!r} to {repo_id} ({branch}; a new repository is {visibility}):"]
    for split, split_facts in facts.items():
        lines += _describe_split(split, split_facts)
    lines.append(f"  {len(paths) + 1} files, {size:,.1f} MB, in one commit")
    return "\n".join(lines)


def _describe_split(split: str, facts: Mapping[str, Any]) -> list[str]:
    columns = ", ".join(facts["columns"])
    lines = [f"  split {split}: {facts['kept']:,} of {facts['rows']:,} rows, columns {columns}"]
    pairs = [name for name in facts["left_out"] if name in (*ADDED, UNREADABLE)]
    vectors = [name for name in facts["left_out"] if name not in pairs]
    if pairs:
        lines.append(
            f"  left out, made for scoring: {', '.join(pairs)} (pairs=True publishes them)"
        )
    if vectors:
        lines.append(f"  left out, vectors: {', '.join(vectors)} (vectors=True publishes them)")
    if facts["recipe"] and not facts["source"]["for_all"]:
        source = facts["source"]["dataset"]
        lines.append(f"  the recipe names {source!r}, which others cannot load from the Hub")
    for warning in (licence_warning(facts["license"]), facts["source_missing"]):
        if warning:
            lines.append(f"  WARNING: {warning}")
    return lines


def _check_branch(revision: str | None) -> None:
    """Refuse what cannot be a branch."""
    if revision is None:
        return
    is_name = re.fullmatch(r"\w[\w./-]*(?<![./-])", str(revision), re.ASCII)
    if not is_name or ".." in revision or is_commit(revision):
        raise SuperfilterError(
            f"revision={revision!r}: give the name of a branch, of letters, digits, '-', '_', '.' "
            "and '/'"
        )


def check_token(token: str | None) -> None:
    """Refuse to go without a token, and one that an error about the request would quote."""
    from huggingface_hub import get_token

    token = token or get_token()
    if not token:
        raise AccessError(
            "no token for the Hub: log in with 'hf auth login', or set HF_TOKEN to one that writes"
        )
    if not re.fullmatch("[!-~]+", token):
        raise AccessError(
            "the token holds a blank, a line break or a letter that no token has: give it without"
        )


def _create_if_missing(target: _Target, private: bool) -> None:
    """Create the repository and the branch where they are missing."""
    from huggingface_hub.errors import RepositoryNotFoundError

    api, repo_id, branch = target.api, target.repo_id, target.revision
    try:
        current_id = retry_request(lambda: api.dataset_info(repo_id)).id
    except RepositoryNotFoundError:
        retry_request(
            lambda: api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        )
        current_id = repo_id
    if current_id != repo_id:
        # To create the old name anew would cut the redirection that the Hub keeps.
        raise HubNotFoundError(
            f"{repo_id!r} is called {current_id!r} on the Hub now: publish to that name"
        )
    if branch and not target.create_pr and not branch.startswith("refs/"):
        retry_request(
            lambda: api.create_branch(repo_id, branch=branch, repo_type="dataset", exist_ok=True)
        )


def publish_metric(
    repo_id: str, *, name: str = "rank_consistency", private: bool = False, token: str | None = None
) -> "CommitInfo":
    """Publish a metric of this package as a Space, which `evaluate.load(repo_id)` loads.

    Args:
        repo_id: `user/rank_consistency`; the Space is created if needed. `evaluate` looks for a
            script of the Space's own name, so it has to be the metric's.
        name: the metric.
        private: whether a Space that is created now is private.
        token: a token that may write; by default the one that `hf auth login` or HF_TOKEN holds.

    Returns:
        huggingface_hub's `CommitInfo`, a text that is the URL of the commit.

    Raises:
        SuperfilterError: a name that the Hub would refuse or `evaluate` would not find.
        AccessError, HubOfflineError, HubError: as `publish`; the Space is as it was.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    check_repo_id(repo_id)
    if repo_id.split("/")[1] != name:
        raise SuperfilterError(
            f"repo_id={repo_id!r}: evaluate finds the metric only in 'user/{name}', by the "
            "script's name"
        )
    check_token(token)
    api, folder = HfApi(token=token), Path(metric_path(name))
    files = [
        path for path in sorted(folder.iterdir()) if path.is_file() and path.name != "__init__.py"
    ]
    listed = ", ".join(path.name for path in files)
    print(  # noqa: T201 - before it happens, whoever calls
        f"publish the metric {name!r} to the Space {repo_id}: {listed}", flush=True
    )

    def commit() -> "CommitInfo":
        head = api.space_info(repo_id).sha
        return api.create_commit(
            repo_id,
            [CommitOperationAdd(path.name, str(path)) for path in files],
            commit_message=f"Publish {name} with hf_superfilter",
            repo_type="space",
            parent_commit=head,
        )

    with translate_errors(repo_id, kind="Space", writing=True, progress=WHILE_COMMITTING):
        create_space(api, repo_id, private)
        return commit_of(retry_commit(commit))


def create_space(api: "HfApi", repo_id: str, private: bool) -> None:
    """Create a static Space where there is none; an existing one stays as it is."""
    retry_request(
        lambda: api.create_repo(
            repo_id, repo_type="space", space_sdk="static", private=private, exist_ok=True
        )
    )
