"""Behind PgBouncer in transaction mode, with far fewer connections than sessions, everything works as without it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from api.auth import development_token
from shared.database import SESSION_SETTINGS, make_engine
from shared.settings import Settings
from tests.conftest import RUN_DIR
from tests.pgbouncer import pooler
from tests.photos import one_face
from tests.stack import RunningStack

JOBS = 6
SERVER_CONNECTIONS = 3


@pytest.fixture
def pooled_url(database_url: str, open_dir: Path) -> Iterator[str]:
    lock = Path(os.environ[RUN_DIR]) / "pgbouncer.lock"
    with pooler(database_url, open_dir, lock, server_connections=SERVER_CONNECTIONS) as url:
        yield url


@pytest.fixture
def prepared(database_url: str) -> None:
    """As docs/operations.md says: what each session asks for, asked for by the database."""
    with psycopg.connect(database_url, autocommit=True) as server:
        for name, value in SESSION_SETTINGS.items():
            server.execute(f"ALTER DATABASE {database_url.rpartition('/')[2]} SET {name} = '{value}'")


def test_without_the_setting_a_pooler_refuses_what_sessions_ask_for(pooled_url: str) -> None:
    engine = make_engine(pooled_url, transaction_pooling=False)
    with pytest.raises(OperationalError, match="options"):
        engine.connect()
    engine.dispose()


def cuggu(stack: RunningStack, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from cli.main import app; app()", *words],
        env=stack.env, cwd=stack.data_dir, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_jobs_are_made_and_audited_through_a_pooler(
    running_stack: Callable[..., RunningStack], pooled_url: str, prepared: None, settings: Settings
) -> None:
    stack = running_stack(
        env={
            "DATABASE_URL": pooled_url,
            "DATABASE_TRANSACTION_POOLING": "true",
            "SUBMISSIONS_PER_WINDOW": "100",
            "SIGNUP_CREDITS": "100",
        },
        processes=("api", "worker", "worker-2", "beat"),
    )
    headers = {"Authorization": f"Bearer {development_token(settings, 'couple@example.com')}"}

    def order(_: int) -> str:
        with httpx.Client(base_url=stack.api_url, headers=headers, timeout=60, trust_env=False) as http:
            job = http.post("/jobs", files={"image": one_face()}, data={"style": "MODERN"}).raise_for_status().json()
            while job["completed_at"] is None:
                job = http.get(f"/jobs/{job['id']}?wait=25").raise_for_status().json()
            return str(job["status"])

    with ThreadPoolExecutor(JOBS) as couples:
        assert list(couples.map(order, range(JOBS))) == ["COMPLETED"] * JOBS
    audited = cuggu(stack, "audit", "--json")
    assert audited.returncode == 0, audited.stdout[-2000:] + audited.stderr[-2000:]
    assert {check["promise"]: check["looked_at"] for check in json.loads(audited.stdout)["checks"]}["I3"] > 0
    for name in ("api", "worker", "worker-2"):
        assert "Traceback" not in stack.logs(name), stack.logs(name)[-3000:]


def test_doctor_says_what_a_pooled_database_lacks(pooled_url: str, redis_url: str, tmp_path: Path) -> None:
    from cli.examination import Wrong
    from cli.examinations import EXAMINATIONS

    settings = Settings(
        _env_file=None,
        database_url=pooled_url,
        redis_url=redis_url,
        database_transaction_pooling=True,
        data_dir=tmp_path,
    )
    with pytest.raises(Wrong) as wrong:
        EXAMINATIONS["database"].attempt(settings)
    _, do = wrong.value.args
    name = pooled_url.rpartition("/")[2]
    assert f"ALTER DATABASE {name} SET statement_timeout = '10s'" in do


def test_doctor_is_content_once_its_statements_have_been_run(
    pooled_url: str, prepared: None, redis_url: str, tmp_path: Path
) -> None:
    from cli.examinations import EXAMINATIONS

    settings = Settings(
        _env_file=None,
        database_url=pooled_url,
        redis_url=redis_url,
        database_transaction_pooling=True,
        data_dir=tmp_path,
    )
    assert "answers" in EXAMINATIONS["database"].attempt(settings)
