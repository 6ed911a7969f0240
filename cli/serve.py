"""`cuggu serve`: the whole stack in the foreground."""

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from cli.log_follower import LogFollower
from cli.processes import StartFailed
from cli.stack import COMMANDS, Ended, Stack, ambient_environment

TEND_SECONDS = 0.25


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    port: Annotated[int, typer.Option(help="Port of the API.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address the API listens on. Development sign-in is served on loopback only.")
    ] = "127.0.0.1",
    flower_port: Annotated[int, typer.Option(help="Port of Flower, the view into queues and workers.")] = 5555,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="Leave the logs in their files; do not print them.")] = False,
) -> None:
    """Run the whole system in the foreground: API, worker, beat, Flower, and the servers they need.

    PostgreSQL and Redis are started from the installed packages, with their data in .cuggu/ (or DATA_DIR), unless
    DATABASE_URL or REDIS_URL names others, in the environment or in .env. The database is migrated first. A process
    that dies is started again. Ctrl-C ends everything in order and keeps the data; a second Ctrl-C ends it at once.
    """
    environment = ambient_environment()
    more_workers = [f"worker-{number}" for number in range(2, workers + 1)]
    stack = Stack(
        Path(environment.get("DATA_DIR", ".cuggu")),
        environment=environment,
        processes=[*COMMANDS, *more_workers],
        host=host,
        port=port,
        flower_port=flower_port,
    )
    end_on_signals(stack)
    follower = None if quiet else LogFollower(stack.data_dir / "logs")
    try:
        typer.echo("Starting ...")
        stack.start()
        if follower:
            follower.start()
        stack.wait_ready()
        _introduce(stack)
        while not stack.ending:
            stack.tend()
            time.sleep(TEND_SECONDS)
    except StartFailed as error:
        typer.echo(f"\n{error}", err=True)
        raise typer.Exit(1) from None
    except Ended:
        pass
    finally:
        typer.echo("Stopping ... (Ctrl-C again: at once)" if stack.ending else "Stopping ...")
        stack.stop()
        if follower:
            follower.stop()


def end_on_signals(stack: Stack) -> None:
    """The first signal asks for an orderly end, the second for a quick one."""

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stack.ending:
            stack.hurry.set()
        stack.ending = True

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, ask)


def _introduce(stack: Stack) -> None:
    user, password = stack.flower_login.split(":", 1)
    typer.echo(f"""
Cuggu is ready.
  API          {stack.api_url}/docs
  Flower       {stack.flower_url}/   user {user}, password {password}
  a token      cuggu token someone@example.com
  data         {stack.data_dir}
  logs         {stack.data_dir / "logs"}
Ctrl-C ends it.
""")
