"""What the log says, and what it must never say, in both of its forms."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from pydantic import ValidationError

from shared.settings import Settings
from shared.telemetry import configure_logging

SECRET = "Zq7unspeakableZq7"


@pytest.fixture(params=["console", "json"])
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """Either form of the log. Whatever a test configures is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield request.param
    root.handlers = handlers
    root.setLevel(level)


def begin_logging(settings: Settings, form: str) -> None:
    """As a process would. To be called by the test itself: for each phase, pytest has another standard error."""
    configure_logging(settings.model_copy(update={"log_format": form}))


def fail(password: str) -> None:
    token = f"Bearer {password}"
    raise RuntimeError(f"could not reach postgresql://cuggu:{password}@127.0.0.1/cuggu with {len(token)} letters")


def test_a_traceback_shows_lines_but_no_values(
    offline_settings: Settings, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begin_logging(offline_settings, form)
    try:
        fail(SECRET)
    except RuntimeError as error:
        structlog.get_logger().error("request.crashed", exc_info=error)
        logging.getLogger("some.library").exception("it failed")
    told = capsys.readouterr().err
    assert SECRET not in told
    assert told.count("Traceback (most recent call last)") == 2
    assert told.count("RuntimeError: could not reach postgresql://cuggu:***@127.0.0.1/cuggu") == 2
    assert told.count("line ") >= 4


@pytest.mark.parametrize(
    "value",
    [
        f"Bearer {SECRET}",
        f"redis://:{SECRET}@cache:6379/0",
        f"postgresql://cuggu:{SECRET}p@ss@db/cuggu",
        f"host=db user=cuggu password={SECRET} dbname=cuggu",
        f"https://bucket/x.jpg?X-Amz-Signature={SECRET}&X-Amz-Date=1",
        f"whsec_{SECRET}",
        f"eyJ{SECRET}.eyJ{SECRET}.{SECRET}",
        str({"password": SECRET}),
        {"headers": [("authorization", f"Bearer {SECRET}")]},
        {"headers": {"Authorization": SECRET}},
        [f"r8_{SECRET}"],
        ValueError(f"token={SECRET}"),
        f"Bearer {SECRET}".encode(),
    ],
)
def test_no_value_carries_a_secret_however_deep(
    offline_settings: Settings, form: str, capsys: pytest.CaptureFixture[str], value: object
) -> None:
    begin_logging(offline_settings, form)
    structlog.get_logger().warning("something.happened", value=value, told=f"and {value}")
    told = capsys.readouterr().err
    assert SECRET not in told
    assert "***" in told


def test_the_rest_is_left_as_it_is(offline_settings: Settings, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    begin_logging(offline_settings, form)
    structlog.get_logger().warning(
        "photo.stored", key="photos/1/2", size_bytes=1000, url="http://127.0.0.1:8000/a@b", sizes={"width": 3}
    )
    told = capsys.readouterr().err
    for part in ("photos/1/2", "1000", "http://127.0.0.1:8000/a@b"):
        assert part in told
    if form == "json":
        assert json.loads(told)["sizes"] == {"width": 3}


def test_a_complaint_about_a_setting_does_not_show_it(clean_environment: None) -> None:
    with pytest.raises(ValidationError) as complaint:
        Settings(_env_file=None, database_url="postgresql://x", redis_url="redis://x", jwt_secret=SECRET)
    assert "JWT_SECRET must be at least 32 bytes long" in str(complaint.value)
    assert SECRET not in str(complaint.value)
