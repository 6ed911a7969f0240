"""What an audit says: one finding per check, and every row or object that offends."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Offence:
    """`id` is the row's in `table`, or an object's key where `table` is `objects`."""

    table: str
    id: str
    says: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `looked_at` counts rows of `table`; `unproved` says why it could not be made."""

    promise: str
    says: str  # what must hold
    table: str
    looked_at: int
    offences: tuple[Offence, ...]
    unproved: str | None = None

    @property
    def proved(self) -> bool:
        return not self.offences and self.unproved is None
