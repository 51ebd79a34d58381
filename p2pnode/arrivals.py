"""How long each contributor's bytes usually take to be here, measured from when a height opened.

What it is: the figures from which ``collect`` says how long a round waits, so that nobody has to guess it. What it is not: agreement;
every node has its own. What counts of each author is the longest of its last few: whoever is slow now and then is waited for all the same.

Of an author that was waited for and did not come, only that is known: it takes longer. ``collect`` waits a little longer than what is usual, so
the wait for somebody who has become slower follows it, as far as anybody is waited for.
"""

from collections import deque
from collections.abc import Collection, Mapping

SAMPLES = 5  # whoever has become quicker is taken for slow so many rounds more
AUTHORS_MAX = 256  # of a block that lists as many; those heard of longest ago make room


class Arrivals:
    """Of one node, over the heights."""

    def __init__(self) -> None:
        self._seconds: dict[bytes, deque[float]] = {}

    def note(self, held: Mapping[bytes, float], *, opened: float, missed: Collection[bytes], until: float) -> None:
        """A height is over: when each author's bytes were here, and who was waited for in vain, until when."""
        for author, moment in held.items():
            self._add(author, moment - opened)
        for author in missed:
            if author not in held:
                self._add(author, until - opened)

    def usual(self, authors: Collection[bytes]) -> dict[bytes, float]:
        """Seconds after a height opens, of those who have been measured."""
        return {author: max(seconds) for author, seconds in self._seconds.items() if author in authors}

    def _add(self, author: bytes, seconds: float) -> None:
        window = self._seconds.pop(author, None) or deque(maxlen=SAMPLES)
        self._seconds[author] = window
        window.append(max(seconds, 0.0))
        if len(self._seconds) > AUTHORS_MAX:
            del self._seconds[next(iter(self._seconds))]
