"""The Hub's HTTP interface, first part: who is asking, and everything about repositories as a
whole.

Paths, status codes and headers are those of huggingface.co, as far as huggingface_hub, datasets,
evaluate and transformers use them; the second part is `hub_files.py`. What is in neither answers a
plain 404.
"""

from aiohttp import web
from hub_state import Commit, Hub, HubError, MovedError, Repository, User
from hub_views import describe, front_matter, named, page, refusal, stamp

API = "/api/{type:models|datasets|spaces}/{name:[^/]+(?:/[^/]+)?}"
REVISION = "{revision:refs/[^/]+/[^/]+|[^/]+}"


class Endpoints:
    """What the handlers of both parts share. `url` is where the server is reached."""

    def __init__(self, hub: Hub, url: str):
        self.hub, self.url = hub, url

    def user(self, request: web.Request) -> User | None:
        """Whose token the request carries."""
        header = request.headers.get("Authorization", "")
        return self.hub.user(header.removeprefix("Bearer ") if header else None)

    def find(self, request: web.Request, level: str = "read") -> Repository:
        """The repository in the path, if the user may "read", "propose" or "write"."""
        kind = request.match_info.get("type", "models").removesuffix("s")
        return self.hub.find(kind, request.match_info["name"], self.user(request), level)

    def at(self, request: web.Request) -> Commit:
        """The commit in the path, of a repository that the user may read."""
        return self.find(request).resolve(request.match_info.get("revision", "main"))

    def page(self, request: web.Request, rows: list) -> web.Response:
        """One page of a list, with a link to the next."""
        size = min(int(request.query.get("limit", self.hub.page_size)), self.hub.page_size)
        start = int(request.query.get("cursor", 0))
        headers = {}
        if start + size < len(rows):
            headers["Link"] = (
                f'<{self.url}{request.rel_url.update_query(cursor=start + size)}>; rel="next"'
            )
        return web.json_response(rows[start : start + size], headers=headers)


@web.middleware
async def errors(request: web.Request, handler) -> web.StreamResponse:
    """Refusals and moved repositories, as the Hub answers them."""
    try:
        return await handler(request)
    except MovedError as moved:
        target = request.path_qs.replace(moved.old, moved.new, 1)
        return web.Response(status=307, headers={"Location": target})
    except HubError as error:
        return refusal(error)


class Repositories(Endpoints):
    """Creating, moving, describing; branches, tags and pull requests."""

    def routes(self) -> list[web.RouteDef]:
        """What is answered here."""
        return [
            web.get("/api/whoami-v2", self.whoami),
            web.post("/api/validate-yaml", self.validate_yaml),
            web.post("/api/repos/create", self.create),
            web.delete("/api/repos/delete", self.delete),
            web.post("/api/repos/move", self.move),
            web.get(f"{API}/commits/{REVISION}", self.commits),
            web.get(f"{API}/revision/{REVISION}", self.info),
            web.get(f"{API}/refs", self.refs),
            web.get(f"{API}/auth-check", self.check),
            web.get(f"{API}/auth-check/{{level:write}}", self.check),
            web.post(f"{API}/branch/{{ref}}", self.create_branch),
            web.delete(f"{API}/branch/{{ref}}", self.delete_branch),
            web.post(f"{API}/tag/{REVISION}", self.create_tag),
            web.delete(f"{API}/tag/{{ref}}", self.delete_tag),
            web.put(f"{API}/settings", self.settings),
            web.post(f"{API}/discussions/{{number:[0-9]+}}/merge", self.merge),
            web.get(API, self.info),
        ]

    async def whoami(self, request):
        user = self.user(request)
        if user is None:
            raise HubError(401, "Invalid username or password.")
        auth = {"type": "access_token", "accessToken": {"displayName": "tests", "role": user.role}}
        return web.json_response(
            {"type": "user", "name": user.name, "fullname": user.name, "orgs": [], "auth": auth}
        )

    async def validate_yaml(self, request):
        try:
            found = front_matter((await request.json())["content"])
        except HubError as error:
            return web.json_response(
                {"errors": [{"message": error.message}], "warnings": []}, status=400
            )
        warnings = [] if found else [{"message": "empty or missing yaml metadata in repo card"}]
        return web.json_response({"errors": [], "warnings": warnings})

    async def create(self, request):
        body, user = await request.json(), self.user(request)
        kind, name = body.get("type") or "model", _name(body, user)
        private = body.get("visibility") == "private" or bool(body.get("private"))
        url = {"url": self.url + page(kind, name), "name": name}
        try:
            with self.hub.lock:
                self.hub.create(kind, name, user, private, body.get("sdk"))
        except HubError as error:
            return refusal(error, url)  # a client told exist_ok reads the address from the refusal
        return web.json_response(url)

    async def delete(self, request):
        body, user = await request.json(), self.user(request)
        with self.hub.lock:
            repository = self.hub.find(
                body.get("type") or "model", _name(body, user), user, "write"
            )
            del self.hub.repositories[repository.type, repository.id]
        return web.json_response({})

    async def move(self, request):
        body, user = await request.json(), self.user(request)
        with self.hub.lock:
            self.hub.move(body["type"], body["fromRepo"], body["toRepo"], user)
        return web.json_response({})

    async def settings(self, request):
        body, repository = await request.json(), self.find(request, "write")
        if "visibility" in body or "private" in body:
            repository.private = body.get("visibility") == "private" or bool(body.get("private"))
        return web.json_response({})

    async def check(self, request):
        self.find(request, request.match_info.get("level", "read"))
        return web.json_response({})

    async def info(self, request):
        answer = describe(self.find(request), self.at(request), blobs="blobs" in request.query)
        if wanted := request.query.getall("expand", []):
            answer = {key: answer[key] for key in ["id", *wanted] if key in answer}
        return web.json_response(answer)

    async def refs(self, request):
        repository = self.find(request)
        branches = [
            named(name, f"refs/heads/{name}", at) for name, at in repository.branches.items()
        ]
        tags = [named(name, f"refs/tags/{name}", at) for name, at in repository.tags.items()]
        pulls = [named(name, name, at) for name, at in repository.pulls.items()]
        return web.json_response(
            {"branches": branches, "tags": tags, "converts": [], "pullRequests": pulls}
        )

    async def commits(self, request):
        rows = []
        for commit in self.at(request).history:
            rows.append({"id": commit.sha, "title": commit.title, "message": commit.message})
            rows[-1] |= {"date": stamp(commit.date), "authors": [{"user": commit.author}]}
        return self.page(request, rows)

    async def create_branch(self, request):
        body, name = await request.json(), request.match_info["ref"]
        repository = self.find(request, "write")
        if name.startswith("refs/"):
            raise HubError(400, f"Invalid branch name: {name}")
        with self.hub.lock:
            if name in repository.branches:
                raise HubError(409, f"Reference already exists: {name}")
            repository.branches[name] = repository.resolve(body.get("startingPoint") or "main")
        return web.json_response({})

    async def create_tag(self, request):
        name = (await request.json())["tag"]
        repository = self.find(request, "write")
        with self.hub.lock:
            if name in repository.tags:
                raise HubError(409, f"Tag reference exists already: {name}")
            repository.tags[name] = repository.resolve(request.match_info["revision"])
        return web.json_response({})

    async def delete_branch(self, request):
        return self._unname(request.match_info["ref"], self.find(request, "write").branches)

    async def delete_tag(self, request):
        return self._unname(request.match_info["ref"], self.find(request, "write").tags)

    def _unname(self, name: str, refs: dict[str, Commit]) -> web.Response:
        if name not in refs:
            raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        if name == "main":
            raise HubError(403, "The branch main cannot be deleted")
        del refs[name]
        return web.json_response({})

    async def merge(self, request):
        repository, user = self.find(request, "write"), self.user(request)
        with self.hub.lock:
            repository.merge(int(request.match_info["number"]), user.name)
        return web.json_response({})


def _name(body: dict, user: User | None) -> str:
    """The repository that a body names; without an organisation it is the user's."""
    return f"{body.get('organization') or (user.name if user else '')}/{body['name']}"
