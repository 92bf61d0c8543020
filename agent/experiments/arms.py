"""The arms of a comparison, their names, and the pairs that are contrasted.

NAME[:OPTION=VALUE]...            a planner with options
NAME:pull=entropy 0.03            guided: from the second round on the DSTM guides the sampler
shuffled NAME, one-shot NAME      the planner with shuffled feedback, or with that of round 1 only
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError

from agent import planners
from eval.compare import REFERENCE
from memory.errors import SettingsError, unknown
from memory.records import PullText, Record

OF_REAL_DATA = ("real", "augment", "oversample", "logit_adjusted")
CONTROLS = (*OF_REAL_DATA, "one_shot", "shuffled", "oracle")
_PREFIXES: dict[str, Literal["shuffled", "first"]] = {"shuffled ": "shuffled", "one-shot ": "first"}


class Arm(Record):
    """An arm of a planner.

    Attributes:
        name: Name of the arm in tables.
        planner: Name for `planners.build`, or the oracle.
        feedback: Reports that the planner is shown: true, with scores shuffled over slices, or of
            the first round only.
        pull: As the setting `generator.pull`.
    """

    name: str
    planner: str
    feedback: Literal["true", "shuffled", "first"] = "true"
    pull: PullText | None = None


def read_arm(name: str, pull: str | None = None) -> Arm:
    """Parse the name of an arm.

    Args:
        name: In one of the forms above.
        pull: Pull of the arm if the name has none.

    Raises:
        SettingsError: A value is invalid.
    """
    prefix = next((p for p in _PREFIXES if name.startswith(p)), "")
    planner, own_pull = _split(name.removeprefix(prefix))
    values = {"planner": planner, "feedback": _PREFIXES.get(prefix, "true")}
    try:
        return Arm.model_validate({"name": name, **values, "pull": own_pull or pull})
    except ValidationError as error:
        problem = error.errors()[0]
        key = problem["loc"][0]
        raise SettingsError(
            f"The arm {name!r} cannot have {key}={problem['input']!r}: {problem['msg']}."
        ) from error


def _split(name: str) -> tuple[str, str]:
    """Return the planner of a name with its options, and the pull of the arm, "" for none."""
    planner, _, pull = name.partition(":pull=")
    pull, _, more = pull.partition(":")
    return ":".join(filter(None, (planner, more))), pull


class Arms(Record):
    """The arms of a comparison: names of planners (with options), controls and brains."""

    planners: tuple[str, ...] = Field(min_length=1)
    controls: tuple[str, ...] = ()
    brains: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Return the names of the arms, planners first.

        The controls `shuffled` and `one_shot` apply to the first planner other than uniform.
        """
        named = {"shuffled": f"shuffled {self._first}", "one_shot": f"one-shot {self._first}"}
        controls = [named.get(name, name) for name in self.controls]
        return list(dict.fromkeys([*self.planners, *controls, *self.brains]))

    def pairs(self) -> list[tuple[str, str]]:
        """Return the pairs of arms to contrast, the one that is expected to be better first.

        True against shuffled feedback, feedback of every round against that of the first round,
        guided against unguided.
        """
        names = self.names()
        pairs = [
            (name.removeprefix(prefix), name)
            for prefix in _PREFIXES
            for name in names
            if name.startswith(prefix)
        ]
        if "one_shot" in self.planners and self._first != "one_shot":
            pairs.append((self._first, "one_shot"))
        bare = {name: _split(name)[0] for name in self.planners}
        return pairs + [(name, b) for name, b in bare.items() if b != name and b in names]

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
