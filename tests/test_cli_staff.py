"""`cuggu staff`, `cuggu service-token`, `cuggu pause`: what they do, and that it is written down who did it."""

import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from cli.main import app
from shared import service_tokens
from shared.errors import Unauthorized
from shared.staff_models import Scope

EMAIL = "Boss@Example.com"
ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def place(
    clean_environment: None, database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"DATABASE_URL={database_url}\nREDIS_URL={redis_url}\n")


def run(*words: str) -> Any:
    return CliRunner().invoke(app, words)


def said(*words: str) -> str:
    done = run(*words)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def actions(engine: Engine) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT a.name, a.actor_name, u.email, a.details FROM staff_actions a "
                "LEFT JOIN users u ON u.id = a.user_id WHERE actor_kind = 'COMMAND' ORDER BY a.id"
            )
        )
        return [tuple(row) for row in found]


@pytest.mark.usefixtures("place")
def test_staff_are_added_listed_and_removed(engine: Engine) -> None:
    assert "Nobody is staff" in said("staff", "list")
    assert said("staff", "add", EMAIL) == f"{EMAIL} is staff now.\n"
    assert said("staff", "add", EMAIL.lower(), "--actor", "min") == f"{EMAIL.lower()} was staff already.\n"
    assert EMAIL.lower() in said("staff", "list")
    assert said("staff", "remove", EMAIL, "--actor", "min") == f"{EMAIL} is not staff any more.\n"
    done = run("staff", "remove", EMAIL)
    assert (done.exit_code, done.stderr) == (1, f"{EMAIL} is not staff.\n")
    assert run("staff", "add", "nobody").exit_code == 2
    assert actions(engine) == [
        ("staff.added", ME, EMAIL.lower(), {}),
        ("staff.removed", "min", EMAIL.lower(), {}),
    ]


@pytest.mark.usefixtures("place")
def test_a_service_token_is_printed_once_and_can_be_revoked(engine: Engine) -> None:
    done = run("service-token", "create", "shop-1", "--days", "30")
    assert done.exit_code == 0, done.output
    token = done.stdout.strip()
    assert token.startswith("cst_")
    assert "shown this once" in done.stderr
    with Session(engine) as session, session.begin():
        service_tokens.use(session, token, Scope.GRANTS)
    listed = said("service-token", "list")
    assert token not in listed
    assert "shop-1  grants  yes" in listed
    taken = run("service-token", "create", "shop-1")
    assert (taken.exit_code, taken.stdout) == (1, "")
    assert "There is a token shop-1 already" in taken.stderr
    assert said("service-token", "revoke", "shop-1", "--actor", "min") == "Token shop-1 is revoked.\n"
    assert run("service-token", "revoke", "shop-1").exit_code == 1
    assert "revoked" in said("service-token", "list")
    with Session(engine) as session, session.begin(), pytest.raises(Unauthorized):
        service_tokens.use(session, token, Scope.GRANTS)
    made, revoked = actions(engine)
    assert (made[0], made[1], made[3]["name"], made[3]["days"]) == ("service_token.created", ME, "shop-1", 30)
    assert (revoked[0], revoked[1], revoked[3]["token_id"]) == ("service_token.revoked", "min", made[3]["token_id"])
    assert token not in str(actions(engine))


@pytest.mark.usefixtures("place")
def test_jobs_are_paused_with_a_reason_and_resumed(engine: Engine) -> None:
    assert said("resume") == "Nothing was paused.\n"
    assert "New jobs are paused" in said("pause", "--reason", "the bill")
    assert "the bill" in said("pause", "--reason", "another")
    assert said("resume", "--actor", "min") == "New jobs are taken again.\n"
    assert run("pause").exit_code == 2
    assert run("pause", "--reason", " ").exit_code == 2
    assert actions(engine) == [("jobs.paused", ME, None, {"reason": "the bill"}), ("jobs.resumed", "min", None, {})]


@pytest.mark.usefixtures("place")
def test_a_grant_by_command_is_written_down_too(engine: Engine) -> None:
    for _ in range(2):
        said("credits", "grant", EMAIL, "3", "--reference", "payment-1", "--actor", "min")
    assert run("credits", "grant", EMAIL, "4", "--reference", "payment-1").exit_code == 1
    told = {"amount": 3, "reference": "payment-1"}
    assert actions(engine) == [
        ("credits.granted", "min", EMAIL.lower(), told),
        ("credits.grant_repeated", "min", EMAIL.lower(), told),
    ]


@pytest.mark.usefixtures("place")
def test_an_account_is_deleted_at_its_users_wish_once(engine: Engine) -> None:
    said("credits", "grant", EMAIL, "3", "--reference", "order-1")
    asked = CliRunner().invoke(app, ["account", "delete", EMAIL], input="n\n")
    assert asked.exit_code == 1
    assert f"Delete {EMAIL.lower()} with all pictures and 5 credits?" in asked.output
    with engine.connect() as connection:
        user_id = connection.execute(
            text("SELECT id FROM users WHERE email = :email"), {"email": EMAIL.lower()}
        ).scalar()
    assert "Nobody can sign in" in said("account", "delete", str(user_id), "--yes", "--actor", "min")
    for named in (EMAIL, str(user_id)):
        done = run("account", "delete", named, "--yes")
        assert (done.exit_code, done.stderr) == (1, f"There is no user {named}.\n")
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT email, credits FROM users WHERE id = :id"), {"id": user_id}).one()
        wish = connection.execute(text("SELECT kind FROM deletions WHERE user_id = :id"), {"id": user_id}).all()
    assert (kept.email.startswith("deleted-"), kept.credits) == (True, 5)
    assert wish == [("ACCOUNT",)]
    assert [(name, actor) for name, actor, _, _ in actions(engine)][-1] == ("account.deleted", "min")
