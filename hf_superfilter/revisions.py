"""From the name of a model or data set to an immutable revision: what a run writes down and a cache depends on."""

import hashlib
from functools import lru_cache
from pathlib import Path


def resolve_revision(
    repo: str, revision: str | None = None, *, repo_type: str = "model", again: bool = False
) -> str:
    """The exact version behind a name: `sha256:<16 digits>` of a local folder or file, else a commit on the Hub.

    Online the Hub is asked, once per process; offline the answer is the commit that the local cache
    holds for the revision. The digest of a folder covers names and contents of its files but for Markdown.

    Args:
        repo: a local folder or file, or a Hub id such as `openai-community/gpt2`.
        revision: branch, tag or commit on the Hub; None is `main`. Ignored for a folder.
        repo_type: `model` or `dataset`.
        again: ask the Hub even if this process has asked before: a branch may have moved.

    Raises:
        FileNotFoundError: neither a local folder nor known to the Hub or its cache.
    """
    folder = Path(repo)
    if folder.is_dir():
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md")
        return _digest(
            folder, tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files)
        )
    if folder.is_file():
        return _digest(
            folder.parent, ((str(folder), folder.stat().st_size, folder.stat().st_mtime_ns),)
        )
    return (_asked if again else _commit)(repo, revision, repo_type)


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a whole commit sha, which never comes to mean something else."""
    return (
        isinstance(revision, str)
        and len(revision) == 40
        and not set(revision) - set("0123456789abcdef")
    )


@lru_cache(maxsize=64)
def _digest(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    """Digest of a folder's contents; sizes and times are there so that a changed file is read again."""
    digest = hashlib.sha256()
    for name, size, _ in files:
        digest.update(f"{Path(name).relative_to(folder)}\0{size}\0".encode())
        with Path(name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:16]}"


@lru_cache(maxsize=64)
def _commit(repo: str, revision: str | None, repo_type: str) -> str:
    return _asked(repo, revision, repo_type)


def _asked(repo: str, revision: str | None, repo_type: str) -> str:
    from huggingface_hub import HfApi, constants, errors

    if revision and is_commit(revision):
        return revision
    if repo.count("/") > 1 or repo.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"no folder {repo!r}: give a local {repo_type} folder or a Hub id such as 'org/name'"
        )
    if not constants.is_offline_mode():
        try:
            sha = HfApi().repo_info(repo, revision=revision, repo_type=repo_type).sha
            if sha:
                return sha
        except (
            errors.RepositoryNotFoundError,
            errors.RevisionNotFoundError,
            errors.HFValidationError,
        ) as error:
            raise FileNotFoundError(
                f"the Hub has no {repo_type} {repo!r}"
                + (f" at revision {revision!r}" if revision else "")
                + ": check the name, and that your token may read it"
            ) from error
        except _unreachable():
            pass  # what the cache holds decides, as it does when offline
    return _cached_commit(repo, revision or "main", repo_type)


def _unreachable() -> tuple[type[Exception], ...]:
    """OSError, and the base of all errors of whichever HTTP library huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return OSError, *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))


def _cached_commit(repo: str, revision: str, repo_type: str) -> str:
    from huggingface_hub import constants

    stored = (
        Path(constants.HF_HUB_CACHE)
        / f"{repo_type}s--{repo.replace('/', '--')}"
        / "refs"
        / revision
    )
    if not stored.is_file():
        raise FileNotFoundError(
            f"no local folder {repo!r}, the Hub cannot be reached, and the cache holds no {repo_type} of that name"
        )
    return stored.read_text().strip()
