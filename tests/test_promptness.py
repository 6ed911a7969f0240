"""How soon after its row says STORED a photo is seen: in the page by an eye, in `cuggu generate` as a line."""

import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import pytest
from playwright.sync_api import Browser
from sqlalchemy import Engine, text

from tests import photos as pictures
from tests.stack import RunningStack
from tests.visitor import Visitor

pytestmark = pytest.mark.timeout(300)

PROMPT_SECONDS = 0.5
# On a machine that other tests keep busy one may be late; a poll would make all of them late, and by seconds.
LATEST_SECONDS = 2.0

# By the browser's clock, which is the machine's, as the database's is.
NOTE_WHEN_SEEN = """() => {
    globalThis.seen = {};
    const look = () => {
        document.querySelectorAll(".frame").forEach((frame, slot) => {
            if (frame.querySelector("img.developed")) globalThis.seen[slot] ??= Date.now() / 1000;
        });
        requestAnimationFrame(look);
    };
    look();
}"""


def stored_at(engine: Engine, job_id: str) -> list[float]:
    """Seconds since 1970, by slot."""
    rows = "SELECT extract(epoch FROM stored_at)::float8 FROM photos WHERE job_id = :job ORDER BY slot"
    with engine.connect() as connection:
        return list(connection.execute(text(rows), {"job": job_id}).scalars())


def is_prompt(delays: list[float]) -> bool:
    print(f"seconds from stored to seen: {[round(delay, 3) for delay in sorted(delays)]}")
    return len(delays) == 4 and median(delays) < PROMPT_SECONDS and max(delays) < LATEST_SECONDS


@pytest.fixture
def stack(running_stack: Callable[..., RunningStack]) -> RunningStack:
    return running_stack(env={"PREVIEW_SECONDS": "1", "CHECK_INTERVAL_SECONDS": "0.3"})


def test_the_page_shows_a_photo_at_once(browser: Browser, stack: RunningStack, engine: Engine) -> None:
    with Visitor(browser, stack.api_url, language="en") as visitor:
        visitor.sign_in()
        visitor.page.evaluate(NOTE_WHEN_SEEN)
        job_id = visitor.ask()
        visitor.stored(4)
        visitor.title("job.title.COMPLETED")
        seen = visitor.page.evaluate("globalThis.seen")
    assert is_prompt([seen[str(slot)] - stored for slot, stored in enumerate(stored_at(engine, job_id))])


def test_cuggu_generate_tells_a_photo_at_once(stack: RunningStack, engine: Engine, tmp_path: Path) -> None:
    portrait = tmp_path / "me.jpg"
    portrait.write_bytes(pictures.one_face())
    command = ["generate", str(portrait), "--style", "MODERN", "--server", stack.api_url, "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", *command],
        cwd=tmp_path,
        env=stack.env | {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    guard = threading.Timer(120, process.kill)
    guard.start()
    told: dict[int, float] = {}
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("  photo ") and line.rstrip().endswith(": stored"):
            told[int(line.split()[1].rstrip(":")) - 1] = datetime.now(UTC).timestamp()
    guard.cancel()
    assert process.wait() == 0, "".join(lines)
    with engine.connect() as connection:
        job_id = str(connection.execute(text("SELECT id FROM jobs")).scalar_one())
    assert is_prompt([told[slot] - stored for slot, stored in enumerate(stored_at(engine, job_id))])
