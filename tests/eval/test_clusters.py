from __future__ import annotations

import numpy as np

from eval.clusters import join_embeddings, look_alike, principal_components, tree_groups


def blobs(*sizes: int, dimension: int = 10, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """Points around far-apart centres, and the rows of each blob."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(20 * np.eye(dimension)[: len(sizes)], sizes, axis=0)
    rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    return centres + rng.normal(size=centres.shape), rows


def test_groups_end_where_two_would_join() -> None:
    points, rows = blobs(12, 12, 12)
    groups = tree_groups(points, n_min=10)
    assert {blob.tobytes() for blob in rows} <= {group.tobytes() for group in groups}
    assert all(any(set(group) <= set(blob) for blob in rows) for group in groups)


def test_a_few_strays_do_not_divide_a_group() -> None:
    points, (blob, _) = blobs(17, 4)
    groups = tree_groups(points, n_min=10)
    assert blob.tobytes() in {group.tobytes() for group in groups}
    assert max(len(group) for group in groups) == 21


def test_too_few_images_have_no_groups() -> None:
    assert tree_groups(np.zeros((4, 2)), n_min=5) == []
    assert tree_groups(np.zeros((0, 2)), n_min=5) == []


def test_images_that_look_alike_are_one_group_among_others() -> None:
    rng = np.random.default_rng(3)
    embeddings = rng.normal(size=(300, 40))
    embeddings[:25, :4] += 6
    own = set(range(25))
    best = max(len(own & set(g)) / len(own | set(g)) for g in look_alike(embeddings, n_min=15))
    assert best > 0.9


def test_whitening_gives_components_the_same_spread() -> None:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(200, 3)) @ np.array([[5, 5, 5], [0, 1, -1], [0.1, 0, 0]])
    white, plain = (principal_components(mixed, 3, whitening) for whitening in (1, 0))
    np.testing.assert_allclose(white.std(0), 1)
    assert plain.std(0)[0] > 2 * plain.std(0)[-1]
    np.testing.assert_allclose((plain**2).sum() / 200, 3, rtol=1e-5)
    assert principal_components(np.repeat(mixed[:, :1], 5, axis=1), 5).shape == (200, 1)


def test_embeddings_side_by_side_weigh_the_same() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=(50, 3)), 100 * rng.normal(size=(50, 7))
    joint = join_embeddings([small, large])
    assert joint.shape == (50, 10)
    np.testing.assert_allclose((joint[:, :3] ** 2).sum(), (joint[:, 3:] ** 2).sum())
