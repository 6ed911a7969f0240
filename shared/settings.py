"""Every setting of the system, read once from the environment (or `.env`) when a process starts.

The unit stands in the name. `.env.example` lists the same names in the same order.
"""

import sys
from base64 import b64decode
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError


class Settings(BaseSettings):
    """The configuration of one process; immutable.

    Raises:
        pydantic.ValidationError: a value is missing or malformed, or an adapter was chosen without what it needs.
    """

    # A complaint about a wrong value must not print it: it may be a secret.
    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    # --- Where things are
    database_url: str = Field(description="PostgreSQL, as postgresql://user:password@host/name")
    database_transaction_pooling: bool = Field(
        False, description="true behind PgBouncer in transaction mode, see docs/operations.md; not for migrations"
    )
    redis_url: str = Field(description="Redis or Valkey (6.2 or newer), as redis://host:6379/0")
    data_dir: Path = Field(Path(".cuggu"), description="Local files: disk storage, preview outputs, embedded servers")
    api_host: str = Field("127.0.0.1", description="the address the API listens on")
    api_port: int = 8000
    public_url: str = Field("http://127.0.0.1:8000", description="This API as the outside world reaches it")
    log_format: Literal["console", "json"] = Field("console", description="console to read, json to collect")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    metrics_token: SecretStr | None = Field(
        None, description="the API's /metrics then asks for it as a bearer token; unset: let your proxy close it"
    )

    # --- Who the users are
    auth_mode: Literal["development", "jwt"] = Field(
        "development", description="development signs tokens with a known key and serves loopback only"
    )
    jwt_algorithm: Literal["HS256", "RS256", "ES256"] = Field("HS256", description="the one algorithm accepted")
    jwt_secret: SecretStr | None = Field(None, description="HS256: the secret shared with the site, 32 bytes or more")
    jwt_previous_secret: SecretStr | None = Field(
        None, description="HS256: the secret before JWT_SECRET, believed as well while it is being rotated"
    )
    jwt_jwks_url: str | None = Field(None, description="RS256 and ES256: where the issuer publishes its keys")
    jwt_issuer: str = Field("cuggu-development", description="the only `iss` accepted")
    jwt_audience: str = Field("cuggu-photos", description="the only `aud` accepted")
    session_secret: SecretStr | None = Field(
        None, description="signs the page's session cookies, 32 bytes or more; unset: a key made of JWT_SECRET"
    )
    session_previous_secret: SecretStr | None = Field(
        None, description="the secret before SESSION_SECRET, believed as well while it is being rotated"
    )
    session_seconds: int = Field(86_400, ge=60, description="how long a session cookie works")
    signup_credits: int = Field(2, ge=0, description="credits a user gets at first sight")
    grant_max_credits: int = Field(1000, ge=1, description="most credits that one grant by the shop or staff may add")
    address_hash_secret: SecretStr | None = Field(
        None, description="keys the hashes of deleted accounts' addresses, 32 bytes or more; unset: SESSION_SECRET's"
    )

    # --- What may be uploaded, and how often
    upload_max_bytes: int = Field(10 * 1024 * 1024, description="largest picture taken")
    portrait_max_pixels: int = Field(50_000_000, description="checked in the header, before decoding")
    portrait_longest_side_px: int = Field(2048, description="what portraits shrink to; JPEGs perhaps to a tenth less")
    rate_window_seconds: int = Field(600, description="the window of the two limits below")
    submissions_per_window: int = Field(5, description="accepted jobs per user and window")
    uploads_per_window: int = Field(30, description="uploads of any kind per user and window, before decoding")

    consent_required: bool = Field(
        False, description="true refuses jobs that do not say which text of GET /consent their user agreed to"
    )

    # --- Faces
    face_checker: Literal["local", "azure"] = "local"
    face_model_path: Path | None = Field(None, description="local: a YuNet ONNX file instead of the one in the wheel")
    azure_face_endpoint: str | None = Field(None, description="https://NAME.cognitiveservices.azure.com")
    azure_face_api_key: SecretStr | None = None
    azure_face_timeout_seconds: float = Field(5.0, description="for connecting, and again for each read")
    azure_face_calls_per_minute: int = Field(20, ge=1, description="Azure's limit: 20 on the free tier, 600 on S0")
    face_verdict_seconds: int = Field(600, description="how long a verdict is remembered by the picture's hash")

    # --- Files
    storage: Literal["disk", "s3"] = "disk"
    s3_bucket_name: str | None = None
    s3_endpoint_url: str | None = Field(None, description="an S3-compatible server instead of AWS")
    s3_public_base_url: str | None = Field(None, description="a CDN in front of the bucket, if there is one")
    s3_encryption: Literal["AES256", "aws:kms"] | None = Field(
        None, description="encryption asked for with every put; unset: the bucket's own default"
    )
    s3_kms_key_id: str | None = Field(None, description="aws:kms: the key, instead of the account's own for S3")
    aws_region: str = "ap-northeast-2"
    aws_access_key_id: SecretStr | None = Field(None, description="unset: boto3's own search (role, profile)")
    aws_secret_access_key: SecretStr | None = None
    media_url_seconds: int = Field(300, description="how long a signed address of a photo works")

    portrait_retention_seconds: int = Field(
        3600, ge=0, description="a portrait is deleted this long after its job's end"
    )
    photo_retention_days: float = Field(30, gt=0, description="a job's photos are deleted this long after its end")

    # --- Photos
    predictor: Literal["preview", "replicate"] = "preview"
    preview_seconds: float = Field(
        0.0, ge=0, description="preview: how long a prediction stays running, so that progress can be watched"
    )
    replicate_api_token: SecretStr | None = None
    replicate_base_url: str = "https://api.replicate.com"
    replicate_model: str = Field("black-forest-labs/flux-2-pro", description="one of worker/replicate_models.py")
    replicate_output_hosts: tuple[str, ...] = Field(
        ("replicate.delivery",), description="photos are downloaded from these hosts and their subdomains only"
    )
    replicate_webhook_secrets: tuple[SecretStr, ...] = Field(
        (), description="whsec_...; two while one is being rotated; none: results are found by polling alone"
    )
    replicate_creates_per_minute: int = Field(600, ge=1, description="Replicate's limit for creating predictions")
    replicate_reads_per_minute: int = Field(3000, ge=1, description="Replicate's limit for every other request")
    monthly_budget_usd: Decimal | None = Field(
        None, ge=0, description="over this cost in a calendar month (UTC) no new jobs are taken; unset: no limit"
    )
    photo_attempts_max: int = Field(3, ge=1, description="predictions a photo may cost before it is given up")
    job_deadline_seconds: int = Field(480, description="a job is settled from what it has after this long")
    check_interval_seconds: float = Field(2.0, description="how often a running prediction is asked about")
    check_interval_with_webhooks_seconds: float = Field(
        10.0,
        description="the same where REPLICATE_WEBHOOK_SECRETS lets the provider say it: for webhooks that are lost",
    )
    lease_seconds: float = Field(15.0, description="longer than any one call to a vendor; a lost worker costs this")
    resend_seconds: float = Field(10.0, description="a photo whose message was not acted on is sent again after this")
    worker_threads: int = Field(16, description="short steps one worker process runs side by side")
    worker_stall_seconds: float = Field(
        20.0, gt=0, description="a worker that takes nothing from its queues for this long ends, to be started again"
    )
    worker_health_host: str = Field("127.0.0.1", description="the address a worker answers /healthz and /readyz on")
    worker_health_port: int | None = Field(
        None, description="its port, another one for each worker on a machine; none: it answers nobody"
    )

    # --- Labels
    c2pa_certificate_path: Path | None = Field(
        None, description="signs photos with Content Credentials: the certificate and those up to the root, in PEM"
    )
    c2pa_private_key_path: Path | None = Field(None, description="its key, in PEM without a password")
    visible_ai_mark: bool = Field(False, description="true writes `AI-generated` into a corner of photos made by AI")

    # --- Telling the site
    site_webhook_url: str | None = Field(None, description="https address that is told how each job ended")
    site_webhook_secrets: tuple[SecretStr, ...] = Field(
        (), description="whsec_...; each signs, so the site may know either of two while one is being rotated"
    )
    site_webhook_private_addresses: bool = Field(
        False, description="true lets webhooks go to this machine or network, and over plain http"
    )

    @model_validator(mode="after")
    def _chosen_adapters_have_what_they_need(self) -> Self:
        needs = {
            ("face_checker", "azure"): ("azure_face_endpoint", "azure_face_api_key"),
            ("storage", "s3"): ("s3_bucket_name",),
            ("predictor", "replicate"): ("replicate_api_token",),
        }
        if self.auth_mode == "jwt":
            needs["auth_mode", "jwt"] = ("jwt_secret",) if self.jwt_algorithm == "HS256" else ("jwt_jwks_url",)
        for (name, choice), required in needs.items():
            missing = [field.upper() for field in required if getattr(self, field) is None]
            if getattr(self, name) == choice and missing:
                raise ValueError(f"{name.upper()}={choice} needs {' and '.join(missing)}")
        if (self.c2pa_certificate_path is None) != (self.c2pa_private_key_path is None):
            raise ValueError("C2PA_CERTIFICATE_PATH and C2PA_PRIVATE_KEY_PATH need each other")
        if self.site_webhook_url is not None:
            _check_site_webhook(self.site_webhook_url, self.site_webhook_secrets, self.site_webhook_private_addresses)
        if self.s3_kms_key_id is not None and self.s3_encryption != "aws:kms":
            raise ValueError("S3_KMS_KEY_ID needs S3_ENCRYPTION=aws:kms")
        for name in (
            "jwt_secret",
            "jwt_previous_secret",
            "session_secret",
            "session_previous_secret",
            "address_hash_secret",
        ):
            secret = getattr(self, name)
            if secret and len(secret.get_secret_value()) < 32:
                raise ValueError(f"{name.upper()} must be at least 32 bytes long")
        return self


def _check_site_webhook(url: str, secrets: tuple[SecretStr, ...], private_addresses: bool) -> None:
    """Raises ValueError for what no delivery could be made with; the values stay out of its words."""
    address = urlsplit(url)
    if address.scheme != "https" and not (private_addresses and address.scheme == "http"):
        raise ValueError("SITE_WEBHOOK_URL must begin with https://")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("SITE_WEBHOOK_URL must be plain ASCII, a host's name in its xn-- form")
    if not address.hostname or address.username is not None or address.password is not None or address.fragment:
        raise ValueError("SITE_WEBHOOK_URL must name a host, and neither a user nor a fragment")
    if address.port == 0:  # reading it raises ValueError for what is no port at all
        raise ValueError("SITE_WEBHOOK_URL names no port that there is")
    if not secrets:
        raise ValueError("SITE_WEBHOOK_URL needs SITE_WEBHOOK_SECRETS")
    for secret in secrets:
        prefix, _, key = secret.get_secret_value().partition("_")
        # Standard Webhooks, signature scheme: 24 to 64 random bytes.
        if prefix != "whsec" or not 24 <= len(_decoded(key)) <= 64:
            raise ValueError("SITE_WEBHOOK_SECRETS must each be whsec_ and the base64 of 24 to 64 bytes")


def _decoded(base64: str) -> bytes:
    """Nothing where it is not base64."""
    try:
        return b64decode(base64, validate=True)
    except ValueError:
        return b""


@cache
def get_settings() -> Settings:
    """The settings of this process, read at the first call."""
    return Settings()


def settings_or_exit(program: str) -> Settings:
    """The same for a program that starts: where they are wrong it says so in a sentence, and ends."""
    try:
        return get_settings()
    except (ValidationError, SettingsError) as error:
        sys.exit(f"{program}: the settings are wrong: {what_is_wrong(error)}")


def what_is_wrong(error: ValidationError | SettingsError) -> str:
    """In words, by the names of the environment, without any value, which may be a secret."""
    if isinstance(error, SettingsError):  # pydantic's word for a list that is not JSON; it names the field in quotes
        _, name, *_ = str(error).split('"')
        return f'{name.upper()} must be a JSON list, such as ["one", "two"]'
    return "; ".join(
        f"{'.'.join(map(str, found['loc'])).upper()}: {found['msg']}" if found["loc"] else found["msg"]
        for found in error.errors()
    )
