"""Shared data types: immutable, serialisable as JSON, without tensors, loggers or handles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

Share = Annotated[float, Field(ge=0, le=1)]

Value = TypeVar("Value")
Sparse = Annotated[Value, Field(exclude_if=lambda value: value is None or value in ((), {}))]
"""A field that is omitted from the JSON while it is None, () or {}."""

PULLS = ("entropy", "loss", "real")


def read_pull(text: str) -> tuple[str, float]:
    """Parse a text such as "entropy 0.05" into the criterion of a pull and its weight, 0..1.

    Raises ValueError for anything else.
    """
    by, _, weight = text.strip().partition(" ")
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if by not in PULLS or not 0 < value <= 1:
        raise ValueError(
            f"{text[:80]!r} is no pull; expected one of {', '.join(PULLS)} and a weight above 0, "
            "at most 1, as in 'entropy 0.05'"
        )
    return by, value


def _canonical_pull(text: str) -> str:
    by, weight = read_pull(text)
    return f"{by} {weight:g}"


PullText = Annotated[str, AfterValidator(_canonical_pull)]
"""Guidance of the sampler by the DSTM, as criterion and weight, e.g. "entropy 0.05".

See `tools.diffusion.guidance`.
"""


AdapterWeights = Annotated[dict[str, Annotated[float, Field(ge=-4, le=4)]], Field(max_length=16)]
"""Weights of LoRA adapters for the images of a prompt, by name; other adapters as in settings."""


class Record(BaseModel):
    """Base of all records: immutable, without unknown keys, NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return self.model_dump(mode="json")


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Return the dotted key of an error's first problem, "" for the whole, and its message."""
    problem = error.errors()[0]
    return ".".join(str(part) for part in problem["loc"]), problem["msg"]


def digest(value: Any) -> str:
    """Return a stable digest of a JSON value: 16 hex digits of SHA-256 of its sorted form."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Estimate(Record):
    """A figure with its 95% confidence interval and its number of samples."""

    value: float
    low: float
    high: float
    n: int = Field(ge=0)


class PromptSpec(Record):
    """A prompt of a plan: `count` images of one class."""

    id: str = Field(description="unique in the session, e.g. r003p07")
    text: str = Field(min_length=1, max_length=1000)
    class_name: str
    attributes: dict[str, str] = {}
    count: int = Field(ge=1)
    guidance: float | None = Field(None, ge=0, le=20, description="None: the generator's default")
    pull: Sparse[PullText | None] = Field(None, description="by the DSTM; None: not at all")
    adapters: Sparse[AdapterWeights | None] = Field(None, description="None: as settings say")
    why: str = Field("", max_length=500)


class Hypothesis(Record):
    """The hypothesis of a plan: the accuracy of a slice changes by about `expected_change`."""

    slice: str
    expected_change: float = Field(ge=-1, le=1)


class Verdict(Record):
    """The outcome of a hypothesis, from the report of its round."""

    hypothesis: Hypothesis
    before: Estimate | None
    after: Estimate | None
    change: float | None
    effect: Sparse[Estimate | None] = Field(
        None,
        description="the change that is attributed to the images; see `eval.effects`",
    )
    held: bool | None = Field(description="None: undecided, or not measured in both reports")

    @property
    def outcome(self) -> str:
        """The outcome in words."""
        if self.change is None:
            return "was not measured"
        return {True: "held", False: "did not hold", None: "is undecided"}[self.held]


class EarlierImages(Record):
    """Images of earlier rounds, selected by attributes of their prompts, and a weight factor."""

    where: dict[str, str] = {}
    rounds: tuple[int, ...] = Field((), description="all before this one where none is named")
    weight: Share = Field(description="0 leaves them out; holds until a later plan changes it")


class LaterRound(Record):
    """A scheduled round: its number of images, and least shares by slice, e.g. "wafer=poly"."""

    n_images: int = Field(ge=1)
    shares: Sparse[dict[str, Share]] = Field({}, max_length=10)


class Levers(Record):
    """The quantities that a plan sets beside prompts, as described to models; None: as set."""

    n_images: int | None = Field(
        None, ge=1, description="size of the round; what it leaves, later rounds may make"
    )
    guidance: float | None = Field(None, ge=0, le=20, description="of the generator by the text")
    synthetic_share: Share | None = Field(
        None, description="share of the generated images in what a class is trained on"
    )
    steps: int | None = Field(None, ge=1, description="of the training")
    learning_rate: float | None = Field(None, gt=0, description="of the training")
    earlier: tuple[EarlierImages, ...] = Field(
        (), description="images of earlier rounds that count less, or not at all"
    )
    later: Sparse[tuple[LaterRound, ...]] = Field((), description="schedule of all rounds after")


class Plan(Record):
    """The prompts of a round, with their hypothesis and reason."""

    round: int = Field(ge=1)
    author: str
    prompts: tuple[PromptSpec, ...] = Field(min_length=1)
    hypothesis: Hypothesis | None = None
    why: str = ""
    warnings: tuple[str, ...] = ()
    trials: Sparse[tuple[JsonValue, ...]] = Field((), description="of earlier versions")
    levers: Sparse[Levers | None] = None

    @property
    def n_images(self) -> int:
        """The number of images that the plan requests."""
        return sum(prompt.count for prompt in self.prompts)


class Shard(Record):
    """A parquet file of generated images; `file` is relative to the session folder."""

    file: str
    n_images: int = Field(ge=1)
    sha256: str


class PromptQuality(Record):
    """The result of the audit for the images of one prompt."""

    prompt_id: str
    n_made: int = Field(ge=0)
    n_kept: int = Field(ge=0)
    mean_weight: Share


class Batch(Record):
    """The generated images of a round; the shards in order are the manifest."""

    round: int = Field(ge=1)
    job_id: str
    shards: tuple[Shard, ...]
    quality: tuple[PromptQuality, ...]

    @property
    def n_made(self) -> int:
        """The number of generated images."""
        return sum(q.n_made for q in self.quality)

    @property
    def n_kept(self) -> int:
        """The number of images whose label the audit confirms."""
        return sum(q.n_kept for q in self.quality)


class Selection(Record):
    """The selection of a round's images for training; their ids are in `file`."""

    method: str
    n_candidates: int = Field(ge=1, description="generated images of the round")
    n_chosen: int = Field(ge=1)
    file: str = Field(description="relative to the session folder")
    sha256: str


class ShareScore(Record):
    """A candidate share of generated images, and the main figure on feedback with it."""

    share: Share
    score: float


class Training(Record):
    """A training of the DSTM on the images of all rounds so far; round 0: on photographs alone."""

    round: int = Field(ge=0)
    job_id: str
    model: str = Field(description="folder with model.safetensors and model.json, relative")
    n_images: int = Field(ge=0, description="generated images")
    n_real: Sparse[int | None] = Field(None, ge=1, description="photographs")
    effective_size: Sparse[float | None] = Field(
        None,
        gt=0,
        description="effective sample size of the weighted training images (Kish 1965)",
    )
    synthetic_share: Sparse[Share | None] = Field(
        None, description="share of generated images that was chosen; None: as in settings"
    )
    shares: Sparse[tuple[ShareScore, ...]] = Field((), description="candidates in this round")
    changes: Sparse[dict[str, Any]] = Field({}, description="settings that the plan changes")
    folds: Sparse[int | None] = Field(
        None,
        ge=1,
        description="further models, each of which predicts photographs held out of its training",
    )
    n_steps: int = Field(ge=0, description="0: a given model, not trained")
    final_loss: float
    sha256: str
    selection: Sparse[Selection | None] = Field(None, description="None: all images are used")


class SliceScore(Record):
    """Mean score on the photographs that share `attributes`, with its interval."""

    key: str = Field(description="attributes as 'wafer=poly brightness=dark', sorted")
    attributes: dict[str, str]
    accuracy: Estimate
    n_correct: int = Field(ge=0)


class Confusion(Record):
    """A class and the wrong class that is predicted most often for its photographs."""

    true: str
    predicted: str
    n: int = Field(ge=1, description="photographs of `true` that are predicted as `predicted`")
    n_photographs: int = Field(ge=1, description="photographs of `true`")


class Report(Record):
    """The scores of a model on a split of photographs."""

    round: int = Field(ge=0)
    split: str
    metrics: dict[str, Estimate] = Field(description="accuracy, miou, ...; the main one first")
    slices: tuple[SliceScore, ...]
    worst_slice: str | None = None
    confusions: Sparse[tuple[Confusion, ...]] = Field(
        (), description="for classification, the most frequent error first"
    )

    @property
    def main_metric(self) -> str:
        """Name of the main figure: balanced accuracy, or else the first metric."""
        preferred = "balanced_accuracy"
        return preferred if preferred in self.metrics else next(iter(self.metrics), preferred)

    @property
    def main_figure(self) -> Estimate | None:
        """The estimate of the main metric; None where nothing was measured."""
        return self.metrics.get(self.main_metric)

    @property
    def worst(self) -> SliceScore | None:
        """The slice `worst_slice` with its score."""
        return next((score for score in self.slices if score.key == self.worst_slice), None)


class Trait(Record):
    """An attribute value that is more frequent in a cluster than among all photographs."""

    attribute: str
    value: str
    share: Share = Field(description="share of the members with this value")
    lift: float = Field(ge=0, description="this share over that among all photographs")


class Fixable(Record):
    """The probability that images of a failure's prompts fix it, see `eval.fixable`.

    chance: probability that an image is drawn as asked and helps, the product of the other two.
    """

    chance: Estimate
    drawable: Estimate = Field(description="share of images that the audit keeps")
    useful: Estimate = Field(description="share of kept images that help the failing photographs")

    @property
    def verdict(self) -> str:
        """The conclusion that the intervals support."""
        if self.drawable.high < 0.5:
            return "not drawable"
        if self.useful.high < 0.5:
            return "hard"
        return "fixable" if self.chance.low >= 0.5 else "not known yet"


class Failure(Record):
    """A slice or cluster on which the model is significantly worse than on the rest.

    A cluster is a group of photographs that look alike: its `slice` is a generated name, `traits`
    are the attribute values that its members share, and `attributes` the same as a mapping.
    """

    id: str
    slice: str
    attributes: dict[str, str]
    n: int = Field(ge=1)
    n_wrong: int = Field(ge=0)
    error_rate: Estimate
    rest_error_rate: Share = Field(
        description="of all others outside of failing slices; for a cluster or direction, of "
        "images that no slice explains; for a direction, within its class"
    )
    p_value: Share
    q_value: Share = Field(description="Benjamini-Hochberg over all tested slices")
    significant: bool
    examples: tuple[str, ...] = Field((), description="ids of wrong photographs, worst first")
    picture: str | None = Field(None, description="montage PNG, relative to the session folder")
    kind: Literal["slice", "cluster", "direction"] = "slice"
    members: tuple[str, ...] = Field((), description="photograph ids of a cluster or direction")
    traits: tuple[Trait, ...] = ()
    prompts: tuple[str, ...] = Field((), description="texts of the nearest prompts so far")
    agreements: dict[str, float] = Field(
        {}, description="influence of the round's prompts by id, see `eval.credit`"
    )
    fixable: Fixable | None = Field(None, description="None: no image of its prompts exists yet")

    @property
    def wrong(self) -> str:
        """The number of wrong photographs or, for scores of pixels, their mean score."""
        if abs(self.error_rate.value * self.n - self.n_wrong) < 1e-6:
            return f"{self.n_wrong} of {self.n} wrong"
        return f"{self.n}, mean score {1 - self.error_rate.value:.2f}"

    @property
    def words(self) -> str:
        """The slice, or the common traits of a cluster."""
        if self.kind == "slice":
            return self.slice
        common = ", ".join(f"{t.attribute}={t.value} (x{t.lift:.1f})" for t in self.traits)
        return f"{self.slice}: {common or 'photographs that look alike'}"


class Credit(Record):
    """The credit of a prompt for a slice: shrunk change of its accuracy per 100 images."""

    prompt_id: str
    slice: str
    n_images: int = Field(ge=0)
    change_per_100: float
    error: Sparse[float | None] = Field(
        None, description="standard error of change_per_100; None in records before version 2"
    )

    @property
    def change(self) -> float:
        """The change of the slice's accuracy that is attributed to all images of the prompt."""
        return self.change_per_100 * self.n_images / 100


class Lesson(Record):
    """A sentence to recall in later sessions, with the slice and outcome that it is based on."""

    id: str
    round: int = Field(ge=0)
    text: str = Field(max_length=600)
    slice: str | None = None
    held: bool | None = None


class Round(Record):
    """The records of a round; parts are None until their stage has ended.

    Round 0 is the baseline, a DSTM trained on photographs alone: it has no plan and no images.
    """

    number: int = Field(ge=0)
    plan: Plan | None = None
    batch: Batch | None = None
    training: Training | None = None
    report: Report | None = None
    failures: tuple[Failure, ...] = ()
    credits: tuple[Credit, ...] = ()
    verdict: Verdict | None = None
    seconds: dict[str, float] = Field({}, description="time per stage: generate, train, ...")
    fallbacks: int = Field(0, ge=0)

    @property
    def main_figure(self) -> Estimate | None:
        """The main figure of the report; None without one."""
        return self.report.main_figure if self.report else None

    @property
    def is_inspected(self) -> bool:
        """Whether the model was inspected for failures, found or not."""
        return bool(self.failures) or "inspect" in self.seconds

    @property
    def label(self) -> str:
        """The number and, for round 0, the kind of its model."""
        if self.number:
            return str(self.number)
        is_given = self.training is not None and self.training.n_steps == 0
        return "0 (your model)" if is_given else "0 (real only)"


def slice_key(attributes: Mapping[str, str]) -> str:
    """Return the canonical name of a slice, e.g. 'brightness=dark wafer=poly'."""
    return " ".join(f"{key}={attributes[key]}" for key in sorted(attributes))
