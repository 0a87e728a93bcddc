"""Training on minibatches that an iterable gives."""

import threading

import numpy as np
import pytest
from cases import make

import fastgd
from fastgd import SGD, Adam
from fastgd.callbacks import every


def test_an_iterable_is_a_loop_over_it(backend, rows):
    X, y = rows
    batches = [(X[i : i + 9], y[i : i + 9]) for i in range(0, 100, 9)]
    weights = np.linspace(0, 2, 9)
    batches[3] = (*batches[3], weights)
    network, twin, optimizer = make(backend), make(backend), Adam(0.01)
    seen = []
    callbacks = [lambda run: seen.append((run.step, run.rows)), every(5, lambda run: None)]
    options = {"validation_data": rows, "metrics": "accuracy", "callbacks": callbacks}
    history = network.fit(batches, optimizer=Adam(0.01), epochs=3, **options)
    losses = []
    for _ in range(3):
        total = 0
        for i, (xb, yb, *_) in enumerate(batches):
            total += len(xb) * twin.train_step(xb, yb, optimizer, sample_weight=weights if i == 3 else None)
        losses.append(total / 100)
    np.testing.assert_array_equal(network.parameters, twin.parameters)
    assert history.loss == pytest.approx(losses, rel=1e-12)
    assert history.learning_rate == [0.01] * 3
    assert (history.steps, network.epochs, len(history.validation_loss)) == (36, 3, 3)
    assert seen == [(12, 100), (24, 200), (36, 300)]
    assert history.rows == [100, 200, 300]


def test_weights_of_an_iterable_count_as_they_are(backend, rng):
    """Even of single rows: a step is as many times as long."""
    X, y, weight = rng.normal(size=(12, 6)), rng.integers(0, 3, 12), rng.uniform(0, 3, 12)
    options = {"dtype": "float64"}
    network, twin = make(backend, **options), make(backend, **options)
    history = network.fit([(X[i : i + 1], y[i : i + 1], weight[i : i + 1]) for i in range(12)], optimizer=SGD(0.1),
                          epochs=1)  # fmt: skip
    losses = [w * twin.train_step(X[i : i + 1], y[i : i + 1], SGD(0.1 * w)) for i, w in enumerate(weight)]
    np.testing.assert_allclose(network.parameters, twin.parameters, rtol=1e-12)
    assert history.loss == pytest.approx([np.mean(losses)], rel=1e-12)


def test_a_generator_serves_for_one_epoch(rows):
    X, y = rows
    assert make().fit(fastgd.minibatches(X, y, 10), epochs=1).steps == 10
    history = make().fit(fastgd.minibatches(X, y, 10), epochs=1, callbacks=[every(4, lambda run: True)])
    assert (history.stopped, history.steps, history.loss) == ("callback", 4, [])
    with pytest.raises(ValueError, match="'X'.*again.*generator"):
        make().fit(fastgd.minibatches(X, y, 10), epochs=2)


def test_another_thread_waits_for_validation_of_an_iterable(rows):
    """The network is not lent to anybody while it is evaluated."""
    X, y = rows
    refused = []

    def intrude(y, prediction):
        def predict():
            try:
                network.predict(X)
            except RuntimeError as error:
                refused.append(str(error))

        thread = threading.Thread(target=predict)
        thread.start()
        thread.join()
        return 0.0

    network = make()
    network.fit([(X, y)], epochs=2, validation_data=rows, metrics=[intrude])
    assert len(refused) == 2
