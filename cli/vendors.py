"""Doubles of the vendors as processes, so that `cuggu demo --vendors` runs the real clients with no account.

The doubles of Replicate and Azure Face belong to the tests; S3 is moto's server.
"""

import importlib
import json
import secrets
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from cli.processes import StartFailed, end_child, free_port, start_child, tail
from cli.readiness import answers

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CHECKOUT = Path(__file__).parents[1]
BUCKET = "cuggu-demo"
REGION: Final = "ap-northeast-2"
START_SECONDS = 60
STOP_SECONDS = 5
# Quicker than the vendor, and slow enough to be seen running, polled and told of.
PREDICTION = ("--start-seconds", "0.3", "--predict-seconds", "2", "--predict-spread", "0.3")


@dataclass(frozen=True, slots=True)
class Vendors:
    """The running doubles.

    Attributes:
        environment: the settings that lead to them.
    """

    environment: dict[str, str]
    replicate_url: str
    azure_url: str
    s3: "S3Client"

    def proof(self, job_id: UUID, database_url: str) -> dict[str, Any]:
        """What each side wrote down about the job: the doubles' own books, the bucket, and our table of attempts."""
        import httpx  # noqa: PLC0415

        def books(url: str) -> Any:
            return httpx.get(f"{url}/_books", timeout=10, trust_env=False).raise_for_status().json()

        replicate = books(self.replicate_url)
        listed = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"photos/{job_id}/").get("Contents", [])
        seen = ("id", "model", "seed", "status", "created_at", "completed_at", "cost_usd")
        return {
            "replicate": {
                "predictions": [{name: run[name] for name in seen} for run in replicate["predictions"]],
                "webhooks": [
                    {"prediction": sent["prediction"], "status": sent["status"]} for sent in replicate["webhooks"]
                ],
                "refused": len(replicate["refused"]),
            },
            "azure": {"calls": len(books(self.azure_url)["calls"])},
            "s3": {
                "bucket": BUCKET,
                "objects": [{"key": entry["Key"], "size_bytes": entry["Size"]} for entry in listed],
            },
            "attempts": _attempts(job_id, database_url),
        }


@contextmanager
def doubled_vendors(log_dir: Path, *, replicate_options: Sequence[str] = PREDICTION) -> Iterator[Vendors]:
    """Start the three doubles, and end them afterwards. Use it from the main thread. Raises StartFailed."""
    start_double = _start_double()
    token, azure_key = f"r8_{secrets.token_hex(18)}", secrets.token_hex(16)
    webhook_secret = f"whsec_{b64encode(secrets.token_bytes(24)).decode()}"
    with ExitStack() as running:
        try:
            replicate = running.enter_context(
                start_double(
                    "tests.doubles.replicate_double",
                    "--token",
                    token,
                    "--webhook-secret",
                    webhook_secret,
                    *replicate_options,
                )
            )
            azure = running.enter_context(start_double("tests.doubles.azure_double", "--key", azure_key))
        except RuntimeError as error:
            raise StartFailed(str(error)) from None
        s3_url = running.enter_context(_moto(log_dir / "moto.log"))
        key_id, secret_key = f"AKIA{secrets.token_hex(8).upper()}", secrets.token_hex(20)
        yield Vendors(
            environment={
                "FACE_CHECKER": "azure",
                "AZURE_FACE_ENDPOINT": azure,
                "AZURE_FACE_API_KEY": azure_key,
                "AZURE_FACE_CALLS_PER_MINUTE": "600",  # its double is of the paid tier
                "FACE_VERDICT_SECONDS": "1",  # a second run asks Azure again, and its books show it
                "STORAGE": "s3",
                "S3_BUCKET_NAME": BUCKET,
                "S3_ENDPOINT_URL": s3_url,
                "AWS_REGION": REGION,
                "AWS_ACCESS_KEY_ID": key_id,
                "AWS_SECRET_ACCESS_KEY": secret_key,
                "PREDICTOR": "replicate",
                "REPLICATE_API_TOKEN": token,
                "REPLICATE_BASE_URL": replicate,
                "REPLICATE_WEBHOOK_SECRETS": json.dumps([webhook_secret]),
            },
            replicate_url=replicate,
            azure_url=azure,
            s3=_bucket(s3_url, key_id, secret_key),
        )


def _start_double() -> Callable[..., AbstractContextManager[str]]:
    if not (CHECKOUT / "tests" / "doubles" / "processes.py").is_file():
        raise StartFailed("The vendors' doubles are part of the source checkout, not of the installed package.")
    module = importlib.import_module("tests.doubles.processes")
    start: Callable[..., AbstractContextManager[str]] = module.start_double
    return start


@contextmanager
def _moto(log: Path) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = start_child([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], log=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{url}/moto-api/"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise StartFailed(f"The S3 server did not start. The end of {log}:\n{tail(log)}")
            time.sleep(0.1)
        yield url
    finally:
        end_child(process, SIGTERM, STOP_SECONDS)


def _bucket(url: str, key_id: str, secret_key: str) -> "S3Client":
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    client = boto3.session.Session().client(
        "s3",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret_key,
        config=Config(s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    return client


def _attempts(job_id: UUID, database_url: str) -> list[dict[str, Any]]:
    from sqlalchemy import select  # noqa: PLC0415

    from shared.database import make_engine  # noqa: PLC0415
    from shared.models import Attempt, Photo  # noqa: PLC0415

    engine = make_engine(database_url, transaction_pooling=False, pool_size=1)
    try:
        with engine.connect() as connection:
            rows = connection.execute(
                select(
                    Photo.slot,
                    Attempt.number,
                    Attempt.provider,
                    Attempt.model,
                    Attempt.seed,
                    Attempt.prediction_id,
                    Attempt.outcome,
                    Attempt.cost,
                    Attempt.currency,
                    Attempt.provider_seconds,
                )
                .join(Photo, Photo.id == Attempt.photo_id)
                .where(Photo.job_id == job_id)
                .order_by(Photo.slot, Attempt.number)
            ).all()
    finally:
        engine.dispose()
    return [{**row._mapping, "outcome": row.outcome.value, "cost": str(row.cost)} for row in rows]
