"""fastgd: trains neural networks by gradient descent on CPUs.

net = fastgd.Network(64, [fastgd.Dense(64, "relu"), fastgd.Dense(10)], loss="softmax_cross_entropy")
history = net.fit(X, y, optimizer=fastgd.Adam(1e-3), batch_size=32, epochs=20)
"""

import functools
import importlib.util
import os
import sys
import types
from typing import TYPE_CHECKING

# In a checkout, the compiled modules come from the installed package. (pkgutil.extend_path would do this, but not if
# the working folder has been removed.)
__path__ = [
    *__path__,
    *(
        path
        for path in (os.path.join(folder, __name__) for folder in sys.path if isinstance(folder, str) and folder)
        if path not in __path__ and os.path.isfile(os.path.join(path, "__init__.py"))
    ),
]

if importlib.util.find_spec("._plan", __name__) is None:
    raise ImportError(f"fastgd is not built in {__path__[0]}: `pip install .` in the checkout builds and installs it")

from . import (
    activations,
    callbacks,
    custom,
    distributed,
    images,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    plots,
    schedules,
    tables,
    text,
)
from .core import hints
from .core.config import __version__, show_config
from .core.kernel import kernels
from .data.minibatches import minibatches
from .errors import CheckpointError, DivergenceError, RankError
from .explore.gradient_check import check_gradients
from .explore.range_test import RangeTest, find_learning_rate
from .explore.sweep import Sweep, sweep
from .layers import *  # noqa: F403
from .network import Network, load
from .optimizers import *  # noqa: F403
from .training.history import History
from .training.run import Run

__all__ = [
    "CheckpointError",
    "DivergenceError",
    "History",
    "Network",
    "RangeTest",
    "RankError",
    "Run",
    "Sweep",
    "__version__",
    "activations",
    "callbacks",
    "check_gradients",
    "custom",
    "distributed",
    "find_learning_rate",
    "images",
    "initializers",
    "kernels",
    "load",
    "losses",
    "metrics",
    "minibatches",
    "models",
    "optimizers",
    "plots",
    "schedules",
    "show_config",
    "sweep",
    "tables",
    "text",
]
__all__ += layers.__all__
__all__ += optimizers.__all__


def _no_name(module, names, name):
    """The AttributeError for a name that a module does not have. It has no `name`: Python adds no suggestion."""
    advice = "" if name.startswith("_") else hints.of_name(name, names)
    return AttributeError(f"module {module!r} has no attribute {name!r}{advice}", obj=sys.modules[module])


def _raise_no_name(module, names, name):
    raise _no_name(module, names, name)


LAZY = ("sklearn", "torch")  # modules that need other packages

if TYPE_CHECKING:
    from . import sklearn as sklearn
    from . import torch as torch
else:

    def __getattr__(name):
        """`fastgd.sklearn` and `fastgd.torch` are imported when they are used."""
        if name in LAZY:
            return importlib.import_module(f".{name}", __name__)
        raise _no_name(__name__, __all__, name)


def __dir__() -> list[str]:
    """The names that are for users."""
    return sorted([*__all__, *LAZY])


for _module in [value for name, value in globals().items() if name in __all__ and isinstance(value, types.ModuleType)]:
    vars(_module)["__dir__"] = functools.partial(sorted, _module.__all__)
    if "__getattr__" not in vars(_module):
        vars(_module)["__getattr__"] = functools.partial(_raise_no_name, _module.__name__, _module.__all__)
