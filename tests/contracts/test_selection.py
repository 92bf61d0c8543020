"""What every way to select images must hold; a new file in tools/selection joins by itself."""

from __future__ import annotations

import numpy as np
import pytest

from tools import selection
from tools.plugins import names
from tools.selection import MEASURES, Candidates, Learner, Method


@pytest.fixture(params=names("tools.selection"))
def method(request: pytest.FixtureRequest) -> Method:
    return selection.build(request.param)


def candidates(n: int = 40, n_chosen: int = 10, seed: int = 0) -> Candidates:
    rng = np.random.default_rng(seed)
    return Candidates(
        audit=rng.random(n),
        entropy=rng.random(n),
        margin=rng.random(n),
        features=rng.normal(size=(n, 5)),
        chosen_features=rng.normal(size=(n_chosen, 5)),
        variance=rng.normal(size=n),
        credit=rng.normal(size=n),
        score=0.7,
        gain=0.02,
    )


@pytest.mark.parametrize("n", [1, 7, 39])
@pytest.mark.parametrize("n_chosen", [0, 10])
def test_chooses_as_many_different_rows_as_asked_for(method: Method, n: int, n_chosen: int) -> None:
    rows = method.choose(candidates(n_chosen=n_chosen), n, 0)
    assert rows.dtype == np.int64
    assert len(set(rows.tolist())) == n
    assert 0 <= rows.min() <= rows.max() < 40
    assert isinstance(method, Method)
    assert set(method.needs) <= set(MEASURES)


def test_equal_images_are_no_problem(method: Method) -> None:
    same = Candidates(
        audit=np.ones(6),
        entropy=np.zeros(6),
        margin=np.ones(6),
        features=np.ones((6, 2)),
        chosen_features=np.ones((1, 2)),
        variance=np.zeros(6),
        credit=np.zeros(6),
    )
    assert len(set(method.choose(same, 4, 1).tolist())) == 4


def test_same_past_same_choice(method: Method) -> None:
    again = selection.build(method.name)
    for number in range(3):
        seen = candidates(seed=number)
        assert (method.choose(seen, 9, number) == again.choose(seen, 9, number)).all()


def test_state_carries_what_was_learned(method: Method) -> None:
    if not isinstance(method, Learner):
        pytest.skip("does not learn")
    for number in range(3):
        method.choose(candidates(seed=number), 9, number)
    heir = selection.build(method.name)
    assert isinstance(heir, Learner)
    state = {name: value.clone() for name, value in method.state().items()}
    heir.restore(state, same_session=True)
    seen = candidates(seed=9)
    assert (heir.choose(seen, 9, 9) == method.choose(seen, 9, 9)).all()
    assert heir.state().keys() == method.state().keys()
