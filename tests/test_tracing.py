"""Traces: off and nearly free by default; when on, one trace from the submission to the stored photo."""

import os
import subprocess
import sys
import time
from collections.abc import Callable

import httpx
import pytest
from sqlalchemy import Engine, text

from shared.settings import Settings
from shared.tracing import span, traceparent, wanted
from tests.doubles.receiver import receiver
from tests.otlp_collector import Seen, seen_by
from tests.stack import RunningStack
from tests.test_end_to_end import Person
from tests.waiting import wait_until

CALLER = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("environment", "exporter"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, None),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, None),
        ({"OTEL_SDK_DISABLED": "false", "OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
    ],
)
def test_the_standard_variables_decide(environment: dict[str, str], exporter: str | None) -> None:
    assert wanted(environment) == exporter


def test_an_exporter_that_is_not_here_is_named() -> None:
    with pytest.raises(ValueError, match="OTEL_TRACES_EXPORTER=zipkin"):
        wanted({"OTEL_TRACES_EXPORTER": "zipkin"})


def test_while_it_is_off_no_exporter_is_imported_and_a_span_is_an_empty_block() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    addresses = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1/0"}
    program = """
import sys
import worker.tasks
from api.main import create_app
create_app()
print(sorted(name for name in sys.modules if name.startswith(("opentelemetry.sdk.trace", "opentelemetry.exporter"))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment | addresses, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    began = time.perf_counter()
    for _ in range(10_000):
        with span("photo", photo_id="x") as nothing:
            assert nothing is None
    assert time.perf_counter() - began < 0.5, "50 us for a span that is none"
    assert traceparent() is None


@pytest.mark.timeout(300)
def test_one_trace_holds_submission_step_provider_and_storage_whoever_sent_the_step(
    running_stack: Callable[..., RunningStack], settings: Settings, engine: Engine
) -> None:
    with receiver() as collector:
        otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
        stack = running_stack(env={**otel, "PREVIEW_SECONDS": "1"}, processes=("api",))
        person = Person(stack, settings, "somebody.personal@example.com")
        person.http.headers["traceparent"] = f"00-{CALLER}-b7ad6b7169203331-01"
        job_id = person.submit().json()["id"]
        del person.http.headers["traceparent"]
        # All messages are lost: it is the sweep that sends every step.
        import redis

        with redis.Redis.from_url(settings.redis_url) as messages:
            assert messages.llen("start") == 4
            messages.flushdb()
        with engine.begin() as connection:
            connection.execute(text("UPDATE photos SET sent_at = NULL"))
        stack.start("worker")
        stack.start("beat")
        assert person.end(job_id)["status"] == "COMPLETED"
        stack.stop("worker")  # what is left is exported at the end

        def ours() -> list[Seen]:
            return [seen for seen in seen_by(collector) if seen.trace_id == CALLER]

        wait_until(lambda: sum(seen.name == "collect_photo" for seen in ours()) >= 4, 30)
        spans = {(seen.service, seen.name) for seen in ours()}
        assert spans >= {
            ("cuggu-api", "POST /jobs"),
            ("cuggu-api", "face.check"),
            ("cuggu-api", "storage.put"),
            ("cuggu-worker", "start_photo"),
            ("cuggu-worker", "provider.create"),
            ("cuggu-worker", "collect_photo"),
            ("cuggu-worker", "provider.get"),
            ("cuggu-worker", "provider.output"),
            ("cuggu-worker", "storage.put"),
        }
        by_id = {seen.span_id: seen for seen in ours()}
        submitted = next(seen for seen in ours() if seen.name == "POST /jobs")
        assert submitted.attributes["http.route"] == "/jobs"
        assert submitted.attributes["http.response.status_code"] == "202"
        for created in (seen for seen in ours() if seen.name == "provider.create"):
            assert created.attributes["gen_ai.provider.name"] == "preview"
            step = by_id[created.parent_id]
            assert step.name == "start_photo"
            assert step.attributes["cuggu.job_id"] == job_id
            assert step.attributes["messaging.destination.name"] == "start"
            assert step.parent_id == submitted.span_id
        # Polls are traces of their own, and what machines ask every second is none.
        names = {seen.name for seen in seen_by(collector)}
        assert "GET /jobs/{job_id}" in names
        assert not names & {"GET /readyz", "GET /healthz"}
        assert b"somebody.personal" not in b"".join(post.body for post in collector.posts)


@pytest.mark.timeout(300)
def test_a_collector_that_is_away_costs_nobody_anything(
    running_stack: Callable[..., RunningStack], settings: Settings
) -> None:
    stack = running_stack(env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    person = Person(stack, settings)
    assert person.end(person.submit().json()["id"])["status"] == "COMPLETED"
    assert httpx.get(f"{stack.api_url}/readyz", trust_env=False).status_code == 200
