"""Return commits as the Hub's client does, hashable as the texts that they are."""

from huggingface_hub import CommitInfo


class Commit(CommitInfo):
    """Hold a commit: the Hub's `CommitInfo`, whose text is the commit's URL.

    The client's own class lost the hash of a text when it became a dataclass, so that it can stand
    in no set and be no key.
    """

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, str(other)) if isinstance(other, str) else NotImplemented


def commit_of(info: CommitInfo) -> Commit:
    """Return what the client's call returned as a `Commit`."""
    return Commit(
        info.commit_url,
        info.commit_message,
        info.commit_description,
        info.oid,
        _endpoint=info._endpoint,
        pr_url=info.pr_url,
    )
