"""Who typed the command, for the list of what staff did."""

import os
import pwd
from typing import Annotated

import typer

from shared.staff_actions import Actor

ActorOption = Annotated[
    str | None, typer.Option("--actor", help="Who does this, for the list of actions; else the system's user.")
]


def actor_of(given: str | None) -> Actor:
    """The one that was given, or the account of the operating system that runs this."""
    return Actor.command((given or "").strip() or _account())


def _account() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # in a container whose user has no name
        return f"uid {os.getuid()}"
