"""Fingerprints of users' functions: a few of their values, so that a file can identify the functions it was saved with.

A file names its functions, but a name may mean another function when the file is read. Comparing sources would not do:
a comment changes the source, while changes of the values that it reads do not. So a file has the values of the function
at a few points, with the parameters in use. Values match within the differences between processors and math libraries.
"""

import math

import numpy as np

RELATIVE, ABSOLUTE = 1e-6, 1e-9
# Number of points, elements of an array at a point, and intervals of the values.
POINTS, ELEMENTS = 12, 3
RANGES = (-3.0, 3.0), (0.0, 1.0), (-30.0, 30.0)
GOLDEN_RATIO = (5**0.5 - 1) / 2


def _spread(count, low, high, start=0):
    """Evenly spread numbers in [low, high): the fractional parts of multiples of the golden ratio, scaled."""
    return low + (high - low) * ((np.arange(start, start + count) + 0.5) * GOLDEN_RATIO % 1)


def of_kernel(kernel, scalars=None, outputs=3, targets=1):
    """A list of results for each point; None if the kernel is the package's, [] if results differ from call to call.
    scalars: function of the number of the point, which returns the scalars of the kernel; None chooses numbers in
    (0.1, 0.9). outputs, targets: sizes of dimensions k and targets."""
    if kernel is None or not kernel.functions:
        return None
    import random  # slow

    states = np.random.get_state(), random.getstate()  # noqa: NPY002  the function may draw random numbers
    try:
        once, twice = (_rows(kernel, scalars, outputs, targets) for _ in range(2))
    finally:
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])
    return once if agree(once, twice) else []


def _rows(kernel, scalars, outputs, targets):
    sizes = dict.fromkeys(kernel.dims, 1) | {"n": ELEMENTS, "k": outputs, "targets": targets}
    rows, specs = [], list(kernel.arrays.values())
    for i in range(POINTS):
        arrays = [_values(spec, [sizes[dim] for dim in spec.dims], i, j) for j, spec in enumerate(specs)]
        given = _spread(len(kernel.scalars), 0.1, 0.9, 10 * i).tolist() if scalars is None else scalars(i)
        results = [a for a, spec in zip(arrays, specs, strict=True) if spec.direction != "in"]
        rows.append(_results(kernel, [*arrays, *given], results))
    return rows


def _values(spec, shape, i, j):
    """The j-th array of a kernel for point i."""
    if spec.domain == "labels":
        return np.full(shape, i % 2, np.int64)
    values = _spread(int(np.prod(shape)), *RANGES[i % len(RANGES)], 100 * i + 7 * j).reshape(shape)
    is_real = spec.domain == "real" and spec.dtype is None
    return (values if is_real else np.abs(values)).astype(spec.dtype or np.float64)


def _results(kernel, arguments, results):
    """For every array that the kernel writes, its first number and a weighted sum, as text if they are not finite; or
    the name of the exception that it raises."""
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
    """The fingerprint of a loss and its link, for this many outputs; None if it is the package's."""
    targets = loss.n_targets or 1
    rows = of_kernel(loss.kernels[0], lambda i: loss.parameters.values(), outputs, targets)
    if rows is None:
        return None
    return [["" if loss.link is None else loss.link.name], *rows, *(of_kernel(loss.link, outputs=outputs) or [])]


def of_optimizer(optimizer):
    """The fingerprint of an optimizer's rule; None if it is the package's."""
    return of_kernel(optimizer.kernel, lambda i: [*optimizer.scalars(0.01 * (i + 1), i + 1.0), 0.0, 0.0])


def describe(network, optimizer=None):
    """The fingerprints of the users' functions in a network and an optimizer, by role: "loss", "layer 1",
    "layer 3.2", ..."""
    return {role: rows for role, (_, rows) in _functions(network, optimizer).items() if rows is not None}


def difference(saved, network, optimizer=None):
    """(role, name) of a function in a network or an optimizer whose fingerprint differs from the saved one, or None."""
    now = describe(network, optimizer)
    for role, (name, _) in _functions(network, optimizer).items():
        if (role in saved) != (role in now) or not agree(saved.get(role, []), now.get(role, [])):
            return role, name
    return None


def _functions(network, optimizer):
    """(name, fingerprint) of the functions that may be users', by role."""
    loss = network.loss_function
    found = {"loss": (loss.name, of_loss(loss, network.output_shape[-1]))}
    for path, layer, _ in network.body.leaves("", network.input_shape):
        for i, activation in enumerate(layer.activations(), 1):
            role = f"layer {path}" if i == 1 else f"layer {path}, activation {i}"
            found[role] = activation.name, of_activation(activation)
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
