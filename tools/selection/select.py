"""Selection of a round's images before training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save

from memory.errors import WeightsError
from memory.files import write_bytes
from memory.records import Round, Selection, digest
from tools import selection
from tools.data.jobs import job_id, round_folder, run_once
from tools.data.samples import Pool, Samples, parts_of
from tools.data.selected import FILE, write_choice
from tools.data.stored_images import StoredImages
from tools.models import criteria
from tools.models.criteria import Dstm, load_dstm
from tools.models.embeddings import embed_by_dstm
from tools.selection import Candidates, Learner
from tools.settings import SelectionSettings
from tools.tasks import Minibatch

STATE = "selection.safetensors"
# Number of latest DSTMs for the variance of gradients.
N_CHECKPOINTS = 3
_BATCH = 64


def select_images(
    round: int,  # noqa: A002 (the name of the record's field)
    session_folder: Path,
    past: Sequence[Round],
    settings: SelectionSettings,
    seed: int,
    memory_folder: Path,
    device: str = "cpu",
) -> Selection | None:
    """Select images of a round, once; return None if all are used.

    The selection is stored in rounds/NNN/selection.json, beside the state of a method that learns,
    so that a resumed or forked session continues identically. Methods that need a DSTM, or several
    for the variance of gradients, select at random until these have been trained.

    Args:
        round: Round number.
        session_folder: Folder of the session.
        past: Rounds of the session up to this one; their selections are kept.
        settings: Method, and share of images to select.
        seed: Seed of the session.
        memory_folder: Folder for the state of methods that learn, shared by sessions.
        device: Torch device.

    Raises:
        WeightsError: The stored state of a method is damaged.
    """
    current = next(r for r in past if r.number == round)
    if settings.keep == 1 or current.batch is None:
        return None
    batch = current.batch
    trainings = [r.training for r in past if r.training and r.number < round][-N_CHECKPOINTS:]
    arguments = {
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "shards": [[Path(shard.file).name, shard.sha256] for shard in batch.shards],
        "models": [training.sha256 for training in trainings],
    }
    name = job_id(session_folder.name, round, "select_images", arguments)
    job, folder = session_folder / "jobs" / name, round_folder(session_folder, round)
    shared = memory_folder / f"{settings.method.replace(':', '.')}.safetensors"

    def work() -> dict[str, Any]:
        method = selection.build(settings.method)
        if isinstance(method, Learner):
            _restore(method, job, round, session_folder, shared if settings.remember else None)
        shards = [session_folder / shard.file for shard in batch.shards]
        generated = StoredImages(shards, chosen=False)
        n = max(1, int(np.floor(settings.keep * len(generated) + 0.5)))
        n_models = 2 if "variance" in method.needs else 1 if method.needs else 0
        chooser = method if len(trainings) >= n_models else selection.build("random")
        if chooser is method:
            models = [_load(session_folder / t.model, device) for t in trainings]
            candidates = _measure(method.needs, generated, models, session_folder, round, past)
        else:
            candidates = Candidates(audit=generated.weights)
        rows = chooser.choose(candidates, n, int(digest([seed, round, "selection"]), 16))
        if isinstance(method, Learner):
            state = {name: value.contiguous() for name, value in method.state().items()}
            write_bytes(folder / STATE, save(state))
        record = Selection(
            method=chooser.name,
            n_candidates=len(generated),
            n_chosen=len(rows),
            file=(folder / FILE).relative_to(session_folder).as_posix(),
            sha256=write_choice(folder, chooser.name, generated.ids, rows.tolist()),
        )
        return record.to_json()

    if not (folder / FILE).exists():
        (job / "result.json").unlink(missing_ok=True)
    record = Selection.model_validate(run_once(job, arguments, work))
    if settings.remember and (folder / STATE).exists():
        write_bytes(shared, (folder / STATE).read_bytes())
    return record


def _restore(
    method: Learner,
    job: Path,
    round_number: int,
    session_folder: Path,
    shared: Path | None,
) -> None:
    """Restore a method's state from the session's last selection, or else from earlier sessions.

    The state is copied first, since another session may change the shared file before an
    interrupted selection is repeated.
    """
    earlier = [round_folder(session_folder, n) / STATE for n in range(round_number - 1, 0, -1)]
    last = next((path for path in earlier if path.exists()), None)
    start = job / "start.safetensors"
    if not start.exists():
        source = last or (shared if shared and shared.exists() else None)
        write_bytes(start, source.read_bytes() if source else b"")
    data = start.read_bytes()
    if not data:
        return
    try:
        method.restore(load(data), same_session=last is not None)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise WeightsError(
            f"{last or shared} is damaged or of another version: {error}. Delete this file and "
            f"{start}, and run the same command again: the method starts untrained."
        ) from error


def _load(folder: Path, device: str) -> Dstm:
    dstm = load_dstm(folder, device)
    dstm.model.requires_grad_(requires_grad=False)
    return dstm


def _measure(
    needs: Sequence[str],
    samples: Pool,
    models: Sequence[Dstm],
    session_folder: Path,
    round_number: int,
    past: Sequence[Round],
) -> Candidates:
    """Return the measures of a round's images by the latest DSTMs and the previous rounds."""
    scores = [r.main_figure.value for r in past if r.main_figure and r.number < round_number]
    measures: dict[str, Any] = {}
    if "entropy" in needs or "margin" in needs:
        measures |= _uncertainty(models[-1], samples)
    if "features" in needs:
        embed = embed_by_dstm(models[-1].model)

        def features_of(pool: Pool) -> NDArray[np.float64]:
            return np.concatenate([embed(part.images) for part in parts_of(pool, _BATCH)])

        features = measures["features"] = features_of(samples)
        earlier = [
            session_folder / shard.file
            for r in past
            if r.batch and r.number < round_number
            for shard in r.batch.shards
        ]
        known = features_of(StoredImages(earlier)) if earlier else features[:0]
        measures["chosen_features"] = known
    if "variance" in needs:
        measures["variance"] = variance_of_gradients(models, samples)
    if "credit" in needs:
        measures["credit"] = _credit(samples, past)
    return Candidates(
        audit=samples.weights,
        score=scores[-1] if scores else None,
        gain=scores[-1] - scores[-2] if len(scores) > 1 else None,
        **measures,
    )


def _pixels(samples: Samples) -> torch.Tensor:
    return torch.from_numpy(samples.images).float() / 255


def _device_of(dstm: Dstm) -> torch.device:
    return next(dstm.model.parameters()).device


@torch.inference_mode()
def _uncertainty(dstm: Dstm, samples: Pool) -> dict[str, NDArray[np.float64]]:
    parts: dict[str, list[NDArray[np.float64]]] = {"entropy": [], "margin": []}
    for part in parts_of(samples, _BATCH):
        outputs = dstm.model(_pixels(part).to(_device_of(dstm)))
        for name, measure in (("entropy", criteria.entropy), ("margin", criteria.margin)):
            parts[name].append(measure(dstm.task, outputs).double().cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def variance_of_gradients(models: Sequence[Dstm], samples: Pool) -> NDArray[np.float64]:
    """Return the variance of gradients (Agarwal et al. 2022), (n,), standardised by class.

    The variance over models of the loss gradient with respect to each pixel, averaged over the
    image, in standard deviations from the mean of the image's class.

    Args:
        models: Checkpoints, at least two.
        samples: n images with their labels.
    """
    parts = []
    for part in parts_of(samples, _BATCH):
        gradients: list[torch.Tensor] = []
        for dstm in models:
            images = _pixels(part).to(_device_of(dstm)).requires_grad_()
            batch = Minibatch(images, dstm.task.labels(part).to(images.device))
            losses = criteria.loss(dstm.task, dstm.model(images), batch, dstm.settings)
            gradients += torch.autograd.grad(losses.sum(), images)
        spread = torch.stack(gradients).var(0, correction=0).flatten(1).mean(1)
        parts.append(spread.double().cpu().numpy())
    values = np.concatenate(parts)
    for number in np.unique(samples.classes):
        rows = samples.classes == number
        values[rows] = (values[rows] - values[rows].mean()) / (values[rows].std() + 1e-12)
    return values


def _credit(samples: Pool, past: Sequence[Round]) -> NDArray[np.float64]:
    """Return the mean credit of the slices of each image in earlier rounds, (n,); 0: none."""
    gains: dict[str, list[float]] = {}
    slices: dict[str, dict[str, str]] = {}
    for done in past:
        if done.report:
            slices |= {part.key: part.attributes for part in done.report.slices}
        for credit in done.credits:
            gains.setdefault(credit.slice, []).append(credit.change_per_100)
    means = {name: float(np.mean(values)) for name, values in gains.items() if name in slices}

    def credit_of(attributes: dict[str, str]) -> float:
        shared = [m for name, m in means.items() if slices[name].items() <= attributes.items()]
        return float(np.mean(shared)) if shared else 0.0

    parts = parts_of(samples, _BATCH)
    return np.array([credit_of(dict(known)) for part in parts for known in part.attributes])
