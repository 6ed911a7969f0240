"""The photos that this process holds, so that one that ends can hand them back instead of letting leases run out."""

import threading
from dataclasses import dataclass
from uuid import UUID

from shared.leases import Claim, LeaseLost


@dataclass
class HeldClaim:
    """A claim with a step at work on it.

    Attributes:
        sent: a prediction may have been asked for under it, and its answer is not written down yet.
    """

    claim: Claim
    sent: bool


class HeldClaims:
    """Knows every claim between its taking and the end of its step. Thread-safe.

    Ending has two moments. From `refuse` on no claim is taken. At `close` the list is made, under the lock that every
    step passes: what it does not call sent will never be.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[UUID, HeldClaim] = {}
        self._refusing = False
        self._closed = False

    @property
    def refusing(self) -> bool:
        return self._refusing

    def refuse(self) -> None:
        """Take no claim from now on. Takes no lock either: a signal handler calls it."""
        self._refusing = True

    def close(self) -> list[HeldClaim]:
        """The claims that are held now; none of them may send anything any more."""
        self._refusing = True
        with self._lock:
            self._closed = True
            return list(self._held.values())

    def take(self, claim: Claim, *, sent: bool) -> bool:
        """Hold the claim until `drop`; False when this process is ending, and the photo must be given back."""
        with self._lock:
            taken = not self._refusing  # read once: it may change at any time
            if taken:
                self._held[claim.lease_token] = HeldClaim(claim, sent)
            return taken

    def sending(self, claim: Claim) -> None:
        """A request that may cost money follows now. Raises LeaseLost when it must not, as the photo is given back."""
        with self._lock:
            if self._closed:
                raise LeaseLost
            self._held[claim.lease_token].sent = True

    def drop(self, claim: Claim) -> None:
        """Its step is over."""
        with self._lock:
            del self._held[claim.lease_token]
