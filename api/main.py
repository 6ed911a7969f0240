"""The HTTP side: `create_app()` builds the adapters once and mounts the routes and the one error renderer."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import async_sessionmaker

from api.admin_pages import PREFIX, admin_error
from api.auth import Authenticator
from api.changes import JobChanges
from api.dependencies import Parts
from api.errors import install_error_renderer
from api.eta import Durations
from api.faces import open_face_checker
from api.live_events import LiveEvents
from api.observed_requests import ObservedRequests
from api.patient_threads import PatientThreads
from api.polls import Polls
from api.rate_limit import RateLimits
from api.readiness import DatabaseProbe
from api.redis_guard import RedisGuard, impatient_redis
from api.remembered_faces import RememberedFaces
from api.routes import (
    account,
    admin,
    admin_forms,
    consent,
    downloads,
    grants,
    health,
    jobs,
    me,
    media,
    metrics,
    plan,
    poll,
    session,
    studio,
    styles,
    webhooks,
)
from api.session_cookie import SessionCookie
from api.studio_files import StudioFiles
from api.submission import Submitter
from api.upload import UploadsAtOnce
from api.webhook_verifier import WebhookVerifier
from shared.database import make_async_engine, make_engine
from shared.metrics import forget_dead_processes
from shared.observed_storage import ObservedStorage
from shared.queue import JobQueue, make_celery
from shared.settings import Settings, get_settings
from shared.spending import Spending
from shared.storage import open_storage
from shared.telemetry import configure_logging
from shared.tracing import configure_tracing

# Decoding a large portrait takes 100 ms to 700 ms of processor time, and up to 0.5 GB. A second one on the same core
# is in the way of the first when that holds the interpreter's lock: polls then took twice as long (measured).
DECODERS = 1

DESCRIPTION = """One portrait in, four wedding photos out.

Submit a job with `POST /jobs`, follow it with `GET /jobs/{id}/events` (or `GET /jobs/{id}?wait=25`), and look at its
photos under the addresses it names. A job costs one credit; if it cannot be completed the credit comes back by itself.
Errors are `application/problem+json` with a `code` for programs and a `detail` for people, in Korean or English.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application, ready for any ASGI server.

    Raises:
        pydantic.ValidationError: a setting is missing or wrong.
    """
    settings = settings or get_settings()
    configure_logging(settings)
    configure_tracing("cuggu-api")
    forget_dead_processes()
    app = FastAPI(
        title="Cuggu photos",
        description=DESCRIPTION,
        version="0.1.0",
        lifespan=lambda app: _lifespan(app, settings),
        # `ObservedRequests` makes the spans. FastAPI's own are not wanted, and that it asked each time whether they are
        # took a tenth of a poll (measured).
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    for module in (
        jobs,
        poll,
        downloads,
        media,
        me,
        account,
        grants,
        session,
        styles,
        consent,
        plan,
        webhooks,
        health,
        metrics,
        studio,
        admin,
        admin_forms,
    ):
        app.include_router(module.router)
    app.add_middleware(poll.PlainPolls)
    install_error_renderer(app, {plan.PREFIX: plan.plan_error, PREFIX: admin_error})
    app.add_middleware(ObservedRequests)  # last, and so around all that is there already
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    async with AsyncExitStack() as closing:
        pooling = settings.database_transaction_pooling
        engine = make_async_engine(settings.database_url, transaction_pooling=pooling)
        closing.push_async_callback(engine.dispose)
        # Connects when it is first used.
        engine_in_threads = make_engine(settings.database_url, transaction_pooling=pooling, pool_size=1)
        closing.callback(engine_in_threads.dispose)
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        redis = impatient_redis(settings.redis_url)
        closing.push_async_callback(redis.aclose)
        subscriber = impatient_redis(settings.redis_url)
        closing.push_async_callback(subscriber.aclose)
        guard = RedisGuard()
        changes = JobChanges(redis, subscriber, guard)
        await changes.start()
        closing.push_async_callback(changes.stop)
        live = LiveEvents(engine, changes)
        await live.start()
        closing.push_async_callback(live.stop)
        face_checker = open_face_checker(settings)
        closing.push_async_callback(face_checker.close)
        decoders = PatientThreads(DECODERS)
        closing.callback(decoders.close)
        limits = RateLimits(settings, redis, guard)
        durations = Durations(settings)
        storage = ObservedStorage(open_storage(settings), settings.storage)
        queue = JobQueue(make_celery(settings), settings.redis_url)
        spending = Spending(settings)
        app.state.parts = Parts(
            settings=settings,
            sessions=sessions,
            storage=storage,
            studio=StudioFiles(settings),
            authenticator=Authenticator(settings, sessions),
            session_cookie=SessionCookie(settings),
            # Twice what may be accepted: clients repeat what was not answered in time.
            uploads=UploadsAtOnce(2 * settings.submissions_per_window),
            limits=limits,
            changes=changes,
            live=live,
            durations=durations,
            polls=Polls(engine, durations),
            queue=queue,
            spending=spending,
            engine=engine_in_threads,
            webhooks=WebhookVerifier(settings.replicate_webhook_secrets, redis, guard),
            redis=redis,
            database=DatabaseProbe(settings.database_url),
            submitter=Submitter(
                settings=settings,
                sessions=sessions,
                storage=storage,
                faces=RememberedFaces(face_checker, redis, guard, settings.face_verdict_seconds),
                limits=limits,
                guard=guard,
                queue=queue,
                spending=spending,
                decoders=decoders,
            ),
        )
        yield
