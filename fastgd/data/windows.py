"""Windows of a sequence of tokens: the rows that a model learns from, which lie in the sequence and are not copied."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.for_users import ForUsers
from ..core.random import hashes_of_rows
from ..errors import check_integer, shown, type_error, value_error
from .samples import as_array, check_samples

# Stands for the number of a row in the random numbers that choose the first window of an epoch.
SHIFT = 2**32


class Windows(ForUsers):
    """Windows of T tokens, and for each token the one that follows. `fit` takes them in place of (X, y), and as
    `validation_data`:

        net.fit(windows, epochs=10)

    An epoch takes every token about once: windows side by side, in a random order. They begin at a random place that
    depends on the network's `seed` and `epochs`, so each epoch cuts the text elsewhere. Tokens in front of the first
    window and behind the last one are left out. (With shuffle=False all epochs begin at the first token.)

    tokens      (k,) integers, k > T
    context     T
    vocabulary  what the tokens are, or None; a network that has stored a vocabulary refuses windows of another one
    x, y        the windows side by side from the first token on, (n, T) each: x[i, j] is the token i T + j, y[i, j]
                the next one. For `evaluate`, `predict`, ...; views of `tokens`"""

    _internal = frozenset({"at_all_positions", "check_network", "per_epoch"})

    tokens: npt.NDArray[np.integer[Any]]
    context: int
    vocabulary: Any

    def __init__(self, tokens: npt.ArrayLike, context: int, vocabulary: Any = None) -> None:
        """Raises TypeError or ValueError that names the argument."""
        array = as_array("tokens", tokens)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise type_error("tokens", "an array (k,) of integers", shown(array))
        self.context = check_integer("context", context, 1)
        if len(array) <= context:
            raise value_error("context", f"fewer than {len(array):,} tokens, which is all there are", f"{context:,}")
        self.tokens, self.vocabulary = array, vocabulary

    @property
    def x(self) -> npt.NDArray[np.integer[Any]]:
        return self.tokens[: len(self) * self.context].reshape(-1, self.context)

    @property
    def y(self) -> npt.NDArray[np.integer[Any]]:
        return self.tokens[1 : 1 + len(self) * self.context].reshape(-1, self.context)

    def check_network(self, argument: str, network: Any) -> None:
        """Raises ValueError if the network has stored a vocabulary, and these are tokens of another one."""
        known = network.preprocessing
        if None not in (known, self.vocabulary) and self.vocabulary != known:
            expected = f"windows of {known!r}, as read(..., tokens=network.preprocessing) gives"
            raise value_error(argument, expected, f"windows of {self.vocabulary!r}, which are other tokens")

    def __len__(self) -> int:
        """The number of windows side by side."""
        return (len(self.tokens) - 1) // self.context

    @property
    def per_epoch(self) -> int:
        """The number of windows that an epoch takes."""
        return max(1, (len(self.tokens) - self.context) // self.context)

    def at_all_positions(self) -> tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.integer[Any]]]:
        """(x, y) of the windows that begin at any token, overlapping views (k - T, T) of `tokens`."""
        windows = np.lib.stride_tricks.sliding_window_view(self.tokens, self.context, subok=True)
        return windows[:-1], windows[1:]

    def __repr__(self) -> str:
        return f"Windows({len(self):,} of {self.context} tokens)"


def shift_of_epoch(seed: int, epoch: int, shifts: int) -> int:
    """A random number in [0, shifts) that depends on seed and epoch alone."""
    hashed = hashes_of_rows(np.array([epoch]), seed % 2**64, SHIFT)
    return int(hashed[0]) % shifts


def samples_of_windows(network, windows, share=None):
    """Windows as `Samples` for training. share: as in `check_samples`. Raises ValueError unless they suit the
    network."""
    T = windows.context
    windows.check_network("X", network)
    if network.input_shape != (T,):
        raise value_error("X", f"rows of shape {network.input_shape}", repr(windows))
    x, y = windows.at_all_positions()
    samples = check_samples(network, x, y, names=("X", "y (the tokens of X)", ""), share=share)
    rows = windows.per_epoch
    return dataclasses.replace(samples, index=np.arange(rows) * T, shifts=len(x) - (rows - 1) * T)
