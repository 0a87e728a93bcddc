"""What a user's function computes, in a few numbers, so that a file can say which function it was saved with.

A file names its functions, and a name may mean another function by the time it is read. The source would be a poor
witness: a comment changes it, and what it reads does not. So a file has what the function gives at a few points, for
the parameters in use. Numbers that differ by no more than processors and versions of a math library do are the same.
"""

import math
import random

import numpy as np

RELATIVE, ABSOLUTE = 1e-6, 1e-9
# Points, of so many elements where elements are alike, and where they lie.
POINTS, ELEMENTS = 12, 3
RANGES = (-3.0, 3.0), (0.0, 1.0), (-30.0, 30.0)
GOLDEN_RATIO = (5**0.5 - 1) / 2


def _spread(count, low, high, start=0):
    """Numbers without a pattern in [low, high): multiples of the golden ratio, of which the integers are left out."""
    return low + (high - low) * ((np.arange(start, start + count) + 0.5) * GOLDEN_RATIO % 1)


def of_kernel(kernel, scalars=None, outputs=3):
    """What a user's kernel writes at a few points, a list for each; None if the kernel is the package's, [] if it gives
    other numbers each time. scalars: of the number of the point, the scalars of the kernel; None takes some in
    (0.1, 0.9). outputs: size of dimension k."""
    if kernel is None or not kernel.functions:
        return None
    states = np.random.get_state(), random.getstate()  # noqa: NPY002  what the function may draw from
    try:
        once, twice = (_rows(kernel, scalars, outputs) for _ in range(2))
    finally:  # numbers that it draws are still to come
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])
    return once if agree(once, twice) else []


def _rows(kernel, scalars, outputs):
    sizes = dict.fromkeys(kernel.dims, 1) | {"n": ELEMENTS, "k": outputs}
    rows, specs = [], list(kernel.arrays.values())
    for i in range(POINTS):
        arrays = [_values(spec, [sizes[dim] for dim in spec.dims], i, j) for j, spec in enumerate(specs)]
        given = _spread(len(kernel.scalars), 0.1, 0.9, 10 * i).tolist() if scalars is None else scalars(i)
        results = [a for a, spec in zip(arrays, specs, strict=True) if spec.direction != "in"]
        rows.append(_given(kernel, [*arrays, *given], results))
    return rows


def _values(spec, shape, i, j):
    """An array for point i, the j-th of a kernel."""
    if spec.domain == "labels":
        return np.full(shape, i % 2, np.int64)
    values = _spread(int(np.prod(shape)), *RANGES[i % len(RANGES)], 100 * i + 7 * j).reshape(shape)
    is_real = spec.domain == "real" and spec.dtype is None
    return (values if is_real else np.abs(values)).astype(spec.dtype or np.float64)


def _given(kernel, arguments, results):
    """Of every array that a kernel writes, the first number and the sum of all with weights, as text where they are not
    finite; or the name of what it raises."""
    try:
        kernel.run_reference(arguments)
    except Exception as error:
        return [type(error).__name__]
    sums = [(array.flat[0], array.reshape(-1) @ _spread(array.size, 0.5, 1.5)) for array in results]
    values = [float(value) for pair in sums for value in pair]
    return [value if math.isfinite(value) else str(value) for value in values]


def of_activation(activation):
    """The fingerprint of an activation; None if it is the package's."""
    return of_kernel(activation.forward, lambda i: activation.parameters.values())


def of_loss(loss, outputs):
    """The fingerprint of a loss of so many outputs, with its link; None if it is the package's."""
    rows = of_kernel(loss.kernels[0], lambda i: loss.parameters.values(), outputs)
    if rows is None:
        return None
    return [["" if loss.link is None else loss.link.name], *rows, *(of_kernel(loss.link, outputs=outputs) or [])]


def of_optimizer(optimizer):
    """The fingerprint of an optimizer's rule; None if it is the package's."""
    return of_kernel(optimizer.kernel, lambda i: [*optimizer.scalars(0.01 * (i + 1), i + 1.0), 0.0, 0.0])


def describe(network, optimizer=None):
    """The fingerprints of all functions written by users in a network and an optimizer, by where they stand."""
    return {place: rows for place, (_, rows) in _functions(network, optimizer).items() if rows is not None}


def difference(saved, network, optimizer=None):
    """(place, name) of a function in a network or an optimizer whose fingerprint is not that of `saved`, or None."""
    now = describe(network, optimizer)
    for place, (name, _) in _functions(network, optimizer).items():
        if (place in saved) != (place in now) or not agree(saved.get(place, []), now.get(place, [])):
            return place, name
    return None


def _functions(network, optimizer):
    """Name and fingerprint of all that may be a user's, by place."""
    loss = network.loss_function
    found = {"loss": (loss.name, of_loss(loss, network.output_shape[-1]))}
    for i, layer in enumerate(network.layers, 1):
        if hasattr(layer, "activation"):
            found[f"layer {i}"] = layer.activation.name, of_activation(layer.activation)
    if optimizer is not None:
        found["optimizer"] = type(optimizer).__name__, of_optimizer(optimizer)
    return found


def agree(one, other):
    """Whether two fingerprints are of the same function."""
    return len(one) == len(other) and all(map(_rows_agree, one, other))


def _rows_agree(one, other):
    if len(one) != len(other):
        return False
    return all(
        math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
        if isinstance(a, float) and isinstance(b, float)
        else a == b
        for a, b in zip(one, other, strict=True)
    )
