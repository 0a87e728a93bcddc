"""Optimizers: for each a rule as a fused kernel over flat arrays, and a class with its hyper-parameters.

Every kernel ends with `weight_decay`, which adds weight_decay p to the gradient, and `shrink`, the part of p that is
taken off it: lr weight_decay for decoupled decay, else 0. Scalars are computed in float64, once a step."""

from ..core.kernel import kernels
from . import adagrad, adam, lion, sgd
from .adagrad import AdaDelta, AdaGrad, RMSProp
from .adam import Adam, Adamax, AdamW, AMSGrad, NAdam, RAdam
from .lion import Lion
from .low_memory import STATE_DTYPES, low_memory_kernel
from .sgd import SGD

__all__ = ["SGD", "AMSGrad", "AdaDelta", "AdaGrad", "Adam", "AdamW", "Adamax", "Lion", "NAdam", "RAdam", "RMSProp"]
OPTIMIZERS = {name: globals()[name] for name in __all__}

# A variance near 0 is a small difference of averages, which fewer bits would lose; and plain SGD has no state.
WHOLE_STATE = sgd.sgd_step, adagrad.rmsprop_centred_step
RULES = {module.__name__ for module in (adagrad, adam, lion, sgd)}
for rule in [made for made in vars(kernels).values() if made.__module__ in RULES and made not in WHOLE_STATE]:
    for state_dtype in STATE_DTYPES if "p" in rule.arrays else ():
        low_memory_kernel(rule, state_dtype)
