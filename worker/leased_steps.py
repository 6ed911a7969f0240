"""What surrounds every step of a photo: the claim it begins with, the lease that is kept while it runs, and its end.

A process that ends gives back what it holds; one that dies leaves its leases, which others find.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from shared import attempts, leases, photos
from shared.attempts import OpenAttempt
from shared.leases import Claim, LeaseLost
from shared.origin import going_on
from shared.settings import Settings
from shared.states import PhotoStatus
from worker.held_claims import HeldClaims
from worker.kept_lease import KeptLease

log = structlog.get_logger()


class LeasedSteps:
    """Steps that hold a photo by a lease, each for itself. Thread-safe."""

    __slots__ = ()

    sessions: sessionmaker[Session]
    settings: Settings
    held: HeldClaims

    def _claim(
        self, photo_id: UUID, expected: PhotoStatus, *, hinted: bool = False
    ) -> tuple[Claim | None, OpenAttempt | None]:
        """The photo for one step, and the attempt that is under way; no claim when nothing is to be done."""
        claim = attempt = None
        with self.sessions.begin() as session:
            if self.held.refusing:
                photos.send_again(session, photo_id)  # the message that brought us here is used up
            else:
                claim = leases.claim(session, photo_id, expected, self.settings.lease_seconds, hinted=hinted)
                if claim is not None and expected is PhotoStatus.GENERATING:
                    attempt = attempts.find_open(session, photo_id)
        if claim is None:
            log.debug("photo.not_due", photo_id=str(photo_id), expected=expected)
            return None, None
        # A photo that is being generated may have been sent, by whomever: only a search can tell.
        if not self.held.take(claim, sent=expected is PhotoStatus.GENERATING):
            self._release(claim, 0)
            return None, None
        return claim, attempt

    @contextmanager
    def _step(self, name: str, queue: str, claim: Claim) -> Iterator[None]:
        """What surrounds every step: its ids, the lease that is kept, and the claim that `hand_back` knows."""
        with going_on(claim.origin, name, queue, photo_id=claim.photo_id):
            try:
                with self._keeping(claim):
                    yield
            except LeaseLost:
                log.warning("lease.lost", step=name)
            finally:
                self.held.drop(claim)

    def _keeping(self, claim: Claim) -> AbstractContextManager[object]:
        return KeptLease(lambda: self._renew(claim), every_seconds=self.settings.lease_seconds / 3)

    def _renew(self, claim: Claim) -> None:
        with self.sessions.begin() as session:
            leases.renew(session, claim, self.settings.lease_seconds)

    def _release(self, claim: Claim, after_seconds: float) -> None:
        with self.sessions.begin() as session:
            leases.release(session, claim, after_seconds)

    def hand_back(self) -> None:
        """Begin no step any more, and give every photo that is held here to whoever comes first.

        Steps that still run may end or be killed: their next write is refused, and what they create meanwhile is
        written down, or found by its seed. May be called at any time, and twice.
        """
        handed_back = 0
        for held in self.held.close():
            try:
                with self.sessions.begin() as session:
                    photos.hand_back(session, held.claim, nothing_sent=not held.sent)
            except LeaseLost:  # its step has just ended
                continue
            except SQLAlchemyError as error:  # the end of its lease will do the same, later
                log.warning("photo.not_handed_back", photo_id=str(held.claim.photo_id), error=str(error))
                continue
            handed_back += 1
        if handed_back:
            log.info("photos.handed_back", count=handed_back)
