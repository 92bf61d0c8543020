"""Brains: chat models that run a session. One file per kind; `build` finds them by name.

A brain file has a function `build(argument, palette, vocabulary) -> BaseChatModel`; `argument` is
what stands behind the colon, as in `policy:thompson`.
"""

from __future__ import annotations

from langchain_core.language_models import BaseChatModel

from agent.planners import Palette
from prompts.vocabulary import Vocabulary
from tools.plugins import load


def build(spec: str, palette: Palette, vocabulary: Vocabulary) -> BaseChatModel:
    """Build the brain KIND:ARGUMENT; raises SettingsError that names the known kinds."""
    kind, _, argument = spec.partition(":")
    brain: BaseChatModel = load("agent.brains", kind)(argument, palette, vocabulary)
    return brain
