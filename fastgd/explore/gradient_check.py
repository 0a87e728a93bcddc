"""Compares gradients with finite differences."""

import numpy as np
import numpy.typing as npt

from ..data.samples import as_array
from ..errors import check_number, shown, type_error
from ..network import Network


@np.errstate(all="ignore")
def check_gradients(
    network: Network, x: "npt.ArrayLike", y: "npt.ArrayLike", *, step: float = 1e-3, training: bool = False
) -> dict[str, float]:
    """Compares the gradient of a network with finite differences of its loss; returns the largest error for each array
    of parameters by name, {"w1": 3e-10, ...}.

    x, y: rows and targets as in `Network.loss`; a few rows suffice. step: h / max(1, |p|) for a parameter p, where h is
        the width of the differences. training: as in `Network.loss_and_gradient`.

    The derivative for each parameter is a difference of fourth order of the loss in float64,
    (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / (12 h). The error is |difference - g| / max(|g|, max |gradient| / 1000). For
    a correct gradient it is about 1e-9 in float64 and 1e-5 in float32; it may have any size where the derivative jumps
    between p - 2h and p + 2h, as the derivative of relu does.

    Raises TypeError or ValueError that names the argument."""
    if not isinstance(network, Network):
        raise type_error("network", "a Network", shown(network))
    step = check_number("step", step, 0.0, low_open=True)
    x, y = as_array("x", x), as_array("y", y)  # converted once, not for each difference
    _, gradient = network.loss_and_gradient(x, y, training=training, minibatch=0)  # the masks of all differences
    gradient = gradient.astype(np.float64)
    twin = network.like(dtype="float64")
    p = twin.parameters
    twin.state[...] = network.state
    errors, floor = np.empty(p.size), 1e-3 * np.abs(gradient).max()
    for i in range(p.size):
        original, h = p[i], step * max(1.0, abs(p[i]))
        values = []
        for offset in (h, -h, 2 * h, -2 * h):
            p[i] = original + offset
            if training:
                values.append(twin.loss_and_gradient(x, y, training=True, minibatch=0)[0])
            else:
                values.append(twin.loss(x, y))
        p[i] = original
        numeric = (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * h)
        errors[i] = abs(numeric - gradient[i]) / max(abs(gradient[i]), floor, np.finfo(np.float64).tiny)
    return {name: float(part.max()) for name, part in network.views(errors).items()}
