"""Plug-ins by name: one file in a package, or a dotted path to code outside the repository."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from memory.errors import SettingsError, unknown
from memory.records import Record, first_problem

Options = TypeVar("Options", bound=Record)

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
# Dotted paths given by the user of this process, and those named only by files of unknown origin.
_allowed: set[str] = set()
_refused: set[str] = set()


def is_dotted_path(name: str) -> bool:
    """Return whether a name has the form `package.module:function`."""
    return _DOTTED.fullmatch(name) is not None


def allow(paths: Iterable[str]) -> None:
    """Allow importing dotted paths that the user of this process has given or confirmed."""
    _allowed.update(paths)
    _refused.difference_update(_allowed)


def refuse(paths: Iterable[str]) -> None:
    """Forbid importing dotted paths, unless they were allowed."""
    _refused.update(set(paths) - _allowed)


def refuse_unknown(name: str) -> None:
    """Raise SettingsError if a name is a dotted path that was neither allowed nor imported."""
    if ":" in name and name not in _allowed:
        raise SettingsError(_UNTRUSTED.format(name))


_UNTRUSTED = (
    "The code path {!r} was not given on this machine but is named by a file, so it is not "
    "imported. If you trust whoever made that file: shaping resume NAME --trust for a session, "
    "tools.plugins.allow in a program."
)


def names(package: str) -> list[str]:
    """Return the sorted names of the modules of a package that define `build`."""
    module = importlib.import_module(package)
    return sorted(m.name for m in pkgutil.iter_modules(module.__path__) if _is_plugin(package, m))


def load(package: str, name: str, attribute: str = "build") -> Callable[..., Any]:
    """Return an attribute of a plug-in, by default its factory function.

    Args:
        package: E.g. "tools.generators".
        name: Module of the package; or a dotted path, `package.module:function`, to code outside
            the repository.
        attribute: Name of the attribute; a dotted path names its own.

    Raises:
        SettingsError: The plug-in does not exist or cannot be imported.
    """
    kind = package.rsplit(".", 1)[-1].removesuffix("s")
    path, _, function = name.partition(":")
    if function:
        if not is_dotted_path(name):
            raise SettingsError(f"{name!r} is no {kind}; expected NAME or package.module:function.")
        if name in _refused:
            raise SettingsError(_UNTRUSTED.format(name))
        try:
            module = importlib.import_module(path)
        except Exception as error:
            text = f"Cannot import {kind} {name!r}: {type(error).__name__}: {error}."
            if isinstance(error, ModuleNotFoundError) and error.name == path.partition(".")[0]:
                text += " Set PYTHONPATH to the folder that holds it."
            raise SettingsError(text) from error
        attribute = function
        _allowed.add(name)
    else:
        if name not in names(package):
            raise SettingsError(unknown(kind, name, names(package)))
        module = importlib.import_module(f"{package}.{name}")
    if not hasattr(module, attribute):
        raise SettingsError(f"The {kind} {name!r} has no function {attribute!r} to build it with.")
    plugin: Callable[..., Any] = getattr(module, attribute)
    return plugin


def read_options(section: str, kind: type[Options], options: Mapping[str, object]) -> Options:
    """Validate the options of a plug-in; options that are None keep their default.

    Args:
        section: Section of the settings named in errors, e.g. "generator.options".
        kind: Record type of the options.
        options: Options as given by the user.

    Raises:
        SettingsError: An option is unknown or invalid; the message names its key.
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
    # The source is searched, not imported: a plug-in may need a package that is not installed.
    spec = importlib.util.find_spec(f"{package}.{module.name}")
    source = Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
    return re.search(r"^def build\(", source, re.MULTILINE) is not None
