"""Whether a model sees is found out before it is shown a photograph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from agent import brains
from agent.brains import BrainContext, ChatBrain
from agent.brains.actions import as_plain_messages
from agent.brains.remote import RemoteModel
from agent.brains.sight import SIGHT, image_block, probe_sight, require_sight, text_block
from agent.brains.spending import PICTURE_TOKENS
from agent.cli import doctor
from agent.config.sections import LLMSettings
from agent.config.settings import load_settings
from memory.errors import BrainError, SettingsError
from memory.events import ProbeEvent
from memory.journal import Journal
from tests.agent.fake_llm import pictures_in
from tests.agent.invented import PALETTE, VOCABULARY

if TYPE_CHECKING:
    from tests.agent.fake_llm import FakeLLM

KINDS = ("openai", "ollama")
RIGHT = {"tool": "pick_slice", "arguments": {"slice": "dark"}}


def chat(kind: str, **given: Any) -> ChatBrain:
    llm = LLMSettings(timeout_s=5, tries=1, pause_s=0, images=True, **given)
    built = brains.build(f"{kind}:tiny", BrainContext(PALETTE, VOCABULARY, llm))
    assert isinstance(built, ChatBrain) and isinstance(built.model, RemoteModel)
    return built


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_sees(fake_llm: FakeLLM, kind: str) -> None:
    fake_llm.sees = True
    found = probe_sight(chat(kind).model)
    assert (found.sees, found.picture_tokens) == (True, PICTURE_TOKENS)
    assert [len(pictures_in(request["body"])) for request in fake_llm.requests] == [1, 1]


def test_what_the_server_counts_for_a_picture_is_what_it_costs(fake_llm: FakeLLM) -> None:
    for colour in ("yellow", "green"):
        fake_llm.answers.append({"text": colour, "prompt_tokens": 3000})
    assert probe_sight(chat("openai").model).picture_tokens == pytest.approx(3000, abs=30)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "answers",
    [
        [{"text": "I cannot see pictures."}],
        [{"text": "yellow"}, {"text": "It is yellow."}],
        [{"text": "It may be yellow, red or green."}],
        [{"status": 400, "error": "image input is not supported"}],
        [{"text": ""}],
    ],
)
def test_a_model_that_sees_nothing(
    fake_llm: FakeLLM, kind: str, answers: list[dict[str, Any]]
) -> None:
    fake_llm.answers += answers
    found = probe_sight(chat(kind).model)
    assert not found.sees and found.detail
    assert not fake_llm.answers


def test_a_server_that_is_not_there_says_nothing_of_sight(fake_llm: FakeLLM) -> None:
    fake_llm.answers += [{"status": 401, "error": "no key"}]
    with pytest.raises(BrainError):
        probe_sight(chat("openai").model)


def test_a_session_begins_with_a_model_that_sees_or_not_at_all(
    fake_llm: FakeLLM, tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    fake_llm.answers += [{"text": "It is blue."}]
    llm = LLMSettings(images=True)
    with pytest.raises(SettingsError, match=r"llm\.images.*blue"):
        require_sight(chat("openai"), llm, journal)
    fake_llm.sees = True
    with pytest.raises(SettingsError, match=r"llm\.context_tokens=1000"):
        require_sight(chat("openai"), LLMSettings(images=True, context_tokens=1000), journal)
    assert journal.get(SIGHT, ProbeEvent) is None
    require_sight(chat("openai"), llm, journal)
    n_requests = len(fake_llm.requests)
    require_sight(chat("openai"), llm, journal)
    assert journal.get(SIGHT, ProbeEvent) and len(fake_llm.requests) == n_requests


def test_without_consent_a_model_is_not_asked_whether_it_sees(
    fake_llm: FakeLLM, tmp_path: Path
) -> None:
    require_sight(chat("openai"), LLMSettings(), Journal(tmp_path / "journal.jsonl"))
    assert fake_llm.requests == []


@pytest.mark.parametrize(
    ("sees", "images", "is_well", "word"),
    [(True, False, True, "none is sent"), (True, True, True, "are sent"),
     (False, False, True, "no"), (False, True, False, "llm.images=false")],
)  # fmt: skip
def test_the_doctor_tells_who_sees(
    fake_llm: FakeLLM, sees: bool, images: bool, is_well: bool, word: str
) -> None:
    fake_llm.answers += [RIGHT, RIGHT] + [{"text": "It is red."}] * (not sees)
    fake_llm.sees = sees
    settings = load_settings("solar", ["brain=openai:tiny", f"llm.images={images}"], {})
    check = {check.name: check for check in doctor.brain(settings)}["sees pictures"]
    assert (check.ok, check.required) == (is_well, True)
    assert word in check.detail + check.fix


def test_pictures_stay_where_tools_are_said_in_words() -> None:
    picture = image_block(b"png")
    seen = HumanMessage([text_block("What is it?"), picture])
    _, message = as_plain_messages([SystemMessage("You see."), seen], [{"function": {"name": "f"}}])
    assert isinstance(message.content, list)
    first, second, last = message.content
    assert (first, second) == (text_block("What is it?"), picture)
    assert isinstance(last, dict) and "f {}" in last["text"]
