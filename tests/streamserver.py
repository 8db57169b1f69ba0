"""A server of streams that swaps nothing, for replicas on Ray; imports little to start fast."""

from __future__ import annotations

import asyncio
import os
import secrets

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect


class Streams:
    """``POST /v1/live`` makes one, its socket echoes, ``GET`` says whether it is there."""

    def __init__(self, mark, facts):
        if facts.get("broken"):
            from mien.errors import UsageError

            raise UsageError("this machine has another policy")
        self.mark, self.streams, self.sockets = mark, set(), set()
        self.app = Starlette(
            routes=[
                Route("/v1/live", self.create, methods=["POST"]),
                Route("/v1/live/{stream}", self.show),
                WebSocketRoute("/v1/live/{stream}/socket", self.open),
                Route("/who", self.who),
            ]
        )

    async def ready(self):
        await asyncio.sleep(0.1)

    def drain(self, seconds):
        asyncio.get_running_loop().call_later(seconds, self.end)

    def end(self):
        for task in self.sockets:
            task.cancel()

    async def who(self, _):
        return JSONResponse({"pid": os.getpid()})

    async def create(self, _):
        stream = self.mark + secrets.token_hex(12)
        self.streams.add(stream)
        return JSONResponse({"id": stream, "pid": os.getpid()})

    async def show(self, request):
        stream = request.path_params["stream"]
        return JSONResponse({"pid": os.getpid()}, 200 if stream in self.streams else 404)

    async def open(self, socket):
        await socket.accept()
        if socket.path_params["stream"] not in self.streams:
            await socket.close(1008)
            return
        echo = asyncio.create_task(self.echo(socket))
        self.sockets.add(echo)
        try:
            await echo
        except WebSocketDisconnect:
            pass
        except asyncio.CancelledError:
            await socket.close(1001, "the server ends")
        finally:
            self.sockets.discard(echo)

    async def echo(self, socket):
        while True:
            await socket.send_bytes(await socket.receive_bytes())


def make(mark, facts):
    return Streams(mark, facts)
