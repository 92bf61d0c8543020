"""Questions in plain words: each has a topic, which a slash command answers from the records.

A question has the first topic with a matching pattern, so special topics precede general ones.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lark import Token

from agent.steering.arguments import number_of_text
from agent.steering.lexicon import FILLERS, Lexicon
from agent.steering.preferences import slice_name

# Beginnings of questions.
ASKS = re.compile(
    r"(?:what|which|where|who|whose|how|when|why|is|are|am|was|were|does|did|has|have|should|shall"
    r"|do (?:you|we|i)|(?:can|may) i (?:stop|end|quit)|(?:would|will)(?! (?:you|we|i)\b)|tell me"
    r"|explain)\b"
)
_SHOWS = re.compile(r"^(?:(?:show|see|display|let me see|list)\b(?: me)?|the|my) ")
_GO_ON = r"stop|end|quit|continue|go on|going on|go further|keep going|carry on|(?:more )?rounds?"
_TOPICS = tuple(
    (name, re.compile(rf"\b(?:{'|'.join(patterns)})"))
    for name, *patterns in (
        ("help", r"(?:what can (?:you|i) (?:do|say|ask)|who are you|what (?:is this|are you))$",
         r"how do(?:es)? (?:this|it|i) (?:work|use this)$",
         r"how (?:do|can) i (?:stop|pause|continue|undo|approve|edit|change|add|forget|quit)"),
        ("last", r"you (?:just|last)\b", r"just (?:changed?|did|done|do)\b",
         r"(?:my|your|the) last (?:change|request|wish|command)",
         r"what (?:did|have) you (?:do|done|changed?|understood)"),
        ("status", r"wish(?:es)?\b", r"rules\b", r"preferences?\b", r"ask(?:ed)? for",
         r"i (?:ask|say|said|want)"),
        ("status", r"why (?:did|has|have|is|was) (?:it|this|you|the (?:session|run)) (?:\w+ )?"
         r"(?:stop|end|finish|over|done|paus|wait)"),
        ("files", r"export|download|zip\b|archive\b", r"files?\b|folders?\b|director|saved|stored",
         r"where (?:is |are )?(?:the|my|our|its) (?:\w+ )?(?:model|network|weights|report)\b",
         r"(?:use|load|deploy|run|get) (?:the|my|this|its) (?:\w+ )?(?:model|network|images)\b"),
        ("memory", r"(?:you|it|we|been) learn(?:t|ed)?$", r"lessons?\b", r"remember"),
        ("prompts", r"(?:worst|best|weakest|poorest|useless|helpful|rejected) prompts?\b",
         r"prompts? (?:was|were|is|are|did|do|has|have|work|help|fail|got|get|perform)"),
        ("worth", r"worth", r"plateau|converge|pay off|saturate", r"no (?:more )?gain",
         r"(?:should|shall|can|may|better to|sense to|time to) (?:(?:i|we|it) )?(?:do |run |make )?"
         rf"(?:1 )?(?:{_GO_ON})\b", r"(?:1|more) rounds? (?:help|bring|be|do)",
         r"if (?:i|we) (?:stop|continue|go on)"),
        ("why", r"why\b", r"reasons?\b", r"what made you"),
        ("classes", r"class(?:es)?\b", r"iou|recall|confuse|confusion(?: matrix)?",
         r"(?:mistaken|taken) for"),
        ("plan", r"plan(?:s|ned)?\b", r"next\b", r"prompts?\b"),
        ("synthetic", r"mix\b|mixture", r"how (?:much|many|large|big) .*(?:synthetic|generated)",
         r"(?:synthetic|generated) (?:share|part)", r"(?:share|part) of (?:synthetic|generated)"),
        ("baseline", r"alone\b|synthetic|generated|real only|baseline|round 0\b|beginning",
         r"without (?:the |any )?(?:images|data)", r"hurt|harm",
         r"test (?:score|set|accuracy|result)|on (?:the )?test\b", r"deliver|sealed",
         r"best (?:model|network)",
         r"(?:images|pictures|data) (?:help|work|useful|bring|make|matter|any good)",
         r"significant|chance\b|noise\b|confident|certain|sure\b|trust|statistic|reliab|robust",
         r"(?:came|come|comes|got) (?:\w+ )?(?:out\b|of (?:it|this|all|the session))",
         r"conclusion|summar|outcome|bottom line"),
        ("data", r"(?:test|measure|train|learn|evaluate)(?:s|d|ed|t)? (?:\w+ )?(?:on|from|with)\b",
         r"audit|kept\b|keep\b|reject|discard|thrown|photographs?\b|photos?\b",
         r"images\b.*(?:far|until now|already|made|make)\b", r"data ?set|what data\b",
         r"(?:about|of|in) (?:my|the) data\b"),
        ("changes", r"chang|differ|new\b|improve|better\b|worse\b|help|bring|achieve|worked",
         r"compare|since\b|trend"),
        ("failures", r"fail|errors?\b|mistakes?\b|weak|worst\b|wrong\b|bad\b|poor|low\b|hard",
         r"struggle"),
        ("budget", r"costs?\b|spen[dt]\b|budget|money|price|left\b|remain|eta\b|how long|when\b",
         r"finish|hours?\b|minutes|tokens?\b|dollars?\b|how many (?:rounds|images)"),
        ("status", r"scores?\b|accura|miou|results?\b|status|progress|going\b|far\b|doing\b",
         r"happening|best\b|rounds?\b"),
    )
)  # fmt: skip
# Verbs of requests that are answered like questions.
_ASKED = ("compare", "tell", "explain", "export", "download")
_SINCE = re.compile(r"\b(?:since|after|than|from|compared|against|with|over)\b")
_BEST = re.compile(r"\b(?:best|help\w* (?:the )?most|most helpful|worked|gain\w*)\b")
# Topics that can refer to a slice, and topics that never do ("how many images are left?"). With
# other topics a question that names a slice asks for its scores.
_OF_SLICES = ("why", "plan", "failures")
_OF_NO_SLICE = ("help", "last", "worth", "synthetic", "budget", "files", "prompts")
# Words of the patterns, and further words that do not change the meaning of a question.
_KNOWN = frozenset(re.findall(r"[a-z]+", " ".join(p.pattern for _, p in (*_TOPICS, ("", ASKS)))))
_BESIDE = (
    "anything avoid balanced batch been before choose chose did ended failures getting like look "
    "model most number our row show since take than will would yet"
)
_KNOWN |= frozenset(_BESIDE.split())


class Question(NamedTuple):
    """The slash command that answers a question, "" for none, and the question's unknown words."""

    command: str
    unknown: tuple[str, ...] = ()


def question(
    line: str, named: Mapping[str, Sequence[str]], lexicon: Lexicon, is_request: bool = False
) -> Question | None:
    """Parse a question; None if the line is not one.

    Args:
        line: The line in lower case, with its question mark, if any.
        named: Values of the target that the line names, by attribute.
        lexicon: Phrases of the target.
        is_request: Whether to parse it as a request such as "show the plan" or "budget".
    """
    words = [_corrected(word) for word in re.findall(r"[\w=-]+", line)]
    text = " ".join(words)
    if is_request:
        text, n_verbs = _SHOWS.subn("", text)
        if named or not (n_verbs or len(words) <= 2 or words[0] in _ASKED):
            return None
    elif not (ASKS.match(line) or line.endswith("?")):
        return None
    topic = next((name for name, pattern in _TOPICS if pattern.search(text)), "")
    if not topic:
        return Question("")
    if topic in _OF_NO_SLICE:
        named = {}
    elif named and topic not in _OF_SLICES:
        return Question("")
    about = slice_name(named) if named else ""
    number = re.search(r"\b(?:row|prompt|line|number) (\d+)\b|\b(r\d{3}p\d{2,3})\b", text)
    rounds = re.findall(r"\brounds? (\d+)(?: (?:and|with|to) (\d+)\b)?", text)
    rounds = [n for pair in rounds for n in pair if n]
    if topic == "why" and named and re.search(r"\b(?:bad|fail|wrong|weak|worst|poor|hard)", text):
        topic = "failures"
    elif topic == "prompts" and _BEST.search(text):
        about = "best"
    elif topic == "why" and number:
        about = number[1] or number[2]
    elif topic == "changes" and len(rounds) == 1 and not _SINCE.search(text):
        about = f"{int(rounds[0]) - 1} {rounds[0]}" if int(rounds[0]) else "0"
    elif topic == "changes":
        about = " ".join(sorted(rounds[:2], key=int))
    elif rounds and not named and topic in ("why", "plan", "failures"):
        about = f"round {rounds[0]}"
    unknown = [w for w in lexicon.read(text)[1] if not (_is_known(w) or w.isdecimal())]
    return Question(f"{topic} {about}".strip(), tuple(unknown))


def _is_known(word: str) -> bool:
    """Return whether a word, or its base form, has a meaning in questions."""
    forms = {
        word,
        f"{word}s",
        word[:-1],
        word[:-2],
        word.removesuffix("ing"),
        word.removesuffix("ment"),
    }
    return not forms.isdisjoint(_KNOWN | FILLERS)


def _corrected(word: str) -> str:
    """Return the known word that is very similar to a misspelt one, or the word itself."""
    if len(word) < 5 or _is_known(word):
        return word
    return next(iter(difflib.get_close_matches(word, _KNOWN, n=1, cutoff=0.85)), word)


_MIXES = re.compile(
    r"(?P<real>real (?:images|photos|photographs|data|ones)|photo(?:graph)?s(?= .*(?:batch|mix))"
    r"|\d% photo(?:graph)?s)"
    r"|(?P<synthetic>synthetic|generated|artificial|fake)"
)
_ABOUT_MIX = (
    "try use set make share part proportion batch per mix training of lower raise images data "
    "photos photographs ones real synthetic generated artificial fake should"
)


def mix_command(line: str, tokens: Sequence[Token]) -> str | None:
    """Return the command that changes the share of generated images in training, or None.

    tokens: Tokens of the demands in the line, see `grammar.tokens_of`.
    """
    kinds = {match.lastgroup for match in _MIXES.finditer(line)}
    demands = [t for t in tokens if t.type in ("MORE", "FEWER", "SHARE")]
    usual = {*demands, *_ABOUT_MIX.split()}
    others = [t for t in tokens if t.type != "_SEP" and t not in usual]
    shares = [t for t in demands if t.type == "SHARE"]
    if len(kinds) != 1 or others or not demands or len(shares) > 1:
        return None
    is_real = kinds == {"real"}
    if shares:
        part = 100 * number_of_text(shares[0])
        return f"synthetic {100 - part if is_real else part:g}%"
    if len({t.type for t in demands}) > 1:
        return None
    return f"synthetic {'more' if (demands[0].type == 'MORE') != is_real else 'less'}"
