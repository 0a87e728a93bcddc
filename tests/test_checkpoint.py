"""Saving and loading models, and errors for files that are not models."""

import dataclasses
import errno
import hashlib
import json
import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from cases import OPTIMIZERS
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import fastgd
from fastgd import CheckpointError, Dense, Network
from fastgd.training.checkpoint import load_described


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


def test_loading_for_an_unknown_backend_is_an_error_of_the_argument_not_of_the_file(tmp_path):
    rich_network().save(tmp_path / "m")
    for backend, kind in (("cuda", ValueError), (3, TypeError)):
        with pytest.raises(kind, match="^argument 'backend': expected one of.*'numba'"):
            fastgd.load(tmp_path / "m", backend=backend)


def test_loading_takes_a_number_of_threads(tmp_path):
    rich_network().save(tmp_path / "m")
    assert fastgd.load(tmp_path / "m", num_threads=3)[0].num_threads == 3
    assert fastgd.load(tmp_path / "m")[0].num_threads == rich_network().num_threads
    for number, kind in ((0, ValueError), (257, ValueError), ("2", TypeError)):
        with pytest.raises(kind, match="^argument 'num_threads'"):
            fastgd.load(tmp_path / "m", num_threads=number)


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
        raise OSError(errno.ENOSPC, "No space left on device", *named)

    monkeypatch.setattr(fastgd.core.files.os, "replace", full)
    for named in ((), ("other",)):
        with pytest.raises(OSError, match="No space") as caught:
            rich_network().save(tmp_path / "m")
        assert caught.value.filename == (named[0] if named else str(tmp_path / "m"))
    assert (tmp_path / "m").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def damaged(tmp_path, damage):
    path = tmp_path / "model.safetensors"
    rich_network().save(path, optimizer=fastgd.Adam())
    rewrite(path, damage)
    return path


def rewrite(path, damage):
    """Rewrites the file with other tensors or metadata and a valid digest."""
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    metadata = damage(tensors) or metadata
    save_file(tensors, path, metadata=metadata)
    data = path.read_bytes()
    path.write_bytes(data[:-32] + hashlib.sha256(data[:-32]).digest())


def altered(path, change):
    """Rewrites the file with its description changed by `change`."""

    def damage(tensors):
        with safe_open(path, "numpy") as file:
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
        (lambda t: {"fastgd": '{"format": 99, "version": "7.1"}'}, "'format'.*5.*99.*7.1"),
        (lambda t: {"fastgd": "[" * 100_000}, "'metadata'.*Recursion"),
        (lambda t: {"fastgd": '{"format": 5, "network": 3}'}, "'network'.*TypeError"),
        (lambda t: {"fastgd": '{"format": 5, "network": {"layers": [], "loss": []}}'}, "'network'"),
        (lambda t: t.pop("w2") is None or None, "'w2'.*none"),
        (lambda t: t.update(w1=np.zeros((2, 2))), r"'w1'.*F64 \(5, 8\).*F64 \(2, 2\)"),
        (lambda t: t.update(b1=np.zeros(8, np.float32)), "'b1'.*F64.*F32"),
        (lambda t: t.update(b1=np.zeros(9), w2=np.zeros(3)), r"'w2'.*; so are b1$"),
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


def test_what_is_ones_own_has_to_be_defined_to_be_loaded(tmp_path, monkeypatch):
    known = fastgd.activations.ACTIVATIONS
    monkeypatch.setitem(known, "mine", dataclasses.replace(known["relu"], name="mine"))
    Network(5, [Dense(8, "mine"), Dense(3)], loss="mse").save(tmp_path / "m")
    monkeypatch.delitem(known, "mine")
    with pytest.raises(CheckpointError, match="'network.activation'.*defined again.*'mine'"):
        fastgd.load(tmp_path / "m")


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
        ("input_shape", [10**15]), ("input_shape", [-1]), ("input_shape", [True]), ("input_shape", [5.0]),
        ("input_shape", []), ("dtype", "float16"),
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


def test_histories_that_do_not_hold():
    columns = {name: [1.0, 2.0] for name in ("loss", "learning_rate", "rows", "seconds")}
    history = fastgd.History(**columns, metrics={"mae": [0.5]}, steps=0, best_epoch=2)
    assert fastgd.History.of(*history.state()) == history
    three = [1.0, 2.0, 3.0]
    for field, value in (("best_epoch", 0), ("best_epoch", 3), ("steps", -1), ("rows", [0, 1]), ("seconds", [1.0]),
                         ("loss", three), ("validation_loss", three), ("metrics", {"mae": three})):  # fmt: skip
        with pytest.raises(ValueError, match=r"2 values|3 values|'(best_epoch|steps|rows)'"):
            fastgd.History.of(*dataclasses.replace(history, **{field: value}).state())


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


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_every_bit_and_every_cut_is_noticed(bits, tmp_path):
    path, broken = tmp_path / "m", tmp_path / "broken"
    Network(1, [Dense(1)], loss="mse").save(path)
    data = path.read_bytes()
    assert len(data) < 1200
    for i in range(len(data)):
        for bit in range(i, i + bits):
            flipped = bytearray(data)
            flipped[i] ^= 1 << bit % 8
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
import sys, fastgd, fastgd.training.checkpoint as files
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
    observed = set()
    for call in range(1, 6):
        Network(5, [Dense(3)], loss="mse", seed=1).save(path)
        done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(call), fault], check=False,
                              capture_output=True, text=True, timeout=60)  # fmt: skip
        network, _ = fastgd.load(path)
        observed.add((network.seed, done.returncode))
        if fault == "error":
            assert [p.name for p in tmp_path.iterdir()] == ["m"]
            assert done.returncode == 0 or "No space left" in done.stderr
    code = -signal.SIGKILL if fault == "kill" else 1
    assert {(1, code), (9, code)} <= observed


def test_a_file_is_on_the_disk_before_it_is_renamed(tmp_path, monkeypatch):
    """fsync of the file, then the rename, then fsync of the folder."""
    happened = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*arguments, name=name, real=real):
            if name == "fsync":
                is_folder = stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
                happened.append("folder" if is_folder else "file")
            else:
                happened.append(name)
            real(*arguments)

        monkeypatch.setattr(os, name, noted)
    rich_network().save(tmp_path / "m")
    assert happened == ["file", "replace", "folder"]


def test_what_killed_runs_left_is_removed(tmp_path):
    old, young, other = (tmp_path / f".{n}{fastgd.core.files.UNFINISHED}" for n in ("m.0123", "m.4567", "other.89"))
    for path in (old, young, other):
        path.write_bytes(b"")
    for path in (old, other):
        os.utime(path, (time.time() - 4000,) * 2)
    rich_network().save(tmp_path / "m")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([young.name, other.name, "m"])


def test_a_file_that_is_replaced_while_it_is_read(tmp_path):
    """The path always holds a complete file; load returns one of the two networks."""
    networks, stop = [rich_network(), rich_network()], threading.Event()
    networks[1].parameters[:] = 1
    networks[0].save(tmp_path / "m")

    def save(network):
        while not stop.is_set():
            network.save(tmp_path / "m")

    threads = [threading.Thread(target=save, args=[network]) for network in networks]
    for thread in threads:
        thread.start()
    try:
        for _ in range(60):
            loaded = fastgd.load(tmp_path / "m")[0].parameters
            assert any(np.array_equal(loaded, network.parameters) for network in networks)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_pipes_are_no_models(tmp_path):
    os.mkfifo(tmp_path / "m")
    with pytest.raises(CheckpointError, match="regular file"):
        fastgd.load(tmp_path / "m")


OVERWRITTEN = """
import os, sys, threading, fastgd
from fastgd.training.checkpoint import load_described
path, stop = sys.argv[1], threading.Event()
data = open(path, "rb").read()
def damage():
    while not stop.is_set():
        with open(path, "r+b") as file:
            file.truncate(len(data) // 3)
            file.seek(0)
            file.write(data)
thread = threading.Thread(target=damage)
thread.start()
loaded = refused = 0
for i in range(300):
    try:
        network, _ = fastgd.load(path) if i % 2 else load_described(path, fastgd.Network)[:2]
        assert (network.parameters == 0.5).all()
        loaded += 1
    except fastgd.CheckpointError:
        refused += 1
stop.set()
thread.join()
print(loaded, refused)
"""


def test_a_file_that_is_overwritten_in_place_while_it_is_read(tmp_path):
    """load returns complete parameters or refuses the file; reading it by mmap would kill the process."""
    network = Network(200, [Dense(200)], loss="mse")
    network.parameters[:] = 0.5
    network.save(tmp_path / "m")
    done = subprocess.run([sys.executable, "-c", OVERWRITTEN, str(tmp_path / "m")], check=False, capture_output=True,
                          text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 0


def test_loading_reads_the_file_once(tmp_path, monkeypatch):
    rich_network().save(tmp_path / "m", optimizer=fastgd.Adam())
    opened, real = [], open
    monkeypatch.setattr("builtins.open", lambda path, *a, **k: opened.append(str(path)) or real(path, *a, **k))
    network, _, content = load_described(tmp_path / "m", fastgd.Network)
    assert opened == [str(tmp_path / "m")]
    assert content["size"] == os.path.getsize(tmp_path / "m")
    for array in (network.parameters, *network.views().values()):
        assert array.flags.writeable


def others(tmp_path):
    """Paths that are not regular files, by kind."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    os.symlink(tmp_path / "pipe", tmp_path / "link")
    listening = socket.socket(socket.AF_UNIX)
    folder = os.getcwd()
    os.chdir(tmp_path)  # paths of sockets must be short
    listening.bind("socket")
    os.chdir(folder)
    listening.close()
    return {**{kind: tmp_path / kind for kind in ("pipe", "folder", "link", "socket")}, "device": os.devnull}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_only_regular_files_are_written(tmp_path, small):
    network, x, y = small
    for kind, path in others(tmp_path).items():
        error, match = (IsADirectoryError, "folder") if kind == "folder" else (ValueError, "regular file.*pipe, socket")
        before = os.stat(path).st_mode
        with pytest.raises(error, match=f"'path'.*{match}"):
            network.save(path)
        with pytest.raises(error, match=f"'path'.*{match}"):
            network.to_onnx(path)
        with pytest.raises(error, match=f"'checkpoint'.*{match}"):
            network.fit(x, y, epochs=1, checkpoint=path)
        with pytest.raises(error, match=f"'path'.*{match}"):
            network.fit(x, y, epochs=1, callbacks=[fastgd.callbacks.json_lines(path)])
        assert os.stat(path).st_mode == before
    assert network.epochs == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files cannot be counted here")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_anywhere_in_a_save_leaves_nothing_behind(tmp_path):
    path, networks = tmp_path / "m", [rich_network(), rich_network()]
    networks[1].parameters[:] = 1
    networks[0].save(path)
    files, line, whole = len(os.listdir("/proc/self/fd")), 0, set()
    while True:
        left = line

        def trace(frame, event, argument):
            nonlocal left
            if not frame.f_code.co_filename.endswith(("checkpoint.py", "files.py")):
                return None
            if event == "line":
                left -= 1
                if left == -1:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            networks[1].save(path)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        assert len(os.listdir("/proc/self/fd")) == files, f"line {line}"
        assert os.listdir(tmp_path) == ["m"], f"line {line}"
        whole.add(fastgd.load(path)[0].parameters[0].item())
        if left >= 0:
            break
        line += 1
    assert line > 40
    assert whole == {networks[0].parameters[0].item(), 1.0}
    networks[1].fit(np.zeros((4, 5)), np.zeros(4, int), epochs=1)


def test_long_names(tmp_path):
    path = tmp_path / ("\u4e2d" * 80)
    rich_network().save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    np.testing.assert_array_equal(fastgd.load(path)[0].parameters, rich_network().parameters)


@dataclasses.dataclass(frozen=True)
class OwnSchedule(fastgd.schedules.Schedule):
    learning_rate: float

    def learning_rates(self, step):
        return self.learning_rate


@pytest.mark.parametrize(
    "made",
    [
        lambda: OwnSchedule(0.1),
        lambda: type("constant", (fastgd.schedules.constant,), {})(0.1),
        lambda: fastgd.schedules.warmup(OwnSchedule(0.1), 3),
    ],
    ids=["own", "a name of the package", "nested"],
)
def test_a_schedule_of_ones_own_is_not_saved(small, made, tmp_path):
    network = small[0]
    network.save(tmp_path / "m", optimizer=fastgd.Adam())
    before = (tmp_path / "m").read_bytes()
    with pytest.raises(ValueError, match="'optimizer'.*schedule of fastgd's own to save"):
        network.save(tmp_path / "m", optimizer=fastgd.SGD(made()))
    assert (tmp_path / "m").read_bytes() == before


@pytest.mark.parametrize("parent", [fastgd.Dropout, fastgd.Residual])
def test_a_subclass_of_a_layer_is_not_saved_as_its_parent(parent, tmp_path):
    made = type("Own", (parent,), {})(0.5 if parent is fastgd.Dropout else [Dense(3)])
    network = Network(3, [fastgd.Sequential([made]), Dense(3)], loss="mse")
    with pytest.raises(ValueError, match="'layers': expected layers whose class has the decorator `layer`.* a Own"):
        network.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())
