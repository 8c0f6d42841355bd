"""The board by which training workers hear of the end and agree on their last step; an actor of `ray_notice`.

It has a module of its own that imports next to nothing: the actor's process would import whatever stands beside it, and
torch with Ray Train take seven seconds of a core.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from dvt.train.notice import Agreement, Order

HEARS_S = 5.0  # workers that looked at the board so long ago still train
SIGTERM = "SIGTERM"


@dataclass
class _Round:
    """What is proposed until all workers have: a step by rank, and what they heard."""

    steps: dict[int, int] = field(default_factory=dict)
    heard: dict[str, Order] = field(default_factory=dict)


class NoticeBoard:
    """Where a SIGTERM is left, and where workers agree.

    They agree in rounds, and each proposes in all of them: who heard nothing yet learns here that others did, and those
    that heard of different things at the same time do the same thing.
    """

    def __init__(self) -> None:
        self._is_asked = False
        self._looked_s = float("-inf")
        self._rounds: dict[str, _Round] = {}

    def ask(self) -> bool:
        """Ask workers to keep a checkpoint and return; whether any train that will hear of it."""
        self._is_asked = True
        return time.monotonic() - self._looked_s < HEARS_S

    def look(self, key: str) -> dict[str, Order]:
        """What there is to hear of in a round, and what to do about it; called by workers that train."""
        self._looked_s = time.monotonic()
        proposed = self._rounds[key].heard if key in self._rounds else {}
        return proposed | ({SIGTERM: Order.STOP} if self._is_asked else {})

    def propose(self, key: str, rank: int, world_size: int, step: int, heard: Mapping[str, Order]) -> Agreement | None:
        """Propose a step in a round, for what was heard; what is agreed on, once all workers have proposed."""
        this = self._rounds.setdefault(key, _Round())
        if len(this.steps) < world_size:
            this.steps.setdefault(rank, step)
            this.heard.update(heard)
        if len(this.steps) < world_size:
            return None
        order = Order.STOP if Order.STOP in this.heard.values() else Order.KEEP
        return Agreement(max(this.steps.values()), order, frozenset(this.heard))
