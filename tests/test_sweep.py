import itertools
import os
import signal
import threading
import time

import numpy as np
import pandas
import pytest
from cases import make, same

import fastgd
from fastgd import SGD, Adam, Dense, Network
from fastgd.engine.executor import Executor

GRID = {"optimizer": ["Adam", SGD(0.5, momentum=0.9)], "learning_rate": [0.01, 0.1], "seed": [1, 2]}


def test_each_training_is_that_of_fit(backend, rows):
    """Bit for bit, with any number of threads."""
    options = {"epochs": 3, "validation_data": rows, "metrics": "accuracy", "batch_size": 16}

    def rates():
        return [0.01, fastgd.schedules.reduce_on_plateau(0.1, patience=0, factor=0.5)]  # the second has state

    grid = {"optimizer": ["Adam", SGD(0.5, momentum=0.9)], "learning_rate": rates(), "seed": range(1, 3)}
    found = [fastgd.sweep(make(backend), *rows, grid, num_threads=n, **options) for n in (1, 3)]
    for sweep in found:
        assert len(sweep) == 8
        for i, (network, history) in enumerate(zip(sweep.networks, sweep.histories, strict=True)):
            rate, twin = rates()[i // 2 % 2], make(backend, seed=1 + i % 2)
            optimizer = Adam(rate) if i < 4 else SGD(rate, momentum=0.9)
            expected = twin.fit(*rows, optimizer=optimizer, **options)
            np.testing.assert_array_equal(network.parameters, twin.parameters)
            assert same(history, expected)
    assert len({network.parameters.tobytes() for network in found[0].networks}) == 8


def test_the_table(rows):
    options = {"epochs": 4, "validation_data": rows, "metrics": ["accuracy", "top_k"], "restore_best": True}
    found = fastgd.sweep(make(), *rows, {**GRID, "learning_rate": [0.01, 1e30]}, batch_size=10, **options)
    columns = found.to_dict()
    assert list(columns) == [
        "optimizer", "learning_rate", "seed", "loss", "validation_loss", "validation_accuracy", "validation_top_k",
        "epoch", "seconds", "stopped",
    ]  # fmt: skip
    assert columns["optimizer"] == ["Adam"] * 4 + ["SGD(momentum=0.9)"] * 4
    assert columns["seed"] == [1, 2] * 4
    assert columns["stopped"] == (["epochs"] * 2 + ["diverged"] * 2) * 2
    for i, history in enumerate(found.histories):
        epoch = columns["epoch"][i]
        if history.stopped == "diverged":
            assert np.isnan([columns[name][i] for name in ("loss", "validation_loss", "validation_accuracy")]).all()
        else:
            assert epoch == history.best_epoch == np.argmin(history.validation_loss) + 1
            assert columns["validation_loss"][i] == history.validation_loss[epoch - 1]
            assert columns["validation_accuracy"][i] == history.metrics["validation_accuracy"][epoch - 1]
            assert columns["seconds"][i] == history.seconds[-1]
    by_loss, by_accuracy = found.order(), found.order("validation_accuracy")
    assert sorted(by_loss) == list(range(8))
    assert set(by_loss[4:]) == set(by_accuracy[4:]) == {2, 3, 6, 7}
    assert found.best() == by_loss[0] == np.nanargmin(columns["validation_loss"])
    twice = fastgd.sweep(make(), *rows, {"seed": [3, 3]}, epochs=1)
    assert (twice.best(), twice.order()) == (0, [0, 1])
    bad = fastgd.sweep(make(), *rows, {"seed": [1, 2]}, learning_rate=1e30, epochs=1)
    with pytest.raises(ValueError, match="'column'.*did not diverge.*'loss', NaN in all 2"):
        bad.best()
    assert found.best("validation_accuracy") == np.nanargmax(columns["validation_accuracy"])
    frame = pandas.DataFrame(columns)
    assert frame.groupby("optimizer")["validation_loss"].min().to_list() == pytest.approx(
        [np.nanmin(columns["validation_loss"][:4]), np.nanmin(columns["validation_loss"][4:])]
    )
    lines = str(found).splitlines()
    assert lines[0].split() == ["index", *columns]
    assert [int(line.split()[0]) for line in lines[1:]] == by_loss
    assert f"{columns['validation_loss'][by_loss[0]]:.4g}" in lines[1]
    assert lines[-1].split()[-1] == "diverged"
    assert len({len(line) for line in lines}) == 1
    worse = {"validation_data": (rows[0], (rows[1] + 1) % 3), "optimizer": SGD(0.5), "epochs": 3}
    for restored in (True, False):
        found = fastgd.sweep(make(), *rows, {"seed": [1]}, **worse, restore_best=restored)
        (history,) = found.histories
        assert history.best_epoch < 3
        assert found.columns["epoch"] == [history.best_epoch if restored else 3]
        assert found.columns["validation_loss"] == [history.validation_loss[found.columns["epoch"][0] - 1]]
    for count, last in ((30, "29 29"), (31, "... and 1 more")):
        columns = {"loss": [float(i) for i in range(count)]}
        lines = repr(fastgd.Sweep([{}] * count, [], [], columns, {"loss": False})).splitlines()
        assert (len(lines), lines[-1].split(), lines[30].split()) == (count + 1, last.split(), ["29", "29"])


def test_losses_include_the_penalty(rows):
    grid = {"l2": [0.0, 1.0]}
    options = {"learning_rate": 1e-30, "validation_data": rows, "metrics": "accuracy"}  # so predictions are the same
    found = fastgd.sweep(make(), *rows, grid, epochs=1, **options)
    weights = np.concatenate([w.ravel() for name, w in make().views().items() if name[0] == "w"])
    losses = found.columns["validation_loss"]
    assert losses[1] - losses[0] == pytest.approx(np.square(weights).sum() / 2, rel=1e-5)
    assert len(set(found.columns["validation_accuracy"])) == 1


def test_networks_of_other_kinds(rows, capfd):
    """A function makes the networks; its parameters are keys of the grid."""

    def network(hidden):
        return Network(6, [Dense(hidden, "relu"), Dense(3)], loss="softmax_cross_entropy", seed=5)

    grid = {"hidden": [2, 4], "l2": np.array([0.0, 0.5]), "batch_size": [None, 10]}
    found = fastgd.sweep(network, *rows, grid, epochs=2, learning_rate=0.01, progress=True)
    assert [n.layers[0].units for n in found.networks] == [2] * 4 + [4] * 4
    assert [n.l2 for n in found.networks] == [0, 0, 0.5, 0.5] * 2
    assert [h.steps for h in found.histories] == [2, 20] * 4
    assert {n.seed for n in found.networks} == {5}
    assert {h.learning_rate[-1] for h in found.histories} == {0.01}
    assert "8/8" in capfd.readouterr().err
    of_layers = fastgd.sweep(make(), *rows, {"layers": [[Dense(3)], [Dense(5), Dense(3)]]}, epochs=1)
    assert [[layer.units for layer in n.layers] for n in of_layers.networks] == [[3], [5, 3]]
    assert len(str(fastgd.sweep(make(), *rows, {"seed": range(40)}, epochs=0)).splitlines()) == 32


BAD_SWEEPS = {
    "grid": ([0.1], TypeError, "'grid'.*dict of lists"),
    "empty": ({}, TypeError, "'grid'.*dict of lists"),
    "list": ({"seed": 3}, TypeError, r"grid\['seed'\].*a list of values, got 3"),
    "no values": ({"seed": []}, TypeError, r"grid\['seed'\].*got \[\]"),
    "text": ({"optimizer": "Adam"}, TypeError, r"grid\['optimizer'\].*'Adam'"),
    "name": ({"learning_rat": [1]}, ValueError, "'grid'.*did you mean 'learning_rate'"),
    "one training's": ({"checkpoint": ["a"]}, ValueError, "'grid'.*'checkpoint'"),
    "threads": ({"num_threads": [1]}, ValueError, "'grid'.*'num_threads'"),
    "both": ({"epochs": [1]}, ValueError, "'epochs'.*one value for all.*got both"),
    "a later one": ({"learning_rate": [0.1, -1]}, ValueError, "'learning_rate'.*-1"),
    "optimizer": ({"optimizer": ["Adam", "Addam"]}, ValueError, "'optimizer'.*did you mean 'Adam'"),
    "batch": ({"batch_size": [10, 0]}, ValueError, "'batch_size'.*0"),
    "factors": ({"optimizer": [Adam(learning_rate_factors={"w9": 0.0})]}, ValueError, "'learning_rate_factors'.*w9"),
    "seed": ({"seed": [0, 0.5]}, TypeError, "'seed'.*0.5"),
}


@pytest.mark.parametrize("case", BAD_SWEEPS)
def test_a_bad_combination_raises_before_anything_is_trained(case, rows, monkeypatch):
    grid, error, match = BAD_SWEEPS[case]

    def begin(*arguments):
        raise AssertionError("a training has begun")

    monkeypatch.setattr(Executor, "train", begin)
    with pytest.raises(error, match=match) as caught:
        fastgd.sweep(make(), *rows, grid, epochs=2)
    if case == "a later one":
        assert caught.value.__notes__ == ["in the training of {'learning_rate': -1}"]


def test_bad_arguments(rows):
    for change, match in (({"y": None}, "'y'"), ({"network": 3}, "'network'"), ({"network": lambda: 3}, "'network'"),
                          ({"progress": 1}, "'progress'"), ({"num_threads": 1.5}, "'num_threads'")):  # fmt: skip
        arguments = {"network": make(), "X": rows[0], "y": rows[1], "grid": {"seed": [1]}, **change}
        with pytest.raises(TypeError, match=match):
            fastgd.sweep(**arguments)
    for epochs in (-1, "all"):
        with pytest.raises((TypeError, ValueError), match="'epochs'"):
            fastgd.sweep(make(), *rows, {"seed": [1]}, epochs=epochs)
    found = fastgd.sweep(make(), *rows, {"seed": [1]}, epochs=1, validation_data=rows, metrics=lambda y, p: 1.0)
    for column, match in (("seed", "'column'"), ("validation_<lambda>", "'column'.*greater is better")):
        with pytest.raises(ValueError, match=match):
            found.order(column)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_all(rows):
    """It ends trainings that would take hours, and those that have not begun."""
    pressed, begun = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)), time.monotonic()
    pressed.start()
    with pytest.raises(KeyboardInterrupt):
        fastgd.sweep(make(), *rows, {"seed": range(6)}, num_threads=2, epochs=10**8, validation_data=rows)
    pressed.join()
    assert not [thread for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name]
    assert time.monotonic() - begun < 60  # otherwise the trainings go on for hours


def test_an_error_in_a_training_ends_all(rows):
    calls = itertools.count()

    def failing(y, prediction):
        """In one of two trainings."""
        if next(calls) == 3:
            raise RuntimeError("no such metric")
        return 0.0

    with pytest.raises(RuntimeError, match="no such metric"):
        fastgd.sweep(make(), *rows, {"seed": range(6)}, num_threads=2, epochs=10**8, metrics=failing)
