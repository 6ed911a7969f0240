"""OpenTelemetry traces: one spans submit, task, provider and storage. Off unless the standard variables ask for it.

While it is off we import nothing of OpenTelemetry, and a span is no more than an empty `with`.

A job's row keeps the `traceparent` of its submission (W3C Trace Context), so a step belongs to the job's trace
whoever sent its message: the API, a webhook, or the sweep.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

Kind = Literal["server", "consumer", "client", "internal"]
_OTLP = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_tracer: "Tracer | None" = None
_off: AbstractContextManager[None] = nullcontext()


def wanted(environment: Mapping[str, str]) -> str | None:
    """The exporter that the standard variables ask for, `otlp` or `console`; None while traces are off.

    Raises:
        ValueError: they ask for an exporter that is not installed here.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    default = "otlp" if any(environment.get(name) for name in _OTLP) else "none"
    exporter = (environment.get("OTEL_TRACES_EXPORTER") or default).lower()
    if exporter == "none":
        return None
    if exporter not in ("otlp", "console"):
        raise ValueError(f"OTEL_TRACES_EXPORTER={exporter} is not known; otlp, console and none are")
    return exporter


def configure_tracing(service: str) -> None:
    """Begin to export spans, if the environment asks for it. `service` names this process where it does not itself.

    Raises:
        ValueError: as `wanted` does.
    """
    global _tracer  # noqa: PLW0603 - as OpenTelemetry has it: one for the process
    exporter = wanted(os.environ)
    if exporter is None or _tracer is not None:
        return
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415 - takes 0.2 s to import
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    named = Resource.create({} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: service})
    provider = TracerProvider(resource=named)  # it sends what is left when the process ends
    provider.add_span_processor(BatchSpanProcessor(_exporter(exporter)))
    _tracer = provider.get_tracer("cuggu")


def span(
    name: str, kind: Kind = "internal", *, parent: str | None = None, **attributes: Any
) -> "AbstractContextManager[Span | None]":
    """A span around a block; None while traces are off. `parent` is the `traceparent` of a trace to go on with.

    Attributes are written with `__` for a dot. What raises is noted by its type alone: its words may hold anything.
    """
    if _tracer is None:
        return _off
    return _span(_tracer, name, kind, parent, attributes)


def traceparent() -> str | None:
    """The span that runs here, as a header would carry it; None while traces are off."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def _span(
    tracer: "Tracer", name: str, kind: Kind, parent: str | None, attributes: Mapping[str, Any]
) -> "Iterator[Span]":
    from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    dotted = {key.replace("__", "."): value for key, value in attributes.items() if value is not None}
    with tracer.start_as_current_span(
        name,
        context,
        SpanKind[kind.upper()],
        dotted,
        record_exception=False,
        set_status_on_exception=False,
    ) as started:
        try:
            yield started
        except Exception as error:
            started.set_attribute("error.type", type(error).__name__)
            started.set_status(Status(StatusCode.ERROR))
            raise


def _exporter(name: str) -> "SpanExporter":
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter()
