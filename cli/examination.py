"""Examining parts: all side by side, each within a bounded time, and no secret comes out."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import SecretStr
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from shared.settings import Settings

LIMIT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of trying one part.

    Attributes:
        configured: what the settings name, without secrets.
        says: what it answered, or what is wrong.
        do: what to do about it; empty when nothing is.
    """

    part: str
    ok: bool
    configured: str
    says: str
    do: str = ""


class Wrong(Exception):
    """The part does not work: (what is wrong, what to do)."""


@dataclass(frozen=True, slots=True)
class Examination:
    """How to name what is configured, and how to try it. `attempt` returns what was seen, or raises Wrong."""

    configured: Callable[[Settings], str]
    attempt: Callable[[Settings], str]
    needs: str = ""  # a setting without which there is nothing to try


def examine(settings: Settings, parts: Mapping[str, Examination], absent: Sequence[str]) -> list[Finding]:
    """Try all parts side by side, each for `LIMIT_SECONDS` at most. `absent` names the servers that are not set."""
    findings: dict[str, Finding] = {}

    def run(part: str, examination: Examination) -> None:
        configured = examination.configured(settings)
        try:
            says = examination.attempt(settings)
        except Wrong as wrong:
            what, do = wrong.args
            findings[part] = Finding(part, False, configured, what, do)
        except Exception as error:  # noqa: BLE001 - whatever a part raises, the others are told of too
            findings[part] = Finding(part, False, configured, f"{type(error).__name__}: {first_line(error)}")
        else:
            findings[part] = Finding(part, True, configured, says)

    threads: dict[str, threading.Thread] = {}
    for part, examination in parts.items():
        if examination.needs in absent:
            do = f"start `cuggu serve` here, or set {examination.needs}"
            findings[part] = Finding(part, False, "not set", f"{examination.needs} is not set, and no stack runs", do)
            continue
        # A daemon: one that hangs beyond its time must not keep the command from ending.
        threads[part] = threading.Thread(target=run, args=(part, examination), daemon=True)
        threads[part].start()
    for part, thread in threads.items():
        thread.join(LIMIT_SECONDS)
        if thread.is_alive():
            late = f"no answer within {LIMIT_SECONDS:.0f} seconds"
            do = "check that the address is right and that this machine may reach it"
            findings[part] = Finding(part, False, parts[part].configured(settings), late, do)
    secrets = _secrets(settings)
    return [_without(secrets, findings[part]) for part in parts]


def first_line(error: BaseException) -> str:
    """Of its message, or its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip().rstrip(".")


def _secrets(settings: Settings) -> list[str]:
    """Every secret there is, so that no part's own words can carry one out."""
    found = []
    for name in Settings.model_fields:
        value = getattr(settings, name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, SecretStr):
                found.append(item.get_secret_value())
    for url in (settings.database_url, settings.redis_url):
        try:
            password = make_url(url).password
        except ArgumentError:
            password = url  # nobody can tell which part of it is the secret
        found.append(str(password or ""))
    return sorted(filter(None, found), key=len, reverse=True)


def _without(secrets: Sequence[str], finding: Finding) -> Finding:
    says = finding.says
    for secret in secrets:
        says = says.replace(secret, "***")
    return replace(finding, says=says.rstrip("."), do=finding.do.rstrip("."))
