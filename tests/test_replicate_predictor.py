"""The Replicate adapter, by the real client against the doubled vendor: every answer becomes the right next step."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from uuid import UUID

import pytest
from PIL import Image
from pydantic import SecretStr
from structlog.testing import capture_logs

from shared.settings import Settings
from tests.doubles.receiver import Receiver, receiver
from tests.doubles.replicate_pictures import read_seed
from tests.doubles.replicate_process import DoubledReplicate, doubled_replicate
from tests.photos import one_face, twelve_megapixels
from tests.predictor_orders import an_order, ended, photo, started
from tests.waiting import wait_until
from worker.predictor import Gone, Never, NotYet, Prediction, PredictionState, Unknown
from worker.replicate_answers import prediction_from
from worker.replicate_models import MODELS, model_named
from worker.replicate_predictor import ReplicatePredictor

SEEDLESS = "bytedance/seedream-4"
HASTY_LEASE_SECONDS = 1.5
# Far below the 50 s of the client's own patience, far above what a busy machine adds to a hasty call.
SOON_SECONDS = 6.0
OpenPredictor = Callable[..., ReplicatePredictor]


@pytest.fixture(scope="module")
def running_vendor() -> Iterator[DoubledReplicate]:
    with doubled_replicate("--speed", "200") as vendor:
        yield vendor


@pytest.fixture
def vendor(running_vendor: DoubledReplicate) -> DoubledReplicate:
    running_vendor.reset()
    return running_vendor


@pytest.fixture
def opened(vendor: DoubledReplicate, offline_settings: Settings) -> OpenPredictor:
    """Open a predictor on the double; keywords are settings."""

    def open_with(
        on_limits: Callable[[str, Mapping[str, str]], None] | None = None, **changes: object
    ) -> ReplicatePredictor:
        values: dict[str, object] = {
            "predictor": "replicate",
            "replicate_base_url": vendor.url,
            "replicate_api_token": SecretStr(vendor.token),
            "replicate_webhook_secrets": (SecretStr(vendor.webhook_secret),),
        }
        return ReplicatePredictor(offline_settings.model_copy(update=values | changes), on_limits)

    return open_with


@pytest.fixture
def predictor(opened: OpenPredictor) -> ReplicatePredictor:
    return opened()


@pytest.fixture
def hasty(opened: OpenPredictor) -> ReplicatePredictor:
    """One whose calls end within a second, for vendors that do not answer. Too hasty for anything else."""
    return opened(lease_seconds=HASTY_LEASE_SECONDS)


@pytest.fixture
def web() -> Iterator[Receiver]:
    with receiver() as web:
        yield web


def creates(vendor: DoubledReplicate) -> int:
    return sum(entry["operation"] == "create" for entry in vendor.book("requests"))


# --- The order


@pytest.mark.parametrize("name", MODELS)
def test_each_model_takes_our_order_and_we_store_what_it_made(
    opened: OpenPredictor, vendor: DoubledReplicate, name: str
) -> None:
    predictor = opened(replicate_model=name)
    prediction = ended(predictor, started(predictor, an_order()).id)
    content = predictor.read_output(prediction.output[0])
    assert isinstance(content, bytes)
    entry = vendor.entry(prediction.id)
    assert read_seed(content) == entry["seed"]
    assert Image.open(BytesIO(content)).format == "JPEG"
    assert entry["input"]["aspect_ratio"] == "3:4"
    assert prediction.cost_usd == Decimal(entry["cost_usd"]) > 0


def test_the_seed_of_the_order_is_the_seed_of_the_photo(predictor: ReplicatePredictor) -> None:
    order = an_order()
    assert read_seed(photo(predictor, order)) == order.seed


def test_an_unknown_model_is_refused_at_the_start(opened: OpenPredictor) -> None:
    with pytest.raises(ValueError, match=r"REPLICATE_MODEL=black-forest-labs/flux-1\.1-pro is not known"):
        opened(replicate_model="black-forest-labs/flux-1.1-pro")


def test_only_the_last_webhook_is_asked_for_and_it_goes_to_the_orders_address(
    predictor: ReplicatePredictor, vendor: DoubledReplicate, web: Receiver
) -> None:
    order = an_order(webhook_url=f"{web.url}/webhooks/replicate?photo=1&attempt=2")
    prediction = started(predictor, order)
    (post,) = web.wait_for_posts(1)
    assert post.path == "/webhooks/replicate?photo=1&attempt=2"
    assert json.loads(post.body)["id"] == prediction.id

    def sent() -> list[str]:
        return [sent["event"] for sent in vendor.book("webhooks") if sent["prediction"] == prediction.id]

    wait_until(lambda: bool(sent()))  # the book is written when the answer to the webhook is there
    assert sent() == ["completed"]


def test_the_portrait_is_fetched_from_the_storages_address(predictor: ReplicatePredictor, web: Receiver) -> None:
    web.files["/portrait.jpg"] = one_face()

    def must_not_be_read() -> bytes:
        raise AssertionError("the address was there")

    order = an_order(portrait_url=f"{web.url}/portrait.jpg?signature=1", read_portrait=must_not_be_read)
    assert read_seed(photo(predictor, order)) == order.seed


def test_a_large_portrait_is_uploaded_first(opened: OpenPredictor, vendor: DoubledReplicate) -> None:
    predictor = opened()
    order = an_order(read_portrait=twelve_megapixels)
    prediction = ended(predictor, started(predictor, order).id)
    assert prediction.state is PredictionState.SUCCEEDED
    (address,) = vendor.entry(prediction.id)["input"]["input_images"]
    assert address.startswith(f"{vendor.url}/v1/files/")


def test_an_upload_that_fails_orders_nothing(opened: OpenPredictor, vendor: DoubledReplicate) -> None:
    predictor, before = opened(lease_seconds=HASTY_LEASE_SECONDS), creates(vendor)
    for fault in ("500", "503", "drop", "hang", "not_json", "401"):
        vendor.turn(faults={"file": [fault]})
        assert isinstance(predictor.start(an_order(read_portrait=twelve_megapixels)), NotYet), fault
    vendor.turn(faults={"file": ["422"]})
    assert isinstance(predictor.start(an_order(read_portrait=twelve_megapixels)), Never)
    assert creates(vendor) == before


def test_a_portrait_that_cannot_be_fetched_fails_without_telling_its_signature(
    predictor: ReplicatePredictor, web: Receiver
) -> None:
    order = an_order(portrait_url=f"{web.url}/nothing.jpg?X-Amz-Signature=5ec2e7")
    prediction = ended(predictor, started(predictor, order).id)
    assert (prediction.failure_code, prediction.retryable) == ("provider_failed", True)
    assert "5ec2e7" not in str(prediction)


# --- The create call


@pytest.mark.parametrize(
    "fault", ["500", "502", "503", "504", "html_502", "list_500", "hang", "drip", "drop", "not_json"]
)
def test_a_create_without_a_clear_answer_is_unknown_and_sent_once(
    predictor: ReplicatePredictor, hasty: ReplicatePredictor, vendor: DoubledReplicate, fault: str
) -> None:
    before, begun = creates(vendor), time.monotonic()
    vendor.turn(faults={"create": [fault]})
    order = an_order()
    assert isinstance(hasty.start(order), Unknown)
    assert time.monotonic() - begun < SOON_SECONDS
    assert creates(vendor) == before + 1
    assert predictor.find(order.attempt_id, order.seed, datetime.now(UTC)) == []


@pytest.mark.parametrize("fault", ["500_after", "drop_after", "hang_after", "not_json_after"])
def test_a_prediction_whose_answer_was_lost_is_found(
    predictor: ReplicatePredictor, hasty: ReplicatePredictor, vendor: DoubledReplicate, fault: str
) -> None:
    vendor.turn(faults={"create": [fault]})
    order, since = an_order(), datetime.now(UTC)
    assert isinstance(hasty.start(order), Unknown)
    found = predictor.find(order.attempt_id, order.seed, since)
    assert isinstance(found, list)
    (prediction,) = found
    assert vendor.entry(prediction.id)["seed"] == order.seed
    assert not vendor.entry(prediction.id)["answered"]


def test_a_process_that_stood_still_after_it_renewed_its_lease_sends_nothing(
    hasty: ReplicatePredictor, vendor: DoubledReplicate
) -> None:
    """Its lease may have ended: somebody else may have looked for the prediction in vain, and paid for another."""
    before = creates(vendor)
    answer = hasty.start(an_order(before_paying=lambda: time.sleep(HASTY_LEASE_SECONDS)))
    assert isinstance(answer, NotYet)
    assert creates(vendor) == before


def test_nobody_listening_means_that_nothing_was_sent(opened: OpenPredictor) -> None:
    predictor = opened(replicate_base_url="http://127.0.0.1:9")  # discard: nobody listens
    assert isinstance(predictor.start(an_order()), NotYet)
    assert isinstance(predictor.fetch("x" * 26), NotYet)
    assert isinstance(predictor.cancel("x" * 26), NotYet)
    assert isinstance(predictor.find(an_order().attempt_id, 1, datetime.now(UTC)), NotYet)
    with pytest.raises(ConnectionError, match="REPLICATE_BASE_URL"):
        predictor.probe()


@pytest.mark.parametrize("header", [False, True])
def test_low_credit_says_how_long_to_wait(
    predictor: ReplicatePredictor, vendor: DoubledReplicate, header: bool
) -> None:
    vendor.turn(low_credit=True, retry_after_header=header)
    started(predictor, an_order())
    answer = predictor.start(an_order())
    assert isinstance(answer, NotYet)
    assert 8 <= answer.after_seconds <= 10  # 6 a minute, one at a time
    assert "less than $5.0 in credit" in answer.reason


def test_the_ordinary_throttle_tells_its_wait_in_its_sentence(
    predictor: ReplicatePredictor, vendor: DoubledReplicate
) -> None:
    vendor.turn(creates_per_minute=10, create_burst=1)
    started(predictor, an_order())
    answer = predictor.start(an_order())
    assert isinstance(answer, NotYet)
    assert 5 <= answer.after_seconds <= 6


@pytest.mark.parametrize("status", ["401", "402", "403"])
def test_trouble_with_the_account_waits_and_is_told_to_the_operator_once(
    predictor: ReplicatePredictor, vendor: DoubledReplicate, status: str
) -> None:
    vendor.turn(faults={"create": [status] * 3})
    with capture_logs() as logs:
        answers = [predictor.start(an_order()) for _ in range(3)]
    assert all(isinstance(answer, NotYet) and answer.after_seconds == 30 for answer in answers)
    (line,) = logs
    assert (line["log_level"], line["event"], line["status"]) == ("error", "replicate.account_refused", int(status))
    assert line["todo"]
    started(predictor, an_order())
    vendor.turn(faults={"create": [status]})
    with capture_logs() as logs:
        predictor.start(an_order())
    assert len(logs) == 1


@pytest.mark.parametrize(("fault", "code"), [("422", "bad_input"), ("400", "bad_input"), ("404", "provider_failed")])
def test_an_order_that_is_never_taken(
    predictor: ReplicatePredictor, vendor: DoubledReplicate, fault: str, code: str
) -> None:
    vendor.turn(faults={"create": [fault]})
    answer = predictor.start(an_order())
    assert isinstance(answer, Never)
    assert answer.code == code


# --- Following a prediction


@pytest.mark.parametrize(
    "fault",
    ["429", "500", "502", "503", "504", "html_502", "list_500", "not_json", "hang", "drip", "drop", "401", "402"],
)
def test_a_bad_answer_to_a_question_is_asked_again_by_us_alone(
    predictor: ReplicatePredictor, hasty: ReplicatePredictor, vendor: DoubledReplicate, fault: str
) -> None:
    prediction = started(predictor, an_order())
    questions: dict[str, Callable[[], object]] = {
        "get": lambda: hasty.fetch(prediction.id),
        "cancel": lambda: hasty.cancel(prediction.id),
        "list": lambda: hasty.find(UUID(int=1), 1, datetime.now(UTC)),
    }
    for operation, ask in questions.items():
        before, begun = len(vendor.book("requests")), time.monotonic()
        vendor.turn(faults={operation: [fault]})
        assert isinstance(ask(), NotYet), operation
        assert time.monotonic() - begun < SOON_SECONDS
        assert len(vendor.book("requests")) == before + 1, operation


@pytest.mark.parametrize(
    ("outcome", "code", "retryable"),
    [
        ("moderated", "moderated", True),
        ("bad_input", "bad_input", False),
        ("failed", "provider_failed", True),
        ("empty", "provider_failed", True),
    ],
)
def test_failures_in_our_words_cost_nothing(
    predictor: ReplicatePredictor, vendor: DoubledReplicate, outcome: str, code: str, retryable: bool
) -> None:
    vendor.turn(outcomes=[outcome])
    prediction = ended(predictor, started(predictor, an_order()).id)
    assert prediction.state is PredictionState.FAILED
    assert (prediction.failure_code, prediction.retryable) == (code, retryable)
    assert prediction.cost_usd == Decimal(vendor.entry(prediction.id)["cost_usd"]) == 0


@pytest.mark.parametrize("outcome", ["aborted", "canceled"])
def test_what_the_vendor_stopped_counts_as_canceled(
    predictor: ReplicatePredictor, vendor: DoubledReplicate, outcome: str
) -> None:
    vendor.turn(outcomes=[outcome])
    prediction = ended(predictor, started(predictor, an_order()).id)
    assert prediction.state is PredictionState.CANCELED
    assert prediction.retryable
    assert prediction.cost_usd == Decimal(vendor.entry(prediction.id)["cost_usd"])


def test_a_prediction_that_hangs_is_ended_by_the_deadline_it_was_given(
    opened: OpenPredictor, vendor: DoubledReplicate
) -> None:
    vendor.turn(outcomes=["hang"])
    predictor = opened(job_deadline_seconds=60)  # of the vendor's time: 0.3 s
    prediction = ended(predictor, started(predictor, an_order()).id)
    assert prediction.state is PredictionState.CANCELED
    assert prediction.cost_usd == Decimal(vendor.entry(prediction.id)["cost_usd"]) > 0


def test_canceling_stops_a_running_prediction(predictor: ReplicatePredictor, vendor: DoubledReplicate) -> None:
    vendor.turn(outcomes=["hang"])
    prediction = started(predictor, an_order())
    canceled = predictor.cancel(prediction.id)
    assert isinstance(canceled, Prediction)
    assert canceled.state is PredictionState.CANCELED
    assert vendor.entry(prediction.id)["status"] == "canceled"


def test_bodies_with_fields_missing_are_understood(predictor: ReplicatePredictor, vendor: DoubledReplicate) -> None:
    vendor.turn(lean_bodies=True)
    order = an_order()
    assert read_seed(photo(predictor, order)) == order.seed


def test_an_output_in_the_answer_itself_is_taken(predictor: ReplicatePredictor, vendor: DoubledReplicate) -> None:
    vendor.turn(sync_data_urls=True)
    body = vendor.web.post(
        f"/v1/models/{predictor.model}/predictions",
        json={"input": {"prompt": "a portrait", "seed": 7, "output_format": "png"}},
        headers={"prefer": "wait=10"},
    ).json()
    assert body["status"] == "processing"
    prediction = prediction_from(body, model_named(predictor.model))
    assert prediction.state is PredictionState.SUCCEEDED
    content = predictor.read_output(prediction.output[0])
    assert isinstance(content, bytes)
    assert read_seed(content) == 7


def test_after_an_hour_it_is_gone(predictor: ReplicatePredictor, vendor: DoubledReplicate) -> None:
    vendor.turn(keep_seconds=60)  # of the vendor's time: 0.3 s
    prediction = ended(predictor, started(predictor, an_order()).id)
    wait_until(lambda: isinstance(predictor.fetch(prediction.id), Gone))
    assert isinstance(predictor.read_output(prediction.output[0]), Gone)


# --- Looking for a lost prediction


def test_find_turns_every_page(opened: OpenPredictor, vendor: DoubledReplicate) -> None:
    predictor = opened()
    order, since = an_order(), datetime.now(UTC)
    wanted = started(predictor, order)
    for seed in range(205):
        body = {"input": {"prompt": "another", "seed": seed}}
        vendor.web.post(f"/v1/models/{predictor.model}/predictions", json=body).raise_for_status()
    before = len(vendor.book("requests"))
    found = predictor.find(order.attempt_id, order.seed, since)
    assert isinstance(found, list)
    assert [prediction.id for prediction in found] == [wanted.id]
    asked = [entry["operation"] for entry in vendor.book("requests")[before:]]
    assert len(asked) >= 3
    assert set(asked) == {"list"}
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert predictor.find(order.attempt_id, order.seed, later) == []


def test_two_predictions_of_one_attempt_are_both_found_oldest_first(predictor: ReplicatePredictor) -> None:
    order, since = an_order(), datetime.now(UTC)
    twice = [started(predictor, order).id, started(predictor, order).id]
    found = predictor.find(order.attempt_id, order.seed, since)
    assert isinstance(found, list)
    assert [prediction.id for prediction in found] == twice


@pytest.mark.parametrize("lean", [True, False])
def test_a_model_without_a_seed_is_found_by_the_webhooks_address(
    opened: OpenPredictor, vendor: DoubledReplicate, web: Receiver, lean: bool
) -> None:
    vendor.turn(lean_lists=lean)
    predictor, since = opened(replicate_model=SEEDLESS), datetime.now(UTC) + timedelta(seconds=10)
    order, other = an_order(), an_order()
    prediction_of = {}
    for each in (order, other):
        address = f"{web.url}/webhooks/replicate?attempt={each.attempt_id}"
        prediction_of[each.attempt_id] = started(
            predictor, an_order(attempt_id=each.attempt_id, webhook_url=address)
        ).id
    for each in (order, other):
        found = predictor.find(each.attempt_id, each.seed, since)
        assert isinstance(found, list)
        assert [prediction.id for prediction in found] == [prediction_of[each.attempt_id]]
    never = an_order()
    assert predictor.find(never.attempt_id, never.seed, since) == []


def test_a_model_without_seed_and_webhook_is_never_said_to_be_absent(
    opened: OpenPredictor, vendor: DoubledReplicate
) -> None:
    with capture_logs() as logs:
        predictor = opened(replicate_model=SEEDLESS, replicate_webhook_secrets=())
    assert [line["event"] for line in logs] == ["replicate.lost_predictions_unfindable"]
    order = an_order()
    started(predictor, order)
    assert isinstance(predictor.find(order.attempt_id, order.seed, datetime.now(UTC)), NotYet)


# --- Downloading


def test_a_download_carries_no_token_and_follows_only_to_allowed_places(
    predictor: ReplicatePredictor, vendor: DoubledReplicate
) -> None:
    prediction = ended(predictor, started(predictor, an_order()).id)
    vendor.turn(faults={"delivery": ["redirect"]})
    assert isinstance(predictor.read_output(prediction.output[0]), bytes)
    vendor.turn(faults={"delivery": ["redirect_away"]})
    with capture_logs() as logs:
        assert isinstance(predictor.read_output(prediction.output[0]), Gone)
    assert logs[0]["host"] == "elsewhere.invalid"
    downloads = [entry for entry in vendor.book("requests") if entry["operation"] == "delivery"]
    assert downloads
    assert not any(entry["token"] for entry in downloads)


def test_an_output_on_a_foreign_host_is_not_read(predictor: ReplicatePredictor, vendor: DoubledReplicate) -> None:
    vendor.turn(outcomes=["foreign"])
    prediction = ended(predictor, started(predictor, an_order()).id)
    assert isinstance(predictor.read_output(prediction.output[0]), Gone)


@pytest.mark.parametrize("fault", ["500", "503", "429", "hang", "drop", "drip"])
def test_a_download_that_breaks_off_is_tried_again_within_the_hour(
    predictor: ReplicatePredictor, hasty: ReplicatePredictor, vendor: DoubledReplicate, fault: str
) -> None:
    prediction = ended(predictor, started(predictor, an_order()).id)
    vendor.turn(faults={"delivery": [fault]})
    begun = time.monotonic()
    assert isinstance(hasty.read_output(prediction.output[0]), NotYet)
    assert time.monotonic() - begun < SOON_SECONDS
    assert isinstance(predictor.read_output(prediction.output[0]), bytes)


def test_an_output_without_end_is_not_taken(predictor: ReplicatePredictor, vendor: DoubledReplicate) -> None:
    prediction = ended(predictor, started(predictor, an_order()).id)
    vendor.turn(faults={"delivery": ["huge"]})
    assert isinstance(predictor.read_output(prediction.output[0]), Gone)


@pytest.mark.parametrize(
    "address", ["data:image/jpeg;base64,@@@", "data:image/jpeg;base64," + "A" * 42_000_000], ids=["malformed", "huge"]
)
def test_a_bad_output_in_the_answer_is_not_taken(predictor: ReplicatePredictor, address: str) -> None:
    assert isinstance(predictor.read_output(address), Gone)


def test_plain_http_is_read_on_loopback_alone(opened: OpenPredictor, vendor: DoubledReplicate) -> None:
    address = ended(opened(), started(opened(), an_order()).id).output[0]
    production = opened(replicate_base_url="https://api.replicate.com")
    assert isinstance(production.read_output(address), Gone)


# --- What others learn from it


def test_the_limits_that_the_vendor_last_stated_are_handed_on(opened: OpenPredictor, vendor: DoubledReplicate) -> None:
    said: list[tuple[str, Mapping[str, str]]] = []
    predictor = opened(lambda kind, headers: said.append((kind, headers)))
    predictor.fetch(started(predictor, an_order()).id)
    assert [kind for kind, _ in said] == ["create", "other"]
    assert int(predictor.limits["create"]["ratelimit-remaining"]) <= 599
    assert int(predictor.limits["other"]["ratelimit-remaining"]) > 600


def test_the_probe_names_the_account_or_what_to_do(opened: OpenPredictor, vendor: DoubledReplicate) -> None:
    assert "cuggu-double" in opened().probe()
    with pytest.raises(ConnectionError, match="check REPLICATE_API_TOKEN"):
        opened(replicate_api_token=SecretStr("r8_wrong")).probe()


def test_the_token_is_in_no_text(opened: OpenPredictor) -> None:
    predictor = opened(replicate_api_token=SecretStr("r8_very-secret"))
    with capture_logs() as logs:
        answers = [predictor.start(an_order()), predictor.fetch("x" * 26), predictor.cancel("x" * 26)]
    assert "r8_very-secret" not in f"{predictor!r} {answers} {logs}"
