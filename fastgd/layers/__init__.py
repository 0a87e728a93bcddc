"""Layers, and the table of all by name."""

from .base import Layer as Layer
from .containers import Concatenate, Flatten, Reshape, Residual, Sequential
from .dense import Dense
from .dropout import Dropout
from .normalization import BatchNorm, LayerNorm
from .standardize import Standardize

__all__ = [
    "BatchNorm",
    "Concatenate",
    "Dense",
    "Dropout",
    "Flatten",
    "LayerNorm",
    "Reshape",
    "Residual",
    "Sequential",
    "Standardize",
]
