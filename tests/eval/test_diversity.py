from __future__ import annotations

import math

import numpy as np
import pytest

from eval.diversity import distinct_n, vendi


@pytest.mark.parametrize(
    ("texts", "n", "share"),
    [
        ([], 1, 0.0),
        ([""], 1, 0.0),
        (["dark"], 2, 0.0),
        (["a dark cell"], 1, 1.0),
        (["a dark cell", "a bright cell"], 1, 4 / 6),
        (["a dark cell", "a bright cell"], 2, 1.0),
        (["a dark cell", "A  dark cell."], 2, 0.5),
        (["a medium-bright cell", "a bright cell"], 1, 4 / 6),
        (["cell", "dark"], 2, 0.0),
    ],
)
def test_distinct_n(texts: list[str], n: int, share: float) -> None:
    assert distinct_n(texts, n) == pytest.approx(share)


def test_vendi_counts_orthogonal_vectors() -> None:
    assert vendi(np.eye(5)) == pytest.approx(5)
    assert vendi([[1, 0], [1, 0], [0, 1], [0, 1]]) == pytest.approx(2)


def test_vendi_of_equal_directions_is_one_whatever_their_lengths() -> None:
    assert vendi([[1.0, 2.0], [2.0, 4.0], [0.1, 0.2]]) == pytest.approx(1)


def test_vendi_of_unequal_shares_is_the_exponential_of_their_entropy() -> None:
    assert vendi(np.eye(2)[[0, 0, 0, 1]]) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    )


def test_vendi_of_two_vectors_at_an_angle() -> None:
    # The eigenvalues of [[1, c], [c, 1]] / 2 are (1 + c) / 2 and (1 - c) / 2.
    shares = np.array([0.75, 0.25])
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert vendi([[1.0, 0.0], [0.5, math.sqrt(0.75)]]) == pytest.approx(expected)


def test_vendi_is_the_same_with_more_vectors_than_dimensions() -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 6))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(unit @ unit.T / 40).clip(1e-300)
    assert vendi(vectors) == pytest.approx(np.exp(-(eigenvalues * np.log(eigenvalues)).sum()))
    assert 1 < vendi(vectors) <= 6


def test_vendi_without_vectors_and_with_a_zero_vector() -> None:
    assert vendi([]) == 0.0
    with pytest.raises(ValueError, match="zero vector"):
        vendi([[1, 0], [0, 0]])
