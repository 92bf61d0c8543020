"""The contract suite of LangChain for chat models, over the brains that need no server."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests

from agent import planners
from agent.brains.policy import PolicyBrain
from agent.brains.scripted import ScriptedBrain
from agent.planners import AttributeCombination, AttributeDistribution
from prompts.vocabulary import load_vocabulary


class TestScripted(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ScriptedBrain

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"script": [{"text": "hello"}]}


class TestPolicy(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return PolicyBrain

    @property
    def chat_model_params(self) -> dict[str, Any]:
        row = AttributeCombination(attributes={}, class_name="any", n=1)
        return {
            "planner": planners.build("uniform"),
            "palette": AttributeDistribution(rows=(row,)),
            "vocabulary": load_vocabulary("elpv"),
        }
