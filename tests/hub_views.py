"""How the local Hub of the tests words its answers: the JSON and the headers that clients read."""

import json
from datetime import datetime
from pathlib import PurePosixPath

import yaml
from aiohttp import web
from hub_state import Blob, Commit, HubError, Repository


def refusal(error: HubError, body: dict | None = None) -> web.Response:
    """An error as clients read it: a sentence and a code in headers, the sentence again in the
    body.
    """
    headers = {"X-Error-Message": error.message, **error.headers}
    if error.code:
        headers["X-Error-Code"] = error.code
    return web.json_response(
        {"error": error.message, **(body or {})}, status=error.status, headers=headers
    )


def describe(repository: Repository, commit: Commit, blobs: bool) -> dict:
    """What repo_info answers."""
    siblings = []
    for path, blob in sorted(commit.tree.items()):
        siblings.append({"rfilename": path})
        if blobs:
            siblings[-1] |= {"blobId": blob.oid, "size": len(blob.data)}
        if blobs and blob.lfs:
            siblings[-1]["lfs"] = {
                "sha256": blob.sha256,
                "size": len(blob.data),
                "pointerSize": len(blob.pointer),
            }
    readme = commit.tree.get("README.md", Blob(b""))
    card = front_matter(readme.data.decode())
    tags = card.get("tags") or []
    answer = {
        "_id": repository.branches["main"].history[-1].sha[:24],
        "id": repository.id,
        "author": repository.owner,
    }
    answer |= {
        "sha": commit.sha,
        "lastModified": stamp(commit.date),
        "createdAt": stamp(commit.history[-1].date),
    }
    answer |= {
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
    }
    answer |= {"tags": tags if isinstance(tags, list) else [tags], "siblings": siblings}
    if card:
        answer["cardData"] = json.loads(json.dumps(card, default=str))
    return answer | ({"sdk": repository.sdk} if repository.sdk else {})


def entry(commit: Commit, path: str, expand: bool) -> dict:
    """One row of a tree listing; `expand` asks which commit changed it last."""
    inside = {
        name: at for name, at in commit.tree.items() if name == path or name.startswith(f"{path}/")
    }
    blob = inside.get(path)
    if blob:
        row = {"type": "file", "oid": blob.oid, "size": len(blob.data), "path": path}
    else:
        content = "".join(f"{name} {at.oid}\n" for name, at in sorted(inside.items()))
        row = {"type": "directory", "oid": Blob(content.encode()).oid, "size": 0, "path": path}
    if blob and blob.lfs:
        row["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
    if expand:
        last = commit
        for older in commit.history:
            if any(older.tree.get(name) != at for name, at in inside.items()):
                break
            last = older
        row["lastCommit"] = {"id": last.sha, "title": last.title, "date": stamp(last.date)}
    return row


def listing(commit: Commit, folder: str, recursive: bool) -> list[str]:
    """Paths of the files and folders under a folder, sorted; "" is the root."""
    found = set()
    for path in commit.tree:
        parts = [path, *map(str, PurePosixPath(path).parents)][:-1]
        found |= {part for part in parts if not folder or part.startswith(f"{folder}/")}
    depth = folder.count("/") + 1 if folder else 0
    return sorted(path for path in found if recursive or path.count("/") == depth)


def front_matter(card: str) -> dict:
    """The YAML block that opens a card; empty when there is none."""
    lines = card.splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in (line.strip() for line in lines[1:]):
        return {}
    end = next(number for number, line in enumerate(lines[1:], 1) if line.strip() == "---")
    try:
        found = yaml.safe_load("\n".join(lines[1:end])) or {}
    except yaml.YAMLError as error:
        raise HubError(400, f"Invalid metadata in README.md: {error}".replace("\n", " ")) from error
    if not isinstance(found, dict):
        raise HubError(
            400, f"Invalid metadata in README.md: a {type(found).__name__} instead of a mapping"
        )
    return found


def named(name: str, reference: str, commit: Commit) -> dict:
    """One row of the list of references."""
    return {"name": name, "ref": reference, "targetCommit": commit.sha}


def page(kind: str, name: str) -> str:
    """The path of a repository's page."""
    return f"/{name}" if kind == "model" else f"/{kind}s/{name}"


def stamp(date: datetime) -> str:
    """A time as the Hub writes it."""
    return date.strftime("%Y-%m-%dT%H:%M:%S.") + f"{date.microsecond // 1000:03d}Z"
