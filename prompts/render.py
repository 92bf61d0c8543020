"""Strict rendering of prompt files: missing and unused values are errors."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from jinja2 import StrictUndefined, Template, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Characters that open control tokens of chat templates, such as <|im_end|> or [INST].
_OPENERS = "<["


def render(name: str, **values: object) -> str:
    """Render `prompts/NAME.md`, see `render_text`."""
    return render_text(source(name), **values)


def render_text(text: str, /, **values: object) -> str:
    """Render the text of a prompt file with Jinja.

    Raises:
        TypeError: A value is missing or unused.
    """
    template, used = _template(text)
    if used != set(values):
        raise TypeError(
            f"prompt {text[:40]!r}...: unused values {sorted(set(values) - used)}, "
            f"missing values {sorted(used - set(values))}"
        )
    return template.render(**values).strip()


def source(name: str) -> str:
    """Return the text of `prompts/NAME.md`."""
    return resources.files("prompts").joinpath(f"{name}.md").read_text("utf-8")


@cache
def _template(text: str) -> tuple[Template, set[str]]:
    """Return the template of a text and the names of the values that it uses."""
    # Prompts are plain text for a model, not HTML, so nothing is escaped. Sandboxed, because a
    # replay renders the templates of a journal, which may come from another author.
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    used = meta.find_undeclared_variables(environment.parse(text))
    return environment.from_string(text), used


def quote(text: str, limit: int) -> str:
    r"""Return untrusted text as a JSON string of at most `limit` characters.

    limit: at least 5, quotes included; a longer text ends in "...". Quotes, line breaks, control
    and invisible characters, lone surrogates, "<" and "[" are escaped (\u003c), so the text can
    neither end its quotes nor spell a control token of a chat template. `json.loads` inverts it.
    """
    pieces: list[str] = []
    length = 2
    for character in text:
        plain = character.isprintable() and character not in f'"\\{_OPENERS}'
        piece = character if plain else _escape(character)
        pieces.append(piece)
        length += len(piece)
        if length > limit:
            while length > limit - 3:
                length -= len(pieces.pop())
            pieces.append("...")
            break
    return f'"{"".join(pieces)}"'


def _escape(character: str) -> str:
    return f"\\u{ord(character):04x}" if character in _OPENERS else json.dumps(character)[1:-1]
