"""Sessions as OpenTelemetry spans: to a file, and to a collector on loopback."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli.app import app
from agent.replay.spans import Span, spans
from memory.events import EndedEvent, Event
from memory.journal import read_events
from tests.agent.invented import record

PLAN: dict[str, Any] = {
    "tool": "propose_plan",
    "arguments": {
        "prompts": [
            {"text": "a dark poly cell, with a clear defect", "count": 8},
            {"text": "an intact mono cell", "count": 8},
            {"text": "an intact dark poly cell", "count": 8},
        ],
        "why": "Both classes",
    },
    "tokens": [100, 20],
}
# An illegal call, and a model that cannot be reached in the end.
SCRIPT: list[dict[str, Any]] = [
    {"tool": "finish", "arguments": {"summary": ""}},
    PLAN,
    {"error": "cannot be reached"},
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("spans")
    record(home, "policy")
    record(home, "scripted", "session.rounds=1", script=SCRIPT)
    return home


def events_of(home: Path, name: str) -> list[Event]:
    return read_events(home / "sessions" / name / "journal.jsonl")


def kind(span: Span) -> str:
    return str(span.attributes["openinference.span.kind"])


def test_calls_lie_in_rounds_and_rounds_in_the_session(home: Path) -> None:
    events = events_of(home, "policy")
    found = spans(events)
    by_id = {span.id: span for span in found}
    assert len(by_id) == len(found)
    parents = {"AGENT": None, "CHAIN": "AGENT", "LLM": "CHAIN", "TOOL": "CHAIN"}
    for span in found:
        parent = by_id[span.parent] if span.parent else None
        assert (kind(parent) if parent else None) == parents[kind(span)]
        assert span.start_ns <= span.end_ns
        assert span.attributes["session.id"] == "policy"
        if parent:
            assert parent.start_ns <= span.start_ns and span.end_ns <= parent.end_ns
    assert [s.name for s in found if kind(s) == "CHAIN"] == ["round 1", "round 2"]
    for name, wanted in (("LLM", "model_call"), ("TOOL", "tool_call")):
        assert sum(kind(s) == name for s in found) == sum(e.kind == wanted for e in events)
    assert "accuracy" in str(by_id[found[1].id].attributes["output.value"])
    assert spans(events) == found
    ended = EndedEvent(time=events[-1].time, rule="rounds", message="all done", round=2)
    session, *_, last = (s for s in spans([*events, ended]) if kind(s) in ("AGENT", "CHAIN"))
    assert session.attributes["output.value"] == "all done" != last.attributes["output.value"]
    assert not any(span.error for span in found)


def test_a_call_says_what_was_asked_and_answered(home: Path) -> None:
    events = events_of(home, "scripted")
    found = spans(events)
    calls = [span.attributes for span in found if kind(span) == "LLM"]
    second = calls[1]
    roles = [second[f"llm.input_messages.{n}.message.role"] for n in range(4)]
    assert roles == ["system", "user", "assistant", "tool"]
    assert second["llm.token_count.prompt"] == 100
    assert second["llm.token_count.total"] == 120
    called = "llm.output_messages.0.message.tool_calls.0.tool_call.function"
    assert second[f"{called}.name"] == "propose_plan"
    assert json.loads(str(second[f"{called}.arguments"]))["why"] == "Both classes"
    assert json.loads(str(second["llm.tools.0.tool.json_schema"]))["type"] == "function"
    assert second["llm.model_name"] == "script.json" and second["llm.provider"] == "scripted"

    (illegal,) = (span for span in found if span.error)
    assert illegal.name == "finish" and kind(illegal) == "TOOL"
    assert "not legal now" in illegal.error
    (round_,) = (span for span in found if kind(span) == "CHAIN")
    assert round_.attributes["input.value"] == "Both classes"
    reasons = [m.attributes["reason"] for m in round_.moments if m.name == "fallback"]
    assert "cannot be reached" in str(reasons[0])
    assert calls[2]["llm.model_name"] == "policy:audited_failure"


def test_names_are_those_of_openinference(home: Path) -> None:
    semconv = pytest.importorskip("openinference.semconv.trace")
    holders = ("SpanAttributes", "MessageAttributes", "ToolCallAttributes", "ToolAttributes")
    known = {
        value
        for holder in holders
        for name, value in vars(getattr(semconv, holder)).items()
        if name.isupper()
    }
    kinds = {member.value for member in semconv.OpenInferenceSpanKindValues}
    for name in ("policy", "scripted"):
        for span in spans(events_of(home, name)):
            assert kind(span) in kinds
            for attribute in span.attributes:
                assert set(_without_numbers(attribute)) <= known, attribute


def _without_numbers(attribute: str) -> Iterator[str]:
    """Split "llm.tools.0.tool.name" into the names around its numbers."""
    part: list[str] = []
    for word in attribute.split("."):
        if word.isdecimal():
            yield ".".join(part)
            part = []
        else:
            part.append(word)
    yield ".".join(part)


def test_a_file_of_spans_is_read_back(home: Path, tmp_path: Path) -> None:
    arguments = ["trace", "policy", "scripted", "--to", "otlp", "-o", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, "--home", str(home)])
    assert result.exit_code == 0, result.output
    trace_service = pytest.importorskip("opentelemetry.proto.trace.v1.trace_pb2")
    read = []
    for line in (tmp_path / "spans.jsonl").read_text("utf-8").splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                read += scope["spans"]
    made = [*spans(events_of(home, "policy")), *spans(events_of(home, "scripted"))]
    assert [s["spanId"] for s in read] == [s.id for s in made]
    assert [int(s["endTimeUnixNano"]) for s in read] == [s.end_ns for s in made]
    # What the protocol's own reader of JSON takes, once the ids are in base64 as it wants them.
    from google.protobuf.json_format import ParseDict

    for span in read:
        for name in ("traceId", "spanId", "parentSpanId"):
            span[name] = _base64(span.get(name, ""))
        message = ParseDict(span, trace_service.Span())
        assert len(message.span_id) == 8 and len(message.trace_id) == 16


def _base64(digits: str) -> str:
    return base64.b64encode(bytes.fromhex(digits)).decode()


class Collector(BaseHTTPRequestHandler):
    """Takes what is posted to /v1/traces."""

    taken: list[bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_right = self.path == "/v1/traces"
        if is_right:
            type(self).taken.append(body)
        self.send_response(200 if is_right else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    taken: list[bytes] = []
    handler = type("Handler", (Collector,), {"taken": taken})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_collector_gets_the_spans(home: Path, collector: tuple[str, list[bytes]]) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    url, taken = collector
    common = ["trace", "scripted", "--home", str(home), "--endpoint"]
    result = CliRunner().invoke(app, [*common, url])
    assert result.exit_code == 0, result.output
    made = {span.id: span for span in spans(events_of(home, "scripted"))}
    got = [
        span
        for body in taken
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert {span.span_id.hex() for span in got} == set(made)
    for span in got:
        own = made[span.span_id.hex()]
        assert span.trace_id.hex() == own.trace_id
        assert span.parent_span_id.hex() == (own.parent or "")
        assert (span.start_time_unix_nano, span.end_time_unix_nano) == (own.start_ns, own.end_ns)
        assert span.status.message == own.error
        assert {a.key for a in span.attributes} == set(own.attributes)
        assert [e.name for e in span.events] == [m.name for m in own.moments]

    result = CliRunner().invoke(app, [*common, f"{url}/elsewhere"])
    assert result.exit_code != 0
    assert "did not accept the spans" in result.output
    result = CliRunner().invoke(app, [*common, "phoenix"])
    assert "is not the address" in result.output
