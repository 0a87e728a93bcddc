"""Training runs that are saved, stopped and resumed."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from test_checkpoint import altered

import fastgd
from fastgd import CheckpointError, Dense, Network


def trainee(backend="auto", **options):
    layers = [Dense(8, "tanh"), Dense(3)]
    return Network(5, layers, loss="softmax_cross_entropy", backend=backend, seed=4, **options)


END = "epochs", "interrupted"  # Ctrl-C may come after the last step


class Stop(Exception):
    pass


def stop_at(step):
    def stop(run):
        if run.step == step:
            run.save(stop_at.path)
            raise Stop

    return fastgd.callbacks.every(1, stop)


RUNS = {
    "plain": {},
    "stochastic": {"batch_size": 1},
    "batch": {"batch_size": None},
    "unshuffled": {"shuffle": False},
    "weighted": {"sample_weight": np.linspace(0, 2, 50), "class_weight": "balanced"},
    "held out": {"validation_fraction": 0.2, "metrics": ["accuracy"], "patience": 3, "restore_best": True},
    "cast": {"cast": np.float64, "metrics": "accuracy", "monitor": "accuracy", "restore_best": True},
}
RATES = {
    "cosine": lambda: fastgd.schedules.cosine(0.05, total_steps=40, warmup_steps=5),
    "plateau": lambda: fastgd.schedules.reduce_on_plateau(0.1, patience=0, factor=0.5),
}


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("case", RUNS)
def test_a_resumed_run_is_one_that_never_stopped(case, rate, backend, tmp_path, rng):
    """Parameters, state and history agree, wherever the run stopped."""
    options = {"batch_size": 8, "epochs": 6, **RUNS[case]}
    x, y = rng.normal(size=(50, 5)).astype(options.pop("cast", np.float32)), rng.integers(0, 3, 50)
    whole, optimizer = trainee(backend), fastgd.Adam(RATES[rate](), accumulate=2, ema_decay=0.9)
    history = whole.fit(x, y, optimizer=optimizer, **options)
    per_epoch = {1: 50, None: 1}.get(options["batch_size"], 5 if case == "held out" else 7)
    stop_at.path = tmp_path / "m"
    for step in sorted({1, per_epoch, per_epoch + 1, 2 * per_epoch + 3}):
        with pytest.raises(Stop):
            trainee(backend).fit(x, y, optimizer=fastgd.Adam(RATES[rate](), accumulate=2, ema_decay=0.9),
                                 callbacks=stop_at(step), **options)  # fmt: skip
        network, again = trainee(backend), fastgd.Adam(RATES[rate](), accumulate=2, ema_decay=0.9)
        resumed = network.fit(x, y, optimizer=again, checkpoint=tmp_path / "m", resume=True, **options)
        np.testing.assert_array_equal(network.parameters, whole.parameters)
        for slot, arrays in optimizer.state.items():
            np.testing.assert_array_equal(again.state[slot], arrays)
        assert (again.minibatches, network.epochs) == (optimizer.minibatches, whole.epochs)
        one, other = history.to_dict(), resumed.to_dict()
        assert list(one) == list(other)
        assert all(np.array_equal(one[name], other[name]) for name in one if name != "seconds")
        assert (np.diff(other["seconds"]) > 0).all()
        results = [(h.steps, h.stopped, h.best_epoch) for h in (history, resumed)]
        assert results[0] == results[1]


def test_a_finished_run_goes_on_when_asked_for_more(tmp_path, small):
    """Also after the best parameters were restored: it continues from the last ones."""
    _, x, y = small
    options = {"validation_data": (x, (y + 1) % 3), "restore_best": True, "batch_size": 4}
    whole = trainee()
    history = whole.fit(x, y, optimizer=fastgd.SGD(0.3), epochs=9, **options)
    options["checkpoint"] = tmp_path / "m"
    first = trainee()
    first.fit(x, y, optimizer=fastgd.SGD(0.3), epochs=4, **options)
    np.testing.assert_array_equal(fastgd.load(tmp_path / "m")[0].parameters, first.parameters)
    for _ in range(2):  # the second has nothing left to do
        network = trainee()
        resumed = network.fit(x, y, optimizer=fastgd.SGD(0.3), epochs=9, resume=True, **options)
        np.testing.assert_array_equal(network.parameters, whole.parameters)
        assert (resumed.loss, resumed.validation_loss) == (history.loss, history.validation_loss)


def test_a_schedule_of_another_length(tmp_path, small):
    """... goes on as if it had been there from the start, unless something else differs or a callback has set one."""
    _, x, y = small
    cosine, options = fastgd.schedules.cosine, {"batch_size": 4, "checkpoint": tmp_path / "m"}  # 3 minibatches an epoch

    def run(schedule, epochs, **more):
        network, optimizer = trainee(), fastgd.SGD(schedule)
        return network.fit(x, y, optimizer=optimizer, epochs=epochs, **options, **more), network, optimizer

    def stop(run):
        return run.epoch == 2

    short, long = cosine(0.1, total_steps=9, warmup_steps=4), cosine(0.1, total_steps=15, warmup_steps=2)
    first = run(short, 3, callbacks=stop)[0]
    assert first.learning_rate == [short(2), short(5)]
    for epochs, schedule in ((5, long), (3, short)):  # longer, then as long as planned, which has been passed
        resumed, network, optimizer = run(schedule, epochs, resume=True)
        assert resumed.learning_rate == [short(2), short(5), long(8), long(11), long(14)]
        assert (network.epochs, optimizer.schedule) == (5, schedule)
    twin, its_optimizer = trainee(), fastgd.SGD(short)
    twin.fit(x, y, optimizer=its_optimizer, epochs=2, batch_size=4)
    its_optimizer.learning_rate = long
    twin.fit(x, y, optimizer=its_optimizer, epochs=3, batch_size=4)
    np.testing.assert_array_equal(network.parameters, twin.parameters)
    for other in (cosine(0.2, total_steps=20), cosine(0.1, total_steps=9), fastgd.schedules.one_cycle(0.1, 20)):
        run(short, 2)
        with pytest.raises(CheckpointError, match="'fit.learning_rate"):
            run(other, 5, resume=True)

    def set_rate(run):
        run.optimizer.learning_rate = 0.3

    run(short, 2, callbacks=set_rate)
    with pytest.raises(CheckpointError, match="'fit.learning_rate"):
        run(long, 5, resume=True)


def test_a_loaded_network_has_the_history_of_its_run(tmp_path, small):
    _, x, y = small
    network = trainee()
    history = network.fit(x, y, epochs=3, metrics="accuracy", patience=2, checkpoint=tmp_path / "m")
    loaded, _ = fastgd.load(tmp_path / "m")
    assert loaded.history == history
    altered(tmp_path / "m", lambda content: content["run"]["history"].update(stopped=3))
    with pytest.raises(CheckpointError, match="'run'.*'stopped'.*3"):
        fastgd.load(tmp_path / "m")
    network.save(tmp_path / "m")
    assert fastgd.load(tmp_path / "m")[0].history is None


def test_a_run_over_an_iterable_goes_on(tmp_path, rng):
    batches = [(rng.normal(size=(n, 5)), rng.integers(0, 3, n)) for n in (4, 7, 2, 9, 5)]
    whole = trainee()
    history = whole.fit(batches, optimizer=fastgd.Adam(0.01), epochs=3)
    stop_at.path = tmp_path / "m"
    for step in (1, 5, 8):
        with pytest.raises(Stop):
            trainee().fit(batches, optimizer=fastgd.Adam(0.01), epochs=3, callbacks=stop_at(step))
        network = trainee()
        resumed = network.fit(batches, optimizer=fastgd.Adam(0.01), epochs=3, checkpoint=tmp_path / "m", resume=True)
        np.testing.assert_array_equal(network.parameters, whole.parameters)
        assert resumed.loss == history.loss


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python drops it in weakref callbacks
@pytest.mark.parametrize("watches", [True, False])
def test_ctrl_c_at_any_time_saves_and_a_run_goes_on(backend, watches, tmp_path, data):
    """A signal at a random moment: the file holds a step of the run, and resuming ends as the whole run does."""
    (X, y), held_out = data
    watched = {"validation_data": held_out, "metrics": "accuracy"} if watches else {}
    epochs = {"numpy": (24, 20), "numba": (800, 40), "cython": (2000, 40)}[backend][watches]  # some tenths of a second
    options = {"batch_size": 32 if watches else 31, "epochs": epochs, **watched}
    layers = [Dense(16, "relu"), Dense(10)]

    def new():
        rate = fastgd.schedules.reduce_on_plateau(0.005, patience=1) if watches else 0.001
        return Network(64, layers, loss="softmax_cross_entropy", backend=backend), fastgd.Adam(rate)

    new()[0].fit(X, y, epochs=1, **watched)  # compiles what is compiled on first use
    whole, optimizer = new()
    started = time.perf_counter()
    history = whole.fit(X, y, optimizer=optimizer, **options)
    seconds = time.perf_counter() - started
    whole_steps, before = optimizer.steps, signal.signal(signal.SIGINT, signal.default_int_handler)
    stops, path = [], tmp_path / "m"
    try:
        for share in np.random.default_rng(0).uniform(0.05, 0.95, 12):
            network, optimizer = new()
            path.unlink(missing_ok=True)
            caught, press = None, threading.Timer(share * seconds, os.kill, (os.getpid(), signal.SIGINT))
            try:
                press.start()
                network.fit(X, y, optimizer=optimizer, checkpoint=path, **options)
                press.join()  # the run had ended
            except KeyboardInterrupt as error:
                caught = error
            if caught is not None and network.history is None:  # before the run began
                assert optimizer.steps == 0
                assert not path.exists()
            else:
                assert network.history.stopped in (("interrupted",) if optimizer.steps < whole_steps else END)
            if caught is not None and network.history is not None:
                assert optimizer.steps == whole_steps or any("saved to" in note for note in caught.__notes__)
                assert fastgd.load(path)[1].steps == optimizer.steps
                stops.append(optimizer.steps)
            network, optimizer = new()
            resumed = network.fit(X, y, optimizer=optimizer, checkpoint=path, resume=True, **options)
            np.testing.assert_array_equal(network.parameters, whole.parameters)
            one, other = history.to_dict(), resumed.to_dict()
            assert all(np.array_equal(one[name], other[name]) for name in one if name != "seconds")
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(set(stops)) > 3
    assert watches or any(stop % -(-len(X) // 31) for stop in stops)


def test_a_second_ctrl_c_does_not_lose_what_is_saved(tmp_path, small, monkeypatch):
    _, x, y = small
    real, before = fastgd.training.checkpoint.replace_file, signal.signal(signal.SIGINT, signal.default_int_handler)

    network, optimizer = trainee(), fastgd.SGD(0.1)

    def press():
        os.kill(os.getpid(), signal.SIGINT)

    def train_and_press(run):
        network.train_step(x, y, optimizer)  # no step of the run
        press()

    def write(*arguments):
        press()
        real(*arguments)
        press()

    monkeypatch.setattr(fastgd.training.checkpoint, "replace_file", write)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            network.fit(x, y, optimizer=optimizer, epochs=9, checkpoint=tmp_path / "m", callbacks=[train_and_press])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert "saved to" in caught.value.__notes__[0]
    assert fastgd.load(tmp_path / "m")[0].epochs == 1


def test_a_run_that_was_stopped_by_patience_stays_stopped(tmp_path, small):
    _, x, y = small
    options = {"checkpoint": tmp_path / "m", "epochs": 40, "tolerance": 9.0}
    whole = trainee()
    history = whole.fit(x, y, patience=3, **options)
    assert (history.stopped, len(history.loss)) == ("converged", 4)
    network = trainee()
    again = network.fit(x, y, patience=3, resume=True, **options)
    assert (again.stopped, again.loss) == ("converged", history.loss)
    np.testing.assert_array_equal(network.parameters, whole.parameters)
    assert len(trainee().fit(x, y, patience=5, resume=True, **options).loss) == 6


def test_checkpoint_every(tmp_path, small, monkeypatch):
    _, x, y = small
    saved, real = [], fastgd.training.run.Run.save

    def noted(run, path):
        saved.append((run.step, run.epoch))
        real(run, path)

    monkeypatch.setattr(fastgd.training.run.Run, "save", noted)
    options = {"batch_size": 4, "epochs": 3, "checkpoint": tmp_path / "m"}  # 3 minibatches an epoch
    trainee().fit(x, y, checkpoint_every=2, **options)
    assert saved == [(2, 0), (4, 1), (6, 2), (8, 2), (9, 3)]
    saved.clear()
    trainee().fit(x, y, **options)
    assert saved == [(9, 3)]
    saved.clear()
    monkeypatch.setattr(fastgd.training.run, "SAVE_SECONDS", 0)
    trainee().fit(x, y, callbacks=[lambda run: None], **options)
    assert {(3, 1), (6, 2), (9, 3)} <= set(saved)


def test_what_does_not_fit_is_not_resumed(tmp_path, small):
    _, x, y = small
    path = tmp_path / "m"
    options = {"batch_size": 4, "epochs": 2, "checkpoint": path}
    trainee().fit(x, y, optimizer=fastgd.Adam(), metrics="accuracy", **options)
    other = Network(5, [Dense(8, "relu"), Dense(3)], loss="softmax_cross_entropy", seed=4)
    for network, optimizer, change, match in (
        (other, fastgd.Adam(), {}, r"'network.layers\[0\]'.*relu.*tanh"),
        (trainee(dtype="float64"), fastgd.Adam(), {}, "'network.dtype'.*float64.*float32"),
        (trainee(), fastgd.SGD(0.1), {}, "'optimizer.name'.*SGD.*Adam"),
        (trainee(), fastgd.Adam(0.1), {}, "'fit.learning_rate.*0.1.*0.001"),
        (trainee(), fastgd.Adam(), {"batch_size": 5}, "'fit.batch_size'.*5.*4"),
        (trainee(), fastgd.Adam(), {"shuffle": False}, "'fit.shuffle'.*False.*True"),
        (trainee(), fastgd.Adam(), {"metrics": ()}, "'fit.metrics'"),
        (trainee(), fastgd.Adam(), {"restore_best": True}, "'fit.restore_best'.*True.*False"),
        (trainee(), fastgd.Adam(), {"validation_fraction": 0.5}, "'fit.rows'"),
    ):
        before = network.parameters.copy()
        with pytest.raises(CheckpointError, match=match):
            network.fit(x, y, optimizer=optimizer, resume=True, **{"metrics": "accuracy", **options, **change})
        np.testing.assert_array_equal(network.parameters, before)
        assert not optimizer.state
        assert network.epochs == optimizer.steps == 0
    for data, change in (
        ((x + 1, y), {}),
        ((x, (y + 1) % 3), {}),
        ((x, y), {"sample_weight": np.arange(len(y))}),
        ((x, y), {"class_weight": "balanced"}),
    ):
        with pytest.raises(CheckpointError, match="'fit.data'"):
            trainee().fit(*data, resume=True, metrics="accuracy", **options, **change)
    network, optimizer = trainee(), fastgd.Adam()
    for name, value in (("position", 99), ("step", -1), ("seconds", "x"), ("handled", 99), ("fit", 3)):
        trainee().fit(x, y, optimizer=fastgd.Adam(), metrics="accuracy", **options)
        altered(path, lambda content, name=name, value=value: content["run"].update({name: value}))
        with pytest.raises(CheckpointError, match="'(run|fit)'"):
            network.fit(x, y, optimizer=optimizer, resume=True, metrics="accuracy", **options)
    network.save(path, optimizer=optimizer)
    with pytest.raises(CheckpointError, match="'run'.*a model alone"):
        network.fit(x, y, optimizer=optimizer, resume=True, metrics="accuracy", **options)
    assert network.epochs == optimizer.steps == 0


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"checkpoint": 3}, TypeError, "'checkpoint'.*3"),
        ({"checkpoint": ""}, ValueError, "'checkpoint'.*a path, got ''"),
        ({"checkpoint": "no/such/folder/m"}, FileNotFoundError, "no/such/folder"),
        ({"checkpoint": "."}, IsADirectoryError, "folder"),
        ({"checkpoint_every": 3}, ValueError, "'checkpoint'.*checkpoint_every=3"),
        ({"resume": True}, ValueError, "'checkpoint'.*resume"),
        ({"checkpoint": "m", "checkpoint_every": 0}, ValueError, "'checkpoint_every'"),
        ({"checkpoint": "m", "resume": "yes"}, TypeError, "'resume'"),
        ({"checkpoint": "m", "optimizer": fastgd.SGD(lambda step: 0.1)}, ValueError, "'optimizer'.*schedule"),
    ],
)
def test_bad_checkpoint_arguments(options, error, match, small, tmp_path, monkeypatch):
    _, x, y = small
    monkeypatch.chdir(tmp_path)
    network = trainee()
    before = network.parameters.copy()
    with pytest.raises(error, match=match):
        network.fit(x, y, **options)
    np.testing.assert_array_equal(network.parameters, before)
    assert list(tmp_path.iterdir()) == []


def test_a_learning_rate_set_by_a_callback_is_resumed(tmp_path, small):
    """A run is identified by its initial rate."""
    _, x, y = small

    def halve(run):
        run.optimizer.learning_rate = run.learning_rate / 2

    options = {"batch_size": 4, "callbacks": [halve]}
    whole, network = trainee(), trainee()
    history = whole.fit(x, y, optimizer=fastgd.SGD(0.1), epochs=6, **options)
    options["checkpoint"] = tmp_path / "m"
    trainee().fit(x, y, optimizer=fastgd.SGD(0.1), epochs=3, **options)
    resumed = network.fit(x, y, optimizer=fastgd.SGD(0.1), epochs=6, resume=True, **options)
    np.testing.assert_array_equal(network.parameters, whole.parameters)
    assert resumed.learning_rate == history.learning_rate
