"""The networks that benchmarks train: a table of cells, and the data of each."""

import typing

import numpy as np


class Cell(typing.NamedTuple):
    """A network, a batch size, an optimizer. A short run is a fresh call for SHORT_STEPS steps, which starts from uncut
    arrays."""

    sizes: tuple[int, ...]
    batch: int
    activation: str = "relu"
    optimizer: str = "Adam"
    dtype: str = "float32"
    loss: str = "softmax_cross_entropy"
    is_short: bool = False


SHORT_STEPS = 100
RATE = 1e-4  # learning rate of every cell
CELLS = {
    "tiny_b1": Cell((4, 16, 1), 1, loss="mse"),
    "small_b1_sgd": Cell((4, 32, 16, 4), 1, "tanh", "SGD", loss="mse"),
    "digits_b1": Cell((64, 64, 10), 1),
    "digits_b1_sgd": Cell((64, 64, 10), 1, optimizer="SGD"),
    "digits_b32": Cell((64, 64, 10), 32),
    "control_b32": Cell((17, 64, 64, 6), 32),
    "table_b32": Cell((110, 128, 64, 2), 32),
    "mnist_b128": Cell((784, 128, 10), 128),
    "table_b256": Cell((54, 256, 256, 7), 256),
    "mid_b128": Cell((784, 512, 256, 10), 128),
    "gelu_b128": Cell((784, 512, 512, 10), 128, "gelu", "AdamW"),
    "large_b512": Cell((1024, 2048, 2048, 1024), 512),
    # Wide networks, and widths that are no multiple of a vector or a tile.
    "odd_b64": Cell((50, 100, 100, 10), 64),
    "deep_tanh_b100": Cell((33, 77, 77, 77, 77, 5), 100, "tanh"),
    "thousand_gelu_b100": Cell((100, 1000, 1000, 10), 100, "gelu", "AdamW"),
    "wide_b256": Cell((784, 2048, 2048, 10), 256),
    "float64_b200": Cell((30, 100, 100, 1), 200, dtype="float64", loss="mse"),
}
CELLS |= {
    f"{name}_short": CELLS[name]._replace(is_short=True)
    for name in ("small_b1_sgd", "digits_b1", "digits_b32", "control_b32", "mnist_b128")
}


class Task:
    """A cell's data, cut into minibatches, and the initial weights."""

    def __init__(self, name):
        self.cell = cell = CELLS[name]
        shapes = list(zip(cell.sizes, cell.sizes[1:], strict=False))
        weights = sum(n_in * n_out for n_in, n_out in shapes)
        self.parameters = weights + sum(cell.sizes[1:])
        # Floating-point operations of the products of a step; the first layer has no gradient of its input.
        self.operations = 6 * cell.batch * weights - 2 * cell.batch * cell.sizes[0] * cell.sizes[1]
        self.slots = {"SGD": 0, "Adam": 2, "AdamW": 2}[cell.optimizer]
        self.steps = SHORT_STEPS if cell.is_short else int(np.clip(2e8 / (6 * cell.batch * weights), 4, 1000))
        self.regression = cell.loss == "mse"
        rng = np.random.default_rng(0)
        rows = self.steps * cell.batch
        self.X = rng.normal(size=(rows, cell.sizes[0])).astype(cell.dtype)
        if self.regression:
            self.y = rng.normal(size=(rows, cell.sizes[-1])).astype(cell.dtype)
        else:
            self.y = rng.integers(0, cell.sizes[-1], rows)
        limits = [(6 / (n_in + n_out)) ** 0.5 for n_in, n_out in shapes]
        self.weights = [rng.uniform(-a, a, shape).astype(cell.dtype) for a, shape in zip(limits, shapes, strict=True)]

    def batches(self):
        for start in range(0, len(self.X), self.cell.batch):
            yield self.X[start : start + self.cell.batch], self.y[start : start + self.cell.batch]

    def minibatches(self, convert=lambda x, y: (x, y)):
        """A function that returns an epoch's minibatches, each converted: all cut now, or for a short run by each
        call."""
        if self.cell.is_short:
            return lambda: (convert(x, y) for x, y in self.batches())
        cut = [convert(x, y) for x, y in self.batches()]
        return lambda: cut


def fastgd_network(task, backend="cython"):
    """fastgd's network of a task, and its optimizer."""
    import fastgd

    cell = task.cell
    *hidden, last = task.weights
    layers = [fastgd.Dense(w.shape[1], cell.activation, weight_init=w) for w in hidden]
    layers.append(fastgd.Dense(last.shape[1], weight_init=last))
    network = fastgd.Network(cell.sizes[0], layers, loss=cell.loss, dtype=cell.dtype, backend=backend)
    return network, getattr(fastgd, cell.optimizer)(RATE)
