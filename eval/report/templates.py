"""Rendering of Jinja templates: HTML is escaped, undefined values raise an error."""

from __future__ import annotations

import json
from base64 import b64encode
from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined

from eval.report import text
from eval.report.blocks import Chart, Line, Picture, Rate, Table, markdown
from memory.records import Estimate, slice_key


def render_page(template: str, **values: object) -> str:
    """Render an HTML template of this package; text is escaped."""
    return page_environment().get_template(template).render(values)


def render_text(package: str, template: str, **values: object) -> str:
    """Render a text template of a package, such as a card in Markdown."""
    environment = Environment(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "json": json.dumps,
        "escaped": _escaped,
        "markdown": lambda table: "\n".join(markdown(table)),
    }
    text = resources.files(package).joinpath(template).read_text("utf-8")
    return environment.from_string(text).render(values)


def _escaped(text: str) -> str:
    """Return a text on one line with the special characters of Markdown escaped."""
    return " ".join(text.split()).translate({ord(c): f"\\{c}" for c in "\\`*_<>[]"})


@cache
def page_environment(package: str = "eval.report") -> Environment:
    """Return an environment that loads templates from a package or else from this one."""

    def load(name: str) -> str:
        files = [resources.files(folder).joinpath(name) for folder in (package, "eval.report")]
        return next(file for file in files if file.is_file()).read_text("utf-8")

    environment = Environment(
        loader=FunctionLoader(load),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": text.number,
        "signed": text.signed,
        "interval": text.interval,
        "estimate": text.estimate_text,
        "overlaps": text.overlap,
        "count": text.count,
        "percent": text.percent,
        "plural": text.plural,
        "p": text.p_value,
        "duration": text.duration,
        "words": text.words,
        "slice_key": slice_key,
        "data_uri": lambda png: f"data:image/png;base64,{b64encode(png).decode()}",
    }
    for kind in (Line, Table, Chart, Picture, Rate, Estimate):
        environment.tests[kind.__name__.lower()] = lambda value, kind=kind: isinstance(value, kind)
    return environment
