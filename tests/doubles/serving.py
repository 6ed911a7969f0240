"""Serving a double's ASGI app: a free loopback port, one JSON line when it listens, and an end with its parent."""

import asyncio
import json
import os
import socket
import stat
import sys
import threading

import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class CuttableProtocol(HttpToolsProtocol):
    """Lets an app cut the line under a request, which plain ASGI cannot: see `cut_line`."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["cut_line"] = self.transport.abort


async def cut_line(scope: Scope) -> None:
    """Drop the connection of this request without a byte of answer; return from the app afterwards."""
    scope["state"]["cut_line"]()
    await asyncio.sleep(0)  # the protocol learns of the loss in the loop's next turn, and then expects no answer
    await asyncio.sleep(0)


def exit_with_parent() -> None:
    """End this process once its standard input closes, if that is a pipe from the process that started it."""
    if not stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        return

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def listen(port: int) -> tuple[socket.socket, str]:
    """A listening loopback socket (port 0: any free one) and its address, known before the app is built."""
    # Named TCP outright: asyncio sets TCP_NODELAY only on such sockets, and without it each answer takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(2048)
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


def serve(app: ASGIApp, listener: socket.socket, url: str) -> None:
    """Serve until terminated; prints the address first, because the socket is already listening."""
    exit_with_parent()
    # An answer that is being withheld on purpose must not keep the process from ending.
    config = uvicorn.Config(
        app, http=CuttableProtocol, log_level="error", access_log=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    print(json.dumps({"url": url}), flush=True)
    asyncio.run(server.serve(sockets=[listener]))
