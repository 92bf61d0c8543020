"""The tools by their names, bound to LangChain: thin wrappers around the stages.

A method's docstring is what a brain reads; its arguments are what a brain may choose. Everything
else comes from the session. Results are short texts with the figures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage, ToolCall
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.types import interrupt
from pydantic import Field, ValidationError

from agent.brains._actions import storable
from agent.briefing import Facts, brief, say_failures, say_prompt, say_report, say_verdict
from agent.expectations import Expectation, expect, say_expectation
from agent.offers import offers
from agent.planners import Observation, Palette, PlanDraft, PromptDraft
from agent.planning import validate
from agent.questions import Made, Question, Rejected
from agent.recording import pack, unpack
from agent.state import ADVANCES, PHASES
from agent.steering import (
    STEERING,
    Shift,
    Wish,
    add,
    additions,
    broken,
    compare,
    ignored,
    say_effects,
    say_wishes,
    steer,
    wishes,
)
from agent.trials import say_trial, with_trials
from eval.credit import credit, settle
from memory.chroma import Hit, MemoryItem, items_from_events
from memory.errors import SettingsError, ToolError
from memory.records import Batch, Failure, Hypothesis, Lesson, Plan, Report, Round, Training
from prompts.render import quote

if TYPE_CHECKING:
    from agent.workbench import Workbench
    from tools.pull import Critic

# Rounds that an observation looks back on; keeps messages and time per round flat.
LOOK_BACK = 20
# Lessons and prompts that are recalled for an observation, and hits for a prompt of a plan.
N_RECALLED = 6
# Characters that a question quotes of an earlier prompt.
NEAREST_CHARS = 70
# Characters of the opening per token of a prompt: half of the space, at three characters a token.
OPENING_SHARE = 1.5


class Proposal(NamedTuple):
    """What a draft comes to: the plan, and what to expect of it."""

    made: Made
    plan: Plan
    expectation: Expectation


class Toolbox:
    """What the agent can do in one session."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._session = bench.session
        self._journal = bench.session.journal
        self._round, self._call_id, self._author = 0, "", ""
        self._shards: dict[int, list[Path]] = {}
        functions: list[Callable[..., str]] = [
            self.recall_memory,
            self.inspect_failures,
            self.ask_user,
            self.propose_plan,
            self.generate_batch,
            self.train_dstm,
            self.evaluate_real,
            self.finish,
        ]
        self.tools: dict[str, BaseTool] = {
            f.__name__: StructuredTool.from_function(
                f, parse_docstring=True, error_on_invalid_docstring=True
            )
            for f in functions
        }

    def opening(
        self, round_number: int, tokens_left: int | None, usd_left: float | None
    ) -> list[AnyMessage]:
        """Return the first messages of a round: who you are, and what is known.

        What is known is journaled first, so that the messages can be made again from it.
        """
        past = self._before(round_number)
        observation = self._observation(round_number, past)
        key = f"opening/{round_number}"
        known = self._journal.get(key)
        if known is None:
            facts = self._facts(observation, tokens_left, usd_left)
            known = self._journal.append(
                "opening", key=key, round=round_number, facts=pack(facts, past)
            )
        system, text = brief(unpack(known["facts"], past, self._bench.target))
        extra = {"observation": observation.to_json()}
        return [SystemMessage(system), HumanMessage(text, additional_kwargs=extra)]

    def _observation(self, round_number: int, past: Sequence[Round]) -> Observation:
        session = self._session.settings.session
        return Observation(
            round=round_number,
            n_images=session.images_per_round,
            images_per_prompt=session.images_per_prompt,
            seed=session.seed,
            rounds=tuple(past),
        )

    def _facts(
        self, observation: Observation, tokens_left: int | None, usd_left: float | None
    ) -> Facts:
        settings, target = self._session.settings, self._bench.target
        round_number, past = observation.round, observation.rounds
        reports = [r.report for r in past if r.report]
        failures = past[-1].failures if past else ()
        lessons, similar = self._remembered(reports[-1] if reports else None, failures)
        wanted = self._wishes()
        return Facts(
            target=target.name,
            class_names=target.class_names,
            vocabulary=target.vocabulary,
            round=round_number,
            rounds=settings.session.rounds,
            n_images=observation.n_images,
            images_left=observation.n_images * (settings.session.rounds - round_number + 1),
            images_per_prompt=observation.images_per_prompt,
            max_chars=int(OPENING_SHARE * settings.llm.context_tokens),
            report=reports[-1] if reports else None,
            previous=reports[-2] if len(reports) > 1 else None,
            failures=failures,
            verdict=past[-1].verdict if past else None,
            lessons=lessons,
            similar=similar,
            steering=self._steering(observation, wanted),
            wishes=[wish.id for wish in wanted],
            seconds_per_image=self._seconds_per_image(past),
            tokens_left=tokens_left,
            usd_left=usd_left,
        )

    def _wishes(self) -> list[Wish]:
        return wishes(self._journal.events("wish", "forget"))

    def _steering(self, observation: Observation, wanted: Sequence[Wish]) -> list[str]:
        """Return what the user has said and wishes."""
        answers = [
            f"asked {event['question']!r}, the user said: {event['answer']}"
            for event in self._journal.events("answer")[-LOOK_BACK:]
        ]
        past = observation.rounds
        moved = self._journal.events("steered", since=past[0].number) if past and wanted else []
        return answers + say_wishes(wanted) + say_effects(wanted, moved, past)

    def _remembered(
        self, report: Report | None, failures: Sequence[Failure]
    ) -> tuple[list[MemoryItem], list[Hit]]:
        """Return lessons and prompts of the memory that bear on what is worst now."""
        slices = [f.slice for f in failures if f.significant and f.kind == "slice"][:3]
        if not slices and report and report.worst_slice:
            slices = [report.worst_slice]
        query = "what helped on " + (", ".join(slices) or "all photographs")
        target = self._bench.target.name
        lessons = self._bench.memory.search(query, n=N_RECALLED, kind="lesson", target=target)
        similar = self._bench.memory.search(query, n=N_RECALLED, kind="prompt", target=target)
        return [hit.item for hit in lessons], similar

    @staticmethod
    def _seconds_per_image(past: Sequence[Round]) -> float | None:
        """Return how long an image took in the last round that made some, or None."""
        for done in reversed(past):
            if done.batch and done.batch.n_made and "generate" in done.seconds:
                return done.seconds["generate"] / done.batch.n_made
        return None

    def legal(self, phase: str, n_lookups: int) -> tuple[str, ...]:
        """Return the names of the tools that may be called now.

        After `llm.max_lookups` calls that did not end the phase only what ends it is left.
        """
        names = PHASES[phase]
        if not self._bench.observer.interactive:
            names = tuple(name for name in names if name != "ask_user")
        if n_lookups >= self._session.settings.llm.max_lookups:
            names = tuple(name for name in names if name in ADVANCES)
        return names

    def offers(self, names: Sequence[str], brief: bool) -> list[dict[str, Any]]:
        """Return tools as JSON schemas for a chat model, see `agent.offers`."""
        reports = [r.report for r in self._session.rounds(LOOK_BACK) if r.report]
        return offers(
            [self.tools[name] for name in names],
            self._bench.target.vocabulary,
            self._session.settings.session.images_per_round,
            [score.key for score in reports[-1].slices] if reports else [],
            brief,
            pulls="propose_plan" in names and self._unpullable(bool(reports)) is None,
            adapters=self._adapters(),
        )

    def refuse(
        self, round_number: int, phase: str, legal: Sequence[str], text: str, author: str
    ) -> str:
        """Journal an answer that calls no tool, and return what to say to it."""
        problem = f"Your answer calls no tool. Call one of: {', '.join(legal)}."
        self._illegal(round_number, phase, author, None, text, problem)
        return problem

    def execute(
        self, round_number: int, phase: str, legal: Sequence[str], call: ToolCall, author: str
    ) -> str:
        """Run one tool call; raises ToolError that says what is legal when the call is not."""
        call = storable(call)
        name = call["name"]
        try:
            return self._execute(round_number, phase, legal, call, author)
        except Rejected:
            raise
        except ToolError as error:
            said = json.dumps(call["args"])
            self._illegal(round_number, phase, author, name, said, str(error))
            raise

    def _execute(
        self, round_number: int, phase: str, legal: Sequence[str], call: ToolCall, author: str
    ) -> str:
        name = call["name"]
        if name not in legal:
            raise ToolError(
                f"{name[:100]!r} is not legal now (phase {phase!r}). Call one of: "
                f"{', '.join(legal)}."
            )
        self._round, self._call_id, self._author = round_number, str(call["id"]), author
        started = time.monotonic()
        try:
            result, refused = str(self.tools[name].invoke(call["args"])), None
        except Rejected as error:
            result, refused = str(error), error
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc']))[:100] or 'arguments'}: {e['msg'][:200]}"
                for e in error.errors()[:5]
            )
            raise ToolError(f"The arguments of {name} are wrong: {wrong}.") from error
        self._journal.append(
            "tool_call",
            key=f"tool_call/{round_number}/{call['id']}",
            round=round_number,
            phase=phase,
            author=author,
            tool=name,
            arguments=call["args"],
            result=result,
            seconds=round(time.monotonic() - started, 3),
            **({"rejected": True} if refused else {}),
        )
        if refused:
            raise refused
        return result

    def _illegal(
        self,
        round_number: int,
        phase: str,
        author: str,
        tool: str | None,
        said: str,
        problem: str,
    ) -> None:
        """Journal an answer that was no legal call; such answers are counted, never executed."""
        self._journal.append(
            "illegal_call",
            round=round_number,
            phase=phase,
            author=author,
            tool=tool and tool[:100],
            said=said[:1000],
            problem=problem,
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
        return self._recall(query, n)

    def inspect_failures(self) -> str:
        """Show the slices on which the model is significantly worse than on the rest."""
        measured = [r for r in self._before(self._round + 1) if r.report]
        if not measured:
            return "There is no report yet, so no failures are known."
        number = measured[-1].number
        failures = measured[-1].failures
        if self._journal.get(f"failures/{number}") is None:
            with self._stage("inspect", number):
                failures = self._inspect(number)
            self._journal.append(
                "failures",
                key=f"failures/{number}",
                round=number,
                failures=[f.to_json() for f in failures],
            )
        return say_failures(failures)

    def ask_user(self, question: Annotated[str, Field(min_length=1, max_length=500)]) -> str:
        """Ask the person at the session something that only they can decide.

        Args:
            question: One short question.
        """
        key = f"answer/{self._round}/{self._call_id}"
        asked = Question(key=key, kind="words", round=self._round, text=question)
        return f"The user says: {self._answer(asked)['answer']}"

    def propose_plan(
        self,
        prompts: list[PromptDraft],
        why: Annotated[str, Field(max_length=1000)] = "",
        hypothesis: Hypothesis | None = None,
    ) -> str:
        """Propose the data of this round; it is checked before anything is generated.

        Args:
            prompts: Text, class_name, attributes and count of every prompt.
            why: The reason for this distribution.
            hypothesis: Which slice should change, and by how much.
        """
        key = f"approval/{self._round}/{self._call_id}"
        draft = PlanDraft(prompts=tuple(prompts), why=why, hypothesis=hypothesis)
        made = self._make(draft, key)
        proposal = self.propose(made, self._round, self._author, key)
        plan, expectation = proposal.plan, proposal.expectation
        verdict = self._journal.get(key)
        is_open = verdict is None and self._journal.get(f"plan/{self._round}") is None
        if is_open and self._bench.observer.approves:
            verdict = self._answer(self.question(proposal, key))
        if verdict and verdict["verdict"] == "reject":
            why_not = quote(verdict["why"] or "no reason given", 500)
            raise Rejected(f"The user rejects the plan: {why_not}. Propose another one.")
        shifts, added = proposal.made.shifts, proposal.made.additions
        if shifts or added:
            self._journal.append(
                "steered",
                key=f"steered/{self._round}",
                round=self._round,
                shifts=[shift.to_json() for shift in shifts],
                additions=list(added),
            )
        idle = {p.text: list(words) for p in plan.prompts if (words := self._undrawn(p.text))}
        event = self._journal.append(
            "plan",
            key=f"plan/{self._round}",
            plan=plan.to_json(),
            # Seconds differ from run to run, and plans are to be compared.
            expectation=expectation.model_dump(mode="json", exclude={"seconds"}),
            n_tokens={p.text: self._bench.generator.count_tokens(p.text) for p in plan.prompts},
            max_tokens=self._bench.generator.max_tokens,
            **({"undrawn": idle} if idle else {}),
        )
        plan = Plan.model_validate(event["plan"])
        for warning in plan.warnings:
            self._bench.observer.warn(warning)
        self._bench.observer.planned(plan)
        said = [f"Accepted: {plan.n_images} images from {len(plan.prompts)} prompts."]
        said += [say_trial(trial) for trial in plan.trials]
        said += [f"Warning: {warning}" for warning in plan.warnings]
        return "\n".join([*said, say_expectation(expectation)])

    def generate_batch(self) -> str:
        """Draw the images of the accepted plan and let the audit weigh their labels."""
        plan = self._current().plan
        assert plan is not None  # the phase follows propose_plan
        identity = self._load_generator()
        began = self._journal.append("generator", key="generator", identity=identity)
        if began["identity"] != identity:
            raise SettingsError(
                f"The session began with the generator {began['identity']!r}, but its weights or "
                f"sampling are {identity!r} now. Restore them, or begin a new session."
            )
        with self._stage("generate", self._round):
            batch = self._draw(plan)
        self._journal.append("batch", key=f"batch/{self._round}", batch=batch.to_json())
        return f"{batch.n_made} images made, the audit keeps {batch.n_kept}."

    def train_dstm(self) -> str:
        """Train the downstream task model on all synthetic images so far."""
        with self._stage("train", self._round):
            training = self._train()
        self._journal.append("training", key=f"training/{self._round}", training=training.to_json())
        said = (
            f"Trained on {training.n_images} images, {training.n_steps} steps, "
            f"final loss {training.final_loss:.3f}."
        )
        if chosen := training.selection:
            said += (
                f" Of this round's {chosen.n_candidates} images {chosen.n_chosen} were chosen by "
                f"{chosen.method}."
            )
        return said

    def evaluate_real(self) -> str:
        """Evaluate the trained model on the real feedback photographs."""
        current = self._current()
        assert current.training is not None and current.plan is not None  # phases guarantee it
        with self._stage("evaluate", self._round):
            report = self._evaluate(current.training)
        self._journal.append("report", key=f"report/{self._round}", report=report.to_json())
        self._learn(report)
        return say_report(report)

    def finish(self, summary: Annotated[str, Field(max_length=1000)]) -> str:
        """End the round.

        Args:
            summary: One sentence on what this round showed.
        """
        key = f"round_done/{self._round}"
        self._journal.append("round_done", key=key, round=self._round, summary=summary[:500])
        # The round before as well: its failures may have been inspected in this one.
        recent = self._journal.of_rounds(self._round - 1, self._round)
        known = self._journal.events("session", "forked")
        self._bench.memory.add(items_from_events([*known, *recent]))
        self._bench.observer.round_done(self._current())
        return "The round is over."

    # -- stages, whose heavy parts a replay does without ------------------------------------------

    def _load_generator(self) -> str:
        """Load what the stage generate needs, and return the identity of the generator."""
        _ = self._bench.audit
        return self._bench.generator.identity

    def _draw(self, plan: Plan) -> Batch:
        from tools.generate import generate_batch

        bench, settings = self._bench, self._session.settings
        return generate_batch(
            plan,
            self._session.folder,
            settings.session.seed,
            bench.generator,
            bench.audit,
            bench.target.class_names,
            settings.session.shard_size,
            bench.progress("generate", "images"),
            self._critic() if any(prompt.pull for prompt in plan.prompts) else None,
            bench.crew,
        )

    def _critic(self) -> Critic:
        """Load the DSTM of the round before, by which images are pulled."""
        from tools.pull import load_critic

        trained = [r.training for r in self._before(self._round) if r.report]
        assert trained and trained[-1] is not None  # or the plan would say no pull
        return load_critic(
            self._session.folder, trained[-1], self._bench.target, self._bench.device
        )

    def _train(self) -> Training:
        from tools import tasks
        from tools.select import select_images
        from tools.targets import label_names
        from tools.train import train_dstm

        bench, settings = self._bench, self._session.settings
        selection = select_images(
            self._round,
            self._session.folder,
            self._before(self._round + 1),
            settings.selection,
            settings.session.seed,
            settings.home / "selection" / bench.target.name,
            bench.device,
        )
        return train_dstm(
            self._round,
            self._session.folder,
            self._all_shards(),
            label_names(bench.target, tasks.build(settings.dstm.task)),
            settings.dstm.model_copy(update={"seed": settings.session.seed}),
            bench.device,
            bench.progress("train", "steps"),
            bench.fault,
            selection,
            bench.trainer,
        )

    def _evaluate(self, training: Training) -> Report:
        from tools.evaluate import evaluate_real

        feedback = self._session.settings.feedback
        return evaluate_real(
            self._round,
            self._session.folder,
            training,
            self._bench.target,
            feedback.slices,
            feedback.n_min,
            self._bench.device,
            self._bench.predict,
        )

    def _inspect(self, number: int) -> tuple[Failure, ...]:
        from memory import minilm
        from tools.inspect_failures import inspect

        feedback = self._session.settings.feedback
        return inspect(
            number,
            self._session.folder,
            self._bench.target,
            feedback.slices,
            feedback.n_min,
            feedback.alpha,
            past=self._before(number + 1),
            discovery=feedback.discovery != "off",
            embed_with=self._bench.embedding if feedback.discovery == "clusters" else None,
            encode=lambda texts: minilm.load().embed(texts),
            device=self._bench.device,
        )

    # -- helpers -------------------------------------------------------------------------------

    def _recall(self, query: str, n: int) -> str:
        hits = self._bench.memory.search(query, n=n, target=self._bench.target.name)
        lines = [
            f"- {hit.item.kind} ({hit.similarity:.2f}): {hit.item.describe()[:400]}" for hit in hits
        ]
        return "\n".join(lines) or "The memory has nothing on that yet."

    def _make(self, draft: PlanDraft, key: str) -> Made:
        """Return what trials, wishes and additions make of a draft: once, so that later ones wait.

        Raises ToolError for a draft of a language model that breaks a constraint, Rejected for one
        that was made before its author knew of a wish.
        """
        name = f"proposed/{key.removeprefix('approval/')}"
        if known := self._journal.get(name):
            return Made.model_validate(known["made"])
        wanted = self._wishes()
        extra = (
            additions(self._journal.events(*STEERING)) if self._journal.count("addition") else []
        )
        session, vocabulary = self._session.settings.session, self._bench.target.vocabulary
        shifts: tuple[Shift, ...] = ()
        warnings: list[str] = []
        is_policy = self._author.startswith("policy:")
        n_trial = self._session.settings.feedback.trial
        if n_trial:
            observation = self._observation(self._round, self._before(self._round))
            draft = with_trials(draft, observation, self._palette(), vocabulary, n_trial, wanted)
        if is_policy and wanted:
            palette = self._palette()
            seed = f"{session.seed} {self._round}"
            draft, shifts = steer(
                draft, wanted, palette, vocabulary, session.images_per_prompt, seed
            )
        elif wanted:
            self._tell_wishes(self._round, wanted)
        draft = add(draft, extra, session.images_per_round, vocabulary)
        if not is_policy and wanted:
            plan = self.check(draft, self._round, self._author)
            if problems := broken(plan, wanted, vocabulary):
                raise ToolError(f"The plan was not accepted: {'; '.join(problems)}.")
            past = [r.plan for r in self._before(self._round) if r.plan]
            before = past[-1] if past else None
            shifts = compare(plan, before, wanted, vocabulary)
            warnings = ignored(plan, before, wanted, vocabulary)
        names = tuple(addition.id for addition in extra)
        made = Made(draft=draft, shifts=shifts, additions=names, warnings=tuple(warnings))
        if wanted or extra or draft.trials or self._bench.observer.interactive:
            self._journal.append("proposed", key=name, round=self._round, made=made.to_json())
        return made

    def _palette(self) -> Palette:
        (head,) = self._journal.events("session")
        return Palette.model_validate(head["palette"])

    def propose(self, made: Made, round_number: int, author: str, key: str) -> Proposal:
        """Return the plan that comes of a draft, and what may be expected of it.

        What a person has made of it since the question `key` stands in for it. Raises ToolError
        for a draft that cannot be a plan.
        """
        edits = self._journal.events("plan_edit", since=round_number)
        edits = [edit for edit in edits if edit["question"] == key]
        if edits:
            made = Made.model_validate(edits[-1]["made"])
        plan = self.check(made.draft, round_number, author)
        plan = plan.model_copy(update={"warnings": (*plan.warnings, *made.warnings)})
        return Proposal(made, plan, self._expect(plan))

    def check(self, draft: PlanDraft, round_number: int, author: str) -> Plan:
        """Return the plan of a draft; raises ToolError with what is wrong, see `validate`."""
        reports = [r.report for r in self._before(round_number) if r.report]
        return validate(
            draft,
            round_number,
            self._session.settings.session.images_per_round,
            author,
            self._bench.target.vocabulary,
            self._bench.generator.count_tokens,
            self._bench.generator.max_tokens,
            slices=[score.key for score in reports[-1].slices] if reports else (),
            pull=self._session.settings.generator.pull,
            unpullable=self._unpullable(bool(reports)),
            adapters=self._adapters(),
            undrawn=self._undrawn,
        )

    def question(self, proposal: Proposal, key: str) -> Question:
        """Return the question whether a plan shall be made."""
        return Question(
            key=key,
            kind="plan",
            round=proposal.plan.round,
            plan=proposal.plan,
            expectation=proposal.expectation,
            nearest={
                name: say_prompt(own[0], NEAREST_CHARS)
                for name, own in self._hits(proposal.plan).items()
                if own
            },
            made=proposal.made,
        )

    def _tell_wishes(self, round_number: int, wanted: Sequence[Wish]) -> None:
        """Refuse a plan, once, whose author could not know of a wish given in this round."""
        opening = self._journal.get(f"opening/{round_number}") or {"facts": {}}
        known = set(opening["facts"].get("wishes", ()))
        for event in self._journal.events("told", since=round_number):
            known.update(event["wishes"])
        news = [wish for wish in wanted if wish.id not in known]
        if news:
            self._journal.append("told", round=round_number, wishes=[wish.id for wish in news])
            raise Rejected(
                "Since this round began the user has said: "
                f"{'; '.join(wish.say() for wish in news)}. Propose a plan that does so."
            )

    def _answer(self, question: Question) -> dict[str, Any]:
        """Return the journaled answer to a question; ends this run of the graph without one."""
        while (known := self._journal.get(question.key)) is None:
            interrupt(question.to_json())
        return known

    def _hits(self, plan: Plan) -> dict[str, list[Hit]]:
        """Return the prompts of the memory that are near to those of a plan."""
        texts = [prompt.text for prompt in plan.prompts]
        found = self._bench.memory.search_all(
            texts, n=N_RECALLED, kind="prompt", target=self._bench.target.name
        )
        return {prompt.id: own for prompt, own in zip(plan.prompts, found, strict=True)}

    def _expect(self, plan: Plan) -> Expectation:
        """Return what the memory lets a plan expect."""
        speed = self._seconds_per_image(self._session.rounds(LOOK_BACK))
        return expect(plan, self._hits(plan), speed, self._bench.target.vocabulary)

    def _adapters(self) -> list[str]:
        """Return the names of the generator's LoRA adapters, which prompts may weigh."""
        from tools.generators import adapter_name

        given = self._session.settings.generator.options.get("adapters")
        return sorted(adapter_name(path) for path in given) if isinstance(given, dict) else []

    def _undrawn(self, text: str) -> Sequence[str]:
        """Return the words of a text that the generator cannot draw."""
        from tools.generators import undrawn

        return undrawn(self._bench.generator, text)

    def _unpullable(self, is_trained: bool) -> str | None:
        """Return why no DSTM can pull the images of a round, or None; was one trained before?"""
        from tools.generators import can_be_pulled

        if not is_trained:
            return "no DSTM has been trained yet"
        if not can_be_pulled(self._bench.generator):
            return f"the generator {self._session.settings.generator.name!r} cannot be pulled"
        return None

    def _current(self) -> Round:
        current = self._session.round(self._round)
        assert current is not None  # it has begun
        return current

    def _before(self, number: int) -> list[Round]:
        """Return the rounds before one, as many as are looked back on."""
        rounds = self._session.rounds(LOOK_BACK + 1)
        return [r for r in rounds if r.number < number][-LOOK_BACK:]

    def _all_shards(self) -> list[Path]:
        """Return the shards of all rounds so far; a round's are looked up once."""
        for number in range(1, self._round + 1):
            if number not in self._shards:
                found = self._session.round(number)
                batch = found.batch if found else None
                self._shards[number] = [Path(s.file) for s in batch.shards] if batch else []
        return [path for number in sorted(self._shards) for path in self._shards[number]]

    def _learn(self, report: Report) -> None:
        """Settle the hypothesis and give credit, once."""
        current = self._current()
        reports = [r.report for r in self._before(self._round) if r.report]
        before = reports[-1] if reports else None
        assert current.plan is not None and current.batch is not None
        credits_ = credit(current.plan, current.batch, before, report)
        self._journal.append(
            "credits",
            key=f"credits/{self._round}",
            round=self._round,
            credits=[c.to_json() for c in credits_],
        )
        if current.plan.hypothesis is None:
            return
        verdict = settle(current.plan.hypothesis, before, report)
        self._journal.append(
            "verdict", key=f"verdict/{self._round}", round=self._round, verdict=verdict.to_json()
        )
        lesson = Lesson(
            id=f"{self._session.name}/{self._round}",
            round=self._round,
            text=f"{current.plan.why} {say_verdict(verdict)}"[:600],
            slice=verdict.hypothesis.slice,
            held=verdict.held,
        )
        self._journal.append("lesson", key=f"lesson/{self._round}", lesson=lesson.to_json())

    @contextmanager
    def _stage(self, name: str, number: int) -> Iterator[None]:
        """Time a stage, show it, and journal its seconds once."""
        started = self._bench.control.worked()
        with self._bench.stage(name, number):
            yield
        self._journal.append(
            "stage",
            key=f"stage/{number}/{name}",
            round=number,
            stage=name,
            seconds=round(self._bench.control.worked() - started, 3),
        )
