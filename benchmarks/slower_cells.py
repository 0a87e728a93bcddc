"""What slower.py times: functions that make a call, by name. They use only what users may call, imported when a cell is
made, since the package is then that of either version."""

import functools
import itertools
import math
import warnings

import numpy as np
from cells import Task, fastgd_network

STEPS = (
    "tiny_b1", "small_b1_sgd", "digits_b1", "digits_b1_sgd", "digits_b32", "control_b32", "table_b32", "mnist_b128",
    "table_b256", "mid_b128", "odd_b64", "deep_tanh_b100", "thousand_gelu_b100", "float64_b200",
)  # fmt: skip
# rows, n_in, n_out
PRODUCTS = ((1, 64, 10), (32, 64, 64), (64, 200, 50), (128, 784, 512), (256, 256, 256), (256, 1000, 1000))
OFFSETS = itertools.cycle(range(0, 4096, 320))
rng = np.random.default_rng(0)


def normal(*shape):
    """Random numbers in float32, each array at another offset in its page: an update of arrays at the same offset takes
    longer."""
    memory = np.empty(4 * math.prod(shape) + 8192, np.uint8)
    start = -memory.ctypes.data % 4096 + next(OFFSETS)
    array = memory[start : start + 4 * math.prod(shape)].view(np.float32).reshape(shape)
    array[...] = rng.normal(size=shape)
    return array


# ---- networks


def train_step(name):
    task = Task(name)
    network, optimizer = fastgd_network(task)
    x, y = next(task.batches())
    return lambda: network.train_step(x, y, optimizer)


def epoch(name):
    """`fit` over an epoch."""
    task = Task(name)
    network, optimizer = fastgd_network(task)
    return lambda: network.fit(task.X, task.y, optimizer=optimizer, batch_size=task.cell.batch, epochs=1)


def digits(rows, call):
    """A call of the 64-64-10 network: call(network, optimizer, x, y), with that many rows."""
    task = Task("digits_b32")
    network, optimizer = fastgd_network(task)
    return functools.partial(call, network, optimizer, task.X[:rows], task.y[:rows])


def fit(network, optimizer, x, y, **options):
    return network.fit(x, y, optimizer=optimizer, batch_size=32, epochs=1, **options)


def nothing(run):
    pass


def own_loop(network, optimizer, x, y):
    z = network.forward(x, training=True)
    network.backward(z)
    optimizer.step(network)


def soft_update():
    """A target network's step towards another network."""
    (network, _), (target, _) = (fastgd_network(Task("digits_b32")) for _ in range(2))
    return lambda: target.copy_from(network, 0.01)


def minibatches(network, optimizer, x, y):
    import fastgd

    for _ in fastgd.minibatches(x, y, batch_size=32, seed=0):
        pass


def all_layers():
    """A training step with every kind of layer that keeps statistics or draws random numbers."""
    import fastgd

    layers = [
        fastgd.Dense(100, "tanh"), fastgd.BatchNorm(), fastgd.Dropout(0.2), fastgd.Dense(100, "gelu"),
        fastgd.LayerNorm(), fastgd.Dense(10),
    ]  # fmt: skip
    network = fastgd.Network(50, layers, loss="softmax_cross_entropy", l2=1e-4)
    optimizer = fastgd.AdamW(1e-4, clip_norm=1.0)
    x, y = normal(64, 50), rng.integers(0, 10, 64)
    return lambda: network.train_step(x, y, optimizer)


def estimator(door):
    from fastgd.sklearn import MLPClassifier

    x, y = normal(320, 64), np.arange(320) % 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one epoch does not converge
        model = MLPClassifier((64,), max_iter=1, random_state=0).fit(x, y)
    if door == "partial_fit":
        return lambda: model.partial_fit(x[:32], y[:32])
    return functools.partial(getattr(model, door), x[:1])


# ---- optimizers and kernels


def step(name, shapes, **options):
    import fastgd

    optimizer = getattr(fastgd, name)(1e-4, **options)
    return functools.partial(optimizer.step, [normal(n) for n in shapes], [normal(n) for n in shapes])


def product(form, rows, n_in, n_out):
    import fastgd

    x, y, w, b = normal(rows, n_in), normal(rows, n_out), normal(n_in, n_out), normal(n_out)
    kernels = fastgd.kernels
    return {
        "forward": functools.partial(kernels.dense_forward, y, x, w, b),
        "dx": functools.partial(kernels.dense_backward_input, x, y, w),
        "dW": functools.partial(kernels.dense_backward_weights, w, x, y),
    }[form]


def activation(name, rows, n):
    import fastgd

    return functools.partial(getattr(fastgd.kernels, name), normal(rows, n), normal(rows, n))


def adam_step(n):
    import fastgd

    p, m, v, g = (normal(n) for _ in range(4))
    np.abs(v, out=v)
    return functools.partial(fastgd.kernels.adam_step, p, m, v, g, 1e-4, 0.9, 0.999, 1.0, 1e-8, 0.0, 0.0)


DOORS = {
    "predict 1 row": (1, lambda net, opt, x, y: net.predict(x)),
    "predict 32 rows": (32, lambda net, opt, x, y: net.predict(x)),
    "predict 1 row of a new array": (1, lambda net, opt, x, y: net.predict(x.copy())),
    "predict 1 row out=": (1, functools.partial(lambda out, net, opt, x, y: net.predict(x, out=out), normal(1, 10))),
    "forward 1 row": (1, lambda net, opt, x, y: net.forward(x)),
    "loss 32 rows": (32, lambda net, opt, x, y: net.loss(x, y)),
    "loss_and_gradient 32 rows": (32, lambda net, opt, x, y: net.loss_and_gradient(x, y)),
    "evaluate 32 rows": (32, lambda net, opt, x, y: net.evaluate(x, y, metrics=["accuracy"])),
    "forward backward step 32 rows": (32, own_loop),
    "train_step weighted": (32, lambda net, opt, x, y: net.train_step(x, y, opt, sample_weight=np.ones(32))),
    "minibatches 44 of 32 rows": (1408, minibatches),
    "fit 8 steps": (256, fit),
    "fit 8 steps with validation": (256, lambda *a: fit(*a, validation_data=a[2:])),
    "fit 8 steps with early stopping": (256, functools.partial(fit, patience=3, restore_best=True)),
    "fit 8 steps with callback": (256, functools.partial(fit, callbacks=[nothing])),
    "fit 44 steps": (1408, fit),
}
CELLS = {
    **{f"train_step {name}": functools.partial(train_step, name) for name in STEPS},
    **{f"fit {name}": functools.partial(epoch, name) for name in STEPS},
    "train_step all layers": all_layers,
    **{name: functools.partial(digits, *door) for name, door in DOORS.items()},
    "copy_from": soft_update,
    **{f"MLPClassifier.{door}": functools.partial(estimator, door) for door in ("predict", "partial_fit")},
    **{f"{name}.step 1000": functools.partial(step, name, [1000]) for name in ("SGD", "Adam", "NAdam", "Lion")},
    "Adam.step 1000000": functools.partial(step, "Adam", [1_000_000]),
    "Adam.step 200 arrays of 64": functools.partial(step, "Adam", [64] * 200),
    "Adam.step 8bit 100000": functools.partial(step, "Adam", [100_000], state_dtype="8bit"),
    **{
        f"product {form} {'x'.join(map(str, sizes))}": functools.partial(product, form, *sizes)
        for sizes in PRODUCTS
        for form in ("forward", "dx", "dW")
    },
    "kernel relu_forward 1x10": functools.partial(activation, "relu_forward", 1, 10),
    "kernel tanh_forward 128x100": functools.partial(activation, "tanh_forward", 128, 100),
    "kernel adam_step 1000": functools.partial(adam_step, 1000),
}  # fmt: skip
