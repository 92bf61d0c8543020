"""Who writes prompts for a request, a brain or the caption grammar, and which prompts are kept."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import Field

from agent.brains.spending import Spending
from agent.config.settings import LLMSettings
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

Outcome = Literal["kept", "malformed", "lost", "contradicting", "duplicate"]


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
    """The prompts that one author wrote for a request, and what became of the others."""

    author: str = Field(description="a brain's name, or grammar")
    texts: tuple[str, ...] = Field(description="kept: different, and they say all that was asked")
    n_written: int = Field(ge=0, description="kept and dropped")
    n_malformed: int = Field(ge=0, description="no text, empty, too long or not printable")
    n_lost: int = Field(ge=0, description="do not say an attribute that was asked for")
    n_contradicting: int = Field(ge=0, description="say another value of one, too or instead")
    n_duplicates: int = Field(ge=0, description="valid, but there already")
    n_calls: int = Field(0, ge=0, description="answers of a brain")
    n_tokens: int = Field(0, ge=0, description="of a brain, prompts and answers")
    stopped: str = Field("", description="why there are fewer prompts than wanted")

    @property
    def share_valid(self) -> Estimate:
        """Share of the prompts as written that say what was asked, duplicates included."""
        return wilson(len(self.texts) + self.n_duplicates, self.n_written)


class PromptFilter:
    """Keeps prompts that are new and say all that was asked for; counts the others."""

    def __init__(self, request: PromptRequest) -> None:
        self.texts: list[str] = []
        self.counts: Counter[Outcome] = Counter()
        self._request = request
        self._seen: set[str] = set()

    def add(self, text: object) -> str | None:
        """Keep a prompt and return None, or return why it was dropped."""
        outcome, reason = self._check(text)
        self.counts[outcome] += 1
        if outcome == "kept":
            self.texts.append(_clean(text))
            self._seen.add(_plain(text))
            return None
        return f"{_quote(text)}: {reason}"

    def result(self, author: str, **rest: Any) -> PromptSet:
        """Return what was kept and counted; `rest` are further fields of the set."""
        return PromptSet(
            author=author,
            texts=tuple(self.texts),
            n_written=self.counts.total(),
            n_malformed=self.counts["malformed"],
            n_lost=self.counts["lost"],
            n_contradicting=self.counts["contradicting"],
            n_duplicates=self.counts["duplicate"],
            **rest,
        )

    def _check(self, text: object) -> tuple[Outcome, str]:
        clean = _clean(text)
        if not (0 < len(clean) <= MAX_CHARS and clean.isprintable()):
            return "malformed", f"a prompt is one line of 1 to {MAX_CHARS} characters"
        named = self._request.vocabulary.parse(clean)
        for key, value in self._request.attributes.items():
            if key not in named:
                return "lost", f"it does not say {key}={value}"
        if wrong := self._request.contradictions(clean):
            return "contradicting", f"it says {', '.join(wrong)}"
        if _plain(text) in self._seen:
            return "duplicate", "it is there already"
        return "kept", ""


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
    kept, spending = PromptFilter(request), Spending(author, llm)
    rejected: list[str] = []
    stopped, n_calls, fruitless = "", 0, 0
    while len(kept.texts) < n and not stopped:
        n_wanted = min(ASK_AT_ONCE, n - len(kept.texts))
        tools = [_tool(n_wanted)]
        question = _question(request, n_wanted, kept.texts, rejected)
        if reason := spending.reason_against([question], tools):
            stopped = reason
            break
        try:
            answer = model.bind_tools(tools).invoke([question])
        except BrainError as error:
            if not kept.texts:
                raise
            stopped = str(error)
            break
        n_calls += 1
        spending.add(spending.usage(answer))
        n_before = len(kept.texts)
        written = _written(answer)[:n_wanted]
        rejected = [why for text in written if (why := kept.add(text))][:_MAX_REJECTED]
        fruitless = 0 if len(kept.texts) > n_before else fruitless + 1
        if fruitless == MAX_FRUITLESS:
            stopped = f"{fruitless} answers in a row held no new prompt that says what was asked"
    return kept.result(author, n_calls=n_calls, n_tokens=spending.n_tokens, stopped=stopped)


def caption(
    request: PromptRequest, n: int, distribution: AttributeDistribution, seed: int
) -> PromptSet:
    """Let the caption grammar write `n` prompts.

    Each says what was asked for and a random part of what else a photograph with these attributes
    has, photographs drawn by frequency. Where no photograph has them all, nothing is added.
    """
    rng, kept, asked = random.Random(seed), PromptFilter(request), request.attributes
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


def _tool(n: int) -> dict[str, Any]:
    text = {"type": "string", "maxLength": MAX_CHARS}
    prompts = {"type": "array", "items": text, "minItems": 1, "maxItems": n}
    return {
        "type": "function",
        "function": {
            "name": "write_prompts",
            "description": "Hand in new prompts, one image each.",
            "parameters": {
                "type": "object",
                "properties": {"prompts": prompts},
                "required": ["prompts"],
            },
        },
    }


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
    written: list[Any] = []
    for call in answer.tool_calls:
        prompts = call["args"].get("prompts") if call["name"] == "write_prompts" else None
        written += prompts if isinstance(prompts, list) else []
    return written


def _clean(text: object) -> str:
    return " ".join(text.split()) if isinstance(text, str) else ""


def _plain(text: object) -> str:
    """Return a prompt as it is compared with others: case and punctuation do not count."""
    return " ".join("".join(c for c in _clean(text).lower() if c.isalnum() or c in "- ").split())


def _quote(text: object) -> str:
    return quote(str(text), MAX_CHARS)
