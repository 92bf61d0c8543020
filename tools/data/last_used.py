"""An LRU cache limited by the size of its values in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class LastUsed(Generic[K, T]):
    """LRU cache of as many values as fit into `n_bytes`, at least one."""

    def __init__(self, n_bytes: int, size: Callable[[T], int]) -> None:
        self._left, self._size = n_bytes, size
        self._values: OrderedDict[K, T] = OrderedDict()

    def get(self, key: K, make: Callable[[K], T]) -> T:
        """Return the value of a key; call `make` if it is not cached."""
        if key not in self._values:
            self._values[key] = make(key)
            self._left -= self._size(self._values[key])
            while self._left < 0 and len(self._values) > 1:
                self._left += self._size(self._values.popitem(last=False)[1])
        self._values.move_to_end(key)
        return self._values[key]
