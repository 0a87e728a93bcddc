"""The peers of peers.py: each a function of a task that returns (losses of the first steps, run), or None if it cannot
run the task. run(epochs) trains for `epochs` epochs and returns when they are done."""

import warnings

import numpy as np
from cells import RATE, fastgd_network
from peer_tables import ALONE

CHECKED_STEPS = 10


def first_losses(task, step):
    """The losses of the first steps, given a function of a minibatch."""
    return [step(x, y) for (x, y), _ in zip(task.batches(), range(CHECKED_STEPS), strict=False)]


def fastgd_fit(task, backend="cython"):
    network, optimizer = fastgd_network(task, backend)
    losses = first_losses(task, lambda x, y: network.train_step(x, y, optimizer))

    def run(epochs):
        network.fit(task.X, task.y, optimizer=optimizer, batch_size=task.cell.batch, epochs=epochs)

    return losses, run


def fastgd_step(task):
    network, optimizer = fastgd_network(task)
    losses = first_losses(task, lambda x, y: network.train_step(x, y, optimizer))
    minibatches = task.minibatches()

    def run(epochs):
        for _ in range(epochs):
            for x, y in minibatches():
                network.train_step(x, y, optimizer)

    return losses, run


def torch_step(task, compiled=False):
    import torch

    activation = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "gelu": torch.nn.GELU}[task.cell.activation]
    layers = []
    for w in task.weights:
        layer = torch.nn.Linear(*w.shape, dtype=getattr(torch, task.cell.dtype))
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(w.T))
            layer.bias.zero_()
        layers += [layer, activation()]
    model = torch.nn.Sequential(*layers[:-1])
    make = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD}[task.cell.optimizer]
    optimizer = make(model.parameters(), lr=RATE, fused=True)
    criterion = torch.nn.functional.mse_loss if task.regression else torch.nn.functional.cross_entropy

    def loss_of(x, y):
        return criterion(model(x), y)

    if compiled:
        loss_of = compiled_strictly(loss_of)

    def step(x, y):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        return loss

    def tensors(x, y):
        return torch.from_numpy(x), torch.from_numpy(y)

    losses = first_losses(task, lambda x, y: step(*tensors(x, y)).item())
    if compiled:
        check_compiled()
    minibatches = task.minibatches(tensors)

    def run(epochs):
        for _ in range(epochs):
            for x, y in minibatches():
                step(x, y)

    return losses, run


def compiled_strictly(function):
    """torch.compile of a function, with an error in each case where torch would run the function uncompiled: at the
    limit of recompilations, which are counted for all functions with the same source, and at what it cannot trace."""
    import torch

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch._dynamo.config.error_on_recompile = True
    torch._dynamo.config.suppress_errors = False
    return torch.compile(function, fullgraph=True, dynamic=False)


def check_compiled():
    """Raises unless one graph has been compiled since `compiled_strictly` (none, if TORCHDYNAMO_DISABLE is set)."""
    import torch

    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    if graphs != 1:
        raise RuntimeError(f"torch.compile: expected 1 compiled graph, got {graphs}")


def jax_step(task, loop=False):
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", task.cell.dtype == "float64")
    activation = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": lambda x: jax.nn.gelu(x, approximate=False)}
    act = activation[task.cell.activation]
    make = {"Adam": optax.adam, "AdamW": lambda rate: optax.adamw(rate, weight_decay=1e-2), "SGD": optax.sgd}
    optimizer = make[task.cell.optimizer](RATE)

    def loss_of(parameters, x, y):
        for w, b in parameters[:-1]:
            x = act(x @ w + b)
        z = x @ parameters[-1][0] + parameters[-1][1]
        if task.regression:
            return ((z - y) ** 2).mean()
        return optax.softmax_cross_entropy_with_integer_labels(z, y).mean()

    def step(carry, batch):
        parameters, state = carry
        loss, gradient = jax.value_and_grad(loss_of)(parameters, *batch)
        updates, state = optimizer.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state), loss

    parameters = [(jnp.asarray(w), jnp.zeros(w.shape[1], w.dtype)) for w in task.weights]
    carry = (parameters, optimizer.init(parameters))
    one = jax.jit(step, donate_argnums=0)

    def first_step(x, y):
        nonlocal carry
        carry, loss = one(carry, (x, y))
        return float(loss)

    losses = first_losses(task, first_step)
    return losses, jax_loop(task, step, carry) if loop else jax_steps(task, one, carry)


def jax_steps(task, one, carry):
    """The run of `one`, a compiled step."""
    import jax.numpy as jnp

    def arrays(x, y):
        return jnp.asarray(x), jnp.asarray(y)

    # A short run passes numpy's arrays, which is faster than to convert them first.
    minibatches = task.minibatches() if task.cell.is_short else task.minibatches(arrays)

    def run(epochs):
        nonlocal carry
        for _ in range(epochs):
            for batch in minibatches():
                carry, loss = one(carry, batch)
        loss.block_until_ready()

    return run


def jax_loop(task, step, carry):
    """The run of a compiled loop of `step` over an epoch's minibatches."""
    import jax
    import jax.numpy as jnp

    whole = jax.jit(lambda carry, batches: jax.lax.scan(step, carry, batches), donate_argnums=0)
    batches = tuple(a.reshape(task.steps, task.cell.batch, *a.shape[1:]) for a in (task.X, task.y))
    if not task.cell.is_short:
        batches = tuple(jnp.asarray(a) for a in batches)

    def run(epochs):
        nonlocal carry
        for _ in range(epochs):
            carry, losses = whole(carry, batches)
        losses.block_until_ready()

    return run


def sklearn_fit(task):
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    if task.cell.activation == "gelu":
        return None
    make = MLPRegressor if task.regression else MLPClassifier
    model = make(
        hidden_layer_sizes=task.cell.sizes[1:-1], activation=task.cell.activation,
        solver=task.cell.optimizer.lower(), alpha=0.0, batch_size=task.cell.batch,
        learning_rate_init=RATE, max_iter=1, momentum=0.0, nesterovs_momentum=False, n_iter_no_change=10**6, tol=0.0,
        warm_start=True,
    )  # fmt: skip
    y = task.y[:, 0] if task.y.ndim == 2 and task.y.shape[1] == 1 else task.y
    if not task.regression:
        y[: task.cell.sizes[-1]] = np.arange(task.cell.sizes[-1])[: len(y)]  # every class occurs

    def run(epochs):
        model.set_params(max_iter=epochs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(task.X, y)

    return None, run


PEERS = {
    "fastgd fit": fastgd_fit,
    ALONE: fastgd_fit,
    "fastgd step": fastgd_step,
    "other fit": fastgd_fit,
    "other step": fastgd_step,
    "fastgd numba": lambda task: fastgd_fit(task, "numba"),
    "numpy": lambda task: fastgd_fit(task, "numpy"),
    "torch eager": torch_step,
    "torch compile": lambda task: torch_step(task, compiled=True),
    "JAX jit": jax_step,
    "JAX scan": lambda task: jax_step(task, loop=True),
    "scikit-learn": sklearn_fit,
}
