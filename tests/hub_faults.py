"""What goes wrong on the local Hub because a test said so: refusals, cut connections, delays,
things in between.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from hub_state import HubError
from hub_views import refusal


@dataclass
class Fault:
    """Happens `times` times that a request's path and method match, after `skip` such requests."""

    kind: str
    path: str
    method: str | None
    times: float
    status: int = 0
    message: str = ""
    code: str | None = None
    skip: int = 0
    after_bytes: int = 0
    handled: bool = False
    seconds: float = 0
    action: Callable[[], object] | None = None


async def meet(faults: list[Fault], request: web.Request, handler) -> web.StreamResponse:
    """Let a request run into whatever waits for it, then handle it if nothing ended it."""
    for fault in _due(faults, request):
        if fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
        elif fault.kind == "before":
            await asyncio.to_thread(fault.action)
        elif fault.kind == "drop":
            return await _cut(request, handler, fault)
        else:
            await request.read()
            return refusal(HubError(fault.status, fault.message, fault.code))
    return await handler(request)


def _due(faults: list[Fault], request: web.Request) -> list[Fault]:
    """The faults that this request meets, up to the first that ends it."""
    due = []
    for fault in faults:
        if (
            fault.times > 0
            and fault.method in (None, request.method)
            and re.search(fault.path, request.path)
        ):
            if fault.skip > 0:
                fault.skip -= 1
                continue
            fault.times -= 1
            due.append(fault)
            if fault.kind in ("fail", "drop"):
                break
    return due


async def _cut(request: web.Request, handler, fault: Fault) -> web.StreamResponse:
    """Close the connection in the middle of what the client sends, or of what it is sent."""
    if request.body_exists and not fault.handled:
        seen = 0
        while seen < fault.after_bytes and (chunk := await request.content.readany()):
            seen += len(chunk)
        request.transport.abort()
        return web.Response()
    whole = await handler(request)
    part = web.StreamResponse(status=whole.status, headers=whole.headers)
    part.content_length = len(whole.body or b"")
    if fault.after_bytes and not fault.handled:
        await part.prepare(request)
        await part.write((whole.body or b"")[: fault.after_bytes])
    request.transport.close()
    return part
