"""What routes ask for: the adapters that `create_app` built once, the user, the language, a session."""

from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated, cast
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from redis.asyncio import Redis
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from api.auth import Authenticator, Caller, Proof, is_loopback
from api.changes import JobChanges
from api.cross_site import refuse_cross_site
from api.errors import preferred_language
from api.eta import Durations
from api.live_events import LiveEvents
from api.polls import Polls
from api.rate_limit import RateLimits
from api.readiness import DatabaseProbe
from api.session_cookie import SessionCookie
from api.studio_files import StudioFiles
from api.submission import Submitter
from api.upload import Submission, UploadsAtOnce, receive_submission
from api.webhook_verifier import WebhookVerifier
from shared.errors import Unauthorized
from shared.metrics import refusals_counted
from shared.queue import JobQueue
from shared.settings import Settings
from shared.spending import Spending
from shared.storage import ObjectStorage
from shared.styles import Role, Style


@dataclass(frozen=True, slots=True)
class Parts:
    """The collaborators of one API process."""

    settings: Settings
    sessions: async_sessionmaker[AsyncSession]
    storage: ObjectStorage
    studio: StudioFiles
    authenticator: Authenticator
    session_cookie: SessionCookie
    submitter: Submitter
    uploads: UploadsAtOnce
    limits: RateLimits
    changes: JobChanges
    live: LiveEvents
    durations: Durations
    polls: Polls
    queue: JobQueue
    spending: Spending
    engine: Engine  # for the one use case that calls the storage between its transactions, in a thread
    webhooks: WebhookVerifier
    redis: Redis
    database: DatabaseProbe


# Coroutines, though they wait for nothing: FastAPI calls a plain function in the threads that pictures keep busy.
async def parts(request: Request) -> Parts:
    return cast(Parts, request.app.state.parts)


PartsDep = Annotated[Parts, Depends(parts)]


async def current_caller(
    request: Request,
    parts: PartsDep,
    _documented: Annotated[object, Depends(HTTPBearer(auto_error=False))] = None,
) -> Caller:
    """Who sends this request, by bearer token or else by session cookie.

    Raises Unauthorized, and CrossSite where another site's page makes a browser send its cookie.
    """
    if "authorization" in request.headers or (user_id := parts.session_cookie.user_id(request)) is None:
        return await proof_of_token(request, parts)
    refuse_development_for_others(request, parts)
    refuse_cross_site(request, parts.settings)
    return user_id


async def proof_of_token(request: Request, parts: Parts) -> Proof:
    """What this request's bearer token proves. Raises Unauthorized."""
    refuse_development_for_others(request, parts)
    return await parts.authenticator.proof(request.headers.get("authorization"))


def refuse_development_for_others(request: Request, parts: Parts) -> None:
    """Raises Unauthorized where development's sign-in would let anybody be anybody."""
    server = request.scope.get("server")
    if parts.settings.auth_mode == "development" and server and not is_loopback(server[0]):
        # Started on an address that others can reach, whatever the settings said.
        raise Unauthorized


CallerDep = Annotated[Caller, Depends(current_caller)]


async def current_user(parts: PartsDep, caller: CallerDep) -> UUID:
    """The id of whoever sends this request, who is made a user at first sight. Raises Unauthorized."""
    return await parts.authenticator.user_id(caller)


UserDep = Annotated[UUID, Depends(current_user)]


async def database_session(parts: PartsDep) -> AsyncIterator[AsyncSession]:
    """For one short read or write; a route that writes says `async with session.begin()`.

    It ends with the route and not, as FastAPI has it otherwise, with the last byte of the answer: a slow client
    would hold a connection of the pool for as long as it reads.
    """
    async with parts.sessions() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(database_session, scope="function")]


async def language(request: Request) -> str:
    return preferred_language(request)


LanguageDep = Annotated[str, Depends(language)]


async def submission(request: Request, parts: PartsDep, user_id: UserDep) -> AsyncIterator[Submission]:
    """The form, read only once it is known whose it is."""
    with ExitStack() as held:
        with refusals_counted():
            held.enter_context(parts.uploads.one_of(user_id))
            received = await receive_submission(request, parts.settings.upload_max_bytes)
        yield received


SubmissionDep = Annotated[Submission, Depends(submission, scope="function")]

# FastAPI would read a declared form before it asks who is sending it; so the form is declared to the docs only.
SUBMISSION_DOCS = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["style"],
                    "properties": {
                        "image": {
                            "type": "string",
                            "format": "binary",
                            "description": "one person's portrait: JPEG, PNG, WebP or HEIC, 10 MB at most",
                        },
                        "portrait_of": {
                            "type": "string",
                            "format": "uuid",
                            "description": "instead of `image`: one of your jobs whose portrait is to be used again",
                        },
                        "style": {"type": "string", "enum": [style.value for style in Style]},
                        "role": {"type": "string", "enum": [role.value for role in Role]},
                        "consent": {
                            "type": "string",
                            "description": "the `version` of the text of `GET /consent` that the user agreed to",
                        },
                    },
                }
            }
        },
    }
}
