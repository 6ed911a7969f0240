"""The face check: one suite over both adapters, then what is particular to each."""

import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from io import BytesIO
from typing import Any

import anyio
import httpx
import pytest
import structlog
from PIL import Image
from pydantic import SecretStr
from structlog.testing import capture_logs

from api.azure_faces import LARGEST_BYTES, AzureFaceChecker
from api.faces import FaceBox, FaceChecker, FaceVerdict, judge, open_face_checker
from api.local_faces import LocalFaceChecker
from shared.errors import FaceCheckUnavailable
from shared.settings import Settings
from tests import photos
from tests.doubles import azure_double
from tests.doubles.processes import start_double

pytestmark = pytest.mark.anyio


class Azure:
    """The double, as a test turns and reads it."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.url = str(client.base_url).rstrip("/")

    def reset(self) -> None:
        self._client.delete("/_books").raise_for_status()
        self.dial()

    def dial(self, **dials: object) -> None:
        self._client.post("/_dials", json=azure_double.Dials().model_dump() | dials).raise_for_status()

    def calls(self) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = self._client.get("/_books").json()["calls"]
        return calls


@pytest.fixture(scope="module")
def running_azure() -> Iterator[Azure]:
    with start_double("tests.doubles.azure_double") as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield Azure(client)


@pytest.fixture
def azure(running_azure: Azure) -> Azure:
    running_azure.reset()
    return running_azure


@pytest.fixture
def azure_settings(offline_settings: Settings, azure: Azure, redis_url: str) -> Settings:
    update = {
        "redis_url": redis_url,
        "face_checker": "azure",
        "azure_face_endpoint": f"{azure.url}/",  # with the slash of the portal
        "azure_face_api_key": SecretStr(azure_double.KEY),
        "azure_face_timeout_seconds": 20.0,  # a busy machine must not look like a slow vendor
        "azure_face_calls_per_minute": 1_000_000,  # the budget has a suite of its own
    }
    return offline_settings.model_copy(update=update)


@pytest.fixture(params=["local", "azure"])
async def checker(request: pytest.FixtureRequest, offline_settings: Settings) -> AsyncIterator[FaceChecker]:
    settings = request.getfixturevalue("azure_settings") if request.param == "azure" else offline_settings
    checker = open_face_checker(settings)
    yield checker
    await checker.close()


@pytest.fixture
async def azure_checker(azure_settings: Settings) -> AsyncIterator[AzureFaceChecker]:
    checker = AzureFaceChecker(azure_settings)
    yield checker
    await checker.close()


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[MutableMapping[str, Any]]]:
    with capture_logs() as events:
        for module in ("azure_faces", "local_faces"):
            monkeypatch.setattr(f"api.{module}.log", structlog.get_logger())  # one not yet bound to a configuration
        yield events


async def check(checker: FaceChecker, jpeg: bytes) -> FaceVerdict:
    with Image.open(BytesIO(jpeg)) as picture:
        return await checker.check(jpeg, *picture.size)


# --- Both adapters


@pytest.mark.parametrize(
    ("photo", "verdict"),
    [
        (photos.one_face, FaceVerdict.ONE),
        (photos.twelve_megapixels, FaceVerdict.ONE),
        (photos.no_face, FaceVerdict.NONE),
        (photos.group, FaceVerdict.SEVERAL),
        (photos.background_face, FaceVerdict.ONE),
        (lambda: photos.background_face(100), FaceVerdict.SEVERAL),
        (photos.tiny_face, FaceVerdict.TOO_SMALL),
    ],
    ids=["one", "one, large file", "none", "group", "small in the background", "larger in the background", "tiny"],
)
async def test_adapters_give_the_same_verdict(
    checker: FaceChecker, photo: Callable[[], bytes], verdict: FaceVerdict
) -> None:
    assert await check(checker, photo()) == verdict


async def test_checks_side_by_side_do_not_mix(checker: FaceChecker) -> None:
    wanted = [(photos.one_face(), FaceVerdict.ONE), (photos.group(), FaceVerdict.SEVERAL)] * 3
    verdicts: list[FaceVerdict | None] = [None] * len(wanted)

    async def one(position: int, jpeg: bytes) -> None:
        verdicts[position] = await check(checker, jpeg)

    async with anyio.create_task_group() as group:
        for position, (jpeg, _) in enumerate(wanted):
            group.start_soon(one, position, jpeg)
    assert verdicts == [verdict for _, verdict in wanted]


async def test_a_picture_that_cannot_be_read_is_not_the_users_fault(
    checker: FaceChecker, logged: list[MutableMapping[str, Any]]
) -> None:
    with pytest.raises(FaceCheckUnavailable):
        await checker.check(photos.not_an_image(), 100, 100)
    assert [event["log_level"] for event in logged] == ["error"]


# --- The rule


def test_a_smaller_face_counts_from_a_quarter_of_the_main_ones_area() -> None:
    main = FaceBox(100, 100, 200, 200)
    assert judge(main, [FaceBox(600, 0, 99, 100)] * 3, 1000, 800) == FaceVerdict.ONE
    assert judge(main, [FaceBox(600, 0, 100, 100)], 1000, 800) == FaceVerdict.SEVERAL
    assert judge(main, [FaceBox(600, 0, 300, 300)], 1000, 800) == FaceVerdict.SEVERAL


def test_the_main_face_must_take_a_twentieth_of_the_longest_side() -> None:
    assert judge(FaceBox(0, 0, 50, 60), [], 800, 1000) == FaceVerdict.ONE
    assert judge(FaceBox(0, 0, 49, 60), [], 800, 1000) == FaceVerdict.TOO_SMALL
    assert judge(FaceBox(0, 0, 49, 60), [FaceBox(90, 0, 49, 60)], 800, 1000) == FaceVerdict.SEVERAL


def test_faces_that_nobody_is_sure_of_are_none() -> None:
    assert judge(None, [FaceBox(0, 0, 300, 300)], 800, 1000) == FaceVerdict.NONE


def test_the_settings_choose_the_adapter(offline_settings: Settings, azure_settings: Settings) -> None:
    assert isinstance(open_face_checker(offline_settings), LocalFaceChecker)
    assert isinstance(open_face_checker(azure_settings), AzureFaceChecker)


# --- Azure: what is asked


async def test_azure_is_asked_for_rectangles_only(azure: Azure, azure_checker: AzureFaceChecker) -> None:
    await check(azure_checker, photos.one_face())
    (call,) = azure.calls()
    assert call["path"] == "/face/v1.2/detect"
    assert call["bytes"] == len(photos.one_face())
    assert call["query"] == {
        "detectionModel": "detection_03",
        "recognitionModel": "recognition_04",
        "returnFaceId": "false",
    }


async def test_azure_is_asked_directly_whatever_proxy_the_environment_names(
    azure_checker: AzureFaceChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setitem(os.environ, name, "http://127.0.0.1:1")
    monkeypatch.setitem(os.environ, "NO_PROXY", "")
    monkeypatch.setitem(os.environ, "no_proxy", "")
    assert await check(azure_checker, photos.one_face()) == FaceVerdict.ONE


async def test_sizes_that_azure_does_not_take_are_not_sent(azure: Azure, azure_checker: AzureFaceChecker) -> None:
    small = BytesIO()
    Image.new("RGB", (8, 8)).save(small, "JPEG")
    assert await azure_checker.check(small.getvalue(), 8, 8) == FaceVerdict.NONE
    with pytest.raises(FaceCheckUnavailable):
        await azure_checker.check(bytes(LARGEST_BYTES + 1), 2048, 2048)
    assert azure.calls() == []


async def test_the_largest_face_is_the_main_one(azure: Azure, azure_checker: AzureFaceChecker) -> None:
    azure.dial(faces=[{"top": 0, "left": 0, "width": side, "height": side} for side in (40, 200)])
    assert await check(azure_checker, photos.one_face()) == FaceVerdict.ONE


# --- Azure: what goes wrong


@pytest.mark.parametrize("fault", ["500", "502", "503", "html_503", "drop"])
async def test_a_passing_fault_is_asked_once_more(azure: Azure, azure_checker: AzureFaceChecker, fault: str) -> None:
    azure.dial(faults=[fault])
    assert await check(azure_checker, photos.one_face()) == FaceVerdict.ONE
    assert len(azure.calls()) == 2


@pytest.mark.parametrize("fault", ["500", "drop"])
async def test_a_lasting_fault_is_asked_no_more_than_twice(
    azure: Azure, azure_checker: AzureFaceChecker, fault: str
) -> None:
    azure.dial(faults=[fault] * 5)
    with pytest.raises(FaceCheckUnavailable) as refusal:
        await check(azure_checker, photos.one_face())
    assert refusal.value.details["retry_after_seconds"] == 10
    assert len(azure.calls()) == 2


@pytest.mark.parametrize(
    ("fault", "level"),
    [
        ("400", "error"),
        ("403", "error"),
        ("redirect", "error"),
        ("not_json", "warning"),
        ("not_a_list", "warning"),
    ],
)
async def test_an_answer_that_will_not_change_is_asked_once(
    azure: Azure, azure_checker: AzureFaceChecker, logged: list[MutableMapping[str, Any]], fault: str, level: str
) -> None:
    azure.dial(faults=[fault], retry_after="1")
    with pytest.raises(FaceCheckUnavailable):
        await check(azure_checker, photos.one_face())
    assert len(azure.calls()) == 1
    assert [event["log_level"] for event in logged] == [level]


async def test_a_wrong_key_says_what_to_do_and_stays_out_of_the_log(
    azure: Azure, azure_settings: Settings, logged: list[MutableMapping[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    key = "fedcba9876543210fedcba9876543210"
    checker = AzureFaceChecker(azure_settings.model_copy(update={"azure_face_api_key": SecretStr(key)}))
    # The SDK's logger by name: an application made by an earlier test has quietened it.
    with caplog.at_level(logging.DEBUG, logger="azure"), pytest.raises(FaceCheckUnavailable):
        await check(checker, photos.one_face())
    await checker.close()
    assert [(event["event"], event["log_level"], event["status"]) for event in logged] == [
        ("face_check.denied", "error", 401)
    ]
    assert "AZURE_FACE_API_KEY" in logged[0]["advice"]
    assert caplog.text, "the SDK's own records are looked at too"
    assert key not in str(logged) + caplog.text
    assert len(azure.calls()) == 1


async def test_a_short_retry_after_is_waited_for(azure: Azure, azure_checker: AzureFaceChecker) -> None:
    azure.dial(faults=["429"], retry_after="1")
    assert await check(azure_checker, photos.one_face()) == FaceVerdict.ONE
    assert len(azure.calls()) == 2


@pytest.mark.parametrize(("retry_after", "told"), [("30", 30), (None, 10), ("Sun, 22 Nov 2026 10:00:00 GMT", 10)])
async def test_a_longer_or_missing_retry_after_is_handed_on(
    azure: Azure, azure_checker: AzureFaceChecker, retry_after: str | None, told: int
) -> None:
    azure.dial(faults=["429"], retry_after=retry_after)
    with pytest.raises(FaceCheckUnavailable) as refusal:
        await check(azure_checker, photos.one_face())
    assert refusal.value.details["retry_after_seconds"] == told
    assert len(azure.calls()) == 1


@pytest.mark.parametrize("in_header", [True, False])
async def test_the_free_tiers_limit_is_understood(
    azure: Azure, azure_checker: AzureFaceChecker, in_header: bool
) -> None:
    azure.dial(calls_per_minute=1, retry_after_header=in_header)
    await check(azure_checker, photos.one_face())
    with pytest.raises(FaceCheckUnavailable) as refusal:
        await check(azure_checker, photos.one_face())
    assert 10 < int(str(refusal.value.details["retry_after_seconds"])) <= 60


@pytest.mark.parametrize("fault", ["hang", "drip"])
async def test_a_silent_or_endless_answer_ends_within_twice_the_timeout(
    azure: Azure, azure_settings: Settings, fault: str
) -> None:
    azure.dial(faults=[fault] * 5)
    checker = AzureFaceChecker(azure_settings.model_copy(update={"azure_face_timeout_seconds": 0.5}))
    with anyio.fail_after(10), pytest.raises(FaceCheckUnavailable):  # the SDK's own default is 300 s
        await check(checker, photos.one_face())
    await checker.close()
    assert len(azure.calls()) == 1


async def test_nobody_listening_is_unavailable(azure_settings: Settings) -> None:
    checker = AzureFaceChecker(azure_settings.model_copy(update={"azure_face_endpoint": "http://127.0.0.1:1"}))
    with pytest.raises(FaceCheckUnavailable):
        await check(checker, photos.one_face())
    await checker.close()
