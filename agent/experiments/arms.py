"""The arms of a comparison: what is compared with what, and how an arm is named.

NAME[:OPTION=VALUE]...            a planner with its own options
NAME:pull=entropy 0.03            guided: from the second round on the DSTM pulls the images
NAME:trial=12                     failures are judged as in a session, and slices tried first
shuffled NAME, one-shot NAME      the planner, shown false feedback, or that of the first round
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError

from agent import planners
from eval.compare import REFERENCE
from memory.errors import SettingsError, unknown
from memory.records import PullText, Record

CONTROLS = ("real", "augment", "oversample", "one_shot", "shuffled", "oracle")
OF_REAL_DATA = ("real", "augment", "oversample")
_PREFIXES: dict[str, Literal["shuffled", "first"]] = {"shuffled ": "shuffled", "one-shot ": "first"}
_OWN = ("pull", "trial")


class Arm(Record):
    """One planner as an arm.

    planner: as `planners.build` takes it, or the oracle; feedback: what it is shown, the reports as
    they are, with scores of other slices, or only those of the first round; trial: as
    `feedback.trial`, None where failures are not judged.
    """

    name: str
    planner: str
    feedback: Literal["true", "shuffled", "first"] = "true"
    pull: PullText | None = None
    trial: int | None = Field(None, ge=0)


def read_arm(name: str, pull: str | None = None, trial: int | None = None) -> Arm:
    """Return the arm of a name; pull, trial: where it says none.

    Raises SettingsError for a value that cannot be.
    """
    prefix = next((p for p in _PREFIXES if name.startswith(p)), "")
    parts = name.removeprefix(prefix).split(":")
    own = dict(p.split("=", 1) for p in parts if p.split("=", 1)[0] in _OWN and "=" in p)
    given = {"pull": pull, "trial": trial, **own}
    kept = [p for p in parts if "=" not in p or p.split("=", 1)[0] not in own]
    try:
        return Arm.model_validate(
            {
                "name": name,
                "planner": ":".join(kept),
                "feedback": _PREFIXES.get(prefix, "true"),
                **given,
            }
        )
    except ValidationError as error:
        problem = error.errors()[0]
        key = problem["loc"][0]
        raise SettingsError(
            f"The arm {name!r} cannot have {key}={problem['input']!r}: {problem['msg']}."
        ) from error


class Arms(Record):
    """What is compared: names of planners (with options), of controls, and brains."""

    planners: tuple[str, ...] = Field(min_length=1)
    controls: tuple[str, ...] = ()
    brains: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Return the arms' names, planners first.

        `shuffled` and `one_shot` are those of the first planner but uniform.
        """
        said = {"shuffled": f"shuffled {self._first}", "one_shot": f"one-shot {self._first}"}
        controls = [said.get(name, name) for name in self.controls]
        return list(dict.fromkeys([*self.planners, *controls, *self.brains]))

    def pairs(self) -> list[tuple[str, str]]:
        """Return the arms that are held against one another, the one that should win first.

        True against shuffled feedback, every round's against that of the first round, guided
        against unguided, with trials against without.
        """
        names = self.names()
        found = [
            (name.removeprefix(prefix), name)
            for prefix in _PREFIXES
            for name in names
            if name.startswith(prefix)
        ]
        if "one_shot" in self.planners and self._first != "one_shot":
            found.append((self._first, "one_shot"))
        plain = {
            name: ":".join(p for p in name.split(":") if p.split("=", 1)[0] not in _OWN)
            for name in self.planners
        }
        found += [(name, bare) for name, bare in plain.items() if bare != name and bare in names]
        return found

    def check(self, broken: float) -> None:
        """Raise SettingsError for unknown names, before anything is computed."""
        for name in self.planners:
            planners.build(read_arm(name).planner)
        for name in self.controls:
            if name not in CONTROLS:
                raise SettingsError(unknown("control", name, CONTROLS))
        if self.brains and broken:
            raise SettingsError(
                "Brains draw images of their own, which --broken does not reach. Compare them "
                "without it, or compare planners."
            )

    @property
    def _first(self) -> str:
        return next((p for p in self.planners if p != REFERENCE), self.planners[0])
