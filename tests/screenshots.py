"""`make screenshots`: the pictures of the page that the documents show, taken from the running system."""

import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from PIL import Image
from playwright.sync_api import Browser, expect

from api.auth import development_token
from cli.processes import free_port
from cli.stack import Stack
from shared.settings import Settings
from tests import photos as pictures
from tests.browser import open_browser
from tests.visitor import Visitor

IMAGES = Path(__file__).parents[1] / "docs" / "images"
GAP = 48
PHONES_WIDTH, DESKTOP_WIDTH = 1560, 1440  # pixels of the finished pictures
QUALITY = 82
# Long enough that progress can be photographed; the jobs before teach the API how long that is.
SETTINGS = {"PREVIEW_SECONDS": "6", "SIGNUP_CREDITS": "3"}
TAUGHT_BY = 6
JOB_SECONDS = 120


@contextmanager
def running_system(data_dir: Path) -> Iterator[Stack]:
    data_dir.chmod(0o711)  # under root PostgreSQL has an account of its own, which must get through
    ours = {name.upper() for name in Settings.model_fields}
    environment = {name: value for name, value in os.environ.items() if name.upper() not in ours}
    stack = Stack(data_dir, environment=environment | SETTINGS, processes=("api", "worker", "beat"), port=free_port())
    with chdir(data_dir):  # where no .env is read
        try:
            stack.start()
            stack.wait_ready()
            yield stack
        finally:
            stack.stop()


def teach(stack: Stack) -> None:
    """Have a few jobs made, so that the page can say how long one takes."""
    settings = Settings(_env_file=None, database_url="postgresql://", redis_url="redis://")
    for number in range(TAUGHT_BY):
        token = development_token(settings, f"earlier-{number}@example.com")
        with httpx.Client(
            base_url=stack.api_url, headers={"Authorization": f"Bearer {token}"}, trust_env=False
        ) as http:
            files = {"image": ("me.jpg", pictures.one_face(), "image/jpeg")}
            job = http.post("/jobs", files=files, data={"style": "CLASSIC"}, timeout=30).raise_for_status().json()
            while http.get(f"/jobs/{job['id']}?wait=30", timeout=60).json()["status"] in ("QUEUED", "PROCESSING"):
                pass


def taken(visitor: Visitor, *, whole: bool = False) -> Image.Image:
    return Image.open(BytesIO(visitor.page.screenshot(full_page=whole)))


def on_the_phone(browser: Browser, stack: Stack, language: str) -> list[Image.Image]:
    """A style being chosen, photos arriving, and the light table."""
    with Visitor(browser, stack.api_url, language=language, device_scale_factor=2) as visitor:
        visitor.sign_in()
        visitor.give()
        visitor.choose_style("CLASSIC")
        visitor.agree()
        visitor.page.locator(".portrait-field").scroll_into_view_if_needed()
        shots = [taken(visitor)]
        visitor.press("submit")
        visitor.job_id()
        expect(visitor.page.locator(".frame img.developed").first).to_be_attached(timeout=JOB_SECONDS * 1000)
        shots.append(taken(visitor))
        visitor.title("job.title.COMPLETED")
        visitor.stored(4)
        visitor.follow("frame.open", number=3)
        visitor.press("photo.choose")
        settled(visitor)
        shots.append(taken(visitor))
    return shots


def on_the_desktop(browser: Browser, stack: Stack, language: str) -> Image.Image:
    """The light table."""
    with Visitor(browser, stack.api_url, phone=False, language=language, device_scale_factor=2) as visitor:
        visitor.sign_in()
        visitor.ask("ROMANTIC")
        visitor.title("job.title.COMPLETED")
        visitor.stored(4)
        visitor.press("photo.choose.label", number=1)
        visitor.page.mouse.move(0, 0)
        settled(visitor)
        return taken(visitor, whole=True)


def settled(visitor: Visitor) -> None:
    """Everything has faded in."""
    visitor.page.wait_for_function("document.getAnimations().every(one => one.playState === 'finished')")


def side_by_side(shots: list[Image.Image]) -> Image.Image:
    width = sum(shot.width for shot in shots) + GAP * (len(shots) - 1)
    sheet = Image.new("RGB", (width, max(shot.height for shot in shots)), (255, 255, 255))
    left = 0
    for shot in shots:
        sheet.paste(shot, (left, 0))
        left += shot.width + GAP
    return sheet


def save(picture: Image.Image, name: str, width: int) -> None:
    height = round(picture.height * width / picture.width)
    path = IMAGES / name
    picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS).save(
        path, "WEBP", quality=QUALITY, method=6
    )
    print(f"{path.stat().st_size / 1000:6.1f} kB  {path}")


def main() -> None:
    with (
        TemporaryDirectory(prefix="cuggu-screenshots-", ignore_cleanup_errors=True) as folder,
        running_system(Path(folder)) as stack,
        open_browser(Path(folder) / "browser.lock") as browser,
    ):
        teach(stack)
        for language in ("ko", "en"):
            save(side_by_side(on_the_phone(browser, stack, language)), f"page-phone-{language}.webp", PHONES_WIDTH)
            save(on_the_desktop(browser, stack, language), f"page-desktop-{language}.webp", DESKTOP_WIDTH)


if __name__ == "__main__":
    main()
