"""`shaping generate`: a few images from one prompt, without a session."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from agent.settings import Settings
from agent.workbench import build_generator, build_target, choose_device
from eval.montage import save_montage
from memory.errors import SettingsError
from memory.files import write_atomic
from tools.generators import ImageRequest

if TYPE_CHECKING:
    from rich.console import Console


def generate(
    settings: Settings, prompt: str, n_images: int, folder: Path, console: Console
) -> Path:
    """Write `n_images` PNGs and a montage of a prompt into `folder`; return the montage's path.

    Says which attributes the vocabulary recognises in the prompt, and warns when it is longer
    than the generator reads. Raises SettingsError for an empty prompt or a count below 1.
    """
    if not prompt.strip() or n_images < 1:
        raise SettingsError("Give a prompt that is not empty and a number of images of at least 1.")
    target = build_target(settings)
    generator = build_generator(settings, target, choose_device(settings))
    console.print(f"[dim]{target.notice}[/dim]", highlight=False)
    n_tokens = generator.count_tokens(prompt)
    if n_tokens > generator.max_tokens:
        console.print(
            f"[yellow]Warning:[/yellow] the prompt has {n_tokens} tokens; the generator reads "
            f"only the first {generator.max_tokens}."
        )
    named = target.vocabulary.parse(prompt)
    words = ", ".join(f"{key}={value}" for key, value in named.items())
    console.print(f"Recognised: {words or 'nothing of the vocabulary'}", highlight=False)
    seed = settings.session.seed
    requests = [ImageRequest(prompt, "generate", i, seed) for i in range(n_images)]
    images = generator.draw(requests).images
    for i, image in enumerate(images):
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        write_atomic(folder / f"{i:04d}.png", partial(Image.fromarray(pixels).save, format="PNG"))
    montage = folder / "montage.png"
    save_montage(montage, images, None, min(8, n_images), 2)
    console.print(f"{n_images} images in {folder}", highlight=False)
    return montage
