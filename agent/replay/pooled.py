"""Scores of hypothetical plans of a session, from images that a comparison has drawn.

The recorded and the hypothetical plan of a round are filled from the same pools
(`agent.experiments.image_cache`), so that their scores differ by the plans, not by the images. A
DSTM is trained on these images together with those of the session's earlier rounds, and measured on
the feedback split. No images are generated.
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
from agent.experiments.image_cache import cell_of
from agent.loop.components import Components
from memory.errors import SettingsError, unknown
from memory.records import Estimate, Plan, Round, Training
from tools.data.jobs import shards_of
from tools.data.stored_images import StoredImages, contents

# Least share of a plan's images in the pools for the plan to be scored.
LEAST_HELD = 0.8
# Settings that determine images, their labels, and their weights.
_OF_IMAGES = ("generator.", "labeler.", "target.", "audit.")


@dataclass(frozen=True)
class Scored:
    """The score of a plan.

    Attributes:
        held: Share of the plan's images that the pools contain, 0..1.
        score: The main metric on feedback; None if `held` is below LEAST_HELD.
    """

    held: float
    score: Estimate | None


class Pools:
    """The pools of a comparison, and the session whose plans are scored with them."""

    def __init__(self, home: Path, name: str, session: Path, settings: Settings) -> None:
        """Open the pools.

        Args:
            home: Home folder.
            name: Name of the comparison.
            session: Folder of the session.
            settings: Settings of the session, with the home of this machine.

        Raises:
            SettingsError: The comparison does not exist, or its images were generated otherwise.
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
                f"The comparison {name!r} generated its images otherwise than the session: "
                f"{'; '.join(changed)}. Name one with the session's generator, labeler, target and "
                "audit, or create it with `shaping compare`."
            )
        self._folders = sorted((base / name).glob("seed-*/images"))
        self._session = session
        self._components = Components(settings)

    def score(self, plan: Plan, past: Sequence[Round]) -> Scored:
        """Return the score that a plan would have had after the session's rounds `past`."""
        pieces, held = self.fill(plan)
        if not pieces or held < LEAST_HELD:
            return Scored(held, None)
        components = self._components
        before = shards_of(self._session, (r for r in past if r.number < plan.round))
        images = StoredImages(*components.learnt_from([*before, *pieces]))
        unused = {name for path, n in pieces.items() for name in contents(path).ids[n:]}
        images = images.only([row for row, name in enumerate(images.ids) if name not in unused])
        dstm = fit(
            components,
            images,
            components.settings.session.seed,
            images.is_real,
            synthetic_share=components.dstm_of(_last_training(past), 0).synthetic_share,
        )
        measured, _ = report(self._components, dstm, "feedback", plan.round)
        return Scored(held, measured.metrics[measured.main_metric])

    def fill(self, plan: Plan) -> tuple[dict[Path, int], float]:
        """Return the pieces of the pools that a plan uses, and the share of its images in them.

        The value of a piece is the number of its first images that are used.
        """
        taken: Counter[str] = Counter()
        pieces: dict[Path, int] = {}
        for prompt in plan.prompts:
            cell = cell_of(prompt)
            left = prompt.count
            paths = [path for pool in self._folders for path in sorted(pool.glob(f"{cell}-*"))]
            for path in paths[taken[cell] :]:
                if left <= 0:
                    break
                pieces[path] = min(left, len(contents(path).ids))
                left -= pieces[path]
                taken[cell] += 1
        return pieces, sum(pieces.values()) / plan.n_images if plan.n_images else 0.0


def _last_training(past: Sequence[Round]) -> Training | None:
    """Return the latest training, which has the share chosen by `dstm.synthetic_share=auto`."""
    return next((r.training for r in reversed(past) if r.training and r.number), None)
