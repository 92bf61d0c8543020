"""Models of transformers in local folders: whole, from safetensors, without code of the folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from memory.errors import WeightsError


def load_whole(
    kind: Any,
    folder: Path,
    unusable: Callable[[Exception], str],
    partial: Callable[[int, str], str],
) -> Any:
    """Return the model in `folder`, float32, with all of its weights from the folder.

    kind: a class of transformers that has `from_pretrained`; unusable: says what is wrong, of what
    transformers raised; partial: the same, of the number of missing weights and the first one's
    name. Raises WeightsError with that text.
    """
    try:
        model, found = kind.from_pretrained(
            folder,
            use_safetensors=True,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # transformers and safetensors raise many types for a bad folder
        raise WeightsError(unusable(error)) from error
    if missing := sorted(found["missing_keys"]):
        raise WeightsError(partial(len(missing), missing[0]))
    return model
