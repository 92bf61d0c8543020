"""Reading of weight folders: required files, descriptions and tensors, with errors that explain.

No code in a folder is run: neither pickles nor programs (TorchScript, `torch.export`) are opened.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from memory.errors import WeightsError
from memory.records import Record, first_problem

PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pt2", ".ts", ".torchscript")
# Number of characters of torch's errors that are shown, since they list every tensor.
_SHOWN = 400

Description = TypeVar("Description", bound=Record)


def require_files(folder: Path, names: Sequence[str], what: str, advice: str) -> None:
    """Raise WeightsError if a folder lacks files; the message names a pickle if there is one.

    Args:
        folder: Folder of weights.
        names: Names of the required files.
        what: Name of the folder in the message, e.g. "The joint model".
        advice: What the user should do.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        files = [folder] if folder.is_file() else sorted(folder.glob("*"))
        pickled = [file.name for file in files if file.suffix in PICKLED]
        why = f" {pickled[0]} is a pickle or a program and never opened." if pickled else ""
        raise WeightsError(f"{what} {folder} lacks {', '.join(missing)}.{why} {advice}")


def read_description(path: Path, kind: type[Description], advice: str) -> Description:
    """Return the record in a JSON file; raise WeightsError that names the first problem in it."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        where, problem = first_problem(error)
        place = f"{where}: " if where else ""
        raise WeightsError(
            f"{path} is damaged or of another version: {place}{problem}. {advice}"
        ) from error


@contextmanager
def explained(message: str) -> Iterator[None]:
    """Convert any error of a library within the context to WeightsError; hide progress bars.

    diffusers, transformers, their hub client and safetensors raise many types of errors for a
    folder that cannot be used.

    Args:
        message: Message, in which "{error}" is replaced by the library's.
    """
    for library in {"diffusers", "transformers"} & sys.modules.keys():
        sys.modules[library].utils.logging.disable_progress_bar()
    try:
        yield
    except Exception as error:
        raise WeightsError(message.replace("{error}", str(error))) from error


def load_weights(module: torch.nn.Module, path: Path, advice: str) -> None:
    """Load the tensors of a safetensors file into a module, in float32.

    Raises:
        WeightsError: The file is damaged, or its tensors do not match the module.
    """
    try:
        weights = {name: value.float() for name, value in load_file(path).items()}
        module.load_state_dict(weights, assign=True)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:_SHOWN]
        raise WeightsError(f"{path} is damaged or of another network: {reason} {advice}") from error
