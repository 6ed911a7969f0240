"""One user and one job, for tests that kill processes: how it comes to be, how it goes on, and what must hold.

The first photo is made by the steps under test; the other three are ended by other workers, which nobody kills. The
same world is opened by the test and by the processes that it kills, and all that they share is what outlives them.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import cache
from typing import Any
from uuid import UUID

import httpx
import redis
from sqlalchemy import text
from sqlalchemy.orm import sessionmaker

from api.submission import _fingerprint
from api.upload import Submission
from shared import credits, jobs, leases, loose_objects, photos
from shared.attempts import AttemptEnd
from shared.audit import audit
from shared.change_notes import ChangeNotes
from shared.database import make_engine
from shared.disk_storage import DiskStorage
from shared.jobs import NewJob, portrait_key
from shared.photo_file import PhotoFile, prepare_photo
from shared.photos import StoredFile
from shared.queue import JobQueue, make_celery
from shared.settings import Settings
from shared.states import AttemptOutcome, JobStatus, PhotoStatus
from tests.api_client import Client, serve
from tests.boundaries import Boundaries
from tests.doubles.replicate_process import DoubledReplicate
from tests.photos import one_face
from tests.rows import money_is_right, new_job
from worker import sweeper
from worker.closing import Closing
from worker.generation import Generation
from worker.replicate_predictor import ReplicatePredictor

EMAIL = "couple@example.com"
KEY = "the-one-key"
ROUNDS = 100
_EVERYTHING = "users, ledger_entries, jobs, photos, attempts, job_events, loose_objects"


class World:
    def __init__(self, settings: Settings, boundaries: Boundaries | None = None) -> None:
        self.settings = settings
        self.boundaries = boundaries
        self.engine = make_engine(settings.database_url, transaction_pooling=False)
        self.storage = DiskStorage(settings.data_dir / "objects")
        self.notes = ChangeNotes(settings.redis_url)
        self.queue = JobQueue(make_celery(settings), settings.redis_url)
        self.sessions = sessionmaker(self.engine, expire_on_commit=False)
        predictor = ReplicatePredictor(settings)
        self.generation = Generation(self.sessions, self.storage, predictor, self.notes, settings)
        self.closing = Closing(self.sessions, predictor, settings)

    def empty(self) -> None:
        """Nothing but the user, who has two credits."""
        self.sql(f"TRUNCATE {_EVERYTHING} CASCADE")
        self.storage.delete([found.key for found in self.storage.list("")])
        with redis.Redis.from_url(self.settings.redis_url) as client:
            client.flushdb()
        with self.sessions.begin() as session:
            credits.provision_user(session, EMAIL, 2)

    # --- The user

    def submit(self) -> httpx.Response:
        """As the site does it, with the same Idempotency-Key every time."""

        async def post() -> httpx.Response:
            async with AsyncExitStack() as stack:
                client = Client(await serve(stack, self.settings), self.settings, EMAIL)
                return await client.submit(**{"Idempotency-Key": KEY})

        return asyncio.run(post())

    def submit_while_the_credit_goes(self) -> None:
        self.sql("UPDATE users SET credits = 1")
        self.sql("UPDATE ledger_entries SET amount = 1, balance_after = 1")
        self._meanwhile("after storage.put", self.accept)
        self.submit()

    def submit_while_its_double_is_accepted(self) -> None:
        fingerprint = _fingerprint(Submission(one_face(), "CLASSIC", None, KEY))
        self._meanwhile("after storage.put", lambda: self.accept(idempotency_key=KEY, request_fingerprint=fingerprint))
        self.submit()

    def cancel(self) -> None:
        async def post() -> None:
            async with AsyncExitStack() as stack:
                client = Client(await serve(stack, self.settings), self.settings, EMAIL)
                await client.http.post(f"/jobs/{self.job_id}/cancel", headers=client.headers)

        asyncio.run(post())

    def accept(self, **changed: Any) -> None:
        """The job, without the API around it."""
        with self.sessions.begin() as session:
            user_id = credits.provision_user(session, EMAIL, 2)
            new = new_job(user_id)
            new = NewJob(**{**{name: getattr(new, name) for name in NewJob.__slots__}, **changed})
            loose_objects.expect(session, portrait_key(new.portrait_id))
        self.storage.put(portrait_key(new.portrait_id), one_face(), "image/jpeg")
        with self.sessions.begin() as session:
            assert jobs.accept(session, new)

    # --- Workers

    def start(self) -> None:
        self.generation.start(self.photo_id)

    def collect(self) -> None:
        self.generation.collect(self.photo_id)

    def collect_on_news(self) -> None:
        """A webhook has come, and names the prediction."""
        ((attempt_id, seed, created_at),) = self.rows("SELECT id, seed, created_at FROM attempts")
        (sent,) = self._aside(lambda: self.generation.predictor.find(attempt_id, seed, created_at))
        self.generation.collect(self.photo_id, hinted=True, named=sent.id)

    def sweep(self) -> None:
        sweeper.sweep(self.sessions, self.queue, self.notes, self.settings)

    def delete_loose_objects(self) -> None:
        sweeper.delete_loose_objects(self.sessions, self.storage)

    def close(self) -> None:
        for attempt_id in self.column("SELECT id FROM attempts WHERE close_due_at IS NOT NULL ORDER BY id"):
            self.closing.close(attempt_id)

    def others_end(self) -> None:
        """Three workers have made the other three photos."""
        for slot, photo_id in self.rows("SELECT slot, id FROM photos WHERE status = 'PENDING' AND slot > 0"):
            with self.sessions.begin() as session:
                claim = leases.claim(session, photo_id, PhotoStatus.PENDING, 60)
                assert claim is not None, f"photo {slot} cannot be claimed"
                attempt = photos.open_attempt(session, claim, "preview", "preview")
                key, file = photos.photo_key(claim, attempt), _photo()
                self.storage.put(key, file.body, file.content_type)
                stored = StoredFile(key, file.width, file.height, len(file.body), file.sha256)
                photos.store(session, claim, attempt, AttemptEnd(AttemptOutcome.SUCCEEDED), stored)

    # --- How it goes on

    def go_on(self, asked: str | None = None) -> None:
        """The user who had no answer asks the same again; then sweeps and workers, until nothing is left to do."""
        if asked:
            getattr(self, asked)()
        for _ in range(ROUNDS):
            self._aside(self.others_end)
            self._aside(self.pass_time)
            self.sweep()
            self.delete_loose_objects()
            match self.column("SELECT status FROM photos WHERE slot = 0"):
                case ["PENDING"]:
                    self.start()
                case ["GENERATING"]:
                    self.collect()
            self.close()
            if self.nothing_is_left():
                return
            time.sleep(0.05)  # for the provider
        raise AssertionError(f"the job never came to its end: {self.rows('SELECT * FROM attempts')}")

    def pass_time(self) -> None:
        """All leases end, all waits are over, all messages were lost, and what is loose is due."""
        self.sql("UPDATE photos SET next_check_at = now() - interval '1 s', sent_at = NULL")
        self.sql("UPDATE attempts SET created_at = least(created_at, now() - interval '120 s')")
        self.sql("UPDATE attempts SET submitted_at = created_at WHERE submitted_at IS NOT NULL")
        self.sql("UPDATE attempts SET close_due_at = now() WHERE close_due_at IS NOT NULL")
        self.sql("UPDATE loose_objects SET delete_after = now()")

    def nothing_is_left(self) -> bool:
        ((left,),) = self.rows(
            "SELECT (SELECT count(*) FROM jobs WHERE completed_at IS NULL) "
            "+ (SELECT count(*) FROM attempts WHERE close_due_at IS NOT NULL) + (SELECT count(*) FROM loose_objects)"
        )
        return not left

    # --- What must hold

    def check(self, status: JobStatus, replicate: DoubledReplicate) -> None:
        """One job, charged once, ended as it should; one prediction paid for at most; nothing left behind."""
        assert self.rows("SELECT status FROM jobs") == [(status,)]
        assert self.column("SELECT kind FROM ledger_entries WHERE kind = 'CHARGE'") == ["CHARGE"]
        money_is_right(self.engine)
        offences = [
            (finding.says, offence)
            for finding in audit(self.engine, self.storage).findings
            for offence in finding.offences
        ]
        assert offences == []
        promised = {f"portraits/{portrait_id}" for portrait_id in self.column("SELECT portrait_id FROM jobs")}
        for kind in ("object_key", "thumbnail_key"):
            promised |= set(self.column(f"SELECT {kind} FROM photos WHERE {kind} IS NOT NULL"))
        assert {found.key for found in self.storage.list("")} == promised
        seeds = set(self.column("SELECT seed FROM attempts"))
        made = [entry for entry in replicate.book("predictions") if entry["seed"] in seeds]
        assert len([entry for entry in made if float(entry["cost_usd"])]) <= 1, "a photo was paid for twice"
        assert {entry["id"] for entry in made} == set(
            self.column("SELECT prediction_id FROM attempts WHERE provider = 'replicate' AND prediction_id IS NOT NULL")
        ), "the provider ran a prediction that we do not know"
        assert not [entry for entry in made if entry["status"] in ("starting", "processing")]

    # --- Rows

    @property
    def job_id(self) -> UUID:
        (job_id,) = self.column("SELECT id FROM jobs")
        return UUID(str(job_id))

    @property
    def photo_id(self) -> UUID:
        (photo_id,) = self.column("SELECT id FROM photos WHERE slot = 0")
        return UUID(str(photo_id))

    def sql(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement))

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    def column(self, statement: str) -> list[Any]:
        return [value for (value,) in self.rows(statement)]

    def _meanwhile(self, boundary: str, act: Callable[[], None]) -> None:
        if self.boundaries:
            self.boundaries.meanwhile[boundary] = act

    def _aside(self, act: Callable[[], Any]) -> Any:
        return self.boundaries.aside(act) if self.boundaries else act()


@cache
def _photo() -> PhotoFile:
    return prepare_photo(one_face(), made_by_ai=False)
