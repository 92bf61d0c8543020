"""The method `audit`: images whose labels the audit trusts most."""

from __future__ import annotations

from tools.selection import Candidates, Rows, lowest


class Audit:
    """See `tools.selection.Method`."""

    name = "audit"
    needs: tuple[str, ...] = ()

    def choose(self, candidates: Candidates, n: int, seed: int) -> Rows:
        """Return the rows of the highest weights."""
        return lowest(-candidates.audit, n, seed)


def build() -> Audit:
    """Build the method."""
    return Audit()
