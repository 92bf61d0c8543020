"""Scores of hypothetical plans of a session, from images that a comparison has drawn.

Both plans of a round are filled from the same pools (`agent.experiments.pool`), so that the
difference between their scores is that of the plans, not of the images; a DSTM is trained on them
together with what the session had drawn before, and measured on the feedback split. Nothing is
drawn.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.config.settings import Settings, differences
from agent.config.stored import read_stored
from agent.experiments.arm_sessions import fit, report
from agent.experiments.pool import cell_of
from agent.loop.components import Components
from memory.errors import SettingsError, unknown
from memory.records import Estimate, Plan, Round, Training
from tools.data.jobs import shards_of
from tools.data.samples import Samples, concatenate
from tools.data.shards import read_shards

# A plan of which the pools hold less is not scored.
LEAST_HELD = 0.8
# What decides how an image looks, what its labels are, and how it is weighed.
_OF_IMAGES = ("generator.", "labeler.", "target.", "audit.")


@dataclass(frozen=True)
class Scored:
    """The main metric on feedback that a plan would have reached; None where too little is held."""

    held: float
    score: Estimate | None


class Pools:
    """The pools of a comparison, and the session whose plans are scored by them."""

    def __init__(self, home: Path, name: str, session: Path, settings: Settings) -> None:
        """Open them.

        session: its folder; settings: its own, with the home of this machine. Raises SettingsError
        for a comparison that is not there, or whose images are made in another way.
        """
        base = home / "compare"
        path = base / name / "compare.json"
        if not path.exists():
            names = sorted(file.parent.name for file in base.glob("*/compare.json"))
            raise SettingsError(unknown("comparison", name, names))
        stored = json.loads(path.read_bytes())
        changed = [
            line
            for line in differences(read_stored(stored["settings"]), settings)
            if line.startswith(_OF_IMAGES)
        ]
        if stored["broken"]:
            changed.append(f"--broken {stored['broken']}")
        if changed:
            raise SettingsError(
                f"The comparison {name!r} made its images in another way than the session: "
                f"{'; '.join(changed)}. Name one with the session's generator, labeler, target and "
                "audit, or make it with `shaping compare`."
            )
        self._folders = sorted((base / name).glob("seed-*/images"))
        self._session = session
        self._components = Components(settings)

    def score(self, plan: Plan, past: Sequence[Round]) -> Scored:
        """Return what a plan would have scored after the session's rounds `past`."""
        samples, held = self.fill(plan)
        if samples is None or held < LEAST_HELD:
            return Scored(held, None)
        shards = shards_of(self._session, (r for r in past if r.number < plan.round))
        before = [read_shards(shards).samples] if shards else []
        components = self._components
        settings = components.settings
        _, real = components.learnt_from(shards)
        images = [*before, samples] if settings.dstm.train_on != "real" else []
        dstm = fit(
            components,
            concatenate(images) if images else None,
            settings.session.seed,
            photographs=read_shards(real).samples if real else None,
            synthetic_share=components.dstm_of(_last_training(past), 0).synthetic_share,
        )
        measured, _ = report(self._components, dstm, "feedback", plan.round)
        return Scored(held, measured.metrics[measured.main_metric])

    def fill(self, plan: Plan) -> tuple[Samples | None, float]:
        """Return the images of a plan that the pools hold, each used once, and their share, 0..1.

        The share is relative to what the plan asks for.
        """
        taken: Counter[str] = Counter()
        parts: list[Samples] = []
        for prompt in plan.prompts:
            cell = cell_of(prompt)
            left = prompt.count
            paths = [path for pool in self._folders for path in sorted(pool.glob(f"{cell}-*"))]
            for path in paths[taken[cell] :]:
                if left <= 0:
                    break
                samples = read_shards([path]).samples
                parts.append(samples.take(range(min(left, len(samples)))))
                left -= len(samples)
                taken[cell] += 1
        n_images = sum(len(part) for part in parts)
        held = n_images / plan.n_images if plan.n_images else 0.0
        return concatenate(parts) if parts else None, held


def _last_training(past: Sequence[Round]) -> Training | None:
    """Return the newest training; with `dstm.synthetic_share=auto` it has the share chosen."""
    return next((r.training for r in reversed(past) if r.training and r.number), None)
