"""What the audit remembers from file to file, no more than a number of bytes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

Found = TypeVar("Found")

_OVERHEAD = 256
"""Bytes that an entry takes beside those it was found of."""


class Memory(Generic[Found]):
    """What was found of something, by all that it depends on; when it is full it begins anew.

    Parameters
    ----------
    most
        Bytes that it may hold; what is larger than an eighth of that is not taken in.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: dict[Hashable, Found] = {}
        self.size = 0
        self.get = self._found.get

    def remember(self, key: Hashable, found: Found, size: int) -> None:
        """Take in what was found of so many bytes."""
        size += _OVERHEAD
        if size > self._most // 8 or key in self._found:
            return
        if self.size + size > self._most:
            self._found.clear()
            self.size = 0
        self._found[key] = found
        self.size += size

    def remember_all(self, found: Mapping[Hashable, tuple[Found, int]]) -> None:
        """Take in what was found of several, each with its size."""
        for key, (one, size) in found.items():
            self.remember(key, one, size)
