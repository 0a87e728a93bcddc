"""Callbacks, logs and the history of fit, and bad arguments of fit."""

import dataclasses
import json
import threading

import numpy as np
import pytest
from cases import make

import fastgd
from fastgd import SGD, Adam, DivergenceError, History
from fastgd.callbacks import every, json_lines, tensorboard

# ---- callbacks


def test_watching_changes_no_bit(backend, rows):
    """Callbacks, validation, metrics and a progress bar change no number of a run."""
    X, y = rows
    ways = {
        "alone": {},
        "callback": {"callbacks": [lambda run: None]},
        "often": {"callbacks": [every(3, lambda run: run.network.predict(X)), every(1, lambda run: None)]},
        "patience": {"patience": 99, "restore_best": False},
        "validation": {"validation_data": (X, y), "metrics": ["accuracy"]},
        "progress": {"progress": True},
        "metrics": {"metrics": ["accuracy"]},
    }
    ends = {}
    for name, options in ways.items():
        network, optimizer = make(backend), Adam(0.01, clip_norm=1.0)
        history = network.fit(X, y, optimizer=optimizer, batch_size=7, epochs=4, **options)
        assert history.stopped == "epochs"
        assert (history.steps, optimizer.steps, network.epochs) == (60, 60, 4)
        ends[name] = network.parameters.copy(), history.loss, history.learning_rate
    for end in ends.values():
        np.testing.assert_array_equal(end[0], ends["alone"][0])
        assert end[1:] == ends["alone"][1:]


def test_attributes_of_the_run_in_a_callback(backend, rows):
    X, y = rows
    recorded = []

    def record(run):
        recorded.append((run.step, run.epoch, run.at_epoch_end, run.loss, run.learning_rate, run.rows_in_epoch))

    network, optimizer = make(backend), SGD(fastgd.schedules.inverse_time(0.1, 1.0))
    network.fit(X, y, optimizer=optimizer, batch_size=40, epochs=2, callbacks=[record, every(2, record)])
    twin, twin_optimizer, losses = make(backend), SGD(fastgd.schedules.inverse_time(0.1, 1.0)), [None]
    for epoch in range(2):
        for xb, yb in fastgd.minibatches(X, y, 40, epoch=epoch):
            losses.append(twin.train_step(xb, yb, twin_optimizer))
    rates = [None, *(0.1 / (1 + t) for t in range(6))]
    expected = [(2, 0, False, 80), (3, 1, True, 0), (4, 1, False, 40), (6, 2, True, 0)]
    assert [(*s[:3], s[5]) for s in recorded] == expected
    assert [s[3] for s in recorded] == [losses[s[0]] for s in recorded]
    assert [s[4] for s in recorded] == pytest.approx([rates[s[0]] for s in recorded])


@pytest.mark.parametrize("of_arrays", [True, False])
def test_the_end_of_an_epoch_is_known_within_every(backend, rows, of_arrays):
    ends, options = [], {"epochs": 2, "callbacks": [every(1, lambda run: ends.append((run.step, run.at_epoch_end)))]}
    if of_arrays:
        make(backend).fit(*rows, batch_size=40, **options)
    else:
        make(backend).fit(list(fastgd.minibatches(*rows, 40)), **options)
    assert ends == [(1, False), (2, False), (3, True), (4, False), (5, False), (6, True)]


@pytest.mark.parametrize("pause", [1, 4, 15])
def test_a_callback_stops_the_training(backend, rows, pause):
    X, y = rows
    network, optimizer = make(backend), Adam()
    history = network.fit(X, y, optimizer=optimizer, batch_size=10, epochs=5,
                          callbacks=[every(pause, lambda run: True)])  # fmt: skip
    assert (history.stopped, history.steps, len(history.loss)) == ("callback", pause, pause // 10)
    twin, twin_optimizer, steps = make(backend), Adam(), 0
    for epoch in range(2):
        for xb, yb in fastgd.minibatches(X, y, 10, epoch=epoch):
            if steps < pause:
                twin.train_step(xb, yb, twin_optimizer)
                steps += 1
    np.testing.assert_array_equal(network.parameters, twin.parameters)


def test_a_callback_may_set_the_learning_rate(backend, rows):
    X, y = rows

    def lower(run):
        if run.epoch == 2:
            run.optimizer.learning_rate = 0.001

    network = make(backend)
    history = network.fit(X, y, optimizer=SGD(0.1), batch_size=16, epochs=4, callbacks=[lower])
    assert history.learning_rate == [0.1, 0.1, 0.001, 0.001]
    twin = make(backend)
    for rate in (0.1, 0.001):
        twin.fit(X, y, optimizer=SGD(rate), batch_size=16, epochs=2)
    np.testing.assert_array_equal(network.parameters, twin.parameters)


def test_a_callback_may_use_the_network(backend, rows):
    """It may even train it; fit continues from there."""
    X, y = rows
    other = SGD(0.05)

    def meddle(run):
        run.network.evaluate(X, y)
        run.network.loss_and_gradient(X, y)
        for _ in range(20):
            run.network.train_step(X[:50], y[:50], other)
        with pytest.raises(ValueError, match="features"):
            run.network.predict(X[:, :2])

    network, twin, optimizer = make(backend), make(backend), Adam()
    network.fit(X, y, optimizer=Adam(), batch_size=8, epochs=3, callbacks=[meddle])
    twin_other = SGD(0.05)
    for epoch in range(3):
        for xb, yb in fastgd.minibatches(X, y, 8, epoch=epoch):
            twin.train_step(xb, yb, optimizer)
        for _ in range(20):
            twin.train_step(X[:50], y[:50], twin_other)
    np.testing.assert_array_equal(network.parameters, twin.parameters)


def test_only_its_own_thread_may_use_the_network_at_a_pause(rows):
    X, y = rows
    network, refused = make(), []

    def intrude():
        try:
            network.predict(X)
        except RuntimeError as error:
            refused.append(str(error))

    def pause(run):
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()

    network.fit(X, y, epochs=2, callbacks=[pause])
    assert len(refused) == 2
    assert "in use by another call" in refused[0]
    intrude()
    assert len(refused) == 2


def test_an_error_names_the_callback_and_the_minibatch(backend, rows):
    X, y = rows
    network = make(backend)
    with pytest.raises(ZeroDivisionError) as caught:
        network.fit(X, y, batch_size=10, epochs=5, callbacks=[lambda run: None, every(13, lambda run: 1 / 0)])
    assert "callbacks[1] after minibatch 13, 1 epochs done" in caught.value.__notes__[0]
    assert (network.history.stopped, network.history.steps) == ("error", 13)
    assert network.fit(X, y, epochs=1).stopped == "epochs"


@pytest.mark.parametrize("epochs", [0, 2])
def test_callbacks_with_a_context_are_closed(rows, epochs):
    happened = []

    class Log:
        def __enter__(self):
            happened.append("enter")

        def __exit__(self, *raised):
            happened.append("exit")

        def __call__(self, run):
            happened.append(run.epoch)

    make().fit(*rows, epochs=epochs, callbacks=[Log()])
    assert happened == ["enter", *range(1, epochs + 1), "exit"]
    happened.clear()
    with pytest.raises(DivergenceError):
        make().fit(*rows, epochs=9, optimizer=SGD(1e30), callbacks=[every(5, Log())])
    assert (happened[0], happened[-1]) == ("enter", "exit")


def test_the_history_says_why_the_run_stopped(rows):
    X, y = rows
    network = make()
    with pytest.raises(DivergenceError):
        network.fit(X, y, optimizer=SGD(1e30), batch_size=10, epochs=9)
    assert (network.history.stopped, network.history.loss) == ("diverged", [])

    def interrupt(run):
        raise KeyboardInterrupt

    network = make()
    with pytest.raises(KeyboardInterrupt):
        network.fit(X, y, batch_size=10, epochs=9, callbacks=[every(25, interrupt)])
    assert (network.history.stopped, network.history.steps, len(network.history.loss)) == ("interrupted", 25, 2)


# ---- logs


def test_json_lines(rows, tmp_path):
    path = tmp_path / "log.jsonl"
    history = make().fit(*rows, batch_size=10, epochs=2, validation_data=rows, metrics="accuracy",
                         callbacks=[json_lines(path), every(5, json_lines(tmp_path / "steps"))])  # fmt: skip
    *lines, last = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["epoch"]) for line in lines] == [(10, 1), (20, 2)]
    for name in ("loss", "validation_loss", "validation_accuracy", "learning_rate"):
        assert [line[name] for line in lines] == history.to_dict()[name].tolist()
    assert last == {"stopped": "epochs"}
    steps = [json.loads(line) for line in (tmp_path / "steps").read_text().splitlines()]
    assert [line.get("step") for line in steps] == [5, 10, 15, 20, None]
    assert all(np.isfinite(line["loss"]) for line in steps[:-1])


def test_one_log_of_epochs_and_of_minibatches(rows, tmp_path):
    log = json_lines(tmp_path / "log")
    history = make().fit(*rows, batch_size=10, epochs=2, callbacks=[log, every(4, log)])
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line.get("step") for line in lines] == [4, 8, 10, 12, 16, 20, None]
    assert [line["loss"] for line in lines if line.get("step") in (10, 20)] == history.loss


def test_tensorboard(rows, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    network, options = make(), {"batch_size": 10, "callbacks": [tensorboard(tmp_path / "runs")]}
    losses = network.fit(*rows, epochs=2, validation_data=rows, metrics="accuracy", **options).loss
    losses += network.fit(*rows, epochs=1, **options).loss  # continues the curve
    events = accumulator.EventAccumulator(str(tmp_path / "runs"), size_guidance={"tensors": 0})
    events.Reload()
    read = {tag: [(e.step, float(e.tensor_proto.float_val[0])) for e in events.Tensors(tag)]
            for tag in events.Tags()["tensors"]}  # fmt: skip
    grouped = {"loss/train", "loss/validation", "metrics/validation_accuracy"}
    assert set(read) == {*grouped, "learning_rate", "rows", "seconds"}
    assert [step for step, _ in read["loss/train"]] == [10, 20, 30]
    assert [value for _, value in read["loss/train"]] == pytest.approx(losses, rel=1e-6)
    assert [step for step, _ in read["metrics/validation_accuracy"]] == [10, 20]


def test_tensorboard_names_the_loss_of_a_minibatch(rows, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    make().fit(*rows, epochs=1, batch_size=10, callbacks=[every(3, tensorboard(tmp_path / "runs"))])
    events = accumulator.EventAccumulator(str(tmp_path / "runs"))
    events.Reload()
    assert set(events.Tags()["tensors"]) == {"loss/minibatch", "learning_rate"}


def test_a_tensorboard_that_nothing_is_written_to(tmp_path):
    with tensorboard(tmp_path / "runs"):
        pass
    assert not (tmp_path / "runs").exists()


def test_progress_shows_figures(rows, capfd):
    make().fit(*rows, epochs=2, validation_data=rows, metrics="accuracy", progress=True)
    shown = capfd.readouterr().err
    for word in ("2/2", "loss=", "validation=", "validation_accuracy=", "lr=0.001", "rows/s="):
        assert word in shown


def test_progress_within_an_epoch(rows, capfd, monkeypatch):
    monkeypatch.setattr(fastgd.callbacks, "TICK", -1.0)
    bar = fastgd.callbacks.ProgressBar(2)
    with bar:
        make().fit(*rows, batch_size=25, epochs=2, callbacks=[bar, every(1, bar)])
    done = [part.split("/2")[0].split()[-1] for part in capfd.readouterr().err.split("\r") if "loss=" in part]
    assert list(dict.fromkeys(done)) == ["0.25", "0.5", "0.75", "1", "1.25", "1.5", "1.75", "2"]


def test_history_as_arrays(rows):
    history = make().fit(*rows, epochs=3, validation_data=rows, metrics=["accuracy"])
    columns = history.to_dict()
    names = ["epoch", "loss", "validation_loss", "validation_accuracy", "learning_rate", "rows", "seconds"]
    assert list(columns) == names
    assert all(isinstance(column, np.ndarray) and column.shape == (3,) for column in columns.values())
    assert columns["epoch"].tolist() == [1, 2, 3]
    assert columns["loss"].tolist() == history.loss
    assert columns["rows"].tolist() == [100, 200, 300]
    assert (np.diff(columns["seconds"]) > 0).all()
    assert list(History().to_dict()) == ["epoch"]
    assert history.last() == {name: values[-1] for name, values in columns.items() if name != "epoch"}


# ---- bad arguments


BAD = {
    "no y": (lambda X, y: (X,), {}, TypeError, "'y'.*targets.*None"),
    "no iterable": (lambda X, y: (3,), {}, TypeError, "'X'.*3 and no y"),
    "no batch": (lambda X, y: ([],), {}, ValueError, "'X'.*minibatch in it"),
    "no pair": (lambda X, y: ([X],), {}, TypeError, r"'X .minibatch 0.'.*\(x, y\)"),
    "no arrays": (lambda X, y: ([(None, None)],), {}, TypeError, r"'X .minibatch 0.'.*\(x, y\).*None"),
    "weights of an iterable": (lambda X, y: ([(X, y)],), {"sample_weight": [1]}, ValueError, "'sample_weight'"),
    "metrics of an iterable": (lambda X, y: ([(X, y)],), {"metrics": "accuracy"}, ValueError, "'metrics'.*validation"),
    "weights": (lambda X, y: (X, y), {"sample_weight": [1.0]}, ValueError, r"'sample_weight'.*\(100,\)"),
    "negative weight": (lambda X, y: (X, y), {"sample_weight": np.arange(100) - 1.0}, ValueError, "-1.0 at index 0"),
    "weights 0": (lambda X, y: (X, y), {"sample_weight": np.zeros(100)}, ValueError, "'sample_weight'.*above 0"),
    "weight nan": (lambda X, y: (X, y), {"sample_weight": np.full(100, np.nan)}, ValueError, "'sample_weight'.*nan"),
    "class": (lambda X, y: (X, y), {"class_weight": {7: 1}}, ValueError, "'class_weight'.*7"),
    "class weight": (lambda X, y: (X, y), {"class_weight": {1: -1}}, ValueError, r"'class_weight\[1\]'.*-1"),
    "class weights": (lambda X, y: (X, y), {"class_weight": "equal"}, TypeError, "'class_weight'.*'equal'"),
    "class of rows": (lambda X, y: (X, np.eye(3)[y]), {"class_weight": "balanced"}, ValueError, "'class_weight'"),
    "fraction": (lambda X, y: (X, y), {"validation_fraction": 1.0}, ValueError, "'validation_fraction'"),
    "all held out": (lambda X, y: (X[:1], y[:1]), {"validation_fraction": 0.5}, ValueError, "left to train"),
    "callback": (lambda X, y: (X, y), {"callbacks": [3]}, TypeError, r"'callbacks\[0\]'.*3"),
    "no log": (lambda X, y: (X, y), {"callbacks": [json_lines]}, TypeError, r"'callbacks\[0\]'.*json_lines\(...\)"),
    "callbacks": (lambda X, y: (X, y), {"callbacks": 3}, TypeError, "'callbacks'.*3"),
    "progress": (lambda X, y: (X, y), {"progress": "yes"}, TypeError, "'progress'"),
    "restore": (lambda X, y: (X, y), {"restore_best": 1}, TypeError, "'restore_best'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case, rows):
    arguments, options, error, match = BAD[case]
    network = make()
    before = network.parameters.copy()
    with pytest.raises(error, match=match):
        network.fit(*arguments(*rows), **options)
    np.testing.assert_array_equal(network.parameters, before)


def test_a_callback_cannot_replace_the_network(rows):
    def replace(run):
        run.network = make()

    with pytest.raises(AttributeError, match="network"):
        make().fit(*rows, callbacks=[replace])


def test_the_history_is_of_the_outer_fit(rows, tmp_path):
    network = make()
    assert network.history is None
    history = network.fit(*rows, epochs=2, callbacks=[lambda run: run.network.fit(*rows, epochs=1) and None])
    assert network.history is history
    assert len(history.loss) == 2
    with pytest.raises(FileNotFoundError):
        network.fit(*rows, callbacks=[json_lines(tmp_path / "none" / "log")])
    assert network.history is history


def test_only_true_stops(rows):
    for answer, stopped in ((7, "epochs"), (False, "epochs"), (np.True_, "callback"), (True, "callback")):
        assert make().fit(*rows, epochs=2, callbacks=[lambda run, answer=answer: answer]).stopped == stopped
    with pytest.raises(ValueError, match="'steps'.*0"):
        every(0, print)
    with pytest.raises(TypeError, match="'callback'.*3"):
        every(2, 3)


def test_a_history_is_whole_after_an_error(rows):
    """A metric raises in the third epoch, whose validation results are dropped."""

    def failing(y, prediction):
        failing.calls += 1
        if failing.calls == 3:
            raise ZeroDivisionError
        return 1.0

    failing.calls = 0
    network = make()
    with pytest.raises(ZeroDivisionError):
        network.fit(*rows, validation_data=rows, metrics=["accuracy", failing], epochs=5)
    assert [len(column) for column in network.history.metrics.values()] == [2, 2]
    assert len(network.history.validation_loss) == 2
    columns = network.history.to_dict()
    assert {len(column) for column in columns.values()} == {3}
    assert np.isnan(columns["validation_loss"][2])
    for name in ("epoch", "seconds", "loss"):
        metric = fastgd.metrics.own(lambda y, prediction: 0.0)
        with pytest.raises(ValueError, match=name):
            network.evaluate(*rows, metrics=[dataclasses.replace(metric, name=name)])


@pytest.mark.parametrize("end", [b"", b'{"stopped": "error"}\n', b'{"step": 4', b'{"step": 40, "epoch": 4}\n{"sto'])
def test_a_resumed_run_logs_no_epoch_twice(rows, tmp_path, end):
    """The process was killed after its log of the third epoch; the last checkpoint is one epoch older. What another
    run, or another program, wrote before stays."""
    path, options = tmp_path / "log", {"batch_size": 10, "callbacks": [json_lines(tmp_path / "log")]}
    path.write_bytes(b"another program's line, \xff in Latin-1\n")
    make().fit(*rows, epochs=1, **options)
    before = path.read_bytes()
    make().fit(*rows, epochs=2, checkpoint=tmp_path / "run", **options)
    lines = path.read_bytes().removeprefix(before).splitlines(keepends=True)
    path.write_bytes(b"".join([before, *lines[:2], b'{"step": 30, "epoch": 3, "loss": 1.0}\n', end]))
    make().fit(*rows, epochs=4, checkpoint=tmp_path / "run", resume=True, **options)
    text = path.read_bytes()
    assert text.startswith(before)
    logged = [json.loads(line) for line in text.removeprefix(before).splitlines()]
    assert [line.get("step") for line in logged] == [10, 20, 30, 40, None]
    assert logged[2]["loss"] != 1.0


def test_a_log_says_of_each_run_why_it_stopped(rows, tmp_path):
    log = json_lines(tmp_path / "log")
    make().fit(*rows, epochs=1, callbacks=[log])
    with pytest.raises(DivergenceError):
        make().fit(*rows, epochs=3, optimizer=SGD(1e30), callbacks=[log])
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["stopped"] for line in lines if "stopped" in line] == ["epochs", "diverged"]
