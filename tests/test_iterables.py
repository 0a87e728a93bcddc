"""Training on minibatches from an iterable."""

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
    recorded = []
    callbacks = [lambda run: recorded.append((run.step, run.rows)), every(5, lambda run: None)]
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
    assert recorded == [(12, 100), (24, 200), (36, 300)]
    assert history.rows == [100, 200, 300]


@pytest.mark.float64
def test_weights_of_an_iterable_count_as_they_are(backend, rng):
    """Even for single rows, where the weight multiplies the step."""
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
    """Another thread cannot use the network while fit evaluates it."""
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


class Counted:
    """An iterable that counts the iterators and the minibatches it gives."""

    def __init__(self, batches):
        self.batches, self.asked, self.given = batches, 0, 0

    def __iter__(self):
        self.asked += 1
        return self._give()

    def _give(self):
        for batch in self.batches:
            self.given += 1
            yield batch


def test_an_iterable_is_iterated_once_an_epoch_and_not_for_a_check(rows):
    X, y = rows
    batches = Counted([(X[:50], y[:50]), (X[50:], y[50:])])
    for epochs in (0, 1, 3):
        batches.asked = batches.given = 0
        make().fit(batches, epochs=epochs, validation_data=rows)
        assert (batches.asked, batches.given) == (epochs, 2 * epochs)
    batches.asked = 0
    for bad in ({"metrics": "acc"}, {"optimizer": "Adma"}, {"callbacks": [3]}, {"sample_weight": y}, {"patience": 0}):
        with pytest.raises((TypeError, ValueError)):
            make().fit(batches, **bad)
    assert batches.asked == 0
    once = iter([(X, y)])
    with pytest.raises(ValueError, match="'X'.*again"):
        make().fit(once, epochs=2)
    assert len(list(once)) == 1


def test_a_sequence_without_iter_is_an_iterable(rows):
    class Sequence:
        def __getitem__(self, i):
            if i > 2:
                raise IndexError
            return rows

    assert make().fit(Sequence(), epochs=2).steps == 6
    with_rows = Sequence()
    with_rows.x, with_rows.y = rows  # as a loader keeps them
    assert make().fit(with_rows, epochs=2).steps == 6
    batches = Counted([rows] * 3)
    batches.x, batches.y = rows
    assert (make().fit(batches, epochs=2).steps, batches.given) == (6, 6)
    for wrong in (3, None, make()):
        with pytest.raises(TypeError, match="'X'.*an iterable of minibatches"):
            make().fit(wrong)


class Array:
    """An object that converts itself to an array, and counts the conversions."""

    def __init__(self, array):
        self.array, self.made = array, 0

    def __array__(self, dtype=None, copy=None):
        self.made += 1
        return self.array


USES = {
    "fit": lambda n, X, y: n.fit(X, y, epochs=2, validation_fraction=0.2, class_weight="balanced", metrics="accuracy"),
    "validation": lambda n, X, y: n.fit(np.asarray(X.array), y.array, epochs=2, validation_data=(X, y)),
    "train_step": lambda n, X, y: n.train_step(X, y, Adam()),
    "evaluate": lambda n, X, y: n.evaluate(X, y, metrics="accuracy"),
    "minibatches": lambda n, X, y: list(fastgd.minibatches(X, y, 10)),
    "find_learning_rate": lambda n, X, y: fastgd.find_learning_rate(n, X, y, steps=10),
    "sweep": lambda n, X, y: fastgd.sweep(n, X, y, {"seed": [1, 2, 3]}, epochs=1),
    "check_gradients": lambda n, X, y: fastgd.check_gradients(n, X, y),
    "loss_surface": lambda n, X, y: fastgd.plots.loss_surface(n, X, y, resolution=3),
    "Standardize": lambda n, X, y: (fastgd.Standardize.of(X), np.asarray(y)),
}


@pytest.mark.parametrize("use", USES)
def test_what_makes_an_array_of_itself_does_so_once(use, rows):
    X, y = (Array(array[:20].copy()) for array in rows)
    before = X.array.copy(), y.array.copy()
    USES[use](make(), X, y)
    assert (X.made, y.made) == (1, 1)
    np.testing.assert_array_equal(X.array, before[0])
    np.testing.assert_array_equal(y.array, before[1])
    assert X.array.flags.writeable


def test_a_function_of_the_step_is_asked_for_each_step_in_order(rows):
    """Once for each, and never for steps beyond the epochs."""
    asked = []

    def rate(step):
        asked.append(step)
        return 0.01

    make().fit(*rows, optimizer=Adam(rate), batch_size=10, epochs=3, validation_data=rows)
    assert asked == [*range(30)]
    for callbacks, progress in (([lambda run: run.learning_rate], False), ([], True)):
        asked.clear()
        make().fit(*rows, optimizer=Adam(rate), batch_size=10, epochs=3, callbacks=callbacks, progress=progress)
        assert asked == [*range(30)]
    asked.clear()
    make().fit([rows, rows], optimizer=Adam(rate), epochs=3, callbacks=[lambda run: run.learning_rate])
    assert asked == [*range(6)]
