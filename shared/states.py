"""The words for where a job, a photo and all that belongs to them stands, as they are in the rows."""

from enum import StrEnum


class JobStatus(StrEnum):
    QUEUED = "QUEUED"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class PhotoStatus(StrEnum):
    PENDING = "PENDING"
    GENERATING = "GENERATING"
    STORED = "STORED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class AttemptOutcome(StrEnum):
    OPEN = "OPEN"  # it may still bring a photo, or still cost money
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    LOST = "LOST"  # its create call's answer was lost, and no prediction was ever found


class DeliveryStatus(StrEnum):
    WAITING = "WAITING"
    DELIVERED = "DELIVERED"
    GIVEN_UP = "GIVEN_UP"


class DeletionKind(StrEnum):
    JOB = "JOB"
    ACCOUNT = "ACCOUNT"


class LedgerKind(StrEnum):
    SIGNUP = "SIGNUP"
    CHARGE = "CHARGE"
    REFUND = "REFUND"
    GRANT = "GRANT"


ACTIVE_JOB = (JobStatus.QUEUED, JobStatus.PROCESSING)
ACTIVE_PHOTO = (PhotoStatus.PENDING, PhotoStatus.GENERATING)
