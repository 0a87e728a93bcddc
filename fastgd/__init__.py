"""fastgd: trains neural networks by gradient descent on CPUs.

net = fastgd.Network(64, [fastgd.Dense(64, "relu"), fastgd.Dense(10)], loss="softmax_cross_entropy")
history = net.fit(X, y, optimizer=fastgd.Adam(1e-3), batch_size=32, epochs=20)
"""

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

from . import activations, callbacks, initializers, layers, losses, metrics, optimizers, schedules
from .core import hints
from .core.config import __version__, show_config
from .core.kernel import kernels
from .data.minibatches import minibatches
from .errors import CheckpointError, DivergenceError, RankError
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


# Modules that are imported when they are used: they need other packages, or few programs need them.
LAZY = ("custom", "images", "models", "plots", "sklearn", "tables", "text", "torch")

# Names that are imported when they are used, by their modules.
LAZY_NAMES = {
    **dict.fromkeys(("Sweep", "sweep"), "explore.sweep"),
    **dict.fromkeys(("RangeTest", "find_learning_rate"), "explore.range_test"),
    "check_gradients": "explore.gradient_check",
}

if TYPE_CHECKING:
    from . import custom as custom
    from . import images as images
    from . import models as models
    from . import plots as plots
    from . import sklearn as sklearn
    from . import tables as tables
    from . import text as text
    from . import torch as torch
    from .explore.gradient_check import check_gradients
    from .explore.range_test import RangeTest, find_learning_rate
    from .explore.sweep import Sweep, sweep
else:

    def __getattr__(name):
        """`fastgd.tables` and the like are imported when they are used."""
        if name in LAZY:
            return importlib.import_module(f".{name}", __name__)
        if name in LAZY_NAMES:
            globals()[name] = getattr(importlib.import_module(f".{LAZY_NAMES[name]}", __name__), name)
            return globals()[name]
        raise hints.no_name(__name__, __all__, name)


def __dir__() -> list[str]:
    """The names that are for users."""
    return sorted({*__all__, *LAZY})


for _module in [value for name, value in globals().items() if name in __all__ and isinstance(value, types.ModuleType)]:
    hints.show_names(_module.__name__)
