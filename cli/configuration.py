"""The settings that a command works with: those of this directory, or of the stack that runs here."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, PydanticBaseSettingsSource, SettingsError

from cli.running_record import environment_of_running_stack
from cli.stack import ambient_environment
from shared.settings import Settings, what_is_wrong

# For commands that need settings and speak to neither server.
_NOBODY = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1/0"}


def environment_here() -> dict[str, str]:
    """`.env`, overruled by the environment; where they name no servers, those of a `cuggu serve` that runs here."""
    ambient = ambient_environment()
    running = environment_of_running_stack(Path(ambient.get("DATA_DIR", ".cuggu")).absolute())
    return {**(running or {}), **ambient}


class SettingsWrong(Exception):
    """The text says what is wrong, without any value, which may be a secret."""


def settings_of(environment: Mapping[str, str]) -> Settings:
    """The settings that a process with just this environment would have. Raises SettingsWrong."""

    class Given(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: Any, *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            source = EnvSettingsSource(settings_cls)
            source.env_vars = {name.lower(): value for name, value in environment.items() if value}
            return (source,)

    try:
        return Given()
    except (ValidationError, SettingsError) as error:
        raise SettingsWrong(what_is_wrong(error)) from None


def settings_here(*, need_servers: bool = True) -> Settings:
    """As `settings_of(environment_here())`; what is wrong is told in a sentence, and ends the command."""
    environment = environment_here()
    if need_servers and not environment.get("DATABASE_URL"):
        raise stop("DATABASE_URL is not set, and no `cuggu serve` runs here. Set it, or start one.")
    try:
        return settings_of({**_NOBODY, **environment})
    except SettingsWrong as error:
        raise stop(f"The settings are wrong: {error}.") from None


def stop(sentence: str, code: int = 1) -> typer.Exit:
    """Say why on standard error; raise what this returns."""
    typer.echo(sentence, err=True)
    return typer.Exit(code)


def default_language() -> str:
    """`ko` or `en`, by the environment's locale."""
    chosen = next((value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := os.environ.get(name))), "")
    return "ko" if chosen.lower().startswith("ko") else "en"
