"""A collector of traces within the test, which speaks OTLP over loopback HTTP."""

from dataclasses import dataclass

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.doubles.receiver import Receiver


@dataclass(frozen=True)
class Seen:
    """One span as it arrived."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str]


def seen_by(receiver: Receiver) -> list[Seen]:
    """Every span that was exported to the receiver until now."""
    return [span for post in list(receiver.posts) for span in _spans(post.body)]


def _spans(body: bytes) -> list[Seen]:
    found = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = {pair.key: pair.value.string_value for pair in resource.resource.attributes}["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                attributes = {
                    pair.key: str(getattr(pair.value, pair.value.WhichOneof("value") or "string_value"))
                    for pair in span.attributes
                }
                ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                found.append(Seen(service, span.name, *ids, attributes))
    return found
