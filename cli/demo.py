"""`cuggu demo`: one portrait in, four photos out, on this machine alone, with the proof of what it cost."""

import json as jsons
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, Any
from uuid import uuid4

import typer
from rich.console import Console

from api.schemas import CreditsOut, JobOut
from cli.client import ApiProblem, Client, Course, Unreachable
from cli.configuration import default_language, settings_of, stop
from cli.contact_sheet import contact_sheet
from cli.generate import INTERRUPTED, explain, explain_end, read_portrait
from cli.job_display import JobDisplay
from cli.processes import StartFailed, free_port, make_data_dir
from cli.stack import Ended, Stack, ambient_environment
from cli.vendors import Vendors, doubled_vendors
from shared.settings import Settings
from shared.states import JobStatus
from shared.styles import STYLES, Role, Style

SAMPLE = Path(__file__).parent / "sample" / "astronaut.jpg"
READY_SECONDS = 120
# A job reaches its end within ten minutes whatever happens; a demonstration gives up sooner.
GENERATE_SECONDS = 300
POLL_SECONDS = 1.0  # short, because the processes are looked after between two polls


def register(app: typer.Typer) -> None:
    app.command()(demo)


@dataclass
class _Result:
    job: JobOut
    course: Course
    photos: list[Path]
    sheet: Path
    before: int
    ledger: CreditsOut
    seconds: dict[str, float] = field(default_factory=dict)
    vendors: dict[str, Any] | None = None


def demo(
    portrait: Annotated[
        Path, typer.Option(help="One person's portrait: JPEG, PNG, WebP or HEIC.", show_default="a sample portrait")
    ] = SAMPLE,
    style: Annotated[str, typer.Option(help=f"One of {', '.join(Style)}.")] = Style.ROMANTIC.value,
    role: Annotated[str | None, typer.Option(help="GROOM or BRIDE.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for the photos.", show_default=".cuggu/demo/photos/<time and job>")
    ] = None,
    vendors: Annotated[
        bool,
        typer.Option(
            "--vendors", help="Use the real Replicate, Azure and S3 clients, against doubles started for the purpose."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Show the whole system at work: start it, make four photos of one portrait, say what it cost, and end it.

    Everything runs on this machine, on free ports and on data of its own in .cuggu/demo (with --vendors in
    .cuggu/demo-vendors), so a running `cuggu serve` is not disturbed, and no setting of yours but DATA_DIR is used.
    Each run is a new user with two credits.
    """
    wanted = style.upper()
    if wanted not in Style.__members__:
        raise stop(f"There is no style {style}: choose one of {', '.join(Style)}.", 2)
    if role is not None and role.upper() not in Role.__members__:
        raise stop(f"There is no role {role}: choose GROOM or BRIDE.", 2)
    picture = read_portrait(portrait)
    data_dir = Path(ambient_environment().get("DATA_DIR", ".cuggu")).absolute()
    # The doubles' bucket ends with them: a directory of its own keeps the other one's photos where its rows say.
    data_dir /= "demo-vendors" if vendors else "demo"
    out = out.absolute() if out else None
    console = Console(stderr=json, quiet=json and not Console(stderr=True).is_terminal)
    stack = Stack(data_dir, environment=_environment(), processes=("api", "worker", "beat"), port=free_port())
    began = time.monotonic()
    try:
        with _ending_on_signals(stack) as stopping, ExitStack() as running:
            make_data_dir(data_dir)
            running.enter_context(chdir(data_dir))  # no .env is read there
            doubles = running.enter_context(_vendors(stack)) if vendors else None
            running.callback(stack.stop)
            running.callback(stopping.set)
            result = _run(stack, doubles, picture, portrait.name, Style(wanted), role, out, JobDisplay(console))
            done = time.monotonic()
        result.seconds |= {"stop": time.monotonic() - done, "total": time.monotonic() - began}
    except StartFailed as error:
        raise stop(str(error)) from None
    except ApiProblem as problem:
        raise stop(explain(problem)) from None
    except (Unreachable, _GaveUp) as error:
        raise stop(f"{error} What the processes said is in {data_dir / 'logs'}.") from None
    except (Ended, KeyboardInterrupt):
        raise stop("Stopped.", INTERRUPTED) from None
    if result.job.status is not JobStatus.COMPLETED:
        raise stop(explain_end(result.job, len(result.photos)))
    if json:
        typer.echo(jsons.dumps(_as_json(result), ensure_ascii=False, indent=2))
    else:
        _print(console, result)


class _GaveUp(Exception):
    """The job did not end in the time that a demonstration has."""


def _run(
    stack: Stack,
    doubles: Vendors | None,
    picture: bytes,
    name: str,
    style: Style,
    role: str | None,
    out: Path | None,
    display: JobDisplay,
) -> _Result:
    from api.auth import development_token  # noqa: PLC0415

    marks = [time.monotonic()]
    display.say("Starting the servers, the API and a worker ...")
    stack.start()
    stack.wait_ready(READY_SECONDS)
    marks.append(time.monotonic())
    token = development_token(settings_of(stack.environment), f"demo-{uuid4().hex[:12]}@example.com")
    with Client(stack.api_url, token, language=default_language(), on_lost=display.say) as client, display:
        before = client.me().credits  # first sight: the user is made, with the sign-up credits
        submitting = time.monotonic()
        submitted = client.submit(picture, name, style.value, role.upper() if role else None, uuid4().hex)
        marks.append(time.monotonic())
        course = Course()
        course.note(submitted)
        display.show(submitted)
        job: JobOut = submitted

        def tend() -> None:
            if stack.ending:
                raise Ended
            stack.tend()
            if time.monotonic() - marks[-1] > GENERATE_SECONDS:
                raise _GaveUp(f"The job has not ended within {GENERATE_SECONDS} seconds.")

        for job in client.follow(submitted.id, wait_seconds=POLL_SECONDS, between=tend):
            course.note(job)
            display.show(job)
        marks.append(time.monotonic())
        out = out or _own_place(stack.data_dir, job)
        photos = client.save_photos(job, out)
        sheet = out / "contact-sheet.jpg"
        if job.status is JobStatus.COMPLETED:
            job = client.choose(job.id, job.photos[0].id)
            contact_sheet(photos, [path.name for path in photos], sheet, title=STYLES[style].label_en)
        ledger = client.credits()
    result = _Result(job, course, photos, sheet, before, ledger)
    result.seconds = {
        "start": marks[1] - marks[0],
        "submit": marks[2] - submitting,
        "generate": marks[3] - marks[2],
    }
    if doubles:
        result.vendors = doubles.proof(job.id, stack.environment["DATABASE_URL"])
    return result


def _own_place(data_dir: Path, job: JobOut) -> Path:
    photos = data_dir / "photos"
    photos.mkdir(mode=0o700, exist_ok=True)  # the pictures of people are nobody else's to look at
    return photos / f"{datetime.now():%Y%m%d-%H%M%S}-{str(job.id)[:8]}"


@contextmanager
def _vendors(stack: Stack) -> Iterator[Vendors]:
    with doubled_vendors(stack.data_dir / "logs") as doubles:
        stack.environment |= doubles.environment
        yield doubles


def _environment() -> dict[str, str]:
    """Our own environment without any setting of the system: a demonstration must reach nobody's database."""
    settings = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name.upper() not in settings}


@contextmanager
def _ending_on_signals(stack: Stack) -> Iterator[threading.Event]:
    """The first signal asks for an end in order; a later one breaks off what is going on, or hurries the end.

    Nothing is raised at first, because Python swallows what is raised inside some callbacks. Yields the event to be
    set when the end begins.
    """
    stopping = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stack.ending:
            stack.hurry.set()
            if not stopping.is_set():
                raise KeyboardInterrupt
        stack.ending = True

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    earlier = [signal.signal(number, ask) for number in numbers]
    try:
        yield stopping
    finally:
        for number, handler in zip(numbers, earlier, strict=True):
            signal.signal(number, handler)


def _as_json(result: _Result) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "job": {**result.job.model_dump(mode="json"), "states": result.course.states},
        "photos": [str(path) for path in result.photos],
        "contact_sheet": str(result.sheet),
        "credits": {"before": result.before, "after": result.ledger.credits},
        "ledger": [entry.model_dump(mode="json") for entry in result.ledger.entries],
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
    }
    return shown | ({"vendors": result.vendors} if result.vendors else {})


def _print(console: Console, result: _Result) -> None:
    lines = ["", f"Job {result.job.id}"]
    lines += [f"  {state['at']}  {state['status']}" for state in result.course.states]
    lines += ["Photos", *(f"  {path}" for path in result.photos), f"  all four: {result.sheet}"]
    chosen = next(photo for photo in result.job.photos if photo.id == result.job.selected_photo_id)
    lines += [f"Chosen: photo {chosen.slot + 1} ({chosen.id})"]
    lines += [f"Credits: {result.before} -> {result.ledger.credits}"]
    lines += [
        f"  {entry.created_at:%H:%M:%S}  {entry.kind:<7} {entry.amount:+d}  balance {entry.balance_after}"
        + (f"  job {entry.job_id}" if entry.job_id else "")
        for entry in reversed(result.ledger.entries)
    ]
    if result.vendors:
        attempts = result.vendors["attempts"]
        lines += [
            f"Replicate's books: {len(result.vendors['replicate']['predictions'])} predictions",
            *(
                f"  {attempt['prediction_id']}  {attempt['cost']} {attempt['currency']}"
                f"  {attempt['provider_seconds']:.1f} s"
                for attempt in attempts
            ),
            f"Azure's books: {result.vendors['azure']['calls']} call",
            f"S3: {len(result.vendors['s3']['objects'])} photos in {result.vendors['s3']['bucket']}",
        ]
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items())
    lines += [f"Seconds: {seconds}"]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
