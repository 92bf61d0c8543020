"""README and docs say what is true: commands and options exist, links resolve, examples run."""

from __future__ import annotations

import csv
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from agent.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def code_lines(page: Path) -> Iterator[str]:
    """Yield the lines of code of a page, continued lines joined, without comments."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith("    "):
            yield from re.split(r"&&|;|\|(?!\w)|, then ", line.split("  #")[0].strip())
    yield from re.findall(r"`((?:[A-Z_]+=\S+ )?(?:shaping|python -m) [^`]+)`", text)


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that words call, and the words that follow its name."""
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def shaping_calls() -> list[tuple[str, str]]:
    calls = []
    for page in PAGES:
        for line in code_lines(page):
            line = re.sub(r"^([A-Z_]+=\S+ )+", "", line.strip())
            if line.startswith("shaping ") and "COMMAND" not in line:
                calls.append((page.name, line))
    return calls


@pytest.mark.parametrize(("page", "line"), shaping_calls())
def test_commands_and_options_exist(page: str, line: str) -> None:
    try:
        words = shlex.split(re.sub(r"[\[\]|]", " ", line), comments=True)[1:]
    except ValueError:
        pytest.skip("a quotation over several lines")
    command, rest = command_of([word.rstrip(",") for word in words])
    assert not hasattr(command, "commands") or not rest or rest[0].startswith("-"), line
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    for word in rest:
        if re.fullmatch(r"--?[a-z][a-z-]*", word):
            assert word in known, f"{word} in {page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_that_pages_run_exist(page: Path) -> None:
    for module in re.findall(r"python -m (agent[\w.]*\w)", page.read_text("utf-8")):
        if module.endswith("NAME"):
            continue
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_resolve(page: Path) -> None:
    for target in _LINK.findall(page.read_text("utf-8")):
        generated = target.endswith(("reference/cli.md", "reference/settings.md"))
        if "://" not in target and not generated:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [p for p in PAGES if "<!-- table: " in p.read_text("utf-8")])
def test_tables_are_of_columns_that_their_files_have(page: Path) -> None:
    for file, names in re.findall(r"<!-- table: (\S+) ?([^>]*?) -->", page.read_text("utf-8")):
        with (page.parent / file).open(encoding="utf-8", newline="") as lines:
            heads = next(csv.reader(lines))
        assert {name for name in names.split(", ") if name} <= {*heads}


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= 8192


def test_the_planner_of_contributing_runs() -> None:
    from agent.loop.validation import PlanRules, validate
    from agent.planners import AttributeCombination, AttributeDistribution, Observation
    from prompts.vocabulary import load_vocabulary

    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.DOTALL
    )
    names: dict[str, Any] = {}
    exec(compile(example, "CONTRIBUTING.md", "exec"), names)
    vocabulary = load_vocabulary("elpv")
    rows = [
        AttributeCombination(attributes={"severity": severity}, class_name=name, n=n)
        for severity, name, n in (("functional", "functional", 30), ("defective", "defective", 4))
    ]
    observation = Observation(round=1, n_images=20, images_per_prompt=8, seed=1)
    draft = names["build"]().plan(observation, AttributeDistribution(rows=tuple(rows)), vocabulary)
    plan = validate(draft, 1, "test", PlanRules(vocabulary, 20, lambda text: 1, 64))
    assert {prompt.class_name for prompt in plan.prompts} == {"defective"}
