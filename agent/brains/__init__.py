"""Brains: chat models that run a session. One file per kind; `build` finds them by name.

A brain file has a function `build(argument, context) -> BaseChatModel`; `argument` is what stands
behind the colon, as in `policy:thompson`.
"""

from __future__ import annotations

from dataclasses import dataclass

from langchain_core.language_models import BaseChatModel

from agent.config.settings import LLMSettings
from agent.planners import AttributeDistribution
from prompts.vocabulary import Vocabulary
from tools.plugins import load


@dataclass(frozen=True)
class BrainContext:
    """What a brain may need to know of its session."""

    palette: AttributeDistribution
    vocabulary: Vocabulary
    llm: LLMSettings


def build(spec: str, context: BrainContext) -> BaseChatModel:
    """Build the brain KIND:ARGUMENT; raises SettingsError that names the known kinds."""
    kind, _, argument = spec.partition(":")
    brain: BaseChatModel = load("agent.brains", kind)(argument, context)
    return brain
