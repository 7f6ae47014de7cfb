"""Read small text files of a repository, all at one commit."""

from pathlib import Path

from ..errors import HubNotFoundError, HubOfflineError, SuperfilterError
from ..hub_client import retry_request, translate_errors
from ..revisions import is_commit
from .front_matter import CARD, decode_card

MAX_BYTES = 10_000_000


class Snapshot:
    """Read a repository on the Hub, or a local folder.

    Online, one request tells the commit, the files and their sizes, so that a file that grew
    without bounds is never downloaded. Offline the cache answers.

    Args:
        repo_id: `user/name`, or a folder.
        revision: branch, tag or commit; None is `main`.
        token: a token that may read; by default the one that `hf auth login` or HF_TOKEN holds.

    Raises:
        HubNotFoundError, HubAccessError, HubError: as `translate_errors` words them.
    """

    def __init__(self, repo_id: str, revision: str | None = None, token: str | None = None) -> None:
        self.repo_id, self.revision, self.token = str(repo_id), revision, token
        self.is_local = Path(repo_id).is_dir()
        self.sha: str | None = None
        self.sizes: dict[str, int] | None = None  # path -> bytes; None where only the cache answers
        if not self.is_local:
            self._ask_hub()

    def _ask_hub(self) -> None:
        from huggingface_hub import HfApi, constants

        try:
            with translate_errors(self.repo_id, revision=self.revision):
                if constants.is_offline_mode() or self._is_cached_commit():
                    return
                info = retry_request(
                    lambda: HfApi(token=self.token).dataset_info(
                        self.repo_id, revision=self.revision, files_metadata=True
                    )
                )
        except HubOfflineError:
            return
        self.sha = info.sha
        self.sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}

    def _is_cached_commit(self) -> bool:
        """Return whether the cache holds the commit, whatever became of the repository."""
        from huggingface_hub import try_to_load_from_cache

        if not is_commit(self.revision):
            return False
        card = try_to_load_from_cache(
            self.repo_id, CARD, revision=self.revision, repo_type="dataset"
        )
        return isinstance(card, str)

    def read_card(self) -> str:
        """Return the card, "" where there is none."""
        return self.read_text(CARD) or ""

    def read_text(self, path: str) -> str | None:
        """Return a text file; None where the repository has none of that name.

        Raises:
            HubNotFoundError: the Hub cannot be reached, and the cache does not hold the file.
            SuperfilterError: the file is too large, or no text.
        """
        if self.is_local:
            file = Path(self.repo_id) / path
            if not file.is_file():
                return None
            self._check_size(path, file.stat().st_size)
            return self._decode(path, file.read_bytes())
        if self.sizes is not None:
            if path not in self.sizes:
                return None
            self._check_size(path, self.sizes[path])
        data = self._download(path)
        return None if data is None else self._decode(path, data)

    def _download(self, path: str) -> bytes | None:
        from huggingface_hub import errors, hf_hub_download

        def download(revision: str | None) -> Path:
            file = hf_hub_download(
                self.repo_id, path, repo_type="dataset", revision=revision, token=self.token
            )
            return Path(file)

        with translate_errors(self.repo_id, revision=self.revision):
            try:
                # By the branch's name first, so that the cache knows the branch when offline.
                file = retry_request(lambda: download(self.revision))
                if self.sha is not None and self.sha not in file.parts:
                    file = retry_request(lambda: download(self.sha))
                self._check_size(path, file.stat().st_size)
                return file.read_bytes()
            except errors.LocalEntryNotFoundError as error:
                if isinstance(error.__cause__, errors.HfHubHTTPError):
                    raise
                at_revision = f" at revision {self.revision!r}" if self.revision else ""
                raise HubNotFoundError(
                    f"the Hub cannot be reached, and the cache holds no {path!r} of "
                    f"{self.repo_id!r}{at_revision}"
                ) from error
            except errors.EntryNotFoundError:
                return None

    def _decode(self, path: str, data: bytes) -> str:
        if path == CARD:
            return decode_card(data)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SuperfilterError(
                f"{path!r} of {self.repo_id!r} is not UTF-8 text ({error})"
            ) from error

    def _check_size(self, path: str, size: int) -> None:
        if size > MAX_BYTES:
            raise SuperfilterError(
                f"{path!r} of {self.repo_id!r} has {size:,} bytes: more than {MAX_BYTES:,} are not "
                "read"
            )
