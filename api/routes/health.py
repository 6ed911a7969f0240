"""For load balancers and people who wonder."""

import asyncio

import redis
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from redis.asyncio import Redis

from api.dependencies import PartsDep

router = APIRouter(tags=["health"])


@router.get("/healthz", include_in_schema=False)
async def healthz() -> Response:
    """This process runs."""
    return Response("ok", media_type="text/plain")


@router.get("/readyz", include_in_schema=False)
async def readyz(parts: PartsDep) -> Response:
    """Whether requests can be served: the database must answer. Redis may be away; then things are slower.

    It comes within about two seconds, also when a server hangs.
    """
    database, redis_answers = await asyncio.gather(parts.database.answers(), _answers(parts.redis))
    return JSONResponse({"database": database, "redis": redis_answers}, 200 if database else 503)


async def _answers(client: Redis) -> bool:
    try:
        return bool(await client.ping())
    except (redis.RedisError, OSError):
        return False
