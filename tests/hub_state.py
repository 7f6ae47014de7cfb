"""What the local Hub of the tests knows: users, repositories, commits, blobs. Pure Python, no HTTP.

`hub_protocol.py` and `hub_files.py` speak HTTP over this state and `hub_server.py` runs it.
Everything lives in memory.
"""

import hashlib
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

TOKENS = {
    "hf_local_write": ("me", "write"),
    "hf_local_read": ("me", "read"),
    "hf_other_write": ("other", "write"),
}
ATTRIBUTES = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"
SPACE_CARD = "---\ntitle: {name}\nsdk: {sdk}\n---\n\nA new Space.\n"
NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*", re.ASCII)


class HubError(Exception):
    """A refusal: HTTP status, the sentence for X-Error-Message, the word for X-Error-Code, further
    headers.
    """

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers


class MovedError(Exception):
    """The repository lives under another name now."""

    def __init__(self, old: str, new: str):
        super().__init__(f"{old} is now {new}")
        self.old, self.new = old, new


class User(NamedTuple):
    """Whose token a request carried, and whether that token may write."""

    name: str
    role: str


@dataclass(frozen=True)
class Blob:
    """Content of one file; with `lfs` git holds a pointer to it only."""

    data: bytes = field(repr=False)
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """The text that git stores for an LFS file."""
        version = "version https://git-lfs.github.com/spec/v1"
        text = f"{version}\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        return text.encode()

    @cached_property
    def oid(self) -> str:
        """Git's name for the blob: of the pointer when the file is in LFS."""
        content = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Change(NamedTuple):
    """What a commit shall do: paths with their new content, None to delete; `parent` is what it was
    made for.
    """

    edits: list[tuple[str, Blob | None]]
    title: str
    message: str
    author: str
    parent: str | None = None


@dataclass(frozen=True, eq=False)
class Commit:
    """One immutable state of all files."""

    sha: str
    parent: "Commit | None" = field(repr=False)
    title: str
    message: str
    author: str
    date: datetime
    tree: Mapping[str, Blob] = field(repr=False)

    @property
    def history(self) -> list["Commit"]:
        """This commit and those before it, newest first."""
        commits, at = [], self
        while at is not None:
            commits.append(at)
            at = at.parent
        return commits

    @classmethod
    def after(cls, parent: "Commit | None", tree: dict[str, Blob], change: Change) -> "Commit":
        """A commit whose sha differs from every other: the parent, the time and the content go into
        it.
        """
        date = datetime.now(UTC)
        listing = "\n".join(f"{path} {blob.oid}" for path, blob in sorted(tree.items()))
        header = f"{parent and parent.sha} {date} {change.title} {change.message} {change.author}"
        text = f"{header}\n{listing}"
        sha = hashlib.sha1(text.encode()).hexdigest()
        return cls(
            sha,
            parent,
            change.title,
            change.message,
            change.author,
            date,
            MappingProxyType(dict(tree)),
        )


@dataclass
class Repository:
    """Branches, tags and pull requests, all of them names of commits."""

    type: str
    id: str
    private: bool
    sdk: str | None
    branches: dict[str, Commit]
    tags: dict[str, Commit] = field(default_factory=dict)
    pulls: dict[str, Commit] = field(default_factory=dict)
    pull_authors: dict[str, str] = field(default_factory=dict)
    lfs: dict[str, Blob] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def resolve(self, revision: str = "main") -> Commit:
        """The commit that a branch, tag, refs/pr/N or sha stands for."""
        short = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        for names in (self.branches, self.tags, self.pulls, self.commits):
            if short in names:
                return names[short]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, revision: str, change: Change) -> Commit:
        """Move a branch or pull request to a new commit; 412 when the change was made for another
        one.
        """
        refs = self.pulls if revision in self.pulls else self.branches
        if revision not in refs:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        head = refs[revision]
        if change.author not in (self.owner, self.pull_authors.get(revision)):
            raise HubError(403, f"{revision} of {self.id} is not yours to change")
        if change.parent and not head.sha.startswith(change.parent):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        refs[revision] = new = self._grow(head, change)
        return new

    def propose(self, revision: str, change: Change) -> tuple[str, Commit]:
        """Open a pull request, refs/pr/N, from the commit that the change was made for."""
        new = self._grow(self.resolve(change.parent or revision), change)
        reference = f"refs/pr/{len(self.pulls) + 1}"
        self.pulls[reference], self.pull_authors[reference] = new, change.author
        return reference, new

    def merge(self, number: int, author: str) -> Commit:
        """Lay what a pull request changed over main, in one commit."""
        proposed, main = self.resolve(f"refs/pr/{number}"), self.branches["main"]
        known = {commit.sha for commit in main.history}
        base = next(commit for commit in proposed.history if commit.sha in known).tree
        edits = [(path, None) for path in base if path not in proposed.tree and path in main.tree]
        edits += [(path, blob) for path, blob in proposed.tree.items() if base.get(path) != blob]
        return self.commit(
            "main", Change(edits, f"{proposed.title} (#{number})", proposed.message, author)
        )

    def _grow(self, head: Commit, change: Change) -> Commit:
        tree = dict(head.tree)
        for path, blob in change.edits:
            parts = path.removesuffix("/").split("/")
            if {"", ".", "..", ".git"} & set(parts):
                raise HubError(400, f"Invalid path in a commit: {path!r}")
            if blob is not None:
                tree[path] = blob
                continue
            gone = [
                name
                for name in tree
                if name == path or (path.endswith("/") and name.startswith(path))
            ]
            if not gone:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del tree[name]
        new = Commit.after(head, tree, change)
        self.commits[new.sha] = new
        return new


class Hub:
    """All repositories, and who may do what with them."""

    def __init__(self, tokens: dict[str, tuple[str, str]] | None = None):
        self.tokens = dict(TOKENS if tokens is None else tokens)
        self.lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Forget every repository and go back to the first settings."""
        with self.lock:
            self.repositories: dict[tuple[str, str], Repository] = {}
            self.moved: dict[tuple[str, str], str] = {}
            self.refuse_writes = False
            self.page_size = 1000

    def user(self, token: str | None) -> User | None:
        """Who a token belongs to; None without a token."""
        if token is None:
            return None
        if token not in self.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return User(*self.tokens[token])

    def find(self, type: str, id: str, user: User | None, level: str = "read") -> Repository:
        """A repository that the user may "read", "propose" changes to (any visible one) or "write"
        (their own).
        """
        target = self.moved.get((type, id), id)
        repository = self.repositories.get((type, target))
        hidden = repository is None or (
            repository.private and (user is None or user.name != repository.owner)
        )
        if user is None and (hidden or level != "read"):
            # huggingface_hub takes any 401 from an https Hub for a missing repository; over http
            # only with this code
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        if hidden:
            raise HubError(404, "Repository not found", "RepoNotFound")
        if target != id:
            raise MovedError(id, target)
        if level != "read":
            self.check_write(user)
        if level == "write" and user.name != repository.owner:
            raise HubError(
                403, f"You don't have the rights to write to {repository.id}, which is not yours"
            )
        return repository

    def check_write(self, user: User | None) -> None:
        """Refuse a token that cannot write anywhere."""
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if self.refuse_writes:
            raise HubError(403, "Writing is switched off on this Hub")
        if user.role != "write":
            raise HubError(
                403, "This token is read-only: you must use a write token to upload to a repository"
            )

    def create(
        self, type: str, id: str, user: User | None, private: bool, sdk: str | None
    ) -> Repository:
        """A new repository with the files that the Hub puts there."""
        self.check_write(user)
        self._check_name(type, id, user)
        if (type, id) in self.repositories:
            raise HubError(409, f"You already created this {type} repo: {id}")
        tree = {".gitattributes": Blob(ATTRIBUTES)}
        if type == "space":
            tree["README.md"] = Blob(SPACE_CARD.format(name=id.split("/")[1], sdk=sdk).encode())
        if sdk == "static":
            tree |= {
                "index.html": Blob(b"<h1>A new Space</h1>\n"),
                "style.css": Blob(b"h1 { color: gray }\n"),
            }
        first = Commit.after(None, tree, Change([], "initial commit", "", user.name))
        repository = Repository(type, id, private, sdk, {"main": first}, commits={first.sha: first})
        self.repositories[type, id] = repository
        self.moved.pop((type, id), None)
        return repository

    def move(self, type: str, old: str, new: str, user: User) -> None:
        """Give a repository another name; the old one leads to it."""
        repository = self.find(type, old, user, "write")
        self._check_name(type, new, user)
        if (type, new) in self.repositories:
            raise HubError(409, f"{new} exists already")
        del self.repositories[type, old]
        repository.id = new
        self.repositories[type, new] = repository
        self.moved = {name: new if to == old else to for name, to in self.moved.items()} | {
            (type, old): new
        }
        self.moved.pop((type, new), None)

    def _check_name(self, type: str, id: str, user: User) -> None:
        if not NAME.fullmatch(id) or type not in ("model", "dataset", "space"):
            raise HubError(400, f"Invalid repository: {type} {id!r}")
        owner = id.split("/")[0]
        if owner != user.name:
            raise HubError(
                403, f"You don't have the rights to create a {type} under the namespace {owner!r}"
            )
