"""`cuggu watch`, and how `cuggu generate` follows its job: by events, and by polls where those do not come through."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from cli.client import Client
from cli.event_source import read_events
from cli.main import app
from tests.api_client import Client as User
from tests.api_client import finish
from tests.stack import RunningStack
from tests.test_cli_generate import JOB, Answer, ScriptedApi, api, job, place, problem, run, seen

__all__ = ["api", "place"]  # fixtures

STREAM = f"GET /jobs/{JOB}/events"


def stream(*states: tuple[str, str], whole: bool = True) -> Answer:
    """Events after which the job is in these states; the last one brings the whole job if it has ended."""
    text = "retry: 1000\n\n: still here\n\n"
    before = "PPPP"
    for number, (status, letters) in enumerate(states, 1):
        now = job(status, letters)
        data: dict[str, Any] = {"status": status, "progress": now["progress"]}
        changed = [slot for slot in range(4) if letters[slot] != before[slot]]
        if status not in ("QUEUED", "PROCESSING"):
            data = {**now, "remaining_credits": 1}
        elif changed:
            data["photo"] = now["photos"][changed[0]]  # type: ignore[index]
        else:
            data["photos"] = now["photos"]
        text += f"id: {number}\nevent: some.event\ndata: {json.dumps(data)}\n\n"
        before = letters
    return 200, {"Content-Type": "text/event-stream; charset=utf-8"}, (text if whole else text[:-20]).encode()


def test_only_whole_events_are_read() -> None:
    lines = ["retry: 5", "", ": hello", "", "id: 7", "event: a.b", 'data: {"x": 1}', "", "id: 8", 'data: {"x": 2}']
    assert [(event.id, event.name, event.data) for event in read_events(lines)] == [(7, "a.b", {"x": 1})]


def test_generate_shows_each_event_and_asks_for_nothing_else(api: ScriptedApi, place: Path) -> None:
    way = [("QUEUED", "PPPP"), ("PROCESSING", "GPPP"), ("PROCESSING", "SPPP"), ("COMPLETED", "SSSS")]
    api.script[STREAM] = [stream(*way)]
    result = run("me.jpg", "--style", "CLASSIC", "--server", api.url, "--token", "t")
    assert result.exit_code == 0, result.output
    told = [line for line in result.output.splitlines() if "photo 1:" in line or line.startswith("job ")]
    assert [line.split(": ")[1] for line in told] == [
        "QUEUED", "waiting", "PROCESSING", "being made", "stored", "COMPLETED"
    ]  # fmt: skip
    assert len(list(place.glob("cuggu-*/photo-*.jpg"))) == 4
    assert api.calls(f"GET /jobs/{JOB}") == []


@pytest.mark.parametrize("whole", [True, False])
def test_events_that_break_off_are_followed_by_polls(api: ScriptedApi, whole: bool) -> None:
    api.script[STREAM] = [stream(("PROCESSING", "GPPP"), ("PROCESSING", "SPPP"), whole=whole)]
    api.script[f"GET /jobs/{JOB}"] = [seen("QUEUED", "PPPP"), seen("COMPLETED", "SSSS")]
    with Client(api.url, "a-token") as client:
        states = [known.status for known in client.watch(client.job(JOB))]
    assert states == [*["PROCESSING"] * (2 if whole else 1), "COMPLETED"]
    assert [call["query"] for call in api.calls(f"GET /jobs/{JOB}")] == [{}, {}]


def test_watch_tells_the_end_and_the_addresses(api: ScriptedApi, place: Path) -> None:
    api.script[STREAM] = [stream(("QUEUED", "PPPP"), ("PARTIAL", "SSFF"))]
    api.script[f"GET /jobs/{JOB}"] = [seen("PROCESSING", "SGGG")]
    result = CliRunner().invoke(app, ["watch", str(JOB), "--server", api.url, "--token", "t"])
    assert result.exit_code == 1
    assert "PARTIAL: 2 of 4 photos were made." in result.output
    assert result.stdout.splitlines()[:2] == [f"{api.url}{job('PARTIAL', 'SS')['photos'][n]['url']}" for n in (0, 1)]  # type: ignore[index]
    api.script[f"GET /jobs/{JOB}"] = [problem(404, "not_found", "There is nothing here")]
    gone = CliRunner().invoke(app, ["watch", str(JOB), "--server", api.url, "--token", "t"])
    assert (gone.exit_code, gone.output.strip()) == (1, "There is nothing here")


@pytest.mark.anyio
async def test_watch_follows_a_job_of_a_real_server(running_stack: Any, settings: Any, engine: Any) -> None:
    stack: RunningStack = running_stack(processes=("api",))
    async with httpx.AsyncClient(base_url=stack.api_url) as http:
        user = User(http, settings)
        submitted = (await user.submit()).json()
    token = user.headers["Authorization"].removeprefix("Bearer ")
    with Client(stack.api_url, token) as client:
        watching = client.watch(client.job(submitted["id"]))
        assert next(watching).status == "QUEUED"
        finish(engine, settings, submitted)  # and nobody is told: the API looks again by itself
        states = [(known.status, known.progress.done) for known in watching]
    assert states[-1] == ("COMPLETED", 4)
    assert ("PROCESSING", 3) in states
