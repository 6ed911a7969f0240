"""The crash table: a worker is killed at every boundary of start and collect, and the job still ends as promised.

Real worker processes, a real PostgreSQL, the real Replicate client over HTTP against the double, whose own books
say how often was paid. Nothing waits for a lease: the rows are put forward in time.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from shared.change_notes import ChangeNotes
from shared.disk_storage import DiskStorage
from shared.models import PhotoStatus
from shared.photos import take_due
from shared.settings import Settings
from tests.doubles.replicate_process import DoubledReplicate, doubled_replicate
from tests.photos import one_face
from tests.rows import accepted_job, money_is_right
from tests.test_embedded import wait_until
from worker.generation import Generation
from worker.replicate_predictor import ReplicatePredictor

# In the order in which a worker passes them, when all goes well.
START = (
    "before commit of claim",
    "after commit of claim",
    "before commit of open_attempt",
    "after commit of open_attempt",
    "before start",
    "before commit of renew",
    "after commit of renew",
    "after start",
    "before commit of record_prediction",
    "after commit of record_prediction",
    "before commit of release",
    "after commit of release",
)
COLLECT = (
    "before commit of claim",
    "after commit of claim",
    "before fetch",
    "after fetch",
    "before read_output",
    "after read_output",
    "before commit of renew",
    "after commit of renew",
    "before put",
    "after put",
    "before commit of store",
    "after commit of store",
)
# A collect that has to look for its prediction first, because the worker died before it could write the answer down.
SEARCH = (
    "before commit of claim",
    "after commit of claim",
    "before find",
    "after find",
    "before commit of record_prediction",
    "after commit of record_prediction",
)
ROUNDS = 40


@pytest.fixture(scope="module")
def replicate() -> Iterator[DoubledReplicate]:
    # Quick, but slow enough that outputs, kept for an hour, outlive the restart of a worker.
    with doubled_replicate("--speed", "60") as double:
        yield double


class CrashingWorld:
    def __init__(self, engine: Engine, settings: Settings, replicate: DoubledReplicate) -> None:
        self.engine = engine
        self.settings = Settings(
            _env_file=None,
            **{
                **settings.model_dump(),
                "predictor": "replicate",
                "replicate_api_token": replicate.token,
                "replicate_base_url": replicate.url,
                "check_interval_seconds": 0.1,
            },
        )
        self.storage = DiskStorage(settings.data_dir / "objects")
        self.generation = Generation(
            sessions=sessionmaker(engine, expire_on_commit=False),
            storage=self.storage,
            predictor=ReplicatePredictor(self.settings),
            notes=ChangeNotes(settings.redis_url),
            settings=self.settings,
        )
        _, self.job_id, self.photo_ids = accepted_job(engine)
        self.storage.put(f"portraits/{self.job_id}", one_face(), "image/jpeg")

    def kill_worker(self, step: str, photo_id: UUID, boundary: str) -> list[str]:
        """The boundaries that a worker process passed; it died on the last one."""
        env = {
            **os.environ,
            "DATABASE_URL": self.settings.database_url,
            "REDIS_URL": self.settings.redis_url,
            "DATA_DIR": str(self.settings.data_dir),
            "PREDICTOR": "replicate",
            "REPLICATE_API_TOKEN": self.token,
            "REPLICATE_BASE_URL": self.settings.replicate_base_url,
        }
        worker = subprocess.run(
            [sys.executable, "-m", "tests.dying_worker", step, str(photo_id), boundary],
            cwd=Path(__file__).parents[1],
            env=env,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert worker.returncode == -signal.SIGKILL, worker.stderr[-2000:]
        return worker.stdout.splitlines()

    @property
    def token(self) -> str:
        assert self.settings.replicate_api_token is not None
        return self.settings.replicate_api_token.get_secret_value()

    def pass_time(self) -> None:
        """All leases end, all waits are over."""
        with self.engine.begin() as connection:
            connection.execute(text("UPDATE photos SET next_check_at = now() - interval '1 s', sent_at = NULL"))
            connection.execute(text("UPDATE attempts SET created_at = created_at - interval '60 s'"))

    def go_on(self) -> None:
        """The sweep and a healthy worker, until the job has ended."""
        for _ in range(ROUNDS):
            self.pass_time()
            for status, step in (
                (PhotoStatus.PENDING, self.generation.start),
                (PhotoStatus.GENERATING, self.generation.collect),
            ):
                with Session(self.engine) as session, session.begin():
                    due = take_due(session, status, 100, 0)
                for photo_id in due:
                    step(photo_id)
            if self.one("SELECT status FROM jobs") not in ("QUEUED", "PROCESSING"):
                return

    def one(self, statement: str) -> object:
        with self.engine.connect() as connection:
            return connection.execute(text(statement)).scalar_one()

    def check(self, replicate: DoubledReplicate) -> None:
        """Four photos, one charge, and at the provider's one prediction for each photo."""
        assert self.one("SELECT status FROM jobs") == "COMPLETED"
        assert self.one("SELECT count(*) FROM photos WHERE status = 'STORED'") == 4
        assert self.one("SELECT count(*) FROM attempts WHERE outcome = 'SUCCEEDED'") == 4
        assert len(list(self.storage.list("photos/"))) == 4
        assert self.one("SELECT credits FROM users") == 1
        money_is_right(self.engine)
        with self.engine.connect() as connection:
            seeds = set(connection.execute(text("SELECT seed FROM attempts")).scalars())
        paid = [entry for entry in replicate.book("predictions") if entry["seed"] in seeds]
        assert len(paid) == 4, "a photo was paid for twice"


@pytest.fixture
def crashing(engine: Engine, settings: Settings, replicate: DoubledReplicate) -> CrashingWorld:
    return CrashingWorld(engine, settings, replicate)


@pytest.mark.parametrize("boundary", START)
def test_a_worker_killed_while_starting_a_photo(
    crashing: CrashingWorld, replicate: DoubledReplicate, boundary: str
) -> None:
    passed = crashing.kill_worker("start", crashing.photo_ids[0], boundary)
    assert passed == list(START[: START.index(boundary) + 1]), "the table must name every boundary"
    crashing.go_on()
    crashing.check(replicate)


@pytest.mark.parametrize("boundary", COLLECT)
def test_a_worker_killed_while_collecting_a_photo(
    crashing: CrashingWorld, replicate: DoubledReplicate, boundary: str
) -> None:
    crashing.generation.start(crashing.photo_ids[0])
    _wait_for_prediction(crashing, replicate)
    crashing.pass_time()
    passed = crashing.kill_worker("collect", crashing.photo_ids[0], boundary)
    assert passed == list(COLLECT[: COLLECT.index(boundary) + 1]), "the table must name every boundary"
    crashing.go_on()
    crashing.check(replicate)


@pytest.mark.parametrize("boundary", SEARCH)
def test_a_worker_killed_while_looking_for_a_lost_prediction(
    crashing: CrashingWorld, replicate: DoubledReplicate, boundary: str
) -> None:
    crashing.kill_worker("start", crashing.photo_ids[0], "after start")
    _wait_for_prediction(crashing, replicate)
    crashing.pass_time()
    passed = crashing.kill_worker("collect", crashing.photo_ids[0], boundary)
    assert passed == list(SEARCH[: SEARCH.index(boundary) + 1]), "the table must name every boundary"
    crashing.go_on()
    crashing.check(replicate)


def _wait_for_prediction(crashing: CrashingWorld, replicate: DoubledReplicate) -> None:
    """Return when the prediction of the only attempt has ended."""
    seed = crashing.one("SELECT seed FROM attempts")
    wait_until(
        lambda: any(entry["seed"] == seed and entry["status"] == "succeeded" for entry in replicate.book("predictions"))
    )
