"""Chat with a live session, independent of the user interface.

`Conversation.say` executes a line, a slash command or plain words, and returns blocks to display;
`Conversation.show` returns the blocks of a session event.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partialmethod

from agent.chat.agreement import says_command, says_preference
from agent.chat.answers import plan_blocks
from agent.chat.assistant import ChatAssistant
from agent.chat.commands import COMMANDS
from agent.chat.controls import SessionControls
from agent.chat.live import LiveSession, SessionEvent
from agent.chat.plan_edits import added, edited, read_addition, remade
from agent.chat.preferences import MADE_BEFORE
from agent.chat.queries import Queries
from agent.chat.replies import not_taken, which_data
from agent.loop.approval import ApprovalDecision, ApprovalRequest
from agent.loop.live_effects import LiveEffects
from agent.loop.proposals import Proposals
from agent.planners import PlanDraft
from agent.steering.arguments import unquoted
from agent.steering.clauses import parse
from agent.steering.grammar import MAX_CHARS, ParseResult
from agent.steering.preferences import Addition, Preference, bounds, say_effects
from eval.report.blocks import Block, Line, round_lines
from memory.errors import ShapingError, ToolError, unknown
from memory.events import AdditionEvent, PlanEditEvent
from memory.journal import Journal
from memory.records import Plan, Round
from prompts.printable import one_line
from prompts.vocabulary import Vocabulary

_ANSWERED = (
    'Ask e.g. "where does it fail?", "how good is it at ...?", "why?", "do the images help?", "is '
    'another round worth it?", "which class is worst?", "what has changed?", "what does it cost?", '
    '"show me ...". A language model as the brain (--brain) answers freely.'
)


class Conversation:
    """The chat of one live session."""

    def __init__(self, live: LiveSession) -> None:
        self.live = live
        self._queries = Queries(live)
        self._preferences = self._queries.preferences
        self._controls = SessionControls(live, self._queries)
        self._assistant = ChatAssistant(live, self._queries)
        self._done: tuple[str, list[str]] | None = None
        self._asking: threading.Thread | None = None
        self._proposed: Callable[[], list[Block]] | None = None
        self._commands: dict[str, Callable[[str], list[Block]]] = {
            name: next(getattr(o, n) for o, n in self._places(name) if hasattr(o, n))
            for name in COMMANDS
        }

    def _places(self, name: str) -> list[tuple[object, str]]:
        control = "resume" if name == "continue" else name
        places = [(self, f"_{name}"), (self._controls, control)]
        return [*places, (self._queries, name), (self._preferences, name)]

    @property
    def vocabulary(self) -> Vocabulary:
        """Vocabulary of the target."""
        return self._queries.vocabulary

    def say(self, text: str) -> list[Block]:
        """Execute a line and return the reply; a ShapingError becomes a line of style "error"."""
        if len(text) > MAX_CHARS:
            text = f"A line of {len(text)} characters is too long; the limit is {MAX_CHARS}."
            return [Line(text, "error")]
        # The grammar parses pasted lines one by one; a language model reads them as one text.
        lines = [text] if self._assistant.available else text.splitlines()
        return [block for line in map(one_line, lines) if line for block in self._line(line)]

    def _line(self, line: str) -> list[Block]:
        try:
            blocks = self._command(line[1:]) if line.startswith("/") else self._words(line)
        except ShapingError as error:
            return [Line(one_line(str(error)), "error")]
        return self._remember(line, blocks)

    def _remember(self, line: str, blocks: list[Block]) -> list[Block]:
        """Store a line with the changes it made, which are the reply's lines of style "good"."""
        done = [b.text for b in blocks if isinstance(b, Line) and b.style == "good"]
        if done:
            self._done = (line, done)
        return blocks

    def _last(self, text: str) -> list[Block]:
        """Show the last line with a change; without one in this chat, the last preference."""
        if self._done:
            line, done = self._done
            return [Line(f'"{one_line(line, 80)}": {" ".join(done)}')]
        active = self._preferences.active()
        text = f" The last preference: {active[-1].id} {active[-1].say()}." if active else ""
        return [Line(f"Nothing was changed in this chat.{text}")]

    def await_answer(self) -> None:
        """Wait until the language model has answered the last line."""
        if self._asking:
            self._asking.join()

    def show(self, event: SessionEvent) -> list[Block]:
        """Return the blocks that show an event of the session."""
        if event.kind == "question":
            question: ApprovalRequest = event.record
            if question.kind == "words":
                return [Line(f"The agent asks: {one_line(question.text)}", "bold")]
            older = self._preferences.changed_after(question.key)
            return self._queries.summary(question) + [MADE_BEFORE] * older
        if event.kind == "blocks":
            return list(event.record)
        if event.kind == "round":
            done: Round = event.record
            rounds = self._queries.rounds()
            reports = [r.report for r in rounds if r.number < done.number and r.report]
            audited = self.live.session.settings.audit.method != "none"
            lines = round_lines(done, reports[-1] if reports else None, audited)
            effects = say_effects(self._preferences.effects())
            return [*lines, *(Line(f"Preference {line}") for line in effects)]
        if event.kind == "warning":
            return [Line(f"Warning: {one_line(event.text)}", "warning")]
        return [Line(one_line(event.text), "bold" if event.kind == "state" else "dim")]

    def words(self) -> list[str]:
        """Return slices, attribute values and words of preferences, for completion."""
        kinds = ["more", "fewer", "only", "avoid", "focus on"]
        names = [name for names in self.vocabulary.attributes.values() for name in names]
        return list(dict.fromkeys([*self._queries.slices(), *names, *kinds]))

    def ids(self) -> list[str]:
        """Return the ids of preferences, additions and the last plan's prompts, for completion."""
        plan = self._queries.last_plan()
        return self._preferences.ids() + ([p.id for p in plan.prompts] if plan else [])

    def _command(self, line: str) -> list[Block]:
        name, _, arguments = line.partition(" ")
        name = name.lower()
        if name not in COMMANDS:
            problem = unknown("command", f"/{name[:40]}", [f"/{known}" for known in COMMANDS])
            return [Line(f"{problem} /help explains them.", "error")]
        return self._commands[name](arguments.strip())

    # -- plain words -----------------------------------------------------------------------------

    def _words(self, line: str) -> list[Block]:
        question = self.live.question
        if question is not None and question.kind == "words":
            self.live.answer(ApprovalDecision(verdict="words", text=line))
            return [Line("Sent to the agent.", "dim")]
        result = parse(line, self._queries.lexicon)
        proposed, self._proposed = self._proposed, None
        if proposed is not None and result.command == "approve":
            return proposed()
        if result.is_exact or not self._assistant.available:
            return self._parsed(line, result)
        asked = (line, result)
        self._asking = threading.Thread(target=self._ask, args=asked, name="assistant", daemon=True)
        self._asking.start()
        return [Line("The language model thinks ...", "dim")]

    def _ask(self, line: str, result: ParseResult) -> None:
        """Execute a line by the language model, or by the grammar if the model fails."""
        try:
            reply = self._assistant.ask(line)
            if reply.command:
                blocks = self._called(reply.command, line)
            elif reply.preferences:
                blocks = self._meant(reply.preferences, line)
            else:
                blocks = reply.blocks()
        except ShapingError as error:
            text = f"Not taken from the model: {str(error).rstrip('.')}. From the records:"
            blocks = [Line(one_line(text), "warning"), *self._parsed(line, result)]
        self.live.tell("blocks", record=self._remember(line, blocks))

    def _called(self, command: str, line: str) -> list[Block]:
        """Run a command of the model; a change that the user's words do not state is proposed."""
        name, _, arguments = command.partition(" ")
        changes = COMMANDS[name].changes
        if changes == "never" or (changes == "arguments" and not arguments):
            return self._line(f"/{command}")
        if says_command(line, command):
            return self._run(command)
        return self._propose(f"/{command}", lambda: self._line(f"/{command}"))

    def _meant(self, preferences: Sequence[Preference], line: str) -> list[Block]:
        """Adopt preferences of the model if the user's words state them all, else propose them."""
        # A note keeps the user's words.
        preferences = [p if p.attributes else Preference(text=line[:300]) for p in preferences]
        are_said = [
            not p.attributes or says_preference(line, p, self._queries.lexicon) for p in preferences
        ]
        if all(are_said):
            return self._take(preferences, line)
        text = ", ".join(preference.say() for preference in preferences)
        return self._propose(text, lambda: self._take(preferences, line))

    def _propose(self, text: str, apply: Callable[[], list[Block]]) -> list[Block]:
        self._proposed = apply
        return [Line(f'Did you mean: {text}? "yes" applies it; nothing is changed yet.', "bold")]

    def _parsed(self, line: str, result: ParseResult) -> list[Block]:
        """Execute plain words as the grammar parsed them."""
        if result.command == "approve" and self.live.question is None:
            return [Line("Nothing waits for your approval.")]
        asks = (result.command or "").startswith(
            ("failures", "classes", "status", "changes", "why")
        )
        if (asks or result.question) and (pixels := self._queries.pixel_classes_in(line)):
            return self._queries.about({**result.named, **pixels})
        if result.command or (result.beside and result.is_exact):
            rest = replace(result, command=None, beside=())
            blocks = self._run(result.command) if result.command else []
            blocks += self._parsed(line, rest) if rest.is_exact else []
            return blocks + [block for name in result.beside for block in self._run(name)]
        if result.vague:
            return [Line(which_data(self._queries))]
        if result.question and result.named:
            return self._queries.about(result.named)
        if result.question:
            return [Line(_ANSWERED)]
        earlier = self._preferences.ids()
        blocks = self._take(result.preferences, line)
        taken = [p for p in self._preferences.active() if p.id not in earlier]
        return blocks + not_taken(result, self._queries, taken)

    def _run(self, command: str) -> list[Block]:
        return [Line(f"Understood: /{command}", "dim"), *self._line(f"/{command}")]

    def _take(self, preferences: Sequence[Preference], line: str) -> list[Block]:
        """Adopt preferences from the next plan on."""
        earlier = self._preferences.ids()
        blocks = self._preferences.take_all(preferences, line)
        question = self.live.question
        is_new = any(name not in earlier for name in self._preferences.ids())
        if is_new and question is not None and question.kind == "plan":
            blocks.append(MADE_BEFORE)
        return blocks

    # -- commands --------------------------------------------------------------------------------

    def _approve(self, text: str) -> list[Block]:
        self._pending()
        if not self.live.answer(ApprovalDecision(verdict="approve")):
            return [Line("The plan is already decided on.")]
        return [Line("Approved.", "good")]

    def _reject(self, text: str) -> list[Block]:
        self._pending()
        result = parse(text, self._queries.lexicon)
        blocks = self._preferences.take_all(result.preferences, text)
        if not (not text or result.command or result.is_exact or self._assistant.available):
            blocks += not_taken(result, self._queries)
        self.live.answer(ApprovalDecision(verdict="reject", text=text))
        blocks.append(Line("Rejected; it is planned again.", "good"))
        commands = result.beside if result.is_exact and not result.command else ()
        return blocks + [block for command in commands for block in self._run(command)]

    def _edit(self, text: str) -> list[Block]:
        question, plan = self._pending()
        return self._ask_instead(question, edited(plan, text, self._n_images(), self.vocabulary))

    def _add(self, text: str) -> list[Block]:
        draft = read_addition(text, self._n_images())
        question = self.live.question
        if question is not None and question.kind == "plan":
            plan = self._pending()[1]
            return self._ask_instead(question, added(plan, draft, self._n_images()))
        left = self._n_images() - sum(a.prompt.count for a in self._preferences.additions())
        if draft.count > left:
            raise ToolError(f"The next plan has room for {left} more images, not {draft.count}.")
        # Validated now, while the user can still correct a mistake.
        self._proposals.check(PlanDraft(prompts=(draft,)), self._preferences.next_round(), "user")
        number = 1 + len(self._journal.events(AdditionEvent, undone=True))
        addition = Addition(id=f"a{number}", prompt=draft)
        self._journal.append(
            AdditionEvent(key=f"addition/{addition.id}", addition=addition.to_json())
        )
        text = f"Understood: {draft.count} images of it are in the next plan ({addition.id})."
        return [Line(text, "good")]

    def _prefer(self, kind: str, text: str) -> list[Block]:
        text = unquoted(text)
        if not text:
            raise ToolError(f"Say what: /{kind} {COMMANDS[kind].arguments}")
        attributes, unknown_words = self._queries.lexicon.read(text)
        if not attributes and self._assistant.available:
            return self._take([Preference()], f"{kind} {text}")
        preference = Preference(attributes=self._queries.slice_of(text).attributes, **bounds(kind))
        if attributes and unknown_words:
            result = ParseResult(partial=(preference,), unknown=tuple(unknown_words))
            return not_taken(result, self._queries)
        return self._take([preference], text)

    _focus = partialmethod(_prefer, "focus")
    _avoid = partialmethod(_prefer, "avoid")

    def _synthetic(self, text: str) -> list[Block]:
        dstm, past = self.live.session.settings.dstm, self._queries.rounds()
        return self._preferences.mix(text, dstm, past) if text else self._queries.synthetic()

    # -- helpers ---------------------------------------------------------------------------------

    @property
    def _journal(self) -> Journal:
        return self.live.session.journal

    @property
    def _proposals(self) -> Proposals:
        return Proposals(self.live.session, LiveEffects(self.live.components))

    def _n_images(self) -> int:
        return self.live.session.settings.session.images_per_round

    def _pending(self) -> tuple[ApprovalRequest, Plan]:
        question = self.live.question
        if question is None or question.plan is None:
            raise ToolError("No plan waits for you now; /status shows the state of the session.")
        return question, question.plan

    def _ask_instead(self, question: ApprovalRequest, draft: PlanDraft) -> list[Block]:
        """Validate and journal an edited plan, and ask for its approval instead."""
        assert question.plan is not None and question.resolved is not None  # set for plans
        proposals, author = self._proposals, question.plan.author
        plan = proposals.check(draft, question.round, author)
        resolved = remade(
            question.resolved, draft, plan, self._preferences.active(), self.vocabulary
        )
        made = resolved.to_json()
        self._journal.append(PlanEditEvent(round=question.round, question=question.key, made=made))
        plan = proposals.plan(resolved, question.round, author)
        again = proposals.request(resolved, plan, question.key)
        self.live.ask_again(again)
        return plan_blocks(again, self._preferences.active())
