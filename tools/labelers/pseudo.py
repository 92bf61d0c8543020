"""The labeler `pseudo`: pseudo-labels by models of transformers in local folders.

Segmentation: a mapping converts the model's classes to those of the target; pixels whose most
probable class is not mapped are unknown. Depth: the output of a model has no unit unless it was
trained on metres, so the options must give its scale. Weights are read from safetensors only, and
code inside a folder is never run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from memory.errors import SettingsError, unknown
from memory.yaml_text import parse_yaml
from tools.data.samples import VOID, Dense, Images
from tools.generators import Generator
from tools.labelers.depth_unit import DepthOutput, DepthUnit, check_scale
from tools.models.digests import identity_of
from tools.models.folders import require_files
from tools.plugins import read_options
from tools.tasks import dense

_METRIC = ("zoedepth",)


class PseudoSettings(DepthUnit):
    """Options of the labeler; at least one of the two models is required.

    Attributes:
        segmentation, depth: Folders of the models; None: no such model.
        mapping: Classes of the target, or "void", by class of the segmentation model, or the path
            of a YAML file of these; None: classes of equal name.
    """

    segmentation: str | None = None
    mapping: str | dict[str, str] | None = None
    depth: str | None = None


@dataclass(frozen=True)
class Pseudo:
    """A `Labeler`.

    Attributes:
        options: Options of the labeler.
        segmenter, estimator: Models for segmentation and depth; None: no such model.
        to_target: float32, (classes of the model, classes of the target + 1), 0 or 1; the last
            column is unknown.
    """

    options: PseudoSettings
    segmenter: dense.DenseTransformer | None
    to_target: torch.Tensor
    estimator: dense.DenseTransformer | None

    @property
    def kinds(self) -> Sequence[str]:
        """Return the kinds of labels that have a model."""
        models = {"segmentation": self.segmenter, "depth": self.estimator}
        return [kind for kind, model in models.items() if model is not None]

    @property
    def identity(self) -> str:
        """Return a digest of weights, mapping and scale."""
        options = self.options.model_dump(exclude={"segmentation", "depth", "mapping"})
        models = [model for model in (self.segmenter, self.estimator) if model]
        return identity_of("pseudo", [options, self.to_target.tolist()], models)

    def label(self, images: Images) -> tuple[Dense, Dense]:
        """Return labels, and the probability of each pixel's class; depth has no confidence."""
        labels: dict[str, NDArray[Any]] = {}
        confidence: dict[str, NDArray[np.float32]] = {}
        if self.segmenter is not None:
            parts = [self._classes(x) for x in dense.outputs_of(self.segmenter, images)]
            labels["segmentation"] = np.concatenate([ids for ids, _ in parts])
            confidence["segmentation"] = np.concatenate([probability for _, probability in parts])
        if self.estimator is not None:
            outputs = dense.outputs_of(self.estimator, images)
            labels["depth"] = np.concatenate([self._metres(x) for x in outputs])
        return labels, confidence

    def _classes(self, logits: torch.Tensor) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        by_model = logits.float().softmax(1)
        by_target = torch.einsum("nkhw,kc->nchw", by_model, self.to_target.to(by_model))
        probability, ids = by_target.max(1)
        ids[ids == by_target.shape[1] - 1] = VOID
        return ids.byte().cpu().numpy(), probability.cpu().numpy()

    def _metres(self, logarithms: torch.Tensor) -> NDArray[np.float32]:
        # `DenseTransformer` clamps non-positive outputs to its minimum.
        outputs = logarithms[:, 0].float().exp()
        metres = self.options.metres(outputs, outputs > 1.01 * dense.LEAST_M)
        return metres.cpu().numpy()


def build(
    generator: Generator, pixel_classes: Sequence[str], device: str = "cpu", **options: object
) -> Pseudo:
    """Load the models of `PseudoSettings`.

    Raises:
        SettingsError: An option, the mapping or a scale is invalid.
        WeightsError: A model cannot be loaded.
    """
    chosen = read_options("labeler.options", PseudoSettings, options)
    if chosen.segmentation is None and chosen.depth is None:
        raise SettingsError(
            "The labeler 'pseudo' needs a model: set labeler.options={segmentation: FOLDER} or "
            "{depth: FOLDER}."
        )
    segmenter = estimator = None
    to_target = torch.zeros(0, len(pixel_classes) + 1)
    if chosen.segmentation is not None:
        segmenter = _load(chosen.segmentation, "semantic segmentation", device)
        to_target = _to_target(segmenter, chosen.mapping, pixel_classes)
    if chosen.depth is not None:
        estimator = _load(chosen.depth, "depth estimation", device)
        chosen = chosen.model_copy(update={"depth_output": _depth_output(estimator, chosen)})
    return Pseudo(chosen, segmenter, to_target, estimator)


def _load(path: str, head: dense.Head, device: str) -> dense.DenseTransformer:
    folder = Path(path).expanduser()
    advice = "Save one there with save_pretrained(FOLDER)."
    files = ("config.json", "model.safetensors")
    require_files(folder, files, f"The trained model for {head}", advice)
    return dense.load_trained(folder, head).to(device).eval()


def _to_target(
    segmenter: dense.DenseTransformer,
    mapping: str | dict[str, str] | None,
    pixel_classes: Sequence[str],
) -> torch.Tensor:
    """Return the class mapping as a matrix, see `Pseudo.to_target`."""
    config: Any = segmenter.network.config
    names = [str(config.id2label[i]) for i in range(len(config.id2label))]
    columns = [*pixel_classes, "void"]
    if not pixel_classes:
        raise SettingsError("The target has no classes of pixels that a segmentation could name.")
    if mapping is None:
        by_name = {name.lower(): name for name in pixel_classes}
        given: Mapping[str, str] = {n: by_name[n.lower()] for n in names if n.lower() in by_name}
    else:
        given = _read_mapping(mapping)
    for of_model, of_target in given.items():
        if of_model not in names:
            raise SettingsError(f"The mapping: {unknown('class of the model', of_model, names)}")
        if of_target not in columns:
            problem = unknown("class of the target", of_target, columns)
            raise SettingsError(f"The mapping: {problem}")
    if not set(given.values()) - {"void"}:
        raise SettingsError(
            f"No class of the model ({', '.join(names)}) is one of the target "
            f"({', '.join(pixel_classes)}). Set labeler.options.mapping to a YAML file with lines "
            "of MODEL CLASS: TARGET CLASS."
        )
    table = torch.zeros(len(names), len(columns))
    for row, name in enumerate(names):
        table[row, columns.index(given.get(name, "void"))] = 1
    return table


def _read_mapping(mapping: str | dict[str, str]) -> Mapping[str, str]:
    if not isinstance(mapping, str):
        return mapping
    try:
        values = parse_yaml(Path(mapping).expanduser().read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"The mapping {mapping} cannot be read: {error}.") from error
    if not isinstance(values, dict):
        raise SettingsError(f"The mapping {mapping} has no lines of MODEL CLASS: TARGET CLASS.")
    return {str(key): str(value) for key, value in values.items()}


def _depth_output(estimator: dense.DenseTransformer, options: PseudoSettings) -> DepthOutput:
    """Return the unit of the model's output; raises SettingsError if it is unknown."""
    config: Any = estimator.network.config
    metric = config.model_type in _METRIC or (
        getattr(config, "depth_estimation_type", None) == "metric"
    )
    if options.depth_output is None and not metric:
        raise SettingsError(
            f"The output of the depth model {options.depth} has no known unit. Set it with "
            "labeler.options.depth_output: metres, or linear or inverse with depth_scale, which is "
            "multiplied with, or divided by, the output to give metres."
        )
    output = options.depth_output or "metres"
    check_scale(output, options.depth_scale)
    return output
