"""Prompts for one request, written by a language model or by the caption grammar, validated."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from agent.brains.spending import Spending
from agent.config.sections import LLMSettings
from agent.planners import AttributeDistribution
from agent.steering.lexicon import Lexicon
from eval.metrics import wilson
from memory.errors import BrainError, SettingsError
from memory.records import Estimate, Record
from prompts.render import quote, render
from prompts.vocabulary import Vocabulary

MAX_CHARS = 240
ASK_AT_ONCE = 10
MAX_FRUITLESS = 3

# Kept and rejected prompts quoted in a question, which bounds its length for small models.
_MAX_EARLIER = 40
_MAX_REJECTED = 3
# Draws of the grammar per requested prompt before it counts as exhausted.
_TRIES = 20
Reason = Literal["malformed", "lost", "contradicting", "duplicate"]
"""Why a prompt is dropped. malformed: no text, empty, too long or not printable; lost: it lacks a
requested attribute; contradicting: it names another value of one; duplicate: it is already kept."""
REASONS: tuple[Reason, ...] = get_args(Reason)


def write_prompts(prompts: list[str]) -> None:
    """Hand in new prompts, one image each."""


@dataclass(frozen=True)
class PromptRequest:
    """A request for prompts.

    Attributes:
        text: The request in the user's words.
        attributes: The attribute values that it names.
        vocabulary: Vocabulary of the target.
    """

    text: str
    attributes: Mapping[str, str]
    vocabulary: Vocabulary

    @classmethod
    def parse(cls, text: str, vocabulary: Vocabulary) -> PromptRequest:
        """Parse a request.

        Raises:
            SettingsError: It names no attribute, or two values of one, or is too long.
        """
        attributes = vocabulary.parse(text)
        by_class = vocabulary.class_attribute
        if by_class and by_class not in attributes and (name := Lexicon(vocabulary).class_of(text)):
            attributes[by_class] = name
        if not attributes or len(text) > 1000:
            first = {key: next(iter(values)) for key, values in vocabulary.attributes.items()}
            raise SettingsError(
                f"The request {text[:80]!r} must name an attribute of {vocabulary.name}, in at "
                f"most 1000 characters. An example: {vocabulary.caption(first)!r}."
            )
        request = cls(text, attributes, vocabulary)
        if wrong := request.contradictions(text):
            named = ", ".join(f"{key}={value}" for key, value in attributes.items())
            raise SettingsError(
                f"The request {text[:80]!r} names {named}, but also {', '.join(wrong)}. "
                "Name one value of each attribute."
            )
        return request

    def contradictions(self, text: str) -> list[str]:
        """Return each "attribute=value" of a text that differs from the requested value."""
        wrong = []
        words = self.vocabulary.attributes
        for key, value in self.attributes.items():
            # The requested value moves to an attribute of its own, so that `parse` finds others.
            others = {v: phrases for v, phrases in words[key].items() if v != value}
            attributes = {**words, key: others, "": {value: words[key][value]}}
            named = self.vocabulary.model_copy(update={"attributes": attributes}).parse(text)
            if key in named:
                wrong.append(f"{key}={named[key]}")
        return wrong


class PromptSet(Record):
    """The prompts that one author wrote for a request."""

    author: str = Field(description="a brain's name, or grammar")
    texts: tuple[str, ...] = Field(description="distinct prompts with all requested attributes")
    dropped: dict[Reason, int] = Field({}, description="number of dropped prompts by reason")
    n_calls: int = Field(0, ge=0, description="answers of a brain")
    n_tokens: int = Field(0, ge=0, description="tokens of a brain's prompts and answers")
    stopped: str = Field("", description="why there are fewer prompts than requested")

    @property
    def share_valid(self) -> Estimate:
        """Share of the written prompts with all requested attributes, duplicates included."""
        n_written = len(self.texts) + sum(self.dropped.values())
        return wilson(len(self.texts) + self.dropped.get("duplicate", 0), n_written)


@dataclass
class _Kept:
    """Accumulates valid distinct prompts, and counts the dropped ones by reason."""

    request: PromptRequest
    texts: dict[str, str] = field(default_factory=dict)
    dropped: Counter[Reason] = field(default_factory=Counter)

    def add(self, text: object) -> str:
        """Keep a prompt and return "", or return why it is dropped."""
        clean = " ".join(text.split()) if isinstance(text, str) else ""
        # Prompts that differ only in case or punctuation are duplicates.
        plain = "".join(c for c in clean.lower() if c.isalnum() or c in "- ").split()
        words = " ".join(plain)
        named = self.request.vocabulary.parse(clean)
        lost = [f"{k}={v}" for k, v in self.request.attributes.items() if k not in named]
        reason: Reason
        if not (0 < len(clean) <= MAX_CHARS and clean.isprintable()):
            reason, why = "malformed", f"a prompt is one line of 1 to {MAX_CHARS} characters"
        elif lost:
            reason, why = "lost", f"it does not say {lost[0]}"
        elif wrong := self.request.contradictions(clean):
            reason, why = "contradicting", f"it says {', '.join(wrong)}"
        elif words in self.texts:
            reason, why = "duplicate", "it is there already"
        else:
            self.texts[words] = clean
            return ""
        self.dropped[reason] += 1
        return f"{_quote(str(text))}: {why}"

    def result(self, author: str, **rest: Any) -> PromptSet:
        """Return the prompt set; `rest` are its other fields."""
        texts = tuple(self.texts.values())
        return PromptSet(author=author, texts=texts, dropped=dict(self.dropped), **rest)


def ask(
    model: BaseChatModel, author: str, request: PromptRequest, n: int, llm: LLMSettings
) -> PromptSet:
    """Let a chat model write `n` prompts, at most ASK_AT_ONCE per call of `write_prompts`.

    It stops early, with the reason in the result, if MAX_FRUITLESS answers in a row add no prompt,
    a limit of `llm` is reached, or the model fails after its first prompts.

    Args:
        model: The model.
        author: Name of the model, which determines its price.
        request: The request.
        n: Number of prompts.
        llm: Limits of tokens and money.

    Raises:
        BrainError: The model fails before it has written a valid prompt.
    """
    kept, spending = _Kept(request), Spending(author, llm)
    tool = convert_to_openai_tool(write_prompts)
    rejected: list[str] = []
    stopped: str | None = None
    n_calls = fruitless = 0
    while len(kept.texts) < n and not stopped:
        n_before, n_wanted = len(kept.texts), min(ASK_AT_ONCE, n - len(kept.texts))
        question = _question(request, n_wanted, list(kept.texts.values()), rejected)
        if stopped := spending.reason_against([question], [tool]):
            break
        try:
            answer = model.bind_tools([tool]).invoke([question])
        except BrainError as error:
            if not kept.texts:
                raise
            stopped = str(error)
            break
        n_calls += 1
        spending.add(spending.usage(answer))
        reasons = [kept.add(text) for text in _written(answer)[:n_wanted]]
        rejected = [why for why in reasons if why][:_MAX_REJECTED]
        fruitless = 0 if len(kept.texts) > n_before else fruitless + 1
        if fruitless == MAX_FRUITLESS:
            stopped = f"{fruitless} answers in a row contained no new valid prompt"
    rest = {"n_calls": n_calls, "n_tokens": spending.n_tokens, "stopped": stopped or ""}
    return kept.result(author, **rest)


def caption(
    request: PromptRequest, n: int, distribution: AttributeDistribution, seed: int
) -> PromptSet:
    """Let the caption grammar write `n` prompts.

    Each names the requested attributes and a random subset of the other attributes of a photograph
    that has them, drawn by frequency. If no photograph has them all, nothing is added.
    """
    rng, kept, asked = random.Random(seed), _Kept(request), request.attributes
    rows = [(r.attributes, r.n) for r in distribution.rows if asked.items() <= r.attributes.items()]
    rows = rows or [(dict(asked), 1)]
    for _ in range(n * _TRIES):
        if len(kept.texts) == n:
            break
        (row,) = rng.choices([row for row, _ in rows], weights=[count for _, count in rows])
        more = sorted(row.keys() - asked.keys())
        added = rng.sample(more, rng.randint(0, len(more)))
        attributes = {**asked, **{key: row[key] for key in added}}
        if not request.vocabulary.problems(attributes):
            kept.add(request.vocabulary.caption(attributes, rng))
    missing = len(kept.texts) < n
    return kept.result("grammar", stopped="the grammar is exhausted" if missing else "")


def _question(
    request: PromptRequest, n: int, earlier: Sequence[str], rejected: Sequence[str]
) -> HumanMessage:
    vocabulary = request.vocabulary

    def wordings(key: str, value: str) -> str:
        phrases = vocabulary.attributes[key][value]
        return f"{value} ({', '.join(map(_quote, [*phrases.adjective, *phrases.clause]))})"

    def needs(key: str) -> str:
        needed = vocabulary.requires.get(key, {}).items()
        words = " and ".join(f"{other} {' or '.join(values)}" for other, values in needed)
        return f" (only beside {words})" if words else ""

    text = render(
        "paraphrase",
        n=n,
        request=_quote(request.text),
        asked=[f"{key}: {wordings(key, value)}" for key, value in request.attributes.items()],
        others=[
            f"{key}{needs(key)}: {'; '.join(wordings(key, value) for value in values)}"
            for key, values in vocabulary.attributes.items()
            if key not in request.attributes
        ],
        subjects=", ".join(vocabulary.subjects),
        max_chars=MAX_CHARS,
        example=_quote(vocabulary.caption(request.attributes)),
        known=[_quote(text) for text in earlier[-_MAX_EARLIER:]],
        rejected=rejected,
    )
    return HumanMessage(text)


def _written(answer: AIMessage) -> list[Any]:
    """Return the prompts in the tool calls of an answer, of any type; [] if there are none."""
    given = [c["args"].get("prompts") for c in answer.tool_calls if c["name"] == "write_prompts"]
    return [text for prompts in given if isinstance(prompts, list) for text in prompts]


def _quote(text: str) -> str:
    return quote(text, MAX_CHARS)
