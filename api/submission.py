"""The use case: submit a job. Nothing before the one transaction can cost a credit, so nothing needs a refund."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import structlog
from anyio import to_thread
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from api.faces import FaceVerdict
from api.patient_threads import PatientThreads
from api.rate_limit import RateLimits
from api.redis_guard import RedisGuard
from api.remembered_faces import RememberedFaces
from api.upload import Submission
from shared import consent, jobs, loose_objects
from shared.consent import Consent
from shared.credits import JOB_COST_CREDITS
from shared.errors import (
    FaceTooSmall,
    IdempotencyConflict,
    InsufficientCredits,
    MultipleFaces,
    NoFace,
    NotFound,
    PortraitDeleted,
    Refusal,
)
from shared.metrics import SUBMISSIONS, refusals_counted
from shared.models import Job, User
from shared.queue import JobQueue
from shared.settings import Settings
from shared.spending import Spending
from shared.storage import ObjectNotFound, ObjectStorage
from shared.tracing import traceparent

if TYPE_CHECKING:
    from api.portrait import Portrait

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Submitted:
    job_id: UUID
    credits_left: int | None  # None for a replay, which moved nothing
    replayed: bool


class Submitter:
    def __init__(
        self,
        *,
        settings: Settings,
        sessions: async_sessionmaker[AsyncSession],
        storage: ObjectStorage,
        faces: RememberedFaces,
        limits: RateLimits,
        guard: RedisGuard,
        queue: JobQueue,
        spending: Spending,
        decoders: PatientThreads,
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._storage = storage
        self._faces = faces
        self._limits = limits
        self._guard = guard
        self._queue = queue
        self._spending = spending
        self._decoders = decoders

    async def submit(self, user_id: UUID, submission: Submission, language: str) -> Submitted:
        """Accept the job, or say why not. `language` is the one that the user reads.

        Raises:
            Refusal: of any kind that the HTTP contract lists for a submission; nothing was charged.
        """
        with refusals_counted():
            submitted = await self._submit(user_id, submission, language)
        SUBMISSIONS.labels("replayed" if submitted.replayed else "accepted").inc()
        return submitted

    async def _submit(self, user_id: UUID, submission: Submission, language: str) -> Submitted:
        fingerprint = await to_thread.run_sync(_fingerprint, submission)  # of up to 10 MB: tens of milliseconds
        replayed = await self._earlier(user_id, submission.idempotency_key, fingerprint)
        if replayed is not None:
            return replayed
        try:
            return await self._submit_new(user_id, submission, fingerprint, language)
        except Refusal:
            # What it lacks may have gone to the same request, sent before and accepted meanwhile: the last credit,
            # the last place in the window.
            replayed = await self._earlier(user_id, submission.idempotency_key, fingerprint)
            if replayed is None:
                raise
            return replayed

    async def _submit_new(self, user_id: UUID, submission: Submission, fingerprint: str, language: str) -> Submitted:
        await self._check_paused()
        agreed = consent.given(submission.consent, language, self._settings)
        if isinstance(submission.image, UUID):
            await self._limits.check_submission(user_id)
            await self._check_credits(user_id)
            jpeg = await self._accepted_before(user_id, submission.image)
        else:
            await self._limits.count_upload(user_id)
            portrait = await self._decode(submission.image)
            await self._limits.check_submission(user_id)
            await self._check_credits(user_id)
            await self._check_face(portrait)
            jpeg = portrait.jpeg
        return await self._accept(user_id, submission, fingerprint, jpeg, agreed)

    async def _earlier(self, user_id: UUID, key: str | None, fingerprint: str) -> Submitted | None:
        if key is None:
            return None
        async with self._sessions() as session:
            found = await session.execute(
                select(Job.id, Job.request_fingerprint).where(Job.user_id == user_id, Job.idempotency_key == key)
            )
        row = found.one_or_none()
        if row is None:
            return None
        if row.request_fingerprint != fingerprint:
            raise IdempotencyConflict
        return Submitted(row.id, None, replayed=True)

    async def _decode(self, image: bytes) -> "Portrait":
        from api.portrait import read_portrait  # noqa: PLC0415 - Pillow comes with the first upload

        settings = self._settings
        return await self._decoders.run(
            read_portrait,
            image,
            max_pixels=settings.portrait_max_pixels,
            longest_side_px=settings.portrait_longest_side_px,
        )

    async def _accepted_before(self, user_id: UUID, job_id: UUID) -> bytes:
        """The portrait of one of the user's jobs: decoded, and its face looked at, when that job was accepted.

        It is copied for the new job. Shared, it could be deleted with one job only when the other is gone, too.
        """
        own = select(Job.portrait_id, Job.portrait_deleted_at).where(
            Job.id == job_id, Job.user_id == user_id, Job.deleted_at.is_(None)
        )
        async with self._sessions() as session:
            row = (await session.execute(own)).one_or_none()
        if row is None:
            raise NotFound
        if row.portrait_deleted_at is not None:
            raise PortraitDeleted
        try:
            return (await to_thread.run_sync(self._storage.get, jobs.portrait_key(row.portrait_id))).body
        except ObjectNotFound as error:
            raise PortraitDeleted from error

    async def _check_paused(self) -> None:
        """An early answer, before any work is put in; the same question is asked again with the charge."""
        async with self._sessions() as session:
            await session.run_sync(self._spending.refuse_if_paused)

    async def _check_credits(self, user_id: UUID) -> None:
        """An early and friendly answer; the charge itself decides."""
        async with self._sessions() as session:
            balance = await session.scalar(select(User.credits).where(User.id == user_id))
        if balance is None or balance < JOB_COST_CREDITS:
            raise InsufficientCredits(balance=balance or 0)

    async def _check_face(self, portrait: "Portrait") -> None:
        verdict = await self._faces.verdict(portrait.jpeg_sha256, portrait.jpeg, portrait.width, portrait.height)
        match verdict:
            case FaceVerdict.NONE:
                raise NoFace
            case FaceVerdict.SEVERAL:
                raise MultipleFaces
            case FaceVerdict.TOO_SMALL:
                raise FaceTooSmall

    async def _accept(
        self, user_id: UUID, submission: Submission, fingerprint: str, jpeg: bytes, agreed: Consent | None
    ) -> Submitted:
        job_id, portrait_id = uuid4(), uuid4()
        key = jobs.portrait_key(portrait_id)
        async with self._sessions.begin() as session:
            await session.run_sync(loose_objects.expect, key)
        await to_thread.run_sync(self._storage.put, key, jpeg, "image/jpeg")
        new = jobs.NewJob(
            id=job_id,
            user_id=user_id,
            style=submission.style,
            role=submission.role,
            portrait_id=portrait_id,
            idempotency_key=submission.idempotency_key,
            request_fingerprint=fingerprint,
            deadline_seconds=self._settings.job_deadline_seconds,
            delivery_wanted=self._settings.site_webhook_url is not None,
            request_id=structlog.contextvars.get_contextvars().get("request_id"),
            traceparent=traceparent(),
            consent=agreed,
        )
        try:
            # As late as a step that needs no transaction can be: a refusal or an outage before it used nothing up.
            await self._limits.count_submission(user_id)
            async with self._sessions.begin() as session:
                await session.run_sync(self._spending.refuse_if_paused)
                accepted = await session.run_sync(jobs.accept, new)
        except Refusal:
            await self._let_go(key)
            raise
        if accepted is None:  # the same key was accepted while we looked at the picture
            await self._let_go(key)
            earlier = await self._earlier(user_id, submission.idempotency_key, fingerprint)
            if earlier is None:
                raise RuntimeError("an Idempotency-Key was taken and is not there")
            return earlier
        log.info("job.accepted", job_id=str(job_id), user_id=str(user_id), style=submission.style)
        if self._guard.answers and not await to_thread.run_sync(self._queue.start_photos, accepted.photo_ids):
            # The rows are the outbox: the sweep sends them.
            self._guard.failed("start_photos", "the queue was not told")
        return Submitted(job_id, accepted.credits_left, replayed=False)

    async def _let_go(self, key: str) -> None:
        async with self._sessions.begin() as session:
            await session.run_sync(loose_objects.let_go, key)


def _fingerprint(submission: Submission) -> str:
    """What makes two requests the same: the very bytes of the picture (or whose portrait it is), style and role."""
    image = submission.image
    digest = hashlib.sha256(image if isinstance(image, bytes) else b"portrait of \0" + image.bytes)
    digest.update(f"\0{submission.style}\0{submission.role or ''}".encode())
    return digest.hexdigest()
