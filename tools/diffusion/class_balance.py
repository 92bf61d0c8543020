"""Class balance: more weight in an MTDM's loss where a picture shows rare classes.

A scene's poles, signs and cyclists are a few pixels in a hundred, and a network with little to
spend learns what is common. Weights that fall with a power of a class's frequency (as Mikolov et
al. 2013 and Mahajan et al. 2018 sample by; cf. Cui et al. 2019) are those of whole patches, image
and labels alike, so the thing is drawn together with its label. What a prompt rules out stays
ruled out: weights move probability among what may be there.

By the frequency in all images, an image with a rare thing weighs more as a whole, and one that
lacks it less. By that in the image itself all images weigh the same, and what is small in each
weighs more there: the few cars of a quiet street as much as those of a full one.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import avg_pool2d

from tools.data.samples import VOID

_MAX_WEIGHT = 20.0


def class_weights(segmentation: NDArray[np.uint8], n_classes: int, exponent: float) -> torch.Tensor:
    """Return the weight of a pixel of each class, (256,), 1 on average, `_MAX_WEIGHT` at most.

    Args:
        segmentation: Class ids, (n, h, w).
        n_classes: Number of classes; unknown ones and those without a pixel weigh 1.
        exponent: 0 weighs all alike, 1 gives all classes the same share of the loss.
    """
    # Image by image: bincount makes eight bytes of each.
    per_image = (np.bincount(ids.reshape(-1), minlength=VOID + 1) for ids in segmentation)
    counts = sum(per_image, np.zeros(VOID + 1))[:n_classes]
    present = counts > 0
    weights = np.ones(VOID + 1, np.float32)
    if present.any():
        shares = counts[present] / counts.sum()
        raised = shares**-exponent
        raised = (raised / (shares * raised).sum()).clip(max=_MAX_WEIGHT)
        weights[:n_classes][present] = raised / (shares * raised).sum()
    return torch.from_numpy(weights)


def patch_weights(
    segmentation: NDArray[np.uint8], weights: torch.Tensor, patch: int
) -> torch.Tensor:
    """Return the mean weight of the pixels of each patch, (n, 1, h / patch, w / patch).

    Args:
        segmentation: Class ids, (n, h, w).
        weights: Of a pixel of each class, (256,), or by image, (n, 256).
        patch: Side, pixels.
    """
    ids = torch.from_numpy(segmentation.astype(np.int64))
    of_images = weights.expand(len(ids), -1)
    of_pixels = of_images.gather(1, ids.flatten(1)).view(ids.shape)
    return avg_pool2d(of_pixels[:, None], patch)
