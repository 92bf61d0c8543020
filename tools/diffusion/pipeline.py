"""The multi-task diffusion model (MTDM): draws an image, and its labels, from a prompt.

One self-contained diffusers pipeline. A prompt becomes the token states of the packaged MiniLM;
a small UNet denoises the channels of image and labels together, folded by a pixel-unshuffle. The
text enters twice: its tokens through cross-attention at the lowest resolution, their mean beside
the time embedding. A cosine schedule rescaled to zero terminal SNR with trailing steps (Lin et al.
2024), classifier-free guidance (Ho and Salimans 2022) in an interval of the steps only
(Kynkaanniemi et al. 2024).

The network predicts the velocity (Salimans and Ho 2022), the clean image, or what a linear denoiser
leaves of it: where there is less noise than a patch has of its own, its noisy value is the better
part of the answer, and the network adds the rest, scaled to unit variance (the preconditioning of
Karras et al. 2022, for each channel apart). The velocity holds all of the noise, so it needs more
channels at the first level than the folded image has.

Labels may lead: they are free of noise earlier than the image (`label_lead`), so that one run
decides the labels first and draws the image to them.

Steps may lie closer together where there is much noise (`spacing`). The layout of a scene is common
to so many patches that it is decided while the signal has a thousandth of a pixel's power; where
the first step jumps over that, all scenes come out as their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from memory import minilm
from memory.errors import SettingsError, WeightsError
from tools.data.drawn import Drawn
from tools.data.samples import Dense
from tools.diffusion import patch_pca
from tools.diffusion.guidance import Pull, actgen_weight, by_gradient
from tools.diffusion.label_codes import LabelCodes, restored, stored

MAX_TOKENS = 64
STEPS = 8
GUIDANCE = 2.0
GUIDANCE_INTERVAL = (0.0, 0.5)

Prediction = Literal["velocity", "clean", "remainder"]
PREDICTIONS: Mapping[Prediction, str] = {
    "velocity": "v_prediction",
    "clean": "sample",
    "remainder": "sample",
}
"""What the network predicts, and the scheduler's word for it."""

Levels = tuple[torch.Tensor, torch.Tensor]
"""Share of the signal's power in the noisy image and in its noisy labels, 0..1, (n,) each."""

Text = tuple[torch.Tensor, torch.Tensor]
"""Token states of prompts, (n, tokens, 384), and their mask, (n, tokens)."""

_LEAST_POWER = 1e-4

Encode = Callable[[Sequence[str]], tuple[torch.Tensor, torch.Tensor]]


def encode_prompts(texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token states, (n, 64, 384), and mask, (n, 64); padding is zero."""
    return minilm.load().token_states(texts, MAX_TOKENS)


class MTDMPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Text to image and labels.

    image_channels: 1 or 3; image_size: pixels, of a square's side or [height, width]; patch: side
    of the pixel-unshuffle; mean, std: of the pixels in 0..1, so that the network sees about unit
    variance; trained_on: free text; label_codes: of the labels that are drawn with the image, as
    `tools.diffusion.label_codes.stored` has them, or none; basis: of the patches that the network
    sees, as `tools.diffusion.patch_pca.stored` has it, or none; power: where the network predicts
    the remainder, (2, k), the mean square of every channel that it sees, and of what the patches
    around do not tell of it; else none; label_lead: share of the noise levels, from the least, in
    which labels are free of noise; noise_kept: of image and of labels, 0..1, what a step of drawing
    keeps of the noise that DDIM would, unless a call says otherwise: with less, pictures are calmer
    and vary less; spacing: of the steps of drawing, at least 1, see `times`.
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
        # Unions, since diffusers warns of other types that it cannot look into.
        power: Sequence[Sequence[float]] | None = None,
        label_lead: float = 0.0,
        noise_kept: Sequence[float] | None = None,
        spacing: float = 1.0,
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
            label_lead=label_lead,
            noise_kept=list(noise_kept or (1.0, 1.0)),
            spacing=spacing,
        )
        self._known: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one image, (channels, height, width)."""
        size = self.config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return (self.config.image_channels, height, width)

    @property
    def codes(self) -> LabelCodes:
        """How labels are coded; of no kind for a model that draws images alone."""
        return restored(self.config.label_codes)

    @cached_property
    def _basis(self) -> torch.Tensor | None:
        rows = patch_pca.restored(self.config.basis)
        return None if rows is None else torch.from_numpy(rows)

    @cached_property
    def _powers(self) -> torch.Tensor:
        """Return `power` so that its rows are laid over levels, (2, 1, k, 1, 1)."""
        return torch.tensor(self.config.power).clamp(min=_LEAST_POWER)[:, None, :, None, None]

    @property
    def prediction(self) -> Prediction:
        """What the network predicts."""
        if self.config.power:
            return "remainder"
        velocity = self.scheduler.config.prediction_type == PREDICTIONS["velocity"]
        return "velocity" if velocity else "clean"

    def within(self, x: torch.Tensor) -> torch.Tensor:
        """Return the part of folded images and labels that the network can draw."""
        return self._shown(self._seen(x))

    def _seen(self, x: torch.Tensor) -> torch.Tensor:
        """Return folded images and labels, (n, c, h, w), as the network sees them, (n, k, h, w)."""
        return x if self._basis is None else _mixed(self._basis.to(x), x)

    def _shown(self, seen: torch.Tensor) -> torch.Tensor:
        """Invert `_seen`, but for what the network does not see."""
        return seen if self._basis is None else _mixed(self._basis.T.to(seen), seen)

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Shape of the noise of one image and its labels, (c, height, width), before folding."""
        channels, height, width = self.image_shape
        return (channels + self.codes.n_channels, height, width)

    @property
    def n_image_channels(self) -> int:
        """Number of the network's channels that hold the image; those of labels follow."""
        return int(self.config.image_channels * self.config.patch**2)

    def fold(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Turn pixels and coded labels into the network's channels.

        images: float in 0..1, (n, c, h, w); labels: whitened channels of `codes`, or None.
        """
        whitened = (images - self.config.mean) / self.config.std
        if labels is not None:
            whitened = torch.cat([whitened, labels], dim=1)
        return pixel_unshuffle(whitened, self.config.patch)

    def _without_labels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Fold images whose labels are not known: averages take their place."""
        n_labels = self.codes.n_channels
        if not n_labels:
            return self.fold(pixels)
        return self.fold(pixels, pixels.new_zeros(len(pixels), n_labels, *pixels.shape[2:]))

    def unfold(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Invert `fold`: pixels, not clipped, and whitened channels of labels."""
        channels = self.config.image_channels
        flat = pixel_shuffle(x, self.config.patch)
        return flat[:, :channels] * self.config.std + self.config.mean, flat[:, channels:]

    def times(self, steps: int) -> torch.Tensor:
        """Return the times at which an image is drawn, falling, (at most `steps`,), int64.

        The i-th lies (i / steps) ** spacing of the way from pure noise: with 1 they are the
        trailing steps of Lin et al. 2024.
        """
        n_times = len(self.scheduler.alphas_cumprod)
        way = (np.arange(steps) / steps) ** self.config.spacing
        times = np.maximum(np.round(n_times * (1 - way)).astype(np.int64) - 1, 0)
        distinct: torch.Tensor = torch.from_numpy(times).unique(sorted=True).flip(0)
        return distinct.to(self.device)

    def levels(self, t: torch.Tensor) -> Levels:
        """Return how much of image and labels is seen at the times `t` of the scheduler, (n,)."""
        alphas = self.scheduler.alphas_cumprod.to(t.device)
        lead, last = self.config.label_lead, len(alphas) - 1
        if not lead:
            return alphas[t], alphas[t]
        of_image = (t / (1 - lead)).clamp(max=last).round().long()
        of_labels = ((t - lead * last) / (1 - lead)).clamp(min=0).round().long()
        return alphas[of_image], alphas[of_labels]

    def per_channel(self, levels: Levels) -> torch.Tensor:
        """Return the levels of every channel of folded images and labels, (n, c, 1, 1)."""
        n_labels = self.codes.n_channels * self.config.patch**2
        return _repeated(levels, (self.n_image_channels, n_labels))

    def add_noise(self, x: torch.Tensor, noise: torch.Tensor, levels: Levels) -> torch.Tensor:
        """Return folded images and labels, (n, c, h, w), with as much noise as the levels say."""
        a = self.per_channel(levels).to(x)
        return a.sqrt() * x + (1 - a).sqrt() * noise

    def predict(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        states: torch.Tensor,
        mask: torch.Tensor,
        levels: Levels | None = None,
    ) -> torch.Tensor:
        """Return the clean, folded images and labels that the network expects of noisy ones.

        x: (n, c, h, w); t: int64, (n,) or scalar; states: (n, tokens, 384); mask: (n, tokens);
        levels: of the noise, where they are not those of `t`.
        """
        return self._shown(self._denoised(self._seen(x), t, (states, mask), levels=levels))

    def _denoised(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        told: Text,
        untold: Text | None = None,
        guidance: float = 1.0,
        levels: Levels | None = None,
    ) -> torch.Tensor:
        """Return what the network expects of noisy images and labels, both as it sees them.

        told, untold: the prompts, and what guidance leads away from; None: no guidance.
        """
        a = _repeated(levels or self.levels(t.reshape(-1)), self._n_seen)
        scale, kept, added = (part.to(x) for part in self._parts_of(a))
        scaled = scale * x
        if untold is None:
            said = self._said(scaled, t, *told)
        else:
            states, mask = (torch.cat(both) for both in zip(told, untold, strict=True))
            said, without = self._said(torch.cat([scaled, scaled]), t, states, mask).chunk(2)
            said = without + guidance * (said - without)
        return kept * x + added * said

    def _said(
        self, x: torch.Tensor, t: torch.Tensor, states: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Return the network's output."""
        weights = mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * weights).sum(1) / weights.sum(1)
        said: torch.Tensor = self.unet(
            x, t, states, class_labels=pooled, encoder_attention_mask=mask
        ).sample
        return said

    def look(self, pixels: torch.Tensor, noise: torch.Tensor, step: int) -> None:
        """Let the network denoise photographs without labels, for who watches its activations.

        pixels: float in 0..1, (n, c, h, w); noise: of all of them, (1, *noise_shape); step: how
        much of it is in the image, 0 to 999. Where labels lead, theirs is all noise; otherwise they
        are noisy averages.
        """
        n = len(pixels)
        clean = self._without_labels(pixels)
        t = torch.full((n,), round(step * (1 - self.config.label_lead)))
        of_image, of_labels = self.levels(t)
        if self.config.label_lead:
            of_labels = torch.zeros_like(of_labels)
        levels = (of_image.to(self.device), of_labels.to(self.device))
        folded = pixel_unshuffle(noise, self.config.patch).expand(n, -1, -1, -1)
        noisy = self.add_noise(clean, folded, (of_image, of_labels))
        states, mask = (part.expand(n, *part.shape[1:]) for part in self._encode([""]))
        self.predict(
            noisy.to(self.device, self.unet.dtype), t.to(self.device), states, mask, levels
        )

    def _parts_of(self, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what scales the network's input, and how input and output make the clean image.

        a: levels of the channels that the network sees, (n, k, 1, 1), and so is each part.
        """
        one, none = torch.ones_like(a), torch.zeros_like(a)
        if self.prediction == "clean":
            return one, none, one
        if self.prediction == "velocity":
            return one, a.sqrt(), -(1 - a).sqrt()
        power, own = self._powers.to(a)
        kept = a.sqrt() * own / (a * own + (1 - a))
        left = (1 - kept * a.sqrt()) ** 2 * power + kept**2 * (1 - a)
        return (a * power + (1 - a)).rsqrt(), kept, left.sqrt()

    @cached_property
    def _n_seen(self) -> tuple[int, int]:
        """Return how many of the channels that the network sees are of the image, and of labels."""
        n = self.n_image_channels
        if self._basis is None:
            return n, self.unet.config.in_channels - n
        of_image = int((self._basis[:, :n] != 0).any(1).sum())
        return of_image, len(self._basis) - of_image

    @torch.inference_mode()
    def __call__(
        self,
        prompts: Sequence[str],
        noise: torch.Tensor,
        steps: int = STEPS,
        guidance: float = GUIDANCE,
        guidance_interval: tuple[float, float] = GUIDANCE_INTERVAL,
        pulls: Sequence[Pull] = (),
        noise_kept: Sequence[float] | None = None,
    ) -> Drawn:
        """Draw one image per prompt, with its labels.

        noise: standard normal, (n, *noise_shape), see `seeded_noise`; steps: network steps;
        guidance: 1 is none; guidance_interval: part of the steps, 0..1, in which guidance acts;
        pulls: one per prompt, all by the same critic and criterion, or none. The steps between are
        those of DDIM (Song et al. 2021), without noise of their own. Labels that lead are read when
        they have no noise left, and written again as clean codes, to which the image is drawn.
        noise_kept: as of the class; None: as the weights say.
        """
        told, untold = self._encode(prompts), self._encode([""] * len(prompts))
        folded = pixel_unshuffle(noise.to(self.device, self.unet.dtype), self.config.patch)
        # All that is between the noise and the picture is as the network sees it.
        x = clean = before = seen_noise = self._seen(folded)
        times = self.times(steps)
        of_image, of_labels = self.config.noise_kept if noise_kept is None else noise_kept
        keep = _repeated((torch.tensor([of_image]), torch.tensor([of_labels])), self._n_seen).to(
            x.device
        )
        read: tuple[Dense, Dense] | None = None
        for i, t in enumerate(self.progress_bar(times)):
            # What is pulled is always denoised after, so that it becomes a picture again.
            if pulls and i > 0:
                x = self._pulled(x, clean, seen_noise, times, i, pulls)
            way = i / len(times)
            guided = guidance != 1 and guidance_interval[0] <= way < guidance_interval[1]
            before = clean
            clean = self._denoised(x, t, told, untold if guided else None, guidance)
            if i + 1 < len(times):
                x = self._earlier(x, clean, t, times[i + 1], keep)
                if read is None and self._ends_labels(times[i + 1]):
                    read = self._read(clean, before)
                    x = self._written(x, read[0])
        pixels, _ = self.unfold(self._shown(clean.float()))
        images = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        if not self.codes.kinds:
            return Drawn(images)
        return Drawn(images, *(read or self._read(clean, before)))

    def _ends_labels(self, t: torch.Tensor) -> bool:
        """Return whether labels that lead have no noise left at a time."""
        lead = self.config.label_lead
        return bool(
            self.codes.kinds and lead and t <= lead * (len(self.scheduler.alphas_cumprod) - 1)
        )

    def _earlier(
        self,
        x: torch.Tensor,
        clean: torch.Tensor,
        t: torch.Tensor,
        following: torch.Tensor,
        keep: torch.Tensor,
    ) -> torch.Tensor:
        """Return noisy images of the time `t` at the following time, which has less noise.

        x, clean: as the network sees them; keep: `noise_kept` of every channel, (1, k, 1, 1).
        """
        a, less = (_repeated(self.levels(time.reshape(1)), self._n_seen) for time in (t, following))
        noise = (x.float() - a.sqrt() * clean) / (1 - a).sqrt()
        # What has not begun to be denoised keeps all of it.
        noise *= torch.where(less > a, keep, 1.0)
        return (less.sqrt() * clean + (1 - less).sqrt() * noise).to(x.dtype)

    def _pulled(
        self,
        x: torch.Tensor,
        clean: torch.Tensor,
        noise: torch.Tensor,
        times: torch.Tensor,
        step: int,
        pulls: Sequence[Pull],
    ) -> torch.Tensor:
        """Return the noisy images before a step, moved by guidance; labels stay.

        clean: what was expected of them one step earlier; times: of all steps. Images, labels and
        noise are as the network sees them.
        """
        n_image = self._n_seen[0]
        image, labels = x[:, :n_image], x[:, n_image:]
        weights = torch.tensor([pull.weight for pull in pulls], device=x.device, dtype=x.dtype)
        if pulls[0].by == "real":
            photographs = np.stack([p.photograph for p in pulls if p.photograph is not None])
            pixels = torch.from_numpy(photographs).to(x.device, x.dtype) / 255
            goal = self._seen(self._without_labels(pixels))[:, :n_image]
            alpha = self.levels(times[step])[0].to(x)
            as_noisy = alpha.sqrt() * goal + (1 - alpha).sqrt() * noise[:, :n_image]
            share = weights * actgen_weight(step, len(times))
            moved = image + share.view(-1, 1, 1, 1) * (as_noisy - image)
        else:
            moved = by_gradient(image, self._gradient(clean, pulls)[:, :n_image], weights)
        return torch.cat([moved, labels], dim=1)

    def _gradient(self, clean: torch.Tensor, pulls: Sequence[Pull]) -> torch.Tensor:
        """Return the gradient of the critic's criterion by expected clean images.

        Both are as the network sees them.
        """
        critic = pulls[0].critic
        with torch.inference_mode(mode=False), torch.enable_grad():
            draft = clean.float().clone().requires_grad_()
            pixels, channels = self.unfold(self._shown(draft))
            coded = channels.detach().cpu().numpy()
            labels = self.codes.decode(coded, coded)[0] if self.codes.kinds else {}
            classes = [pull.class_index for pull in pulls]
            value = critic.criterion(pulls[0].by, pixels.clamp(0, 1), classes, labels)
            (gradient,) = torch.autograd.grad(value.sum(), draft)
        return gradient.to(clean.dtype)

    def _read(self, clean: torch.Tensor, before: torch.Tensor) -> tuple[Dense, Dense]:
        """Return labels and the confidence in them; before: what was expected one step earlier."""
        labels, earlier = (self.unfold(self._shown(part.float()))[1] for part in (clean, before))
        return self.codes.decode(labels.cpu().numpy(), earlier.cpu().numpy())

    def _written(self, x: torch.Tensor, labels: Dense) -> torch.Tensor:
        """Return images with labels in the place of what their channels hold, as they are seen."""
        values, _ = self.codes.encode(labels, self.image_shape[1:])
        whitened = torch.from_numpy(values).to(x)
        seen = self._seen(self.fold(whitened.new_zeros(len(x), *self.image_shape), whitened))
        n_image = self._n_seen[0]
        return torch.cat([x[:, :n_image], seen[:, n_image:]], dim=1)

    def _encode(self, prompts: Sequence[str]) -> Text:
        """Encode each distinct prompt once."""
        for text in dict.fromkeys(prompts):
            if text not in self._known:
                states, mask = encode_prompts([text])
                self._known[text] = (states.to(self.unet.dtype), mask)
        found = [self._known[text] for text in prompts]
        return (
            torch.cat([states for states, _ in found]).to(self.device),
            torch.cat([mask for _, mask in found]).to(self.device),
        )


def new_pipeline(
    image_shape: tuple[int, int, int],
    patch: int,
    channels: Sequence[int],
    mean: float,
    std: float,
    codes: LabelCodes | None = None,
    prediction: Prediction = "velocity",
    basis: str = "",
    power: Sequence[Sequence[float]] = (),
    label_lead: float = 0.0,
) -> MTDMPipeline:
    """Build an untrained MTDM: one level per entry of `channels`, text attention at the lowest.

    basis, power, label_lead: as of `MTDMPipeline`; power is needed for the remainder. Raises
    SettingsError when the image cannot be folded by `patch` and halved once per level.
    """
    image_channels, height, width = image_shape
    plain = len(channels) - 1
    unit = patch * 2 ** (len(channels) - 1)
    if height % unit or width % unit:
        raise SettingsError(
            f"An MTDM with patch {patch} and {len(channels)} levels draws images whose sides are "
            f"multiples of {unit} pixels, not {width}x{height}. Choose another size of the "
            "target's images, or set pretrain.patch or pretrain.channels."
        )
    codes = codes or LabelCodes()
    rows = patch_pca.restored(basis)
    seen = (image_channels + codes.n_channels) * patch**2 if rows is None else len(rows)
    unet = UNet2DConditionModel(
        sample_size=(height // patch, width // patch),
        in_channels=seen,
        out_channels=seen,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * plain,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=minilm.DIMENSION,
        attention_head_dim=4,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=minilm.DIMENSION,
    )
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type=PREDICTIONS[prediction],
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    size = height if height == width else [height, width]
    return MTDMPipeline(
        unet,
        scheduler,
        image_channels,
        size,
        patch,
        mean,
        std,
        label_codes=stored(codes),
        basis=basis,
        power=power,
        label_lead=label_lead,
    )


def _mixed(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return channels (k) that are sums of channels (c), (n, k, h, w); weights: (k, c)."""
    # The same numbers as einsum's, in half of the time.
    mixed: torch.Tensor = (weights @ x.flatten(2)).unflatten(2, x.shape[2:])
    return mixed


def _repeated(levels: Levels, n_channels: tuple[int, int]) -> torch.Tensor:
    """Return one level for each channel of images and of labels, (n, c, 1, 1)."""
    columns = [
        level.float()[:, None].expand(-1, n) for level, n in zip(levels, n_channels, strict=True)
    ]
    return torch.cat(columns, dim=1)[..., None, None]


def load_pipeline(folder: Path, device: str = "cpu") -> MTDMPipeline:
    """Load a saved MTDM; raises WeightsError that says what is missing or damaged."""
    needed = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise WeightsError(
            f"The MTDM folder {folder} lacks {', '.join(missing)}. Train one with "
            "`shaping pretrain`, or point generator.weights to a folder that has them."
        )
    diffusers_logging.disable_progress_bar()
    try:
        pipeline: MTDMPipeline = MTDMPipeline.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    except Exception as error:  # diffusers and safetensors raise many types for a damaged file
        raise WeightsError(
            f"The MTDM in {folder} is damaged or of another version: {error} "
            "Restore the folder, or train it again with `shaping pretrain`."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    # On CPUs convolutions over channels-last images are about an eighth faster.
    pipeline.unet.to(memory_format=torch.channels_last)
    loaded: MTDMPipeline = pipeline.to(device)
    return loaded


BUNDLED = Path(__file__).parents[1] / "weights"


def weights_folder(weights: str) -> Path:
    """Return the folder that `bundled:NAME`, or a path, stands for."""
    _, bundled, name = weights.rpartition("bundled:")
    return BUNDLED / name if bundled else Path(weights)
