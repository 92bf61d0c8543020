"""How well an MTDM takes noise away from scenes that it has not seen.

The figure to watch while one tries networks and trainings: it tells two of them apart within
minutes, long before drawn images do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tools.data.samples import Samples
from tools.diffusion.denoising import folded
from tools.diffusion.pipeline import MTDMPipeline, encode_prompts

LEVELS = (100, 300, 500, 700, 900)
_BATCH = 32


@torch.inference_mode()
def denoising_error(
    pipeline: MTDMPipeline, samples: Samples, texts: Sequence[str], levels: Sequence[int] = LEVELS
) -> dict[int, dict[str, float]]:
    """Return the mean squared error of the clean image and of its labels, by noise level.

    texts: what each sample shows; levels: of the scheduler, 0 (little noise) to 999. Errors are of
    whitened values, so 1 is what guessing the mean gives; of labels, that of all kinds together.
    The noise is the same for every pipeline.
    """
    found: dict[int, dict[str, float]] = {}
    for level in levels:
        sums = {"image": np.zeros(2), "labels": np.zeros(2)}
        for start in range(0, len(samples), _BATCH):
            rows = range(start, min(start + _BATCH, len(samples)))
            part = samples.take(rows)
            x, weight = folded(pipeline, part.images, part.labels)
            source = torch.Generator("cpu").manual_seed(level * 1_000_003 + start)
            times = torch.full((len(x),), level)
            noisy = pipeline.add_noise(
                x, torch.randn(x.shape, generator=source), pipeline.levels(times)
            )
            states, mask = encode_prompts([texts[row] for row in rows])
            device = pipeline.device
            seen: Any = (v.to(device) for v in (noisy, times, states, mask))
            said = pipeline.predict(*seen).float().cpu()
            error = (weight * (said - x) ** 2).sum((0, 2, 3)), weight.sum((0, 2, 3))
            n = pipeline.n_image_channels
            for kind, channels in (("image", slice(0, n)), ("labels", slice(n, None))):
                sums[kind] += [float(v[channels].sum()) for v in error]
        found[level] = {k: float(s[0] / s[1]) for k, s in sums.items() if s[1] > 0}
    return found
