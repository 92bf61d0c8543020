"""Addresses of servers do not reach the journal, and keys not the network without a warning."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from agent.brains import BrainContext, build
from agent.config.sections import LLMSettings
from agent.planners import AttributeCombination, AttributeDistribution
from memory.addresses import warn_of_plain_key, without_addresses
from memory.events import (
    EndedEvent,
    Event,
    FallbackEvent,
    FaultEvent,
    PausedEvent,
    ProbeEvent,
    parse_event,
)
from memory.journal import Journal
from memory.server import ServedMemory
from prompts.vocabulary import load_vocabulary

TEXTS = [
    "The model 'm' at http://gpu-7.corp.local:8000/v1 cannot be reached: no route",
    "The memory server http://10.1.2.3:8000 cannot be used: [Errno 111] Connection refused",
    "The Ray cluster gpu-7.corp.local:10001 cannot be reached",
    "HTTPSConnectionPool(host='gpu-7.corp.local', port=443): Max retries exceeded",
    'HTTPConnectionPool(host="gpu-7", port=8000)',
    "Cannot connect to host gpu-7.corp.local:443 ssl:default",
    'could not translate host name "gpu-7.corp.local" to address',
    'connection to server at "gpu-7" (10.1.2.3), port 5432 failed',
    "Failed to resolve 'gpu-7.corp.local' ([Errno -2])",
    "connect to [2001:db8::7]:8000 failed; see postgresql://ada@gpu-7/db.",
    "ssh://gpu-7 and 10.1.2.3.",
]
SECRETS = ("gpu-7", "10.1.2.3", "2001:db8", "ada@")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "make",
    [
        lambda text: FaultEvent(what="memory", message=text),
        lambda text: FallbackEvent(round=1, reason=text),
        lambda text: PausedEvent(message=text),
        lambda text: EndedEvent(rule="error", message=text),
        lambda text: ProbeEvent(key="probe", probe={"detail": text, "seconds": 1.0}),
    ],
)
def test_no_address_is_journaled(tmp_path: Path, text: str, make: object) -> None:
    assert callable(make)
    path = tmp_path / "journal.jsonl"
    event: Event = Journal(path).append(make(text))
    line = path.read_text("utf-8")
    assert [secret for secret in SECRETS if secret in line] == []
    assert "[address]" in line
    assert parse_event(line) == event


@pytest.mark.parametrize(
    "text",
    [
        "limits.disk_reserve_gb: 0.50 GB are free on the disk of /data/sessions/x",
        "The run before was killed in stage 'train' of round 3. Finished work was kept.",
        "version 1.2.3, line 12:40, at 2026-11-29T10:30:00, policy:uniform, the host is away",
        "Set OPENAI_BASE_URL, or llm.timeout_s to 120.",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert without_addresses(text) == text


def test_what_was_journaled_by_earlier_versions_is_read_as_it_is() -> None:
    line = {"schema": 1, "time": "", "kind": "fault", "what": "memory", "told": TEXTS[0]}
    assert parse_event(json.dumps(line)).to_json() == line


@pytest.fixture
def context() -> BrainContext:
    warn_of_plain_key.cache_clear()
    row = AttributeCombination(attributes={}, class_name="a", n=1)
    vocabulary = load_vocabulary("elpv")
    return BrainContext(AttributeDistribution(rows=(row,)), vocabulary, LLMSettings())


@pytest.mark.parametrize(
    ("brain", "variable", "key"),
    [
        ("openai:m", "OPENAI_BASE_URL", "OPENAI_API_KEY"),
        ("ollama:m", "OLLAMA_HOST", "OLLAMA_API_KEY"),
    ],
)
@pytest.mark.parametrize(
    ("url", "is_warned"),
    [
        ("http://192.0.2.7:8000", True),
        ("http://models.example", True),
        ("https://models.example", False),
        ("http://127.0.0.1:8000", False),
        ("http://localhost:8000", False),
        ("http://[::1]:8000", False),
    ],
)
def test_a_key_for_a_plain_remote_address_gives_a_warning(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    context: BrainContext,
    brain: str,
    variable: str,
    key: str,
    url: str,
    is_warned: bool,
) -> None:
    monkeypatch.setenv(variable, url)
    monkeypatch.setenv(key, "a-key-of-mine")
    with caplog.at_level(logging.WARNING):
        build(brain, context)
        build(brain, context)
    warnings = [r.getMessage() for r in caplog.records if "unencrypted" in r.getMessage()]
    assert len(warnings) == is_warned
    assert all(variable in text and key in text for text in warnings)
    assert "a-key-of-mine" not in caplog.text


def test_so_does_one_for_a_memory_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_plain_key.cache_clear()
    monkeypatch.setenv("CHROMA_CLIENT_AUTH_CREDENTIALS", "a-key-of-mine")
    ServedMemory("http://192.0.2.7:8000", tmp_path / "memory")
    assert "CHROMA_CLIENT_AUTH_CREDENTIALS" in caplog.text
