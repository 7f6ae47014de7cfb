"""Publish the explorer of a selection as a static Space."""

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..hub_client import retry_request, translate_errors
from ..reports.explorer import export_explorer
from .commit import commit_of
from .publish import check_token, create_space
from .request import check_repo_id

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

    from ..selection.funnel import Selection


def publish_explorer(
    selection: "Selection",
    repo_id: str,
    *,
    projection: str = "pca",
    private: bool = True,
    token: str | None = None,
) -> "CommitInfo":
    """Publish a selection's explorer as a static Space, in one commit.

    The page holds the beginnings of all rows' texts, so a Space that is made now is private unless
    it is asked to be public.

    Args:
        selection: what `select` returns.
        repo_id: `user/name` of the Space; created if needed.
        projection: as `export_explorer` takes it.
        private: whether a Space that is created now is private.
        token: a token that may write; by default the one that `hf auth login` or HF_TOKEN holds.

    Returns:
        huggingface_hub's `CommitInfo`, a text that is the URL of the commit.

    Raises:
        SuperfilterError: as `export_explorer`, or a name that the Hub would refuse.
        AccessError, HubOfflineError, HubError: as `publish`; the Space is as it was.
    """
    from huggingface_hub import HfApi

    check_repo_id(repo_id)
    check_token(token)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="hf_superfilter_") as temporary:
        title = repo_id.split("/")[-1]
        folder = export_explorer(
            selection, Path(temporary) / "explorer", projection=projection, title=title
        )
        with translate_errors(repo_id, kind="Space", writing=True), warnings.catch_warnings():
            # The Hub's client doubts that a Space should hold data: this one does.
            warnings.filterwarnings(
                "ignore", message="It seems that you are about to commit a data"
            )
            create_space(api, repo_id, private)
            commit = retry_request(
                lambda: api.upload_folder(
                    repo_id=repo_id,
                    folder_path=folder,
                    repo_type="space",
                    commit_message="Publish an explorer with hf_superfilter",
                    delete_patterns="*",
                )
            )
    return commit_of(commit)
