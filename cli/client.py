"""A client of our own HTTP API, as a site would write one: submit, follow, choose, download."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential

from api.auth import is_loopback
from api.schemas import CreditsOut, JobOut, MeOut, SubmittedOut
from cli.event_source import read_events
from shared.states import ACTIVE_JOB, JobStatus, PhotoStatus

WAIT_SECONDS = 20  # how long one poll is held; proxies commonly cut a silent connection after 30
CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 60
LOST_SECONDS = 30.0  # how long a lost connection is tried again; a server that restarts is back within
# How long a server is tried that has never been there: most likely it is not running, or the address is wrong.
FIRST_CONNECT_SECONDS = 4.0

# A gateway says these where the server behind it gave no answer.
_NO_ANSWER = frozenset({502, 504})
_EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}


class ApiProblem(Exception):
    """The API refused; the text is its own sentence for the user.

    Attributes:
        code: the word of the HTTP contract, such as `no_face`.
        body: everything that the API said.
    """

    may_pass = False

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status = status
        self.code = str(body.get("code", "unknown"))
        self.body = body
        super().__init__(str(body.get("detail") or f"the server answered {status}"))


class Unreachable(Exception):
    """No answer came, however often the request was repeated."""

    refused = False  # nobody listens at the address


@dataclass(slots=True)
class Course:
    """When a job was seen to change its status."""

    states: list[dict[str, str]] = field(default_factory=list)

    def note(self, job: JobOut) -> None:
        if not self.states:
            self._add(JobStatus.QUEUED, job.created_at)
        if self.states[-1]["status"] != job.status:
            self._add(job.status, job.completed_at or datetime.now(UTC))

    def _add(self, status: JobStatus, at: datetime) -> None:
        self.states.append({"status": status.value, "at": at.astimezone(UTC).isoformat(timespec="milliseconds")})


class Client:
    """Every call is safe to repeat, and is repeated for `lost_seconds` when its answer was lost.

    Raises, from every call:
        ApiProblem: the API answered with an error.
        Unreachable: no answer came.
    """

    def __init__(
        self,
        server: str,
        token: str,
        *,
        language: str = "en",
        lost_seconds: float = LOST_SECONDS,
        on_lost: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_lost` hears a sentence when a request was not answered and is about to be tried again.

        Raises:
            ValueError: `server` is not the address of one.
        """
        self.server = server.rstrip("/")
        address = parse_server(self.server)
        self.answered = False  # whether this server has ever said anything
        # trust_env: a proxy of the environment is for the outside; a loopback server is never behind one.
        self._http = httpx.Client(
            base_url=self.server,
            headers={"Authorization": f"Bearer {token}", "Accept-Language": language},
            timeout=httpx.Timeout(READ_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS),
            trust_env=not is_loopback(address.host),
        )

        def enough(state: RetryCallState) -> bool:
            never_there = not self.answered and getattr(_failure(state), "refused", False)
            limit = min(FIRST_CONNECT_SECONDS, lost_seconds) if never_there else lost_seconds
            return (state.seconds_since_start or 0) + state.upcoming_sleep >= limit

        def tell(state: RetryCallState) -> None:
            if state.attempt_number == 1:
                on_lost(f"No answer from {self.server} ({_failure(state)}); trying again ...")

        self._retrying = Retrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_exponential(multiplier=0.25, max=4),
            stop=enough,
            before_sleep=tell,
            reraise=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._http.close()

    def me(self) -> MeOut:
        return MeOut.model_validate_json(self._ask("GET", "/me").content)

    def credits(self) -> CreditsOut:
        return CreditsOut.model_validate_json(self._ask("GET", "/me/credits").content)

    def submit(self, portrait: bytes, name: str, style: str, role: str | None, idempotency_key: str) -> SubmittedOut:
        """One job, and one charge, for one key: however often its answer is lost."""
        answer = self._ask(
            "POST",
            "/jobs",
            files={"image": (name, portrait)},
            data={"style": style, **({"role": role} if role else {})},
            headers={"Idempotency-Key": idempotency_key},
        )
        return SubmittedOut.model_validate_json(answer.content)

    def job(self, job_id: UUID) -> JobOut:
        return JobOut.model_validate_json(self._ask("GET", f"/jobs/{job_id}").content)

    def watch(self, job: JobOut) -> Iterator[JobOut]:
        """The job after each of its events as it happens, the earlier ones included, until it has ended.

        Where the events do not come through, or stop coming, it is followed by polls.
        """
        if job.status not in ACTIVE_JOB:
            yield job
            return
        try:
            with self._http.stream("GET", f"/jobs/{job.id}/events") as answer:
                if answer.headers.get("Content-Type", "").startswith("text/event-stream"):
                    for event in read_events(answer.iter_lines()):
                        job = _after(job, event.data)
                        yield job
                        if job.status not in ACTIVE_JOB:
                            return
        except (httpx.TransportError, ValueError):  # it broke off, perhaps within an event
            pass
        yield from self.follow(job.id)

    def follow(
        self, job_id: UUID, *, wait_seconds: float = WAIT_SECONDS, between: Callable[[], None] = lambda: None
    ) -> Iterator[JobOut]:
        """The job as it is now, and again whenever it has changed, until it has ended.

        Each poll is held for `wait_seconds` while nothing changes; `between` is called before every one.
        """
        known: dict[str, str] = {}
        while True:
            between()
            answer = self._ask(
                "GET", f"/jobs/{job_id}", params={"wait": wait_seconds} if known else None, headers=known
            )
            if answer.status_code == httpx.codes.NOT_MODIFIED:
                continue
            known = {"If-None-Match": answer.headers["ETag"]}
            job = JobOut.model_validate_json(answer.content)
            yield job
            if job.status not in ACTIVE_JOB:
                return

    def choose(self, job_id: UUID, photo_id: UUID) -> JobOut:
        answer = self._ask("PUT", f"/jobs/{job_id}/selection", json={"photo_id": str(photo_id)})
        return JobOut.model_validate_json(answer.content)

    def save_photos(self, job: JobOut, directory: Path) -> list[Path]:
        """Download the job's stored photos as `photo-1.jpg` and so on; the directory is made."""
        directory.mkdir(parents=True, exist_ok=True)
        saved = []
        for photo in job.photos:
            if photo.status is PhotoStatus.STORED and photo.url:
                # It may lead to the storage's own address; httpx gives our token to no other host.
                answer = self._ask("GET", photo.url, follow_redirects=True)
                extension = _EXTENSIONS.get(answer.headers.get("Content-Type", ""), "jpg")
                path = directory / f"photo-{photo.slot + 1}.{extension}"
                path.write_bytes(answer.content)
                saved.append(path)
        return saved

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._retrying(self._once, method, path, **options)

    def _once(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            unreachable = Unreachable(str(error) or type(error).__name__)
            unreachable.refused = isinstance(error, httpx.ConnectError)
            raise unreachable from error
        self.answered = True
        if answer.status_code in _NO_ANSWER:
            raise Unreachable(f"a gateway answered {answer.status_code}")
        if answer.is_success or answer.status_code == httpx.codes.NOT_MODIFIED:
            return answer
        try:
            body = answer.json()
        except ValueError:
            body = {}
        problem = ApiProblem(answer.status_code, body if isinstance(body, dict) else {})
        # Somebody who only asks can wait for a server to recover; who submits is told, and decides.
        problem.may_pass = method == "GET" and answer.is_server_error
        raise problem


def _after(job: JobOut, data: Mapping[str, Any]) -> JobOut:
    """The job as an event has left it: the last one brings all of it, any other what has changed."""
    if "id" in data:
        return JobOut.model_validate(data)
    photos = {photo["slot"]: photo for photo in data.get("photos", [data.get("photo")])}
    known = job.model_dump(mode="json")
    known["photos"] = [photos.get(photo["slot"], photo) for photo in known["photos"]]
    return JobOut.model_validate({**known, "status": data["status"], "progress": data["progress"]})


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, Unreachable) or (isinstance(error, ApiProblem) and error.may_pass)


def _failure(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def parse_server(server: str) -> httpx.URL:
    """Raises ValueError, with a sentence for the user."""
    try:
        address = httpx.URL(server)
    except httpx.InvalidURL:
        address = httpx.URL()
    if address.scheme not in ("http", "https") or not address.host:
        raise ValueError(f"{server!r} is not the address of a server, such as http://127.0.0.1:8000")
    return address
