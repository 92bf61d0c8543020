"""Plug-ins by name: one file in a package, or a dotted path to code outside the repository."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from memory.errors import SettingsError, unknown
from memory.records import Record, first_problem

Options = TypeVar("Options", bound=Record)


def names(package: str) -> list[str]:
    """Return the names of the files and folders of a package that define `build`, sorted."""
    module = importlib.import_module(package)
    return sorted(m.name for m in pkgutil.iter_modules(module.__path__) if _is_plugin(package, m))


def load(package: str, name: str, attribute: str = "build") -> Callable[..., Any]:
    """Return an attribute of a plug-in, by default the function that builds it.

    Args:
        package: E.g. "tools.generators".
        name: Of a file or folder of the package; or, with a colon, a dotted path,
            `package.module:function`, to code outside the repository.
        attribute: Of the plug-in.

    Raises:
        SettingsError: There is no such plug-in; the message names those that there are.
    """
    kind = package.rsplit(".", 1)[-1].removesuffix("s")
    path, _, function = name.partition(":")
    if function:
        try:
            module = importlib.import_module(path)
        except ImportError as error:
            raise SettingsError(f"Cannot import {kind} {name!r}: {error}.") from error
        attribute = function
    else:
        if name not in names(package):
            raise SettingsError(unknown(kind, name, names(package)))
        module = importlib.import_module(f"{package}.{name}")
    if not hasattr(module, attribute):
        raise SettingsError(f"The {kind} {name!r} has no function {attribute!r} to build it with.")
    plugin: Callable[..., Any] = getattr(module, attribute)
    return plugin


def read_options(section: str, kind: type[Options], options: Mapping[str, object]) -> Options:
    """Return the options of a plug-in, validated; those that are None keep their default.

    Args:
        section: Of the settings, e.g. "generator.options", as errors name it.
        kind: Record of the options.
        options: As given.

    Raises:
        SettingsError: An option is unknown or has a wrong value; the message names its key.
    """
    try:
        return kind.model_validate({key: v for key, v in options.items() if v is not None})
    except ValidationError as error:
        key, problem = first_problem(error)
        if error.errors()[0]["type"] == "extra_forbidden":
            raise SettingsError(unknown(f"key of {section}", key, kind.model_fields)) from error
        given = error.errors()[0]["input"]
        raise SettingsError(f"{section}.{key} cannot be {given!r}: {problem}.") from error


def _is_plugin(package: str, module: pkgutil.ModuleInfo) -> bool:
    # Read, not imported: a plug-in may need a package that is not installed.
    spec = importlib.util.find_spec(f"{package}.{module.name}")
    source = Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
    return re.search(r"^def build\(", source, re.MULTILINE) is not None
