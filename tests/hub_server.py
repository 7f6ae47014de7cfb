"""A local Hugging Face Hub for tests and notebooks: the real clients talk to it, nothing in them is
replaced.

In a test, through the fixture `hub` of conftest.py, or in any program:

    with HubServer() as server:  # in a thread of this process, on 127.0.0.1 only, everything in
    memory
        os.environ["HF_ENDPOINT"] = server.url  # before anything from Hugging Face is imported
        server.fail(412, times=2, path="/commit/")  # what goes wrong is told beforehand ...
        ...
        server.files("dataset", "me/x")  # ... and what came of it is read afterwards

For other processes, `python tests/hub_server.py [--port N]` prints the address and runs until it is
told to stop; `POST /_control {"call": "fail", "status": 412}` calls the methods named in
`CONTROLS`. Tokens: see hub_state.TOKENS. It imports nothing from Hugging Face.
"""

import argparse
import asyncio
import os
import re
import signal
import socket
import threading
from collections.abc import Callable

from aiohttp import web
from hub_faults import Fault, meet
from hub_files import Files
from hub_protocol import Repositories, errors
from hub_state import Blob, Change, Commit, Hub, HubError, User

CONTROLS = ("fail", "drop", "delay", "reset", "move", "head", "commit", "log", "configure")


class HubServer:
    """A Hub on 127.0.0.1. The address is known, and refuses connections, before it is started."""

    def __init__(self, port: int = 0, tokens: dict[str, tuple[str, str]] | None = None):
        self.hub = Hub(tokens)
        self.requests: list[tuple[str, str, int]] = []
        self.faults: list[Fault] = []
        self._thread: threading.Thread | None = None
        self._socket = self._bind(port)
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    # Running

    def __enter__(self) -> "HubServer":
        return self.start()

    def __exit__(self, *error) -> None:
        self.stop()

    def start(self) -> "HubServer":
        """Serve from a daemon thread; a second call changes nothing."""
        if self._thread is None:
            self._socket = self._socket or self._bind(self.port)
            ready = threading.Event()
            self._thread = threading.Thread(
                target=lambda: asyncio.run(self.serve(ready.set)), daemon=True
            )
            self._thread.start()
            if not ready.wait(timeout=20):
                raise RuntimeError(f"The local Hub did not start on {self.url}")
        return self

    def stop(self) -> None:
        """Close every connection and wait for the thread; `start` brings back what it held."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(timeout=20)
            self._thread = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def serve(self, ready: Callable[[], None]) -> None:
        """Answer until `stop`; calls `ready` when it listens."""
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(middlewares=[self._watch, errors], client_max_size=2**30)
        app.router.add_post("/_control", self._control)
        for part in (Repositories, Files):
            app.add_routes(part(self.hub, self.url).routes())
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # so that `start` works after `stop`
        await web.SockSite(runner, self._socket).start()
        ready()
        await self._stopped.wait()
        await runner.cleanup()
        self._socket = None

    @staticmethod
    def _bind(port: int) -> socket.socket:
        bound = socket.socket()
        if (
            port
        ):  # not for a free port: two servers that are not yet started could be given the same one
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(("127.0.0.1", port))
        except OSError:
            bound.close()
            raise
        return bound

    def environment(
        self, home: str | os.PathLike, token: str | None = "hf_local_write"
    ) -> dict[str, str]:
        """What another process needs in its environment to use this Hub, with its caches under
        `home`.
        """
        keep = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("HF_", "HUGGING"))
        }
        settings = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }
        settings |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
        return keep | settings | ({"HF_TOKEN": token} if token else {})

    # What goes wrong

    def fail(
        self,
        status: int,
        times: int = 1,
        method: str | None = None,
        path: str = ".",
        message: str = "",
        code: str | None = None,
        skip: int = 0,
    ) -> None:
        """Answer matching requests with this status, after `skip` such requests.

        `path` is a regular expression to be found; `code` the word of X-Error-Code.
        """
        text = message or f"The test asked for status {status}"
        fault = Fault("fail", path, method, times, status=status, message=text)
        fault.code, fault.skip = code, skip
        self.faults.append(fault)

    def drop(
        self,
        path: str = ".",
        times: int = 1,
        after_bytes: int = 0,
        method: str | None = None,
        handled: bool = False,
        skip: int = 0,
    ) -> None:
        """Cut the connection after so many bytes of an upload or a download.

        With `handled` the request is carried out whole and the connection is cut before the answer.
        """
        self.faults.append(
            Fault("drop", path, method, times, after_bytes=after_bytes, handled=handled, skip=skip)
        )

    def delay(
        self,
        seconds: float,
        path: str = ".",
        times: float = float("inf"),
        method: str | None = None,
    ) -> None:
        """Let matching requests wait before they are handled."""
        self.faults.append(Fault("delay", path, method, times, seconds=seconds))

    def before(
        self, action: Callable[[], object], path: str, times: int = 1, method: str | None = None
    ) -> None:
        """Call `action` before the next matching requests are handled: what happened in between."""
        self.faults.append(Fault("before", path, method, times, action=action))

    @property
    def refuse_writes(self) -> bool:
        """Whether every write answers 403."""
        return self.hub.refuse_writes

    @refuse_writes.setter
    def refuse_writes(self, refuse: bool) -> None:
        self.hub.refuse_writes = refuse

    @property
    def page_size(self) -> int:
        """Rows per page of listings."""
        return self.hub.page_size

    @page_size.setter
    def page_size(self, size: int) -> None:
        self.hub.page_size = size

    def configure(self, **settings: bool | int) -> None:
        """Set `refuse_writes` or `page_size` by name, for other processes."""
        for name, value in settings.items():
            if name not in ("refuse_writes", "page_size"):
                raise ValueError(f"No setting {name!r}: refuse_writes, page_size")
            setattr(self, name, value)

    def reset(self) -> None:
        """Forget repositories, faults, settings and the log."""
        self.hub.reset()
        self.faults.clear()
        self.requests.clear()

    # What is there

    def head(self, type: str, id: str, revision: str = "main") -> str:
        """The commit that a revision stands for."""
        return self.hub.repositories[type, id].resolve(revision).sha

    def files(self, type: str, id: str, revision: str = "main") -> dict[str, bytes]:
        """All files by path, .gitattributes among them."""
        return {
            path: blob.data
            for path, blob in self.hub.repositories[type, id].resolve(revision).tree.items()
        }

    def commits(self, type: str, id: str, revision: str = "main") -> list[Commit]:
        """Newest first; each has sha, parent, title, message, author, date and tree."""
        return self.hub.repositories[type, id].resolve(revision).history

    def log(self, method: str | None = None, path: str = ".") -> list[tuple[str, str, int]]:
        """Method, path and status of the matching requests, oldest first; status 0 where the
        connection was cut.
        """
        return [
            row for row in self.requests if method in (None, row[0]) and re.search(path, row[1])
        ]

    def commit(
        self,
        type: str,
        id: str,
        files: dict[str, bytes | str | None],
        revision: str = "main",
        private: bool = False,
    ) -> str:
        """Commit as the owner without a client, in a new repository if need be; None deletes. The
        new sha.
        """
        owner = User(id.split("/")[0], "write")
        with self.hub.lock:
            if (type, id) not in self.hub.repositories:
                self.hub.create(type, id, owner, private, "static" if type == "space" else None)
            repository, edits = self.hub.repositories[type, id], []
            for path, text in files.items():
                data = text.encode() if isinstance(text, str) else text
                edits.append(
                    (path, None if data is None else Blob(data, lfs=path.endswith(".parquet")))
                )
            repository.lfs |= {blob.sha256: blob for _, blob in edits if blob and blob.lfs}
            return repository.commit(
                revision, Change(edits, "Committed by a test", "", owner.name)
            ).sha

    def move(self, type: str, old: str, new: str) -> None:
        """Rename a repository; the old name redirects."""
        with self.hub.lock:
            self.hub.move(type, old, new, User(old.split("/")[0], "write"))

    # Requests on their way in

    @web.middleware
    async def _watch(self, request: web.Request, handler) -> web.StreamResponse:
        if request.path == "/_control":
            return await handler(request)
        status = 0
        try:
            answer = await meet(self.faults, request, handler)
            status = (
                answer.status if request.transport and not request.transport.is_closing() else 0
            )
            return answer
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            self.requests.append((request.method, request.path, status))

    async def _control(self, request: web.Request) -> web.Response:
        body = await request.json()
        call = body.pop("call", None)
        if call not in CONTROLS:
            return web.json_response(
                {"error": f"No call {call!r}: {', '.join(CONTROLS)}"}, status=400
            )
        try:
            return web.json_response({"result": getattr(self, call)(**body)})
        except (HubError, KeyError, TypeError, ValueError) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)


def main() -> None:
    """Run in the foreground until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="a free one unless told")
    server = HubServer(parser.parse_args().port)

    def listening() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, server._stopped.set)
        print(server.url, flush=True)

    asyncio.run(server.serve(listening))


if __name__ == "__main__":
    main()
