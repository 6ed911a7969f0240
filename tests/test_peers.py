"""What we are compared with really works: each program under bench/peers makes a whole job, on real processes."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx
import jwt
import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from cli.processes import end_child, free_port, start_child
from cli.readiness import answers
from cli.stack import COMMANDS
from cli.vendors import doubled_vendors
from shared.models import User
from tests import photos as pictures
from tests.rows import accepted_job
from tests.stack import RunningStack
from tests.waiting import wait_until

API = ("python", "-m", "bench.peers.plain_celery.api")
WORKER = ("celery", "-A", "bench.peers.plain_celery.tasks:app", "worker", "--loglevel", "INFO")


@contextmanager
def plain_worker(stack: RunningStack) -> Iterator[None]:
    """It has no /readyz to wait for: what is sent before it is there waits for it."""
    program = Path(sys.executable).with_name(WORKER[0])
    worker = start_child([program, *WORKER[1:]], log=stack.data_dir / "logs" / "worker.log", env=stack.env)
    try:
        yield
    finally:
        end_child(worker, SIGTERM, 10)


@pytest.mark.timeout(300)
def test_plain_celery_makes_a_job_and_gives_the_credit_back_when_it_cannot(
    running_stack: Callable[..., RunningStack], tmp_path: Path
) -> None:
    with doubled_vendors(tmp_path) as vendors:
        env = {**vendors.environment, "WORKER_CONCURRENCY": "2", "SIGNUP_CREDITS": "1", "TASK_MAX_RETRIES": "0"}
        stack = running_stack(env=env, processes=("api",), commands={**COMMANDS, "api": API})
        user = {"X-User": "a@example.com"}
        with plain_worker(stack), httpx.Client(base_url=stack.api_url, headers=user, trust_env=False) as http:

            def submit(style: str) -> httpx.Response:
                files = {"image": ("me.jpg", pictures.one_face(), "image/jpeg")}
                return http.post("/jobs", files=files, data={"style": style}, timeout=30)

            def ended(job_id: str) -> dict[str, Any]:
                def look() -> dict[str, Any]:
                    return dict(http.get(f"/jobs/{job_id}").raise_for_status().json())

                wait_until(lambda: look()["status"] in ("COMPLETED", "FAILED"), 90)
                return look()

            first = submit("CLASSIC")
            assert first.status_code == 202, first.text
            assert submit("CLASSIC").status_code == 402
            made = ended(first.json()["id"])
            assert made["status"] == "COMPLETED"
            assert len({httpx.get(url, trust_env=False).raise_for_status().content for url in made["urls"]}) == 4
            assert http.get("/me").json() == {"credits": 0}
            assert http.get(f"/jobs/{first.json()['id']}", headers={"X-User": "b@example.com"}).status_code == 404

            httpx.post(f"{vendors.replicate_url}/_dials", json={"outcomes": ["failed"]}, trust_env=False)
            http.headers["X-User"] = "c@example.com"
            assert ended(submit("MODERN").json()["id"]) == {"status": "FAILED", "urls": []}
            assert http.get("/me").json() == {"credits": 1}


def test_the_bare_and_the_tutorial_s_poll_answer_with_the_job(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    user_id, job_id, _ = accepted_job(engine)
    with Session(engine) as session:
        email = session.get_one(User, user_id).email
    secret = "what both sides know, and nobody else does"
    claims = {"email": email, "aud": "cuggu-photos"}
    headers = {"Authorization": f"Bearer {jwt.encode(claims, secret, 'HS256')}"}
    for name in ("bare_poll", "orm_poll"):
        port = free_port()
        env = {**os.environ, "DATABASE_URL": database_url, "JWT_SECRET": secret, "API_PORT": str(port)}
        peer = start_child([sys.executable, "-m", f"bench.peers.{name}"], log=tmp_path / name, env=env)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda url=url: answers(f"{url}/readyz"), 60)
            job = httpx.get(f"{url}/jobs/{job_id}", headers=headers, trust_env=False).raise_for_status().json()
            assert (job["id"], job["status"]) == (str(job_id), "QUEUED")
        finally:
            end_child(peer, SIGTERM, 10)
