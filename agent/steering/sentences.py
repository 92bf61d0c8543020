"""Sentences that stand for slash commands: what a person asks for or about in their own words.

Texts come as `agent.steering.grammar.plain` gives them: in lower case, without contractions.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_N = r"\d+|an?(?:other)?|one|two|three|four|five|six|ten"
_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "ten": 10}
_ROUND = r"rounds?\b"
_PLEASE = re.compile(
    r"^(?:please|ok|okay|well|so|now|and)[ ,]+|[ ,]+(?:please|now|thanks|thank you)$"
)
# What stands before a wish that is put as a question.
ASKED = re.compile(
    r"^(?:(?:can|could|would|will|may|might) (?:you|we|i) (?:please )?(?:have |get )?|"
    r"(?:what|how) about )"
)
_QUESTION = re.compile(
    r"(?:what|which|where|when|who|whose|how|why|is|are|was|were|does|did|has|have|should|"
    r"do (?:you|we|i))\b"
)
_REQUEST = re.compile(
    r"(?:please )?(?:can|could|would|will|may|might) (?:you|we|i)\b|(?:what|how) about\b"
)
_VAGUE = re.compile(
    r"\b(?:harder|difficult|challenging|tougher|easier|simpler|better|improve|smarter|fix|"
    r"what (?:it|the model) (?:fails|gets wrong|is bad)|what fails|weak(?:ness(?:es)?)?|failures|"
    r"worst|hard (?:ones|cases|images|examples))\b"
)
_YES = (
    r"(?:yes|yep|yeah|ok|okay|sure|fine|good|great|perfect|approved?|accept(?:ed)?|go ahead|"
    r"(?:it |this |that )?(?:looks|is|sounds) (?:good|fine|ok|okay|great|perfect)(?: to me)?|"
    r"do it|make it|let us (?:go|do it))"
)
_SHOW = re.compile(r"(?:show|see|let me see|display)(?: me| us)?\b(?P<what>.*)", re.DOTALL)

_Say = str | Callable[[re.Match[str]], str]


def _count(said: str) -> int:
    return int(said) if said.isdecimal() else _NUMBERS.get(said, 1)


def _score(match: re.Match[str]) -> str:
    number = float(match["score"])
    return f"budget score {number / 100 if match['percent'] else number:g}"


def _hours(match: re.Match[str]) -> str:
    number = float(match["time"])
    return f"budget hours {number / 60 if match['unit'].startswith('m') else number:.3g}"


def _since(match: re.Match[str]) -> str:
    number = re.search(r"\bround (\d+)", match[0])
    return f"changes {number[1]}" if number else "changes"


def _why(match: re.Match[str]) -> str:
    row = re.search(r"\b(?:row|prompt|line|number) (\w+)", match[0])
    return f"why {row[1]}" if row else "why"


# Of the whole sentence; the first that fits counts.
_SENTENCES: tuple[tuple[str, _Say], ...] = (
    (
        rf"(?:stop|end|finish|quit)\b.*\bafter (?P<n>{_N}) (?:more|further) {_ROUND}.*",
        lambda m: f"continue {_count(m['n'])}",
    ),
    (
        r"(?:stop|end|finish|quit)\b.*\b(?:after|at|with) (?P<n>\d+|two|three|four|five|ten) "
        rf"{_ROUND}.*",
        lambda m: f"budget rounds {_count(m['n'])}",
    ),
    (
        r"(?:stop|end|finish|quit)\b.*\b(?:after|at|with) round (?P<n>\d+).*",
        lambda m: f"budget rounds {m['n']}",
    ),
    (r"(?:stop|end|finish|quit)\b.*\b(?:after|end of)\b.*\bround.*", "stop round"),
    (
        r"(?:.*\b(?:until|till|stop|target|goal|aim|reach(?:es)?|once)\b).*?"
        r"(?P<score>\d?\.\d+|\d+(?= ?%))(?P<percent> ?%)?.*",
        _score,
    ),
    (
        r"(?:.*\b(?:stop|end|spend|max(?:imum)?|at most|no more than|not more than|more than|limit|"
        r"budget|within|after|run|go on|work)\b).*?(?P<time>\d+(?:\.\d+)?) ?"
        r"(?P<unit>h|hours?|hrs?|m|min|mins|minutes?)\b.*",
        _hours,
    ),
    (
        rf"(?:(?:go on|continue|resume|carry on|keep going|run|do|make|add|give me)(?: for)? )?"
        rf"(?P<n>{_N}) (?:more |further )?{_ROUND}(?: more)?",
        lambda m: f"continue {_count(m['n'])}",
    ),
    (
        rf"(?P<n>\d+|two|three|four|five|ten) {_ROUND} (?:in all|in total|altogether)",
        lambda m: f"budget rounds {_count(m['n'])}",
    ),
    (rf"(?:(?:make|do|use|run) )?(?:fewer|less|more) {_ROUND}", "budget rounds"),
    (
        r"(?:.*\b(?:at most|max(?:imum)?|no more than|not more than|limit)\b.* )?(?P<n>\d+) images "
        r"(?:in all|in total|altogether)",
        lambda m: f"budget total {m['n']}",
    ),
    (
        r"(?:(?:use|make|draw|do|with|only|just|generate|at most) )*(?P<n>\d+) images"
        r"(?: (?:per|a|each|every|in each|in every|for each) (?:round|plan)| at once| each time|"
        r" from now on)?",
        lambda m: f"budget images {m['n']}",
    ),
    (
        r"(?:(?:use|make|draw|do|with|generate) )?(?:(?:many|a lot) )?"
        r"(?:fewer|less|more|half the|twice the|double the|too many) images"
        r"(?: (?:per|a|each|every|in each) (?:round|plan))?",
        "budget images",
    ),
    (
        r"(?:stop|quit|exit|end|cancel|abort|halt|finish|bye|goodbye|enough)"
        r"(?: (?:it|this|everything|the session))?",
        "stop",
    ),
    (r"(?:do not|never) (?:stop|end|quit)(?: .*)?", "continue"),
    (r"(?:do not (?:continue|go on)|not yet)(?: .*)?", "pause"),
    (r".*\b(?:tomorrow|overnight|tonight|morning|o'?clock|\d+ ?[ap]m)\b.*", "budget time"),
    (r"(?:pause|wait|hold on|hold)(?: (?:it|a moment|a minute|the session))?", "pause"),
    (
        r"(?:continue|go on|resume|carry on|keep going|proceed|go|start|run)(?: (?:on|it))?",
        "continue",
    ),
    (rf"{_YES}(?:[ ,]+{_YES})*", "approve"),
    (
        r"(?:no|nope|reject(?:ed)?|i (?:do not like|dislike) (?:it|this|that|(?:this|the) plan)|"
        r"i disagree|try again|another plan|a different plan|replan|plan (?:it |this )?again|"
        r"make another(?: one| plan)?|not good|bad)",
        "reject",
    ),
    (
        r"(?:forget|remove|delete|drop|clear|take back) (?:all|everything|all of (?:it|them))"
        r"(?: (?:of )?(?:my |the )?wishes)?",
        "forget all",
    ),
    (r"(?:forget|remove|delete|drop|clear) (?:my|the|all my|all the) wishes", "forget all"),
    (
        r"(?:forget|remove|delete|drop|take back) (?:wish )?(?P<id>[wa]\d+)",
        lambda m: f"forget {m['id']}",
    ),
    (
        r"(?:undo|go back|back|revert|never ?mind|scratch that|cancel (?:that|it)|"
        r"take (?:it|that|this|the last(?: one)?) back|forget (?:it|that|this|about it))"
        r"(?: (?:it|that|this|the last(?: (?:one|wish|step))?))?",
        "back",
    ),
    (
        r"forget (?:about )?(?:(?:the|my) (?:wish (?:for|about|of) )?)?(?P<what>.+)",
        lambda m: f"forget {m['what']}",
    ),
    (r"(?:remove|delete|drop) (?:row|prompt|line) (?P<n>\d+)", lambda m: f"edit {m['n']} remove"),
    (
        r"(?:(?:make|set|change) )?(?:row|prompt|line) (?P<n>\d+):? (?:(?:to|be|with|has|=) )?"
        r"(?P<count>\d+)(?: images)?",
        lambda m: f"edit {m['n']} count {m['count']}",
    ),
    (r"what (?:is|was) (?:the |our |its )?(?:\w+ )?(?:score|accuracy|miou|result|round)", "status"),
    (
        r"(?:show |list |see )?(?:what are )?(?:my |the |all |me my |me the )*(?:wishes|rules)"
        r"(?: so far)?|what did i (?:say|wish|want|ask for)|"
        r"(?:did|do|does|have|has) (?:my|the) wish(?:es)?\b.*|what did my wish(?:es)?\b.*",
        "status",
    ),
    (r"(?:(?:show|open|write|make|give)(?: me)? )?(?:the |a )?report", "report"),
    (
        r"(?:(?:the |what is the |show (?:me )?the )?plan|what (?:is|comes) next|"
        r"what will you (?:draw|make|do)(?: next)?)",
        "plan",
    ),
    (
        r"(?:the |its |all |what are the )*(?:failures|errors|mistakes|weaknesses|"
        r"worst (?:slices?|ones?|cases?))",
        "failures",
    ),
    (
        r"(?:help|hello|hi|hey|what can (?:you|i) (?:do|say)|who are you|what is this|"
        r"what are you|how does (?:this|it) work)",
        "help",
    ),
    (r"why\b(?!.*\b(?:fail|bad|wrong|worst|weak|poor|low|worse)).*", _why),
    (
        r"(?:what|how much) (?:has |have |is |was |did |it )*"
        r"(?:changed?|different|new|improved?)\b.*|"
        r"(?:did|has|is|does) (?:it|that|the model|this|anything|the score)\b.*"
        r"\b(?:better|improv\w+|worse|help\w*|work\w*|changed?)|compare (?:the )?rounds?.*|"
        r"what did (?:it|that|i)\b.*\b(?:do|help|change|bring|achieve)|"
        r"how did (?:it|that|the score|the model)\b.*|.*\bsince round \d+",
        _since,
    ),
    (
        r"(?:what|how much)\b.*\b(?:costs?|spent|spend|budget|money|price|left)\b.*|how long\b.*|"
        r"how (?:many|much) (?:more )?(?:images|rounds|time|hours|money|is left|is spent)\b.*|"
        r"when (?:will|is|does)\b.*|(?:the |what is the )?(?:budget|cost|costs|time left|eta)",
        "budget",
    ),
    (
        r"(?:how is it going|how far|status|progress|where are we|what are you doing|"
        r"what is (?:going on|happening)|how are you)\b.*",
        "status",
    ),
)
# Of questions about where the model fails; a slice that is named comes behind.
_FAILS = re.compile(
    r"where (?:does|do|is|are) (?:it|the model|you|we)\b.*(?:fail|wrong|bad|weak|worst).*|"
    r"(?:what|which|where|why|how)\b.*\b(?:fail\w*|worst|worse|weak\w*|wrong|bad|poor|low)\b.*"
)


def command_of(said: str, named: str) -> str | None:
    """Return the slash command that a sentence stands for, without the slash, or None.

    named: the slice whose values the sentence names, "" for none.
    """
    bare = said.strip(" .!?")
    for _ in range(2):
        bare = _PLEASE.sub("", bare).strip(" .!?,")
    bare = ASKED.sub("", bare)
    if match := _SHOW.fullmatch(bare):
        what = re.sub(r"^(?:the|its|all|what it)\s+", "", match["what"].strip())
        if what and not named and (known := command_of(what, "")) in ("failures", "report", "plan"):
            return known
        if what and not named and _FAILS.fullmatch(f"what {what}"):
            return "failures"
        return f"show {match['what'].strip()}".strip()
    for pattern, command in _SENTENCES:
        if match := re.fullmatch(pattern, bare):
            return command if isinstance(command, str) else command(match)
    if _FAILS.fullmatch(bare):
        return f"failures {named}".strip()
    return None


def is_question(said: str) -> bool:
    """Tell whether a sentence asks something, so that nothing is wished by it."""
    if _REQUEST.match(said):
        return False
    return said.rstrip().endswith("?") or bool(_QUESTION.match(said))


def is_vague(said: str) -> bool:
    """Tell whether a sentence asks for better or harder data without saying which."""
    return bool(_VAGUE.search(said))
