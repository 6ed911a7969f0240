"""Refusals: what we expect to go wrong, in our own words.

A refusal is not a crash. `api/errors.py` holds the one table that turns each code into an HTTP status and a
sentence in Korean and English; here are only the codes and the numbers that the sentences need.
"""


class Refusal(Exception):
    """The request cannot be served, and nothing has been charged for it.

    Attributes:
        code: the machine-readable word of the HTTP contract, such as `no_face`.
        details: numbers and names that go beside the code in the answer.
    """

    code = "refused"

    def __init__(self, **details: object) -> None:
        super().__init__(self.code)
        self.details = details


class Unauthorized(Refusal):
    code = "unauthorized"


class CrossSite(Refusal):
    """A browser sends it for another site's page."""

    code = "cross_site"


class NotFound(Refusal):
    """There is no such thing, or it is somebody else's: the two must look alike."""

    code = "not_found"


class MissingField(Refusal):
    """`field` names what the form lacks."""

    code = "missing_field"


class UnknownStyle(Refusal):
    code = "unknown_style"


class UnknownRole(Refusal):
    code = "unknown_role"


class InvalidRequest(Refusal):
    """The request does not have the form that the contract asks for; `reason` says where."""

    code = "invalid_request"


class ConsentRequired(Refusal):
    """The request does not name the text that its user must have agreed to; `version` names it."""

    code = "consent_required"


class InvalidImage(Refusal):
    """`reason` is one of: not_an_image, broken, too_many_pixels, too_small, too_complex."""

    code = "invalid_image"


class FileTooLarge(Refusal):
    code = "file_too_large"


class NoFace(Refusal):
    code = "no_face"


class MultipleFaces(Refusal):
    code = "multiple_faces"


class FaceTooSmall(Refusal):
    code = "face_too_small"


class InsufficientCredits(Refusal):
    """`balance` is what the user has."""

    code = "insufficient_credits"


class IdempotencyConflict(Refusal):
    code = "idempotency_conflict"


class GrantConflict(Refusal):
    """The reference has granted something else: another amount, or to another user."""

    code = "grant_conflict"


class JobEnded(Refusal):
    """The job has reached its terminal status and cannot be changed any more."""

    code = "job_ended"


class PhotoNotStored(Refusal):
    """Only a photo that is there can be chosen."""

    code = "photo_not_stored"


class PortraitDeleted(Refusal):
    """The portrait of an earlier job cannot be used again."""

    code = "portrait_deleted"


class RateLimited(Refusal):
    """`retry_after_seconds` says when the next one will be let in."""

    code = "rate_limited"


class Unavailable(Refusal):
    """A part of the system is away for now; `retry_after_seconds` is our guess."""

    code = "unavailable"


class FaceCheckUnavailable(Unavailable):
    code = "face_check_unavailable"


class StorageUnavailable(Unavailable):
    code = "storage_unavailable"


class Paused(Unavailable):
    """No new jobs are taken: staff wish it so, or the month's budget is spent."""

    code = "paused"
