"""How to know that a process does its work, and not merely exists."""

import httpx


def answers(url: str) -> bool:
    """Whether it says 200, within two seconds."""
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
