"""A worker that ends gives its photos back at once: whoever comes next goes on, and nothing is paid twice."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from shared.change_notes import ChangeNotes
from shared.disk_storage import DiskStorage
from shared.photos import take_due
from shared.settings import Settings
from shared.states import PhotoStatus
from tests.doubles.replicate_process import DoubledReplicate, doubled_replicate
from tests.photos import one_face
from tests.rows import accepted_job, money_is_right
from tests.scripted_predictor import ScriptedPredictor
from tests.stack import RunningStack
from tests.waiting import wait_until
from worker.generation import Generation
from worker.predictor import PredictionOrder

# A photo whose lease must run out would not be free again before a test gives up.
LEASE_SECONDS = 300
PATIENCE_SECONDS = 60


class EndingPredictor(ScriptedPredictor):
    """The worker that asks it is told to end at the moment that is named."""

    moment = ""
    end: Callable[[], None]

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, Any] = {}

    def start(self, order: PredictionOrder) -> Any:
        def before_paying() -> None:
            self._pass("before paying")
            order.before_paying()
            self._pass("before the create")

        answer = super().start(replace(order, before_paying=before_paying))
        self._pass("after the create")
        return answer

    def fetch(self, prediction_id: str) -> Any:
        self._pass("before fetch")
        return super().fetch(prediction_id)

    def read_output(self, address: str) -> Any:
        self._pass("before read")
        if address not in self.files:  # as at a provider, the same whoever reads it
            self.files[address] = super().read_output(address)
        return self.files[address]

    def _pass(self, moment: str) -> None:
        if moment == self.moment:
            self.moment = ""
            self.end()


class EndingStorage(DiskStorage):
    """The same, in the middle of a put."""

    end: Callable[[], None] | None = None

    def put(self, key: str, body: bytes, content_type: str) -> None:
        if self.end and key.startswith("photos/"):
            self.end()
        super().put(key, body, content_type)


class Two:
    """Two workers' use cases on one job, and one provider."""

    def __init__(self, engine: Engine, settings: Settings, root: Path) -> None:
        self.engine = engine
        self.predictor = EndingPredictor()
        self.storage = EndingStorage(root)
        self.settings = settings.model_copy(update={"lease_seconds": LEASE_SECONDS, "check_interval_seconds": 0.0})
        self.first, self.second = self._worker(), self._worker()
        self.predictor.end = self.first.hand_back
        _, self.job_id, (self.photo_id, *_) = accepted_job(engine)
        with engine.begin() as connection:
            connection.execute(text("UPDATE photos SET sent_at = NULL"))  # Redis had been away
        self.storage.put(f"portraits/{self.job_id}", b"portrait", "image/jpeg")

    def _worker(self) -> Generation:
        return Generation(
            sessions=sessionmaker(self.engine, expire_on_commit=False),
            storage=self.storage,
            predictor=self.predictor,
            notes=ChangeNotes(self.settings.redis_url),
            settings=self.settings,
        )

    def due(self, status: PhotoStatus) -> list[UUID]:
        with Session(self.engine) as session, session.begin():
            return list(take_due(session, status, 100, LEASE_SECONDS))

    def row(self, statement: str) -> tuple[Any, ...]:
        with self.engine.connect() as connection:
            return tuple(connection.execute(text(statement), {"photo": self.photo_id}).one())

    def finish(self) -> None:
        """The second worker does what is due now; nothing waits for a time."""
        for _ in range(4):
            for photo_id in self.due(PhotoStatus.PENDING):
                self.second.start(photo_id)
            for photo_id in self.due(PhotoStatus.GENERATING):
                self.second.collect(photo_id)
        assert self.row("SELECT status FROM jobs") == ("COMPLETED",)
        assert len(self.predictor.predictions) == 4, "a photo was paid for twice"
        assert self.row("SELECT count(*) FROM attempts WHERE outcome = 'SUCCEEDED'") == (4,)
        assert len(list(self.storage.list("photos/"))) == 4
        money_is_right(self.engine)


@pytest.fixture
def two(engine: Engine, settings: Settings, tmp_path: Path) -> Two:
    return Two(engine, settings, tmp_path / "objects")


@pytest.mark.parametrize(("moment", "paid"), [("before paying", 0), ("before the create", 1), ("after the create", 1)])
def test_a_start_is_handed_over_wherever_it_stands(two: Two, moment: str, paid: int) -> None:
    two.predictor.moment = moment
    two.first.start(two.photo_id)
    assert len(two.predictor.predictions) == paid
    attempts = two.row("SELECT count(*), count(prediction_id) FROM attempts WHERE photo_id = :photo")
    assert attempts == (paid, paid), "what is paid for is written down, and what is not is no attempt"
    assert two.row("SELECT lease_token FROM photos WHERE id = :photo") == (None,)
    two.finish()


@pytest.mark.parametrize("moment", ["before fetch", "before read"])
def test_a_collect_is_handed_over_wherever_it_stands(two: Two, moment: str) -> None:
    two.first.start(two.photo_id)
    two.predictor.moment = moment
    two.first.collect(two.photo_id)
    two.finish()


def test_a_put_that_ends_after_the_next_workers_changes_nothing(two: Two) -> None:
    two.first.start(two.photo_id)

    def end() -> None:
        two.storage.end = None
        two.first.hand_back()
        two.finish()

    two.storage.end = end
    two.first.collect(two.photo_id)
    key, size = two.row("SELECT object_key, size_bytes FROM photos WHERE id = :photo")
    assert len(two.storage.get(key).body) == size
    # What came too late lies at an address of its own, which is written down and goes by itself.
    promised = "SELECT count(*) FROM photos WHERE object_key IN (SELECT object_key FROM loose_objects)"
    assert two.row(promised) == (0,)
    [late] = two.row("SELECT object_key FROM loose_objects WHERE object_key LIKE 'photos/%'")
    [kept] = two.row("SELECT array_agg(object_key) FROM photos")
    assert sorted(info.key for info in two.storage.list("photos/")) == sorted([late, *kept])


def test_a_worker_that_ends_takes_no_photo_and_its_messages_are_sent_again(two: Two) -> None:
    assert two.photo_id in two.due(PhotoStatus.PENDING)
    assert two.due(PhotoStatus.PENDING) == [], "they were sent a moment ago"
    two.first.held.refuse()
    two.first.start(two.photo_id)
    assert two.row("SELECT lease_token, status FROM photos WHERE id = :photo") == (None, "PENDING")
    assert two.due(PhotoStatus.PENDING) == [two.photo_id]


def test_a_claim_taken_in_the_very_moment_is_given_back(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    from shared import leases

    real = leases.claim

    def claim(*args: Any, **kwargs: Any) -> leases.Claim | None:
        taken = real(*args, **kwargs)
        two.first.hand_back()
        return taken

    with monkeypatch.context() as patched:
        patched.setattr(leases, "claim", claim)
        two.first.start(two.photo_id)
    assert two.predictor.orders == []
    assert two.row("SELECT lease_token, status FROM photos WHERE id = :photo") == (None, "PENDING")
    two.finish()


def test_a_step_that_may_have_been_sent_is_looked_for_as_long_as_its_answer_can_be_on_its_way(two: Two) -> None:
    """A portrait that took long to read does not make the create call look old."""

    two.predictor.moment = "before paying"

    def read_slowly() -> None:
        with two.engine.begin() as connection:
            connection.execute(text("UPDATE attempts SET created_at = created_at - interval '1 hour'"))
        two.predictor.moment = "before the create"
        two.predictor.end = end

    def end() -> None:
        two.first.hand_back()
        two.second.collect(two.photo_id)
        attempt = two.row("SELECT outcome, prediction_id FROM attempts WHERE photo_id = :photo")
        assert attempt == ("OPEN", None), "it was given up while its create call could be on its way"

    two.predictor.end = read_slowly
    two.first.start(two.photo_id)
    assert len(two.predictor.predictions) == 1


@pytest.fixture
def replicate() -> Iterator[DoubledReplicate]:
    with doubled_replicate("--speed", "60") as double:
        yield double


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("operation", "fault"), [("create", "hang_after"), ("delivery", "hang")])
def test_what_a_worker_was_doing_when_it_was_told_to_end_is_done_by_another(
    running_stack: Callable[..., RunningStack],
    settings: Settings,
    engine: Engine,
    replicate: DoubledReplicate,
    operation: str,
    fault: str,
) -> None:
    """Real processes: SIGTERM in the middle of four steps, then SIGKILL; the leases would last for minutes."""
    replicate.turn(faults={operation: [fault] * 4})
    stack = running_stack(
        env={
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "CHECK_INTERVAL_SECONDS": "0.2",
            "PREDICTOR": "replicate",
            "REPLICATE_API_TOKEN": replicate.token,
            "REPLICATE_BASE_URL": replicate.url,
        },
        processes=("worker", "beat"),
    )
    _, job_id, _ = accepted_job(engine)
    DiskStorage(settings.data_dir / "objects").put(f"portraits/{job_id}", one_face(), "image/jpeg")

    def struck() -> bool:
        return [entry["operation"] for entry in replicate.book("requests") if entry["fault"]] == [operation] * 4

    wait_until(struck, PATIENCE_SECONDS)
    assert stack.send_signal("worker", signal.SIGTERM)
    wait_until(lambda: "photos.handed_back" in stack.logs("worker"), PATIENCE_SECONDS)
    stack.kill("worker")
    stack.start("worker-2")

    def completed() -> bool:
        with engine.connect() as connection:
            return connection.execute(text("SELECT status FROM jobs")).scalar_one() == "COMPLETED"

    wait_until(completed, PATIENCE_SECONDS)
    assert len(replicate.book("predictions")) == 4, "a photo was paid for twice"
    money_is_right(engine)
