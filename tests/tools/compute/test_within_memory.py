from __future__ import annotations

import numpy as np
import pytest

from memory.errors import ShapingError
from tests.agent.loop.faulty import FaultyGenerator
from tools.compute.within_memory import WithinMemory
from tools.data.drawn import ImageRequest

SHAPE = (1, 16, 16)
REQUESTS = [ImageRequest("a dark cell", "p", i, 0) for i in range(9)]


def test_fewer_at_once_gives_the_same_images_and_is_remembered() -> None:
    told: list[int] = []
    careful = WithinMemory(FaultyGenerator(SHAPE, max_batch=3), None, told.append)
    whole = FaultyGenerator(SHAPE).draw(REQUESTS)
    assert np.array_equal(careful.draw(REQUESTS).images, whole.images)
    assert told == [4, 2]
    careful.draw(REQUESTS)
    assert told == [4, 2]


def test_what_was_remembered_is_begun_with() -> None:
    told: list[int] = []
    careful = WithinMemory(FaultyGenerator(SHAPE, max_batch=3), 2, told.append)
    assert len(careful.draw(REQUESTS).images) == 9
    assert told == []


def test_no_memory_for_one_image_is_an_error() -> None:
    careful = WithinMemory(FaultyGenerator(SHAPE, max_batch=0), None, lambda n: None)
    with pytest.raises(ShapingError, match="no memory to draw a single image"):
        careful.draw(REQUESTS)


def test_it_passes_for_the_generator_within() -> None:
    inner = FaultyGenerator(SHAPE)
    careful = WithinMemory(inner, None, lambda n: None)
    assert (careful.name, careful.identity) == (inner.name, inner.identity)
    assert careful.count_tokens("a b c") == 3
