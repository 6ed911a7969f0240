"""The drill of docs/operations.md: a backup taken beside a working system, restored when much has happened since."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from typer.testing import CliRunner

from api.auth import development_token
from cli.main import app
from cli.postgres_account import postgres_account, programs
from shared.settings import Settings
from tests.photos import one_face
from tests.stack import RunningStack
from tests.waiting import wait_until

PROCESSES = ("api", "worker", "beat")
COUPLE, LATER_COUPLE = "couple@example.com", "later@example.com"


class Couple:
    def __init__(self, stack: RunningStack, settings: Settings, email: str) -> None:
        self.email = email
        headers = {"Authorization": f"Bearer {development_token(settings, email)}"}
        self.http = httpx.Client(base_url=stack.api_url, headers=headers, timeout=60, trust_env=False)

    def order(self, key: str) -> dict[str, Any]:
        answer = self.http.post(
            "/jobs", files={"image": one_face()}, data={"style": "CLASSIC"}, headers={"Idempotency-Key": key}
        )
        job: dict[str, Any] = answer.raise_for_status().json()
        return job

    def completed(self, key: str) -> dict[str, Any]:
        job = self.order(key)
        while job["completed_at"] is None:
            job = self.http.get(f"/jobs/{job['id']}?wait=25").raise_for_status().json()
        assert job["status"] == "COMPLETED"
        return job

    @property
    def credits(self) -> int:
        return int(self.http.get("/me").raise_for_status().json()["credits"])


def postgres(program: str, *arguments: str | Path) -> None:
    subprocess.run([programs(postgres_account(Path("/"))) / program, *arguments], check=True, timeout=120)


def cuggu(stack: RunningStack, *words: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from cli.main import app; app()", *words],
        env=stack.env, cwd=stack.data_dir, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def offences(audited: str) -> set[tuple[str, str]]:
    checks = json.loads(audited)["checks"]
    return {(check["promise"], offence["table"]) for check in checks for offence in check["offences"]}


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_system_restored_to_an_older_point_ends_in_a_clean_audit(
    running_stack: Callable[..., RunningStack],
    settings: Settings,
    database_url: str,
    empty_database_url: str,
    tmp_path: Path,
) -> None:
    stack = running_stack(env={"SUBMISSIONS_PER_WINDOW": "100", "SIGNUP_CREDITS": "10", "PREVIEW_SECONDS": "1"})
    couple = Couple(stack, settings, COUPLE)
    kept, deleted = couple.completed("kept"), couple.completed("deleted")
    in_work = couple.order("in work")
    backup = tmp_path / "cuggu.dump"
    postgres("pg_dump", "--format=custom", "--no-owner", "--file", backup, database_url)

    # What the backup does not know.
    couple.completed("in work")
    couple.http.delete(f"/jobs/{deleted['id']}").raise_for_status()
    lost = Couple(stack, settings, LATER_COUPLE).completed("lost")
    cuggu(stack, "credits", "grant", COUPLE, "5", "--reference", "order-1042")
    objects = stack.data_dir / "objects"
    wait_until(lambda: not list(objects.glob(f"photos/{deleted['id']}/*")), 30)
    assert list(objects.glob(f"photos/{lost['id']}/*"))

    # The database is gone, and comes back as it was.
    for name in PROCESSES:
        stack.stop(name)
    with psycopg.connect(database_url, autocommit=True) as server:
        server.execute("DROP SCHEMA public CASCADE")
    postgres(
        "pg_restore", "--exit-on-error", "--single-transaction", "--no-owner", "--dbname", empty_database_url, backup
    )
    stack.change_env(DATABASE_URL=empty_database_url)
    found = offences(cuggu(stack, "audit", "--json", status=1))
    assert {("I6", "objects"), ("I6", "photos"), ("I6", "jobs")} <= found
    cuggu(stack, "audit", "--mend", "--yes")
    for name in PROCESSES:
        stack.start(name)

    # A job that was in work goes on, or has been given back; asking for it again charges nothing.
    ended = couple.http.get(f"/jobs/{in_work['id']}?wait=25").raise_for_status().json()
    while ended["completed_at"] is None:
        ended = couple.http.get(f"/jobs/{in_work['id']}?wait=25").raise_for_status().json()
    assert couple.order("in work")["id"] == in_work["id"]
    assert ended["status"] == "COMPLETED"
    assert couple.credits == 10 - 3
    # Grants come again by their reference, and once.
    for _ in range(2):
        cuggu(stack, "credits", "grant", COUPLE, "5", "--reference", "order-1042")
    assert couple.credits == 10 - 3 + 5
    # What was deleted stays deleted, what was kept is whole, and whom the backup does not know begins anew.
    photos = couple.http.get(f"/jobs/{kept['id']}").raise_for_status().json()["photos"]
    assert [couple.http.get(photo["url"]).status_code for photo in photos] == [200] * 4
    again = couple.http.get(f"/jobs/{deleted['id']}").json()
    assert [couple.http.get(f"/media/{photo['id']}").status_code for photo in again["photos"]] == [404] * 4
    later = Couple(stack, settings, LATER_COUPLE)
    assert later.credits == 10
    assert later.http.get(f"/jobs/{lost['id']}").status_code == 404
    wait_until(lambda: not list(objects.glob(f"photos/{lost['id']}/*")), 30)
    assert offences(cuggu(stack, "audit", "--deep", "--json")) == set()


def test_mending_asks_before_it_changes_anything(
    clean_environment: None, database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = tmp_path / "objects/photos/nobody/0"
    unknown.parent.mkdir(parents=True)
    unknown.write_bytes(b"a photo")
    monkeypatch.chdir(tmp_path)
    for name, value in {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "DATA_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    refused = CliRunner().invoke(app, ["audit", "--mend"], input="n\n")
    assert refused.exit_code == 1
    assert "1 objects are named by no row; 0 that rows name are not there." in refused.stderr
    with psycopg.connect(database_url, autocommit=True) as server:
        assert server.execute("SELECT object_key FROM loose_objects").fetchall() == []
        assert CliRunner().invoke(app, ["audit", "--mend"], input="y\n").exit_code == 0
        assert server.execute("SELECT object_key FROM loose_objects").fetchall() == [("photos/nobody/0",)]
