"""The double of Azure Face is as strict as the vendor: what a careless adapter would get wrong, it refuses."""

from collections.abc import Iterator

import httpx
import pytest

from tests import photos
from tests.doubles import azure_double
from tests.doubles.processes import start_double

SOUND = {"returnFaceId": "false", "detectionModel": "detection_03", "recognitionModel": "recognition_04"}


@pytest.fixture(scope="module")
def running_client() -> Iterator[httpx.Client]:
    headers = {"Ocp-Apim-Subscription-Key": azure_double.KEY, "Content-Type": "application/octet-stream"}
    with (
        start_double("tests.doubles.azure_double") as url,
        httpx.Client(base_url=url, headers=headers, trust_env=False) as client,
    ):
        yield client


@pytest.fixture
def client(running_client: httpx.Client) -> httpx.Client:
    running_client.delete("/_books").raise_for_status()
    running_client.post("/_dials", json=azure_double.Dials().model_dump()).raise_for_status()
    return running_client


def detect(client: httpx.Client, body: bytes, *, path: str = "/face/v1.2/detect", **query: str) -> httpx.Response:
    return client.post(path, params=SOUND | query, content=body)


def code_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


@pytest.mark.parametrize("version", ["v1.2", "v1.2-preview.1"])
def test_faces_come_the_largest_first(client: httpx.Client, version: str) -> None:
    faces = detect(client, photos.background_face(), path=f"/face/{version}/detect").json()
    areas = [face["faceRectangle"]["width"] * face["faceRectangle"]["height"] for face in faces]
    assert len(areas) == 2
    assert areas == sorted(areas, reverse=True)


def test_no_face_is_an_empty_list(client: httpx.Client) -> None:
    response = detect(client, photos.no_face())
    assert (response.status_code, response.json()) == (200, [])


def test_faces_below_the_smallest_size_are_not_seen(client: httpx.Client) -> None:
    assert len(detect(client, photos.background_face(30)).json()) == 1


@pytest.mark.parametrize("image_format", ["PNG", "GIF", "BMP"])
def test_the_documented_formats_are_taken(client: httpx.Client, image_format: str) -> None:
    assert len(detect(client, photos.one_face_as(image_format)).json()) == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (photos.one_face_as("WEBP"), "InvalidImage"),
        (photos.heic(), "InvalidImage"),
        (photos.truncated(), "InvalidImage"),
        (photos.not_an_image(), "InvalidImage"),
        (photos.one_face()[:1023], "InvalidImageSize"),
        (photos.nearly_ten_megabytes(), "InvalidImageSize"),
    ],
    ids=["webp", "heic", "truncated", "text", "under 1 kB", "over 6 MB"],
)
def test_other_files_are_refused(client: httpx.Client, body: bytes, code: str) -> None:
    assert code_of(detect(client, body)) == (400, code)


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ({"returnFaceId": "true"}, (403, "InvalidRequest")),
        ({"returnFaceId": "maybe"}, (400, "BadArgument")),
        ({"detectionModel": "detection_09"}, (400, "BadArgument")),
        ({"recognitionModel": "recognition_09"}, (400, "BadArgument")),
        ({"detectionModel": "detection_02", "returnFaceAttributes": "blur"}, (400, "BadArgument")),
        ({"detectionModel": "detection_02", "returnFaceLandmarks": "true"}, (400, "BadArgument")),
        ({"returnFaceAttributes": "accessories"}, (400, "BadArgument")),
        ({"returnFaceAttributes": "smile"}, (400, "BadArgument")),
        ({"returnFaceAttributes": "blur"}, (501, "NotDoubled")),
    ],
    ids=str,
)
def test_queries_are_checked(client: httpx.Client, query: dict[str, str], answer: tuple[int, str]) -> None:
    assert code_of(detect(client, photos.one_face(), **query)) == answer


def test_face_ids_are_the_vendors_default(client: httpx.Client) -> None:
    assert code_of(client.post("/face/v1.2/detect", content=photos.one_face())) == (403, "InvalidRequest")


def test_key_path_and_media_type_are_checked(client: httpx.Client) -> None:
    wrong_key = client.post(
        "/face/v1.2/detect", params=SOUND, content=b"x", headers={"Ocp-Apim-Subscription-Key": "0" * 32}
    )
    assert code_of(wrong_key) == (401, "401")
    assert code_of(detect(client, photos.one_face(), path="/face/v9/detect")) == (404, "404")
    assert code_of(detect(client, photos.one_face(), path=f"{client.base_url}//face/v1.2/detect")) == (404, "404")
    for media_type, answer in (
        ("image/jpeg", (415, "UnsupportedMediaType")),
        ("application/json", (400, "InvalidURL")),
    ):
        response = client.post("/face/v1.2/detect", params=SOUND, content=b"{}", headers={"Content-Type": media_type})
        assert code_of(response) == answer


def test_the_free_tier_lets_twenty_in(client: httpx.Client) -> None:
    client.post("/_dials", json={"calls_per_minute": azure_double.F0_CALLS_PER_MINUTE, "faces": []})
    answers = [detect(client, photos.one_face()) for _ in range(21)]
    assert [response.status_code for response in answers] == [200] * 20 + [429]
    assert code_of(answers[-1]) == (429, "429")
    assert 0 < int(answers[-1].headers["Retry-After"]) <= 60
    assert f"retry after {answers[-1].headers['Retry-After']} second" in answers[-1].json()["error"]["message"]


def test_told_what_to_find_it_looks_for_nothing_and_takes_sound_pictures_only(client: httpx.Client) -> None:
    told = {"left": 1, "top": 2, "width": 50, "height": 60}
    client.post("/_dials", json={"faces": [told]})
    assert detect(client, photos.no_face()).json() == [{"faceRectangle": told}]
    assert code_of(detect(client, photos.truncated())) == (400, "InvalidImage")


def test_unknown_dials_are_refused(client: httpx.Client) -> None:
    assert client.post("/_dials", json={"latency": 3}).status_code == 422
