"""Prints a SHA-256 digest of the results of short training runs, for a hundred configurations. A change that must not
alter any bit prints the same lines before and after.

    python tests/digests.py > before.txt
    python tests/digests.py | diff before.txt -

Digests hold for one machine: another instruction set or another numpy rounds sums differently. They cover parameters,
statistics, epoch losses and predictions. The script uses only public names, so it also runs with older versions."""

import hashlib
import pathlib
import sys
import tempfile
import warnings
import zlib

import numpy as np
from cases import LAYERS, OPTIMIZERS

import fastgd
from fastgd import Dense

ROWS, FEATURES, CLASSES = 100, 12, 4
# (backend, dtype). Each configuration runs with two of them, chosen by its name, so that together they cover all.
PAIRS = [(backend, dtype) for dtype in ("float32", "float64") for backend in ("cython", "numba", "numpy")]
TARGETS = {
    "softmax_cross_entropy": lambda rng: rng.integers(0, CLASSES, ROWS),
    "binary_cross_entropy": lambda rng: (rng.random((ROWS, CLASSES)) < 0.4) * 1.0,
    "poisson": lambda rng: rng.poisson(2.0, (ROWS, CLASSES)) * 1.0,
    "gaussian_nll": lambda rng: rng.normal(size=(ROWS, CLASSES // 2)),
    "hinge": lambda rng: rng.choice([-1.0, 1.0], (ROWS, CLASSES)),
    "kl_divergence": lambda rng: rng.dirichlet(np.ones(CLASSES), ROWS),
}


def samples(loss):
    rng = np.random.Generator(np.random.PCG64(1))
    x = rng.normal(size=(ROWS, FEATURES))
    return x, TARGETS.get(loss, lambda rng: rng.normal(size=(ROWS, CLASSES)))(rng)


def weights():
    return np.random.Generator(np.random.PCG64(2)).uniform(0.5, 2.0, ROWS)


def network(pair, hidden=None, loss="softmax_cross_entropy", widths=(16, 9), **options):
    """A network with two dense hidden layers and the layers `hidden` between them."""
    backend, dtype = pair
    layers = [Dense(widths[0], "tanh"), *(hidden or []), Dense(widths[1], "relu"), Dense(CLASSES)]
    return fastgd.Network(FEATURES, layers, loss=loss, backend=backend, dtype=dtype, seed=3, **options)


def digest(net, *more):
    found = hashlib.sha256()
    losses = [] if net.history is None else [*net.history.loss, *net.history.validation_loss]
    arrays = net.parameters, *net.statistics.values(), np.array(losses), net.predict(samples(None)[0]), *more
    for array in arrays:
        found.update(np.ascontiguousarray(array))
    return found.hexdigest()


def trained(net, loss="softmax_cross_entropy", optimizer="Adam", epochs=3, **options):
    x, y = samples(loss)
    optimizer = OPTIMIZERS[optimizer](0.01) if isinstance(optimizer, str) else optimizer
    net.fit(x, y, optimizer=optimizer, epochs=epochs, **{"batch_size": 32, **options})
    return digest(net, *(() if optimizer.ema_decay is None else optimizer.averages))


def stepped(net, optimizer, steps=7, **options):
    """Single training steps, then an Optimizer.step with a gradient."""
    x, y = (np.ascontiguousarray(a) for a in samples("softmax_cross_entropy"))
    x = x.astype(net.parameters.dtype)
    losses = [net.train_step(x[i : i + 9], y[i : i + 9], optimizer, **options) for i in range(steps)]
    loss, gradient = net.loss_and_gradient(x[:9], y[:9])
    optimizer_by_hand = fastgd.RMSProp(0.01)
    optimizer_by_hand.step(net.parameters, gradient)
    return digest(net, np.array([*losses, loss]), gradient)


def resumed(pair, **options):
    """Three epochs with a checkpoint, then a new network that resumes until epoch seven."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "run.safetensors")
        x, y = samples("softmax_cross_entropy")
        chosen = {"batch_size": 7, "checkpoint": path, **options}
        network(pair, [fastgd.Dropout(0.2)]).fit(x, y, optimizer=fastgd.Adam(0.01), epochs=3, **chosen)
        net = network(pair, [fastgd.Dropout(0.2)])
        net.fit(x, y, optimizer=fastgd.Adam(0.01), epochs=7, resume=True, **chosen)
        loaded, _ = fastgd.load(path)
        return digest(net, loaded.parameters)


def estimated(kind, **options):
    """Digest of an estimator's weights and predictions."""
    from fastgd import sklearn

    x, y = samples("softmax_cross_entropy" if kind == "MLPClassifier" else "mse")
    with warnings.catch_warnings(action="ignore"):
        estimator = getattr(sklearn, kind)(hidden_layer_sizes=(16, 9), random_state=3, max_iter=5, **options).fit(x, y)
        if not options:
            estimator.partial_fit(x[:9], y[:9])
    found = hashlib.sha256()
    for array in (*estimator.coefs_, *estimator.intercepts_, estimator.predict(x)):
        found.update(np.ascontiguousarray(array))
    return found.hexdigest()


def swept():
    x, y = samples("softmax_cross_entropy")
    found = fastgd.sweep(network(PAIRS[0]), x, y, {"seed": [1, 2], "learning_rate": [0.1, 0.01]}, epochs=2)
    return hashlib.sha256("".join(digest(net) for net in found.networks).encode()).hexdigest()


def searched():
    x, y = samples("softmax_cross_entropy")
    found = fastgd.find_learning_rate(network(PAIRS[0]), x, y, steps=40)
    return hashlib.sha256(np.array(found.loss)).hexdigest()


def streamed(pair):
    net, (x, y) = network(pair), samples("softmax_cross_entropy")
    batches = [(x[i : i + 10], y[i : i + 10], weights()[i : i + 10]) for i in range(0, ROWS, 10)]
    net.fit(batches, optimizer=fastgd.Adam(0.01), epochs=3)
    return digest(net)


def loop_of_ones(pair, **options):
    """Stochastic descent by plain SGD, without a gradient array; the network is much larger than a row's values."""
    return trained(network(pair, widths=(64, 48), **options), optimizer="SGD", batch_size=1)


def configurations():
    """Yields (name, a function that trains and returns the digest)."""

    def both(name, function):
        number = zlib.crc32(name.encode())
        for backend, dtype in (PAIRS[number % 6], PAIRS[(number + 4) % 6]):
            yield f"{name} {backend} {dtype}", lambda at=(backend, dtype): function(at)

    def of_fit(**options):
        return lambda at: trained(network(at), **options)

    for optimizer in OPTIMIZERS:
        yield from both(f"optimizer {optimizer}", of_fit(optimizer=optimizer))
    for name, make in LAYERS.items():
        yield from both(f"layer {name}", lambda at, make=make: trained(network(at, [make()])))
    for name in fastgd.activations.ACTIVATIONS:
        yield from both(f"activation {name}", lambda at, name=name: trained(network(at, [Dense(11, name)])))
    for name in fastgd.losses.LOSSES:
        yield from both(f"loss {name}", lambda at, name=name: trained(network(at, loss=name), name))
    for name in fastgd.initializers.INITIALIZERS:
        hidden = [Dense(16, weight_init=name, bias_init=name if name in ("zeros", "torch") else "zeros")]
        yield from both(f"initializer {name}", lambda at, hidden=hidden: digest(network(at, hidden)))
    for at in PAIRS:
        for size in (1, 7, 32, None):
            yield f"batch_size {size} {at[0]} {at[1]}", lambda at=at, size=size: trained(network(at), batch_size=size)
        yield f"rank one {at[0]} {at[1]}", lambda at=at: loop_of_ones(at)
        yield f"steps {at[0]} {at[1]}", lambda at=at: stepped(network(at), fastgd.Adam(0.01))
        yield f"resume {at[0]} {at[1]}", lambda at=at: resumed(at)
        yield f"iterable {at[0]} {at[1]}", lambda at=at: streamed(at)
    for name, options in {
        "sample_weight": {"sample_weight": weights()},
        "class_weight": {"class_weight": "balanced"},
        "validation": {"validation_fraction": 0.2, "metrics": ["accuracy"], "patience": 1, "restore_best": True},
        "no shuffle": {"shuffle": False, "batch_size": 9},
    }.items():
        yield from both(name, of_fit(**options))
    for name, options in {
        "accumulate": {"accumulate": 3},
        "clip_norm": {"clip_norm": 0.1},
        "clip_value": {"clip_value": 0.01},
        "ema": {"ema_decay": 0.9},
        "8bit": {"state_dtype": "8bit"},
        "bfloat16": {"state_dtype": "bfloat16"},
        "all of them": {"accumulate": 2, "clip_norm": 0.1, "ema_decay": 0.9, "state_dtype": "8bit"},
        "factors": {"learning_rate_factors": {"w1": 0.5, "b2": 0.0}},
    }.items():
        yield from both(name, lambda at, chosen=options: trained(network(at), optimizer=fastgd.Adam(0.01, **chosen)))
    for name, rate in {
        "cosine": fastgd.schedules.cosine(0.01, 10),
        "plateau": fastgd.schedules.reduce_on_plateau(0.01, patience=1, threshold=0.5),
        "function": lambda step: 0.01 / (1 + step),
    }.items():
        yield from both(f"schedule {name}", lambda at, rate=rate: trained(network(at), optimizer=fastgd.Adam(rate)))
    yield from both("penalty", lambda at: trained(network(at, l1=1e-3, l2=1e-2)))
    # Large enough for the fused pass, for threads and for several blocks.
    wide = {"widths": (300, 200), "num_threads": 2}
    for at in PAIRS:
        yield f"wide {at[0]} {at[1]}", lambda at=at: trained(network(at, **wide), batch_size=40)
    yield from both("weights of steps", lambda at: stepped(network(at), fastgd.SGD(0.1), sample_weight=weights()[:9]))
    yield "MLPClassifier", lambda: estimated("MLPClassifier")
    yield "MLPClassifier early_stopping", lambda: estimated("MLPClassifier", early_stopping=True, solver="sgd")
    yield "MLPRegressor", lambda: estimated("MLPRegressor")
    yield "MLPRegressor weights", lambda: estimated("MLPRegressor", alpha=0.1, batch_size=7)
    yield "sweep", swept
    yield "range test", searched


def main(chosen=""):
    for name, run in configurations():
        if chosen in name:
            print(run(), name, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:2])
