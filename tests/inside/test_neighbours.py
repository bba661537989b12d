"""Which embeddings are close to each other."""

from __future__ import annotations

import numpy as np

from mlx_tinylm.inside.neighbours import embedding_answer, plane


def test_untrained_rows_are_nobodys_neighbours_and_stretch_nothing() -> None:
    """Ids that training never showed are in no list and have no place; the others stand as without them."""
    table = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    untrained = (3, 7)
    table[list(untrained)] *= 100
    trained = [id for id in range(12) if id not in untrained]
    found = embedding_answer(table, untrained)
    places, variance = plane(table[trained])
    assert [id for id, place in enumerate(found["plane"]) if place is None] == [3, 7]
    np.testing.assert_allclose([found["plane"][id] for id in trained], places, atol=1e-5)
    np.testing.assert_allclose(found["variance"], variance, atol=1e-6)
    for id, near in enumerate(found["neighbours"]):
        assert len(near) == 8
        assert not {id, *untrained} & set(near)


def test_one_trained_row_has_no_neighbours() -> None:
    """Where all others are left out nothing is near, and nothing breaks."""
    found = embedding_answer(np.eye(3, dtype=np.float32), (0, 2))
    assert found["neighbours"] == [[], [], []]
    assert found["plane"] == [None, [0.0, 0.0], None]
