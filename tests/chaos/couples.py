"""The users of a schedule: they order, double their orders, repeat what was not answered, cancel, and ask again."""

import time
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import httpx

from tests.chaos.schedules import Order, Schedule

GIVES_UP_SECONDS = 180.0
AGAIN_SECONDS = 0.3  # where nobody listened
REFUSED_SECONDS = 2.0  # where somebody who has too much to do said so; asking at once would give them more
TIMEOUT_SECONDS = 10.0
ENDED_ALREADY = 409


class Door(Protocol):
    """How a system's API is spoken to."""

    url: str
    idempotent: bool  # whether a request may be repeated under an Idempotency-Key
    cancels: bool

    def headers(self, email: str) -> Mapping[str, str]: ...

    def accepted(self, answer: httpx.Response) -> UUID | None:
        """The job that this answer to a submission names; None if it accepted none."""
        ...


@dataclass
class Receipt:
    """What a couple was told of one order: all answers it got, and when the first of them came."""

    key: str
    order: Order
    job_ids: list[UUID] = field(default_factory=list)
    accepted_at: float = 0.0  # seconds since the epoch
    complaints: list[str] = field(default_factory=list)

    @property
    def job_id(self) -> UUID | None:
        return self.job_ids[0] if self.job_ids else None


class Couple:
    """One user, who is the only one of their schedule, so that its credits are its own."""

    def __init__(self, schedule: Schedule, door: Door, portrait: bytes, threads: Executor) -> None:
        self.seed = schedule.seed
        self.email = f"couple-{schedule.seed}@chaos.test"
        self.receipts = [Receipt(f"{schedule.seed}-{number}", order) for number, order in enumerate(schedule.orders)]
        self._door, self._portrait, self._threads = door, portrait, threads
        self._http = httpx.Client(
            base_url=door.url,
            headers=dict(door.headers(self.email)),
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
            verify=False,  # plain http; reading the certificates would take longer than ordering
        )
        self._under_way: list[Future[None]] = []

    @property
    def busy(self) -> bool:
        return not all(future.done() for future in self._under_way)

    @property
    def job_ids(self) -> list[UUID]:
        return [receipt.job_id for receipt in self.receipts if receipt.job_id is not None]

    def begin(self) -> None:
        began = time.monotonic()
        for receipt in self.receipts:
            twice = 2 if receipt.order.doubled and self._door.idempotent else 1
            self._under_way += [self._threads.submit(self._order, receipt, began) for _ in range(twice)]

    def ask_again(self) -> None:
        """After the end: the same request under the same key is the same job, another request is refused."""
        if self._door.idempotent:
            self._under_way += [self._threads.submit(self._repeat, receipt) for receipt in self.receipts]

    def raise_for_defects(self) -> None:
        """Whatever went wrong in the threads, other than the system's refusals, is a defect of ours."""
        for future in self._under_way:
            future.result()

    def close(self) -> None:
        self._http.close()

    def _order(self, receipt: Receipt, began: float) -> None:
        time.sleep(max(0.0, began + receipt.order.after_seconds - time.monotonic()))
        self._until_accepted(receipt)
        if receipt.order.cancel_after_seconds is not None and receipt.job_id is not None and self._door.cancels:
            time.sleep(receipt.order.cancel_after_seconds)
            self._until_canceled(receipt, receipt.job_id)

    def _until_accepted(self, receipt: Receipt) -> None:
        deadline = time.monotonic() + GIVES_UP_SECONDS
        last = "no answer"
        while time.monotonic() < deadline:
            try:
                answer = self._submit(receipt, receipt.order.style)
            except httpx.TransportError as error:
                last = type(error).__name__
            else:
                job_id = self._door.accepted(answer)
                if job_id is not None:
                    receipt.accepted_at = receipt.accepted_at or time.time()
                    receipt.job_ids.append(job_id)
                    return
                last = f"{answer.status_code} {answer.text[:200]}"
                if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    break
                time.sleep(REFUSED_SECONDS)
            time.sleep(AGAIN_SECONDS)
        receipt.complaints.append(f"never accepted: {last}")

    def _repeat(self, receipt: Receipt) -> None:
        deadline = time.monotonic() + GIVES_UP_SECONDS
        asked: dict[str, httpx.Response] = {}
        other = "VINTAGE" if receipt.order.style != "VINTAGE" else "MODERN"
        for style in (receipt.order.style, other):
            while time.monotonic() < deadline:
                try:
                    answer = self._submit(receipt, style)
                except httpx.TransportError:
                    time.sleep(AGAIN_SECONDS)
                    continue
                if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    asked[style] = answer
                    break
                time.sleep(AGAIN_SECONDS)
        same, different = (asked.get(style) for style in (receipt.order.style, other))
        if same is not None and (job_id := self._door.accepted(same)) is not None:
            receipt.job_ids.append(job_id)
        else:
            receipt.complaints.append(f"repeated, and got {same.text[:200] if same is not None else 'no answer'}")
        if different is None or different.status_code != httpx.codes.CONFLICT:
            receipt.complaints.append("another request under the same key was not refused with 409")

    def _until_canceled(self, receipt: Receipt, job_id: UUID) -> None:
        deadline = time.monotonic() + GIVES_UP_SECONDS
        while time.monotonic() < deadline:
            try:
                answer = self._http.post(f"/jobs/{job_id}/cancel")
            except httpx.TransportError:
                time.sleep(AGAIN_SECONDS)
                continue
            if answer.is_success or answer.status_code == ENDED_ALREADY:
                return
            if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                receipt.complaints.append(f"cancel answered {answer.status_code} {answer.text[:200]}")
                return
            time.sleep(AGAIN_SECONDS)
        receipt.complaints.append("cancel was never answered")

    def _submit(self, receipt: Receipt, style: str) -> httpx.Response:
        return self._http.post(
            "/jobs",
            files={"image": ("portrait.jpg", self._portrait, "image/jpeg")},
            data={"style": style},
            headers={"Idempotency-Key": receipt.key} if self._door.idempotent else {},
        )
