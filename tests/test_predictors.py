"""What every adapter of the predictor port must do alike: preview and Replicate, alone and within its budget."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import BytesIO
from uuid import uuid4

import pytest
from PIL import Image
from pydantic import SecretStr

from shared.settings import Settings
from tests.doubles.replicate_process import DoubledReplicate, doubled_replicate
from tests.photos import not_an_image
from tests.predictor_orders import an_order, ended, photo, started
from worker.predictor import Gone, Never, Prediction, PredictionState, Predictor, open_predictor
from worker.preview_predictor import PreviewPredictor
from worker.replicate_predictor import ReplicatePredictor


@pytest.fixture(scope="module")
def vendor() -> Iterator[DoubledReplicate]:
    with doubled_replicate("--speed", "200") as vendor:
        yield vendor


@pytest.fixture(params=["preview", "replicate", "replicate within its budget"])
def predictor(request: pytest.FixtureRequest, offline_settings: Settings) -> Predictor:
    if request.param == "preview":
        return PreviewPredictor(offline_settings)
    vendor: DoubledReplicate = request.getfixturevalue("vendor")
    account = {"replicate_base_url": vendor.url, "replicate_api_token": SecretStr(vendor.token)}
    if request.param == "replicate":
        return ReplicatePredictor(offline_settings.model_copy(update=account))
    # These tests ask without pause; how the budget refuses is told elsewhere.
    ample = {"replicate_creates_per_minute": 60_000, "replicate_reads_per_minute": 600_000}
    within = {"predictor": "replicate", "redis_url": request.getfixturevalue("redis_url"), **account, **ample}
    return open_predictor(offline_settings.model_copy(update=within))


def test_an_order_becomes_a_photo_of_three_to_four(predictor: Predictor) -> None:
    with Image.open(BytesIO(photo(predictor, an_order()))) as picture:
        picture.load()
        assert picture.width / picture.height == pytest.approx(3 / 4, abs=0.01)
        assert picture.width >= 768


def test_a_finished_prediction_says_what_it_cost_and_when_it_was_made(predictor: Predictor) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    prediction = ended(predictor, started(predictor, an_order()).id)
    assert prediction.cost_usd is not None
    assert prediction.cost_usd >= 0
    assert before <= prediction.created_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert prediction.failure_code is None


def test_fetching_twice_says_the_same(predictor: Predictor) -> None:
    prediction_id = started(predictor, an_order()).id
    assert ended(predictor, prediction_id) == ended(predictor, prediction_id)


def test_four_slots_give_four_different_photos(predictor: Predictor) -> None:
    assert len({photo(predictor, an_order(slot=slot)) for slot in range(4)}) == 4


def test_a_prediction_is_found_by_its_attempt_and_by_no_other(predictor: Predictor) -> None:
    order, other = an_order(), an_order()
    since = datetime.now(UTC)
    prediction = started(predictor, order)
    started(predictor, other)
    found = predictor.find(order.attempt_id, order.seed, since)
    assert isinstance(found, list)
    assert [entry.id for entry in found] == [prediction.id]


def test_a_named_prediction_is_recognised_by_its_own_attempt_alone(predictor: Predictor) -> None:
    order, other = an_order(), an_order()
    prediction_id = started(predictor, order).id
    recognised = predictor.recognise(prediction_id, order.attempt_id, order.seed)
    assert recognised is not None
    assert recognised.id == prediction_id
    assert predictor.recognise(prediction_id, other.attempt_id, other.seed) is None
    assert predictor.recognise(uuid4().hex[:26], order.attempt_id, order.seed) is None


def test_what_was_never_ordered_is_not_found(predictor: Predictor) -> None:
    started(predictor, an_order())
    never = an_order()
    assert predictor.find(never.attempt_id, never.seed, datetime.now(UTC) - timedelta(minutes=1)) == []


def test_an_unknown_prediction_is_gone(predictor: Predictor) -> None:
    unknown = uuid4().hex[:26]
    assert isinstance(predictor.fetch(unknown), Gone)
    assert isinstance(predictor.cancel(unknown), Gone)


def test_canceling_what_has_ended_changes_nothing(predictor: Predictor) -> None:
    prediction = ended(predictor, started(predictor, an_order()).id)
    assert predictor.cancel(prediction.id) == prediction


@pytest.mark.parametrize(
    "address",
    [
        "https://elsewhere.invalid/photo.jpg",
        "http://replicate.delivery/photo.jpg",
        "https://replicate.delivery.elsewhere.invalid/photo.jpg",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/hostname",
        "../../etc/hostname",
        "/etc/hostname",
        "",
    ],
)
def test_foreign_addresses_are_not_read(predictor: Predictor, address: str) -> None:
    assert isinstance(predictor.read_output(address), Gone)


def test_a_portrait_that_is_no_picture_is_given_up(predictor: Predictor) -> None:
    answer = predictor.start(an_order(read_portrait=not_an_image))
    if isinstance(answer, Prediction):
        prediction = ended(predictor, answer.id)
        assert prediction.state is PredictionState.FAILED
        assert (prediction.failure_code, prediction.retryable) == ("bad_input", False)
    else:
        assert isinstance(answer, Never)
        assert answer.code == "bad_input"


def test_many_threads_share_one_predictor(predictor: Predictor) -> None:
    orders = [an_order(slot=number % 4) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        photos = list(threads.map(lambda order: photo(predictor, order), orders))
    assert len(set(photos)) == 8


def test_the_probe_says_who_answered(predictor: Predictor) -> None:
    assert predictor.name in predictor.probe().lower()
    assert predictor.model
