"""A Stable Diffusion UNet that denoises pixel labels together with the latents of the image.

Its first and last convolution are widened by the label channels (as in LDM3D, Stan et al. 2023, and
Marigold, Ke et al. 2024). All channels share one noise schedule. For labels the network predicts
the clean channels, because its first level is too narrow to represent the noise of many channels;
for samplers they are converted to the prediction type of the original UNet.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from diffusers import SchedulerMixin, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

from memory.errors import WeightsError


class _WideIn(torch.nn.Module):
    """A convolution with label channels appended to its input, initially without effect."""

    def __init__(self, image: torch.nn.Conv2d, n_labels: int) -> None:
        super().__init__()
        self.image = image
        self.labels = _like(image, n_labels, image.out_channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.image.in_channels
        summed: torch.Tensor = self.image(x[:, :n]) + self.labels(x[:, n:])
        return summed


class _WideOut(torch.nn.Module):
    """A convolution with label channels appended to its output, initially zero."""

    def __init__(self, image: torch.nn.Conv2d, n_labels: int) -> None:
        super().__init__()
        self.image = image
        self.labels = _like(image, image.in_channels, n_labels, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.image(x), self.labels(x)], dim=1)


def _like(image: torch.nn.Conv2d, n_in: int, n_out: int, bias: bool) -> torch.nn.Conv2d:
    weight = image.weight
    new = torch.nn.Conv2d(
        n_in,
        n_out,
        image.kernel_size,  # type: ignore[arg-type]
        padding=image.padding,  # type: ignore[arg-type]
        bias=bias,
        device=weight.device,
        dtype=weight.dtype,
    )
    for parameter in new.parameters():
        torch.nn.init.zeros_(parameter)
    return new


class JointUNet(UNet2DConditionModel):  # type: ignore[misc]
    """A UNet widened by label channels, see `widened`.

    Attributes:
        n_image: Number of latent channels of the image, which come first.
        clean_labels: Denoised labels as estimated by the last call, (n, c, h, w), float32.
    """

    n_image: int
    clean_labels: torch.Tensor

    @classmethod
    def widened(cls, unet: UNet2DConditionModel, n_labels: int, scheduler: SchedulerMixin) -> Self:
        """Return a UNet with the weights of `unet` that also denoises `n_labels` channels.

        Args:
            unet: UNet that denoises the latents of an image.
            n_labels: Number of label channels.
            scheduler: Defines the noise schedule and the prediction type.

        Raises:
            WeightsError: The numbers of input and output channels of the UNet differ.
        """
        n_image = int(unet.config.in_channels)
        if unet.config.out_channels != n_image:
            raise WeightsError(
                f"The model's UNet takes {n_image} channels and gives {unet.config.out_channels}, "
                "so it does more than draw images from text. Choose a plain text-to-image model."
            )
        with torch.device("meta"):
            joint: Self = cls.from_config(unet.config)
        joint.load_state_dict(unet.state_dict(), assign=True)
        joint.requires_grad_(requires_grad=False).train(unet.training)
        joint.conv_in = _WideIn(joint.conv_in, n_labels)
        joint.conv_out = _WideOut(joint.conv_out, n_labels)
        joint.register_to_config(in_channels=n_image + n_labels, out_channels=n_image + n_labels)
        joint.n_image = n_image
        joint._prediction = scheduler.config.prediction_type
        alphas = scheduler.alphas_cumprod.float().clamp(min=1e-8)
        sigmas = ((1 - alphas) / alphas).sqrt().to(unet.device)
        joint.register_buffer("_sigmas", sigmas, persistent=False)
        return joint

    @property
    def label_weights(self) -> dict[str, torch.nn.Parameter]:
        """New weights of the widened convolutions."""
        return {
            "label_in.weight": self.conv_in.labels.weight,
            "label_out.weight": self.conv_out.labels.weight,
            "label_out.bias": self.conv_out.labels.bias,
        }

    def signal(self, times: torch.Tensor | float) -> torch.Tensor:
        """Return the signal power at integer or fractional times, 0..1, (n, 1, 1, 1)."""
        sigmas = self._sigmas
        t = torch.as_tensor(times, device=sigmas.device, dtype=torch.float32).reshape(-1)
        below = t.long().clamp(0, len(sigmas) - 1)
        above = (below + 1).clamp(max=len(sigmas) - 1)
        sigma = torch.lerp(sigmas[below], sigmas[above], t - below)
        return (1 / (1 + sigma**2)).view(-1, 1, 1, 1)

    def denoise(
        self, sample: torch.Tensor, times: torch.Tensor | float, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the UNet's prediction for the image's latents, and the denoised labels.

        Args:
            sample: Noisy latents and labels, (n, c, h, w), of unit variance.
            times: Times, (n,) or scalar.
            *args: Positional arguments of the UNet.
            **kwargs: Keyword arguments of the UNet.
        """
        (output,) = super().forward(sample, times, *args, **{**kwargs, "return_dict": False})
        return output[:, : self.n_image], output[:, self.n_image :].float()

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        *args: Any,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Return the prediction for image and labels, in the scheduler's prediction type."""
        image, clean = self.denoise(sample, timestep, *args, **kwargs)
        self.clean_labels = clean.detach()
        labels = clean
        if self._prediction != "sample":
            a = self.signal(timestep)
            noise = (sample[:, self.n_image :].float() - a.sqrt() * clean) / (1 - a).sqrt()
            velocity = a.sqrt() * noise - (1 - a).sqrt() * clean
            labels = velocity if self._prediction == "v_prediction" else noise
        output = torch.cat([image, labels.to(image.dtype)], dim=1)
        return UNet2DConditionOutput(sample=output) if return_dict else (output,)
