"""Dropout masks continue from call to call, as the order of the rows does: they depend on how many minibatches the
network has been trained on, by fit or by steps."""

import copy
import pickle

import numpy as np
import pytest

import fastgd
from fastgd import SGD, Dense, Dropout, Network


def make(backend="auto"):
    layers = [Dense(16, "tanh"), Dropout(0.5), Dense(3)]
    return Network(6, layers, loss="softmax_cross_entropy", backend=backend, seed=2)


@pytest.fixture
def samples(rng):
    return rng.normal(size=(50, 6)).astype(np.float32), rng.integers(0, 3, 50)


def batches(x, y, size, epoch):
    """The minibatches of `fit`, which does not shuffle a single minibatch."""
    return fastgd.minibatches(x, y, size, seed=2, epoch=epoch, shuffle=size is not None)


def by_epochs(net, x, y, size):
    for _ in range(4):
        net.fit(x, y, optimizer=SGD(0.1), batch_size=size, epochs=1)


def by_steps(net, x, y, size):
    """A new optimizer for each step."""
    for epoch in range(4):
        for xb, yb in batches(x, y, size, epoch):
            net.train_step(xb, yb, SGD(0.1))


def by_quick_steps(net, x, y, size):
    """Another optimizer takes a step while values for the first one's next steps are prefetched."""
    one, other = SGD(0.1), SGD(0.1)
    for epoch in range(4):
        for i, (xb, yb) in enumerate(batches(x, y, size, epoch)):
            net.train_step(xb, yb, other if i % 5 == 4 else one)


def by_iterables(net, x, y, size):
    for epoch in range(4):
        net.fit(batches(x, y, size, epoch), optimizer=SGD(0.1), epochs=1)


def by_files(net, x, y, size):
    for _ in range(4):
        net.fit(x, y, optimizer=SGD(0.1), batch_size=size, epochs=1)
        net.save(by_files.path)
        loaded, _ = fastgd.load(by_files.path, backend=net.backend)
        assert loaded.minibatches == net.minibatches
        net = loaded
    return net


def by_copies(net, x, y, size):
    for made in (copy.copy, copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n)), copy.copy):
        twin = made(net)
        net.fit(x, y, optimizer=SGD(0.3), batch_size=size, epochs=2)  # does not affect the copy
        net = twin
        net.fit(x, y, optimizer=SGD(0.1), batch_size=size, epochs=1)
    return net


def by_both(net, x, y, size):
    """Before each step, the gradient and the loss are computed."""
    for epoch in range(4):
        for xb, yb in batches(x, y, size, epoch):
            net.loss_and_gradient(xb, yb, training=True)
            net.evaluate(xb, yb)
            net.train_step(xb, yb, SGD(0.1))


@pytest.mark.parametrize("size", [1, 7, None])
@pytest.mark.parametrize("way", [by_epochs, by_steps, by_quick_steps, by_iterables, by_files, by_copies, by_both])
def test_four_calls_are_one_of_four_epochs(way, size, backend, samples, tmp_path):
    by_files.path = tmp_path / "m"
    whole, cut = make(backend), make(backend)
    whole.fit(*samples, optimizer=SGD(0.1), batch_size=size, epochs=4)
    cut = way(cut, *samples, size) or cut
    np.testing.assert_array_equal(cut.parameters, whole.parameters)
    assert cut.minibatches == whole.minibatches == 4 * -(-50 // (size or 50))


def test_the_short_way_of_one_row_counts_too(samples):
    layers = [Dense(200, "tanh"), Dropout(0.5), Dense(200), Dense(3)]
    whole, cut = (Network(6, layers, loss="softmax_cross_entropy") for _ in range(2))
    whole.fit(*samples, optimizer=SGD(0.1), batch_size=1, epochs=2)
    assert whole.executor.plan.best_pass == "rank_one"
    for _ in range(2):
        cut.fit(*samples, optimizer=SGD(0.1), batch_size=1, epochs=1)
    np.testing.assert_array_equal(cut.parameters, whole.parameters)


@pytest.mark.parametrize("optimizer", [None, "SGD", "Adam"])
def test_fifty_calls_draw_fifty_masks(optimizer, samples):
    net = make()
    held, losses = net.parameters.copy(), set()
    for _ in range(50):
        losses.add(net.fit(*samples, optimizer=optimizer, batch_size=None, epochs=1).loss[0])
        net.parameters[:] = held
    assert len(losses) == 50
    assert net.minibatches == 50


def test_a_callback_that_trains_the_network_draws_masks_too(samples, tmp_path):
    """A resumed run draws the masks of the run that was never stopped."""
    x, y = samples

    def train(run):
        if run.step in (3, 10, 17):
            run.network.train_step(x[:5], y[:5], SGD(0.1))

    options = {"batch_size": 7, "callbacks": [fastgd.callbacks.every(1, train)], "checkpoint": tmp_path / "m"}
    whole, first, network = make(), make(), make()
    whole.fit(x, y, optimizer=SGD(0.1), epochs=4, **options)
    assert whole.minibatches == 4 * 8 + 3
    (tmp_path / "m").unlink()
    first.fit(x, y, optimizer=SGD(0.1), epochs=2, **options)
    network.fit(x, y, optimizer=SGD(0.1), epochs=4, resume=True, **options)
    np.testing.assert_array_equal(network.parameters, whole.parameters)
    assert network.minibatches == whole.minibatches


def test_what_diverges_is_no_minibatch(backend, samples):
    x, y = samples
    net = make(backend)
    net.fit(x, y, optimizer=SGD(0.1), epochs=1)
    done = net.minibatches
    with pytest.raises(ValueError, match="finite"):
        net.train_step(np.full_like(x, np.nan), y, SGD(0.1))
    assert net.minibatches == done


def test_the_number_of_a_minibatch(backend, samples):
    """loss_and_gradient draws the mask of the next step, or of the given minibatch."""
    x, y = samples
    net = make(backend)
    losses = [net.loss_and_gradient(x, y, training=True, minibatch=number)[0] for number in range(5)]
    assert len(set(losses)) == 5
    for expected in losses[:3]:
        assert net.loss_and_gradient(x, y, training=True)[0] == expected
        held = net.parameters.copy()
        assert net.train_step(x, y, SGD(0.1)) == expected
        net.parameters[:] = held
    for bad, error in ((-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="'minibatch'"):
            net.loss_and_gradient(x, y, training=True, minibatch=bad)


def test_new_networks_begin_anew(samples):
    net = make()
    net.fit(*samples, epochs=1)
    assert net.like().minibatches == 0
    table = fastgd.sweep(net, *samples, {"seed": [2, 2]}, optimizer="SGD", epochs=2)
    np.testing.assert_array_equal(table.networks[0].parameters, table.networks[1].parameters)
    fresh = make()
    fresh.fit(*samples, optimizer="SGD", epochs=2)
    np.testing.assert_array_equal(table.networks[0].parameters, fresh.parameters)


def test_estimators_go_on(samples):
    sklearn = pytest.importorskip("fastgd.sklearn")
    x, y = samples
    options = {"hidden_layer_sizes": (16,), "dropout": 0.5, "random_state": 3, "batch_size": 50, "shuffle": False}

    def new(**more):
        return sklearn.MLPClassifier(**options, **more)

    kept, pickled = new(), new()
    for _ in range(4):
        kept.partial_fit(x, y, classes=[0, 1, 2])
        pickled = pickle.loads(pickle.dumps(pickled)).partial_fit(x, y, classes=[0, 1, 2])
    for one, other in zip(kept.coefs_, pickled.coefs_, strict=True):
        np.testing.assert_array_equal(one, other)
    warm, losses = new(warm_start=True, max_iter=1, learning_rate_init=1e-30), set()
    for _ in range(5):
        with pytest.warns(Warning, match="not converged"):
            losses.add(warm.fit(x, y).loss_)
    assert len(losses) == 5
    with pytest.warns(Warning, match="not converged"):
        anew = warm.set_params(warm_start=False).fit(x, y).loss_
    assert anew in losses
