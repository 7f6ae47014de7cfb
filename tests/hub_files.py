"""The Hub's HTTP interface, second part: uploads, commits, listings, downloads. The first is
`hub_protocol.py`.
"""

import base64
import json
from pathlib import PurePosixPath

from aiohttp import web
from hub_protocol import API, REVISION, Endpoints
from hub_state import Blob, Change, HubError, Repository
from hub_views import entry, front_matter, listing, page

LFS_SUFFIXES = {
    ".parquet",
    ".arrow",
    ".safetensors",
    ".bin",
    ".pt",
    ".npy",
    ".png",
    ".jpg",
    ".gz",
    ".zip",
}
LFS_BYTES = 10 * 2**20  # the Hub refuses larger files as regular ones
UPLOAD = "/_lfs/{type:models|datasets|spaces}/{name:[^/]+/[^/]+}/{sha256:[0-9a-f]{64}}"
TRUE = ("true", "1")


class Files(Endpoints):
    """What is inside a repository."""

    def routes(self) -> list[web.RouteDef]:
        """What is answered here; only models have no type in the paths of their files, so those
        come last.
        """
        routes = [
            web.get(f"{API}/tree/{REVISION}", self.tree),
            web.get(f"{API}/tree/{REVISION}/{{path:.*}}", self.tree),
            web.post(f"{API}/paths-info/{REVISION}", self.paths_info),
            web.post(f"{API}/preupload/{REVISION}", self.preupload),
            web.post(f"{API}/commit/{REVISION}", self.commit),
            web.put(UPLOAD, self.lfs_put),
            web.post(f"{UPLOAD}/verify", self.lfs_verify),
        ]
        for prefix in ("/{type:datasets|spaces}", ""):
            home = f"{prefix}/{{name:[^/]+(?:/[^/]+)?}}"
            routes += [
                web.get(f"{home}/resolve/{REVISION}/{{path:.+}}", self.resolve),
                web.post(f"{home}.git/info/lfs/objects/batch", self.lfs_batch),
            ]
        return routes

    async def preupload(self, request):
        body, revision = await request.json(), request.match_info["revision"]
        tree = self.find(request, _level(request, revision)).resolve(revision).tree
        files = []
        for file in body["files"]:
            files.append(
                {"path": file["path"], "uploadMode": upload_mode(file), "shouldIgnore": False}
            )
            if blob := tree.get(file["path"]):
                files[-1]["oid"] = blob.sha256 if blob.lfs else blob.oid
        return web.json_response({"files": files})

    async def lfs_batch(self, request):
        body = await request.json()
        repository = self.find(request, _level(request, body.get("ref", {}).get("name")))
        objects = []
        for wanted in body["objects"]:
            objects.append({"oid": wanted["oid"], "size": wanted["size"]})
            if wanted["oid"] not in repository.lfs:
                href = f"{self.url}/_lfs/{repository.type}s/{repository.id}/{wanted['oid']}"
                objects[-1]["actions"] = {
                    "upload": {"href": href},
                    "verify": {"href": f"{href}/verify"},
                }
        return web.json_response({"transfer": "basic", "objects": objects})

    async def lfs_put(self, request):
        """Store one large file. Like S3 this knows no users, only addresses; the client sends no
        token here.
        """
        kind, name, sha256 = (request.match_info[key] for key in ("type", "name", "sha256"))
        blob = Blob(await request.read(), lfs=True)
        if blob.sha256 != sha256:
            raise HubError(400, f"These {len(blob.data)} bytes are not {sha256}")
        repository = self.hub.repositories.get((kind.removesuffix("s"), name))
        if repository is None:
            raise HubError(404, "Repository not found", "RepoNotFound")
        repository.lfs[sha256] = blob
        return web.Response(headers={"ETag": f'"{sha256}"'})

    async def lfs_verify(self, request):
        if request.match_info["sha256"] not in self.find(request, "propose").lfs:
            raise HubError(404, "The file has not been uploaded")
        return web.json_response({})

    async def commit(self, request):
        revision, lines = request.match_info["revision"], []
        repository, user = self.find(request, _level(request, revision)), self.user(request)
        for line in (await request.read()).splitlines():
            lines.append(json.loads(line))
        header = next(line["value"] for line in lines if line["key"] == "header")
        edits = [
            edit(line["key"], line["value"], repository)
            for line in lines
            if line["key"] != "header"
        ]
        message = header.get("description", "")
        change = Change(edits, header["summary"], message, user.name, header.get("parentCommit"))
        home, answer = self.url + page(repository.type, repository.id), {"success": True}
        with self.hub.lock:
            if "create_pr" in request.query:
                reference, new = repository.propose(revision, change)
                answer["pullRequestUrl"] = (
                    f"{home}/discussions/{reference.removeprefix('refs/pr/')}"
                )
            else:
                new = repository.commit(revision, change)
        return web.json_response(
            answer | {"commitOid": new.sha, "commitUrl": f"{home}/commit/{new.sha}"}
        )

    async def tree(self, request):
        commit, folder = self.at(request), request.match_info.get("path", "").strip("/")
        recursive, expand = (
            request.query.get(key, "").lower() in TRUE for key in ("recursive", "expand")
        )
        paths = listing(commit, folder, recursive)
        if folder and not paths:
            raise HubError(
                404, f"{folder} does not exist", "EntryNotFound", **{"X-Repo-Commit": commit.sha}
            )
        return self.page(request, [entry(commit, path, expand) for path in paths])

    async def paths_info(self, request):
        commit, form = self.at(request), await request.post()
        known, expand = listing(commit, "", recursive=True), form.get("expand", "").lower() in TRUE
        rows = [entry(commit, path, expand) for path in form.getall("paths", []) if path in known]
        return web.json_response(rows)

    async def resolve(self, request):
        commit, path = self.at(request), request.match_info["path"]
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        blob = commit.tree.get(path)
        if blob is None:
            raise HubError(404, f"Entry not found: {path}", "EntryNotFound", **headers)
        total, etag = len(blob.data), f'"{blob.sha256 if blob.lfs else blob.oid}"'
        headers |= {
            "ETag": etag,
            "Content-Disposition": f'inline; filename="{PurePosixPath(path).name}"',
        }
        if blob.lfs:
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(total)}
        if "Range" not in request.headers:
            return web.Response(body=blob.data, headers=headers)
        try:
            start, stop, _ = request.http_range.indices(total)
        except ValueError:
            start = stop = total
        if start >= stop:
            headers["Content-Range"] = f"bytes */{total}"
            raise HubError(416, "Requested range not satisfiable", **headers)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
        return web.Response(status=206, body=blob.data[start:stop], headers=headers)


def upload_mode(file: dict) -> str:
    """Whether the Hub wants a file through LFS: a large or a binary one."""
    binary = b"\0" in base64.b64decode(file.get("sample", ""))
    large = file.get("size", 0) > LFS_BYTES
    return (
        "lfs"
        if binary or large or PurePosixPath(file["path"]).suffix in LFS_SUFFIXES
        else "regular"
    )


def edit(kind: str, value: dict, repository: Repository) -> tuple[str, Blob | None]:
    """One line of a commit: a path and its new content, None to delete; a folder's path ends with a
    slash.
    """
    path = value["path"]
    if kind == "file":
        blob = Blob(base64.b64decode(value["content"]))
        if path == "README.md":
            front_matter(blob.data.decode())
        return path, blob
    if kind == "deletedFile":
        return path, None
    if kind == "deletedFolder":
        return path.rstrip("/") + "/", None
    if kind != "lfsFile":
        raise HubError(400, f"Unknown operation in a commit: {kind}")
    if value["oid"] not in repository.lfs:
        raise HubError(400, f"The content of {path} ({value['oid']}) has not been uploaded")
    return path, repository.lfs[value["oid"]]


def _level(request: web.Request, revision: str | None) -> str:
    """Anyone may propose and change their own proposal; a branch is for the owner."""
    proposal = "create_pr" in request.query or revision is None or revision.startswith("refs/pr/")
    return "propose" if proposal else "write"
