"""Read server-sent events from a stream of lines, as far as our own API sends them."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ServerEvent:
    id: int
    name: str
    data: dict[str, Any]


def read_events(lines: Iterable[str]) -> Iterator[ServerEvent]:
    """Each event when its empty line has come; comments and settings are passed over. Raises ValueError."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if line:
            fields[name] = value.removeprefix(" ")
            continue
        if "data" in fields:
            yield ServerEvent(int(fields.get("id", 0)), fields.get("event", ""), json.loads(fields["data"]))
        fields = {}
