"""Layers, and the table of all by name."""

from .activation import Activation
from .attention import CausalSelfAttention, SelfAttention
from .augmentation import RandomCrop, RandomFlip
from .base import Layer as Layer
from .containers import Concatenate, Residual, Sequential
from .convolution import Conv2D
from .dense import Dense
from .dropout import Dropout
from .embedding import Embedding, PositionalEmbedding
from .gru import GRU
from .lstm import LSTM
from .normalization import BatchNorm, LayerNorm
from .pooling import AvgPool2D, GlobalAvgPool2D, MaxPool2D
from .reshape import Flatten, Reshape
from .standardize import Standardize
from .transformer import TransformerBlock

__all__ = [
    "GRU",
    "LSTM",
    "Activation",
    "AvgPool2D",
    "BatchNorm",
    "CausalSelfAttention",
    "Concatenate",
    "Conv2D",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalAvgPool2D",
    "LayerNorm",
    "MaxPool2D",
    "PositionalEmbedding",
    "RandomCrop",
    "RandomFlip",
    "Reshape",
    "Residual",
    "SelfAttention",
    "Sequential",
    "Standardize",
    "TransformerBlock",
]
