"""The preview predictor: whatever happens to this process, it tells the truth about what it has made."""

import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from threading import Event, Semaphore
from typing import Any
from uuid import uuid4

import pytest
from PIL import Image

from shared.settings import Settings
from shared.storage import ObjectNotFound
from tests import photos
from worker import preview_predictor
from worker.predictor import Gone, Never, NotYet, Prediction, PredictionOrder, PredictionState
from worker.preview_predictor import PreviewPredictor


def settings_for(folder: Path, **changes: Any) -> Settings:
    return Settings(_env_file=None, database_url="postgresql://x", redis_url="redis://x", data_dir=folder, **changes)


def order_for(**changes: Any) -> PredictionOrder:
    order = PredictionOrder(
        photo_id=uuid4(),
        attempt_id=uuid4(),
        user_id=uuid4(),
        seed=1234,
        style="CLASSIC",
        slot=0,
        prompt="",
        portrait_url=None,
        read_portrait=photos.one_face,
        webhook_url=None,
        before_paying=lambda: None,
    )
    return replace(order, **changes)


def started(predictor: PreviewPredictor, order: PredictionOrder) -> Prediction:
    prediction = predictor.start(order)
    assert isinstance(prediction, Prediction)
    return prediction


def an_hour_ago() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)


def test_a_started_preview_is_finished_free_and_readable(tmp_path: Path) -> None:
    predictor = PreviewPredictor(settings_for(tmp_path))
    order = order_for()
    prediction = started(predictor, order)
    assert prediction.id.startswith("preview-")
    assert prediction.state is PredictionState.SUCCEEDED
    assert prediction.cost_usd == Decimal(0)
    assert prediction.seconds is not None
    assert prediction.seconds > 0
    photo = predictor.read_output(prediction.output[0])
    assert isinstance(photo, bytes)
    with Image.open(io.BytesIO(photo)) as opened:
        assert (opened.format, opened.size) == ("JPEG", (900, 1200))

    # Another process, after a crash of this one, knows the same.
    later = PreviewPredictor(settings_for(tmp_path))
    assert later.fetch(prediction.id) == prediction
    assert later.find(order.attempt_id, order.seed, an_hour_ago()) == [prediction]
    assert later.cancel(prediction.id) == prediction  # too late
    assert later.find(order.attempt_id, order.seed + 1, an_hour_ago()) == []
    assert later.find(uuid4(), order.seed, an_hour_ago()) == []
    assert later.find(order.attempt_id, order.seed, datetime.now(UTC) + timedelta(minutes=5)) == []


def test_a_crash_before_the_record_leaves_no_prediction(tmp_path: Path) -> None:
    predictor = PreviewPredictor(settings_for(tmp_path))
    order = order_for()
    prediction = started(predictor, order)
    record = tmp_path / "previews" / f"{prediction.id}.json"
    for torn in (b"", b'{"attempt_id": "', b'{"seed": 1}'):
        record.write_bytes(torn)
        assert isinstance(predictor.fetch(prediction.id), Gone)
        assert predictor.find(order.attempt_id, order.seed, an_hour_ago()) == []
    record.unlink()
    assert isinstance(predictor.fetch(prediction.id), Gone)
    assert isinstance(predictor.cancel(prediction.id), Gone)


def test_previews_are_removed_after_an_hour(tmp_path: Path) -> None:
    predictor = PreviewPredictor(settings_for(tmp_path))
    old, young = started(predictor, order_for()), started(predictor, order_for())
    long_ago = time.time() - 3700
    for path in (tmp_path / "previews").glob(f"{old.id}.*"):
        os.utime(path, (long_ago, long_ago))
    started(PreviewPredictor(settings_for(tmp_path)), order_for())
    assert isinstance(predictor.fetch(old.id), Gone)
    assert isinstance(predictor.read_output(old.output[0]), Gone)
    assert predictor.fetch(young.id) == young


def test_a_delayed_preview_runs_and_can_be_cancelled(tmp_path: Path) -> None:
    slow = PreviewPredictor(settings_for(tmp_path, preview_seconds=3600.0))
    first, second = started(slow, order_for()), started(slow, order_for())
    assert first.state is PredictionState.RUNNING
    assert first.output == ()
    canceled = slow.cancel(first.id)
    assert isinstance(canceled, Prediction)
    assert canceled.state is PredictionState.CANCELED
    assert slow.fetch(first.id) == canceled

    # The same previews, seen once the delay is over.
    quick = PreviewPredictor(settings_for(tmp_path))
    finished = quick.fetch(second.id)
    assert isinstance(finished, Prediction)
    assert finished.state is PredictionState.SUCCEEDED
    assert quick.fetch(first.id) == canceled


@pytest.mark.parametrize(
    "changes",
    [{"style": "BAROQUE"}, {"slot": 4}, {"read_portrait": lambda: b"not a picture"}, {"read_portrait": lambda: b""}],
)
def test_what_can_never_work_is_said_so(tmp_path: Path, changes: dict[str, Any]) -> None:
    answer = PreviewPredictor(settings_for(tmp_path)).start(order_for(**changes))
    assert isinstance(answer, Never)
    assert answer.code == "bad_input"
    assert not list(tmp_path.rglob("*.jp*g"))


def test_a_portrait_that_cannot_be_read_is_the_storages_affair(tmp_path: Path) -> None:
    def missing() -> bytes:
        raise ObjectNotFound

    with pytest.raises(ObjectNotFound):
        PreviewPredictor(settings_for(tmp_path)).start(order_for(read_portrait=missing))


def test_a_disk_that_refuses_is_no_lost_answer(tmp_path: Path) -> None:
    (tmp_path / "previews").write_text("in the way")
    predictor = PreviewPredictor(settings_for(tmp_path))
    order = order_for()
    assert isinstance(predictor.start(order), NotYet)
    assert predictor.find(order.attempt_id, order.seed, an_hour_ago()) == []
    with pytest.raises(ConnectionError, match="DATA_DIR"):
        predictor.probe()


@pytest.mark.parametrize(
    "address",
    ["preview://../../etc/passwd", "https://example.org/a.jpg", "preview://", f"preview://preview-{'0' * 48}", "../x"],
)
def test_only_previews_can_be_read(tmp_path: Path, address: str) -> None:
    predictor = PreviewPredictor(settings_for(tmp_path))
    assert isinstance(predictor.read_output(address), Gone)
    assert isinstance(predictor.fetch(address), Gone)


def test_the_probe_says_what_it_found(tmp_path: Path) -> None:
    predictor = PreviewPredictor(settings_for(tmp_path))
    assert "faces are looked for" in predictor.probe()
    assert not list((tmp_path / "previews").iterdir())


def test_without_a_face_model_previews_are_made_all_the_same(tmp_path: Path) -> None:
    predictor = PreviewPredictor(settings_for(tmp_path, face_model_path=tmp_path / "none.onnx"))
    assert "no face model" in predictor.probe()
    assert started(predictor, order_for(slot=2)).state is PredictionState.SUCCEEDED


def test_many_threads_may_start_previews_at_once(tmp_path: Path) -> None:
    predictor = PreviewPredictor(settings_for(tmp_path))
    orders = [order_for(slot=2, style="MODERN", seed=seed) for seed in (1, 2, 1)]
    with ThreadPoolExecutor(3) as threads:
        one, other, same = (
            predictor.read_output(prediction.output[0])
            for prediction in threads.map(lambda order: started(predictor, order), orders)
        )
    assert one == same
    assert one != other


def test_a_preview_whose_turn_does_not_come_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start is bounded in time: better to come back than to outlive the lease in a queue."""
    monkeypatch.setattr(preview_predictor, "_TURN_SECONDS", 0.05)
    done, rendering = Event(), Semaphore(0)

    def slow(*_: object) -> bytes:
        rendering.release()
        assert done.wait(60)
        return b"a photo"

    monkeypatch.setattr(preview_predictor, "_draw", slow)
    predictor = PreviewPredictor(settings_for(tmp_path))
    with ThreadPoolExecutor(2) as threads:
        try:
            busy = [threads.submit(predictor.start, order_for()) for _ in range(2)]
            assert all(rendering.acquire(timeout=60) for _ in busy)
            order = order_for()
            assert isinstance(predictor.start(order), NotYet)
        finally:
            done.set()
        assert all(isinstance(start.result(60), Prediction) for start in busy)
    assert predictor.find(order.attempt_id, order.seed, an_hour_ago()) == []
