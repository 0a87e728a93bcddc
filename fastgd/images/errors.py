"""The error that names every file of images that cannot be used."""

from collections.abc import Iterable
from typing import NamedTuple

from ..errors import plain

# So many problems are named in a message.
NAMED = 100


class Problem(NamedTuple):
    """A file or folder that cannot be used: its path, what was expected and what came."""

    path: str
    expected: str
    got: str


class ImageError(ValueError):
    """Files of images cannot be used. `problems` lists all of them, the message the first 100."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        texts = [f"{plain(path)}: expected {expected}, got {got}" for path, expected, got in self.problems[:NAMED]]
        more = len(self.problems) - NAMED
        count = f"{len(self.problems):,} problems: " if len(self.problems) > 1 else ""
        return count + "; ".join([*texts, f"and {more:,} more"] if more > 0 else texts)


def size_text(size):
    """(height, width) as text."""
    return "{}x{}".format(*size)
