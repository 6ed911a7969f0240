"""What the bucket must be set to: private, encrypted, and a second net under the sweep. Each rule can look and mend.

Facts from the S3 API reference (PutPublicAccessBlock, PutBucketOwnershipControls, PutBucketEncryption, PutBucketCors,
PutBucketLifecycleConfiguration). Rules that others have set beside ours are kept.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from shared.s3_storage import s3_client
from shared.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Ours among the rules of a bucket.
PREFIX = "cuggu-"
# The sweep deletes; a day later, whatever it has missed.
SECOND_NET_DAYS = 1
SECONDS_PER_DAY = 86_400

# S3's words for "nobody has set this".
_UNSET = {
    "NoSuchPublicAccessBlockConfiguration",
    "OwnershipControlsNotFoundError",
    "ServerSideEncryptionConfigurationNotFoundError",
    "NoSuchCORSConfiguration",
    "NoSuchLifecycleConfiguration",
}
# What servers that speak a part of S3 answer to the rest of it.
_UNKNOWN = {"NotImplemented", "MethodNotAllowed", "XNotImplemented"}


class RuleState(Enum):
    KEPT = "ok"
    BROKEN = "missing"
    UNKNOWN = "unknown to this server"


@dataclass(frozen=True, slots=True)
class Rule:
    """`read` gives what is set now, in S3's form, `wanted` what must be, `write` sets it."""

    name: str
    says: str
    read: Callable[[], Any]
    wanted: Callable[[Any], Any]
    write: Callable[[Any], object]

    def state(self) -> RuleState:
        """Raises BucketRefuses."""
        now = self._now()
        if now is _Unknown:
            return RuleState.UNKNOWN
        return RuleState.KEPT if _same(self.wanted(now), now) else RuleState.BROKEN

    def mend(self) -> None:
        """Set what is missing. Raises BucketRefuses."""
        now = self._now()
        if now is _Unknown:
            return
        with_ours = self.wanted(now)
        if not _same(with_ours, now):
            try:
                self.write(with_ours)
            except (ClientError, BotoCoreError) as error:
                raise BucketRefuses(self.name, _why(error)) from error

    def _now(self) -> Any:
        try:
            return self.read()
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            if code in _UNSET:
                return None
            if code in _UNKNOWN:
                return _Unknown
            raise BucketRefuses(self.name, _why(error)) from error
        except BotoCoreError as error:
            raise BucketRefuses(self.name, _why(error)) from error


class BucketRefuses(Exception):
    """(which rule, why): the bucket does not exist, or the credentials may not look at it or change it."""


class _Unknown:
    """The server does not know the whole subject."""


def bucket_rules(settings: Settings) -> list[Rule]:
    """The rules of the settings' bucket. Needs STORAGE=s3."""
    client, bucket = s3_client(settings), settings.s3_bucket_name
    if bucket is None:
        raise ValueError("STORAGE=s3 needs S3_BUCKET_NAME")
    return [
        _public_access(client, bucket),
        _ownership(client, bucket),
        _encryption(client, bucket, settings),
        _cors(client, bucket, settings),
        _lifecycle(client, bucket, settings),
    ]


def _public_access(client: "S3Client", bucket: str) -> Rule:
    names = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    everything: Any = dict.fromkeys(names, True)
    return Rule(
        "public access",
        "blocked, by lists and by policies",
        lambda: client.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"],
        lambda now: everything,
        lambda rule: client.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=rule),
    )


def _ownership(client: "S3Client", bucket: str) -> Rule:
    return Rule(
        "ownership",
        "the bucket's owner owns every object, and access lists mean nothing",
        lambda: client.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"],
        lambda now: [{"ObjectOwnership": "BucketOwnerEnforced"}],
        lambda rules: client.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls={"Rules": rules}),
    )


def _encryption(client: "S3Client", bucket: str, settings: Settings) -> Rule:
    wanted: dict[str, str] = {"SSEAlgorithm": settings.s3_encryption or "AES256"}
    if settings.s3_kms_key_id is not None:
        wanted["KMSMasterKeyID"] = settings.s3_kms_key_id

    def with_ours(now: Any) -> Any:
        set_now = now[0].get("ApplyServerSideEncryptionByDefault", {}) if now else {}
        # Where the settings ask for nothing, a key that somebody has chosen is as good as S3's own.
        enough = set_now == wanted or (settings.s3_encryption is None and "SSEAlgorithm" in set_now)
        return now if enough else [{"ApplyServerSideEncryptionByDefault": wanted}]

    return Rule(
        "encryption",
        f"by default, with {wanted['SSEAlgorithm']}",
        lambda: client.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"],
        with_ours,
        lambda rules: client.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": rules}),
    )


def _cors(client: "S3Client", bucket: str, settings: Settings) -> Rule:
    address = urlsplit(settings.public_url)
    origin = f"{address.scheme}://{address.netloc}"
    ours = {
        "ID": f"{PREFIX}page",
        "AllowedOrigins": [origin],
        "AllowedMethods": ["GET", "HEAD"],
        "MaxAgeSeconds": 3600,
    }
    return Rule(
        "cors",
        f"pages of {origin} may read what a signed address names",
        lambda: client.get_bucket_cors(Bucket=bucket)["CORSRules"],
        lambda now: [*_of_others(now), ours],
        lambda rules: client.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": rules}),
    )


def _lifecycle(client: "S3Client", bucket: str, settings: Settings) -> Rule:
    ours = list(_lifecycle_rules(settings))
    return Rule(
        "lifecycle",
        f"portraits go after {_portrait_days(settings)} days and photos after {_photo_days(settings)}, whatever "
        "happens; older versions and broken uploads after one",
        lambda: client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"],
        lambda now: [*_of_others(now), *ours],
        lambda rules: client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules}),
    )


def _lifecycle_rules(settings: Settings) -> Iterator[dict[str, Any]]:
    folders = {
        "portraits": _portrait_days(settings),
        "photos": _photo_days(settings),
        "thumbnails": _photo_days(settings),
    }
    for folder, days in folders.items():
        yield _rule(
            folder,
            folder,
            Expiration={"Days": days},
            NoncurrentVersionExpiration={"NoncurrentDays": 1},
            AbortIncompleteMultipartUpload={"DaysAfterInitiation": 1},
        )
        # A rule of its own: S3 takes one word about expiration in each.
        yield _rule(f"{folder}-markers", folder, Expiration={"ExpiredObjectDeleteMarker": True})


def _rule(name: str, folder: str, **what: Any) -> dict[str, Any]:
    """Of that folder alone: what else lies in the bucket is nobody's business here."""
    return {"ID": f"{PREFIX}{name}", "Filter": {"Prefix": f"{folder}/"}, "Status": "Enabled", **what}


def _portrait_days(settings: Settings) -> int:
    kept = settings.portrait_retention_seconds + settings.job_deadline_seconds
    return math.ceil(kept / SECONDS_PER_DAY) + SECOND_NET_DAYS


def _photo_days(settings: Settings) -> int:
    return math.ceil(settings.photo_retention_days) + SECOND_NET_DAYS


def _of_others(rules: Any) -> list[Any]:
    return [rule for rule in rules or [] if not str(rule.get("ID", "")).startswith(PREFIX)]


def _same(wanted: Any, now: Any) -> bool:
    """Whether they say the same; rules with an id mean the same in any order."""
    return bool(_by_id(wanted) == _by_id(now))


def _by_id(rules: Any) -> Any:
    if isinstance(rules, list) and all("ID" in rule for rule in rules):
        return sorted(rules, key=lambda rule: str(rule["ID"]))
    return rules


def _why(error: Exception) -> str:
    if isinstance(error, ClientError):
        told = error.response.get("Error", {})
        return f"{told.get('Code', 'refused')}: {told.get('Message', '')}".rstrip(": .")
    return type(error).__name__
