"""The board by which training workers hear of the end and agree on their last step; an actor of `ray_notice`.

It has a module of its own that imports next to nothing: the actor's process would import whatever stands beside it, and
torch with Ray Train take seven seconds of a core.
"""

import time

HEARS_S = 5.0  # workers that looked at the board so long ago still train


class NoticeBoard:
    """Where a SIGTERM is left, and what step workers proposed."""

    def __init__(self) -> None:
        self._is_asked = False
        self._looked_s = float("-inf")
        self._proposed: dict[str, dict[int, int]] = {}

    def ask(self) -> bool:
        """Ask workers to keep a checkpoint and return; whether any train that will hear of it."""
        self._is_asked = True
        return time.monotonic() - self._looked_s < HEARS_S

    def look(self) -> bool:
        """Whether workers are asked to; called by those that train."""
        self._looked_s = time.monotonic()
        return self._is_asked

    def propose(self, key: str, rank: int, world_size: int, step: int) -> int | None:
        """Propose a step; the latest that any proposed, once all workers have."""
        proposed = self._proposed.setdefault(key, {})
        proposed.setdefault(rank, step)
        return max(proposed.values()) if len(proposed) == world_size else None
