"""A photo's journey through start, collect and close, over a real PostgreSQL, with a provider told what to do."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from PIL import Image
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from shared import attempts, jobs
from shared.attempts import take_unclosed
from shared.change_notes import ChangeNotes
from shared.content_credentials import NotSigned, PhotoSigner
from shared.disk_storage import DiskStorage
from shared.errors import StorageUnavailable
from shared.leases import claim
from shared.photos import take_due
from shared.settings import Settings
from shared.states import PhotoStatus
from tests.rows import accepted_job, money_is_right
from tests.scripted_predictor import ScriptedPredictor, done, failed
from tests.signing_certificate import is_signed, own_signer
from worker.closing import Closing
from worker.generation import Generation
from worker.predictor import Gone, Never, NotYet, Unknown
from worker.sweeper import delete_loose_objects

SECOND = "interval '1 second'"


class World:
    """One job, the use cases, and a clock that is put forward by hand."""

    def __init__(self, engine: Engine, settings: Settings, predictor: ScriptedPredictor, root: Path) -> None:
        self.engine = engine
        self.predictor = predictor
        self.storage = DiskStorage(root)
        self.generation = Generation(
            sessions=sessionmaker(engine, expire_on_commit=False),
            storage=self.storage,
            predictor=predictor,
            notes=ChangeNotes(settings.redis_url),
            settings=settings,
        )
        made = self.generation
        self.closing = Closing(made.sessions, made.predictor, made.settings)
        self.user_id, self.job_id, self.photo_ids = accepted_job(engine)
        self.storage.put(f"portraits/{self.job_id}", b"portrait", "image/jpeg")

    def pass_time(self, seconds: float) -> None:
        """As if everything had happened `seconds` earlier."""
        with self.engine.begin() as connection:
            shift = {"seconds": seconds}
            for statement in (
                "UPDATE photos SET next_check_at = next_check_at - :seconds * interval '1 second', sent_at = NULL",
                "UPDATE attempts SET created_at = created_at - :seconds * interval '1 second', "
                "close_due_at = close_due_at - :seconds * interval '1 second'",
                "UPDATE loose_objects SET delete_after = delete_after - :seconds * interval '1 second'",
            ):
                connection.execute(text(statement), shift)

    def run(self, rounds: int = 12) -> None:
        """What sweep and workers do, until nothing is in work."""
        for _ in range(rounds):
            self.pass_time(60)
            for status, step in (
                (PhotoStatus.PENDING, self.generation.start),
                (PhotoStatus.GENERATING, self.generation.collect),
            ):
                with Session(self.engine) as session, session.begin():
                    due = take_due(session, status, 100, 0)
                for photo_id in due:
                    step(photo_id)
            with Session(self.engine) as session, session.begin():
                unclosed = take_unclosed(session, 100, 0)
            for attempt_id in unclosed:
                self.closing.close(attempt_id)
            delete_loose_objects(self.generation.sessions, self.storage)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    @property
    def job(self) -> tuple[Any, ...]:
        """(status, error_code, photos stored)."""
        return self.sql(
            "SELECT status, error_code, (SELECT count(*) FROM photos WHERE status = 'STORED')::int FROM jobs"
        )[0]

    def objects(self, prefix: str = "photos/") -> list[str]:
        return [found.key for found in self.storage.list(prefix)]


@pytest.fixture
def predictor() -> ScriptedPredictor:
    return ScriptedPredictor()


@pytest.fixture
def world(engine: Engine, settings: Settings, predictor: ScriptedPredictor, tmp_path: Path) -> World:
    return World(engine, settings, predictor, tmp_path)


def test_four_photos_are_made_and_paid_for_once(world: World) -> None:
    world.run()
    assert world.job == ("COMPLETED", None, 4)
    assert len(world.predictor.orders) == 4
    assert len({order.seed for order in world.predictor.orders}) == 4
    assert len({order.prompt for order in world.predictor.orders}) == 4
    for (key,) in world.sql("SELECT object_key FROM photos"):
        stored = world.storage.get(key)
        assert stored.content_type == "image/jpeg"
        assert Image.open(BytesIO(stored.body)).size == (480, 640)
    attempts = world.sql("SELECT outcome, prediction_id IS NOT NULL, cost, provider_seconds FROM attempts")
    assert attempts == [("SUCCEEDED", True, Decimal("0.0400"), 3.5)] * 4
    money_is_right(world.engine)


def test_each_photo_has_a_thumbnail_that_its_row_promises(world: World) -> None:
    world.run()
    assert len(world.objects("thumbnails/")) == 4
    promised = world.sql("SELECT thumbnail_key FROM photos WHERE status = 'STORED' ORDER BY 1")
    assert promised == [(key,) for key in world.objects("thumbnails/")]
    assert world.sql("SELECT count(*) FROM loose_objects WHERE object_key LIKE 'thumbnails/%'") == [(0,)]


def test_a_prediction_that_is_finished_when_started_is_collected_at_once(world: World) -> None:
    world.predictor.starts.append(done)
    world.generation.start(world.photo_ids[0])
    assert world.job == ("PROCESSING", None, 1)


def test_messages_that_come_twice_late_or_out_of_order_change_nothing(world: World) -> None:
    world.generation.collect(world.photo_ids[0])
    world.generation.start(world.photo_ids[0])
    world.generation.start(world.photo_ids[0])
    world.run()
    for photo_id in world.photo_ids:
        world.generation.start(photo_id)
        world.generation.collect(photo_id, hinted=True)
    assert world.job == ("COMPLETED", None, 4)
    assert len(world.predictor.orders) == 4


def test_what_the_provider_did_not_take_is_no_attempt(world: World) -> None:
    world.predictor.starts.extend([NotYet(30, "throttled")] * 9)
    world.run()
    assert world.job == ("COMPLETED", None, 4)
    assert world.sql("SELECT count(*), max(number) FROM attempts") == [(4, 1)]


def test_a_postponed_photo_is_not_started_before_its_time(world: World) -> None:
    world.predictor.starts.append(NotYet(30, "throttled"))
    world.generation.start(world.photo_ids[0])
    world.generation.start(world.photo_ids[0])
    assert len(world.predictor.orders) == 1


def test_a_failure_that_may_pass_is_tried_again_with_another_seed(world: World) -> None:
    world.predictor.fetches.extend([failed("provider_failed", retryable=True)] * 2)
    world.run()
    assert world.job == ("COMPLETED", None, 4)
    assert len({order.seed for order in world.predictor.orders}) == 6
    assert world.sql("SELECT outcome, count(*) FROM attempts GROUP BY 1 ORDER BY 1") == [
        ("FAILED", 2),
        ("SUCCEEDED", 4),
    ]
    assert world.sql("SELECT DISTINCT error_code FROM photos") == [(None,)], "a stored photo carries no old error"


def test_a_moderated_photo_is_tried_again_with_another_variation(world: World) -> None:
    world.predictor.fetches.append(failed("moderated", retryable=True))
    world.generation.start(world.photo_ids[0])
    world.pass_time(60)
    world.generation.collect(world.photo_ids[0])
    world.pass_time(60)
    world.generation.start(world.photo_ids[0])
    first, second = world.predictor.orders
    assert first.prompt != second.prompt


@pytest.mark.parametrize(
    ("break_it", "code", "orders"),
    [
        (lambda p: p.starts.extend([Never("bad_input", "422")] * 4), "bad_input", 4),
        (lambda p: p.fetches.extend([failed("bad_input", retryable=False)] * 4), "bad_input", 4),
        (lambda p: p.fetches.extend([failed("provider_failed", retryable=True)] * 12), "provider_failed", 12),
        (lambda p: p.fetches.extend([Gone("an hour ago")] * 12), "output_expired", 12),
        (lambda p: p.outputs.extend([b"not a picture"] * 12), "output_invalid", 12),
    ],
)
def test_a_provider_that_fails_for_good_costs_nothing(
    world: World, break_it: Callable[[ScriptedPredictor], None], code: str, orders: int
) -> None:
    break_it(world.predictor)
    world.run(rounds=20)
    assert world.job == ("FAILED", code, 0)
    assert len(world.predictor.orders) == orders
    assert world.sql("SELECT credits FROM users") == [(2,)]
    assert world.objects() == []
    money_is_right(world.engine)


def test_some_photos_are_kept_and_the_credit_comes_back(world: World) -> None:
    world.predictor.fetches.extend([failed("bad_input", retryable=False)] * 3)
    world.run()
    assert world.job == ("PARTIAL", "bad_input", 1)
    assert world.sql("SELECT credits FROM users") == [(2,)]
    assert len(world.objects()) == 1
    money_is_right(world.engine)


def test_a_storage_that_is_away_is_waited_for_and_nothing_is_paid_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setattr(DiskStorage, "put", _raise_unavailable)
        world.run(rounds=4)
        assert world.job == ("PROCESSING", None, 0)
    world.run()
    assert world.job == ("COMPLETED", None, 4)
    assert len(world.predictor.orders) == 4


def test_a_storage_that_stays_away_until_the_deadline_costs_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiskStorage, "put", _raise_unavailable)
    world.run(rounds=4)
    _pass_deadline(world)
    world.run(rounds=4)
    assert world.job == ("FAILED", "deadline_exceeded", 0)
    assert world.sql("SELECT credits FROM users") == [(2,)]
    assert world.sql("SELECT DISTINCT outcome FROM attempts") == [("CANCELED",)]
    assert sorted(world.predictor.canceled) == sorted(world.predictor.predictions)
    money_is_right(world.engine)


def test_a_lost_answer_is_found_and_not_paid_for_again(world: World) -> None:
    order_of: list[str] = []

    def lose(prediction: Any) -> Any:
        order_of.append(prediction.id)
        raise ConnectionResetError  # as a worker that dies before it could write the answer down

    world.predictor.starts.append(lose)
    with pytest.raises(ConnectionResetError):
        world.generation.start(world.photo_ids[0])
    world.run()
    assert world.job == ("COMPLETED", None, 4)
    assert len(world.predictor.orders) == 4
    assert world.sql(f"SELECT count(*) FROM attempts WHERE prediction_id = '{order_of[0]}'") == [(1,)]


def test_only_what_surely_was_never_made_is_made_again(world: World) -> None:
    world.predictor.starts.append(Unknown("timed out"))
    world.generation.start(world.photo_ids[0])
    world.pass_time(2)
    world.generation.collect(world.photo_ids[0])
    assert len(world.predictor.orders) == 1, "the create call may still arrive"
    world.run()
    assert world.job == ("COMPLETED", None, 4)
    assert len(world.predictor.orders) == 5
    assert world.sql("SELECT outcome, count(*) FROM attempts GROUP BY 1 ORDER BY 1") == [("LOST", 1), ("SUCCEEDED", 4)]


def test_a_create_is_given_its_time_from_its_sending_however_long_the_portrait_took(world: World) -> None:
    start = world.predictor.start

    def slowly(order: Any) -> Any:
        world.pass_time(60)  # the lease is kept meanwhile
        return start(order)

    world.predictor.start = slowly  # type: ignore[method-assign]
    world.predictor.starts.append(Unknown("the connection was lost"))
    world.generation.start(world.photo_ids[0])
    world.pass_time(2)
    world.generation.collect(world.photo_ids[0])
    assert world.sql("SELECT outcome FROM attempts") == [("OPEN",)], "it may still arrive"
    world.predictor.create(world.predictor.orders[0])
    world.predictor.start = start  # type: ignore[method-assign]
    world.run()
    assert world.job == ("COMPLETED", None, 4)
    assert len(world.predictor.predictions) == 4, "a photo was paid for twice"


def test_a_create_that_arrives_late_after_its_job_was_canceled_is_stopped_and_booked(world: World) -> None:
    world.predictor.starts.append(Unknown("timed out"))
    world.generation.start(world.photo_ids[0])
    with Session(world.engine) as session, session.begin():
        jobs.cancel(session, world.user_id, world.job_id)
    world.pass_time(30)
    ((attempt_id,),) = world.sql("SELECT id FROM attempts")
    world.closing.close(attempt_id)
    late = world.predictor.create(world.predictor.orders[0])
    world.run()
    assert world.predictor.canceled == [late.id]
    assert world.sql("SELECT outcome, cost FROM attempts") == [("CANCELED", Decimal("0.0400"))]


def test_a_job_canceled_while_its_prediction_runs_stops_it_and_books_its_cost(world: World) -> None:
    world.generation.start(world.photo_ids[0])
    with Session(world.engine) as session, session.begin():
        jobs.cancel(session, world.user_id, world.job_id)
    world.run()
    assert world.job == ("CANCELED", "canceled", 0)
    assert world.predictor.canceled == ["prediction-0"]
    assert world.sql("SELECT outcome, cost, close_due_at FROM attempts") == [("CANCELED", Decimal("0.0400"), None)]
    money_is_right(world.engine)


def test_a_photo_put_while_its_job_was_canceled_leaves_nothing_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = DiskStorage.put

    def cancel_then_put(storage: DiskStorage, key: str, body: bytes, content_type: str) -> None:
        if key.startswith("photos/"):
            with Session(world.engine) as session, session.begin():
                jobs.cancel(session, world.user_id, world.job_id)
        put(storage, key, body, content_type)

    monkeypatch.setattr(DiskStorage, "put", cancel_then_put)
    world.predictor.starts.append(done)
    world.generation.start(world.photo_ids[0])
    assert world.job == ("CANCELED", "canceled", 0)
    assert [len(world.objects()), len(world.objects("thumbnails/"))] == [1, 1]
    world.run()
    assert [*world.objects(), *world.objects("thumbnails/")] == []
    money_is_right(world.engine)


def test_a_running_prediction_frees_the_worker_and_is_asked_again_later(world: World) -> None:
    world.predictor.fetches.append(lambda prediction: prediction)
    world.generation.start(world.photo_ids[0])
    world.generation.collect(world.photo_ids[0])
    assert len(world.predictor.fetches) == 1, "not due yet"
    world.generation.collect(world.photo_ids[0], hinted=True)
    assert len(world.predictor.fetches) == 0, "a hint does not wait"
    assert world.job == ("PROCESSING", None, 0)


def test_an_answer_that_comes_while_it_is_searched_for_is_never_taken_for_lost(world: World) -> None:
    """The first worker is slow, not dead: it writes its prediction down after the second one read the row."""
    world.predictor.starts.append(Unknown("slow"))
    world.generation.start(world.photo_ids[0])
    world.pass_time(60)
    prediction = world.predictor.create(world.predictor.orders[0])
    world.predictor.hidden.add(prediction.id)  # and the provider's list lags

    def find(attempt_id: UUID, seed: int, created_after: Any) -> list[Any]:
        with Session(world.engine) as session, session.begin():
            assert attempts.record_prediction(session, attempt_id, prediction.id)
        return []

    world.predictor.find = find  # type: ignore[method-assign,assignment]
    world.generation.collect(world.photo_ids[0])
    assert world.sql("SELECT outcome, prediction_id FROM attempts") == [("OPEN", prediction.id)]
    world.run()
    assert world.job == ("COMPLETED", None, 4)
    assert len(world.predictor.predictions) == 4, "a photo was paid for twice"


def test_a_lost_prediction_is_found_by_the_webhook_that_names_it(world: World) -> None:
    """Although the provider's list does not show it; and news of another photo's prediction is not believed."""
    world.predictor.starts.append(Unknown("the answer was lost"))
    world.generation.start(world.photo_ids[0])
    world.pass_time(60)
    prediction = world.predictor.create(world.predictor.orders[0])
    world.predictor.hidden.add(prediction.id)
    world.generation.start(world.photo_ids[1])
    other = list(world.predictor.predictions)[-1]
    world.predictor.find = lambda *_: NotYet(1, "the list does not answer")  # type: ignore[method-assign]
    world.generation.collect(world.photo_ids[0], hinted=True, named=other)
    assert world.sql("SELECT prediction_id FROM attempts ORDER BY created_at") == [(None,), (other,)]
    world.generation.collect(world.photo_ids[0], hinted=True, named=prediction.id)
    assert world.sql("SELECT prediction_id FROM attempts ORDER BY created_at") == [(prediction.id,), (other,)]
    world.run()
    assert world.job == ("COMPLETED", None, 4)
    assert len(world.predictor.predictions) == 4, "a photo was paid for twice"


def test_a_create_that_arrives_after_its_attempt_was_given_up_is_stopped_and_booked(world: World) -> None:
    world.predictor.starts.append(Unknown("timed out"))
    world.generation.start(world.photo_ids[0])
    world.pass_time(60)
    world.generation.collect(world.photo_ids[0])
    assert world.sql("SELECT outcome FROM attempts") == [("LOST",)]
    late = world.predictor.create(world.predictor.orders[0])
    world.run()
    assert world.job == ("COMPLETED", None, 4)
    assert world.predictor.canceled == [late.id]
    assert world.sql(f"SELECT outcome, error_code, cost FROM attempts WHERE prediction_id = '{late.id}'") == [
        ("CANCELED", "duplicate", Decimal("0.0400"))
    ]


def test_a_prediction_that_was_found_too_late_becomes_the_photo_if_none_else_is_on_its_way(world: World) -> None:
    """The one ordered in its place was lost as well: before a third is paid for, the first is used."""
    world.predictor.starts.extend([Unknown("timed out")] * 2)
    world.generation.start(world.photo_ids[0])
    world.pass_time(60)
    world.generation.collect(world.photo_ids[0])
    world.pass_time(10)
    world.generation.start(world.photo_ids[0])
    late = world.predictor.create(world.predictor.orders[0])
    world.run()
    assert world.job == ("COMPLETED", None, 4)
    assert len(world.predictor.predictions) == 4, "a photo was paid for although one was there"
    assert world.predictor.canceled == []
    assert world.sql(f"SELECT outcome, error_code, cost FROM attempts WHERE prediction_id = '{late.id}'") == [
        ("SUCCEEDED", None, Decimal("0.0400"))
    ]


def test_who_closes_an_attempt_leaves_it_alone_once_it_is_its_photos_again(world: World) -> None:
    world.predictor.starts.append(Unknown("timed out"))
    world.generation.start(world.photo_ids[0])
    world.pass_time(60)
    world.generation.collect(world.photo_ids[0])
    world.pass_time(60)
    late = world.predictor.create(world.predictor.orders[0])
    ((attempt_id,),) = world.sql("SELECT id FROM attempts")
    world.closing.close(attempt_id)  # finds it
    cancel = world.predictor.cancel

    def meanwhile(prediction_id: str) -> Any:
        world.generation.start(world.photo_ids[0])
        return cancel(prediction_id)

    world.predictor.cancel = meanwhile  # type: ignore[method-assign]
    world.closing.close(attempt_id)
    assert world.sql("SELECT outcome, close_due_at FROM attempts") == [("OPEN", None)]
    world.predictor.fetches.append(lambda _: cancel(late.id))
    world.run()
    assert world.job == ("COMPLETED", None, 4)
    money_is_right(world.engine)


def test_of_two_predictions_of_one_attempt_the_younger_is_stopped_and_booked(world: World) -> None:
    world.predictor.starts.append(Unknown("timed out"))
    world.generation.start(world.photo_ids[0])
    first, second = (world.predictor.create(world.predictor.orders[0]) for _ in range(2))
    world.run()
    assert world.job == ("COMPLETED", None, 4)
    assert world.predictor.canceled == [second.id]
    rows = world.sql(f"SELECT prediction_id, outcome, cost FROM attempts WHERE seed = {world.predictor.orders[0].seed}")
    assert sorted(rows) == [
        (first.id, "SUCCEEDED", Decimal("0.0400")),
        (second.id, "CANCELED", Decimal("0.0400")),
    ]


def test_a_worker_that_has_lost_its_photo_writes_down_what_it_paid_for(world: World) -> None:
    start = world.predictor.start

    def slowly(order: Any) -> Any:
        answer = start(order)
        world.pass_time(60)
        with Session(world.engine) as session, session.begin():
            assert claim(session, order.photo_id, PhotoStatus.GENERATING, 60) is not None, "by another worker"
        return answer

    world.predictor.start = slowly  # type: ignore[method-assign]
    world.generation.start(world.photo_ids[0])
    assert world.sql("SELECT prediction_id FROM attempts") == [("prediction-0",)]


def test_a_worker_that_lost_its_photo_before_paying_does_not_pay(world: World) -> None:
    read = DiskStorage.get

    def take_over(storage: DiskStorage, key: str) -> Any:
        world.pass_time(60)  # this worker stood still while it read the portrait
        world.generation.collect(world.photo_ids[0])
        return read(storage, key)

    order = world.predictor.start

    def start(given: Any) -> Any:
        if len(world.predictor.orders) == 0 and not world.predictor.canceled:
            take_over(world.storage, f"portraits/{world.job_id}")
        return order(given)

    world.predictor.start = start  # type: ignore[method-assign]
    world.generation.start(world.photo_ids[0])
    assert world.predictor.orders == []
    world.predictor.start = order  # type: ignore[method-assign]
    world.run()
    assert world.job == ("COMPLETED", None, 4)
    assert len(world.predictor.orders) == 4


def test_a_step_that_takes_longer_than_a_lease_keeps_its_photo(
    world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = replace(world.generation, settings=settings.model_copy(update={"lease_seconds": 0.6}))
    put = DiskStorage.put

    def slow(storage: DiskStorage, key: str, body: bytes, content_type: str) -> None:
        started = time.monotonic()
        while time.monotonic() < started + 1.5:
            # Another worker tries again and again.
            with Session(world.engine) as session, session.begin():
                assert claim(session, world.photo_ids[0], PhotoStatus.GENERATING, 60) is None
        put(storage, key, body, content_type)

    monkeypatch.setattr(DiskStorage, "put", slow)
    world.predictor.starts.append(done)
    generation.start(world.photo_ids[0])
    assert world.job == ("PROCESSING", None, 1)


def test_a_late_put_does_not_replace_the_photo_that_was_made_instead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = DiskStorage.put

    def late(storage: DiskStorage, key: str, body: bytes, content_type: str) -> None:
        monkeypatch.setattr(DiskStorage, "put", put)
        world.pass_time(60)
        world.predictor.fetches.append(Gone("an hour ago"))
        world.generation.collect(world.photo_ids[0])  # another worker finds nothing, and begins anew
        world.run()
        put(storage, key, body, content_type)

    monkeypatch.setattr(DiskStorage, "put", late)
    world.predictor.starts.append(done)
    world.generation.start(world.photo_ids[0])
    assert world.job == ("COMPLETED", None, 4)
    for key, sha256 in world.sql("SELECT object_key, sha256 FROM photos"):
        assert hashlib.sha256(world.storage.get(key).body).hexdigest() == sha256


def test_a_late_put_of_a_signed_photo_does_not_replace_the_same_one_signed_by_another_worker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No two signed files are the same, so one prediction's photo has an address for each worker that brings it."""
    world.generation = replace(world.generation, signer=own_signer())
    put = DiskStorage.put

    def late(storage: DiskStorage, key: str, body: bytes, content_type: str) -> None:
        monkeypatch.setattr(DiskStorage, "put", put)
        world.pass_time(60)
        world.generation.collect(world.photo_ids[0])  # the same prediction, by another worker
        put(storage, key, body, content_type)

    monkeypatch.setattr(DiskStorage, "put", late)
    world.predictor.starts.append(done)
    world.generation.start(world.photo_ids[0])
    assert world.job == ("PROCESSING", None, 1)
    world.run()
    delete_loose_objects(world.generation.sessions, world.storage)
    assert world.job == ("COMPLETED", None, 4)
    assert len(world.objects()) == 4
    for key, sha256, size_bytes in world.sql("SELECT object_key, sha256, size_bytes FROM photos"):
        body = world.storage.get(key).body
        assert (hashlib.sha256(body).hexdigest(), len(body)) == (sha256, size_bytes)
        assert is_signed(body)


def test_a_photo_that_cannot_be_signed_is_not_stored_and_not_paid_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.generation = replace(world.generation, signer=own_signer())
    with monkeypatch.context() as broken:
        broken.setattr(PhotoSigner, "sign", _raise_not_signed)
        world.run(rounds=4)
        assert world.job == ("PROCESSING", None, 0)
    world.run()
    assert world.job == ("COMPLETED", None, 4)
    assert len(world.predictor.orders) == 4


def test_photos_are_marked_for_everybody_to_see_when_it_is_wished(world: World, settings: Settings) -> None:
    world.generation = replace(world.generation, settings=settings.model_copy(update={"visible_ai_mark": True}))
    white = BytesIO()
    Image.new("RGB", (480, 640), "white").save(white, "PNG")
    world.predictor.outputs.extend([white.getvalue()] * 4)
    world.run()
    for key in world.objects():
        photo = Image.open(BytesIO(world.storage.get(key).body)).convert("L")
        assert photo.crop((240, 600, 480, 640)).getextrema()[0] < 150
        assert photo.crop((0, 0, 480, 580)).getextrema()[0] > 250


def test_a_worker_that_comes_too_late_does_not_announce_anothers_object_as_loose(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by simulation: announced after another worker had stored it, the object was deleted ten minutes later."""
    read = world.predictor.read_output

    def overtaken(address: str) -> Any:
        body = read(address)
        monkeypatch.setattr(world.predictor, "read_output", read)
        world.pass_time(60)
        world.generation.collect(world.photo_ids[0])  # the same prediction, by another worker
        return body

    monkeypatch.setattr(world.predictor, "read_output", overtaken)
    world.predictor.starts.append(done)
    world.generation.start(world.photo_ids[0])
    for _ in range(3):
        world.pass_time(600)
        delete_loose_objects(world.generation.sessions, world.storage)
    assert world.objects() == [key for (key,) in world.sql("SELECT object_key FROM photos WHERE status = 'STORED'")]
    assert len(world.objects()) == 1


def test_what_an_expired_output_cost_is_booked(world: World) -> None:
    world.predictor.fetches.append(Gone("an hour ago", Decimal("0.04"), 3.0))
    world.run()
    assert world.sql("SELECT sum(cost) FROM attempts") == [(Decimal("0.2000"),)]


def _raise_not_signed(*_: object) -> bytes:
    raise NotSigned("no memory")


def _raise_not_signed(*_: object) -> bytes:
    raise NotSigned("no memory")


def _raise_unavailable(*_: object) -> None:
    raise StorageUnavailable(retry_after_seconds=1)


def _pass_deadline(world: World) -> None:
    with world.engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET deadline_at = now() - interval '1 second'"))
    with Session(world.engine) as session, session.begin():
        overdue: list[UUID] = list(jobs.overdue(session, 10))
        for job_id in overdue:
            jobs.settle_overdue(session, job_id)
