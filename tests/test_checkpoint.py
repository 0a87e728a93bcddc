"""Saving and loading, files that are no models, and runs that go on."""

import dataclasses
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from cases import OPTIMIZERS
from safetensors.numpy import load_file, save_file

import fastgd
from fastgd import CheckpointError, Dense, Network


def rich_network():
    return Network(
        5,
        [Dense(8, fastgd.activations.leaky_relu(negative_slope=0.2)), Dense(3, "gelu")],
        loss=fastgd.losses.softmax_cross_entropy(label_smoothing=0.1),
        l2=0.01,
        dtype="float64",
        seed=3,
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_if_never_saved(name, tmp_path, small):
    _, x, y = small
    network = rich_network()
    optimizer = OPTIMIZERS[name](fastgd.schedules.cosine(0.01, total_steps=9, warmup_steps=2))
    network.fit(x, y, optimizer=optimizer, epochs=3)
    network.save(tmp_path / "model.safetensors", optimizer=optimizer)
    loaded, loaded_optimizer = fastgd.load(tmp_path / "model.safetensors")
    assert repr(loaded) == repr(network)
    assert repr(loaded_optimizer.schedule) == repr(optimizer.schedule)
    for n, o in ((network, optimizer), (loaded, loaded_optimizer)):
        n.fit(x, y, optimizer=o, epochs=3)
    np.testing.assert_array_equal(loaded.parameters, network.parameters)


def test_without_an_optimizer(tmp_path):
    network = rich_network()
    network.save(str(tmp_path / "model.safetensors"))
    loaded, optimizer = fastgd.load(str(tmp_path / "model.safetensors"), backend="numpy")
    assert optimizer is None
    assert loaded.backend == "numpy"
    np.testing.assert_array_equal(loaded.parameters, network.parameters)


def test_other_readers_see_the_parameters_by_name(tmp_path):
    network = rich_network()
    network.save(tmp_path / "model.safetensors")
    tensors = load_file(tmp_path / "model.safetensors")
    assert sorted(tensors) == ["b1", "b2", "sha256", "w1", "w2"]
    np.testing.assert_array_equal(tensors["w1"], network.views()["w1"])


def test_a_learning_rate_of_ones_own_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="'optimizer'.*schedule"):
        rich_network().save(tmp_path / "m.safetensors", optimizer=fastgd.SGD(lambda step: 0.1))
    assert list(tmp_path.iterdir()) == []


def test_saved_before_the_first_update(tmp_path, small):
    _, x, y = small
    rich_network().save(tmp_path / "m", optimizer=fastgd.Adam(1e-3))
    network, optimizer = fastgd.load(tmp_path / "m")
    twin, twin_optimizer = rich_network(), fastgd.Adam(1e-3)
    for n, o in ((network, optimizer), (twin, twin_optimizer)):
        n.fit(x, y, optimizer=o, epochs=2)
    np.testing.assert_array_equal(network.parameters, twin.parameters)


def test_numpy_scalars_are_saved(tmp_path):
    activation = fastgd.activations.leaky_relu(negative_slope=np.float32(0.25))
    Network(5, [Dense(3, activation)], loss="mse").save(tmp_path / "m")
    assert fastgd.load(tmp_path / "m")[0].layers[0].activation == activation


def test_what_load_would_refuse_is_not_saved(tmp_path, small):
    _, x, y = small
    other, optimizer = rich_network(), fastgd.Adam()
    other.train_step(x, y, optimizer)
    strange = dataclasses.replace(fastgd.activations.relu, name="mine")
    for network, options, match in (
        (rich_network(), {"optimizer": optimizer}, "'optimizer'.*drives another"),
        (rich_network(), {"optimizer": 5}, "'optimizer'.*5"),
        (Network(5, [Dense(3, strange)], loss="mse"), {}, "'activation'.*mine"),
    ):
        with pytest.raises((TypeError, ValueError), match=match):
            network.save(tmp_path / "m", **options)
    with pytest.raises(TypeError, match="'path'.*None"):
        rich_network().save(None)
    assert list(tmp_path.iterdir()) == []


def test_a_file_keeps_its_mode_and_its_link(tmp_path):
    target, link = tmp_path / "model", tmp_path / "link"
    rich_network().save(target)
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask
    target.chmod(0o640)
    link.symlink_to(target)
    rich_network().save(link)
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "model"]
    with pytest.raises(OSError, match="folder"):
        fastgd.load(tmp_path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    rich_network().save(tmp_path / "m")
    before = (tmp_path / "m").read_bytes()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(fastgd.checkpoint.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        rich_network().save(tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def damaged(tmp_path, damage):
    path = tmp_path / "model.safetensors"
    rich_network().save(path, optimizer=fastgd.Adam())
    rewrite(path, damage)
    return path


def rewrite(path, damage):
    """The file with other tensors or metadata, and the right digest."""
    with fastgd.checkpoint.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    metadata = damage(tensors) or metadata
    save_file(tensors, path, metadata=metadata)
    data = path.read_bytes()
    path.write_bytes(data[:-32] + hashlib.sha256(data[:-32]).digest())


def altered(path, change):
    """The file with its description changed in place."""

    def damage(tensors):
        with fastgd.checkpoint.safe_open(path, "numpy") as file:
            content = json.loads(file.metadata()["fastgd"])
        change(content)
        return {"fastgd": json.dumps(content)}

    rewrite(path, damage)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda t: {"other": "thing"}, "'metadata'.*saved by fastgd"),
        (lambda t: {"fastgd": "no json"}, "'metadata'.*JSON"),
        (lambda t: {"fastgd": "3"}, "'metadata'"),
        (lambda t: {"fastgd": '{"format": 99, "version": "7.1"}'}, "'format'.*2.*99.*7.1"),
        (lambda t: {"fastgd": "[" * 100_000}, "'metadata'.*Recursion"),
        (lambda t: {"fastgd": '{"format": 2, "network": 3}'}, "'network'.*TypeError"),
        (lambda t: {"fastgd": '{"format": 2, "network": {"layers": [], "loss": []}}'}, "'network'"),
        (lambda t: t.pop("w2") is None or None, "'w2'.*none"),
        (lambda t: t.update(w1=np.zeros((2, 2))), r"'w1'.*F64 \(5, 8\).*F64 \(2, 2\)"),
        (lambda t: t.update(b1=np.zeros(8, np.float32)), "'b1'.*F64.*F32"),
        (lambda t: t.update(b1=np.zeros(9), w2=np.zeros(3)), r"'[bw][12]'.*; so (is|are) [bw][12]"),
        (lambda t: t.update(b1=np.zeros(8, np.float16)), "'b1'.*F64.*F16"),
        (lambda t: t.update({"optimizer.m.0": np.zeros(3)}), "'optimizer.m.0'.*75.*3"),
    ],
)
def test_files_that_are_no_models(damage, match, tmp_path):
    with pytest.raises(CheckpointError, match=match):
        fastgd.load(damaged(tmp_path, damage))


def test_truncated_and_missing_files(tmp_path):
    path = tmp_path / "model.safetensors"
    rich_network().save(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="safetensors") as caught:
        fastgd.load(path)
    assert (caught.value.path, caught.value.field) == (str(path), "file")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(FileNotFoundError):
        fastgd.load(tmp_path / "none")


def test_an_optimizer_of_ones_own_class_is_not_saved(tmp_path):
    class Mine(fastgd.Adam):
        pass

    network = fastgd.Network(3, [fastgd.Dense(2)], loss="mse")
    with pytest.raises(ValueError, match="'optimizer'.*own to save.*Mine"):
        network.save(tmp_path / "net.safetensors", optimizer=Mine())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_features", 10**15), ("n_features", -1), ("n_features", True), ("n_features", 5.0), ("dtype", "float16"),
        ("dtype", 7), ("seed", -1), ("l2", "nan"), ("loss", {"name": "mse", "delta": 1}), ("more", 1),
        ("layers", [{"layer": "Dense", "units": 2**62, "activation": {"name": "relu"}}] * 2), ("layers", []),
        ("layers", [{"layer": "Evil", "units": 8}]), ("layers", None),
    ],
)  # fmt: skip
def test_descriptions_that_do_not_hold(name, value, tmp_path):
    path = tmp_path / "m"
    rich_network().save(path)
    altered(path, lambda content: content["network"].update({name: value}))
    with pytest.raises(CheckpointError, match=r"field '(network|w1)'"):
        fastgd.load(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("name", "SGD"), ("name", "Evil"), ("minibatches", -1), ("minibatches", 1.5), ("beta1", 2), ("nothing", 0),
     ("learning_rate", {"name": "exec", "step": 1}), ("learning_rate", 7)],
)  # fmt: skip
def test_optimizers_that_do_not_hold(name, value, tmp_path, small):
    _, x, y = small
    network, optimizer = rich_network(), fastgd.Adam()
    network.train_step(x, y, optimizer)
    network.save(tmp_path / "m", optimizer=optimizer)
    altered(tmp_path / "m", lambda content: content["optimizer"].update({name: value}))
    with pytest.raises(CheckpointError, match="field 'optimizer'"):
        fastgd.load(tmp_path / "m")


def test_files_of_other_kinds_are_named(tmp_path):
    torch_like, array, empty = tmp_path / "m.npz", tmp_path / "m.npy", tmp_path / "empty"
    np.savez(torch_like, x=np.zeros(3))
    np.save(array, np.zeros(3))
    empty.write_bytes(b"")
    dumped = tmp_path / "m.pickle"
    dumped.write_bytes(pickle.dumps({"x": 1}))
    for path, what in ((torch_like, "zip"), (array, "numpy"), (dumped, "pickle"), (empty, "safetensors")):
        with pytest.raises(CheckpointError, match=f"field 'file'.*{what}"):
            fastgd.load(path)
    with pytest.raises(CheckpointError, match="regular file"):
        fastgd.load("/dev/null")
    with pytest.raises(TypeError, match="'path'.*3"):
        fastgd.load(3)


def test_every_bit_and_every_cut_is_noticed(tmp_path):
    path, broken = tmp_path / "m", tmp_path / "broken"
    Network(1, [Dense(1)], loss="mse").save(path)
    data = path.read_bytes()
    assert len(data) < 1200
    for i in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[i] ^= 1 << bit
            broken.write_bytes(flipped)
            with pytest.raises(CheckpointError):
                fastgd.load(broken)
        broken.write_bytes(data[:i])
        with pytest.raises(CheckpointError):
            fastgd.load(broken)
    broken.write_bytes(data + b"0")
    with pytest.raises(CheckpointError):
        fastgd.load(broken)


KILLED = """
import sys, fastgd, fastgd.checkpoint as files
net = fastgd.Network(5, [fastgd.Dense(3)], loss="mse", seed=9)
calls = 0
def counted(name):
    real = getattr(files.os, name)
    def call(*a, **k):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            if sys.argv[3] == "kill":
                files.os.kill(files.os.getpid(), 9)
            raise OSError(28, "No space left on device")
        return real(*a, **k)
    setattr(files.os, name, call)
for name in ("replace", "fsync", "open", "close"):
    counted(name)
net.save(sys.argv[1])
"""


@pytest.mark.parametrize("fault", ["kill", "error"])
def test_whatever_happens_the_file_is_the_old_or_the_new_one(fault, tmp_path):
    path = tmp_path / "m"
    seen = set()
    for call in range(1, 6):
        Network(5, [Dense(3)], loss="mse", seed=1).save(path)
        done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(call), fault], check=False,
                              capture_output=True, text=True, timeout=60)  # fmt: skip
        network, _ = fastgd.load(path)
        seen.add((network.seed, done.returncode))
        if fault == "error":
            assert [p.name for p in tmp_path.iterdir()] == ["m"]
            assert done.returncode == 0 or "No space left" in done.stderr
    code = -signal.SIGKILL if fault == "kill" else 1
    assert {(1, code), (9, code)} <= seen


def test_what_killed_runs_left_is_removed(tmp_path):
    old, young, other = (tmp_path / f".{n}{fastgd.checkpoint.UNFINISHED}" for n in ("m.0123", "m.4567", "other.89"))
    for path in (old, young, other):
        path.write_bytes(b"")
    for path in (old, other):
        os.utime(path, (time.time() - 4000,) * 2)
    rich_network().save(tmp_path / "m")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([young.name, other.name, "m"])


# ---- runs that go on


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
    """Parameters, state and history, wherever it stopped, with another number of epochs or not."""
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
        told = [(h.steps, h.stopped, h.best_epoch) for h in (history, resumed)]
        assert told[0] == told[1]


def test_a_finished_run_goes_on_when_asked_for_more(tmp_path, small):
    """Also where the best parameters have been put back: it goes on from the last."""
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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python drops it in a weak reference
@pytest.mark.parametrize("watches", [True, False])
@pytest.mark.parametrize("backend", ["numba", "cython"])
def test_ctrl_c_at_any_time_saves_and_a_run_goes_on(backend, watches, tmp_path, data):
    """A signal at a random moment: what is saved is a step of the run, and the end is that of the whole run."""
    (X, y), held_out = data
    watched = {"validation_data": held_out, "metrics": "accuracy"} if watches else {}
    options = {"batch_size": 32 if watches else 31, "epochs": 40 if watches else 2000, **watched}
    layers = [Dense(16, "relu"), Dense(10)]

    def interrupt(*_):
        raise KeyboardInterrupt

    def new():
        rate = fastgd.schedules.reduce_on_plateau(0.005, patience=1) if watches else 0.001
        return Network(64, layers, loss="softmax_cross_entropy", backend=backend), fastgd.Adam(rate)

    new()[0].fit(X, y, epochs=1, **watched)  # what is compiled on first use
    whole, optimizer = new()
    started = time.perf_counter()
    history = whole.fit(X, y, optimizer=optimizer, **options)
    seconds = time.perf_counter() - started
    whole_steps, before = optimizer.steps, signal.signal(signal.SIGALRM, interrupt)
    stops, path = [], tmp_path / "m"
    try:
        for share in np.random.default_rng(0).uniform(0.05, 0.95, 12):
            network, optimizer = new()
            path.unlink(missing_ok=True)
            signal.setitimer(signal.ITIMER_REAL, share * seconds)
            caught = None
            try:
                network.fit(X, y, optimizer=optimizer, checkpoint=path, **options)
            except KeyboardInterrupt as error:
                caught = error
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert network.history.stopped in (("interrupted",) if optimizer.steps < whole_steps else END)
            if caught is not None:
                assert optimizer.steps == whole_steps or any("saved to" in note for note in caught.__notes__)
                assert fastgd.load(path)[1].steps == optimizer.steps
                stops.append(optimizer.steps)
            network, optimizer = new()
            resumed = network.fit(X, y, optimizer=optimizer, checkpoint=path, resume=True, **options)
            np.testing.assert_array_equal(network.parameters, whole.parameters)
            one, other = history.to_dict(), resumed.to_dict()
            assert all(np.array_equal(one[name], other[name]) for name in one if name != "seconds")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(set(stops)) > 3
    assert watches or any(stop % -(-len(X) // 31) for stop in stops)


def test_checkpoint_every(tmp_path, small, monkeypatch):
    _, x, y = small
    saved, real = [], fastgd.run.Run.save

    def noted(run, path):
        saved.append((run.step, run.epoch))
        real(run, path)

    monkeypatch.setattr(fastgd.run.Run, "save", noted)
    options = {"batch_size": 4, "epochs": 3, "checkpoint": tmp_path / "m"}  # 3 minibatches an epoch
    trainee().fit(x, y, checkpoint_every=2, **options)
    assert saved == [(2, 0), (4, 1), (6, 2), (8, 2), (9, 3)]
    saved.clear()
    trainee().fit(x, y, **options)
    assert saved == [(9, 3)]
    saved.clear()
    monkeypatch.setattr(fastgd.run, "SAVE_SECONDS", 0)
    trainee().fit(x, y, callbacks=[lambda run: None], **options)
    assert {(3, 1), (6, 2), (9, 3)} <= set(saved)


def test_what_does_not_fit_is_not_resumed(tmp_path, small):
    _, x, y = small
    path = tmp_path / "m"
    options = {"batch_size": 4, "epochs": 2, "checkpoint": path}
    trainee().fit(x, y, optimizer=fastgd.Adam(), metrics="accuracy", **options)
    other = Network(5, [Dense(8, "relu"), Dense(3)], loss="softmax_cross_entropy", seed=4)
    for network, optimizer, change, match in (
        (other, fastgd.Adam(), {}, "'network.layers'.*relu.*tanh"),
        (trainee(dtype="float64"), fastgd.Adam(), {}, "'network.dtype'.*float64.*float32"),
        (trainee(), fastgd.SGD(0.1), {}, "'optimizer.name'.*SGD.*Adam"),
        (trainee(), fastgd.Adam(0.1), {}, "'optimizer.learning_rate'.*0.1.*0.001"),
        (trainee(), fastgd.Adam(), {"batch_size": 5}, "'fit.batch_size'.*5.*4"),
        (trainee(), fastgd.Adam(), {"shuffle": False}, "'fit.shuffle'.*False.*True"),
        (trainee(), fastgd.Adam(), {"metrics": ()}, "'fit.metrics'"),
        (trainee(), fastgd.Adam(), {"validation_fraction": 0.5}, "'fit.rows'"),
    ):
        before = network.parameters.copy()
        with pytest.raises(CheckpointError, match=match):
            network.fit(x, y, optimizer=optimizer, resume=True, **{"metrics": "accuracy", **options, **change})
        np.testing.assert_array_equal(network.parameters, before)
        assert not optimizer.state
        assert network.epochs == optimizer.steps == 0
    network, optimizer = trainee(), fastgd.Adam()
    for name, value in (("position", 99), ("step", -1), ("seconds", "x"), ("attended", 99), ("fit", 3)):
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
        ({"checkpoint": 3}, TypeError, "'path'.*3"),
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
