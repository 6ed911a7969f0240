"""Objects in a private S3 bucket, or in any server that speaks S3.

The credentials need s3:PutObject, s3:GetObject and s3:DeleteObject on the objects and s3:ListBucket on the bucket:
without the last, S3 answers 403 instead of 404 for a missing key. A bucket that keeps versions needs
s3:DeleteObjectVersion and s3:ListBucketVersions, too.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from shared.errors import StorageUnavailable
from shared.settings import Settings
from shared.storage import ObjectInfo, ObjectNotFound, StoredObject, attachment, checked_key, write_read_delete

if TYPE_CHECKING:  # the stubs are a tool, and not installed in production
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import DeleteObjectsOutputTypeDef, ObjectIdentifierTypeDef

RETRY_AFTER_SECONDS = 5
DELETE_BATCH_KEYS = 1000  # the most that one DeleteObjects takes (S3 API reference)


class S3Storage:
    """ObjectStorage over boto3.

    A call takes at most three attempts, each with 3 s to connect and 10 s of silence between reads.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.s3_bucket_name is None:
            raise ValueError("STORAGE=s3 needs S3_BUCKET_NAME")
        self._bucket = settings.s3_bucket_name
        self._public_base_url = settings.s3_public_base_url
        self._hosts_per_bucket = settings.s3_endpoint_url is None  # as `_config` has it
        self._url_seconds = settings.media_url_seconds
        self._encryption = _encryption(settings)
        self._client = s3_client(settings)

    def put(self, key: str, body: bytes, content_type: str) -> None:
        checked_key(key)
        with _refused_when_s3_fails():
            self._client.put_object(
                Bucket=self._bucket, Key=key, Body=body, ContentType=content_type, **self._encryption
            )

    def get(self, key: str) -> StoredObject:
        checked_key(key)
        with _refused_when_s3_fails():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=key)
            except self._client.exceptions.NoSuchKey as error:
                raise ObjectNotFound(key) from error
            with answer["Body"] as stream:
                return StoredObject(stream.read(), answer["ContentType"])

    def delete(self, keys: Iterable[str]) -> None:
        wanted = iter(dict.fromkeys(checked_key(key) for key in keys))
        left: list[str] = []
        while batch := list(islice(wanted, DELETE_BATCH_KEYS)):
            left += self._delete(batch)
        if left:
            raise StorageUnavailable(retry_after_seconds=RETRY_AFTER_SECONDS) from OSError(f"not deleted: {left}")

    def _delete(self, keys: Sequence[str]) -> list[str]:
        """What could not be deleted, and why.

        In a bucket that keeps versions a delete only puts a marker on top. The answer tells of each marker, so buckets
        without versions cost no further call (S3 API reference, DeleteObjects).
        """
        with _refused_when_s3_fails():
            answer = self._client.delete_objects(
                Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in keys]}
            )
            left = _errors(answer)
            hidden = [deleted["Key"] for deleted in answer.get("Deleted", []) if deleted.get("DeleteMarker")]
            versions = [version for key in hidden for version in self._versions(key)]
            for start in range(0, len(versions), DELETE_BATCH_KEYS):
                batch = versions[start : start + DELETE_BATCH_KEYS]
                left += _errors(self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": batch}))
        return left

    def _versions(self, key: str) -> "Iterator[ObjectIdentifierTypeDef]":
        """Every version and every marker of just this key."""
        listing = self._client.get_paginator("list_object_versions")
        for page in listing.paginate(Bucket=self._bucket, Prefix=key):
            for entry in (*page.get("Versions", []), *page.get("DeleteMarkers", [])):
                if entry["Key"] == key:
                    yield {"Key": key, "VersionId": entry["VersionId"]}

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        listing = self._client.get_paginator("list_objects_v2")
        pages = iter(listing.paginate(Bucket=self._bucket, Prefix=prefix, StartAfter=after))
        while True:
            with _refused_when_s3_fails():
                page = next(pages, None)
            if page is None:
                return
            for entry in page.get("Contents", []):
                yield ObjectInfo(entry["Key"], entry["Size"], entry["LastModified"])

    def signed_url(self, key: str, *, download_name: str | None = None) -> str | None:
        """As the port says. A public base URL (a CDN) gives plain addresses: it does its own signing, if any."""
        checked_key(key)
        if self._public_base_url is not None:
            return f"{self._public_base_url.rstrip('/')}/{quote(key)}"
        wanted = {"Bucket": self._bucket, "Key": key}
        if download_name is not None:
            wanted["ResponseContentDisposition"] = attachment(download_name)
        with _refused_when_s3_fails():  # a role's credentials may have to be renewed over the network
            return self._client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=self._url_seconds)

    @property
    def public_origin(self) -> str:
        address = urlsplit(self._public_base_url or self._client.meta.endpoint_url)
        bucket = f"{self._bucket}." if self._hosts_per_bucket and self._public_base_url is None else ""
        return f"{address.scheme}://{bucket}{address.netloc}"

    def probe(self) -> None:
        write_read_delete(self)


def s3_client(settings: Settings) -> "S3Client":
    """A client of the server and the account that the settings name."""
    key_id, secret = settings.aws_access_key_id, settings.aws_secret_access_key
    # A session of our own: boto3's shared default session must not be used from several threads at once.
    return boto3.session.Session().client(
        "s3",
        region_name=settings.aws_region,
        endpoint_url=settings.s3_endpoint_url,
        aws_access_key_id=key_id.get_secret_value() if key_id and secret else None,
        aws_secret_access_key=secret.get_secret_value() if key_id and secret else None,
        config=_config(settings.s3_endpoint_url),
    )


def _encryption(settings: Settings) -> dict[str, Any]:
    """What every put asks for (S3 API reference, PutObject)."""
    asked: dict[str, Any] = {}
    if settings.s3_encryption is not None:
        asked["ServerSideEncryption"] = settings.s3_encryption
    if settings.s3_kms_key_id is not None:
        asked["SSEKMSKeyId"] = settings.s3_kms_key_id
    return asked


def _errors(answer: "DeleteObjectsOutputTypeDef") -> list[str]:
    return [f"{error.get('Key')}: {error.get('Code')}" for error in answer.get("Errors", [])]


def _config(endpoint_url: str | None) -> Config:
    # AWS: with `auto` a signed address names the global host, which fails on young buckets outside us-east-1.
    # Other servers: host names per bucket are seldom set up, and older ones refuse the newer checksum headers.
    on_aws = endpoint_url is None
    checksums: Literal["when_supported", "when_required"] = "when_supported" if on_aws else "when_required"
    return Config(
        signature_version="s3v4",
        s3={"addressing_style": "virtual" if on_aws else "path"},
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=3,
        read_timeout=10,
        max_pool_connections=25,
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
        # AWS_ENDPOINT_URL in the environment must not overrule our settings. The stubs do not know the option.
        ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]
    )


@contextmanager
def _refused_when_s3_fails() -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError, HTTPError, OSError) as error:
        raise StorageUnavailable(retry_after_seconds=RETRY_AFTER_SECONDS) from error
