"""A job on its way, shown live: one bar per photo at a terminal, one line per change elsewhere."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar

from api.schemas import JobOut, PhotoOut
from shared.states import ACTIVE_JOB, ACTIVE_PHOTO, PhotoStatus

_WORDS = {
    PhotoStatus.PENDING: "waiting",
    PhotoStatus.GENERATING: "being made",
    PhotoStatus.STORED: "[green]stored[/]",
    PhotoStatus.FAILED: "[red]given up[/]",
    PhotoStatus.CANCELED: "canceled",
}


class _Bar(BarColumn):
    """Nobody knows how far a photo is: its bar moves to and fro while it is being made."""

    def render(self, task: Task) -> ProgressBar:
        bar = super().render(task)
        bar.pulse = task.fields["pulses"]
        return bar


class JobDisplay:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            _Bar(28, finished_style="green"),
            TextColumn("{task.fields[word]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[int, TaskID] = {}
        self._shown: dict[int, PhotoStatus] = {}
        self._status = ""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, sentence: str) -> None:
        """A line above the bars."""
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def show(self, job: JobOut) -> None:
        if job.status in ACTIVE_JOB:
            self._show_status(job)
        for photo in job.photos:
            if self._shown.get(photo.slot) is not photo.status:
                self._shown[photo.slot] = photo.status
                self._move(photo)
        self._show_status(job)

    def _show_status(self, job: JobOut) -> None:
        if job.status != self._status:
            self._status = job.status
            self._console.print(f"job {job.id}: [bold]{job.status}[/]", highlight=False, soft_wrap=True)

    def _move(self, photo: PhotoOut) -> None:
        name, word = f"photo {photo.slot + 1}", _WORDS[photo.status]
        if not self._console.is_terminal:
            self._console.print(f"  {name}: {word}", highlight=False)
            return
        if photo.slot not in self._tasks:
            self._tasks[photo.slot] = self._bars.add_task(name, total=1, word=word, pulses=False)
        task = self._tasks[photo.slot]
        self._bars.update(
            task,
            completed=int(photo.status is PhotoStatus.STORED),
            word=word,
            pulses=photo.status is PhotoStatus.GENERATING,
        )
        if photo.status not in ACTIVE_PHOTO:
            self._bars.stop_task(task)
