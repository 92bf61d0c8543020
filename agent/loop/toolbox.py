"""The agent's tools, bound to LangChain: thin wrappers around effects and proposals.

The docstring and arguments of a tool's method are shown to the brain; everything else comes from
the session. Results are short texts with the figures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, NamedTuple

from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import Field, ValidationError

from agent.brains.actions import storable
from agent.loop import eyes, stages
from agent.loop.approval import ApprovalRequest, Rejected
from agent.loop.drafts import PlanChoice, Use, say_shares, worst_first
from agent.loop.effects import Effects
from agent.loop.expectations import say_expectation
from agent.loop.observations import rounds_before
from agent.loop.proposals import Proposals
from agent.loop.state import (
    ADVANCES,
    ANALYSES,
    GRAPH_WORKS,
    PHASES,
    PLANS_ONLY,
    SMALL_CONTEXT,
    RoundState,
    SessionView,
    due,
    lookups,
    record_version,
)
from agent.loop.tool_schemas import tool_schemas
from agent.loop.validation import least_prompts, wrong_arguments
from agent.planners import PromptDraft, SliceShare
from agent.planners.slices import last_report
from eval.report.blocks import (
    failure_lines,
    levers_text,
    plain_text,
    report_lines,
)
from eval.report.text import estimate_text
from memory.errors import SettingsError, ToolError
from memory.events import (
    AnswerEvent,
    ApprovalEvent,
    BatchEvent,
    Event,
    ForkedEvent,
    GeneratorEvent,
    HeadEvent,
    IllegalCallEvent,
    PlanEvent,
    RoundDoneEvent,
    SteeredEvent,
    ToolCallEvent,
)
from memory.records import Hypothesis, Levers, Report, Round
from prompts.render import quote

# Rounds with images that must be evaluated before a brain may end the session.
ROUNDS_TO_END = 2
_AS_BEFORE = "You have asked this already; it is not offered again now. The answer is the same:"


class CallContext(NamedTuple):
    """The context of a tool call.

    Attributes:
        round: Number of the round.
        phase: Phase of the round.
        legal: Names of the tools that are legal now.
        author: The caller, a brain or the graph.
        known: Results of the phase so far, with the arguments of their calls.
    """

    round: int
    phase: str
    legal: tuple[str, ...]
    author: str
    known: Sequence[tuple[ToolMessage, dict[str, Any]]] = ()


class Toolbox:
    """The tools of the agent in one session."""

    def __init__(self, session: SessionView, effects: Effects) -> None:
        self._session, self._effects = session, effects
        self._journal = session.journal
        self._proposals = Proposals(session, effects)
        self._step, self._call_id = CallContext(0, "", (), ""), ""
        # Each tool is the method of this class with its name.
        self.tools: dict[str, BaseTool] = {
            name: StructuredTool.from_function(
                getattr(self, name), parse_docstring=True, error_on_invalid_docstring=True
            )
            for names in PHASES.values()
            for name in names
        }

    def due(self, state: RoundState) -> str | None:
        """Return the tool that the graph calls itself, see `agent.loop.state.due`."""
        return due(state["phase"], state["messages"], self._version, state.get("brief", False))

    def legal(self, state: RoundState) -> tuple[str, ...]:
        """Return the names of the tools that may be called now.

        After `llm.max_lookups` calls in a phase, only tools that end it are legal. A tool that was
        called twice with equal arguments is not offered again in the phase, and the phase review
        offers only `finish`. Small models get no tools for look-ups, as the opening is sufficient.
        """
        phase, llm = state["phase"], self._session.settings.llm
        names, has_report = PHASES[phase], bool(self._reports(state["round"]))
        hidden: set[str | None] = set()
        if state.get("brief", False) and self._version >= PLANS_ONLY:
            hidden |= {*names} - {*ADVANCES, "ask_user"}
        if self._version >= GRAPH_WORKS:
            calls = [(message.name, arguments) for message, arguments in lookups(state["messages"])]
            hidden |= {name for i, (name, a) in enumerate(calls) if (name, a) in calls[:i]}
            hidden |= {*names} - {"finish"} if phase == "review" else set()
        if not self._effects.observer.interactive:
            hidden.add("ask_user")
        if eyes.picture_tokens(self._session) is None or not has_report:
            hidden.add("look_at")
        is_large = llm.context_tokens > SMALL_CONTEXT and self._version >= ANALYSES
        if not (is_large and has_report):
            hidden.add("analyse")
        if state["n_lookups"] >= llm.max_lookups:
            hidden |= {*names} - {*ADVANCES}
        return tuple(name for name in names if name not in hidden)

    def schemas(self, names: Sequence[str], brief: bool, round_number: int) -> list[dict[str, Any]]:
        """Return the JSON schemas of tools for a chat model, see `agent.loop.tool_schemas`."""
        past = rounds_before(self._journal, round_number)
        report, rules = last_report(past), self._proposals.rules(round_number)
        per_prompt = self._session.settings.session.images_per_prompt
        schemas = tool_schemas(
            [self.tools[name] for name in names],
            rules,
            worst_first(report.slices) if report else [],
            brief,
            drawable=self._proposals.drawable(report),
            n_prompts=least_prompts(rules.n_images, per_prompt),
            levers=self._proposals.lever_bounds(round_number),
            rounds=[r.number for r in past if r.batch],
        )
        return self._effects.word(schemas)

    def execute(self, step: CallContext, call: ToolCall) -> tuple[str, dict[str, Any]]:
        """Execute one tool call, journal it, and return its result and references to pictures.

        A call that was journaled before a crash is not executed again.

        Raises:
            ToolError: The call is illegal; the message names what is legal.
            Rejected: A person or one of their preferences rejects the call.
        """
        call = storable(call)
        name, arguments = call["name"], call["args"]
        self._step, self._call_id = step, str(call["id"])
        key = f"tool_call/{step.round}/{call['id']}"
        if recorded := self._journal.get(key, ToolCallEvent):
            if recorded.rejected:
                raise Rejected(recorded.result)
            return recorded.result, self._references(recorded.images)
        started, rejection, pictures = time.monotonic(), None, tuple[str, ...]()
        try:
            if name not in step.legal:
                raise ToolError(
                    f"{name[:100]!r} is not legal now (phase {step.phase!r}). Call one of: "
                    f"{', '.join(step.legal)}."
                )
            result = self._answered(name, arguments)
            if result is None:
                look = self.tools[name].invoke(arguments)
                result, pictures = look if isinstance(look, eyes.Look) else (str(look), ())
        except Rejected as error:
            result, rejection = str(error), error
        except (ToolError, ValidationError) as error:
            problem = str(error)
            if isinstance(error, ValidationError):
                problem = wrong_arguments(name, error)
            self.refuse(step, name[:100], json.dumps(arguments), problem)
            raise ToolError(problem) from error
        event = ToolCallEvent(
            key=key,
            round=step.round,
            phase=step.phase,
            author=step.author,
            tool=name,
            arguments=arguments,
            result=result,
            seconds=round(time.monotonic() - started, 3),
            rejected=rejection is not None,
            images=pictures,
        )
        self._journal.append(event)
        if rejection:
            raise rejection
        return result, self._references(pictures)

    def _answered(self, name: str, arguments: dict[str, Any]) -> str | None:
        """Return the result of an equal call earlier in this phase, or None."""
        if self._version < GRAPH_WORKS:
            return None
        for message, before in self._step.known:
            if (message.name, before) == (name, arguments):
                return f"{_AS_BEFORE} {message.content}"
        return None

    def refuse(self, step: CallContext, tool: str | None, answer: str, problem: str) -> None:
        """Journal an answer that was not a legal call; such answers are counted, never executed."""
        self._journal.append(
            IllegalCallEvent(
                round=step.round,
                phase=step.phase,
                author=step.author,
                tool=tool,
                answer=answer[:1000],
                problem=problem,
            )
        )

    # -- tools ---------------------------------------------------------------------------------

    def recall_memory(
        self,
        query: Annotated[str, Field(min_length=1, max_length=300)],
        n: Annotated[int, Field(ge=1, le=20)] = 5,
    ) -> str:
        """Search the memory of all sessions for prompts, failures and lessons.

        Args:
            query: What to look for, in plain words.
            n: How many entries to return, 1 to 20.
        """
        return self._effects.search(f"tool_call/{self._round}/{self._call_id}", query, n)

    def inspect_failures(self) -> str:
        """Show the slices on which the model is significantly worse than on the rest."""
        measured = self._reports(self._round + 1)
        if not measured:
            return "There is no report yet, so no failures are known."
        failures = stages.inspect(self._journal, self._effects, measured[-1].round)
        return plain_text(failure_lines(failures))

    def analyse(
        self,
        by: Annotated[list[str], Field(max_length=3)] = [],  # noqa: B006 (never changed)
        where: dict[str, str] = {},  # noqa: B006
    ) -> str:
        """Group the feedback photographs by columns: accuracy and number of each group.

        Args:
            by: Columns to group by, e.g. class and predicted.
            where: Values that all of them have.
        """
        key = f"tool_call/{self._round}/{self._call_id}"
        return self._effects.analyse(key, self._round, by, where)

    def look_at(self, slice: str = "", prompt: str = "") -> eyes.Look:  # noqa: A002 (as asked for)
        """Look at photographs that the model gets wrong and right, beside generated images.

        Args:
            slice: A slice of the observation.
            prompt: Id or text of an earlier prompt, instead of a slice.
        """
        past = rounds_before(self._journal, self._round)
        subject = eyes.subject_of(slice, prompt, past)
        key = f"tool_call/{self._round}/{self._call_id}"
        return self._effects.look(key, self._round, subject)

    def ask_user(self, question: Annotated[str, Field(min_length=1, max_length=500)]) -> str:
        """Ask the person at the session something that only they can decide.

        Args:
            question: One short question.
        """
        key = f"answer/{self._round}/{self._call_id}"
        asked = ApprovalRequest(key=key, kind="words", round=self._round, text=question)
        return f"The user says: {self._effects.ask(asked, AnswerEvent).answer}"

    def propose_plan(
        self,
        draft: Use = "replace",
        shares: Sequence[SliceShare] = (),
        prompts: Sequence[PromptDraft] = (),
        why: Annotated[str, Field(max_length=1000)] = "",
        hypothesis: Hypothesis | None = None,
        levers: Levers | None = None,
    ) -> str:
        """Propose the data of this round; it is checked before anything is generated.

        Args:
            draft: "accept" takes the draft of the observation as it is, "edit" gives shares of it
                new sizes and keeps the rest, "replace" is a plan by shares or by prompts.
            shares: Shares of the images, 0 to 1, by attribute values; the prompts are written for
                you. Without a draft they are scaled to add up to 1.
            prompts: Text, class_name, attributes and count of every prompt.
            why: The reason for this distribution.
            hypothesis: Which slice should change, and by how much.
            levers: Size of the round, training, and weights of images of earlier rounds.
        """
        key = f"approval/{self._round}/{self._call_id}"
        proposals = self._proposals
        choice = PlanChoice(
            draft=draft,
            shares=tuple(shares),
            prompts=tuple(prompts),
            why=why,
            hypothesis=hypothesis,
            levers=levers,
        )
        resolved = proposals.resolve(choice, self._round, self._step.author, key)
        resolved = proposals.edited(resolved, self._round, key)
        plan = proposals.plan(resolved, self._round, self._step.author)
        approval = self._journal.get(key, ApprovalEvent)
        is_open = approval is None and self._journal.get(f"plan/{self._round}", PlanEvent) is None
        if is_open and self._effects.observer.approves:
            request = proposals.request(resolved, plan, key)
            approval = self._effects.ask(request, ApprovalEvent)
        if approval and approval.verdict == "reject":
            why_not = quote(approval.why or "no reason given", 500)
            raise Rejected(f"The user rejects the plan: {why_not}. Propose another one.")
        if resolved.shifts or resolved.additions:
            self._journal.append(
                SteeredEvent(
                    key=f"steered/{self._round}",
                    round=self._round,
                    shifts=tuple(shift.to_json() for shift in resolved.shifts),
                    additions=resolved.additions,
                )
            )
        expectation = proposals.expect(plan)
        plan = self._journal.append(proposals.event(plan, choice, expectation)).plan
        for warning in plan.warnings:
            self._effects.observer.warn(warning)
        self._effects.observer.planned(plan)
        lines = [f"Accepted: {plan.n_images} images from {len(plan.prompts)} prompts."]
        lines += [levers_text(plan.levers)] if plan.levers else []
        lines += say_shares(choice, plan.prompts)
        lines += [f"Warning: {warning}" for warning in plan.warnings]
        return "\n".join([*lines, say_expectation(expectation)])

    def generate_batch(self) -> str:
        """Draw the images of the accepted plan and let the audit weigh their labels."""
        plan = self._current().plan
        assert plan is not None  # the phase follows propose_plan
        identity = self._effects.load_generator()
        began = self._journal.append(GeneratorEvent(key="generator", identity=identity))
        if began.identity != identity:
            raise SettingsError(
                f"The session began with the generator {began.identity!r}, but its weights or "
                f"sampling are {identity!r} now. Restore them, or begin a new session."
            )
        with stages.timed(self._journal, self._effects, "generate", self._round):
            batch = self._effects.draw(plan)
        self._journal.append(BatchEvent(key=f"batch/{self._round}", batch=batch))
        return f"{batch.n_made} images made, the audit keeps {batch.n_kept}."

    def train_dstm(self) -> str:
        """Train the downstream task model on all generated images so far and real photographs."""
        return stages.say_training(stages.train(self._journal, self._effects, self._round))

    def evaluate_real(self) -> str:
        """Evaluate the trained model on the real feedback photographs."""
        current = self._current()
        assert current.training is not None and current.plan is not None  # phases guarantee it
        report = stages.evaluate(self._journal, self._effects, current.training)
        stages.learn(self._session, report)
        return plain_text(report_lines(report))

    def finish(
        self,
        summary: Annotated[str, Field(max_length=1000)] = "",
        end_session: Annotated[str, Field(max_length=300)] = "",
    ) -> str:
        """End the round.

        Args:
            summary: One sentence on what this round showed.
            end_session: Why the session ends here, only where another round would gain less than
                it costs; "" goes on.
        """
        if end_session:
            self._check_end()
        key = f"round_done/{self._round}"
        report = self._current().report
        if not summary and report and (figure := report.metrics.get(report.main_metric)):
            summary = f"{report.main_metric} {estimate_text(figure)} on feedback."
        self._journal.append(
            RoundDoneEvent(key=key, round=self._round, summary=summary[:500], ends=end_session)
        )
        # The round before as well: its failures may have been inspected in this one.
        recent = self._journal.of_rounds(self._round - 1, self._round)
        heads: list[Event] = [*self._journal.events(HeadEvent), *self._journal.events(ForkedEvent)]
        self._effects.remember([*heads, *recent])
        self._effects.observer.round_done(self._current())
        return "The round is over."

    def _check_end(self) -> None:
        """Raise ToolError if a brain may not end the session yet."""
        if not self._session.settings.limits.finish:
            raise ToolError("The number of rounds is fixed: call finish without end_session.")
        if sum(report.round > 0 for report in self._reports(self._round + 1)) < ROUNDS_TO_END:
            raise ToolError(
                f"What a round gains is not known before {ROUNDS_TO_END} rounds with images are "
                "measured: call finish without end_session."
            )

    # -- helpers -------------------------------------------------------------------------------

    def _reports(self, number: int) -> list[Report]:
        """Return the reports of the rounds before round `number`."""
        return [r.report for r in rounds_before(self._journal, number) if r.report]

    def _references(self, pictures: Sequence[str]) -> dict[str, Any]:
        return eyes.references(pictures, eyes.picture_tokens(self._session))

    @property
    def _round(self) -> int:
        return self._step.round

    @cached_property
    def _version(self) -> int:
        return record_version(self._journal)

    def _current(self) -> Round:
        current = self._journal.round(self._round)
        assert current is not None  # it has begun
        return current
