"""Prompts for one request, written by a language model or by the caption grammar, and checked."""

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

# What a question shows of earlier prompts, so that it stays short for small models.
_MAX_EARLIER = 40
_MAX_REJECTED = 3
# Draws of the grammar per prompt that is wanted, before it counts as exhausted.
_TRIES = 20
Reason = Literal["malformed", "lost", "contradicting", "duplicate"]
"""Why a prompt is dropped: no text, empty, too long or not printable; it does not say an attribute
that was asked for; it says another value of one; it is there already."""
REASONS: tuple[Reason, ...] = get_args(Reason)


def write_prompts(prompts: list[str]) -> None:
    """Hand in new prompts, one image each."""


@dataclass(frozen=True)
class PromptRequest:
    """What prompts are asked to show.

    Attributes:
        text: The request in the user's words.
        attributes: The attribute values that it names.
        vocabulary: Words of the target.
    """

    text: str
    attributes: Mapping[str, str]
    vocabulary: Vocabulary

    @classmethod
    def parse(cls, text: str, vocabulary: Vocabulary) -> PromptRequest:
        """Return the request of a text.

        Raises:
            SettingsError: If it names no attribute, or two values of one.
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
        """Return each "attribute=value" of a text where another value was asked for."""
        wrong = []
        words = self.vocabulary.attributes
        for key, value in self.attributes.items():
            # The value asked for becomes an attribute of its own, so that `parse` looks past it.
            others = {v: phrases for v, phrases in words[key].items() if v != value}
            attributes = {**words, key: others, "": {value: words[key][value]}}
            named = self.vocabulary.model_copy(update={"attributes": attributes}).parse(text)
            if key in named:
                wrong.append(f"{key}={named[key]}")
        return wrong


class PromptSet(Record):
    """The prompts that one author wrote for a request."""

    author: str = Field(description="a brain's name, or grammar")
    texts: tuple[str, ...] = Field(description="kept: different, and they say all that was asked")
    dropped: dict[Reason, int] = Field({}, description="number of the others, by reason")
    n_calls: int = Field(0, ge=0, description="answers of a brain")
    n_tokens: int = Field(0, ge=0, description="of a brain, prompts and answers")
    stopped: str = Field("", description="why there are fewer prompts than wanted")

    @property
    def share_valid(self) -> Estimate:
        """Share of the prompts as written that say what was asked, duplicates included."""
        n_written = len(self.texts) + sum(self.dropped.values())
        return wilson(len(self.texts) + self.dropped.get("duplicate", 0), n_written)


@dataclass
class _Kept:
    """Prompts that are new and say all that was asked for, and how many are not or do not."""

    request: PromptRequest
    texts: dict[str, str] = field(default_factory=dict)
    dropped: Counter[Reason] = field(default_factory=Counter)

    def add(self, text: object) -> str:
        """Keep a prompt and return "", or return why it is dropped."""
        clean = " ".join(text.split()) if isinstance(text, str) else ""
        # Case and punctuation do not make a prompt another one.
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
        """Return what was kept and counted; `rest` are further fields of the set."""
        texts = tuple(self.texts.values())
        return PromptSet(author=author, texts=texts, dropped=dict(self.dropped), **rest)


def ask(
    model: BaseChatModel, author: str, request: PromptRequest, n: int, llm: LLMSettings
) -> PromptSet:
    """Let a chat model write `n` prompts, at most ASK_AT_ONCE with a call of `write_prompts`.

    Ends early, and says why, when MAX_FRUITLESS answers in a row add nothing, when a limit of
    `llm` is reached, or when the model fails after its first prompts.

    Args:
        model: The model.
        author: Its name, by which its price is looked up.
        request: What the prompts are to show.
        n: Prompts wanted.
        llm: Limits of tokens and money.

    Raises:
        BrainError: If the model fails before it wrote a prompt.
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
            stopped = f"{fruitless} answers in a row held no new prompt that says what was asked"
    rest = {"n_calls": n_calls, "n_tokens": spending.n_tokens, "stopped": stopped or ""}
    return kept.result(author, **rest)


def caption(
    request: PromptRequest, n: int, distribution: AttributeDistribution, seed: int
) -> PromptSet:
    """Let the caption grammar write `n` prompts.

    Each says what was asked for and a random part of what else a photograph with these attributes
    has, photographs drawn by frequency. Where no photograph has them all, nothing is added.
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
    return kept.result("grammar", stopped="it has hardly any other prompts" if missing else "")


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
    """Return what an answer hands in as prompts, of whatever type; [] if it hands in nothing."""
    given = [c["args"].get("prompts") for c in answer.tool_calls if c["name"] == "write_prompts"]
    return [text for prompts in given if isinstance(prompts, list) for text in prompts]


def _quote(text: str) -> str:
    return quote(text, MAX_CHARS)
