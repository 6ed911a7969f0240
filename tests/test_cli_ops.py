"""`cuggu token`, `cuggu credits` and `cuggu doctor`: what they do, and what they never say."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from api.auth import DEVELOPMENT_SECRET
from cli.configuration import SettingsWrong, settings_of
from cli.examination import LIMIT_SECONDS, Examination, examine
from cli.examinations import EXAMINATIONS
from cli.main import app
from cli.processes import Lock, free_port
from shared import credits
from shared.settings import Settings
from tests.doubles.azure_double import KEY
from tests.doubles.processes import start_double
from tests.doubles.receiver import receiver
from tests.doubles.replicate_double import TOKEN
from tests.test_cli_generate import ScriptedApi

EMAIL = "kim@example.com"
SECRET = "an-unmistakable-secret"
PARTS = ["database", "redis", "storage", "faces", "generator", "labels", "webhooks", "site"]


@pytest.fixture
def place(clean_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no setting from outside."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def servers_named(place: Path, database_url: str, redis_url: str) -> Path:
    (place / ".env").write_text(f"DATABASE_URL={database_url}\nREDIS_URL={redis_url}\n")
    return place


def run(*words: str, **env: str) -> Any:
    return CliRunner().invoke(app, words, env=env)


def diagnosis(**env: str) -> tuple[int, dict[str, Any]]:
    done = run("doctor", "--json", **env)
    shown = json.loads(done.stdout)
    assert shown["ok"] is (done.exit_code == 0)
    return done.exit_code, {part["part"]: part for part in shown["parts"]}


# --- Where the settings come from


def test_settings_are_read_from_the_given_environment_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / ".env").write_text("STORAGE=s3\nS3_BUCKET_NAME=b\n")
    monkeypatch.setenv("SIGNUP_CREDITS", "9")
    given = {"DATABASE_URL": "d", "REDIS_URL": "r", "API_PORT": "81", "STORAGE": "", "REPLICATE_OUTPUT_HOSTS": '["h"]'}
    settings = settings_of(given)
    assert (settings.storage, settings.signup_credits, settings.api_port) == ("disk", 2, 81)
    assert settings.replicate_output_hosts == ("h",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SIGNUP_CREDITS", SECRET),
        ("REPLICATE_WEBHOOK_SECRETS", SECRET),
        ("JWT_SECRET", "a-short-secret"),
        ("PREDICTOR", "replicate"),
    ],
)
def test_wrong_settings_are_named_and_not_repeated(place: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsWrong, match=name) as wrong:
        settings_of({"DATABASE_URL": "d", "REDIS_URL": "r", name: value})
    assert "secret" not in str(wrong.value)
    done = run("token", EMAIL, **{name: value})
    assert done.exit_code == 1
    assert name in done.stderr
    assert value not in done.stderr or name == "PREDICTOR"


def test_without_a_database_the_command_says_what_to_do(place: Path) -> None:
    done = run("credits", "show", EMAIL)
    assert done.exit_code == 1
    assert done.stderr == "DATABASE_URL is not set, and no `cuggu serve` runs here. Set it, or start one.\n"


def test_the_servers_of_a_stack_that_runs_here_are_found(place: Path, database_url: str, redis_url: str) -> None:
    data = place / ".cuggu"
    data.mkdir()
    lock = Lock(data / "stack.lock", "taken")
    environment = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "DATA_DIR": str(data),
        "PUBLIC_URL": "http://h",
    }
    (data / "running.json").write_text(json.dumps({"environment": environment, "children": {}}))
    # A lock is held against other processes only by the file that it was taken with, so this one counts too.
    assert run("credits", "grant", EMAIL, "3", "--reference", "r").exit_code == 0
    lock.release()
    assert run("credits", "show", EMAIL).exit_code == 1


# --- token


def test_a_token_is_one_that_the_development_server_takes(place: Path) -> None:
    done = run("token", EMAIL)
    assert done.exit_code == 0, done.output
    claims = jwt.decode(
        done.stdout.strip(), DEVELOPMENT_SECRET, ["HS256"], audience="cuggu-photos", issuer="cuggu-development"
    )
    assert claims["email"] == EMAIL
    assert 0 < claims["exp"] - time.time() <= 24 * 3600


def test_no_token_is_made_where_the_site_signs_them(place: Path) -> None:
    done = run("token", EMAIL, AUTH_MODE="jwt", JWT_SECRET=SECRET * 2)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "AUTH_MODE=jwt" in done.stderr


def test_a_token_is_for_an_address(place: Path) -> None:
    assert run("token", "nobody").exit_code == 2


# --- credits


def test_a_reference_grants_once_and_the_command_says_so(servers_named: Path, engine: Engine) -> None:
    first = run("credits", "grant", EMAIL, "5", "--reference", "payment-1")
    again = run("credits", "grant", EMAIL.upper(), "5", "--reference", "payment-1")
    other = run("credits", "grant", EMAIL, "6", "--reference", "payment-1")
    assert (first.exit_code, again.exit_code, other.exit_code) == (0, 0, 1)
    assert "the balance is 7" in first.stdout  # with the two of the first sight
    assert "nothing was added" in again.stdout
    assert "Nothing was granted" in other.stderr
    with Session(engine) as session:
        user = credits.provision_user(session, EMAIL, 0)
        assert [(entry.kind, entry.amount) for entry in credits.ledger(session, user)] == [("GRANT", 5), ("SIGNUP", 2)]

    shown = run("credits", "show", EMAIL)
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert lines[0] == f"{EMAIL}: 7 credits"
    assert lines[2].split()[2:] == ["GRANT", "+5", "7", "payment-1"]
    assert lines[3].split()[2:] == ["SIGNUP", "+2", "2"]


@pytest.mark.parametrize("amount", ["0", "-1", "many"])
def test_nothing_but_a_positive_number_is_granted(place: Path, amount: str) -> None:
    assert run("credits", "grant", EMAIL, "--reference", "r", "--", amount).exit_code == 2


def test_looking_at_a_stranger_does_not_make_a_user(servers_named: Path, engine: Engine) -> None:
    done = run("credits", "show", EMAIL)
    assert (done.exit_code, done.stderr) == (1, f"There is no user {EMAIL}.\n")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM users")).scalar_one() == 0


def test_a_database_that_is_away_or_empty_is_said_in_one_line(place: Path, empty_database_url: str) -> None:
    nobody = f"postgresql://someone:{SECRET}@127.0.0.1:{free_port()}/none"
    for url, words in ((nobody, "does not answer"), (empty_database_url, "cuggu doctor")):
        done = run("credits", "show", EMAIL, DATABASE_URL=url)
        assert done.exit_code == 1
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
        assert SECRET not in done.stderr


# --- doctor


def test_a_sound_development_setup_is_found_sound(servers_named: Path) -> None:
    done = run("doctor")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", part] for part in PARTS]
    assert "newest revision" in lines[0]


def test_a_sound_production_setup_is_found_sound(servers_named: Path) -> None:
    from moto.server import ThreadedMotoServer

    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    try:
        with (
            start_double("tests.doubles.replicate_double") as replicate,
            start_double("tests.doubles.azure_double") as azure,
        ):
            url = "http://{}:{}".format(*s3.get_host_and_port())
            environment = {
                **{"FACE_CHECKER": "azure", "AZURE_FACE_ENDPOINT": azure, "AZURE_FACE_API_KEY": KEY},
                "AZURE_FACE_CALLS_PER_MINUTE": "600",  # the free tier's has no room for two calls in a row
                **{"PREDICTOR": "replicate", "REPLICATE_BASE_URL": replicate, "REPLICATE_API_TOKEN": TOKEN},
                **{"STORAGE": "s3", "S3_BUCKET_NAME": "photos", "S3_ENDPOINT_URL": url},
                **{"AWS_ACCESS_KEY_ID": "AKIA0", "AWS_SECRET_ACCESS_KEY": SECRET},
            }
            _make_bucket(url)
            status, parts = diagnosis(**environment)
            assert status == 0, parts
            assert [part["part"] for part in parts.values()] == PARTS
            assert "flux" in parts["generator"]["configured"]

            # And each vendor's refusal is told with what to do about it.
            wrong = {
                "AZURE_FACE_API_KEY": SECRET,
                "REPLICATE_API_TOKEN": SECRET,
                "S3_BUCKET_NAME": "nowhere",
                "REPLICATE_WEBHOOK_SECRETS": f'["whsec_{SECRET}"]',
                "PUBLIC_URL": f"http://127.0.0.1:{free_port()}",
            }
            status, parts = diagnosis(**environment | wrong)
    finally:
        s3.stop()
    assert status == 1
    assert {name for name, part in parts.items() if not part["ok"]} == {"storage", "faces", "generator", "webhooks"}
    assert "HTTP 401" in parts["faces"]["says"]
    assert "AZURE_FACE_API_KEY" in parts["faces"]["do"]
    assert "REPLICATE_API_TOKEN" in parts["generator"]["do"]
    assert "NoSuchBucket" in parts["storage"]["says"]
    assert "S3_BUCKET_NAME" in parts["storage"]["do"]
    assert "PUBLIC_URL" in parts["webhooks"]["do"]
    assert SECRET not in json.dumps(parts)


def _make_bucket(url: str) -> None:
    import boto3

    boto3.session.Session().client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    ).create_bucket(Bucket="photos")


def test_absent_servers_are_said_and_the_rest_is_tried_all_the_same(place: Path) -> None:
    status, parts = diagnosis()
    assert status == 1
    assert {name for name, part in parts.items() if not part["ok"]} == {"database", "redis"}
    assert "cuggu serve" in parts["database"]["do"]


def test_a_database_without_tables_is_to_be_migrated(place: Path, empty_database_url: str, redis_url: str) -> None:
    status, parts = diagnosis(DATABASE_URL=empty_database_url, REDIS_URL=redis_url)
    assert status == 1
    assert [name for name, part in parts.items() if not part["ok"]] == ["database"]
    assert "without any of our tables" in parts["database"]["says"]
    assert "alembic upgrade head" in parts["database"]["do"]


def test_wrong_passwords_are_found_and_not_shown(servers_named: Path, database_url: str, redis_url: str) -> None:
    password = database_url.split(":")[2].split("@", maxsplit=1)[0]
    status, parts = diagnosis(
        DATABASE_URL=database_url.replace(password, SECRET),
        REDIS_URL=f"redis://:{SECRET}@{redis_url.split('@')[1]}",
    )
    assert status == 1
    assert {name for name, part in parts.items() if not part["ok"]} == {"database", "redis"}
    assert "password" in parts["database"]["says"]
    assert SECRET not in json.dumps(parts)


def test_settings_that_do_not_fit_together_are_the_finding(place: Path) -> None:
    status, parts = diagnosis(STORAGE="s3")
    assert status == 1
    assert list(parts) == ["settings"]
    assert "S3_BUCKET_NAME" in parts["settings"]["says"]


def test_webhooks_need_an_address_that_the_world_can_reach(servered: Settings) -> None:
    unreachable = servered.model_copy(update={"public_url": "http://127.0.0.1:8000"})
    (finding,) = examine(unreachable, {"webhooks": EXAMINATIONS["webhooks"]}, [])
    assert not finding.ok
    assert "https" in finding.do


@pytest.mark.parametrize(("status", "sound"), [(401, True), (204, False), (404, False)])
def test_the_webhook_address_must_lead_to_somebody_who_refuses_what_is_not_signed(
    servered: Settings, status: int, sound: bool
) -> None:
    api = ScriptedApi()
    api.script["POST /webhooks/replicate"] = [(status, {}, b"")]
    thread = threading.Thread(target=api.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        settings = servered.model_copy(update={"public_url": api.url, "replicate_base_url": "http://127.0.0.1:1"})
        (finding,) = examine(settings, {"webhooks": EXAMINATIONS["webhooks"]}, [])
    finally:
        api.server.shutdown()
        api.server.server_close()
        thread.join()
    assert finding.ok is sound
    (sent,) = api.calls("POST /webhooks/replicate")
    assert {"photo", "attempt"} == sent["query"].keys()


@pytest.mark.parametrize(("status", "sound"), [(401, True), (400, True), (204, False), (404, False), (302, False)])
def test_the_site_must_refuse_what_is_not_signed(offline_settings: Settings, status: int, sound: bool) -> None:
    with receiver() as site:
        site.statuses.append(status)
        update = {"site_webhook_url": f"{site.url}/hooks", "site_webhook_private_addresses": True}
        (finding,) = examine(offline_settings.model_copy(update=update), {"site": EXAMINATIONS["site"]}, [])
    assert finding.ok is sound, finding
    assert [post.path for post in site.posts] == ["/hooks"]
    assert "webhook-signature" not in site.posts[0].headers


@pytest.fixture
def servered(offline_settings: Settings) -> Settings:
    return offline_settings.model_copy(update={"predictor": "replicate", "replicate_webhook_secrets": ("whsec_x",)})


def test_a_part_that_hangs_is_given_its_time_and_the_others_are_told_of(
    offline_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.examination.LIMIT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and never answers

        def hang(_: Settings) -> str:
            with socket.create_connection(silent.getsockname(), 30) as connection:
                return str(connection.recv(1))

        parts = {
            "silent": Examination(lambda _: "somewhere", hang),
            "broken": Examination(lambda _: "here", lambda _: str(1 // 0)),
            "sound": Examination(lambda _: "there", lambda _: "well"),
        }
        began = time.monotonic()
        findings = {finding.part: finding for finding in examine(offline_settings, parts, [])}
        assert time.monotonic() - began < 10
    assert "no answer within" in findings["silent"].says
    assert "ZeroDivisionError" in findings["broken"].says
    assert [name for name, finding in findings.items() if finding.ok] == ["sound"]


def test_the_command_ends_although_a_server_is_silent(place: Path, redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        environment = {
            **{name: value for name, value in os.environ.items() if name.upper() not in _setting_names()},
            "DATABASE_URL": f"postgresql://someone@127.0.0.1:{port}/none",
            "REDIS_URL": redis_url,
        }
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "doctor"],
            cwd=place, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS + 60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.startswith("WRONG  database")
    assert done.stderr == ""


def _setting_names() -> set[str]:
    return {name.upper() for name in Settings.model_fields}
