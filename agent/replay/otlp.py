"""Writes spans as OTLP: lines of JSON in a file, or requests to a collector."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.replay.spans import Attributes, Span, Value
from memory.errors import SettingsError, StorageError
from memory.files import write_atomic

SERVICE = "shaping"
# Spans in a line or a request: a round has about 16, and repeats its opening in half of them.
PER_REQUEST = 200
TIMEOUT_S = 10.0

# Of the protocol's enumerations.
_INTERNAL = 1
_OK, _ERROR = 1, 2


def write_spans(found: Sequence[Span], path: Path) -> None:
    """Write spans, one request of OTLP (opentelemetry-proto, JSON) a line.

    Raises StorageError.
    """

    def write(handle: Any) -> None:
        for part in _parts(found):
            handle.write(json.dumps(_request(part), ensure_ascii=False).encode() + b"\n")

    write_atomic(path, write)


def send_spans(found: Sequence[Span], endpoint: str) -> None:
    """Send spans by OTLP over HTTP (protobuf) to an address, e.g. http://127.0.0.1:6006.

    /v1/traces is appended to an address without a path. OTEL_EXPORTER_OTLP_HEADERS may hold keys.
    Raises SettingsError for an address that is none or without the extra `trace`, StorageError
    when it does not take the spans.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(
            f"{endpoint!r} is no address of a collector; give one like http://127.0.0.1:4318."
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import SpanExportResult
    except ImportError as error:
        raise SettingsError(
            "--endpoint needs packages: pip install 'feedback-shaping[trace]'"
        ) from error
    url = endpoint if parts.path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"
    exporter = OTLPSpanExporter(endpoint=url, timeout=TIMEOUT_S)
    try:
        for part in _parts(found):
            if exporter.export([_readable(span) for span in part]) is not SpanExportResult.SUCCESS:
                raise StorageError(
                    f"{url} did not take the spans; does a collector of OTLP over HTTP listen "
                    "there? `--to otlp` writes them to a file instead."
                )
    finally:
        exporter.shutdown()


def _parts(found: Sequence[Span]) -> Iterator[Sequence[Span]]:
    for first in range(0, len(found), PER_REQUEST):
        yield found[first : first + PER_REQUEST]


def _request(found: Sequence[Span]) -> dict[str, Any]:
    scope = {"scope": {"name": SERVICE}, "spans": [_plain(span) for span in found]}
    resource = {"attributes": _attributes(_resource(found))}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}


def _plain(span: Span) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "traceId": span.trace_id,
        "spanId": span.id,
        "name": span.name,
        "kind": _INTERNAL,
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _attributes(span.attributes),
        "events": [
            {
                "timeUnixNano": str(moment.time_ns),
                "name": moment.name,
                "attributes": _attributes(moment.attributes),
            }
            for moment in span.moments
        ],
        "status": {"code": _ERROR, "message": span.error} if span.error else {"code": _OK},
    }
    return plain | ({"parentSpanId": span.parent} if span.parent else {})


def _attributes(attributes: Attributes) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Value) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}


def _resource(found: Sequence[Span]) -> Attributes:
    # Phoenix sorts traces into projects by the second name.
    return {"service.name": SERVICE, "openinference.project.name": SERVICE}


def _readable(span: Span) -> Any:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, TraceFlags
    from opentelemetry.trace.status import Status, StatusCode

    def context(id_: str) -> SpanContext:
        sampled = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(int(span.trace_id, 16), int(id_, 16), False, sampled)

    return ReadableSpan(
        span.name,
        context(span.id),
        context(span.parent) if span.parent else None,
        Resource(_resource([span])),
        span.attributes,
        [Event(m.name, m.attributes, m.time_ns) for m in span.moments],
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.OK),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=InstrumentationScope(SERVICE),
    )
