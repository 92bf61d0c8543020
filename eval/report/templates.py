"""Pages from templates: everything that is filled in is escaped, nothing may be missing."""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined


def page_environment(package: str) -> Environment:
    """Return an environment whose templates are files of a package."""

    def load(name: str) -> str:
        return resources.files(package).joinpath(name).read_text("utf-8")

    return Environment(
        loader=FunctionLoader(load),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
