"""The doubled Replicate keeps to the vendor's documented behaviour, or the tests that rely on it prove nothing."""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError
from replicate.webhook import InvalidSignatureError, Webhooks, WebhookSigningSecret
from standardwebhooks import Webhook

from tests.doubles.receiver import Received, Receiver, receiver
from tests.doubles.replicate_pictures import read_seed
from tests.doubles.replicate_process import DoubledReplicate, doubled_replicate
from tests.doubles.replicate_runs import ENDED
from tests.doubles.replicate_webhooks import STALE_SECONDS, signature
from tests.photos import heic, one_face
from tests.waiting import wait_until

MODEL = "black-forest-labs/flux-2-pro"
CREATE = f"/v1/models/{MODEL}/predictions"


@pytest.fixture(scope="module")
def running() -> Iterator[DoubledReplicate]:
    with doubled_replicate("--speed", "200") as vendor:
        yield vendor


@pytest.fixture
def vendor(running: DoubledReplicate) -> DoubledReplicate:
    running.reset()
    return running


@pytest.fixture
def client(vendor: DoubledReplicate) -> Client:
    return Client(api_token=vendor.token, base_url=vendor.url)


@pytest.fixture
def web() -> Iterator[Receiver]:
    with receiver() as web:
        yield web


def portrait(content: bytes | None = None) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(content or one_face()).decode()


def created(vendor: DoubledReplicate, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
    answer = vendor.web.post(CREATE, json={"input": {"prompt": "a portrait"}} | body, headers=headers)
    assert answer.status_code in (201, 202), answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def sent_of(vendor: DoubledReplicate, prediction_id: str) -> list[dict[str, Any]]:
    """The webhooks about this prediction in the double's own book."""
    return [entry for entry in vendor.book("webhooks") if entry["prediction"] == prediction_id]


def ended(vendor: DoubledReplicate, prediction_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any]:
        shown: dict[str, Any] = vendor.web.get(f"/v1/predictions/{prediction_id}").json()
        return shown if shown["status"] in ENDED else {}

    return wait_until(look)


# --- With the vendor's own client


def test_the_vendors_client_runs_a_model(client: Client) -> None:
    given = {"prompt": "a portrait", "input_images": [portrait()], "seed": 99, "output_format": "png"}
    address = client.run(MODEL, input=given, wait=False)
    assert read_seed(httpx.get(str(address), trust_env=False).content) == 99


def test_the_vendors_client_sees_moderation_as_a_model_error(client: Client, vendor: DoubledReplicate) -> None:
    vendor.turn(outcomes=["moderated"])
    with pytest.raises(ModelError, match=r"flagged as sensitive.*\(E005\)"):
        client.run(MODEL, input={"prompt": "a portrait"}, wait=False)


def test_the_vendors_client_cancels_and_asks_about_the_account(client: Client, vendor: DoubledReplicate) -> None:
    vendor.turn(outcomes=["hang"])
    prediction = client.predictions.create(version=MODEL, input={"prompt": "a portrait"})
    assert client.predictions.cancel(prediction.id).status == "canceled"
    assert client.webhooks.default.secret().key == vendor.webhook_secret
    assert client.accounts.current().username == "cuggu-double"


def test_the_vendors_client_does_not_know_aborted(client: Client, vendor: DoubledReplicate) -> None:
    """Why our adapter reads the bodies itself: one such prediction makes a whole list unreadable."""
    vendor.turn(outcomes=["aborted"])
    shown = created(vendor)
    assert ended(vendor, shown["id"])["status"] == "aborted"
    with pytest.raises(ValueError, match="aborted"):
        client.predictions.list()


def test_the_vendors_client_understands_the_refusals(vendor: DoubledReplicate, client: Client) -> None:
    with pytest.raises(ReplicateError) as caught:
        client.models.predictions.create(MODEL, input={"prompt": "x", "output_format": "gif"})
    assert (caught.value.status, caught.value.title) == (422, "Input validation failed")
    with pytest.raises(ReplicateError) as caught:
        client.predictions.create(version="nobody/nothing", input={})
    assert caught.value.title == "Invalid version or not permitted"
    with pytest.raises(ReplicateError) as caught:
        client.models.predictions.create("nobody/nothing", input={})
    assert caught.value.status == 404


# --- Refusals


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({}, "You did not pass an authentication token"),
        ({"authorization": "Bearer r8_wrong"}, "You did not pass a valid authentication token"),
    ],
)
def test_who_is_not_known_is_told_so(vendor: DoubledReplicate, headers: dict[str, str], detail: str) -> None:
    answer = httpx.post(vendor.url + CREATE, json={"input": {"prompt": "x"}}, headers=headers, trust_env=False)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {"title": "Unauthenticated", "detail": detail, "status": 401}
    assert "ratelimit-remaining" not in answer.headers


@pytest.mark.parametrize(
    ("given", "kind", "field", "description"),
    [
        ({}, "required", "input", "prompt is required"),
        (
            {"prompt": "x", "output_format": "gif"},
            "enum",
            "input.output_format",
            'output_format must be one of the following: "webp", "jpg", "png"',
        ),
        (
            {"prompt": "x", "safety_tolerance": 9},
            "number_lte",
            "input.safety_tolerance",
            "Must be less than or equal to 5",
        ),
        ({"prompt": {}}, "invalid_type", "input.prompt", "Invalid type. Expected: string, given: object"),
        ({"prompt": "x", "input_images": ["me.jpg"]}, "format", "input.input_images.0", "Does not match format 'uri'"),
    ],
)
def test_an_input_that_does_not_fit_is_explained(
    vendor: DoubledReplicate, given: dict[str, Any], kind: str, field: str, description: str
) -> None:
    answer = vendor.web.post(CREATE, json={"input": given})
    assert answer.status_code == 422
    assert answer.json() == {
        "title": "Input validation failed",
        "status": 422,
        "detail": f"- {field}: {description}\n",
        "invalid_fields": [{"type": kind, "field": field, "description": description}],
    }


@pytest.mark.parametrize(
    "body",
    [
        {"input": {"prompt": "x"}, "Webhook": "https://example.org"},
        {"input": {"prompt": "x"}, "webhook": "http://example.org"},
        {"input": {"prompt": "x"}, "webhook_events_filter": ["finished"]},
        {"input": {"prompt": "x", "num_outputs": 4}},
        {"input": {"prompt": "x", "input_images": ["data:image/jpeg;base64," + "A" * 600_000]}},
        {"prompt": "x"},
        [],
    ],
)
def test_the_body_is_closed(vendor: DoubledReplicate, body: object) -> None:
    assert vendor.web.post(CREATE, json=body).status_code == 422


def test_a_model_has_no_field_that_is_not_its_own(vendor: DoubledReplicate) -> None:
    body = {"input": {"prompt": "x", "seed": 1}}
    assert vendor.web.post("/v1/models/bytedance/seedream-4/predictions", json=body).status_code == 422
    body = {"input": {"prompt": "x", "input_image": portrait(), "safety_tolerance": 3}}
    assert vendor.web.post("/v1/models/black-forest-labs/flux-kontext-pro/predictions", json=body).status_code == 422


def test_low_credit_lets_one_in_and_says_when_the_next(vendor: DoubledReplicate) -> None:
    vendor.turn(low_credit=True)
    first, second = (vendor.web.post(CREATE, json={"input": {"prompt": "x"}}) for _ in range(2))
    assert (first.status_code, first.headers["ratelimit-remaining"]) == (201, "0")
    assert second.status_code == 429
    assert second.json()["status"] == 429
    assert second.json()["retry_after"] == 10
    assert "reduced to 6 requests per minute with a burst of 1 requests" in second.json()["detail"]
    assert vendor.book("refused")


def test_six_hundred_creates_a_minute_and_no_more(vendor: DoubledReplicate) -> None:
    vendor.turn(creates_per_minute=60, create_burst=5)
    answers = [vendor.web.post(CREATE, json={"input": {"prompt": "x"}}) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [201] * 5 + [429]
    assert answers[-1].json() == {"detail": "Request was throttled. Your rate limit resets in ~1s."}
    assert vendor.web.get("/v1/account").headers["ratelimit-remaining"] == "2999"  # a limit of its own


def test_a_dial_that_does_not_exist_cannot_be_turned(vendor: DoubledReplicate) -> None:
    assert vendor.web.post("/_dials", json={"latencies": 1}).status_code == 422
    assert vendor.web.post("/_dials", json={"faults": {"create": ["sometimes"]}}).status_code == 422


# --- A prediction's life


def test_a_prediction_lives_in_order_and_in_time(vendor: DoubledReplicate) -> None:
    shown = created(vendor, input={"prompt": "a portrait", "seed": 5, "output_format": "jpg"})
    assert shown["status"] == "starting"
    assert shown["output"] is None
    assert len(shown["id"]) == 26
    end = ended(vendor, shown["id"])
    times = [datetime.fromisoformat(end[name]) for name in ("created_at", "started_at", "completed_at")]
    assert times == sorted(times)
    assert end["metrics"]["predict_time"] >= 15 / 200
    assert end["metrics"]["image_count"] == 1
    assert isinstance(end["output"], str)
    assert end["output"].endswith(".jpg")


def test_a_list_model_gives_a_list(vendor: DoubledReplicate) -> None:
    given = {"prompt": "x", "sequential_image_generation": "auto", "max_images": 3}
    shown = vendor.web.post("/v1/predictions", json={"version": "bytedance/seedream-4", "input": given}).json()
    output = ended(vendor, shown["id"])["output"]
    seeds = [read_seed(httpx.get(address, trust_env=False).content) for address in output]
    assert seeds == [(seeds[0] + place) % 2**31 for place in range(3)]
    assert vendor.entry(shown["id"])["cost_usd"] == "0.09"


def test_waiting_holds_the_answer_until_the_end(vendor: DoubledReplicate) -> None:
    assert created(vendor, {"prefer": "wait=10"})["status"] == "succeeded"
    vendor.turn(sync_data_urls=True)
    shown = created(vendor, {"prefer": "wait"})
    assert shown["status"] == "processing"
    assert shown["output"].startswith("data:image/webp;base64,")
    assert "metrics" not in shown
    assert vendor.web.post(CREATE, json={"input": {"prompt": "x"}}, headers={"prefer": "wait=61"}).status_code == 422


def test_waiting_ends_before_a_prediction_that_hangs(vendor: DoubledReplicate) -> None:
    vendor.turn(outcomes=["hang"])
    answer = vendor.web.post(CREATE, json={"input": {"prompt": "x"}}, headers={"prefer": "wait=1"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=1")
    assert answer.json()["status"] == "processing"


@pytest.mark.parametrize(("start_seconds", "status", "billed"), [(0, "canceled", "0.045"), (1000, "aborted", "0")])
def test_a_deadline_ends_it(vendor: DoubledReplicate, start_seconds: float, status: str, billed: str) -> None:
    vendor.turn(start_seconds=start_seconds, predict_seconds=1000)
    shown = created(vendor, {"cancel-after": "1m"})
    assert datetime.fromisoformat(shown["deadline"]) > datetime.fromisoformat(shown["created_at"])
    assert ended(vendor, shown["id"])["status"] == status
    assert vendor.entry(shown["id"])["cost_usd"] == billed


@pytest.mark.parametrize("duration", ["1s", "25h", "soon", ""])
def test_a_deadline_has_its_form(vendor: DoubledReplicate, duration: str) -> None:
    answer = vendor.web.post(CREATE, json={"input": {"prompt": "x"}}, headers={"cancel-after": duration})
    assert answer.status_code == 422


def test_what_ended_is_kept_for_an_hour(vendor: DoubledReplicate) -> None:
    vendor.turn(keep_seconds=40)
    shown = ended(vendor, created(vendor, input={"prompt": "x", "seed": 1})["id"])
    wait_until(lambda: httpx.get(shown["output"], trust_env=False).status_code == 404)
    after = vendor.web.get(f"/v1/predictions/{shown['id']}").json()
    assert (after["status"], after["output"], after["data_removed"]) == ("succeeded", None, True)


def test_the_portrait_must_be_there_and_readable(vendor: DoubledReplicate, web: Receiver) -> None:
    missing = created(vendor, input={"prompt": "x", "input_images": [f"{web.url}/none.jpg"]})
    assert "404" in ended(vendor, missing["id"])["error"]
    apple = created(vendor, input={"prompt": "x", "input_images": [portrait(heic())]})
    assert "cannot identify image" in ended(vendor, apple["id"])["error"]


def test_files_are_kept_and_can_be_deleted(vendor: DoubledReplicate) -> None:
    answer = vendor.web.post("/v1/files", files={"content": ("me.jpg", one_face(), "image/jpeg")})
    assert answer.status_code == 201
    sheet = answer.json()
    assert (sheet["name"], sheet["size"]) == ("me.jpg", len(one_face()))
    assert vendor.web.get(f"/v1/files/{sheet['id']}").json() == sheet
    assert vendor.web.delete(f"/v1/files/{sheet['id']}").status_code == 204
    assert vendor.web.get(f"/v1/files/{sheet['id']}").status_code == 404


def test_the_list_is_paged_newest_first_and_cut_by_time(vendor: DoubledReplicate) -> None:
    made = [created(vendor)["id"] for _ in range(102)]
    first = vendor.web.get("/v1/predictions").json()
    assert [entry["id"] for entry in first["results"]] == made[:1:-1]
    second = vendor.web.get(first["next"]).json()
    assert [entry["id"] for entry in second["results"][:2]] == [made[1], made[0]]
    latest = vendor.web.get(f"/v1/predictions/{made[-1]}").json()["created_at"]
    recent = vendor.web.get("/v1/predictions", params={"created_after": latest}).json()["results"]
    older = vendor.web.get("/v1/predictions", params={"created_before": latest}).json()["results"]
    assert made[-1] in [entry["id"] for entry in recent]
    assert made[-1] not in [entry["id"] for entry in older]
    assert vendor.web.get("/v1/predictions", params={"source": "web"}).json()["results"] == []


# --- Webhooks


def genuine(post: Received, secret: str) -> bool:
    """Whether the vendor's client and the standard's library, both of them, take it for genuine."""
    signed = WebhookSigningSecret(key=secret)
    try:
        Webhooks.validate(headers=dict(post.headers), body=post.body.decode(), secret=signed, tolerance=300)
    except (InvalidSignatureError, ValueError):
        return False
    Webhook(secret).verify(post.body, dict(post.headers))
    return True


def test_the_signature_is_that_of_the_standard() -> None:
    signed = signature(
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "msg_test_1", 1700000000, b'{"id":"abc","status":"succeeded"}'
    )
    assert signed == "v1,CB90cZfez/lXyQRzH62fIu+8jz0b1PrdFOrn0aW4+lE="


def test_every_event_asked_for_is_sent_and_signed(vendor: DoubledReplicate, web: Receiver) -> None:
    created(vendor, webhook=f"{web.url}/in?attempt=1", webhook_events_filter=["start", "output", "completed"])
    posts = web.wait_for_posts(3)
    assert all(genuine(post, vendor.webhook_secret) for post in posts)
    assert {post.path for post in posts} == {"/in?attempt=1"}
    assert json.loads(posts[0].body)["status"] == "processing"
    assert json.loads(posts[2].body)["status"] == "succeeded"


def test_the_last_one_is_sent_again_until_it_is_taken(vendor: DoubledReplicate, web: Receiver) -> None:
    web.statuses = [500, 404, 200]
    shown = created(vendor, webhook=web.url, webhook_events_filter=["completed"])
    posts = web.wait_for_posts(3)
    assert len({post.headers["webhook-id"] for post in posts}) == 1
    assert all(genuine(post, vendor.webhook_secret) for post in posts)
    wait_until(lambda: len(sent_of(vendor, shown["id"])) == 3)
    assert [entry["status"] for entry in sent_of(vendor, shown["id"])] == [500, 404, 200]


def test_an_event_in_between_is_sent_once(vendor: DoubledReplicate, web: Receiver) -> None:
    web.statuses = [500, 200]
    created(vendor, webhook=web.url, webhook_events_filter=["start", "completed"])
    posts = web.wait_for_posts(2)
    assert [json.loads(post.body)["status"] for post in posts] == ["processing", "succeeded"]


def test_webhooks_go_wrong_as_told(vendor: DoubledReplicate, web: Receiver) -> None:
    vendor.turn(webhooks=["doubled"])
    created(vendor, webhook=web.url, webhook_events_filter=["completed"])
    one, again = web.wait_for_posts(2)
    assert one.headers["webhook-id"] == again.headers["webhook-id"]

    vendor.turn(webhooks=["forged"])
    created(vendor, webhook=web.url, webhook_events_filter=["completed"])
    forged, real = web.wait_for_posts(4)[2:]
    assert not genuine(forged, vendor.webhook_secret)
    assert genuine(real, vendor.webhook_secret)

    vendor.turn(webhooks=["stale"])
    created(vendor, webhook=web.url, webhook_events_filter=["completed"])
    stale, _ = web.wait_for_posts(6)[4:]
    assert int(stale.headers["webhook-timestamp"]) <= time.time() - STALE_SECONDS
    assert not genuine(stale, vendor.webhook_secret)

    vendor.turn(webhooks=["lost"])
    lost = created(vendor, webhook=web.url, webhook_events_filter=["completed"])["id"]
    wait_until(lambda: sent_of(vendor, lost))
    assert len(web.posts) == 6


# --- The process


def test_the_double_ends_with_the_process_that_started_it() -> None:
    command = [sys.executable, "-m", "tests.doubles.replicate_double"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert "url" in json.loads(process.stdout.readline())
        process.stdin.close()
        assert process.wait(10) == 0
