"""A person's conversation with a live session: what they type in, what is shown in return.

`Conversation.say` takes a line, a slash command or plain words, and returns blocks to show;
`Conversation.show` does the same for what the session tells. Neither knows a terminal or a page.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

from agent import pictures
from agent.live import Happened, LiveSession
from agent.planners import Palette, PlanDraft, PromptDraft, palette_of
from agent.planning import slice_attributes
from agent.printable import one_line
from agent.proposals import Proposals
from agent.questions import Answer, Question
from agent.steering import (
    STEERING,
    STRENGTH,
    Addition,
    Effect,
    Kind,
    Wish,
    additions,
    effects,
    possible,
    share,
    slice_name,
    wishes,
)
from agent.talk import Talk
from agent.views import (
    Block,
    Grid,
    Line,
    failure_grid,
    hit_grid,
    plan_blocks,
    plan_grid,
    plan_reasons,
    round_blocks,
    say_estimate,
    score_grid,
    wish_grid,
)
from agent.wording import MAX_CHARS, Lexicon, Meant, understand
from memory.errors import ShapingError, ToolError, unknown
from memory.journal import Event, Journal
from memory.records import Plan, PromptSpec, Report, Round
from prompts.own_words import value_of
from prompts.vocabulary import Vocabulary

# Wishes that hold at once; more than a person can keep in mind, and than a prompt should say.
MAX_WISHES = 30
_PROMPT_ID = re.compile(r"(r\d{3}p\d{2,3})(?:-(\d{4}))?")
_TIMES = re.compile(r"[x×]\s?(-?\d+)|(-?\d+)\s?[x×]")  # noqa: RUF001 (people type it)


class Command(NamedTuple):
    """A slash command: what may follow it, and what it does."""

    usage: str
    told: str


COMMANDS: dict[str, Command] = {
    "status": Command("", "where the session stands, its wishes and what they did"),
    "failures": Command("[SLICE]", "where the model fails on real photographs"),
    "show": Command("[ID|SLICE|WORDS]", "pictures: generated images or real photographs"),
    "plan": Command("", "the plan that waits for you, or the last one"),
    "approve": Command("", "make the plan"),
    "edit": Command("N count 12 | N ATTRIBUTE VALUE | N remove", "change a row of the plan"),
    "reject": Command("[WHY]", "have it planned again; wishes in WHY count at once"),
    "add": Command('"PROMPT" xN [ATTRIBUTE=VALUE ...]', "add a prompt to this plan or the next"),
    "focus": Command('"SLICE"', "at least half of the images of every plan"),
    "avoid": Command('"WORDS"', "none of these in any plan"),
    "forget": Command("ID", "take a wish or an addition back"),
    "budget": Command("[rounds N|images N]", "what is spent and left, or another budget"),
    "pause": Command("", "hold at the next safe point"),
    "continue": Command("", "go on"),
    "stop": Command("[round]", "stop now, or after this round; nothing is lost"),
    "undo": Command("", "take the latest plan back, with all that came of it"),
    "fork": Command("NAME", "a new session that shares the rounds done so far"),
    "memory": Command('"QUERY"', "what all sessions have learnt about something"),
    "why": Command("[N]", "the reasons for the plan, or for one of its prompts"),
    "report": Command("", "write the HTML report"),
    "help": Command("", "this list"),
}


class Conversation:
    """One person, one live session."""

    def __init__(self, live: LiveSession) -> None:
        self.live = live
        self._talk = Talk(live)
        self._commands: dict[str, Callable[[str], list[Block]]] = {
            "status": self._status,
            "failures": self._failures,
            "show": self._show,
            "plan": self._plan,
            "approve": self._approve,
            "edit": self._edit,
            "reject": self._reject,
            "add": self._add,
            "focus": lambda text: self._wish_by_command("focus", text),
            "avoid": lambda text: self._wish_by_command("avoid", text),
            "forget": self._forget,
            "budget": self._budget,
            "pause": self._pause,
            "continue": self._continue,
            "stop": self._stop,
            "undo": self._undo,
            "fork": self._fork,
            "memory": self._memory,
            "why": self._why,
            "report": self._report,
            "help": self._help,
        }

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The target's words."""
        return self.live.bench.target.vocabulary

    @cached_property
    def lexicon(self) -> Lexicon:
        """The target's words as people say them."""
        return Lexicon(self.vocabulary)

    def say(self, text: str) -> list[Block]:
        """Do what a line asks for, and return what to show; errors are explained, not raised."""
        if len(text) > MAX_CHARS:
            return [Line(f"That has {len(text)} characters; say it in {MAX_CHARS}.", "error")]
        line = one_line(text)
        if not line:
            return []
        try:
            return self._command(line) if line.startswith("/") else self._words(line)
        except ShapingError as error:
            return [Line(one_line(str(error)), "error")]

    def show(self, happened: Happened) -> list[Block]:
        """Return what to show of something that the session tells."""
        if happened.kind == "question":
            question: Question = happened.record
            if question.kind == "words":
                return [Line(f"The agent asks: {one_line(question.text)}", "bold")]
            return self._ask(question)
        if happened.kind == "blocks":
            return list(happened.record)
        if happened.kind == "round":
            done: Round = happened.record
            past = [r.report for r in self._rounds() if r.number < done.number and r.report]
            return round_blocks(done, past[-1] if past else None, self._effects())
        if happened.kind == "warning":
            return [Line(f"Warning: {one_line(happened.text)}", "warning")]
        if happened.kind == "state":
            return [Line(one_line(happened.text), "bold")]
        return [Line(one_line(happened.text), "dim")]

    def words(self) -> list[str]:
        """Return words that a line may hold, for completion."""
        values = [f"{k}={v}" for k, known in self.vocabulary.attributes.items() for v in known]
        report = self._last_report()
        slices = [score.key for score in report.slices] if report else []
        kinds = ["more", "fewer", "only", "avoid", "focus on"]
        names = [v for known in self.vocabulary.attributes.values() for v in known]
        return list(dict.fromkeys([*slices, *values, *names, *kinds]))

    def ids(self) -> list[str]:
        """Return the ids of wishes, additions and of the last plan's prompts, for completion."""
        events = self._events()
        plan = self._last_plan()
        own = [w.id for w in wishes(events)] + [a.id for a in additions(events)]
        return own + ([p.id for p in plan.prompts] if plan else [])

    # -- what was said ---------------------------------------------------------------------------

    def _command(self, line: str) -> list[Block]:
        name, _, rest = line[1:].partition(" ")
        name = name.lower()
        if name not in COMMANDS:
            problem = unknown("command", f"/{name[:40]}", [f"/{known}" for known in COMMANDS])
            return [Line(f"{problem} /help explains them.", "error")]
        return self._commands[name](rest.strip())

    def _words(self, line: str) -> list[Block]:
        question = self.live.question
        if question is not None and question.kind == "words":
            self.live.answer(Answer(verdict="words", text=line))
            return [Line("The agent is told.", "dim")]
        if self._talk.possible:
            self._talk.ask(line, self)
            return [Line("The brain thinks about it ...", "dim")]
        return self.follow(line)

    def follow(self, line: str) -> list[Block]:
        """Do what plain words mean to the small parser."""
        meant = understand(line, self.lexicon)
        if meant.command:
            name, _, rest = meant.command.partition(" ")
            if name == "approve" and self.live.question is None:
                return [Line("Nothing waits for your approval.")]
            return [Line(f"Understood: /{meant.command}", "dim"), *self._commands[name](rest)]
        blocks: list[Block] = []
        held = wishes(self._events())
        for wish in meant.wishes:
            blocks += self.wish(wish, line)
        if meant.bare:
            name = " ".join(f"{k}={'|'.join(v)}" for k, v in meant.bare.items())
            blocks.append(
                Line(f"What about {name}? Say more, fewer, only, avoid, focus on, or show me.")
            )
        if meant.unknown or not blocks:
            said = self._not_understood(meant.unknown)
            for wish in meant.half:
                said += (
                    f" Not taken, as without that it means more than you said: {wish.kind} "
                    f"{slice_name(wish.attributes)}."
                )
            if made := wishes(self._events())[len(held) :]:
                said += f" Too much is meant now? {', '.join(f'/forget {w.id}' for w in made)}"
            blocks.append(Line(said, "warning"))
        return blocks

    def _not_understood(self, words: Sequence[str]) -> str:
        said = "I did not understand that."
        if words:
            said = f"Not understood: {', '.join(one_line(word, 30) for word in words[:8])}."
        near = self.lexicon.near(words)
        several = [meant for word in words if (meant := self.lexicon.meanings(word))]
        if several:
            said += f" Say which: {' or '.join(several[0])}."
        elif near:
            said += f" Near words: {', '.join(near)}."
        else:
            example = next(iter(self.vocabulary.attributes.items()))
            said += f" I know the words of the target, e.g. {example[0]}: {', '.join(example[1])};"
            said += ' with "more", "fewer", "only", "avoid" or "focus on". /help lists commands.'
        return said

    def wish(self, meant: Meant, text: str, replans: bool = False) -> list[Block]:
        """Take a wish down, if it leaves anything to draw, and repeat it."""
        events = self._events()
        held = wishes(events)
        if len(held) >= MAX_WISHES:
            raise ToolError(f"{MAX_WISHES} wishes hold already. Take one back with /forget ID.")
        number = 1 + len(self._journal.events("wish", undone=True))
        question = self.live.question
        wish = Wish(
            id=f"w{number}",
            kind=meant.kind,
            attributes=meant.attributes,
            strength=meant.strength,
            text=text[:300],
            since=self._next_plan(),
        )
        same = [w for w in held if (w.kind, w.attributes) == (wish.kind, wish.attributes)]
        if same and wish.kind not in ("more", "fewer"):
            return [Line(f"That holds already: {same[0].id} {same[0].say()}.")]
        if wish.kind in ("only", "avoid"):
            problem = self._against(wish, held)
            if problem:
                raise ToolError(problem)
        self._journal.append("wish", key=f"wish/{wish.id}", wish=wish.to_json())
        said = f"Understood: {wish.say()} ({wish.id}), from the next plan on."
        if question is not None and question.kind == "plan" and not replans:
            said += " The one that waits was made before; /reject has it made again."
        return [Line(said, "good")]

    def _against(self, wish: Wish, held: Sequence[Wish]) -> str:
        if possible([*held, wish], self._palette, self.vocabulary):
            return ""
        others = [w.say() for w in held if w.kind in ("only", "avoid")]
        beside = f" beside {'; '.join(others)}" if others else ""
        return f"{wish.say()}{beside} leaves nothing to draw. /forget ID takes a wish back."

    # -- commands --------------------------------------------------------------------------------

    def _status(self, text: str) -> list[Block]:
        session, now = self.live.session, self.live.progress
        settings = session.settings
        done = session.n_done()
        blocks: list[Block] = [
            Line(f"Session {session.name} ({settings.data}, brain {settings.brain})", "bold"),
            Line(f"{done} of {settings.session.rounds} rounds done; {say_progress(self.live)}"),
            *score_grid(self._rounds()),
        ]
        events = self._events()
        blocks += wish_grid(wishes(events), additions(events), self._effects())
        if now.state == "waiting":
            blocks.append(Line("It waits for you: /plan, /approve, /edit, /reject.", "bold"))
        elif now.state in ("idle", "paused", "failed"):
            blocks.append(Line("/continue goes on.", "bold"))
        return blocks

    def _failures(self, text: str) -> list[Block]:
        measured = [r for r in self._rounds() if r.failures]
        if not measured:
            return [Line("No failures are known yet; the first report finds them.")]
        last = measured[-1]
        if not text:
            return [failure_grid(last.failures, last.number), Line("/show SLICE shows pictures.")]
        wish = self._meant(text)
        found = [f for f in last.failures if f.slice == wish.name]
        blocks: list[Block] = []
        if found:
            blocks.append(failure_grid(found, last.number))
        else:
            report = self._last_report()
            scores = [s.accuracy for s in report.slices if s.key == wish.name] if report else []
            said = f"accuracy {say_estimate(scores[0])}" if scores else "it is not measured"
            blocks.append(Line(f"{wish.name} is not among the failures: {said}"))
        picture = pictures.of_slice(self.live.session, self.live.bench.target, wish)
        return blocks + ([picture] if picture else [])

    def _show(self, text: str) -> list[Block]:
        session, target = self.live.session, self.live.bench.target
        text = _unquoted(text)
        if not text:
            measured = [r for r in self._rounds() if r.failures]
            if measured:
                return self._show(measured[-1].failures[0].slice)
            plan = self._last_plan()
            found = plan and pictures.of_prompts(session, target, plan.prompts, "latest", None)
            return [found] if found else [Line("There are no pictures yet.")]
        specs = [p for r in self._rounds() if r.plan for p in r.plan.prompts]
        if match := _PROMPT_ID.fullmatch(text):
            own = [p for p in specs if p.id == match[1]]
            if not own:
                raise ToolError(unknown("prompt", match[1], [p.id for p in specs][-30:]))
            index = int(match[2]) if match[2] else None
            found = pictures.of_prompts(session, target, own, text, index)
            if found is None:
                return [Line(f"{text} has no images yet: {own[0].text}")]
            return [Line(f"{own[0].id}: {own[0].text}, {own[0].class_name}"), found]
        if picture := pictures.of_photograph(session, target, text):
            return [picture]
        wish = self._meant(text)
        own = [p for p in specs if wish.means(p, self.vocabulary)]
        real = pictures.of_slice(session, target, wish)
        made = pictures.of_prompts(session, target, own, wish.name, None) if own else None
        blocks: list[Block] = [block for block in (real, made) if block]
        return blocks or [Line(f"There are no pictures of {wish.name}.")]

    def _plan(self, text: str) -> list[Block]:
        question = self.live.question
        if question is not None and question.kind == "plan":
            return self._ask(question)
        plan = self._last_plan()
        if plan is None:
            return [Line("There is no plan yet.")]
        return [plan_grid(plan), *plan_reasons(plan)]

    def _approve(self, text: str) -> list[Block]:
        self._pending()
        if not self.live.answer(Answer(verdict="approve")):
            return [Line("It is answered already.")]
        return [Line("Approved.", "good")]

    def _reject(self, text: str) -> list[Block]:
        self._pending()
        blocks: list[Block] = []
        meant = understand(text, self.lexicon)
        for wish in meant.wishes:
            blocks += self.wish(wish, text, replans=True)
        self.live.answer(Answer(verdict="reject", text=text))
        return [*blocks, Line("Rejected; it is planned again.", "good")]

    def _edit(self, text: str) -> list[Block]:
        question, plan = self._pending()
        words = _split(text)
        usage = "Say e.g. /edit 3 count 12, /edit 3 brightness dark, /edit 3 remove."
        if len(words) < 2 or not words[0].isdecimal():
            raise ToolError(usage)
        number = int(words[0][:6])
        if not 1 <= number <= len(plan.prompts):
            raise ToolError(f"The plan has no row {number}; its rows are 1 to {len(plan.prompts)}.")
        drafts = [_as_draft(prompt) for prompt in plan.prompts]
        field, _, value = words[1].partition("=")
        value = value or " ".join(words[2:])
        if field in ("remove", "delete"):
            if len(drafts) == 1:
                raise ToolError("It is the only row; /reject has the plan made again.")
            del drafts[number - 1]
        elif field in ("count", "images"):
            count = _count(value, self._n_images())
            drafts[number - 1] = drafts[number - 1].model_copy(update={"count": count})
            drafts = self._fitted(drafts, number - 1)
        elif field == "text":
            drafts[number - 1] = PromptDraft(
                text=value, class_name=None, count=drafts[number - 1].count, why="edited"
            )
        else:
            drafts[number - 1] = self._changed(drafts[number - 1], field, value)
        changed = _with_prompts(plan, drafts)
        return self._edited(question, changed)

    def _add(self, text: str) -> list[Block]:
        draft = self._addition(text)
        question = self.live.question
        if question is not None and question.kind == "plan":
            plan = self._pending()[1]
            drafts = self._fitted([*map(_as_draft, plan.prompts), draft], len(plan.prompts))
            changed = _with_prompts(plan, drafts)
            return self._edited(question, changed)
        waiting = additions(self._events())
        left = self._n_images() - sum(a.prompt.count for a in waiting)
        if draft.count > left:
            raise ToolError(f"The next plan has room for {left} more images, not {draft.count}.")
        # Checked now, when a mistake can still be put right.
        Proposals(self.live.bench).check(PlanDraft(prompts=(draft,)), self._next_plan(), "user")
        number = 1 + len(self._journal.events("addition", undone=True))
        addition = Addition(id=f"a{number}", prompt=draft)
        self._journal.append("addition", key=f"addition/{addition.id}", addition=addition.to_json())
        said = f"Understood: {draft.count} images of it are in the next plan ({addition.id})."
        return [Line(said, "good")]

    def _wish_by_command(self, kind: Kind, text: str) -> list[Block]:
        text = _unquoted(text)
        if not text:
            raise ToolError(f"Say what: /{kind} {COMMANDS[kind].usage}")
        attributes, left = self.lexicon.read(text)
        if attributes:
            blocks = self.wish(Meant(kind, attributes, STRENGTH), text)
            return blocks + ([Line(self._not_understood(left), "warning")] if left else [])
        if self._talk.possible:
            return self.wish(Meant("note", {}, STRENGTH), f"{kind} {text}")
        raise ToolError(self._unknown_slice(text))

    def _forget(self, text: str) -> list[Block]:
        events = self._events()
        known = [w.id for w in wishes(events)] + [a.id for a in additions(events)]
        if text not in known:
            raise ToolError(unknown("wish", text[:40], known))
        self._journal.append("forget", key=f"forget/{text}", id=text)
        return [Line(f"{text} is forgotten.", "good")]

    def _budget(self, text: str) -> list[Block]:
        from agent.status import budget

        session = self.live.session
        words = text.replace("=", " ").split()
        if words:
            if len(words) != 2 or words[0] not in ("rounds", "images"):
                raise ToolError("Say e.g. /budget rounds 6, or /budget images 120 (of each round).")
            number = _count(words[1], 100_000)
            done = session.n_done()
            if words[0] == "rounds" and number < max(done, 1):
                raise ToolError(f"{done} rounds are done already; say {max(done, 1)} or more.")
            self.live.change_budget(**{words[0]: number})
            what = f"{number} images a round"
            if words[0] == "rounds":
                what = f"{number} round{'s' if number > 1 else ''} in all"
            return [Line(f"Understood: {what}, from the next round on.", "good")]
        control = session.control
        rows = budget(
            session.settings,
            session.journal.events("round_done", "model_call"),
            self._rounds(),
            control.worked_s,
            control.gpu_s,
        )
        return [Grid(["budget", "spent and left"], rows)]

    def _pause(self, text: str) -> list[Block]:
        state = self.live.progress.state
        if state in ("idle", "finished", "failed"):
            return [Line("Nothing runs; /continue goes on.")]
        if state == "paused":
            return [Line("It is paused; /continue goes on.")]
        self.live.pause()
        if state == "waiting":
            return [Line("It waits for you anyway; its clock stands still.", "good")]
        return [Line("It holds at the next safe point.", "good")]

    def _continue(self, text: str) -> list[Block]:
        state = self.live.progress.state
        settings = self.live.session.settings.session
        if state == "finished" and self.live.session.n_done() >= settings.rounds:
            return [Line(f"All {settings.rounds} rounds are done; /budget rounds N gives more.")]
        self.live.start()
        if state == "waiting":
            return [Line("It waits for you: /approve, /edit or /reject.")]
        return [Line("Going on.", "good")]

    def _stop(self, text: str) -> list[Block]:
        if text and text not in ("round", "now"):
            raise ToolError("Say /stop, or /stop round to stop after this round.")
        if self.live.progress.state in ("idle", "finished", "failed"):
            return [Line("Nothing runs; /continue goes on.")]
        self.live.stop(after_round=text == "round")
        name = self.live.session.name
        if text == "round":
            return [Line("It stops after this round.", "good")]
        said = f"It stops at the next safe point. Later: /continue, or shaping chat {name}"
        return [Line(said, "good")]

    def _undo(self, text: str) -> list[Block]:
        plan = self._last_plan()
        if plan is None:
            raise ToolError("There is no accepted plan yet that could be taken back.")
        self.live.undo()
        return [Line(f"Round {plan.round} is taken back at the next safe point.", "good")]

    def _fork(self, text: str) -> list[Block]:
        from agent.fork import fork

        if not text:
            raise ToolError("Say how the new session is to be called: /fork NAME")
        session = self.live.session
        done = session.n_done()
        if not done:
            raise ToolError("No round is done yet that a fork could share.")
        name = fork(session.settings.home, session.name, done + 1, text)
        return [Line(f"{name} shares rounds 1 to {done}. Open it: shaping chat {name}", "good")]

    def _memory(self, text: str) -> list[Block]:
        text = _unquoted(text)
        if not text:
            raise ToolError('Say what to look for: /memory "dark poly cells"')
        hits = self.live.bench.memory.search(text[:300], target=self.live.bench.target.name)
        return [hit_grid(hits) if hits else Line("Nothing is remembered yet.")]

    def _why(self, text: str) -> list[Block]:
        question = self.live.question
        plan = question.plan if question and question.plan else self._last_plan()
        if plan is None:
            return [Line("Nothing is decided yet.")]
        if text:
            prompt = self._prompt(plan, text)
            values = " ".join(f"{k}={v}" for k, v in prompt.attributes.items())
            return [
                Line(f"{prompt.id}: {prompt.count} images of {one_line(prompt.text)} ({values})"),
                Line(f"Because: {one_line(prompt.why) or 'no reason given'}"),
            ]
        blocks: list[Block] = [Line(f"Plan of round {plan.round}", "bold"), *plan_reasons(plan)]
        why: dict[str, int] = {}
        for prompt in plan.prompts:
            reason = one_line(prompt.why) or "no reason given"
            why[reason] = why.get(reason, 0) + prompt.count
        rows = [[str(n), reason] for reason, n in sorted(why.items(), key=lambda item: -item[1])]
        blocks.append(Grid(["images", "because"], rows, right=("images",)))
        report = self._last_report()
        if report and report.worst_slice:
            blocks.append(Line(f"The worst slice before it was {report.worst_slice}."))
        return blocks

    def _report(self, text: str) -> list[Block]:
        from agent.report import write_report

        if not self._rounds():
            return [Line("There is nothing to report yet.")]
        session = self.live.session
        return [Line(f"Report: {write_report(session.settings.home, session.name)}")]

    def _help(self, text: str) -> list[Block]:
        rows = [[f"/{name} {c.usage}".strip(), c.told] for name, c in COMMANDS.items()]
        return [
            Grid(["command", "what it does"], rows),
            Line(
                'Or plain words: "more dark poly cells, fewer mono", "where does it fail?", '
                '"show me ...", "why?", "stop after this round". Ctrl-D or /quit leaves.'
            ),
        ]

    # -- helpers ---------------------------------------------------------------------------------

    @property
    def _journal(self) -> Journal:
        return self.live.session.journal

    def _events(self) -> list[Event]:
        return self._journal.events(*STEERING)

    def _rounds(self) -> list[Round]:
        return self.live.session.rounds()

    @cached_property
    def _palette(self) -> Palette:
        return palette_of(self.live.bench.target)

    def _effects(self) -> list[Effect]:
        events = self._events()
        return effects(wishes(events), events, self._rounds())

    def _last_report(self) -> Report | None:
        return next((r.report for r in reversed(self._rounds()) if r.report), None)

    def _last_plan(self) -> Plan | None:
        return next((r.plan for r in reversed(self._rounds()) if r.plan), None)

    def _next_plan(self) -> int:
        """Return the round whose plan is the next to be accepted."""
        plan = self._last_plan()
        return plan.round + 1 if plan else 1

    def _n_images(self) -> int:
        return self.live.session.settings.session.images_per_round

    def _pending(self) -> tuple[Question, Plan]:
        question = self.live.question
        if question is None or question.plan is None:
            raise ToolError("No plan waits for you now; /status says what goes on.")
        return question, question.plan

    def _meant(self, text: str) -> Wish:
        """Return a wish that stands for the slice that a text names."""
        given = slice_attributes(_unquoted(text))
        if given is not None:
            if problems := self.vocabulary.problems(given):
                raise ToolError(f"{'; '.join(problems)}.")
            attributes: dict[str, tuple[str, ...]] = {k: (v,) for k, v in given.items()}
        else:
            attributes, _ = self.lexicon.read(text)
            if not attributes:
                raise ToolError(self._unknown_slice(text))
        return Wish(id="w0", kind="focus", attributes=attributes, since=1)

    def _unknown_slice(self, text: str) -> str:
        report = self._last_report()
        values = [f"{k}={v}" for k, known in self.vocabulary.attributes.items() for v in known]
        known = [score.key for score in report.slices] if report else values
        near = self.lexicon.near(text.lower().split()[:20])
        hint = f" Near words: {', '.join(near)}." if near else ""
        some = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
        return f"{one_line(text, 60)!r} names no slice of the target.{hint} Slices: {some}"

    def _prompt(self, plan: Plan, text: str) -> PromptSpec:
        if text.isdecimal() and 1 <= int(text[:6]) <= len(plan.prompts):
            return plan.prompts[int(text[:6]) - 1]
        specs = {p.id: p for r in self._rounds() if r.plan for p in r.plan.prompts}
        specs |= {p.id: p for p in plan.prompts}
        if text not in specs:
            rows = f"rows are 1 to {len(plan.prompts)}"
            raise ToolError(f"{one_line(text, 40)!r} is no row of the plan, nor an id; {rows}.")
        return specs[text]

    def _changed(self, draft: PromptDraft, key: str, value: str) -> PromptDraft:
        """Return a prompt with another value of an attribute, or class, said by the grammar."""
        vocabulary = self.vocabulary
        if key == "class":
            named = [c for c in vocabulary.classes if value_of(c) == value_of(value)]
            value = named[0] if named else value
            if value not in vocabulary.classes:
                raise ToolError(unknown("class", value[:40], vocabulary.classes))
            key = vocabulary.class_attribute or ""
            meant = [v for v, name in vocabulary.class_of.items() if name == value]
            if not meant:
                return draft
            value = value if value in meant else meant[0]
        if key not in vocabulary.attributes:
            fields = ["count", "text", "class", "remove", *vocabulary.attributes]
            raise ToolError(unknown("cell", key[:40], fields))
        value = value if value in vocabulary.attributes[key] else value_of(value)
        if value not in vocabulary.attributes[key]:
            raise ToolError(unknown(f"value of {key}", value[:40], vocabulary.attributes[key]))
        attributes = {**draft.attributes, key: value}
        for dependent, needs in vocabulary.requires.items():
            if dependent in attributes and any(
                attributes.get(other) not in allowed for other, allowed in needs.items()
            ):
                if dependent == key:
                    raise ToolError("; ".join(vocabulary.problems(attributes)) + ".")
                del attributes[dependent]
        return PromptDraft(
            text=vocabulary.caption(attributes),
            class_name=vocabulary.class_name(attributes) or draft.class_name,
            attributes=attributes,
            count=draft.count,
            why="edited by the user",
        )

    def _fitted(self, drafts: list[PromptDraft], fixed: int) -> list[PromptDraft]:
        """Return drafts whose counts fit the budget; all but one give way in proportion."""
        from agent.planners import shares_to_counts

        total, left = sum(d.count for d in drafts), self._n_images() - drafts[fixed].count
        others = [d for i, d in enumerate(drafts) if i != fixed]
        if total <= self._n_images() or not others:
            return drafts
        counts = shares_to_counts([d.count for d in others], max(0, left))
        scaled = [d.model_copy(update={"count": n}) for d, n in zip(others, counts, strict=True)]
        scaled.insert(fixed, drafts[fixed])
        return [d for d in scaled if d.count]

    def _addition(self, text: str) -> PromptDraft:
        """Read "PROMPT" xN attribute=value ..."""
        words = _split(text)
        said: list[str] = []
        count = None
        given: dict[str, str] = {}
        class_name = None
        for word in words:
            if match := _TIMES.fullmatch(word):
                count = _count(match[1] or match[2], self._n_images())
            elif "=" in word:
                key, _, value = word.partition("=")
                if key == "class" and word != words[0]:
                    class_name = value
                else:
                    given[key] = value
            else:
                said.append(word)
        if count is None or not (said or given):
            raise ToolError(f'Say /add {COMMANDS["add"].usage}, e.g. /add "a dark poly cell" x8')
        return PromptDraft(
            text=" ".join(said),
            class_name=class_name,
            attributes=given,
            count=count,
            why="added by the user",
        )

    def _edited(self, question: Question, draft: PlanDraft) -> list[Block]:
        """Check an edited plan, journal it, and ask about it instead."""
        assert question.plan is not None and question.made is not None  # of one about a plan
        proposals, author = Proposals(self.live.bench), question.plan.author
        plan = proposals.check(draft, question.round, author)
        held = {wish.id: wish for wish in wishes(self._events())}
        shifts = [
            shift.model_copy(
                update={"after": share(held[shift.wish], plan.prompts, self.vocabulary)}
            )
            for shift in question.made.shifts
            if shift.wish in held
        ]
        made = question.made.model_copy(update={"draft": draft, "shifts": tuple(shifts)})
        self._journal.append(
            "plan_edit", round=question.round, question=question.key, made=made.to_json()
        )
        again = proposals.question(
            proposals.propose(made, question.round, author, question.key), question.key
        )
        self.live.ask_again(again)
        return self._ask(again)

    def _ask(self, question: Question) -> list[Block]:
        return plan_blocks(question, wishes(self._events()))


def say_progress(live: LiveSession) -> str:
    """Say in one line where a session stands."""
    now = live.progress
    if now.state == "waiting":
        auto = "" if now.auto_s is None else f", approved by itself in {now.auto_s:.0f} s"
        what = "a plan waits for you" if live.question and live.question.plan else "it asks you"
        return f"round {now.round}: {what}{auto}"
    if now.state != "working":
        return {"idle": "stopped", "finished": "finished", "failed": "stopped by an error"}.get(
            now.state, now.state
        )
    where = f"round {now.round}: " if now.round else ""
    said = f"{where}{now.stage or 'deciding'}"
    if now.total:
        said += f" {now.done}/{now.total} {now.unit}"
        if now.done and now.per_s:
            said += f", {(now.total - now.done) / now.per_s:.0f} s left"
    return said


def _with_prompts(plan: Plan, prompts: Sequence[PromptDraft]) -> PlanDraft:
    return PlanDraft(
        prompts=tuple(prompts), hypothesis=plan.hypothesis, why=plan.why, trials=plan.trials
    )


def _as_draft(prompt: PromptSpec) -> PromptDraft:
    return PromptDraft(
        text=prompt.text,
        class_name=prompt.class_name,
        attributes=prompt.attributes,
        count=prompt.count,
        why=prompt.why,
        pull=prompt.pull,
        adapters=prompt.adapters,
    )


def _unquoted(text: str) -> str:
    return text.strip().strip("\"'“”").strip()


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ToolError(f"A quote is not closed in: {one_line(text, 80)}") from error


def _count(text: str, most: int) -> int:
    """Read a whole number of 1 to `most`."""
    try:
        number = int(text) if len(text) < 10 else None
    except ValueError:
        number = None
    if number is None or not 1 <= number <= most:
        raise ToolError(f"{one_line(text, 20)!r} is no whole number of 1 to {most}.")
    return number
