"""`DATABASE_URL=... API_PORT=... python -m bench.peers.bare_poll`, over our own tables.

As psycopg's pages advise for a server: connections that stay, in autocommit, so that a read is one round trip, with the
statement prepared on the server. uvicorn runs on uvloop and httptools, without an access log.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import uvicorn
from psycopg.rows import dict_row
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

CONNECTIONS = 10
JOB = "SELECT id, status, style, role, error_code, created_at, completed_at FROM jobs WHERE id = %s"

connections: asyncio.LifoQueue[psycopg.AsyncConnection] = asyncio.LifoQueue()


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    for _number in range(CONNECTIONS):
        connection = await psycopg.AsyncConnection.connect(
            os.environ["DATABASE_URL"], autocommit=True, row_factory=dict_row, prepare_threshold=0
        )
        connections.put_nowait(connection)
    yield
    while not connections.empty():
        await connections.get_nowait().close()


async def job(request: Request) -> Response:
    connection = await connections.get()
    try:
        row = await (await connection.execute(JOB, (request.path_params["job_id"],))).fetchone()
    finally:
        connections.put_nowait(connection)
    if row is None:
        return Response(status_code=404)
    return Response(to_json(row), media_type="application/json")


async def ready(_: Request) -> Response:
    return PlainTextResponse("ready")


app = Starlette(routes=[Route("/jobs/{job_id}", job), Route("/readyz", ready)], lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["API_PORT"]), loop="uvloop", http="httptools", access_log=False, lifespan="on")
