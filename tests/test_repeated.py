"""Plain calls of `fit` like an earlier one, which take a short way, give what other calls give."""

import inspect

import numpy as np
import pytest

import fastgd
from fastgd import SGD, Adam, Dense, Dropout, Network
from fastgd.training import repeated


def nothing(run):
    """A callback: with it a call of fit is not plain."""


def make(activation="tanh", **options):
    layers = [Dense(7, activation), Dropout(0.2), Dense(3)]
    return Network(5, layers, **{"loss": "softmax_cross_entropy", **options})


@pytest.fixture
def data(rng):
    return rng.normal(size=(50, 5)).astype(np.float32), rng.integers(0, 3, 50)


@pytest.fixture
def repeats(monkeypatch):
    """The results of the calls that took the short way."""
    results, record = [], repeated._record
    monkeypatch.setattr(repeated, "_record", lambda *given: results.append(record(*given)) or results[-1])
    return results


def test_every_option_of_fit_is_known():
    """An option that PLAIN lacks would be ignored by a repeated call."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(Network.fit).parameters.items()}
    after = list(defaults).index("shuffle") + 1
    assert tuple(defaults.values())[after:] == repeated.PLAIN


OPTIONS = {
    "shuffled": {},
    "in order": {"shuffle": False},
    "one row": {"batch_size": 1},
    "all rows": {"batch_size": None},
    "larger": {"batch_size": 99},
    "short last": {"batch_size": 7, "epochs": 3},
}
OPTIMIZERS = {
    "Adam": lambda: Adam(0.01),
    "SGD": lambda: SGD(0.1),
    "schedule": lambda: Adam(fastgd.schedules.cosine(0.01, 500, warmup_steps=20)),
    "accumulate": lambda: SGD(0.1, momentum=0.9, accumulate=3, clip_norm=1.0),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_repeated_calls_are_calls(backend, data, repeats, options, optimizer):
    """Also after steps, other calls and changes of the data in between."""
    X, y = data
    networks, optimizers = (make(backend=backend), make(backend=backend)), (optimizer(), optimizer())
    of_call = {"batch_size": 16, "epochs": 2, **options}
    for i in range(6):
        histories = []
        for network, used, callbacks in zip(networks, optimizers, ((), nothing), strict=True):
            histories.append(network.fit(X, y, optimizer=used, callbacks=callbacks, **of_call))
            assert network.history is histories[-1]
            if i == 2:
                network.train_step(X[:9], y[:9], used)
                network.fit(X, y, optimizer=used, epochs=1, callbacks=callbacks)
            if i == 3:
                used.learning_rate = 0.002
        plain, other = (vars(history) | {"seconds": None} for history in histories)
        assert plain == other
        assert len(histories[0].seconds) == len(histories[0].loss)
        assert histories[0].seconds == sorted(histories[0].seconds)
        X = X + np.float32(0.01)
    assert networks[0].epochs == networks[1].epochs
    assert networks[0].executor.last_loss == networks[1].executor.last_loss
    np.testing.assert_array_equal(networks[0].parameters, networks[1].parameters)
    assert len(repeats) == (0 if backend == "numpy" else 5)


def test_what_is_no_repetition(data, repeats):
    """Arrays that kernels cannot read in place, other types of arguments, schedules that observe the loss."""
    X, y = data
    network, optimizer = make(), Adam(0.01)
    twin, other = make(), Adam(0.01)
    network.fit(X, y, optimizer=optimizer, epochs=1)
    twin.fit(X, y, optimizer=other, epochs=1, callbacks=nothing)
    for x, labels in ((X.astype(np.float64), y), (np.asfortranarray(X), y), (X, y.astype(np.int32)), (X.tolist(), y)):
        network.fit(x, labels, optimizer=optimizer, epochs=1)
        twin.fit(X, y, optimizer=other, epochs=1, callbacks=nothing)
    for epochs in (True, 1.0, -1):
        with pytest.raises((TypeError, ValueError), match="'epochs'"):
            network.fit(X, y, optimizer=optimizer, epochs=epochs)
    with pytest.raises(TypeError, match="'shuffle'"):
        network.fit(X, y, optimizer=optimizer, epochs=1, shuffle=1)
    np.testing.assert_array_equal(network.parameters, twin.parameters)
    assert not repeats
    network, optimizer = make(), Adam(fastgd.schedules.reduce_on_plateau(0.01))
    for _ in range(3):
        network.fit(X, y, optimizer=optimizer, epochs=2)
    assert not repeats


@pytest.mark.parametrize("bad", ["nan", "label", "step"])
def test_bad_data_of_a_repeated_call(data, bad):
    """The error and the state are those of another call; a divergence names the step of the run."""
    X, y = data
    ends = []
    for callbacks in ((), nothing):
        network, optimizer = make("identity"), SGD(0.1)
        for _ in range(2):
            network.fit(X, y, optimizer=optimizer, batch_size=10, epochs=2, callbacks=callbacks)
        x, labels = X.copy(), y.copy()
        if bad == "nan":
            x[7, 2] = np.nan
        elif bad == "label":
            labels[7] = 3
        else:
            x[7] = 1e30
        with pytest.raises((ValueError, fastgd.DivergenceError)) as caught:
            network.fit(x, labels, optimizer=optimizer, batch_size=10, epochs=2, callbacks=callbacks)
        history = network.history
        kept = str(caught.value), history.stopped, history.steps, history.loss, history.rows
        ends.append((*kept, network.epochs, network.minibatches, optimizer.steps, network.parameters.tolist()))
        network.fit(X, y, optimizer=optimizer, batch_size=10, epochs=2, callbacks=callbacks)
        ends[-1] += (network.parameters.tolist(),)
    assert ends[0] == ends[1]


def test_a_repeated_call_of_a_network_in_use(data):
    X, y = data
    network, optimizer = make(), Adam(0.01)
    network.fit(X, y, optimizer=optimizer, epochs=1)
    with network.executor.lock, pytest.raises(RuntimeError, match="already in use"):
        network.fit(X, y, optimizer=optimizer, epochs=1)
    within = []
    network.fit(X, y, optimizer=optimizer, epochs=2, callbacks=lambda run: within.append(
        network.fit(X, y, optimizer=optimizer, epochs=1)))  # fmt: skip
    assert [history.stopped for history in within] == ["epochs", "epochs"]


def test_an_interrupted_repetition_is_recorded(data, monkeypatch):
    """Ctrl-C arrives as soon as Python runs again: what was done is in the history, as for other calls."""
    X, y = data
    network, optimizer = make(), Adam(0.01)
    network.fit(X, y, optimizer=optimizer, batch_size=10, epochs=2)
    before, train_at_once = network.parameters.copy(), network.executor.train_at_once

    def interrupted(*given):
        train_at_once(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(network.executor, "train_at_once", interrupted)
    with pytest.raises(KeyboardInterrupt):
        network.fit(X, y, optimizer=optimizer, batch_size=10, epochs=2)
    assert not np.array_equal(network.parameters, before)
    assert (network.history.stopped, network.history.steps, len(network.history.loss)) == ("interrupted", 10, 2)
    assert (network.epochs, network.minibatches) == (4, 20)
