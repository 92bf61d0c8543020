"""The graph as engineers of LangGraph expect it: phases, factory, interrupts, streams, traces."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from langgraph.types import Command
from rich.console import Console

from agent.autonomous.runner import run
from agent.loop.state import PHASES
from memory.events import ApprovalEvent, ModelCallEvent, PlanEvent, RoundDoneEvent
from memory.journal import read_events
from tests.agent.fake_llm import FakeLLM
from tests.agent.quick import toy_settings

ROOT = Path(__file__).parents[3]
SMALL = ("feedback.discovery='off'", "feedback.slices=[[wafer]]", "limits.disk_reserve_gb=0")


def factory() -> Any:
    """Load the graph as langgraph.json names it."""
    place = json.loads((ROOT / "langgraph.json").read_text("utf-8"))["graphs"]["round"]
    path, _, name = place.partition(":")
    spec = spec_from_file_location("studio", ROOT / path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)()


def test_the_factory_gives_a_graph_that_commands_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = toy_settings(tmp_path, *SMALL)
    for section in ("target", "generator"):
        monkeypatch.setenv(f"SHAPING_{section.upper()}__NAME", "toy")
    monkeypatch.setenv("SHAPING_HOME", str(tmp_path))
    monkeypatch.setenv("SHAPING_DSTM", json.dumps(settings.dstm.model_dump(mode="json")))
    monkeypatch.setenv("SHAPING_SESSION__IMAGES_PER_ROUND", "8")
    monkeypatch.setenv("SHAPING_AUDIT__TRAIN__STEPS", "3")
    monkeypatch.setenv("SHAPING_FEEDBACK__DISCOVERY", "'off'")
    graph = factory()
    drawn = graph.get_graph()
    edges = {(edge.source, edge.target) for edge in drawn.edges}
    phases = ["observe", *(name for name in PHASES if name != "done"), "__end__"]
    assert set(phases) < set(drawn.nodes)
    assert set(pairwise(phases)) < edges
    thread: Any = {"configurable": {"thread_id": "1"}}
    (question,) = graph.invoke({"round": 1}, thread)["__interrupt__"]
    assert question.value["kind"] == "plan" and question.value["plan"]["prompts"]
    reject = {"verdict": "reject", "text": "Fewer dark ones."}
    again = graph.invoke(Command(resume=reject), thread)["__interrupt__"]
    assert len(again) == 1
    done = graph.invoke(Command(resume={"verdict": "approve"}), thread)
    assert done["phase"] == "done"
    events = read_events(tmp_path / "sessions" / "studio" / "journal.jsonl")
    given = [e.verdict for e in events if isinstance(e, ApprovalEvent)]
    assert given == ["reject", "approve"]
    assert sum(isinstance(e, RoundDoneEvent) for e in events) == 1


def test_answers_are_printed_as_they_are_written(tmp_path: Path, fake_llm: FakeLLM) -> None:
    plan = {"tool": "propose_plan", "arguments": {"draft": "accept", "why": "Looks good."}}
    fake_llm.answers = [plan]
    more = ("brain=openai:small", "llm.mode=json", "llm.stream=true", "session.rounds=1")
    settings = toy_settings(tmp_path, *SMALL, *more, "session.name=stream")
    out = io.StringIO()
    run(settings, Console(file=out, width=200))
    assert '{"tool": "propose_plan"' in out.getvalue() and "Looks good." in out.getvalue()
    assert all(request["body"]["stream"] for request in fake_llm.requests)
    events = read_events(tmp_path / "sessions" / "stream" / "journal.jsonl")
    (call,) = [e for e in events if isinstance(e, ModelCallEvent)]
    assert (call.tokens.prompt, call.tokens.answer) == (30, 12)
    assert [e.draft for e in events if isinstance(e, PlanEvent)] == ["accept"]


@contextmanager
def traced() -> Iterator[tuple[str, list[str]]]:
    """Serve as LangSmith does; yield the address and the paths that are asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", paths
    finally:
        server.shutdown()
        server.server_close()


TRACED = """
import os, sys, urllib.request
from pathlib import Path
from langchain_core.tracers.langchain import wait_for_all_tracers
from agent.replay.verify import verify
from tests.agent.invented import record
folder = record(Path(sys.argv[1]), "traced", "session.rounds=1")
wait_for_all_tracers()
urllib.request.urlopen(os.environ["LANGSMITH_ENDPOINT"] + "/recorded").read()
assert verify(folder / "journal.jsonl").findings == ()
wait_for_all_tracers()
"""


def test_traces_are_sent_where_the_user_sets_them(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRACED, str(tmp_path)]
    with traced() as (url, paths):
        variables = {"TRACING": "true", "ENDPOINT": url, "API_KEY": "lsv2_no_key"}
        environment = os.environ | {f"LANGSMITH_{key}": v for key, v in variables.items()}
        subprocess.run(command, env=environment, check=True, cwd=ROOT)
    recorded = paths.index("/recorded")
    assert any(path.startswith("/runs") for path in paths[:recorded])
    # A replay sends nothing.
    assert not any(path.startswith("/runs") for path in paths[recorded:])
