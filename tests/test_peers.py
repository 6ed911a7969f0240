"""What we are compared with really works: each program under bench/peers makes a whole job, on real processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.stack import COMMANDS
from cli.vendors import doubled_vendors
from tests import photos as pictures
from tests.stack import RunningStack
from tests.test_embedded import wait_until

PLAIN_CELERY = {
    **COMMANDS,
    "api": ("python", "-m", "bench.peers.plain_celery.api"),
    "worker": ("celery", "-A", "bench.peers.plain_celery.tasks:app", "worker", "-n", "worker@%h", "-l", "INFO"),
}


@pytest.mark.timeout(300)
def test_plain_celery_makes_a_job_and_gives_the_credit_back_when_it_cannot(
    running_stack: Callable[..., RunningStack], tmp_path: Path
) -> None:
    with doubled_vendors(tmp_path) as vendors:
        env = {**vendors.environment, "WORKER_CONCURRENCY": "2", "SIGNUP_CREDITS": "1", "TASK_MAX_RETRIES": "0"}
        stack = running_stack(env=env, processes=("api", "worker"), commands=PLAIN_CELERY)
        with httpx.Client(base_url=stack.api_url, headers={"X-User": "a@example.com"}, trust_env=False) as http:

            def submit(style: str) -> httpx.Response:
                files = {"image": ("me.jpg", pictures.one_face(), "image/jpeg")}
                return http.post("/jobs", files=files, data={"style": style}, timeout=30)

            def ended(job_id: str) -> dict[str, Any]:
                def look() -> dict[str, Any]:
                    return dict(http.get(f"/jobs/{job_id}").raise_for_status().json())

                wait_until(lambda: look()["status"] in ("COMPLETED", "FAILED"), 60)
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
