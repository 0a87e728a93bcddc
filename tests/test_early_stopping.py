"""Validation, metrics and early stopping in fit."""

import numpy as np
import pytest
from cases import make, same
from conftest import BACKENDS

import fastgd
from fastgd import SGD


def test_the_best_parameters_come_back(backend, rows):
    X, y = rows
    network, kept = make(backend), {}
    opposite = (X[:20], (y[:20] + 1) % 3)

    def keep(run):
        kept[run.epoch] = run.network.parameters.copy()

    history = network.fit(X, y, optimizer=SGD(0.5), batch_size=10, epochs=40, validation_data=opposite, patience=5,
                          restore_best=True, callbacks=[keep])  # fmt: skip
    assert history.stopped == "patience"
    best = int(np.argmin(history.validation_loss)) + 1
    assert history.best_epoch == best < len(history.loss)
    np.testing.assert_array_equal(network.parameters, kept[best])
    assert network.loss(*opposite) == history.validation_loss[best - 1]


def test_monitor_follows_a_metric(rows):
    X, y = rows

    def falling(y, prediction):
        falling.calls += 1
        return -falling.calls

    for greater, stopped, best in ((True, "patience", 1), (False, "epochs", 6)):
        falling.calls = 0
        metric = fastgd.metrics.own(falling, greater_is_better=greater)
        history = make().fit(X, y, epochs=6, metrics=metric, monitor="falling", patience=2)
        assert (history.stopped, history.best_epoch) == (stopped, best)
        assert history.metrics["falling"] == [-1.0 * i for i in range(1, len(history.loss) + 1)]
    with pytest.raises(ValueError, match="'monitor'.*greater_is_better"):
        make().fit(X, y, metrics=falling, monitor="falling")
    with pytest.raises(ValueError, match="'monitor'.*'accuracy'"):
        make().fit(X, y, metrics="accuracy", monitor="acuracy")


@pytest.mark.parametrize("sign", [1, -1])
def test_what_counts_as_better(sign, rows):
    """Patience counts improvements beyond the tolerance; the best epoch is the first with the smallest value."""
    values = iter([1.0, 0.5, 0.25, 0.25, 0.375, 0.125])
    metric = fastgd.metrics.own(lambda y, prediction: sign * next(values), greater_is_better=sign < 0, name="own")
    history = make().fit(*rows, epochs=6, metrics=metric, monitor="own", patience=3, tolerance=0.25)
    assert (history.stopped, len(history.loss), history.best_epoch) == ("patience", 5, 3)


def test_monitor_is_a_column_of_the_history(rows):
    X, y = rows
    for monitor, column, stopped in (
        (None, "validation_loss", "patience"),
        ("loss", "loss", "converged"),
        ("validation_loss", "validation_loss", "patience"),
        ("accuracy", "validation_accuracy", "patience"),
        ("validation_accuracy", "validation_accuracy", "patience"),
    ):
        history = make().fit(X, y, validation_fraction=0.5, metrics="accuracy", monitor=monitor, tolerance=9.0,
                             patience=3, epochs=9)  # fmt: skip
        best = np.argmax if monitor and "accuracy" in monitor else np.argmin
        assert (history.stopped, len(history.loss)) == (stopped, 4)
        assert history.best_epoch == best(history.to_dict()[column]) + 1
    assert make().fit(X, y, epochs=1).best_epoch is None
    for monitor in ("validation_loss", "val_loss", "val_accuracy", "VAL_LOSS", "Validation_Accuracy"):
        with pytest.raises(ValueError, match=f"'monitor'.*'loss'.*'{monitor}', which needs validation_data"):
            make().fit(X, y, monitor=monitor, metrics="accuracy")


def test_monitor_takes_the_names_of_keras(rows):
    X, y = rows
    histories = []
    for monitor, metrics in (("validation_loss", "accuracy"), ("Val_Loss", "acc"), ("val_acc", "acc")):
        net = make()
        histories.append(net.fit(X, y, validation_fraction=0.5, metrics=metrics, monitor=monitor, patience=1, epochs=9))
    assert histories[0].validation_loss == histories[1].validation_loss
    assert histories[2].best_epoch == np.argmax(histories[2].metrics["validation_accuracy"]) + 1


def test_what_is_never_a_number_is_never_best(rows):
    metric = fastgd.metrics.own(lambda y, prediction: np.nan, greater_is_better=True, name="unknown")
    network = make()
    history = network.fit(*rows, epochs=5, metrics=metric, monitor="unknown", patience=2, restore_best=True)
    assert (history.stopped, history.best_epoch, len(history.loss)) == ("patience", None, 2)
    twin = make()
    twin.fit(*rows, epochs=2)
    np.testing.assert_array_equal(network.parameters, twin.parameters)


def test_a_plateau_observes_the_validation_loss(rows):
    """The validation loss rises while the training loss falls."""
    X, y = rows
    rate = fastgd.schedules.reduce_on_plateau(0.5, patience=0, factor=0.5)
    history = make().fit(X[:20], y[:20], optimizer=SGD(rate), epochs=12, validation_data=(X[:20], (y[:20] + 1) % 3))
    assert history.loss[-1] < history.loss[0]
    assert history.validation_loss[-1] > history.validation_loss[0]
    assert history.learning_rate[-1] < 0.5 / 2**5


def test_a_plateau_set_by_a_callback_observes_the_loss(rows):
    def set_plateau(run):
        if run.epoch == 1:
            run.optimizer.learning_rate = fastgd.schedules.reduce_on_plateau(0.1, patience=0, threshold=1.0)

    history = make().fit(*rows, optimizer=SGD(0.1), epochs=6, callbacks=[set_plateau])
    assert history.learning_rate[-1] < 0.1


def test_a_metric_that_does_not_suit_raises_before_the_training(rows):
    X, y = rows
    one = fastgd.Network(6, [fastgd.Dense(1)], loss="mse")
    for network, target, metric in ((make(), y, "mae"), (one, y * 1.5, "accuracy"), (one, y, "top_k")):
        for options in ({}, {"validation_fraction": 0.2}, {"validation_data": (X, target)}):
            with pytest.raises(ValueError, match=f"'y'.*for {metric}"):
                network.fit(X, target, metrics=metric, **options)
        assert network.epochs == 0
    y = np.repeat([0.0, 1.0], 4096)
    y[-1] = 2  # far down
    with pytest.raises(ValueError, match="'y'.*for accuracy"):
        one.fit(np.zeros((len(y), 6)), y, metrics="accuracy")
    assert one.epochs == 0


def test_metrics_of_the_training_data_without_validation(backend, rows):
    X, y = rows
    network = make(backend)
    history = network.fit(X, y, epochs=2, metrics="accuracy")
    assert history.metrics["accuracy"][-1] == (network.predict(X).argmax(axis=1) == y).mean()
    assert history.validation_loss == []


# ---- held-out rows


@pytest.mark.parametrize("backend", BACKENDS)
def test_validation_fraction_is_validation_data(backend, rng):
    """Held-out rows are not trained on; the other rows train as if they were all the data."""
    X, y = rng.normal(size=(50, 6)).astype(np.float32), rng.integers(0, 3, 50)
    held_out = fastgd.data.minibatches.epoch_order(50, 3, fastgd.data.samples.SPLIT_EPOCH, True)[:10]
    rest = np.setdiff1d(np.arange(50), held_out)
    weighted = {"class_weight": {0: 0.5, 2: 4.0}}
    for batch_size, dtype, options in (
        (8, np.float32, {}), (1, np.float32, {}), (None, np.float32, {}), (8, np.float64, {}),
        (8, np.float32, weighted),
    ):  # fmt: skip
        split, given = make(backend, seed=3), make(backend, seed=3)
        history = split.fit(X.astype(dtype), y, batch_size=batch_size, epochs=3, validation_fraction=0.2, **options)
        held = np.sort(held_out)
        expected = given.fit(
            X[rest], y[rest], batch_size=batch_size, epochs=3, validation_data=(X[held], y[held]), **options
        )
        np.testing.assert_array_equal(split.parameters, given.parameters)
        assert same(history, expected)
