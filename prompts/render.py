"""Prompt files, rendered strictly: a missing value and an unused one are both errors."""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment, StrictUndefined, meta


def render(name: str, **values: object) -> str:
    """Render `prompts/NAME.md` with Jinja; raises TypeError unless it uses exactly `values`."""
    source = resources.files("prompts").joinpath(f"{name}.md").read_text("utf-8")
    # Prompts are plain text for a model, never HTML, so nothing is escaped.
    environment = Environment(undefined=StrictUndefined, autoescape=False)
    used = meta.find_undeclared_variables(environment.parse(source))
    if used != set(values):
        raise TypeError(
            f"prompt {name}.md: unused values {sorted(set(values) - used)}, "
            f"missing values {sorted(used - set(values))}"
        )
    return environment.from_string(source).render(**values).strip()
