"""Gradients against finite differences."""

import numpy as np

from ..data.samples import as_array
from ..errors import check_number, shown, type_error
from ..network import Network


@np.errstate(all="ignore")
def check_gradients(network, x, y, *, step=1e-3, training=False):
    """Compares the gradient of a network with differences of its loss; returns the largest error by name of a parameter
    array, {"w1": 3e-10, ...}.

    x, y: rows and targets as in `Network.loss`; a few rows do. step: the width h of the differences, times max(1, |p|).
    training: the layers as they are in training, or as in evaluation; see `Network.loss_and_gradient`.

    The loss is taken in float64 and its derivative to fourth order, (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / (12 h), for
    every parameter. An error is |difference - g| / max(|g|, max |gradient| / 1000). Of a right gradient it is some 1e-9
    in float64 and 1e-5 in float32; where a derivative jumps within a step, as that of relu does, it may be of any size.

    Raises TypeError or ValueError naming the argument.
    """
    if not isinstance(network, Network):
        raise type_error("network", "a Network", shown(network))
    step = check_number("step", step, 0.0, low_open=True)
    x, y = as_array("x", x), as_array("y", y)  # once, and not for each difference
    _, gradient = network.loss_and_gradient(x, y, training=training, minibatch=0)  # the same masks for all
    gradient = gradient.astype(np.float64)
    twin = network.like(dtype="float64")
    p = twin.parameters
    twin.state[...] = network.state
    errors, floor = np.empty(p.size), 1e-3 * np.abs(gradient).max()
    for i in range(p.size):
        held, h = p[i], step * max(1.0, abs(p[i]))
        values = []
        for offset in (h, -h, 2 * h, -2 * h):
            p[i] = held + offset
            if training:
                values.append(twin.loss_and_gradient(x, y, training=True, minibatch=0)[0])
            else:
                values.append(twin.loss(x, y))
        p[i] = held
        numeric = (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * h)
        errors[i] = abs(numeric - gradient[i]) / max(abs(gradient[i]), floor, np.finfo(np.float64).tiny)
    return {name: float(part.max()) for name, part in network.views(errors).items()}
