"""Azure Face's double for the measures that need it: it finds the face that it is told of, and looks for none."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx

from tests.doubles.azure_double import KEY
from tests.doubles.processes import start_double


@contextmanager
def azure_face(face: Mapping[str, int], latency_seconds: float = 0.0) -> Iterator[dict[str, str]]:
    """The settings that lead to it. `face` is its rectangle, in pixels of the portrait: left, top, width, height."""
    with start_double("tests.doubles.azure_double", "--key", KEY) as url:
        dials = {"faces": [dict(face)], "latency_seconds": latency_seconds}
        httpx.post(f"{url}/_dials", json=dials, trust_env=False).raise_for_status()
        yield {
            "FACE_CHECKER": "azure",
            "AZURE_FACE_ENDPOINT": url,
            "AZURE_FACE_API_KEY": KEY,
            "AZURE_FACE_CALLS_PER_MINUTE": "6000",
        }
