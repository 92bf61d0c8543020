"""Training of only a model's last layer, on cached features.

Features are cached between trainings of one process, so that a later round computes only those of
its new images. Each image is processed separately, so that its features do not depend on the batch.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from tools.data.last_used import LastUsed
from tools.models.embeddings import last_layer, new_layers, recorded
from tools.tasks import Model

_kept = LastUsed[bytes, torch.Tensor](256 * 2**20, lambda features: features.nbytes)


def freeze(model: Model) -> nn.Module:
    """Freeze a model except its new layers, and return these.

    Batch normalisation in the frozen part uses its stored statistics from then on.

    Raises:
        SettingsError: The model has no last layer that is linear.
    """
    model.eval().requires_grad_(False)
    return new_layers(model).train().requires_grad_(True)


class FrozenFeatures:
    """Input of a frozen model's last layer, (n, ...), for images as in `Minibatch`."""

    def __init__(self, model: Model) -> None:
        self._model, self._head = model, last_layer(model)
        state = hashlib.sha256()
        for name, value in model.state_dict().items():
            if not any(value.data_ptr() == part.data_ptr() for part in self._head.parameters()):
                state.update(name.encode() + value.cpu().numpy().tobytes())
        self._state = state.digest()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features, which are computed for images that are not cached."""
        return torch.stack([self._of(image) for image in images.cpu()]).to(images.device)

    @torch.no_grad()
    def _of(self, image: torch.Tensor) -> torch.Tensor:
        key = hashlib.sha256(self._state + image.numpy().tobytes()).digest()

        def compute(_: bytes) -> torch.Tensor:
            device = next(self._model.parameters()).device
            with recorded([self._head], inputs=True) as inputs:
                self._model(image[None].to(device))
            return inputs.pop()[0].cpu()

        return _kept.get(key, compute)
