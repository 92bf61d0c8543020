"""Rules of the code that no linter checks: sizes, private modules, cycles, words."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    p
    for top in ("agent", "tools", "eval", "memory", "prompts")
    for p in ROOT.glob(f"{top}/**/*.py")
)
WORDS = re.compile(r"told|untold|heir|said")
# Words of the journal's keys, which stay on disk.
ON_DISK = {"memory/events"}


def module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module(path): path for path in FILES}


def imports(path: Path, lazy: bool = True) -> set[str]:
    """Return the modules of this repository that a file imports, type checking apart."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if not lazy and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text("utf-8")))
    return found & MODULES.keys()


def test_no_file_is_too_long_to_read() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in FILES}
    assert {name: n for name, n in lengths.items() if n > 450} == {}


def test_nobody_imports_a_private_module_of_another_package() -> None:
    foreign = []
    for name, path in MODULES.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for other in imports(path):
            home, _, last = other.rpartition(".")
            if last.startswith("_") and not last.startswith("__") and home != package:
                foreign.append(f"{name} -> {other}")
    assert foreign == []


def test_no_import_goes_round_in_a_circle() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for name, path in MODULES.items():
        graph[name] = {other for other in imports(path, lazy=False) if other != name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_identifiers_are_words_of_the_trade(path: Path) -> None:
    if str(path.parent.relative_to(ROOT)) in ON_DISK:
        return
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        for field in ("id", "attr", "arg", "name"):
            value = getattr(node, field, None)
            names |= {value} if isinstance(value, str) else set()
    assert {name for name in names if WORDS.fullmatch(name)} == set()
