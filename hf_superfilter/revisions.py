"""Resolve a model or data set to an immutable revision: what a run records, a cache depends on."""

import hashlib
from functools import lru_cache
from pathlib import Path

from .errors import HubAccessError, HubError, HubNotFoundError, HubOfflineError, NotFoundError
from .hub_client import MAX_FAILURES, retry_request, translate_errors

KINDS = {"model": "model", "dataset": "data set"}


def resolve_revision(
    repo: str,
    revision: str | None = None,
    *,
    repo_type: str = "model",
    again: bool = False,
    token: str | None = None,
) -> str:
    """Resolve a name to the exact version behind it.

    Online the Hub is asked, once per process; offline the answer is the commit that the local cache
    holds for the revision. The digest of a folder covers names and contents of its files but for
    Markdown.

    Args:
        repo: a local folder or file, or a Hub id such as `openai-community/gpt2`.
        revision: branch, tag or commit on the Hub; None is `main`. Ignored for a folder.
        repo_type: `model` or `dataset`.
        token: a token that may read; by default the one that `hf auth login` or HF_TOKEN holds.
        again: ask the Hub even if this process has asked before: a branch may have moved.

    Returns:
        `sha256:<16 digits>` of a local folder or file, else a commit.

    Raises:
        NotFoundError: neither a local folder nor known to the Hub or its cache.
        HubAccessError: gated, or the token lacks the right.
        HubError: the Hub fails, and the cache does not know the revision.
    """
    path = Path(repo)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix != ".md")
        return _digest(path, tuple(_state_of(file) for file in files))
    if path.is_file():
        return _digest(path.parent, (_state_of(path),))
    if again:
        return _ask_hub(repo, revision, repo_type, token)
    return _commit(repo, revision, repo_type, token)


def is_commit(revision: str | None) -> bool:
    """Return whether a revision is a whole commit sha, which never comes to mean something else."""
    is_sha = isinstance(revision, str) and len(revision) == 40
    return is_sha and not set(str(revision)) - set("0123456789abcdef")


def _state_of(file: Path) -> tuple[str, int, int]:
    """Return name, size and time of a file, by which a change is noticed."""
    return str(file), file.stat().st_size, file.stat().st_mtime_ns


@lru_cache(maxsize=64)
def _digest(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    """Digest the contents of a folder; sizes and times are there so that changes are noticed."""
    digest = hashlib.sha256()
    for name, size, _ in files:
        digest.update(f"{Path(name).relative_to(folder)}\0{size}\0".encode())
        with Path(name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}"


@lru_cache(maxsize=64)
def _commit(repo: str, revision: str | None, repo_type: str, token: str | None) -> str:
    return _ask_hub(repo, revision, repo_type, token)


def _ask_hub(repo: str, revision: str | None, repo_type: str, token: str | None) -> str:
    from huggingface_hub import HfApi, constants

    if revision is not None and is_commit(revision):
        return revision
    if repo.count("/") > 1 or repo.startswith((".", "/", "~")):
        raise NotFoundError(
            f"no folder {repo!r}: give a local {repo_type} folder or a Hub id such as 'org/name'"
        )
    cached = _cached_commit(repo, revision or "main", repo_type)
    if not constants.is_offline_mode():
        api = HfApi(token=token)
        try:
            with translate_errors(repo, kind=KINDS[repo_type], revision=revision):
                info = retry_request(
                    lambda: api.repo_info(repo, revision=revision, repo_type=repo_type),
                    max_failures=MAX_FAILURES if cached is None else 1,
                )
            return str(info.sha)
        except HubOfflineError:
            pass  # what the cache holds decides, as it does offline
        except HubError as error:
            is_final = isinstance(error, (HubNotFoundError, HubAccessError))
            if is_final or cached is None:
                raise
    if cached is None:
        raise NotFoundError(
            f"no local folder {repo!r}, the Hub cannot be reached, and the cache holds no "
            f"{repo_type} of that name"
        )
    return cached


def _cached_commit(repo: str, revision: str, repo_type: str) -> str | None:
    """Return the commit that the cache holds for a branch or tag."""
    from huggingface_hub import constants

    folder = f"{repo_type}s--{repo.replace('/', '--')}"
    file = Path(constants.HF_HUB_CACHE) / folder / "refs" / revision
    return file.read_text().strip() if file.is_file() else None
