"""Does credit estimate the effect of a prompt? Compared with retraining without it.

    python -m benchmarks.credit --learner head --cases 20
    python -m benchmarks.credit --learner dstm --cases 3

A small case: photographs of the generator split of elpv at half size serve as drawn images. Twelve
prompts (wafer, brightness, class) of 16 images each are added to 96 others; four prompts, chosen by
the seed, draw the other class. The effect of a prompt on a slice (wafer, brightness) of the
feedback split is the increase of the slice's mean loss without the prompt, averaged over trainings
with the same seeds. Credit is compared with it by Spearman's rank correlation over all pairs of
prompt and slice.

The learner `dstm` is trained from scratch without each prompt; the correlation between two halves
of its trainings shows how good an estimate can be. The learner `head` is a logistic regression on
the features of a DSTM trained on the audit split; its training is deterministic.
docs/results/credit.md has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import rankdata

from benchmarks.harness import Benchmark, options
from eval.candidates import fit_direction
from eval.credit import credit, head_gradients, prompt_influence
from eval.effects import agrees, slice_effects
from eval.report import text
from memory.records import Batch, Estimate, Plan, PromptQuality, PromptSpec, Report
from tools import tasks
from tools.data.samples import Samples, concatenate
from tools.models.criteria import sample_gradients
from tools.models.embeddings import embed_by_dstm
from tools.settings import TrainSettings
from tools.tasks import Slicing
from tools.train_dstm import train_model

Floats = NDArray[np.float64]

N_IMAGES, N_BEFORE, N_BROKEN = 16, 96, 4
CELL = ("wafer", "brightness")
SLICING = Slicing([CELL], 15)
N_CLASSES = 2
N_RESAMPLES = 500
TASK = tasks.build("classification")


class Case(NamedTuple):
    """Images of earlier rounds and of each prompt, plan and batch of a round, and photographs."""

    before: Samples
    prompts: dict[str, Samples]
    plan: Plan
    batch: Batch
    feedback: Samples


def half_size(samples: Samples) -> Samples:
    """Return samples with images of half the height and width, by means of 2x2 pixels."""
    n, channels, height, width = samples.images.shape
    blocks = samples.images.reshape(n, channels, height // 2, 2, width // 2, 2)
    small = blocks.mean((3, 5)).astype(np.uint8)
    return replace(samples, images=small)


def draw_case(drawn: Samples, feedback: Samples, class_names: tuple[str, ...], seed: int) -> Case:
    """Return a case, in which `N_BROKEN` prompts of the plan are labelled with the other class."""
    rng = np.random.default_rng(seed)
    cells: dict[tuple[str, ...], list[int]] = {}
    for row, attributes in enumerate(drawn.attributes):
        names = (*(attributes[name] for name in CELL), class_names[drawn.classes[row]])
        cells.setdefault(names, []).append(row)
    shuffled = {key: rng.permutation(rows) for key, rows in sorted(cells.items())}
    broken = set(rng.choice(len(shuffled), N_BROKEN, replace=False).tolist())
    prompts, specs, left = {}, [], []
    for number, (key, rows) in enumerate(shuffled.items()):
        name = "-".join(key)
        images = drawn.take(rows[:N_IMAGES])
        asked = 1 - images.classes if number in broken else images.classes
        prompts[name] = replace(images, classes=asked)
        left.append(rows[N_IMAGES:])
        cell = dict(zip(CELL, key, strict=False))
        specs.append(
            PromptSpec(id=name, text=name, class_name=key[-1], attributes=cell, count=len(images))
        )
    quality = tuple(
        PromptQuality(prompt_id=s.id, n_made=s.count, n_kept=s.count, mean_weight=1.0)
        for s in specs
    )
    return Case(
        before=drawn.take(rng.choice(np.concatenate(left), N_BEFORE, replace=False)),
        prompts=prompts,
        plan=Plan(round=2, author="uniform", prompts=tuple(specs)),
        batch=Batch(round=2, job_id="bench", shards=(), quality=quality),
        feedback=feedback,
    )


class Fitted(NamedTuple):
    """A trained learner: class probabilities, (n, 2), and gradients of its last layer, (n, d)."""

    probabilities: Callable[[Samples], Floats]
    gradients: Callable[[Samples], Floats]


Learn = Callable[[Samples, int], Fitted]
"""Trains a learner on samples, with a seed."""


def learn_dstm(settings: TrainSettings) -> Learn:
    """Return the learner `dstm`, which trains the whole model from scratch."""

    def learn(samples: Samples, seed: int) -> Fitted:
        seeded = settings.model_copy(update={"seed": seed})
        model = train_model(samples, TASK, N_CLASSES, seeded)[0]
        return Fitted(
            lambda images: TASK.predict(model, images.images),
            lambda images: sample_gradients(model, TASK, images, seeded),
        )

    return learn


def learn_head(samples: Samples) -> Learn:
    """Return the learner `head`, on the features of a DSTM trained on `samples`."""
    embed = embed_by_dstm(train_model(samples, TASK, N_CLASSES, TrainSettings())[0])
    vectors = embed(samples.images)
    mean, std = vectors.mean(0), vectors.std(0) + 1e-6

    def features(images: Samples) -> Floats:
        standardised: Floats = (embed(images.images) - mean) / std
        return standardised

    def learn(images: Samples, seed: int) -> Fitted:
        weights = fit_direction(features(images), images.classes.astype(np.float64))

        def defective(others: Samples) -> Floats:
            probabilities: Floats = expit(weights[0] + features(others) @ weights[1:])
            return probabilities

        def gradients(others: Samples) -> Floats:
            return head_gradients(features(others), (defective(others) - others.classes)[:, None])

        return Fitted(lambda others: np.stack([1 - (p := defective(others)), p], 1), gradients)

    return learn


def measure(case: Case, learn: Learn, seeds: Sequence[int]) -> dict[str, Floats]:
    """Return the effect of each prompt on each slice, by retraining and by credit, (p, s) each."""

    def train(without: str | None, seed: int) -> Fitted:
        parts = [images for name, images in case.prompts.items() if name != without]
        return learn(concatenate([case.before, *parts]), seed)

    full = [train(None, seed) for seed in seeds]
    before = learn(case.before, seeds[0])
    reports = [_report(model, case.feedback) for model in (before, full[0])]
    slices = reports[1].slices
    attributes = [dict(of_photograph).items() for of_photograph in case.feedback.attributes]
    rows = [np.flatnonzero([s.attributes.items() <= a for a in attributes]) for s in slices]
    without = [
        [_losses(train(name, seed), case.feedback, rows) for seed in seeds] for name in case.prompts
    ]
    effects = np.array(without) - np.array([_losses(m, case.feedback, rows) for m in full])
    half = len(seeds) // 2
    credits_ = {
        (c.prompt_id, c.slice): c.change_per_100 * c.n_images / 100
        for c in credit(case.plan, case.batch, slices, slice_effects(case.plan, *reports))
    }
    pairs = [[(p, s) for s in slices] for p in case.plan.prompts]
    of = case, rows
    estimates = {
        "effect": effects.mean(1),
        "gradient cosine, model after the round": _by_gradient(prompt_agreement, full[0], *of),
        "gradient cosine, model before the round": _by_gradient(prompt_agreement, before, *of),
        "gradient influence, model after the round": _by_gradient(prompt_influence, full[0], *of),
        "shrunk change of the slice": np.array(
            [[credits_.get((p.id, s.key), 0.0) for p, s in row] for row in pairs]
        ),
        "the prompt names the slice": np.array(
            [[float(agrees(p, s)) for p, s in row] for row in pairs]
        ),
    }
    if half:
        estimates |= {"half": effects[:, :half].mean(1), "other half": effects[:, half:].mean(1)}
    return estimates


def _by_gradient(
    estimate: Callable[[Floats, Sequence[str], Floats], dict[str, float]],
    model: Fitted,
    case: Case,
    rows: Sequence[NDArray[np.int64]],
) -> Floats:
    images = model.gradients(concatenate(list(case.prompts.values())))
    owner = [name for name, of_prompt in case.prompts.items() for _ in range(len(of_prompt))]
    photographs = model.gradients(case.feedback)
    by_slice = [estimate(images, owner, photographs[of_slice]) for of_slice in rows]
    return np.array([[values[name] for values in by_slice] for name in case.prompts])


def _report(model: Fitted, feedback: Samples) -> Report:
    probabilities = model.probabilities(feedback)
    return TASK.report(probabilities, feedback, ("functional", "defective"), 2, "feedback", SLICING)


def _losses(model: Fitted, feedback: Samples, rows: Sequence[NDArray[np.int64]]) -> list[float]:
    true = model.probabilities(feedback)[np.arange(len(feedback)), feedback.classes]
    losses = -np.log(true.clip(1e-6))
    return [float(losses[of_slice].mean()) for of_slice in rows]


def cosine(one: Floats, other: Floats) -> float:
    """Return the cosine of two vectors, -1..1, or 0 if one of them is zero."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(np.clip(one @ other / lengths, -1, 1)) if lengths else 0.0


def prompt_agreement(
    images: Floats, prompt_ids: Sequence[str], photographs: Floats
) -> dict[str, float]:
    """Return each prompt's agreement with a slice: the cosine of their mean gradients.

    Above 0, a gradient step on the prompt's images lowers the slice's loss, to first order and for
    the last layer only.

    Args:
        images: Gradients of generated images, (n, d).
        prompt_ids: Prompt of each image, (n,).
        photographs: Gradients of the slice's photographs, (m, d).
    """
    owner, wanted = np.array(prompt_ids), photographs.mean(0)
    return {
        name: cosine(images[owner == name].mean(0), wanted) for name in dict.fromkeys(prompt_ids)
    }


def rank_correlation(estimates: Sequence[Floats], effects: Sequence[Floats]) -> Estimate:
    """Return the mean Spearman correlation of credit with true effects of prompts, -1..1.

    All prompts and slices of a case are ranked together; a case in which all values are equal has a
    correlation of 0. The interval resamples the prompts of each case, with all their slices.

    Args:
        estimates: Credits of every case, (n_prompts, n_slices).
        effects: True effects of every case, (n_prompts, n_slices).

    Returns:
        The correlation; n counts prompts.
    """
    rng = np.random.default_rng(0)
    cases = list(zip(estimates, effects, strict=True))

    def mean(rows: Sequence[NDArray[np.int64]]) -> float:
        pairs = zip(cases, rows, strict=True)
        return float(np.mean([_spearman(x[chosen], y[chosen]) for (x, y), chosen in pairs]))

    sizes = [len(x) for x, _ in cases]
    again = [mean([rng.integers(0, n, n) for n in sizes]) for _ in range(N_RESAMPLES)]
    value = mean([np.arange(n) for n in sizes])
    low, high = np.quantile(again, (0.025, 0.975))
    return Estimate(value=value, low=min(low, value), high=max(high, value), n=sum(sizes))


def _spearman(one: Floats, other: Floats) -> float:
    x, y = (rankdata(values.ravel()) for values in (one, other))
    return cosine(x - x.mean(), y - y.mean())


def correlations(cases: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the rank correlation of every estimate with the effects, as table rows."""

    def pooled(name: str) -> list[Floats]:
        return [np.array(case[name]) for case in cases]

    compared = {
        name: rank_correlation(pooled(name), pooled("effect"))
        for name in cases[0]
        if name not in ("effect", "half", "other half")
    }
    if "half" in cases[0]:
        name = "half of the trainings, against the other half"
        compared[name] = rank_correlation(pooled("half"), pooled("other half"))
    return [[k, text.number(v.value, 2), text.interval(v, 2)] for k, v in compared.items()]


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__)
    parser.add_argument("--learner", choices=["dstm", "head"], default="dstm")
    parser.add_argument("--cases", type=int, default=3, dest="seeds", help="the same as --seeds")
    parser.add_argument("--trainings", type=int, default=2, help="dstm trainings per prompt set")
    parser.add_argument("--steps", type=int, default=80, help="steps of a training of the dstm")
    chosen = parser.parse_args()
    bench = Benchmark(chosen)
    target = bench.components.target
    drawn, feedback = (half_size(target.split(name)) for name in ("generator", "feedback"))
    if chosen.learner == "head":
        n_trainings, learn = 1, learn_head(half_size(target.split("audit")))
    else:
        settings = TrainSettings(steps=chosen.steps, batch_size=32)
        n_trainings, learn = chosen.trainings, learn_dstm(settings)

    def figures(number: int) -> dict[str, Any]:
        case = draw_case(drawn, feedback, tuple(target.class_names), number)
        seeds = range(100 * number, 100 * number + n_trainings)
        return {name: v.tolist() for name, v in measure(case, learn, seeds).items()}

    rows = correlations(bench.seeds(figures))
    bench.table(["credit by", "rank correlation", "95% interval"], rows)


if __name__ == "__main__":
    main()
