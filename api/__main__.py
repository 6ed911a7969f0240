"""`python -m api`: serve the API where the settings say."""

import shared.lean_start  # noqa: F401, I001 - first

import resource
import socket
import sys
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from api.auth import require_loopback_in_development
from api.bounded_head import BoundedHead
from api.main import create_app
from shared.heap import freeze_heap, share_heaps
from shared.settings import settings_or_exit

# How long a stopping server waits for the answers it owes.
GRACE_SECONDS = 10
STARTUP_FAILED = 3  # as uvicorn says it


def main() -> None:
    share_heaps()
    settings = settings_or_exit("api")
    try:
        require_loopback_in_development(settings, settings.api_host)
    except ValueError as error:
        sys.exit(f"api: {error}")
    _allow_many_connections()
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        http=BoundedHead,
        log_config=None,  # ours is configured by create_app
        access_log=False,
        proxy_headers=True,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config, app)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(STARTUP_FAILED)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        freeze_heap()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets clients go that follow a job, before it waits for the answers it owes: theirs would not end."""
        self._app.state.parts.live.end()
        await super().shutdown(sockets)


def _allow_many_connections() -> None:
    """Every client that follows a job holds a descriptor; the usual soft limit is 1024 of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
