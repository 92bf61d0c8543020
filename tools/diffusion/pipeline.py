"""The multi-task diffusion model (MTDM): draws an image with its labels from a prompt.

One self-contained diffusers pipeline: encode the prompt, prepare the noise, denoise, decode. The
packaged MiniLM encodes a prompt as token states; a small UNet denoises the pixel-unshuffled
channels of image and labels together. The text enters twice: its token states through
cross-attention at the lowest resolution, their mean added to the time embedding. The schedule is
cosine, rescaled to zero terminal SNR, with trailing steps (Lin et al. 2024); classifier-free
guidance (Ho and Salimans 2022) acts in an interval of the steps (Kynkaanniemi et al. 2024).

`prediction` is what the network predicts, see `tools.diffusion.preconditioning`. With
`label_noise_offset` labels reach zero noise before the image, which is then drawn to match them;
with `timestep_rho` above 1 steps are denser at high noise, where a scene's layout is determined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch.nn.functional import pixel_unshuffle

from memory import minilm
from tools.data.drawn import Drawn
from tools.data.samples import Dense
from tools.diffusion import sampler
from tools.diffusion.channels import PatchChannels
from tools.diffusion.guidance import FeedbackGuidance, actgen_weight, along_gradient
from tools.diffusion.preconditioning import PREDICTION_TYPES, Prediction, preconditioning
from tools.diffusion.sampler import Levels, per_channel
from tools.settings import renamed

MAX_TOKENS = 64
STEPS = 8
GUIDANCE = 2.0
GUIDANCE_INTERVAL = (0.0, 0.5)

Text = tuple[torch.Tensor, torch.Tensor]
"""Token states of prompts, (n, tokens, 384), and their mask, (n, tokens)."""

_MIN_POWER = 1e-4


def encode_prompts(texts: Sequence[str]) -> Text:
    """Return token states, (n, 64, 384), and mask, (n, 64); padding is zero."""
    return minilm.load().token_states(texts, MAX_TOKENS)


class MTDMPipeline(PatchChannels):
    """Pipeline from text to images with labels; see `PatchChannels` for its forms of channels.

    Args:
        unet: Network that denoises projected channels.
        scheduler: Defines the noise schedule and the prediction type.
        image_channels: 1 or 3.
        image_size: Side of square images or [height, width], pixels.
        patch: Side of the pixel-unshuffle.
        mean, std: Statistics of the pixels in 0..1, used to whiten them.
        trained_on: Description of the training data.
        label_codes: `LabelCodes` of the labels drawn with the image, as JSON. None or {}: no
            labels.
        basis: Patch basis, see `tools.diffusion.patch_pca.stored`. Empty: no projection.
        power: For the prediction "residual": (2, k), see `preconditioning`; otherwise empty.
        label_noise_offset: Share of the noise levels, from the lowest, at which labels are free of
            noise, 0..1.
        s_noise: Shares of the noise that a sampling step keeps, of image and of labels, 0..1;
            smaller values give smoother and less diverse images.
        timestep_rho: Spacing of the sampling steps, at least 1, see `sampler.timesteps`.
        steps, guidance: Defaults for sampling; a distilled network has few steps and no guidance,
            see `tools.pretraining.distillation`.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        scheduler: DDIMScheduler,
        image_channels: int = 1,
        image_size: int | Sequence[int] = 64,
        patch: int = 4,
        mean: float = 0.5,
        std: float = 0.5,
        trained_on: str = "",
        label_codes: Mapping[str, Any] | None = None,
        basis: str = "",
        # Unions, because diffusers warns about other annotations that it cannot inspect.
        power: Sequence[Sequence[float]] | None = None,
        label_noise_offset: float = 0.0,
        s_noise: Sequence[float] | None = None,
        timestep_rho: float = 1.0,
        steps: int = STEPS,
        guidance: float = GUIDANCE,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(
            image_channels=image_channels,
            image_size=image_size if isinstance(image_size, int) else list(image_size),
            patch=patch,
            mean=mean,
            std=std,
            trained_on=trained_on,
            label_codes=dict(label_codes or {}),
            basis=basis,
            power=[list(row) for row in power or ()],
            label_noise_offset=label_noise_offset,
            s_noise=list(s_noise or (1.0, 1.0)),
            timestep_rho=timestep_rho,
            steps=steps,
            guidance=guidance,
        )
        self._text_cache: dict[str, Text] = {}

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a folder's configuration; names of earlier versions are replaced."""
        config = super().load_config(*args, **kwargs)
        return renamed(config) if isinstance(config, dict) else config

    @property
    def prediction(self) -> Prediction:
        """Prediction type of the network."""
        if self.config.power:
            return "residual"
        is_velocity = self.scheduler.config.prediction_type == PREDICTION_TYPES["velocity"]
        return "velocity" if is_velocity else "clean"

    @cached_property
    def _powers(self) -> torch.Tensor | None:
        """`power` as (2, 1, k, 1, 1); None: the prediction is not "residual"."""
        if not self.config.power:
            return None
        return torch.tensor(self.config.power).clamp(min=_MIN_POWER)[:, None, :, None, None]

    def times(self, steps: int) -> torch.Tensor:
        """Return the times of the sampling steps, see `sampler.timesteps`."""
        n_times = len(self.scheduler.alphas_cumprod)
        return sampler.timesteps(n_times, steps, self.config.timestep_rho).to(self.device)

    def kept_noise(self, s_noise: Sequence[float] | None = None) -> torch.Tensor:
        """Return the share of noise that a step keeps per projected channel, (1, k, 1, 1)."""
        image, labels = (torch.tensor([share]) for share in s_noise or self.config.s_noise)
        return per_channel((image, labels), self.n_projected)

    def predict(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        states: torch.Tensor,
        mask: torch.Tensor,
        levels: Levels | None = None,
    ) -> torch.Tensor:
        """Return the network's denoised estimate of folded channels.

        Args:
            x: Noisy folded channels, (n, c, h, w).
            t: Times, int64, (n,) or scalar.
            states: Token states of the prompts, (n, tokens, 384).
            mask: Token mask, (n, tokens).
            levels: Signal power of image and labels. None: that at the times `t`.
        """
        return self.reconstruct(self.denoise(self.project(x), t, (states, mask), levels=levels))

    def denoise(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        cond: Text,
        uncond: Text | None = None,
        guidance: float = 1.0,
        levels: Levels | None = None,
    ) -> torch.Tensor:
        """Return the denoised estimate; input and output are projected channels.

        Args:
            x: Noisy channels, (n, k, h, w).
            t: Times, int64, (n,) or scalar.
            cond: Text embeddings of the prompts.
            uncond: Embeddings of the empty prompt; None disables classifier-free guidance.
            guidance: Scale of classifier-free guidance; 1 has no effect.
            levels: Signal power of image and labels. None: that at the times `t`.
        """
        a = self.projected_levels(t.reshape(-1), levels)
        coefficients = preconditioning(self.prediction, a, self._powers)
        c_in, c_skip, c_out = (c.to(x) for c in coefficients)
        scaled = c_in * x
        if uncond is None:
            output = self._network(scaled, t, *cond)
        else:
            states, mask = (torch.cat(both) for both in zip(cond, uncond, strict=True))
            both = self._network(torch.cat([scaled, scaled]), t, states, mask)
            with_text, without = both.chunk(2)
            output = without + guidance * (with_text - without)
        return c_skip * x + c_out * output

    def _network(
        self, x: torch.Tensor, t: torch.Tensor, states: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the output of the UNet, (n, k, h, w)."""
        weights = mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * weights).sum(1) / weights.sum(1)
        output: torch.Tensor = self.unet(
            x, t, states, class_labels=pooled, encoder_attention_mask=mask
        ).sample
        return output

    def extract_features(self, pixels: torch.Tensor, noise: torch.Tensor, step: int) -> None:
        """Run the network on images without labels, for hooks on its activations.

        Args:
            pixels: float in 0..1, (n, c, h, w).
            noise: Noise shared by all images, (1, *noise_shape).
            step: Noise level of the image, 0 to 999. Labels are pure noise if
                `label_noise_offset` is set, otherwise their mean with noise.
        """
        n = len(pixels)
        t = torch.full((n,), round(step * (1 - self.config.label_noise_offset)))
        image, labels = self.levels(t)
        if self.config.label_noise_offset:
            labels = torch.zeros_like(labels)
        folded_noise = pixel_unshuffle(noise, self.config.patch).expand(n, -1, -1, -1)
        noisy = self.add_noise(self.fold_unlabelled(pixels), folded_noise, (image, labels))
        states, mask = (part.expand(n, *part.shape[1:]) for part in self._encode([""]))
        levels = (image.to(self.device), labels.to(self.device))
        noisy = noisy.to(self.device, self.unet.dtype)
        self.predict(noisy, t.to(self.device), states, mask, levels)

    @torch.inference_mode()
    def __call__(
        self,
        prompts: Sequence[str],
        noise: torch.Tensor,
        steps: int | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] = GUIDANCE_INTERVAL,
        feedback: Sequence[FeedbackGuidance] = (),
        s_noise: Sequence[float] | None = None,
        watch: Callable[[torch.Tensor], None] = lambda x: None,
    ) -> Drawn:
        """Draw one image per prompt, with its labels.

        Labels with a `label_noise_offset` are decoded once they are free of noise and encoded
        again, so that the rest of the image is drawn to exact codes.

        Args:
            prompts: n texts.
            noise: Standard normal, (n, *noise_shape), see `sampler.seeded_noise`.
            steps: Number of sampling steps; None: as configured.
            guidance: Scale of classifier-free guidance, 1: none; None: as configured.
            guidance_interval: Part of the steps, 0..1, in which guidance acts.
            feedback: Feedback guidance, one per prompt, all with the same critic and criterion;
                empty: none.
            s_noise: See the class; None: as configured.
            watch: Called with the projected channels, (n, k, h, w), before each step and at the
                end.
        """
        steps = self.config.steps if steps is None else steps
        guidance = self.config.guidance if guidance is None else guidance
        cond, uncond = self._encode(prompts), self._encode([""] * len(prompts))
        folded = pixel_unshuffle(noise.to(self.device, self.unet.dtype), self.config.patch)
        x = clean = previous = projected_noise = self.project(folded)
        times = self.times(steps)
        keep = self.kept_noise(s_noise).to(x.device)
        early_labels: tuple[Dense, Dense] | None = None
        for i, t in enumerate(self.progress_bar(times)):
            # A denoising step follows each move, which makes the channels a plausible image again.
            if feedback and i > 0:
                x = self._apply_feedback(x, clean, projected_noise, times, i, feedback)
            progress = i / len(times)
            guided = guidance != 1 and guidance_interval[0] <= progress < guidance_interval[1]
            previous = clean
            watch(x)
            clean = self.denoise(x, t, cond, uncond if guided else None, guidance)
            if i + 1 < len(times):
                now, following = self.projected_levels(times[i : i + 2]).split(1)
                x = sampler.ddim_step(x, clean, now, following, keep)
                if early_labels is None and self._labels_are_clean(times[i + 1]):
                    early_labels = self.decode_labels(clean, previous)
                    x = self.write_labels(x, early_labels[0])
        watch(clean)
        pixels, _ = self.unfold(self.reconstruct(clean.float()))
        images = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        if not self.codes.kinds:
            return Drawn(images)
        return Drawn(images, *(early_labels or self.decode_labels(clean, previous)))

    def _labels_are_clean(self, t: torch.Tensor) -> bool:
        """Return whether labels with a noise offset are free of noise at a time."""
        offset, last = self.config.label_noise_offset, len(self.scheduler.alphas_cumprod) - 1
        return bool(self.codes.kinds and offset and t <= offset * last)

    def _apply_feedback(
        self,
        x: torch.Tensor,
        clean: torch.Tensor,
        noise: torch.Tensor,
        times: torch.Tensor,
        step: int,
        feedback: Sequence[FeedbackGuidance],
    ) -> torch.Tensor:
        """Move the image channels by feedback guidance before a step, counted from 0.

        Args:
            x: Noisy projected channels, (n, k, h, w).
            clean: Denoised estimate of the previous step, same shape.
            noise: Projected initial noise, same shape.
            times: Times of the sampling steps.
            step: Index of the step.
            feedback: One per image.
        """
        n_image = self.n_projected[0]
        image, labels = x[:, :n_image], x[:, n_image:]
        weights = torch.tensor([g.weight for g in feedback], device=x.device, dtype=x.dtype)
        if feedback[0].by == "real":
            photographs = np.stack([g.photograph for g in feedback if g.photograph is not None])
            pixels = torch.from_numpy(photographs).to(x.device, x.dtype) / 255
            goal = self.project(self.fold_unlabelled(pixels))[:, :n_image]
            alpha = self.levels(times[step])[0].to(x)
            as_noisy = sampler.add_noise(goal, noise[:, :n_image], alpha)
            share = weights * actgen_weight(step, len(times))
            moved = image + share.view(-1, 1, 1, 1) * (as_noisy - image)
        else:
            moved = along_gradient(image, self._gradient(clean, feedback)[:, :n_image], weights)
        return torch.cat([moved, labels], dim=1)

    def _gradient(self, clean: torch.Tensor, feedback: Sequence[FeedbackGuidance]) -> torch.Tensor:
        """Return the gradient of the critic's criterion with respect to the denoised estimate."""
        with torch.inference_mode(mode=False), torch.enable_grad():
            leaf = clean.float().clone().requires_grad_()
            pixels, channels = self.unfold(self.reconstruct(leaf))
            coded = channels.detach().cpu().numpy()
            labels = self.codes.decode(coded, coded)[0] if self.codes.kinds else {}
            classes = [g.class_index for g in feedback]
            first = feedback[0]
            value = first.critic.criterion(first.by, pixels.clamp(0, 1), classes, labels)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return gradient.to(clean.dtype)

    def _encode(self, prompts: Sequence[str]) -> Text:
        """Encode each distinct prompt once."""
        for text in dict.fromkeys(prompts):
            if text not in self._text_cache:
                states, mask = encode_prompts([text])
                self._text_cache[text] = (states.to(self.unet.dtype), mask)
        pairs = zip(*(self._text_cache[text] for text in prompts), strict=True)
        all_states, masks = (torch.cat(parts).to(self.device) for parts in pairs)
        return all_states, masks
