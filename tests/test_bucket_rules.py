"""`cuggu storage setup` over the real client and moto, and what `cuggu doctor` says of a bucket without it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer
from typer.testing import CliRunner, Result

from cli.main import app

REGION = "ap-northeast-2"


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_url: str) -> Any:
    return boto3.client("s3", endpoint_url=s3_url, region_name=REGION, aws_access_key_id="k", aws_secret_access_key="s")


@pytest.fixture
def bucket(
    s3: Any, s3_url: str, clean_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[str]:
    name = f"photos-{uuid4()}"
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    monkeypatch.chdir(tmp_path)
    for setting, value in {
        "STORAGE": "s3",
        "S3_BUCKET_NAME": name,
        "S3_ENDPOINT_URL": s3_url,
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "PUBLIC_URL": "https://photos.example.com/base",
    }.items():
        monkeypatch.setenv(setting, value)
    return name


def setup(*options: str) -> Result:
    return CliRunner().invoke(app, ["storage", "setup", *options])


def states(result: Result) -> dict[str, str]:
    """Each rule's state, by its name."""
    lines = [line.partition("  ") for line in result.stdout.splitlines()]
    return {rest.strip().partition(":")[0]: state for state, _, rest in lines}


def test_a_new_bucket_is_closed_encrypted_and_forgets(s3: Any, bucket: str) -> None:
    rules = {"public access", "ownership", "encryption", "cors", "lifecycle"}
    looked = setup("--check")
    assert (looked.exit_code, states(looked)) == (1, dict.fromkeys(rules, "missing"))
    assert states(setup("--check")) == dict.fromkeys(rules, "missing"), "looking changes nothing"

    done = setup()
    assert (done.exit_code, states(done)) == (0, dict.fromkeys(rules, "set"))
    for again in (setup("--check"), setup()):
        assert (again.exit_code, states(again)) == (0, dict.fromkeys(rules, "ok"))

    access = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert set(access.values()) == {True}
    assert len(access) == 4
    owner = s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"]
    assert owner == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    encryption = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert encryption[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    (cors,) = s3.get_bucket_cors(Bucket=bucket)["CORSRules"]
    assert (cors["AllowedOrigins"], cors["AllowedMethods"]) == (["https://photos.example.com"], ["GET", "HEAD"])
    lifecycle = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    folders = {"portraits/": 2, "photos/": 31, "thumbnails/": 31}
    by_age = [rule for rule in lifecycle if "Days" in rule["Expiration"]]
    assert {rule["Filter"]["Prefix"]: rule["Expiration"]["Days"] for rule in by_age} == folders
    for rule in by_age:
        assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 1}
        assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    marked = {rule["Filter"]["Prefix"] for rule in lifecycle if rule["Expiration"].get("ExpiredObjectDeleteMarker")}
    assert marked == set(folders), "and nothing is asked for the rest of the bucket"
    assert len(lifecycle) == 6


def test_what_was_loosened_is_found_and_mended_and_rules_of_others_stay(
    s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = {"ID": "theirs", "Filter": {"Prefix": "logs/"}, "Status": "Enabled", "Expiration": {"Days": 7}}
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [theirs]})
    setup()
    monkeypatch.setenv("PHOTO_RETENTION_DAYS", "7")
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration={"BlockPublicAcls": True})
    found = states(setup("--check"))
    assert {name for name, state in found.items() if state == "missing"} == {"public access", "lifecycle"}
    assert setup().exit_code == 0
    assert setup("--check").exit_code == 0
    rules = {rule["ID"]: rule for rule in s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
    assert rules["theirs"]["Expiration"] == {"Days": 7}
    assert rules["cuggu-photos"]["Expiration"] == {"Days": 8}


def test_a_key_of_our_own_is_the_buckets_default_where_the_settings_name_one(
    s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup()
    monkeypatch.setenv("S3_ENCRYPTION", "aws:kms")
    monkeypatch.setenv("S3_KMS_KEY_ID", "alias/photos")
    assert states(setup("--check"))["encryption"] == "missing"
    setup()
    (rule,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "alias/photos"}
    monkeypatch.delenv("S3_ENCRYPTION")
    monkeypatch.delenv("S3_KMS_KEY_ID")
    assert states(setup("--check"))["encryption"] == "ok", "a better one than we ask for stays"


def test_a_bucket_that_is_not_there_ends_with_a_sentence(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_BUCKET_NAME", "nowhere-at-all")
    result = setup()
    assert result.exit_code == 1
    assert "The bucket nowhere-at-all refuses: public access: NoSuchBucket" in result.stderr


def test_the_doctor_says_what_is_not_set(bucket: str) -> None:
    told = CliRunner().invoke(app, ["doctor"]).stdout
    assert (
        "not yet set: public access, ownership, encryption, cors, lifecycle (`cuggu storage setup` sets them)" in told
    )
    setup()
    assert "not yet set" not in CliRunner().invoke(app, ["doctor"]).stdout


def test_a_directory_is_closed_to_others(
    clean_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    objects = tmp_path / "objects"
    objects.mkdir(mode=0o755)
    objects.chmod(0o755)
    assert (looked := setup("--check")).exit_code == 1
    assert looked.stdout.startswith(f"missing  {objects}: ")
    assert objects.stat().st_mode & 0o777 == 0o755
    assert "not yet set: mode 0700" in CliRunner().invoke(app, ["doctor"]).stdout
    assert setup().stdout.startswith("set ")
    assert objects.stat().st_mode & 0o777 == 0o700
    assert setup("--check").exit_code == 0
