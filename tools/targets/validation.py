"""Problems of a data set, collected and reported in one message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import yaml

from memory.errors import DataError, some
from prompts.render import quote

_SHOWN = 3
_NAME = 60

_Names = defaultdict[str, list[str]]


@cache
def catalog() -> Mapping[str, str]:
    """Return the texts of problems.yaml by code."""
    file = resources.files("tools.targets").joinpath("problems.yaml")
    texts: Mapping[str, str] = yaml.safe_load(file.read_text("utf-8"))
    return texts


class _Values(dict[str, object]):
    """Values of a text; missing keys are looked up as texts of the catalog."""

    def __missing__(self, code: str) -> str:
        return text(code)


def text(code: str, **values: object) -> str:
    """Return a text of problems.yaml with values filled in, without its code."""
    return catalog()[code].format_map(_Values(values)).replace("\n", " ")


def refusal(code: str, **values: object) -> DataError:
    """Return the error for data that cannot be read, which begins with its code."""
    return DataError(f"[{code}] {text(code, **values)}")


@dataclass
class ValidationReport:
    """Collection of errors, which stop the reading, and warnings about data left out or adapted.

    Problems are given by their code in problems.yaml, with values for the text.

    Attributes:
        errors: Names of affected items (mostly files), by the text of the problem.
        warnings: The same for warnings.
    """

    errors: _Names = field(default_factory=lambda: defaultdict(list))
    warnings: _Names = field(default_factory=lambda: defaultdict(list))

    def error(self, code: str, *names: str, **values: object) -> None:
        """Add an error, or add names to an existing one."""
        self.errors[f"{text(code, **values)} [{code}]"] += names

    def warn(self, code: str, *names: str, **values: object) -> None:
        """Add a warning, or add names to an existing one."""
        self.warnings[f"{text(code, **values)} [{code}]"] += names

    def add(self, other: ValidationReport) -> None:
        """Add the problems of another report."""
        for mine, theirs in ((self.errors, other.errors), (self.warnings, other.warnings)):
            for problem, names in theirs.items():
                mine[problem] += names

    def raise_errors(self, data: str) -> None:
        """Raise DataError with all errors, followed by the warnings, if there are errors."""
        if self.errors:
            lines = [*_summary(self.errors), *(f"(also) {line}" for line in self.summary())]
            raise DataError("\n- ".join([f"The data {data} cannot be used:", *lines]))

    def summary(self) -> list[str]:
        """Return a line per warning, with its count and a few names."""
        return _summary(self.warnings)

    def listing(self) -> str:
        """Return all warnings with all names, one per line."""
        return "".join(
            f"{problem} ({len(names)}):\n" + "".join(f"  {name}\n" for name in sorted(names))
            if names
            else f"{problem}\n"
            for problem, names in self.warnings.items()
        )


def _summary(problems: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        f"{problem} ({len(names)}): "
        f"{some([quote(name, _NAME) for name in sorted(set(names))], _SHOWN)}"
        if names
        else problem
        for problem, names in problems.items()
    ]
