"""The journey of one photo, in short steps that never wait for the provider: start and collect.

Every step claims the photo, closes its transaction before it calls anybody, and writes a recovery point after.
A step that dies in between is found by its lease, and the next one goes on from the last recovery point.
"""

from dataclasses import dataclass, field
from uuid import UUID

import structlog
from sqlalchemy.orm import Session, sessionmaker

from shared import attempts, leases, loose_objects, photos, thumbnail
from shared.attempts import AttemptEnd, OpenAttempt
from shared.change_notes import ChangeNotes
from shared.content_credentials import NotSigned, PhotoSigner
from shared.errors import StorageUnavailable
from shared.jobs import Settlement, portrait_key
from shared.leases import Claim, LeaseLost
from shared.metrics import CREATES_UNANSWERED
from shared.photo_file import InvalidPhoto, PhotoFile, prepare_photo
from shared.photos import StoredFile, photo_key, thumbnail_key
from shared.queue import COLLECT_QUEUE, START_QUEUE
from shared.settings import Settings
from shared.settlement_log import log_settlement
from shared.states import AttemptOutcome, PhotoStatus
from shared.storage import ObjectNotFound, ObjectStorage
from shared.styles import Role, Style, build_prompt
from worker.attempt_books import adopt, attempt_end, count_attempt
from worker.held_claims import HeldClaims
from worker.leased_steps import LeasedSteps
from worker.predictor import (
    Gone,
    Never,
    NotYet,
    Paced,
    Prediction,
    PredictionOrder,
    PredictionState,
    Predictor,
    Unknown,
)

SEARCH_AGAIN_SECONDS = 1.0  # between looks for a prediction whose create call's answer was lost
STORAGE_AGAIN_SECONDS = 5.0  # the adapter has retried for seconds already
SIGN_AGAIN_SECONDS = 5.0  # nothing outside is asked, so this is about a machine at its end
RETRY_BACKOFF_SECONDS = 2.0  # doubled with every attempt

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Generation(LeasedSteps):
    """The use cases, with all that they need. Thread-safe."""

    sessions: sessionmaker[Session]
    storage: ObjectStorage
    predictor: Predictor
    notes: ChangeNotes
    settings: Settings
    signer: PhotoSigner | None = None
    held: HeldClaims = field(default_factory=HeldClaims)

    def start(self, photo_id: UUID) -> None:
        """Begin a prediction for a photo that waits for one."""
        claim, _ = self._claim(photo_id, PhotoStatus.PENDING)
        if claim is not None:
            with self._step("start_photo", START_QUEUE, claim):
                self._start(claim)

    def collect(self, photo_id: UUID, *, hinted: bool = False, named: str | None = None) -> None:
        """Look at the prediction of a photo that is being generated, and store it once it is there.

        `hinted`: news came that it has ended. `named`: the id of the prediction that the news was about.
        """
        claim, attempt = self._claim(photo_id, PhotoStatus.GENERATING, hinted=hinted)
        if claim is not None:
            with self._step("collect_photo", COLLECT_QUEUE, claim):
                self._collect(claim, attempt, named)

    # --- start

    def _start(self, claim: Claim) -> None:
        if isinstance(self.predictor, Paced) and (wait := self.predictor.ready(claim.photo_id, claim.user_id)):
            self._release(claim, wait.after_seconds)
            log.info("photo.postponed", reason=wait.reason, after_seconds=wait.after_seconds)
            return
        with self.sessions.begin() as session:
            if photos.resume_found(session, claim):
                log.info("prediction.resumed")
                return
            attempt = photos.open_attempt(session, claim, self.predictor.name, self.predictor.model)
        with structlog.contextvars.bound_contextvars(attempt_id=str(attempt.id)):
            self._create(claim, attempt)

    def _create(self, claim: Claim, attempt: OpenAttempt) -> None:
        try:
            answer = self.predictor.start(self._order(claim, attempt))
        except StorageUnavailable:  # while reading the portrait, before anything was sent
            answer = NotYet(STORAGE_AGAIN_SECONDS, "the portrait cannot be read")
        except ObjectNotFound:
            answer = Never("portrait_missing", f"no portrait {claim.portrait_id}")
        match answer:
            case Prediction():
                self._submitted(claim, attempt, answer)
            case NotYet(after_seconds, reason):
                with self.sessions.begin() as session:
                    photos.withdraw_attempt(session, claim, attempt, after_seconds)
                log.info("photo.postponed", reason=reason, after_seconds=after_seconds)
            case Never(code, detail):
                self._give_up(claim, attempt, AttemptEnd(AttemptOutcome.FAILED, code, detail))
            case Unknown(detail):
                CREATES_UNANSWERED.inc()
                log.warning("create.answer_lost", detail=detail)
                self._release(claim, SEARCH_AGAIN_SECONDS)

    def _order(self, claim: Claim, attempt: OpenAttempt) -> PredictionOrder:
        settings = self.settings
        role = Role(claim.role) if claim.role else None
        webhook_url = None
        if settings.replicate_webhook_secrets:
            webhook_url = (
                f"{settings.public_url.rstrip('/')}/webhooks/replicate?photo={claim.photo_id}&attempt={attempt.id}"
            )
        key = portrait_key(claim.portrait_id)
        return PredictionOrder(
            photo_id=claim.photo_id,
            attempt_id=attempt.id,
            user_id=claim.user_id,
            seed=attempt.seed,
            style=claim.style,
            slot=claim.slot,
            prompt=build_prompt(Style(claim.style), role, claim.slot, variation_shift=attempt.moderated_before),
            portrait_url=self.storage.signed_url(key),
            read_portrait=lambda: self.storage.get(key).body,
            webhook_url=webhook_url,
            before_paying=lambda: self._before_paying(claim, attempt),
        )

    def _before_paying(self, claim: Claim, attempt: OpenAttempt) -> None:
        self.held.sending(claim)
        with self.sessions.begin() as session:
            leases.renew(session, claim, self.settings.lease_seconds)
            # From here on it is counted how long the answer can be on its way, whoever asks.
            attempts.begin_anew(session, attempt.id)

    def _submitted(self, claim: Claim, attempt: OpenAttempt, prediction: Prediction) -> None:
        # In a transaction of its own: this fact must stay even when the lease was lost meanwhile.
        with self.sessions.begin() as session:
            attempts.record_prediction(session, attempt.id, prediction.id)
        log.info("prediction.started", prediction_id=prediction.id, attempt=attempt.number)
        self.notes.tell(claim.job_id)
        self._conclude(claim, attempt, prediction)

    # --- collect

    def _collect(self, claim: Claim, attempt: OpenAttempt | None, named: str | None) -> None:
        if attempt is None:
            raise LeaseLost  # its job was ended, and the attempt closed, while we claimed it
        with structlog.contextvars.bound_contextvars(attempt_id=str(attempt.id)):
            known = attempt if attempt.prediction_id else self._search(claim, attempt, named)
            if known is not None and known.prediction_id is not None:
                self._fetch(claim, known, known.prediction_id)

    def _fetch(self, claim: Claim, attempt: OpenAttempt, prediction_id: str) -> None:
        answer = self.predictor.fetch(prediction_id)
        match answer:
            case Prediction():
                self._conclude(claim, attempt, answer)
            case NotYet(after_seconds, _):
                self._release(claim, after_seconds)
            case Gone(detail, cost_usd, seconds):
                end = AttemptEnd(AttemptOutcome.FAILED, "output_expired", detail, cost_usd, seconds)
                self._failed(claim, attempt, end)

    def _search(self, claim: Claim, attempt: OpenAttempt, named: str | None) -> OpenAttempt | None:
        """Look for the prediction of an attempt whose create call was never answered.

        The attempt with its prediction; None when it has none yet, or surely never had one and was ended.
        """
        known = self.predictor.recognise(named, attempt.id, attempt.seed) if named else None
        # The provider's list may lag behind its webhooks.
        found = [known] if known else self.predictor.find(attempt.id, attempt.seed, attempt.created_at)
        if isinstance(found, NotYet):
            self._release(claim, found.after_seconds)
            return None
        if found:
            with self.sessions.begin() as session:
                adopt(session, attempt, found)
                # Read again: its own worker may have written it down meanwhile.
                known_now = attempts.find_open(session, claim.photo_id)
            if known_now is None:
                raise LeaseLost  # its job was ended, and the attempt closed, since we claimed it
            return known_now
        if attempt.age_seconds < self.settings.lease_seconds:
            # A create call takes at most half a lease from the moment it is sent; it may still be on its way.
            self._release(claim, SEARCH_AGAIN_SECONDS)
            return None
        log.warning("prediction.not_found")
        self._failed(claim, attempt, AttemptEnd(AttemptOutcome.LOST, "answer_lost"))
        return None

    def _conclude(self, claim: Claim, attempt: OpenAttempt, prediction: Prediction) -> None:
        match prediction.state:
            case PredictionState.RUNNING:
                self._release(claim, self._check_again_seconds)
            case PredictionState.SUCCEEDED:
                self._keep(claim, attempt, prediction)
            case PredictionState.FAILED | PredictionState.CANCELED:
                end = attempt_end(prediction)
                if prediction.retryable:
                    self._failed(claim, attempt, end)
                else:
                    self._give_up(claim, attempt, end)

    @property
    def _check_again_seconds(self) -> float:
        told = self.settings.replicate_webhook_secrets
        return self.settings.check_interval_with_webhooks_seconds if told else self.settings.check_interval_seconds

    def _keep(self, claim: Claim, attempt: OpenAttempt, prediction: Prediction) -> None:
        file = self._read(prediction)
        match file:
            case AttemptEnd():
                self._failed(claim, attempt, file)
                return
            case NotYet(after_seconds, _):
                self._release(claim, after_seconds)
                return
        key, small = photo_key(claim, attempt), thumbnail_key(claim, attempt)
        with self.sessions.begin() as session:
            # Together: who has lost the photo must not announce an object that another worker's row promises by now.
            leases.renew(session, claim, self.settings.lease_seconds)
            loose_objects.expect(session, key, small)
        try:
            self.storage.put(key, file.body, file.content_type)
            self.storage.put(small, file.thumbnail, thumbnail.CONTENT_TYPE)
        except StorageUnavailable:
            log.warning("photo.not_stored", reason="the storage does not answer")
            self._release(claim, STORAGE_AGAIN_SECONDS)
            return
        stored = StoredFile(key, file.width, file.height, len(file.body), file.sha256, small)
        self._store(claim, attempt, prediction, stored)

    def _read(self, prediction: Prediction) -> PhotoFile | NotYet | AttemptEnd:
        if not prediction.output:
            return attempt_end(prediction, "output_invalid", "the prediction succeeded without an output")
        body = self.predictor.read_output(prediction.output[0])
        if isinstance(body, NotYet):
            return body
        if isinstance(body, Gone):
            return attempt_end(prediction, "output_expired", body.detail)
        by_ai, marked = self.predictor.name != "preview", self.settings.visible_ai_mark
        try:
            return prepare_photo(body, made_by_ai=by_ai, marked=marked, signer=self.signer)
        except InvalidPhoto as error:
            return attempt_end(prediction, "output_invalid", str(error))
        except NotSigned as error:
            log.warning("photo.not_stored", reason=f"it could not be signed: {error}")
            return NotYet(SIGN_AGAIN_SECONDS, "it could not be signed")

    def _store(self, claim: Claim, attempt: OpenAttempt, prediction: Prediction, file: StoredFile) -> None:
        end = attempt_end(prediction)
        with self.sessions.begin() as session:
            settlement = photos.store(session, claim, attempt, end, file)
        count_attempt(self.predictor.model, end)
        log.info("photo.stored", slot=claim.slot, size_bytes=file.size_bytes, attempts=attempt.number)
        self._changed(claim.job_id, settlement)

    # --- ends

    def _failed(self, claim: Claim, attempt: OpenAttempt, end: AttemptEnd) -> None:
        """This attempt brought nothing; try again if that is still allowed."""
        if attempt.number >= self.settings.photo_attempts_max:
            self._give_up(claim, attempt, end)
            return
        after_seconds = RETRY_BACKOFF_SECONDS * 2 ** (attempt.number - 1)
        with self.sessions.begin() as session:
            photos.retry(session, claim, attempt, end, after_seconds)
        count_attempt(self.predictor.model, end)
        log.info("photo.retried", error_code=end.error_code, attempt=attempt.number, after_seconds=after_seconds)
        self.notes.tell(claim.job_id)

    def _give_up(self, claim: Claim, attempt: OpenAttempt, end: AttemptEnd) -> None:
        with self.sessions.begin() as session:
            settlement = photos.give_up(session, claim, attempt, end)
        count_attempt(self.predictor.model, end)
        log.warning("photo.failed", error_code=end.error_code, error_detail=end.error_detail, attempts=attempt.number)
        self._changed(claim.job_id, settlement)

    def _changed(self, job_id: UUID, settlement: Settlement | None) -> None:
        if settlement is not None:
            log_settlement(settlement)
        self.notes.tell(job_id)
