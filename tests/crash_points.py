"""The crash points: every boundary of every journey, by name. `tests/test_crashes.py` kills a process at each.

A name stands for two boundaries, before the effect and after it; what stands behind it in a tuple happens in between.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import uuid4

from shared import jobs, loose_objects
from shared.states import JobStatus
from tests.crash_world import World
from tests.doubles.replicate_process import DoubledReplicate
from tests.photos import one_face
from tests.waiting import wait_until

Effects = tuple["str | Effects", ...]
# Longer than a test takes, in the vendor's seconds: predictions then run until somebody cancels them.
FOR_EVER = 36_000


@dataclass(frozen=True)
class Journey:
    """`step` is what the process does that is killed; `asked` what its user, without an answer, asks for again."""

    step: str
    arrange: Callable[[World, DoubledReplicate], None]
    effects: Effects
    asked: str | None = None
    ends: JobStatus = JobStatus.COMPLETED

    @property
    def boundaries(self) -> tuple[str, ...]:
        """In the order in which a process passes them when nobody kills it."""
        return tuple(_boundaries(self.effects))


def _boundaries(effects: Effects) -> Iterator[str]:
    for effect in effects:
        name, *inner = (effect,) if isinstance(effect, str) else effect
        yield f"before {name}"
        yield from _boundaries(tuple(inner))
        yield f"after {name}"


def _nothing(_world: World, _replicate: DoubledReplicate) -> None: ...


def _accepted(world: World, _replicate: DoubledReplicate) -> None:
    world.accept()


def _throttled(world: World, replicate: DoubledReplicate) -> None:
    replicate.turn(faults={"create": ["429"]})
    world.accept()


def _started(world: World, replicate: DoubledReplicate) -> None:
    """The prediction has ended, and nobody has looked at it."""
    world.accept()
    world.start()
    wait_until(lambda: all(entry["status"] not in ("starting", "processing") for entry in _made(world, replicate)))
    world.pass_time()


def _made(world: World, replicate: DoubledReplicate) -> list[dict[str, object]]:
    (seed,) = world.column("SELECT seed FROM attempts WHERE provider = 'replicate'")
    return [entry for entry in replicate.book("predictions") if entry["seed"] == seed]


def _failed(world: World, replicate: DoubledReplicate) -> None:
    replicate.turn(outcomes=["failed"])
    _started(world, replicate)


def _running(world: World, replicate: DoubledReplicate) -> None:
    replicate.turn(predict_seconds=FOR_EVER)
    world.accept()
    world.start()
    world.pass_time()


def _answer_lost(world: World, replicate: DoubledReplicate) -> None:
    """As its worker leaves it when it dies right after the create."""
    _started(world, replicate)
    _forget_prediction(world)


def _last_photo(world: World, replicate: DoubledReplicate) -> None:
    _started(world, replicate)
    world.others_end()


def _last_photo_refused(world: World, replicate: DoubledReplicate) -> None:
    replicate.turn(outcomes=["bad_input"])
    _last_photo(world, replicate)


def _canceled(world: World, replicate: DoubledReplicate) -> None:
    _running(world, replicate)
    _cancel(world)


def _canceled_and_answer_lost(world: World, replicate: DoubledReplicate) -> None:
    _running(world, replicate)
    _forget_prediction(world)
    _cancel(world)


def _overdue(world: World, replicate: DoubledReplicate) -> None:
    _running(world, replicate)
    world.others_end()
    world.sql("UPDATE jobs SET deadline_at = now()")


def _unsent(world: World, _replicate: DoubledReplicate) -> None:
    world.accept()
    world.pass_time()


def _something_loose(world: World, _replicate: DoubledReplicate) -> None:
    world.accept()
    key = f"portraits/{uuid4()}"
    world.storage.put(key, one_face(), "image/jpeg")
    with world.sessions.begin() as session:
        loose_objects.let_go(session, key)


def _forget_prediction(world: World) -> None:
    world.sql("UPDATE attempts SET prediction_id = NULL, submitted_at = NULL WHERE provider = 'replicate'")


def _cancel(world: World) -> None:
    (user_id,) = world.column("SELECT id FROM users")
    with world.sessions.begin() as session:
        jobs.cancel(session, user_id, world.job_id)


_PORTRAIT: Effects = (
    "commit of credits.provision_user",
    "limits.count_upload",
    "commit of loose_objects.expect",
    "storage.put",
    "limits.count_submission",
)
_CLAIM = "commit of leases.claim"
_DOWNLOAD: Effects = (
    _CLAIM,
    "predictor.fetch",
    "predictor.read_output",
    "commit of leases.renew",
    "storage.put",
    "storage.put",  # its thumbnail
)
_CREATE: Effects = ("predictor.start", "commit of leases.renew")
_CLOSE_DUE: Effects = ("commit of attempts.take_unclosed", "queue.close_attempts")
_DUE = "commit of photos.take_due"

JOURNEYS = {
    "submit": Journey("submit", _nothing, (*_PORTRAIT, "commit of jobs.accept", "queue.start_photos"), asked="submit"),
    "submit, and the credit goes meanwhile": Journey(
        "submit_while_the_credit_goes", _nothing, (*_PORTRAIT, "commit of loose_objects.let_go"), asked="submit"
    ),
    "submit, and its double is accepted meanwhile": Journey(
        "submit_while_its_double_is_accepted",
        _nothing,
        (*_PORTRAIT, "commit of jobs.accept", "commit of loose_objects.let_go"),
        asked="submit",
    ),
    "start": Journey(
        "start",
        _accepted,
        (
            _CLAIM,
            "commit of photos.open_attempt",
            _CREATE,
            "commit of attempts.record_prediction",
            "notes.tell",
            "commit of leases.release",
        ),
    ),
    "start, and the provider has no room": Journey(
        "start",
        _throttled,
        (_CLAIM, "commit of photos.open_attempt", _CREATE, "commit of photos.withdraw_attempt"),
    ),
    "collect": Journey("collect", _started, (*_DOWNLOAD, "commit of photos.store", "notes.tell")),
    "collect a failure": Journey(
        "collect", _failed, (_CLAIM, "predictor.fetch", "commit of photos.retry", "notes.tell")
    ),
    "collect what has to be found first": Journey(
        "collect",
        _answer_lost,
        (
            _CLAIM,
            "predictor.find",
            "commit of attempts.record_prediction",
            *_DOWNLOAD[1:],
            "commit of photos.store",
            "notes.tell",
        ),
    ),
    "collect what a webhook names": Journey(
        "collect_on_news",
        _answer_lost,
        (
            _CLAIM,
            "predictor.recognise",
            "commit of attempts.record_prediction",
            *_DOWNLOAD[1:],
            "commit of photos.store",
            "notes.tell",
        ),
    ),
    "settle with the last photo stored": Journey(
        "collect",
        _last_photo,
        (*_DOWNLOAD, "commit of photos.store that settles", "log_settlement", "notes.tell"),
    ),
    "settle with the last photo given up": Journey(
        "collect",
        _last_photo_refused,
        (_CLAIM, "predictor.fetch", "commit of photos.give_up that settles", "log_settlement", "notes.tell"),
        ends=JobStatus.PARTIAL,
    ),
    "settle because the user cancels": Journey(
        "cancel",
        _running,
        ("commit of credits.provision_user", "commit of jobs.cancel that settles", "log_settlement", "notes.tell"),
        asked="cancel",
        ends=JobStatus.CANCELED,
    ),
    "sweep a job past its deadline": Journey(
        "sweep",
        _overdue,
        (
            "commit of jobs.settle_overdue that settles",
            "log_settlement",
            "notes.tell",
            *_CLOSE_DUE,
        ),
        ends=JobStatus.PARTIAL,
    ),
    "sweep photos that nobody starts": Journey("sweep", _unsent, (_DUE, "queue.start_photos")),
    "sweep photos that nobody looks at": Journey("sweep", _last_photo, (_DUE, "queue.collect_photos")),
    "delete what is loose": Journey(
        "delete_loose_objects",
        _something_loose,
        (
            "commit of loose_objects.take_due",
            "storage.delete",
            "commit of loose_objects.forget",
            "commit of deletion.confirm",
        ),
    ),
    "close": Journey(
        "close", _canceled, ("predictor.cancel", "commit of attempts.end"), ends=JobStatus.CANCELED
    ),
    "close what has to be found first": Journey(
        "close",
        _canceled_and_answer_lost,
        ("predictor.find", "commit of attempts.record_prediction", "commit of attempts.close_later"),
        ends=JobStatus.CANCELED,
    ),
}  # fmt: skip
CRASH_POINTS = tuple((name, number) for name, journey in JOURNEYS.items() for number in range(len(journey.boundaries)))
