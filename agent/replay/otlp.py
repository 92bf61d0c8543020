"""Export of spans as OTLP by OpenTelemetry, to a file of JSON lines or to a collector."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.replay.spans import Span
from memory.addresses import warn_of_plain_key
from memory.errors import SettingsError, StorageError
from memory.files import write_atomic
from memory.user_folders import writing

SERVICE = "shaping"
# Spans per line or request: a round has about 16, half of which repeat its opening messages.
PER_REQUEST = 200
TIMEOUT_S = 10.0


def write_spans(spans: Sequence[Span], path: Path) -> None:
    """Write spans to a file, one OTLP request (opentelemetry-proto, JSON) per line.

    Raises:
        SettingsError: The extra `trace` is not installed, or the file belongs to the user.
        StorageError: The file cannot be written.
    """
    with _packages():
        from google.protobuf.json_format import MessageToDict
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    def write(handle: Any) -> None:
        for part in _requests(spans):
            request = MessageToDict(encode_spans(part), use_integers_for_enums=True)
            text = json.dumps(_with_hex_ids(request), ensure_ascii=False)
            handle.write(text.encode() + b"\n")

    with writing(path.parent, [path.name]):
        write_atomic(path, write)


def send_spans(spans: Sequence[Span], endpoint: str) -> None:
    """Send spans by OTLP over HTTP (protobuf) to an address, e.g. http://127.0.0.1:6006.

    /v1/traces is appended to an address without a path. OTEL_EXPORTER_OTLP_HEADERS may contain
    keys.

    Raises:
        SettingsError: The address is invalid, or the extra `trace` is not installed.
        StorageError: The collector does not accept the spans.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(
            f"{endpoint!r} is not the address of a collector; use one like http://127.0.0.1:4318."
        )
    with _packages():
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import SpanExportResult
    url = endpoint if parts.path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"
    for key in ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"):
        if os.environ.get(key):
            warn_of_plain_key(endpoint, "--endpoint", key)
    exporter = OTLPSpanExporter(endpoint=url, timeout=TIMEOUT_S)
    try:
        for part in _requests(spans):
            if exporter.export(part) is not SpanExportResult.SUCCESS:
                raise StorageError(
                    f"{url} did not accept the spans; does a collector for OTLP over HTTP listen "
                    "there? `--to otlp` writes them to a file instead."
                )
    finally:
        exporter.shutdown()


@contextmanager
def _packages() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise SettingsError(
            "Spans need packages of the extra `trace`: pip install 'feedback-shaping[trace]'"
        ) from error


def _requests(spans: Sequence[Span]) -> Iterator[list[Any]]:
    """Yield the spans of each request as spans of OpenTelemetry's SDK."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, TraceFlags
    from opentelemetry.trace.status import Status, StatusCode

    # Phoenix assigns traces to projects by the second name.
    resource = Resource({"service.name": SERVICE, "openinference.project.name": SERVICE})
    scope = InstrumentationScope(SERVICE)

    def context(span: Span, id_: str) -> SpanContext:
        flags = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(int(span.trace_id, 16), int(id_, 16), is_remote=False, trace_flags=flags)

    def readable(span: Span) -> ReadableSpan:
        return ReadableSpan(
            span.name,
            context(span, span.id),
            context(span, span.parent) if span.parent else None,
            resource,
            span.attributes,
            [Event(moment.name, moment.attributes, moment.time_ns) for moment in span.moments],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.OK),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=scope,
        )

    for first in range(0, len(spans), PER_REQUEST):
        yield [readable(span) for span in spans[first : first + PER_REQUEST]]


def _with_hex_ids(value: Any) -> Any:
    """Return a request with ids in hex, as OTLP/JSON requires, in place of protobuf's base64."""
    if isinstance(value, list):
        return [_with_hex_ids(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    ids = ("traceId", "spanId", "parentSpanId")
    return {
        key: base64.b64decode(entry).hex() if key in ids else _with_hex_ids(entry)
        for key, entry in value.items()
    }
