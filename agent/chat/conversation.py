"""A person's conversation with a live session: what they type in, what is shown in return.

`Conversation.say` takes a line, a slash command or plain words, and returns blocks to show;
`Conversation.show` does the same for what the session tells. Neither knows a terminal or a page.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.chat.assistant import Talk
from agent.chat.commands import COMMANDS
from agent.chat.live import Happened, LiveSession
from agent.chat.overview import Overview
from agent.chat.preferences import Wishing
from agent.chat.queries import Answers, plan_blocks
from agent.chat.replies import not_taken, which_data
from agent.loop.approval import (
    ApprovalDecision,
    ApprovalRequest,
    added,
    edited,
    read_addition,
    remade,
)
from agent.loop.effects import LiveEffects
from agent.loop.proposals import Proposals
from agent.planners import PlanDraft
from agent.session.limits import HOUR_S
from agent.steering.arguments import number_of, unquoted, whole_number
from agent.steering.grammar import MAX_CHARS, ParseResult, parse
from agent.steering.preferences import (
    Addition,
    Preference,
    bounds,
    say_effects,
    slice_name,
)
from eval.report.blocks import Block, Line, Table, round_lines
from memory.errors import ShapingError, ToolError, unknown
from memory.journal import Journal
from memory.records import Plan, Round
from prompts.printable import one_line
from prompts.vocabulary import Vocabulary


class Conversation:
    """One person, one live session."""

    def __init__(self, live: LiveSession) -> None:
        self.live = live
        self._overview = Overview(live)
        self._answers = Answers(live, self._overview)
        self._wishing = Wishing(live, self._overview)
        self._talk = Talk(live)
        self._commands: dict[str, Callable[[str], list[Block]]] = {
            "status": self._answers.status,
            "failures": self._answers.failures,
            "show": self._answers.show,
            "plan": self._answers.plan,
            "approve": self._approve,
            "edit": self._edit,
            "reject": self._reject,
            "add": self._add,
            "focus": lambda text: self._wish_by_command("focus", text),
            "avoid": lambda text: self._wish_by_command("avoid", text),
            "forget": self._wishing.forget,
            "back": lambda text: self._wishing.back(),
            "budget": self._budget,
            "changes": self._answers.changes,
            "pause": self._pause,
            "continue": self._continue,
            "stop": self._stop,
            "undo": self._undo,
            "fork": self._fork,
            "memory": self._answers.memory,
            "why": self._answers.why,
            "report": self._report,
            "help": self._help,
        }

    def wish(self, meant: Preference, text: str) -> list[Block]:
        """Take a wish down and repeat it; raises ToolError with the reason when it cannot be."""
        return self._wishing.take(meant, text)

    @property
    def vocabulary(self) -> Vocabulary:
        """The target's words."""
        return self._overview.vocabulary

    def say(self, text: str) -> list[Block]:
        """Do what a line asks for, and return what to show; errors are explained, not raised."""
        if len(text) > MAX_CHARS:
            return [Line(f"That has {len(text)} characters; say it in {MAX_CHARS}.", "error")]
        # Pasted lines are sentences of their own, unless a language model reads them.
        lines = [text] if self._talk.possible else text.splitlines()
        return [block for line in map(one_line, lines) if line for block in self._said(line)]

    def _said(self, line: str) -> list[Block]:
        try:
            return self._command(line) if line.startswith("/") else self._words(line)
        except ShapingError as error:
            return [Line(one_line(str(error)), "error")]

    def show(self, happened: Happened) -> list[Block]:
        """Return what to show of something that the session tells."""
        if happened.kind == "question":
            question: ApprovalRequest = happened.record
            if question.kind == "words":
                return [Line(f"The agent asks: {one_line(question.text)}", "bold")]
            return plan_blocks(question, self._overview.wishes())
        if happened.kind == "blocks":
            return list(happened.record)
        if happened.kind == "round":
            done: Round = happened.record
            past = [
                r.report for r in self._overview.rounds() if r.number < done.number and r.report
            ]
            effects = [Line(f"Wish {line}") for line in say_effects(self._overview.effects())]
            return [*round_lines(done, past[-1] if past else None), *effects]
        if happened.kind == "warning":
            return [Line(f"Warning: {one_line(happened.text)}", "warning")]
        if happened.kind == "state":
            return [Line(one_line(happened.text), "bold")]
        return [Line(one_line(happened.text), "dim")]

    def words(self) -> list[str]:
        """Return words that a line may hold, for completion."""
        seen = self._overview
        kinds = ["more", "fewer", "only", "avoid", "focus on"]
        names = [v for known in self.vocabulary.attributes.values() for v in known]
        return list(dict.fromkeys([*seen.slices(), *seen.values(), *names, *kinds]))

    def ids(self) -> list[str]:
        """Return the ids of wishes, additions and of the last plan's prompts, for completion."""
        plan = self._overview.last_plan()
        return self._wishing.ids() + ([p.id for p in plan.prompts] if plan else [])

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
            self.live.answer(ApprovalDecision(verdict="words", text=line))
            return [Line("The agent is told.", "dim")]
        if self._talk.possible:
            self._talk.ask(line, self)
            return [Line("The brain thinks about it ...", "dim")]
        return self.follow(line)

    def follow(self, line: str) -> list[Block]:
        """Do what plain words mean to the small parser."""
        meant = parse(line, self._overview.lexicon)
        if meant.command:
            name, _, rest = meant.command.partition(" ")
            if name == "approve" and self.live.question is None:
                return [Line("Nothing waits for your approval.")]
            return [Line(f"Understood: /{meant.command}", "dim"), *self._commands[name](rest)]
        if meant.vague:
            return [Line(which_data(self._overview))]
        if meant.question:
            return self._answered(meant.named)
        held = self._overview.wishes()
        blocks = self._wishing.take_all(meant.preferences, line)
        made = self._overview.wishes()[len(held) :]
        blocks += not_taken(meant, self._overview, made)
        return blocks

    def _answered(self, named: dict[str, tuple[str, ...]] | None) -> list[Block]:
        """Answer a question: of a slice how good it is, of anything else what can be asked."""
        if named:
            return self._answers.failures(slice_name(named))
        said = (
            'I can answer: "where does it fail?", "how good is it at ...?", "why?", "what has '
            'changed?", "what did my wishes do?", "what does it cost?", "how long will it take?", '
            '"show me ...". A language model as the brain (--brain) answers freely.'
        )
        return [Line(said)]

    # -- commands --------------------------------------------------------------------------------

    def _approve(self, text: str) -> list[Block]:
        self._pending()
        if not self.live.answer(ApprovalDecision(verdict="approve")):
            return [Line("It is answered already.")]
        return [Line("Approved.", "good")]

    def _reject(self, text: str) -> list[Block]:
        self._pending()
        meant = parse(text, self._overview.lexicon)
        blocks = self._wishing.take_all(meant.preferences, text, replans=True)
        self.live.answer(ApprovalDecision(verdict="reject", text=text))
        return [*blocks, Line("Rejected; it is planned again.", "good")]

    def _edit(self, text: str) -> list[Block]:
        question, plan = self._pending()
        return self._ask_instead(question, edited(plan, text, self._n_images(), self.vocabulary))

    def _add(self, text: str) -> list[Block]:
        draft = read_addition(text, self._n_images())
        question = self.live.question
        if question is not None and question.kind == "plan":
            plan = self._pending()[1]
            return self._ask_instead(question, added(plan, draft, self._n_images()))
        left = self._n_images() - sum(a.prompt.count for a in self._overview.additions())
        if draft.count > left:
            raise ToolError(f"The next plan has room for {left} more images, not {draft.count}.")
        # Checked now, when a mistake can still be put right.
        self._proposals.check(PlanDraft(prompts=(draft,)), self._overview.next_plan(), "user")
        number = 1 + len(self._journal.events("addition", undone=True))
        addition = Addition(id=f"a{number}", prompt=draft)
        self._journal.append("addition", key=f"addition/{addition.id}", addition=addition.to_json())
        said = f"Understood: {draft.count} images of it are in the next plan ({addition.id})."
        return [Line(said, "good")]

    def _wish_by_command(self, kind: str, text: str) -> list[Block]:
        text = unquoted(text)
        if not text:
            raise ToolError(f"Say what: /{kind} {COMMANDS[kind].arguments}")
        attributes, left = self._overview.lexicon.read(text)
        if attributes:
            blocks = self._wishing.take(Preference(attributes=attributes, **bounds(kind)), text)
            unread = ParseResult(unknown=tuple(left)) if left else None
            return blocks + (not_taken(unread, self._overview) if unread else [])
        if self._talk.possible:
            return self._wishing.take(Preference(), f"{kind} {text}")
        raise ToolError(self._overview.unknown_slice(text))

    def _budget(self, text: str) -> list[Block]:
        words = text.replace("=", " ").split()
        if not words:
            return self._answers.budget()
        name, value = words[0], " ".join(words[1:])
        session = self.live.session
        if name == "rounds":
            return self._rounds(whole_number(value, 100_000))
        if name == "images":
            number = whole_number(value, 100_000)
            self.live.change_budget(images=number)
            what = f"{number} images a round"
        elif name == "total":
            number = whole_number(value, 10_000_000)
            self.live.change_budget(max_images=number)
            what = f"at most {number} images in all"
        elif name == "hours":
            hours = number_of(value, 0.001, 10_000)
            self.live.change_budget(max_hours=hours)
            spent = session.control.worked_s / HOUR_S
            what = f"at most {hours:g} hours of work in all, of which {spent:.3g} are spent"
        elif name == "score":
            score = number_of(value, 0, 1)
            self.live.change_budget(target_score=score)
            what = f"it ends when a round scores {score:g} on feedback"
        else:
            raise ToolError(
                "Say e.g. /budget rounds 6, /budget images 120 (of each round), /budget total 500 "
                "(images in all), /budget hours 2, or /budget score 0.7."
            )
        return [Line(f"Understood: {what}, from the next round on.", "good")]

    def _rounds(self, number: int) -> list[Block]:
        done = self.live.session.n_done()
        if number < max(done, 1):
            raise ToolError(f"{done} rounds are done already; say {max(done, 1)} or more.")
        self.live.change_budget(rounds=number)
        said = f"{number} round{'s' if number > 1 else ''} in all, from the next round on."
        return [Line(f"Understood: {said}", "good")]

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
        if text:
            more = whole_number(text, 10_000)
            blocks = self._rounds(self.live.session.n_done() + more)
            self.live.start()
            return blocks
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
        plan = self._overview.last_plan()
        if plan is None:
            raise ToolError("There is no accepted plan yet that could be taken back.")
        self.live.undo()
        return [Line(f"Round {plan.round} is taken back at the next safe point.", "good")]

    def _fork(self, text: str) -> list[Block]:
        from agent.session.fork import fork

        if not text:
            raise ToolError("Say how the new session is to be called: /fork NAME")
        session = self.live.session
        done = session.n_done()
        if not done:
            raise ToolError("No round is done yet that a fork could share.")
        name = fork(session.settings.home, session.name, done + 1, text)
        return [Line(f"{name} shares rounds 1 to {done}. Open it: shaping chat {name}", "good")]

    def _report(self, text: str) -> list[Block]:
        from agent.autonomous.report import write_report

        if not self._overview.rounds():
            return [Line("There is nothing to report yet.")]
        session = self.live.session
        return [Line(f"Report: {write_report(session.settings.home, session.name)}")]

    def _help(self, text: str) -> list[Block]:
        rows = [[f"/{name} {c.arguments}".strip(), c.help] for name, c in COMMANDS.items()]
        values = self._overview.values() or ["..."]
        first, second = values[0], values[-1]
        return [
            Table(["command", "what it does"], rows),
            Line(
                f'Or plain words: "more {first}, no {second}", "20% {first}", "where does it '
                'fail?", "show me ...", "why?", "what has changed?", "how long will it take?", "2 '
                'more rounds", "run until the score is 0.7", "stop after this round", "undo". '
                "Ctrl-D or /quit leaves."
            ),
        ]

    # -- helpers ---------------------------------------------------------------------------------

    @property
    def _journal(self) -> Journal:
        return self.live.session.journal

    @property
    def _proposals(self) -> Proposals:
        return Proposals(self.live.session, LiveEffects(self.live.bench))

    def _n_images(self) -> int:
        return self.live.session.settings.session.images_per_round

    def _pending(self) -> tuple[ApprovalRequest, Plan]:
        question = self.live.question
        if question is None or question.plan is None:
            raise ToolError("No plan waits for you now; /status says what goes on.")
        return question, question.plan

    def _ask_instead(self, question: ApprovalRequest, draft: PlanDraft) -> list[Block]:
        """Check an edited plan, journal it, and ask about it instead."""
        assert question.plan is not None and question.resolved is not None  # of one about a plan
        proposals, author = self._proposals, question.plan.author
        plan = proposals.check(draft, question.round, author)
        resolved = remade(question.resolved, draft, plan, self._overview.wishes(), self.vocabulary)
        self._journal.append(
            "plan_edit", round=question.round, question=question.key, made=resolved.to_json()
        )
        plan = proposals.plan(resolved, question.round, author)
        again = proposals.request(resolved, plan, question.key)
        self.live.ask_again(again)
        return plan_blocks(again, self._overview.wishes())
