"""Many names in two arrays: processes that read share them, which they cannot with a million Python strings.

Looking at a string writes its reference count, and with that copies its page of memory into the process that looks.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class Names(Sequence[str]):
    """Paths or other names, read by index; a slice is another `Names`' worth of strings, as a tuple."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]  # any path, also one that is no UTF-8
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)  # (N + 1,)
        self._content = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        """Number of names."""
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        """The name at `index`, or those of a slice as a tuple."""
        if isinstance(index, slice):
            return tuple(self[each] for each in range(*index.indices(len(self))))
        place = range(len(self))[index]  # counts from the end, and complains, as a tuple does
        return os.fsdecode(self._content[self._ends[place] : self._ends[place + 1]].tobytes())
