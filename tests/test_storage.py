"""One suite over every adapter of the storage port, then what is special to each."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit
from uuid import uuid4

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from shared.disk_storage import INTERRUPTED_AFTER_SECONDS, DiskStorage
from shared.errors import StorageUnavailable
from shared.s3_storage import S3Storage
from shared.settings import Settings
from shared.storage import ObjectNotFound, ObjectStorage, attachment, open_storage

REGION: Final = "ap-northeast-2"
JPEG = b"\xff\xd8\xff\xe0" + b"jpeg" * 300
PNG = b"\x89PNG\r\n\x1a\n" + b"png" * 300
WEBP = b"RIFF\x00\x00\x00\x00WEBPVP8 " + b"webp" * 300


def s3_settings(endpoint_url: str | None, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "database_url": "postgresql://nowhere/none",
        "redis_url": "redis://nowhere",
        "storage": "s3",
        "s3_bucket_name": f"photos-{uuid4()}",
        "s3_endpoint_url": endpoint_url,
        "aws_region": REGION,
        "aws_access_key_id": "test-key",
        "aws_secret_access_key": "test-secret",
        "media_url_seconds": 300,
    }
    return Settings(_env_file=None, **values | changes)


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def bucket(s3_url: str) -> S3Storage:
    name = f"photos-{uuid4()}"
    client = boto3.client(
        "s3", endpoint_url=s3_url, region_name=REGION, aws_access_key_id="k", aws_secret_access_key="s"
    )
    client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    client.close()
    return S3Storage(s3_settings(s3_url, s3_bucket_name=name))


@pytest.fixture
def s3(bucket: S3Storage) -> S3Storage:
    bucket.delete([info.key for info in bucket.list("")])
    return bucket


@pytest.fixture
def disk(tmp_path: Path) -> DiskStorage:
    return DiskStorage(tmp_path / "objects")


@pytest.fixture(params=["disk", "s3"])
def storage(request: pytest.FixtureRequest) -> ObjectStorage:
    found: ObjectStorage = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(JPEG, "image/jpeg"), (PNG, "image/png"), (WEBP, "image/webp"), (b"", "application/octet-stream")],
)
def test_what_was_put_comes_back_with_its_type(storage: ObjectStorage, body: bytes, content_type: str) -> None:
    storage.put("photos/a/0", body, content_type)
    found = storage.get("photos/a/0")
    assert (found.body, found.content_type) == (body, content_type)


def test_a_second_put_replaces_the_first(storage: ObjectStorage) -> None:
    storage.put("photos/a/0", JPEG, "image/jpeg")
    storage.put("photos/a/0", PNG, "image/png")
    found = storage.get("photos/a/0")
    assert (found.body, found.content_type) == (PNG, "image/png")
    assert [info.key for info in storage.list("")] == ["photos/a/0"]


@pytest.mark.parametrize("key", ["photos/missing", "photos/a", "photos/a/0/deeper"])
def test_a_missing_object_is_not_found(storage: ObjectStorage, key: str) -> None:
    storage.put("photos/a/0", JPEG, "image/jpeg")
    with pytest.raises(ObjectNotFound):
        storage.get(key)


def test_delete_removes_what_is_named_and_nothing_else(storage: ObjectStorage) -> None:
    for slot in range(3):
        storage.put(f"photos/a/{slot}", JPEG, "image/jpeg")
    storage.delete(["photos/a/0", "photos/a/2", "photos/a/2", "photos/never", "photos/a", "photos/a/1/deeper"])
    assert [info.key for info in storage.list("photos/")] == ["photos/a/1"]
    storage.delete(["photos/a/0"])
    storage.delete([])
    storage.delete(iter(["photos/a/1"]))
    assert list(storage.list("")) == []
    storage.put("photos/a/0", JPEG, "image/jpeg")
    assert storage.get("photos/a/0").body == JPEG


def test_list_gives_what_starts_with_the_prefix_in_key_order(storage: ObjectStorage) -> None:
    keys = ["photos/b/1", "photos/a/10", "photos/a/2", "photos/a.x/0", "photos/ab/0", "portraits/a", "photos/B/0"]
    for key in keys:
        storage.put(key, JPEG + key.encode(), "image/jpeg")
    now = datetime.now(UTC)
    for prefix in ("", "photos/", "photos/a", "photos/a/", "photos/a/1", "portraits/a", "nothing/", "../"):
        found = list(storage.list(prefix))
        assert [info.key for info in found] == sorted(key for key in keys if key.startswith(prefix)), prefix
        assert [info.size_bytes for info in found] == [len(JPEG) + len(info.key) for info in found]
        assert all(abs(now - info.modified_at) < timedelta(minutes=1) for info in found)


def test_a_list_goes_on_after_any_key(storage: ObjectStorage) -> None:
    keys = sorted(["photos/b/1", "photos/a/10", "photos/a/2", "photos/a.x/0", "photos/ab/0", "portraits/a", "probe"])
    for key in keys:
        storage.put(key, JPEG, "image/jpeg")
    for after in (*keys, "a", "photos", "photos/", "photos/a/1", "photos/a0", "photos/b/1/deeper", "q"):
        assert [info.key for info in storage.list("", after)] == [key for key in keys if key > after], after
    assert [info.key for info in storage.list("photos/a", "photos/a/10")] == ["photos/a/2", "photos/ab/0"]


def test_many_objects_are_listed_and_deleted_whole(storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.s3_storage.DELETE_BATCH_KEYS", 7)
    keys = [f"photos/{number:03}" for number in range(30)]
    for key in keys:
        storage.put(key, JPEG, "image/jpeg")
    assert [info.key for info in storage.list("photos/")] == keys
    storage.delete(keys)
    assert list(storage.list("")) == []


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "..", "../a", "a/../b", "a//b", "a/", "a/.hidden", "./a", "a\x00b", "사진", "a" * 129, "a\n"],
)
def test_a_key_that_breaks_the_rule_is_refused_everywhere(storage: ObjectStorage, key: str) -> None:
    with pytest.raises(ValueError, match="not a storage key"):
        storage.put(key, JPEG, "image/jpeg")
    with pytest.raises(ValueError, match="not a storage key"):
        storage.get(key)
    with pytest.raises(ValueError, match="not a storage key"):
        storage.delete([key])
    with pytest.raises(ValueError, match="not a storage key"):
        storage.signed_url(key)


def test_concurrent_puts_of_one_key_never_show_a_torn_object(storage: ObjectStorage) -> None:
    bodies = [JPEG + bytes([writer]) * (50_000 + 10_000 * writer) for writer in range(4)]
    storage.put("photos/a/0", bodies[0], "image/jpeg")
    writing = threading.Event()
    writing.set()

    def write(body: bytes) -> None:
        for _ in range(10):
            storage.put("photos/a/0", body, "image/jpeg")

    def read() -> list[bytes]:
        seen = []
        while writing.is_set():
            seen.append(storage.get("photos/a/0").body)
        return seen

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for done in [pool.submit(write, body) for body in bodies]:
                done.result()
        finally:
            writing.clear()
        seen = [body for reader in readers for body in reader.result()]
    assert seen
    assert set(seen) <= set(bodies)
    assert storage.get("photos/a/0").body in bodies


def test_puts_survive_deletes_beside_them(storage: ObjectStorage) -> None:
    def churn(slot: int) -> None:
        for _ in range(15):
            storage.put(f"photos/a/{slot}", JPEG, "image/jpeg")
            assert storage.get(f"photos/a/{slot}").body == JPEG
            storage.delete([f"photos/a/{slot}"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(churn, range(4)))
    assert list(storage.list("")) == []


def test_probe_leaves_nothing_behind(storage: ObjectStorage) -> None:
    storage.probe()
    assert list(storage.list("")) == []


# --- The disk alone


def test_the_disk_has_no_addresses(disk: DiskStorage) -> None:
    disk.put("photos/a/0", JPEG, "image/jpeg")
    assert disk.signed_url("photos/a/0", download_name="wedding.jpg") is None
    assert disk.public_origin is None


def test_files_are_private_and_empty_directories_go(disk: DiskStorage, tmp_path: Path) -> None:
    disk.put("photos/a/0", JPEG, "image/jpeg")
    assert (tmp_path / "objects").stat().st_mode & 0o077 == 0
    path = tmp_path / "objects" / "photos" / "a" / "0"
    assert path.read_bytes() == JPEG
    assert path.stat().st_mode & 0o077 == 0
    disk.delete(["photos/a/0"])
    assert not (tmp_path / "objects" / "photos").exists()


def test_a_failed_write_leaves_the_old_object_and_no_scrap(
    disk: DiskStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.put("photos/a/0", JPEG, "image/jpeg")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageUnavailable) as refusal:
            disk.put("photos/a/0", PNG, "image/png")
    assert refusal.value.details["retry_after_seconds"]
    assert disk.get("photos/a/0").body == JPEG
    assert [path.name for path in (tmp_path / "objects").rglob("*") if path.is_file()] == ["0"]


def test_what_a_dead_writer_left_is_forgotten_and_never_listed(tmp_path: Path) -> None:
    incoming = tmp_path / "objects" / ".incoming"
    incoming.mkdir(parents=True)
    old, fresh = incoming / "old", incoming / "fresh"
    old.write_bytes(JPEG)
    fresh.write_bytes(JPEG)
    long_ago = time.time() - INTERRUPTED_AFTER_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    disk = DiskStorage(tmp_path / "objects")
    assert list(disk.list("")) == []
    assert [path.name for path in incoming.iterdir()] == ["fresh"]


def test_a_disk_that_cannot_be_used_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "objects").write_bytes(b"a file where the directory should be")
    disk = DiskStorage(tmp_path / "objects")
    with pytest.raises(StorageUnavailable):
        disk.put("photos/a/0", JPEG, "image/jpeg")
    with pytest.raises(StorageUnavailable):
        list(disk.list(""))


# --- S3 alone


def test_a_signed_address_is_served_over_plain_http_and_an_unsigned_one_is_not(s3: S3Storage) -> None:
    s3.put("photos/a/0", JPEG, "image/jpeg")
    url = s3.signed_url("photos/a/0")
    assert url is not None
    answer = httpx.get(url, trust_env=False)
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, JPEG, "image/jpeg")
    assert url.startswith(f"{s3.public_origin}/")
    assert httpx.get(url.partition("?")[0], trust_env=False).status_code == 403


def test_a_download_name_reaches_the_browser(s3: S3Storage) -> None:
    s3.put("photos/a/0", JPEG, "image/jpeg")
    url = s3.signed_url("photos/a/0", download_name="웨딩 사진.jpg")
    assert url is not None
    disposition = httpx.get(url, trust_env=False).headers["content-disposition"]
    assert disposition == f"attachment; filename=\"__ __.jpg\"; filename*=UTF-8''{quote('웨딩 사진.jpg')}"


def test_a_signed_address_says_how_long_and_for_what() -> None:
    storage = S3Storage(s3_settings(None, s3_bucket_name="bkt", media_url_seconds=123))
    url = storage.signed_url("photos/a/0")
    assert url is not None
    assert storage.public_origin == f"https://bkt.s3.{REGION}.amazonaws.com"
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    assert (parts.scheme, parts.netloc, parts.path) == ("https", f"bkt.s3.{REGION}.amazonaws.com", "/photos/a/0")
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Expires"] == ["123"]
    assert query["X-Amz-SignedHeaders"] == ["host"]
    assert query["X-Amz-Credential"][0].startswith("test-key/")
    assert query["X-Amz-Credential"][0].endswith(f"/{REGION}/s3/aws4_request")
    assert "test-secret" not in url


def test_the_environment_cannot_send_us_to_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    url = S3Storage(s3_settings(None, s3_bucket_name="bkt")).signed_url("photos/a/0")
    assert url is not None
    assert urlsplit(url).netloc == f"bkt.s3.{REGION}.amazonaws.com"


def test_a_public_base_url_gives_plain_addresses() -> None:
    storage = S3Storage(s3_settings(None, s3_public_base_url="https://cdn.example.com/x/"))
    assert storage.signed_url("photos/a/0", download_name="a.jpg") == "https://cdn.example.com/x/photos/a/0"
    assert storage.public_origin == "https://cdn.example.com"


def test_an_object_that_cannot_be_deleted_is_reported(s3: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put("photos/a/0", JPEG, "image/jpeg")
    answer = {"Errors": [{"Key": "photos/a/0", "Code": "AccessDenied", "Message": "no"}]}
    monkeypatch.setattr(s3._client, "delete_objects", lambda **_: answer)
    with pytest.raises(StorageUnavailable) as refusal:
        s3.delete(["photos/a/0", "photos/a/1"])
    assert "photos/a/0: AccessDenied" in str(refusal.value.__cause__)


def test_a_bucket_that_is_not_there_is_unavailable_not_missing(s3_url: str) -> None:
    storage = S3Storage(s3_settings(s3_url))
    with pytest.raises(StorageUnavailable):
        storage.get("photos/a/0")
    with pytest.raises(StorageUnavailable):
        list(storage.list(""))
    with pytest.raises(StorageUnavailable):
        storage.probe()


def test_an_unreachable_server_is_unavailable_within_a_bounded_time() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: every connection is refused
        storage = S3Storage(s3_settings(f"http://127.0.0.1:{closed.getsockname()[1]}"))
        started = time.monotonic()
        for call in (
            lambda: storage.put("photos/a/0", JPEG, "image/jpeg"),
            lambda: storage.get("photos/a/0"),
            lambda: storage.delete(["photos/a/0"]),
            lambda: list(storage.list("")),
            storage.probe,
        ):
            with pytest.raises(StorageUnavailable) as refusal:
                call()
            assert refusal.value.details == {"retry_after_seconds": 5}
        assert time.monotonic() - started < 20


def test_an_answer_cut_short_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        storage = S3Storage(s3_settings(f"http://127.0.0.1:{server.getsockname()[1]}"))

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 1000\r\n\r\nhalf")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(StorageUnavailable):
            storage.get("photos/a/0")
        thread.join(10)
        assert not thread.is_alive()


def test_a_deleted_object_is_gone_with_all_its_versions(s3: S3Storage) -> None:
    name, client = s3._bucket, s3._client
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    try:
        s3.put("photos/a/0", JPEG, "image/jpeg")
        s3.put("photos/a/0", PNG, "image/png")
        s3.put("photos/a/00", JPEG, "image/jpeg")  # a longer key is another object
        client.delete_object(Bucket=name, Key="photos/a/0")  # by hand: hidden, and still there
        s3.delete(["photos/a/0", "photos/never"])
        left = client.list_object_versions(Bucket=name)
        versions = [*left.get("Versions", []), *left.get("DeleteMarkers", [])]
        assert {entry["Key"] for entry in versions} == {"photos/a/00"}
        s3.delete(["photos/a/00"])
        left = client.list_object_versions(Bucket=name)
        assert left.get("Versions", []) + left.get("DeleteMarkers", []) == []  # type: ignore[operator]
    finally:
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Suspended"})


def test_without_versions_a_delete_is_one_call(s3: S3Storage) -> None:
    calls: list[str] = []
    s3._client.meta.events.register("before-call.s3", lambda model, **_: calls.append(model.name))
    s3.put("photos/a/0", JPEG, "image/jpeg")
    s3.delete(["photos/a/0", "photos/a/1"])
    assert calls == ["PutObject", "DeleteObjects"]


def test_encryption_is_asked_for_with_every_put(s3: S3Storage, s3_url: str) -> None:
    asking = s3_settings(s3_url, s3_bucket_name=s3._bucket, s3_encryption="aws:kms", s3_kms_key_id="alias/photos")
    S3Storage(asking).put("photos/a/0", JPEG, "image/jpeg")
    head = s3._client.head_object(Bucket=s3._bucket, Key="photos/a/0")
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "alias/photos")
    assert s3.get("photos/a/0").body == JPEG
    with pytest.raises(ValueError, match="S3_KMS_KEY_ID needs"):
        s3_settings(s3_url, s3_kms_key_id="alias/photos")


# --- What both share


@pytest.mark.parametrize(
    ("name", "plain", "encoded"),
    [
        ("wedding 1.jpg", "wedding 1.jpg", "wedding%201.jpg"),
        ('a"b\\c/d\r\nSet-Cookie: x', "abcdSet-Cookie: x", "abcdSet-Cookie%3A%20x"),
        ("신부.jpg", "__.jpg", "%EC%8B%A0%EB%B6%80.jpg"),
        ("\r\n", "photo", "photo"),
    ],
)
def test_a_download_name_cannot_break_the_header(name: str, plain: str, encoded: str) -> None:
    assert attachment(name) == f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"


def test_the_settings_name_the_adapter(tmp_path: Path) -> None:
    assert isinstance(open_storage(s3_settings(None)), S3Storage)
    assert isinstance(open_storage(s3_settings(None, storage="disk", data_dir=tmp_path)), DiskStorage)
