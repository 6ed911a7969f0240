"""A worker played by the test: it starts, stores and gives up photos when told to, and tells those who wait."""

from typing import Any
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from shared import leases, photos
from shared.attempts import AttemptEnd, OpenAttempt
from shared.change_notes import ChangeNotes
from shared.leases import Claim
from shared.photos import StoredFile
from shared.states import AttemptOutcome, PhotoStatus
from shared.storage import ObjectStorage

LEASE_SECONDS = 60


class HandWorker:
    def __init__(self, engine: Engine, storage: ObjectStorage, redis_url: str) -> None:
        self.engine = engine
        self._storage = storage
        self._notes = ChangeNotes(redis_url)
        self._claims: dict[str, tuple[Claim, OpenAttempt]] = {}

    def start(self, photo: dict[str, Any]) -> None:
        with Session(self.engine) as session, session.begin():
            claim = leases.claim(session, UUID(photo["id"]), PhotoStatus.PENDING, LEASE_SECONDS)
            assert claim is not None
            self._claims[photo["id"]] = claim, photos.open_attempt(session, claim, "preview", "preview")
        self._notes.tell(claim.job_id)

    def store(
        self, photo: dict[str, Any], picture: bytes, size: tuple[int, int], thumbnail: bytes | None = None
    ) -> None:
        claim, attempt = self._claims.pop(photo["id"])
        key = photos.photo_key(claim, attempt)
        self._storage.put(key, picture, "image/jpeg")
        small = photos.thumbnail_key(claim, attempt) if thumbnail else None
        if small and thumbnail:
            self._storage.put(small, thumbnail, "image/webp")
        with Session(self.engine) as session, session.begin():
            file = StoredFile(key, *size, len(picture), "0" * 64, small)
            photos.store(session, claim, attempt, AttemptEnd(AttemptOutcome.SUCCEEDED), file)
        self._notes.tell(claim.job_id)

    def give_up(self, photo: dict[str, Any], why: str) -> None:
        claim, attempt = self._claims.pop(photo["id"])
        with Session(self.engine) as session, session.begin():
            photos.give_up(session, claim, attempt, AttemptEnd(AttemptOutcome.FAILED, why))
        self._notes.tell(claim.job_id)
