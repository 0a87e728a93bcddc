"""Sweeps on executors of other processes give what they give in this one."""

import concurrent.futures
import functools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types

import loky
import numpy as np
import pytest
from cases import make, same

import fastgd
from fastgd import SGD, BatchNorm, Dense, Network
from fastgd.explore import executors, sending
from fastgd.explore.sending import pickled, read, written

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def share_right(y, prediction):
    return float((prediction.argmax(axis=1) == y).mean())


def deadly(y, prediction):
    os.kill(os.getpid(), signal.SIGKILL)


def greedy(y, prediction):
    raise MemoryError("no more")


class Odd(Exception):
    """Pickle cannot make it again."""

    def __init__(self, one, other):
        super().__init__("odd")


def failing(y, prediction):
    raise Odd(1, 2)


def processes(method="fork", **options):
    context = multiprocessing.get_context(method)
    return concurrent.futures.ProcessPoolExecutor(2, mp_context=context, **options)


def sweep(rows, executor=None, **options):
    """A sweep whose trainings all differ, so that results of two workers cannot be mistaken for each other."""
    rates = [0.01, fastgd.schedules.reduce_on_plateau(0.1, patience=0, factor=0.5), 1e30]
    grid = {"optimizer": ["Adam", SGD(0.5, momentum=0.9)], "learning_rate": rates, "width": [3, 5]}
    common = {"epochs": 3, "validation_data": rows, "metrics": share_right, "batch_size": 16, "restore_best": True}

    def network(width):
        layers = [Dense(width), BatchNorm("relu"), Dense(3)]
        return Network(6, layers, loss="softmax_cross_entropy", seed=width)

    return fastgd.sweep(network, *rows, grid, executor=executor, **{**common, **options})


def assert_same(found, expected):
    assert list(found.columns) == list(expected.columns)
    for name in set(found.columns) - {"seconds"}:
        np.testing.assert_array_equal(found.columns[name], expected.columns[name])
    assert found.order() == expected.order()
    assert found.settings == expected.settings or len(found) == 12  # schedules are objects of their own
    for one, other in zip(found.networks, expected.networks, strict=True):
        for name in ("state", "gradient", "minibatches", "epochs", "seed"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert one.executor.last_loss == other.executor.last_loss
        assert same(one.history, other.history)
        assert one.history.stopped == other.history.stopped
        assert one.history.best_epoch == other.history.best_epoch
    assert all(a is n.history for a, n in zip(found.histories, found.networks, strict=True))


@pytest.fixture
def temporary_files(tmp_path, monkeypatch):
    """Returns the names of the files that sweeps have left."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: [name for name in os.listdir(tmp_path) if name.startswith("fastgd-sweep-")]


EXECUTORS = {
    "threads": lambda: concurrent.futures.ThreadPoolExecutor(2),
    "fork": lambda: processes("fork"),
    "forkserver": lambda: processes("forkserver"),
    "spawn": lambda: processes("spawn"),
    "loky": lambda: loky.ProcessPoolExecutor(2),
}


@pytest.mark.parametrize("kind", EXECUTORS)
def test_an_executor_changes_no_bit(kind, rows, temporary_files, capfd):
    expected = sweep(rows)
    assert set(expected.columns["stopped"]) == {"epochs", "diverged"}
    with EXECUTORS[kind]() as executor:
        assert_same(sweep(rows, executor, progress=True), expected)
        assert "12/12" in capfd.readouterr().err
        assert_same(sweep(rows, executor, num_threads=2), expected)
    assert not temporary_files()


def test_trainings_can_go_on_from_what_came_back(rows):
    with processes() as executor:
        found = [fastgd.sweep(make(), *rows, {"seed": [1, 2]}, epochs=1, executor=e) for e in (executor, None)]
    networks = [one.networks[1] for one in found]
    for network in networks:
        network.fit(*rows, epochs=2)
    np.testing.assert_array_equal(*(network.parameters for network in networks))
    assert networks[0].num_threads == 1


def hide_files():
    """Makes a worker see no files of its parent, as on another machine."""

    def read_no_file(data):
        if isinstance(data[0], str):
            raise FileNotFoundError
        return read(data)

    executors.read = read_no_file


def test_a_worker_without_the_file_gets_the_data(rows):
    with processes(initializer=hide_files) as executor:
        assert_same(sweep(rows, executor), sweep(rows))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("fork", "BrokenProcessPool"), pytest.param("loky", "TerminatedWorkerError", marks=pytest.mark.slow)],
)
def test_a_worker_that_dies_costs_its_own_training(kind, name, rows, temporary_files):
    grid = {"seed": [1, 2, 3], "metrics": [[share_right], [deadly], ["accuracy"]]}
    with EXECUTORS[kind]() as executor:
        found = fastgd.sweep(make(), *rows, grid, epochs=2, executor=executor)
    expected = fastgd.sweep(make(), *rows, {"seed": [1, 2, 3]}, epochs=2)
    assert found.columns["error"] == ["", f"the worker died ({name})", ""] * 3
    assert found.columns["stopped"] == ["epochs", "error", "epochs"] * 3
    assert np.isnan([[found.columns[c][i] for c in ("loss", "accuracy", "epoch", "seconds")] for i in (1, 4, 7)]).all()
    assert found.order()[-3:] == found.order("seconds")[-3:] == [1, 4, 7]
    assert found.best() // 3 == expected.best()
    for i, network in enumerate(found.networks):
        twin = expected.networks[i // 3] if i % 3 != 1 else make(seed=1 + i // 3)
        np.testing.assert_array_equal(network.parameters, twin.parameters)
    assert found.histories[1].stopped == "error"
    assert f"the worker died ({name})" in str(found)
    assert not temporary_files()


WITHOUT_GUARD = """
import concurrent.futures, multiprocessing
import numpy as np
import fastgd

X = np.ones((9, 2))
network = fastgd.Network(2, [fastgd.Dense(1)], loss="mse")
with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context({method!r})) as pool:
    fastgd.sweep(network, X, X[:, :1], {{"seed": [1]}}, epochs=1, executor=pool)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_start_the_sweep_again_are_explained(method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_GUARD.format(method=method))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1
    error = done.stderr.rpartition("BrokenProcessPool")[2]
    assert "No training of the sweep has results. Each worker imports the script" in error
    assert f"the start method is {method!r}" in error
    assert 'below if __name__ == "__main__":' in error


def test_a_training_without_memory_costs_itself(rows):
    with processes() as executor:
        found = fastgd.sweep(make(), *rows, {"metrics": [[greedy], ["accuracy"]]}, epochs=1, executor=executor)
    assert found.columns["error"] == ["MemoryError: no more", ""]
    assert found.best() == 1


def die():
    os._exit(3)


def test_an_error_of_all_trainings_is_raised(rows, temporary_files):
    with processes(initializer=die) as executor, pytest.raises(concurrent.futures.BrokenExecutor) as caught:
        fastgd.sweep(make(), *rows, {"seed": range(50)}, epochs=1, executor=executor)
    assert caught.value.__notes__ == ["No training of the sweep has results."]
    assert not temporary_files()


def test_an_executor_of_dask_without_workers_is_given_up(rows, monkeypatch, temporary_files):
    """Its tasks would wait for ever. The first training ends; then there are no workers."""
    monkeypatch.setattr(executors, "DESERTED_SECONDS", 0.2)

    class Deserted(concurrent.futures.Executor):
        _client = types.SimpleNamespace(nthreads=lambda: {} if Deserted.tasks > 1 else {"worker": 1})
        tasks = 0

        def submit(self, function, *arguments):
            future = concurrent.futures.Future()
            if arguments:
                Deserted.tasks += 1
            if Deserted.tasks < 2:
                future.set_result(function(*arguments))
            return future

    found = fastgd.sweep(make(), *rows, {"seed": [1, 2, 3]}, epochs=1, executor=Deserted())
    assert found.columns["error"] == ["", *2 * ["RuntimeError: no worker is left, they have died"]]
    assert not temporary_files()


def test_an_error_in_a_training_ends_all(rows, temporary_files):
    with processes() as executor:
        with pytest.raises(RuntimeError, match="Odd: odd") as caught:
            fastgd.sweep(make(), *rows, {"seed": [1, 2], "metrics": [[failing]]}, epochs=1, executor=executor)
        assert caught.value.__notes__[0].startswith("in the training of {'seed': ")
        assert_same(sweep(rows, executor), sweep(rows))
    assert not temporary_files()


def test_what_cannot_be_sent_is_named(rows, monkeypatch):
    local = functools.partial(lambda y, prediction, shift: shift, shift=1.0)
    lock = functools.partial(share_right, lock=threading.Lock())
    with processes() as executor:
        run = functools.partial(fastgd.sweep, make(), *rows, epochs=1, executor=executor)
        found = run({"seed": [1, 2]}, metrics=fastgd.metrics.own(local, name="one"))  # by cloudpickle
        assert found.columns["one"] == [1.0, 1.0]
        with pytest.raises(TypeError, match="'metrics'.*pickle.*lock") as caught:
            run({"seed": [1, 2]}, metrics=fastgd.metrics.own(lock, name="one"))
        assert "with cloudpickle installed" not in str(caught.value)
        monkeypatch.setattr(sending, "_has_cloudpickle", lambda: False)
        sending._pickler.cache_clear()
        with pytest.raises(TypeError, match="'metrics'.*pickle.*lambda.*; with cloudpickle installed"):
            run({"seed": [1, 2]}, metrics=fastgd.metrics.own(local, name="one"))
        with pytest.raises(TypeError, match="'optimizer'.*pickle.*lambda") as caught:
            run({"optimizer": ["Adam", SGD(lambda t: 0.1)]})
        assert caught.value.__notes__[0].startswith("in the training of {'optimizer': SGD(")
        assert_same(sweep(rows, executor), sweep(rows))  # whose network is made by a function in a function
    sending._pickler.cache_clear()


@pytest.mark.parametrize("kind", ["int", "pool", "class", "client", "closed threads", "closed processes"])
def test_what_is_no_executor_is_named(kind, rows):
    class Client:
        def get_executor(self):
            raise AssertionError

    with multiprocessing.get_context("fork").Pool(1) as pool:
        given = {"int": 4, "pool": pool, "class": concurrent.futures.ProcessPoolExecutor, "client": Client()}
        for name, executor in (("threads", concurrent.futures.ThreadPoolExecutor(1)), ("processes", processes())):
            executor.shutdown()
            given[f"closed {name}"] = executor
        matches = {"int": "got 4$", "pool": "ProcessPoolExecutor.*got .*Pool", "client": r"executor\.get_executor\(\)"}
        is_closed = kind.startswith("closed")
        match = "'executor'.*" + matches.get(kind, "after shutdown" if is_closed else "got <class")
        with pytest.raises(ValueError if is_closed else TypeError, match=match):
            fastgd.sweep(make(), *rows, {"seed": [1]}, epochs=1, executor=given[kind])


def slow(y, prediction, folder):
    tempfile.mkstemp(dir=folder)
    time.sleep(0.5)
    return 0.0


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_cancels_what_has_not_begun(rows, tmp_path, temporary_files):
    metric = fastgd.metrics.own(functools.partial(slow, folder=str(tmp_path)), name="slow")
    pressed = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGINT))
    with processes() as executor:
        pressed.start()
        with pytest.raises(KeyboardInterrupt):
            fastgd.sweep(make(), *rows, {"seed": range(200)}, epochs=1, metrics=metric, executor=executor)
        assert not temporary_files()
    pressed.join()
    assert len(os.listdir(tmp_path)) < 50


def test_arrays_are_sent_as_they_are(rng, tmp_path):
    x = rng.normal(size=(1000, 6)).astype(np.float32)
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, x.shape)
    mapped[...] = x
    windows = np.lib.stride_tricks.sliding_window_view(x.ravel(), 100)
    arrays = {"C": x, "F": np.asfortranarray(x), "strided": x[::2, 1:], "empty": x[:0], "mapped": mapped,
              "of mapped": mapped[3:], "windows": windows, "nested": (x, [x[1:]])}  # fmt: skip
    parts = pickled(arrays, apart=True)
    assert sum(map(len, parts)) < 11 * x.nbytes
    with written(parts) as (path, places, _):
        assert all(begin % sending.ALIGNMENT == 0 for begin, _ in places)
        for found in (read((path, places)), read([bytes(part) for part in parts])):
            nested, expected = found.pop("nested"), arrays["nested"]
            np.testing.assert_array_equal(nested[0], expected[0])
            np.testing.assert_array_equal(nested[1][0], expected[1][0])
            for name, array in found.items():
                np.testing.assert_array_equal(array, arrays[name])
                assert type(array) is np.ndarray
                assert array.dtype == arrays[name].dtype
            assert found["F"].flags.f_contiguous
            assert found["windows"].strides == windows.strides
    with pytest.raises(FileNotFoundError):
        read((path, places))


def test_a_full_disk_is_named(rows, monkeypatch):
    monkeypatch.setattr(tempfile, "mkstemp", lambda prefix: (os.open("/dev/full", os.O_WRONLY), f"/no/{prefix}"))
    with processes() as executor, pytest.raises(OSError, match="No space") as caught:
        fastgd.sweep(make(), *rows, {"seed": [1]}, epochs=1, executor=executor)
    assert "TMPDIR" in caught.value.__notes__[0]


SCRIPT = """
import numpy as np
import fastgd
from fastgd import Dense, Network

def right(y, prediction):
    return float((prediction.argmax(1) == y).mean())

def deadly(y, prediction):
    import os
    os._exit(1)

def hide_files():
    from fastgd.explore import executors
    def read(data, whole=executors.read):
        if isinstance(data[0], str):
            raise FileNotFoundError
        return whole(data)
    executors.read = read

def sweep(executor, **grid):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 6)).astype(np.float32), rng.integers(0, 3, 300)
    grid = {"seed": [1, 2], "learning_rate": [0.01, 0.1, 1e30], "width": [3, 4]} | grid
    network = lambda width: Network(6, [Dense(width, "relu"), Dense(3)], loss="softmax_cross_entropy")
    options = {} if "metrics" in grid else {"metrics": right, "validation_data": (X, y)}
    return fastgd.sweep(network, X, y, grid, epochs=3, executor=executor, **options)

def check(executor):
    found, expected = sweep(executor), sweep(None)
    for name in set(expected.columns) - {"seconds"}:
        np.testing.assert_array_equal(found.columns[name], expected.columns[name])
    for one, other in zip(found.networks, expected.networks, strict=True):
        np.testing.assert_array_equal(one.state, other.state)
    assert "error" not in found.columns and len(found) == 12

def check_death(executor, reason):
    found = sweep(executor, metrics=[["accuracy"], [deadly]], seed=[1], learning_rate=[0.01], width=[3])
    errors = found.columns["error"]
    assert errors[0] == "" and errors[1].startswith(reason), errors

if __name__ == "__main__":
"""
MPI = """
    from mpi4py.futures import MPIPoolExecutor
    with MPIPoolExecutor() as executor:
        assert executor.num_workers == 2
        check(executor)
    print("the same")
"""
DASK = """
    from distributed import Client, LocalCluster
    with LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        check(client.get_executor())
        client.run(hide_files)  # as if the workers were on another machine
        check(client.get_executor())
        check_death(client.get_executor(), "KilledWorker")
    print("the same")
"""


def run_script(tmp_path, body, *command):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT + body)
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run([*command, path], env=environment, capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stdout.strip()) == (0, "the same"), done.stderr
    return done.stderr


@pytest.mark.slow
def test_mpi(tmp_path):
    pytest.importorskip("mpi4py")
    mpiexec = shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or "mpiexec"
    run_script(tmp_path, MPI, mpiexec, "-n", "3", "--oversubscribe", sys.executable, "-m", "mpi4py.futures")


@pytest.mark.slow
def test_dask(tmp_path):
    pytest.importorskip("distributed")
    run_script(tmp_path, DASK, sys.executable)
