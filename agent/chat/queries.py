"""Read-only chat commands: status, plans, failures, pictures and budget of a live session."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from agent.autonomous.status import budget_rows, read_delivery
from agent.chat import pictures
from agent.chat.answers import (
    class_lines,
    data_lines,
    expected,
    history_lines,
    iou_by_class,
    mix_lines,
    plan_blocks,
    plan_summary,
    prompt_lines,
    slice_lines,
    trend_lines,
    worth_lines,
)
from agent.chat.commands import COMMANDS
from agent.chat.live import AT_REST
from agent.chat.overview import Overview, say_progress
from agent.chat.preferences import PreferenceStore
from agent.loop.approval import ApprovalRequest
from agent.loop.schedule import round_sizes
from agent.steering.arguments import unquoted
from agent.steering.preferences import Preference, say_effects
from eval.report.blocks import (
    Block,
    Line,
    Picture,
    Table,
    change_tables,
    failure_lines,
    failure_table,
    hit_table,
    plain_text,
    plan_lines,
    plan_table,
    schedule_text,
    score_tables,
    values,
)
from eval.report.delivery import baseline_lines, delivery_blocks
from eval.report.text import estimate_text, plural, words
from memory.errors import DataError, ToolError, unknown
from memory.events import ChatCallEvent, EndedEvent, ModelCallEvent, RoundDoneEvent
from memory.records import Plan, PromptSpec
from prompts.printable import one_line
from tools.targets import SPLITS

# Slices, worst first, in the facts for a language model.
_N_SLICES = 12
_PROMPT_ID = re.compile(r"(r\d{3}p\d{2,3})(?:-(\d{4}))?")


class Queries(Overview):
    """Read-only commands on one live session.

    Methods take the arguments of their command as text, and raise ToolError if it names nothing.
    """

    def status(self, text: str = "") -> list[Block]:
        """Show the progress of the session, its scores, and preferences with their effects."""
        session, now = self._live.session, self._live.progress
        settings = session.settings
        done = session.n_done()
        blocks: list[Block] = [
            Line(f"Session {session.name} ({settings.data}, brain {settings.brain})", "bold"),
            Line(f"{done} of {settings.session.rounds} rounds done; {say_progress(self._live)}"),
            *score_tables(self.rounds()),
            *trend_lines(self.rounds()),
            *preference_tables(self.preferences),
        ]
        blocks += [Line(f"Schedule: {text}.")] if (text := self._scheduled()) else []
        if now.state == "waiting":
            text = "The session waits for you: /plan, /approve, /edit, /reject."
            blocks.append(Line(text, "bold"))
        ended = session.journal.events(EndedEvent) if now.state in AT_REST else ()
        blocks += [Line(f"It ended, as {event.message}.") for event in ended[-1:]]
        if now.state in ("idle", "paused", "failed"):
            blocks.append(Line("/continue resumes the session.", "bold"))
        return blocks

    def facts(self) -> list[str]:
        """Return the records of the session for a language model as distinct lines of text."""
        past, report = self.rounds(), self.last_report()
        blocks = [*self.status(), *self.worth(), *self.baseline(), *self.data(), *self.synthetic()]
        blocks += [*self.budget(), *self.classes(), *history_lines(past), *self.plan(), *self.why()]
        worst = sorted(report.slices, key=lambda s: s.accuracy.value)[:_N_SLICES] if report else ()
        for score in worst:
            blocks += self.about({key: (value,) for key, value in score.attributes.items()})
        classes = iou_by_class(report) if report else {}
        for name in sorted(classes, key=lambda name: classes[name].value)[:_N_SLICES]:
            blocks += self.about({"iou": (name,)})
        failures = next((r.failures for r in reversed(past) if r.failures), ())
        blocks += failure_lines(failures)
        return list(dict.fromkeys(plain_text(blocks).splitlines()))

    def failures(self, text: str = "") -> list[Block]:
        """Show the failures on real photographs, of one slice with pictures."""
        inspected = [r for r in self.rounds() if r.is_inspected]
        number, text = _round_of(text)
        inspected = [r for r in inspected if number in (None, r.number)]
        if not inspected:
            when = "yet" if number is None else f"of round {number}"
            return [Line(f"No failures are known {when}; the report of a round finds them.")]
        last = inspected[-1]
        if not text and not last.failures:
            return [Line(f"No failures were found after round {last.number}.")]
        if not text:
            return [failure_table(last.failures, last.number), Line("/show SLICE shows pictures.")]
        if named := self._discovered(unquoted(text)):
            return named
        if pixels := self.pixel_classes_in(text):
            return self.about(pixels)
        preference = self.slice_of(text)
        failures = [f for f in last.failures if f.slice == preference.name]
        blocks: list[Block] = [failure_table(failures, last.number)] if failures else []
        if not failures:
            report = self.last_report()
            slices = report.slices if report else ()
            accuracy = [estimate_text(s.accuracy) for s in slices if s.key == preference.name]
            text = f"accuracy {accuracy[0]}" if accuracy else "its accuracy is not measured"
            blocks = [Line(f"{preference.name} is not among the failures: {text}")]
        with suppress(DataError):  # no stored predictions
            picture = pictures.of_slice(
                self._live.session, self._live.components.target, preference
            )
            blocks += [picture] if picture else []
        return blocks

    def show(self, text: str = "") -> list[Block]:
        """Show pictures of a prompt, an image, a photograph, a slice, or the worst failure."""
        session, target = self._live.session, self._live.components.target
        rounds = self.rounds()
        text = unquoted(text)
        if not text:
            measured = [r for r in rounds if r.failures]
            if measured:
                return self.show(measured[-1].failures[0].slice)
            plan = self.last_plan()
            latest = plan and pictures.of_prompts(session, target, plan.prompts, "latest", None)
            return [latest] if latest else [Line("There are no pictures yet.")]
        prompts = [p for r in rounds if r.plan for p in r.plan.prompts]
        if match := _PROMPT_ID.fullmatch(text):
            prompt = next((p for p in prompts if p.id == match[1]), None)
            if prompt is None:
                raise ToolError(unknown("prompt", match[1], [p.id for p in prompts][-30:]))
            index = int(match[2]) if match[2] else None
            picture = pictures.of_prompts(session, target, [prompt], text, index)
            if picture is None:
                return [Line(f"{text} has no images yet: {prompt.text}")]
            return [Line(f"{prompt.id}: {prompt.text}, {prompt.class_name}"), picture]
        if picture := pictures.of_photograph(session, target, text):
            return [picture]
        if blocks := self._discovered(text):
            return blocks
        preference = self.slice_of(text)
        matching = [p for p in prompts if preference.matches(p, self.vocabulary)]
        real = pictures.of_slice(session, target, preference)
        generated = pictures.of_prompts(session, target, matching, preference.name, None)
        blocks = [block for block in (real, generated) if block]
        return blocks or [Line(f"There are no pictures of {preference.name}.")]

    def _discovered(self, name: str) -> list[Block]:
        """Show the latest cluster or direction of a name, e.g. "direction 8ffc3b"; [] for none."""
        name = name.partition(":")[0].lower()
        for past in reversed(self.rounds()):
            for failure in past.failures:
                if failure.kind != "slice" and failure.slice == name:
                    blocks: list[Block] = [failure_table([failure], past.number)]
                    if failure.picture:
                        path = self._live.session.folder / failure.picture
                        blocks.append(Picture(path, f"{name}, what the model gets wrong"))
                    return blocks
        return []

    def plan(self, text: str = "") -> list[Block]:
        """Show the pending or last plan; "all": every prompt; a slice: its score and share."""
        question, preferences = self._live.question, self.preferences.active()
        number, text = _round_of(text)
        if number is not None:
            return self.summary(None, number)
        if text and text != "all":
            return self.about(self.slice_of(text).attributes)
        request = question if question is not None and question.kind == "plan" else None
        if request is not None:
            return plan_blocks(request, preferences) if text else self.summary(request)
        plan = self.last_plan()
        if plan is None:
            return [Line("There is no plan yet.")]
        if text:
            return [plan_table(plan), *plan_lines(plan)]
        is_done = any(r.report for r in self.rounds() if r.number == plan.round)
        done = f"No plan waits: that of round {plan.round} is carried out. /worth says what next."
        return ([Line(done)] if is_done else []) + self.summary(None)

    def summary(self, request: ApprovalRequest | None, number: int | None = None) -> list[Block]:
        """Show the requested plan, that of a round, or the last one in at most 12 lines."""
        plans = [r.plan for r in self.rounds() if r.plan]
        plan = request.plan if request and request.plan else self._plan_of(number)
        before = [p for p in plans if p.round < plan.round]
        preferences = self.preferences.active()
        return plan_summary(
            plan, before[-1] if before else None, request, preferences, self.vocabulary
        )

    def why(self, text: str = "") -> list[Block]:
        """Show the reasons for a plan, one of its prompts, or the images of a slice."""
        question = self._live.question
        number, text = _round_of(text)
        plan = question.plan if question and question.plan else self.last_plan()
        plan = plan if number is None else self._plan_of(number)
        if plan is None:
            return [Line("Nothing is decided yet.")]
        if text and self.lexicon.read(text)[0]:
            return self._why_slice(plan, self.slice_of(text))
        if text:
            prompt = self._prompt(plan, text)
            text = f"{one_line(prompt.text)} ({values(prompt.attributes)})"
            return [
                Line(f"{prompt.id}: {prompt.count} images of {text}"),
                Line(f"Because: {one_line(prompt.why) or 'no reason given'}"),
            ]
        blocks: list[Block] = [Line(f"Plan of round {plan.round}", "bold"), *plan_lines(plan)]
        blocks.append(_reasons(plan.prompts))
        reports = [r.report for r in self.rounds() if r.number < plan.round and r.report]
        if reports and reports[-1].worst_slice:
            blocks.append(Line(f"The worst slice before it was {reports[-1].worst_slice}."))
        return blocks

    def _plan_of(self, number: int | None) -> Plan:
        """Return the plan of a round, None: the last plan; raises ToolError if there is none."""
        plans = {r.number: r.plan for r in self.rounds() if r.plan}
        if number is not None and number not in plans:
            raise ToolError(f"Round {number} has no plan; rounds with one: {[*plans]}.")
        return plans[max(plans) if number is None else number]

    def _why_slice(self, plan: Plan, preference: Preference) -> list[Block]:
        """Show the reasons for the images of a slice."""
        matching = [p for p in plan.prompts if preference.matches(p, self.vocabulary)]
        blocks = self.about(preference.attributes)
        return [*blocks, _reasons(matching)] if matching else blocks

    def about(self, named: dict[str, tuple[str, ...]]) -> list[Block]:
        """Show the scores of named slices, and their share of the pending or last plan."""
        question = self._live.question
        plan = question.plan if question and question.plan else self.last_plan()
        return slice_lines(named, self.rounds(), plan, self.vocabulary)

    def baseline(self, text: str = "") -> list[Block]:
        """Show whether images help: round 0 against the latest round, and the sealed test."""
        session, past = self._live.session, self.rounds()
        delivery = read_delivery(session.folder)
        n_known = max((r.number for r in past if r.report), default=0)
        is_last = delivery is not None and delivery.compared <= n_known
        blocks = [*baseline_lines(past), *self.synthetic()]
        return blocks + (delivery_blocks(delivery) if delivery and is_last else [])

    def worth(self, text: str = "") -> list[Block]:
        """Show whether another round is worth it: trend, cost, expectation of the pending plan."""
        session, question = self._live.session, self._live.question
        blocks = worth_lines(self.rounds(), session.settings, session.n_done())
        if question and question.expectation:
            blocks.append(Line(f"The plan that waits: {expected(question.expectation)}"))
        return blocks

    def classes(self, text: str = "") -> list[Block]:
        """Show the figures of each class."""
        return class_lines(self.rounds(), self.vocabulary)

    def prompts(self, text: str = "") -> list[Block]:
        """Show the kept rate and credit of each prompt, worst first; text "best": best first."""
        audited = self._live.session.settings.audit.method != "none"
        return prompt_lines(self.rounds(), audited, text == "best")

    def files(self, text: str = "") -> list[Block]:
        """Show where the files of the session are, and the commands that export them."""
        folder, name = self._live.session.folder, self._live.session.name
        places = {
            "report.html": "report",
            "best": "best model, with predict.py",
            "dataset": "images",
        }
        lines = [
            f"{what}: {folder / place}"
            for place, what in places.items()
            if (folder / place).exists()
        ]
        command = f"shaping export {name} --format imagefolder"
        return [
            *map(Line, lines or [f"Files: {folder}"]),
            Line(f"In a shell, to write the images as a data set: {command}"),
        ]

    def data(self, text: str = "") -> list[Block]:
        """Show the number of photographs, of images made, and of images kept by the audit."""
        session = self._live.session
        delivery = read_delivery(session.folder)
        n_sealed = delivery.changes[0].difference.n if delivery else None
        target = self._live.components.target
        sizes = ", ".join(f"{name} {len(target.split(name))}" for name in SPLITS)
        source = f"Data: {session.settings.data}, target {session.settings.target.name}."
        photographs = Line(f"{source} Photographs: {sizes}.")
        return [photographs, *data_lines(self.rounds(), session.settings, n_sealed)]

    def synthetic(self) -> list[Block]:
        """Show the training data and the share of generated images."""
        preferences = self.preferences.active()
        return mix_lines(self._live.session.settings.dstm, self.rounds(), preferences)

    def changes(self, text: str = "") -> list[Block]:
        """Show the changes between two rounds, and the effects of preferences.

        Args:
            text: One or two round numbers; by default the first and the last evaluated round.
        """
        past = [r for r in self.rounds() if r.report and r.report.metrics]
        if len(past) < 2:
            text = f"Rounds measured: {len(past)}; changes show after the second."
            return [Line(text)]
        named = [next((r for r in past if str(r.number) == word), None) for word in text.split()]
        first, last = (*(named or past[:1]), past[-1])[:2]
        if not first or not last or first.number >= last.number:
            numbers = f"{past[0].number} to {past[-2].number}"
            raise ToolError(f"Say a round before the last one: {numbers}.")
        blocks = change_tables(first, last)
        return [*blocks, *trend_lines([r for r in past if r.number <= last.number])] + [
            Line(f"Preference {line}") for line in say_effects(self.preferences.effects())
        ]

    def memory(self, text: str) -> list[Block]:
        """Search the memory of all sessions, by default for the worst slice."""
        report = self.last_report()
        text = unquoted(text) or f"what helped on {report.worst_slice if report else 'all'}"
        components = self._live.components
        hits = components.memory.search(text[:300], target=components.target.name)
        return [hit_table(hits) if hits else Line("Nothing is remembered yet.")]

    def budget(self) -> list[Block]:
        """Show the spent and remaining budget."""
        session = self._live.session
        rows = budget_rows(
            session.settings,
            session.journal.events(RoundDoneEvent, ModelCallEvent, ChatCallEvent),
            self.rounds(),
            session.control.worked_s,
            session.control.gpu_s,
        )
        settings = session.settings.session
        n_left = max(0, settings.rounds - session.n_done())
        planned, size = self.schedule(), plural(settings.images_per_round, "image")
        sizes = round_sizes(session.settings, planned, session.n_done() + 1)
        each = f" of {size}" if not planned else f", {self._scheduled()},"
        images = f"{plural(n_left, 'round')}{each} left: {sum(sizes)} images."
        due = ", ".join(f"{words(key).lower()} {n:g}" for key, n in self._live.due_budget.items())
        later = [Line(f"From the next round on: {due}.")] if due else []
        table = Table(["budget", "spent and left"], rows)
        return [table, Line(images), *self._time_left(), *later]

    def _scheduled(self) -> str:
        """Return the schedule of future rounds as text; "": there is none."""
        planned = self.schedule()
        return (
            f"from round {min(planned)} on {schedule_text([*planned.values()])}" if planned else ""
        )

    def help(self, text: str = "") -> list[Block]:
        """List the commands."""
        rows = [[f"/{name} {c.arguments}".strip(), c.help] for name, c in COMMANDS.items()]
        slices = self.slices() or ["..."]
        first, second = slices[0], slices[-1]
        return [
            Table(["command", "what it does"], rows),
            Line(
                f'Or plain words: "more {first}, no {second}", "20% {first}", "where does it '
                'fail?", "show me ...", "why?", "what has changed?", "how long will it take?", "2 '
                'more rounds", "run until the score is 0.7", "stop after this round", "undo". '
                "Ctrl-D or /quit leaves."
            ),
        ]

    def _time_left(self) -> list[Block]:
        """Estimate the time of the remaining rounds from that of the last one."""
        session, past = self._live.session, self.rounds()
        done = [r for r in past if r.report and r.training]
        n_left = session.settings.session.rounds - session.n_done()
        if not done or n_left <= 0:
            return []
        minutes = n_left * sum(done[-1].seconds.values()) / 60
        rounds = f"{n_left} round{'s' if n_left > 1 else ''}"
        return [Line(f"About {minutes:.1f} min for {rounds} more, by the time of the last one.")]

    def _prompt(self, plan: Plan, text: str) -> PromptSpec:
        """Return a prompt by its row in a plan, or by its id from any round."""
        if text.isdecimal() and 1 <= int(text[:6]) <= len(plan.prompts):
            return plan.prompts[int(text[:6]) - 1]
        specs = {p.id: p for r in self.rounds() if r.plan for p in r.plan.prompts}
        specs |= {p.id: p for p in plan.prompts}
        if text not in specs:
            rows = f"rows are 1 to {len(plan.prompts)}"
            raise ToolError(f"{one_line(text, 40)!r} is no row of the plan, nor an id; {rows}.")
        return specs[text]


def _round_of(text: str) -> tuple[int | None, str]:
    """Return N and "" for the text "round N", otherwise None and the text."""
    match = re.fullmatch(r"round (\d{1,6})", text.strip())
    return (int(match[1]), "") if match else (None, text)


def preference_tables(store: PreferenceStore) -> list[Block]:
    """Return a table of active preferences with effects and open additions; [] for none."""
    measured = {preference.id: effect.say() for preference, effect in store.effects()}
    rows = [
        [p.id, p.say(), f"round {p.since}", measured.get(p.id, "not measured yet")]
        for p in store.active()
    ]
    for addition in store.additions():
        prompt = addition.prompt
        text = one_line(prompt.text, 80) or values(prompt.attributes)
        rows.append([addition.id, f"add {prompt.count} of {text}", "next plan", ""])
    title = "Preferences (/forget ID removes one)"
    return [Table(["id", "preference", "since", "effect"], rows, title)] if rows else []


def _reasons(prompts: Sequence[PromptSpec]) -> Table:
    n_images: Counter[str] = Counter()
    for prompt in prompts:
        n_images[one_line(prompt.why) or "no reason given"] += prompt.count
    rows = [[str(n), reason] for reason, n in n_images.most_common()]
    return Table(["images", "because"], rows, right=("images",))
