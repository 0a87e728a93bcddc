"""Types in the signatures of public functions. Annotations quote these names where `help` would show pages instead."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

# An array of float32 or float64.
Array: TypeAlias = npt.NDArray[np.floating[Any]]
Path: TypeAlias = str | os.PathLike[str]
# What a function of the user may return as a number.
Number: TypeAlias = float | np.floating[Any] | np.integer[Any]
# The shape of a row as the user gives it, and as the package uses it.
ShapeLike: TypeAlias = int | Sequence[int]
Shape: TypeAlias = tuple[int, ...]
# A learning rate: a number, or a function of the number of updates made, such as a schedule.
Rate: TypeAlias = Number | Callable[[int], Number]
# Data that `fit` trains on, apart from y: rows, or minibatches (x, y) or (x, y, sample_weight).
Data: TypeAlias = npt.ArrayLike | Iterable[tuple[npt.ArrayLike, ...]]


@runtime_checkable
class HasTargets(Protocol):
    """Data with rows x and targets y, such as `fastgd.text.Windows`."""

    @property
    def x(self) -> "npt.ArrayLike": ...
    @property
    def y(self) -> "npt.ArrayLike": ...
