"""A person's wishes of a live session: taken down, held against one another, and taken back."""

from __future__ import annotations

from collections.abc import Sequence

from agent.chat.live import LiveSession
from agent.chat.overview import Overview
from agent.steering.arguments import unquoted
from agent.steering.preferences import Preference
from agent.steering.steer import drawable, possible
from eval.report.blocks import Block, Line
from memory.errors import ToolError, unknown
from memory.journal import Journal
from prompts.printable import one_line

# Wishes that hold at once; more than a person can keep in mind, and than a prompt should say.
MAX_WISHES = 30


class Wishing:
    """Writes the wishes of one live session into its journal; all raise ToolError with a reason."""

    def __init__(self, live: LiveSession, overview: Overview) -> None:
        self._live = live
        self._overview = overview

    def take_all(
        self, wishes: Sequence[Preference], text: str, replans: bool = False
    ) -> list[Block]:
        """Take down all wishes of a sentence that can be; of the others it is said why not."""
        blocks: list[Block] = []
        for meant in wishes:
            try:
                blocks += self.take(meant, text, replans)
            except ToolError as error:
                blocks.append(Line(f"Not taken: {one_line(str(error))}", "error"))
        return blocks

    def take(self, meant: Preference, text: str, replans: bool = False) -> list[Block]:
        """Take a wish down, if it leaves anything to draw, and repeat it."""
        held = self._overview.wishes()
        if len(held) >= MAX_WISHES:
            raise ToolError(f"{MAX_WISHES} wishes hold already. Take one back with /forget ID.")
        number = 1 + len(self._journal.events("wish", undone=True))
        question = self._live.question
        wish = meant.model_copy(
            update={
                "id": f"w{number}",
                "text": text[:300],
                "since": self._overview.next_plan(),
            }
        )
        same = [w for w in held if w.attributes == wish.attributes]
        again = [w for w in same if w.kind == wish.kind and w.share == wish.share]
        if wish.kind == "note":
            again = [w for w in again if w.text == wish.text]
        if again and wish.kind not in ("more", "fewer"):
            return [Line(f"That holds already: {again[0].id} {again[0].say()}.")]
        replaced = [w for w in same if w.kind == wish.kind and wish.has_share]
        held = [w for w in held if w not in replaced]
        if problem := self._against(wish, held):
            raise ToolError(problem)
        self._journal.append("wish", key=f"wish/{wish.id}", wish=wish.to_json())
        for old in replaced:
            self._journal.append("forget", key=f"forget/{old.id}", id=old.id)
        said = f"Understood: {wish.say()} ({wish.id}), from the next plan on."
        if question is not None and question.kind == "plan" and not replans:
            said += " The one that waits was made before; /reject has it made again."
        blocks: list[Block] = [Line(said, "good")]
        if replaced:
            blocks.append(Line(f"It takes the place of {', '.join(w.id for w in replaced)}."))
        if other := [w for w in same if w.kind != wish.kind]:
            names = " and ".join(f"{w.id} ({w.say()})" for w in other)
            blocks.append(Line(f"Beside it {names} holds too; /forget takes it back.", "warning"))
        if wish.is_constraint:
            seen, now = self._overview, [*held, wish]
            idle = [
                w.id
                for w in held
                if w.attributes
                and not w.is_constraint
                and not drawable(w, now, seen.palette, self._overview.vocabulary)
            ]
            if idle:
                said = f"Beside it nothing comes of {', '.join(idle)}; /forget takes it back."
                blocks.append(Line(said, "warning"))
        return blocks

    def _against(self, wish: Preference, held: Sequence[Preference]) -> str:
        """Say what keeps a wish from being followed; "" where nothing does."""
        palette = self._overview.palette
        others = [f"{w.say()} ({w.id})" for w in held if w.is_constraint]
        beside = f" beside {'; '.join(others)}" if others else ""
        if wish.is_constraint:
            if possible([*held, wish], palette, self._overview.vocabulary):
                return ""
            return f"{wish.say()}{beside} leaves nothing to draw. /forget ID takes a wish back."
        if wish.has_share and wish.min_share:
            apart = [
                w
                for w in held
                if w.has_share
                and w.min_share
                and any(not {*v} & {*wish.attributes.get(k, v)} for k, v in w.attributes.items())
            ]
            total = wish.min_share + sum(w.min_share or 0 for w in apart)
            if total > 1.0001:
                names = ", ".join(f"{w.id} ({w.say()})" for w in apart)
                return f"with {names} that is {total:.0%} of the images. /forget ID takes one back."
        if wish.kind in ("fewer", "at_most", "note"):
            return ""
        if drawable(wish, held, palette, self._overview.vocabulary):
            return ""
        return f"{wish.say()}{beside}: nothing of it can be drawn. /forget ID takes a wish back."

    def forget(self, text: str) -> list[Block]:
        """Take back wishes and additions: of an id, about words, or all."""
        known = self.ids()
        text = unquoted(text)
        found = [text] if text in known else known if text == "all" else self._about(text)
        if not found:
            if not known:
                raise ToolError("No wish holds that could be taken back.")
            raise ToolError(unknown("wish", one_line(text, 40), known))
        for name in found:
            self._journal.append("forget", key=f"forget/{name}", id=name)
        are = "is" if len(found) == 1 else "are"
        return [Line(f"{', '.join(found)} {are} forgotten.", "good")]

    def _about(self, text: str) -> list[str]:
        """Return the ids of the wishes about values that a text names."""
        named = self._overview.lexicon.read(text)[0]
        return [
            w.id
            for w in self._overview.wishes()
            if named and all({*v} & {*w.attributes.get(k, ())} for k, v in named.items())
        ]

    def back(self) -> list[Block]:
        """Take the last wish or addition back that no plan has followed yet."""
        steered = self._journal.events("steered")
        followed = {shift["wish"] for event in steered for shift in event["shifts"]}
        names = [e[e["kind"]]["id"] for e in self._journal.events("wish", "addition")]
        own = [name for name in names if name in self.ids() and name not in followed]
        if own:
            return self.forget(own[-1])
        plan = self._overview.last_plan()
        if plan is None:
            return [Line("There is nothing that could be taken back.")]
        said = f"No wish is newer than the plan of round {plan.round}; /undo takes that plan back"
        return [Line(f"{said}, with all that came of it.")]

    def ids(self) -> list[str]:
        """Return the ids of what a person can take back."""
        seen = self._overview
        return [w.id for w in seen.wishes()] + [a.id for a in seen.additions()]

    @property
    def _journal(self) -> Journal:
        return self._live.session.journal
