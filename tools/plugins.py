"""Plug-ins by name: one file in a package, or a dotted path to code outside the repository."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memory.errors import SettingsError, unknown


def names(package: str) -> list[str]:
    """Return the names of the files and folders of a package that define `build`, sorted."""
    module = importlib.import_module(package)
    return sorted(m.name for m in pkgutil.iter_modules(module.__path__) if _is_plugin(package, m))


def load(package: str, name: str, attribute: str = "build") -> Callable[..., Any]:
    """Return `attribute` of the plug-in `name` of `package`.

    A name with a colon is a dotted path, `package.module:function`, and serves code outside the
    repository. Raises SettingsError that names the known plug-ins.
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
    found: Callable[..., Any] = getattr(module, attribute)
    return found


def _is_plugin(package: str, module: pkgutil.ModuleInfo) -> bool:
    # Read, not imported: a plug-in may need a package that is not installed.
    spec = importlib.util.find_spec(f"{package}.{module.name}")
    source = Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
    return re.search(r"^def build\(", source, re.MULTILINE) is not None
