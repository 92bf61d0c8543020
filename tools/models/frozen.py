"""Training of a model's last layer alone, on features that are computed once.

Features are kept between trainings of one process, so that a later round computes those of its new
images alone. Those of an image are computed by itself, so that no bit depends on the others of a
batch.
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
    """Freeze all of a model but its new layers, which are returned.

    Normalisation over a batch uses the stored statistics in the frozen part from then on.

    Raises:
        SettingsError: The model has no last layer that is linear.
    """
    model.eval().requires_grad_(False)
    return new_layers(model).train().requires_grad_(True)


class FrozenFeatures:
    """What the last layer of a frozen model sees, (n, ...), of images as in `Minibatch`."""

    def __init__(self, model: Model) -> None:
        self._model, self._head = model, last_layer(model)
        state = hashlib.sha256()
        for name, value in model.state_dict().items():
            if not any(value.data_ptr() == own.data_ptr() for own in self._head.parameters()):
                state.update(name.encode() + value.cpu().numpy().tobytes())
        self._state = state.digest()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features, computed for images that are not yet known."""
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
