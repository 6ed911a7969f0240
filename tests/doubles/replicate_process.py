"""The doubled Replicate as a test sees it: a running process, its dials and its books."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.doubles.processes import start_double
from tests.doubles.replicate_double import SECRET, TOKEN


@dataclass(frozen=True)
class DoubledReplicate:
    url: str
    web: httpx.Client
    token: str = TOKEN
    webhook_secret: str = SECRET

    def turn(self, **dials: Any) -> None:
        """Change some dials; AssertionError with the reason for one that does not exist."""
        answer = self.web.post("/_dials", json=dials)
        assert answer.is_success, answer.text

    def reset(self) -> None:
        """All dials as they were at the start, full rate limits; the books go on."""
        self.web.delete("/_dials").raise_for_status()

    def book(self, part: str) -> list[dict[str, Any]]:
        """`requests`, `refused`, `predictions` or `webhooks`, oldest first."""
        entries: list[dict[str, Any]] = self.web.get("/_books", params={"part": part}).json()[part]
        return entries

    def entry(self, prediction_id: str) -> dict[str, Any]:
        """What the books say about one prediction."""
        return next(entry for entry in self.book("predictions") if entry["id"] == prediction_id)


@contextmanager
def doubled_replicate(*args: str) -> Iterator[DoubledReplicate]:
    """Run the double with these options (`--speed 100`) for as long as the block lasts."""
    with (
        start_double("tests.doubles.replicate_double", *args) as url,
        httpx.Client(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False) as web,
    ):
        yield DoubledReplicate(url, web)
