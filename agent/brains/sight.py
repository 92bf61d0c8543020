"""Tests whether a language model can see pictures, by asking for the colours of two."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from PIL import Image
from pydantic import Field

from agent.brains import Brain, ChatBrain
from agent.brains.actions import without_thoughts
from agent.brains.remote import CallError
from agent.brains.spending import PICTURE_TOKENS, estimate_tokens
from agent.config.sections import LLMSettings
from eval.montage import SHEET_PX
from memory.errors import SettingsError
from memory.events import ProbeEvent
from memory.journal import Journal
from memory.records import Record

SIGHT = "probe/sight"
"""Key of the event with the result."""

# Share of a context that one picture may take.
_MAX_SHARE = 0.25
_QUESTION = "Which colour has this picture? Answer by one word."
# Colours that a model without vision rarely guesses, and the pattern of its other answers.
_SHOWN = {"yellow": (250, 220, 0), "green": (0, 150, 60)}
_NAMES = "yellow|green|red|blue|black|white|orange|purple|pink|brown|gr[ae]y"


class Sight(Record):
    """The result of two questions with pictures."""

    sees: bool
    picture_tokens: int = Field(ge=0, description="per picture of SHEET_PX x SHEET_PX pixels")
    detail: str = Field("", max_length=500, description="answer of a model that cannot see")


def image_block(png: bytes) -> dict[str, Any]:
    """Return a message content block with a PNG file."""
    data = base64.b64encode(png).decode()
    return {"type": "image", "base64": data, "mime_type": "image/png"}


def text_block(text: str) -> dict[str, Any]:
    """Return a message content block with a text."""
    return {"type": "text", "text": text}


def probe_sight(model: BaseChatModel) -> Sight:
    """Show two pictures of one colour each; raises BrainError if the server cannot be reached."""
    n_tokens = PICTURE_TOKENS
    for colour, rgb in _SHOWN.items():
        stream = io.BytesIO()
        Image.new("RGB", (SHEET_PX, SHEET_PX), rgb).save(stream, format="PNG")
        blocks: list[Any] = [text_block(_QUESTION), image_block(stream.getvalue())]
        try:
            answer = model.invoke([HumanMessage(blocks)])
        except CallError as error:
            if not error.reached:
                raise
            return Sight(sees=False, picture_tokens=0, detail=str(error)[:500])
        text = without_thoughts(str(answer.text))
        if set(re.findall(rf"\b({_NAMES})", text.lower())) != {colour}:
            detail = f"for a {colour} picture it answered {text[:200]!r}"
            return Sight(sees=False, picture_tokens=0, detail=detail)
        if (usage := answer.usage_metadata) and not answer.response_metadata.get("usage_estimated"):
            n_words = estimate_tokens([HumanMessage(_QUESTION)])
            n_tokens = max(n_tokens, usage["input_tokens"] - n_words)
    return Sight(sees=True, picture_tokens=n_tokens)


def require_sight(brain: Brain, llm: LLMSettings, journal: Journal) -> None:
    """Check, if `llm.images` is set, that a model can see pictures, and journal the result.

    Raises:
        SettingsError: The model cannot see, or a picture takes too much of its context.
    """
    if not (llm.images and isinstance(brain, ChatBrain)):
        return
    event = journal.get(SIGHT, ProbeEvent)
    sight = Sight.model_validate(event.probe) if event else probe_sight(brain.model)
    if not sight.sees:
        raise SettingsError(
            f"llm.images is set, but the model cannot see pictures: {sight.detail.rstrip('.')}. "
            "Set llm.images=false, or choose a vision-language model."
        )
    if sight.picture_tokens > _MAX_SHARE * llm.context_tokens:
        raise SettingsError(
            f"llm.images is set, but a picture takes {sight.picture_tokens} tokens, more than a "
            f"quarter of llm.context_tokens={llm.context_tokens}. Set llm.context_tokens to "
            f"{round(sight.picture_tokens / _MAX_SHARE)} or more if the model supports it, or "
            "llm.images=false."
        )
    journal.append(ProbeEvent(key=SIGHT, probe=sight.to_json()))
