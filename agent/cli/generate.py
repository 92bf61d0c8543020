"""`shaping generate`: a few images from one prompt, without a session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent.config.settings import Settings
from agent.loop.components import Components
from agent.steering.lexicon import Lexicon
from eval.montage import save_montage
from eval.report.text import plural
from memory.errors import SettingsError
from memory.files import write_bytes
from memory.user_folders import refuse_taken, writing
from tools.data.drawn import ImageRequest
from tools.data.samples import Samples
from tools.data.shards import encode_label, encode_png
from tools.generators import undrawn
from tools.look_at import labelled_pictures

if TYPE_CHECKING:
    from rich.console import Console

MONTAGE_PX = 800


def generate(
    settings: Settings, prompt: str, n_images: int, folder: Path, console: Console
) -> Path:
    """Write images of a prompt and a montage of them; return the montage's path.

    Labels drawn with the images are written beside them, encoded as in `tools.data.shards`, and
    shown in colours in the montage.

    Args:
        settings: Settings of the generator.
        prompt: The prompt.
        n_images: Number of images, at least 1.
        folder: Folder of the PNG files.
        console: Prints recognised attributes, and words and tokens that the generator ignores.

    Raises:
        SettingsError: The prompt is empty, the count is below 1, or a file of the user in the
            folder would be overwritten.
    """
    if not prompt.strip() or n_images < 1:
        raise SettingsError("Give a prompt that is not empty and a number of images of at least 1.")
    refuse_taken(folder, [*(f"{i:04d}.png" for i in range(n_images)), "montage.png"])
    components = Components(settings)
    target, generator = components.target, components.generator
    console.print(target.notice, style="dim", markup=False, highlight=False, soft_wrap=True)
    n_tokens = generator.count_tokens(prompt)
    if n_tokens > generator.max_tokens:
        console.print(
            f"[yellow]Warning:[/yellow] the prompt has {n_tokens} tokens; the generator reads "
            f"only the first {generator.max_tokens}."
        )
    if idle := undrawn(generator, prompt):
        console.print(
            f"[yellow]Warning:[/yellow] the generator {generator.name} cannot draw "
            f"{', '.join(idle)}; these words have no effect."
        )
    named = target.vocabulary.parse(prompt)
    words = ", ".join(f"{key}={value}" for key, value in named.items())
    console.print(f"Recognised: {words or 'nothing of the vocabulary'}", highlight=False)
    if (target.vocabulary.class_attribute or "") not in {"", *named}:
        # A generator also draws images of words that it was not trained on.
        classes = ", ".join(target.vocabulary.classes)
        message = f"It names none of the classes: {classes}"
        if meant := Lexicon(target.vocabulary).class_of(prompt):
            message += f". If {meant} is meant, use that word, which the MTDM has learnt"
        console.print(message, highlight=False, markup=False)
    seed = settings.session.seed
    requests = [ImageRequest(prompt, "generate", i, seed) for i in range(n_images)]
    drawn = generator.draw(requests)
    samples = Samples(
        images=drawn.images,
        classes=np.zeros(n_images, np.int64),
        attributes=[named] * n_images,
        ids=[f"{i:04d}" for i in range(n_images)],
        labels=drawn.labels,
    )
    files = {f"{name}.png": encode_png(samples.images[i]) for i, name in enumerate(samples.ids)}
    for kind, values in samples.labels.items():
        for i, name in enumerate(samples.ids):
            files[f"{name}.{kind}.png"] = encode_label(kind, values[i])
    montage = folder / "montage.png"
    pictures = labelled_pictures(samples, list(samples.labels), target.pixel_classes)
    columns = max(1, min(8, n_images, MONTAGE_PX // pictures.shape[3]))
    with writing(folder, [*files, montage.name], replaces=r"\d{4,}(\..+)?\.png"):
        for name, data in files.items():
            write_bytes(folder / name, data)
        save_montage(montage, pictures, None, columns, 2)
    size = plural(n_images, "image")
    console.print(f"{size} in {folder}", markup=False, highlight=False, soft_wrap=True)
    return montage
