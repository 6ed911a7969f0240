"""For load balancers and people who wonder."""

import redis
import structlog
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from api.dependencies import PartsDep

log = structlog.get_logger()
router = APIRouter(tags=["health"])


@router.get("/healthz", include_in_schema=False)
async def healthz() -> Response:
    """This process runs."""
    return Response("ok", media_type="text/plain")


@router.get("/readyz", include_in_schema=False)
async def readyz(parts: PartsDep) -> Response:
    """Whether requests can be served: the database must answer. Redis may be away; then things are slower."""
    answers = {"database": True, "redis": True}
    try:
        async with parts.sessions() as session:
            await session.execute(text("SELECT 1"))
    except (SQLAlchemyError, OSError) as error:
        log.warning("database.unreachable", error=str(error))
        answers["database"] = False
    try:
        await parts.redis.ping()
    except (redis.RedisError, OSError):
        answers["redis"] = False
    return JSONResponse(answers, 200 if answers["database"] else 503)
