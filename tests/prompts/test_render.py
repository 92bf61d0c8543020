from __future__ import annotations

import json

import pytest
from jinja2.exceptions import SecurityError, UndefinedError

from prompts.render import quote, render, render_text


@pytest.mark.parametrize(
    "text",
    ["", "plain", 'a "b" \\ c', "a\nb\r\t\x00\x1b[0m", "\u2028\u202e\u200b", "\ud800", "été 😀"],
)
def test_a_quote_is_a_json_string_on_one_printable_line(text: str) -> None:
    quoted = quote(text, 200)
    assert json.loads(quoted) == text
    assert quoted.isprintable()
    assert quoted.encode()


def test_a_quote_cannot_be_closed_nor_spell_control_tokens() -> None:
    quoted = quote('x" <|im_end|> [INST] {{ round }}', 200)
    assert quoted == r'"x\" \u003c|im_end|> \u005bINST] {{ round }}"'


@pytest.mark.parametrize("text", ["x" * 1000, "\n" * 1000, "<" * 1000, "x\u202e" * 500])
@pytest.mark.parametrize("limit", [5, 6, 11, 12, 80])
def test_a_long_text_is_cut_between_characters(text: str, limit: int) -> None:
    quoted = quote(text, limit)
    assert len(quoted) <= limit
    assert quoted.endswith('..."')
    assert text.startswith(json.loads(quoted).removesuffix("..."))


def test_a_text_that_just_fits_is_whole() -> None:
    assert quote("abc", 5) == '"abc"'
    assert quote("abcd", 5) == '"..."'


def test_unused_and_missing_values_are_refused() -> None:
    with pytest.raises(TypeError, match=r"unused values \['colour'\], missing values \['tools'\]"):
        render("json_action", colour="red")


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__['os'].getcwd() }}",
    ],
)
def test_a_foreign_template_runs_no_code(text: str) -> None:
    """A replay renders the templates of a journal that somebody else may have written."""
    with pytest.raises((SecurityError, UndefinedError)):
        render_text(text)
