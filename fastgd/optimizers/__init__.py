"""Optimizers: for each a rule as a fused kernel over flat arrays, and a class with its hyper-parameters.

Every kernel ends with `weight_decay`, which adds weight_decay p to the gradient, and `shrink`, the part of p that is
taken off it: lr weight_decay for decoupled decay, else 0. Scalars are computed in float64, once a step."""

from .adagrad import AdaDelta, AdaGrad, RMSProp
from .adam import Adam, Adamax, AdamW, AMSGrad, NAdam, RAdam
from .base import OPTIMIZERS as OPTIMIZERS
from .base import Optimizer as Optimizer
from .lbfgs import LBFGS
from .lion import Lion
from .sgd import SGD

__all__ = [
    "LBFGS", "SGD", "AMSGrad", "AdaDelta", "AdaGrad", "Adam", "AdamW", "Adamax", "Lion", "NAdam", "RAdam", "RMSProp"
]  # fmt: skip
