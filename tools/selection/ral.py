"""The method `ral`: learns over rounds and sessions which images to select.

Reinforced active learning (Casanova et al. 2020): a small Q-network rates an image by the DSTM's
uncertainty, its distance from the chosen images, the credit of earlier prompts with its attributes,
and its audit weight. A decision is a set of images; its value is the mean over the set, its reward
the change of the DSTM's score on feedback by the round.

A round gives a single reward, so exploration ranks the images of a whole round by a random
direction of these features: independent random choices would give nearly the same average set in
every round.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import nn

from tools.selection import Candidates, Floats, Rows, distances, needed

FEATURES = ("entropy", "margin", "distance", "credit", "audit")
# A further input is the DSTM's score: the higher it is, the less there is to gain.
_N_INPUTS = len(FEATURES) + 1
_HIDDEN = 16
# Number of parts of a choice; distances to the chosen images are updated after each.
_PARTS = 4
# Images that represent a decision, and capacity of the replay memory in decisions.
_ROWS = 16
_REMEMBERED = 256
_DISCOUNT = 0.5
# Change of the score that gives a reward of 1.
_GAIN_UNIT = 0.05
_STEPS = 60
_LEARNING_RATE = 0.02
# Number of decisions that halves exploration, and its minimum.
_HALVED_AFTER = 8
_LEAST_EXPLORATION = 0.1


class Reinforced:
    """Reinforced selection; a `tools.selection.Method` and `tools.selection.Learner`."""

    name = "ral"
    needs: tuple[str, ...] = ("entropy", "margin", "features", "credit")

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self._network = nn.Sequential(
                nn.Linear(_N_INPUTS, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1)
            )
        self._chosen = torch.zeros(0, _ROWS, _N_INPUTS)
        self._gains = torch.zeros(0)
        self._next = torch.zeros(0, _ROWS, _N_INPUTS)
        self._pending = torch.zeros(0, _ROWS, _N_INPUTS)

    def choose(self, candidates: Candidates, n: int, seed: int) -> Rows:
        """Learn from the last round's gain, if known, and return the rows of highest value."""
        rng = np.random.default_rng(seed)
        if len(self._pending) and candidates.gain is not None:
            following = self._sample(self._inputs(candidates, []), rng)
            self._learn(candidates.gain, following, n / len(candidates))
        direction = rng.normal(size=len(FEATURES)) if rng.random() < self.exploration else None
        rows: list[int] = []
        parts = []
        for part in np.array_split(np.arange(n), min(n, _PARTS)):
            inputs = self._inputs(candidates, rows)
            values = self._values(inputs) if direction is None else inputs[:, :-1] @ direction
            values[rows] = -np.inf
            best = np.argsort(-values, kind="stable")[: len(part)]
            rows += best.tolist()
            parts.append(inputs[best])
        self._pending = self._sample(np.concatenate(parts), rng)[None]
        return np.array(rows, dtype=np.int64)

    @property
    def exploration(self) -> float:
        """Probability that a round explores, which decreases with the number of decisions."""
        return max(_LEAST_EXPLORATION, float(2.0 ** (-len(self._gains) / _HALVED_AFTER)))

    def restore(self, state: Mapping[str, torch.Tensor], same_session: bool) -> None:
        """Load network and experience and, in the same session, the pending decision."""
        weights = {
            name.removeprefix("network."): value
            for name, value in state.items()
            if name.startswith("network.")
        }
        self._network.load_state_dict(weights)
        self._chosen, self._gains, self._next = state["chosen"], state["gains"], state["next"]
        self._pending = state["pending"] if same_session else state["pending"][:0]

    def state(self) -> dict[str, torch.Tensor]:
        """Return network, experience and the decision whose gain is not yet known."""
        weights = {f"network.{name}": v for name, v in self._network.state_dict().items()}
        return {
            **weights,
            "chosen": self._chosen,
            "gains": self._gains,
            "next": self._next,
            "pending": self._pending,
        }

    def _inputs(self, candidates: Candidates, rows: list[int]) -> Floats:
        """Return the network's inputs for each candidate, (n, inputs), given the chosen `rows`."""
        features = needed(candidates.features, "features")
        earlier = needed(candidates.chosen_features, "chosen_features")
        columns = (
            needed(candidates.entropy, "entropy"),
            needed(candidates.margin, "margin"),
            distances(features, np.concatenate([earlier, features[rows]])),
            needed(candidates.credit, "credit"),
            candidates.audit,
        )
        score = np.full(len(candidates), candidates.score or 0.0)
        return np.stack([*map(_percentiles, columns), score], axis=1)

    def _sample(self, inputs: Floats, rng: np.random.Generator) -> torch.Tensor:
        """Return a sample that represents a set, (_ROWS, inputs); rows repeat if it is small."""
        few = len(inputs) < _ROWS
        drawn = rng.choice(len(inputs), _ROWS, replace=few)
        return torch.from_numpy(inputs[drawn]).float()

    @torch.no_grad()
    def _values(self, inputs: Floats) -> Floats:
        values: NDArray[np.float64] = (
            self._network(torch.from_numpy(inputs).float())[:, 0].double().numpy()
        )
        return values

    def _learn(self, gain: float, following: torch.Tensor, share: float) -> None:
        """Add the pending decision and its gain to the experience, and fit the network to it.

        One step of Q-learning with experience replay, see Casanova et al. 2020.

        Args:
            gain: Change of the score by the decision.
            following: Inputs of a sample of the next candidates, (_ROWS, inputs).
            share: Share of the candidates that a decision selects, 0..1.
        """
        self._chosen = torch.cat([self._chosen, self._pending])[-_REMEMBERED:]
        self._gains = torch.cat([self._gains, torch.tensor([gain])])[-_REMEMBERED:]
        self._next = torch.cat([self._next, following[None]])[-_REMEMBERED:]
        with torch.no_grad():
            n_best = max(1, round(share * _ROWS))
            later = self._network(self._next)[..., 0].topk(n_best, dim=1).values.mean(1)
            targets = self._gains / _GAIN_UNIT + _DISCOUNT * later
        optimizer = torch.optim.AdamW(
            self._network.parameters(), lr=_LEARNING_RATE, weight_decay=0.01
        )
        for _ in range(_STEPS):
            values = self._network(self._chosen)[..., 0].mean(1)
            loss = nn.functional.huber_loss(values, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def build() -> Reinforced:
    """Build the method without experience."""
    return Reinforced()


def _percentiles(values: Floats) -> Floats:
    """Return the percentile rank of each value, 0..1; equal values share a rank."""
    places: Floats = (rankdata(values) - 0.5) / len(values)
    return places
