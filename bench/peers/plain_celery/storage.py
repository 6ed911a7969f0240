"""Pictures in the bucket. boto3 finds AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY by itself."""

from functools import cache
from typing import TYPE_CHECKING

import boto3

from bench.peers.plain_celery import settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@cache
def _s3() -> "S3Client":
    return boto3.client("s3", region_name=settings.AWS_REGION, endpoint_url=settings.S3_ENDPOINT_URL)


def put(key: str, body: bytes) -> None:
    _s3().put_object(Bucket=settings.S3_BUCKET_NAME, Key=key, Body=body, ContentType="image/jpeg")


def address(key: str) -> str:
    """Where anybody can read the picture for an hour."""
    params = {"Bucket": settings.S3_BUCKET_NAME, "Key": key}
    return _s3().generate_presigned_url("get_object", Params=params, ExpiresIn=3600)
