"""The trainings of a sweep, in threads of this process or on any `concurrent.futures.Executor`.

Threads train the networks where they are. Any other executor gets a task for each training: bytes with the network and
its own settings. What all trainings share (X, y, options) is written once to a temporary file, which workers map into
their memory: on one machine they share its pages, and no array is copied for a worker. A worker that cannot open the
file, since it runs on another machine, says so, and its training is submitted again, together with the data.
(Dask could keep the data in its workers, `Client.scatter`; but if these die, its executor waits forever.)

A pool whose worker died takes no more tasks, and does not say which training was to blame. It is one of those that
were running, the first unfinished ones: each of these is repeated in a process of its own, and the others in a pool
like the first."""

import contextlib
import functools
import pickle
import queue
import time
import traceback

from ..callbacks import Bar
from ..core.interrupts import held
from ..engine.executor import Executor
from ..errors import DivergenceError, shown, type_error, value_error
from ..training.history import History
from .sending import pickled, read, written

# What a task returns if its worker could not open the file, the longest text of an error, and seconds between two
# attempts to stop trainings.
NO_FILE, ERROR_LENGTH, STOP_SECONDS = "no file", 100, 0.02
# Seconds without a worker after which those of Dask are given up.
DESERTED_SECONDS = 20.0


def check_executor(executor):
    """The executor; raises TypeError unless it is None or an Executor."""
    import concurrent.futures  # slow to import

    if executor is None or isinstance(executor, concurrent.futures.Executor):
        return executor
    expected = "None or a concurrent.futures.Executor, such as ProcessPoolExecutor(4)"
    if hasattr(executor, "get_executor"):  # a Client of Dask
        raise type_error("executor", expected, f"{shown(executor)}; did you mean executor.get_executor()?")
    raise type_error("executor", expected, shown(executor))


def train_all(executor, trainings, X, y, shared, settings, *, threads, shows_bar):
    """Trains the networks in place. Returns for each training a text that says why it has no results, "" if it has.

    trainings: list of (network, arguments of `fit`). shared: names of the arguments that are the same for all.
    settings: of each training, for messages. threads: without an executor, number of trainings at a time."""
    import concurrent.futures

    errors = [""] * len(trainings)
    with contextlib.ExitStack() as stack:
        if executor is None:
            executor = stack.enter_context(concurrent.futures.ThreadPoolExecutor(min(threads, len(trainings))))
        else:
            _check_takes_tasks(executor)
        if isinstance(executor, concurrent.futures.ThreadPoolExecutor):
            results = _in_threads(executor, trainings, X, y, settings)
        else:
            results = _in_workers(executor, trainings, X, y, shared, settings, errors)
        stack.enter_context(contextlib.closing(results))
        for _ in _with_bar(results, len(trainings)) if shows_bar else results:
            pass
    return errors


def _check_takes_tasks(executor):
    """Raises ValueError if the executor was shut down, or one of its workers has died."""
    try:
        executor.submit(int)
    except RuntimeError as error:
        raise value_error("executor", "one that takes tasks", f"{shown(executor)}: {error}") from error


def _with_bar(results, total):
    bar = Bar(total=total, unit="training")
    try:
        for n, result in enumerate(results, 1):
            yield result
            bar.show(n)
    finally:
        bar.close()


# ---- in threads


def _in_threads(pool, trainings, X, y, settings):
    """Trains the networks, and yields after each. If one raises, all end."""
    from concurrent.futures import as_completed

    def train(network, of_fit, own):
        try:
            network.fit(X, y, **of_fit)
        except DivergenceError:  # recorded in the history
            pass
        except Exception as error:
            error.add_note(f"in the training of {own}")
            raise
        finally:
            network.executor.drop_plans()
            of_fit["optimizer"] = None  # with its state

    futures = []
    try:
        for training, own in zip(trainings, settings, strict=True):
            futures.append(pool.submit(train, *training, own))
        for future in as_completed(futures):
            yield future.result()
    except BaseException:
        with held(pass_on=False):
            _stop(futures, [network for network, _ in trainings])
        raise


def _stop(futures, networks):
    """Stops the running trainings, at their next check for signals, and starts no more."""
    from concurrent.futures import wait

    running = {future for future in futures if not future.cancel()}
    while running:
        for network in networks:
            if network.history is not None:
                network.history.stopped = network.history.stopped or "interrupted"
        running = wait(running, STOP_SECONDS).not_done


# ---- in workers


def _in_workers(executor, trainings, X, y, shared, settings, errors):
    """Trains the networks on an executor of other processes, and yields after each. Enters in `errors` why a training
    has no results."""
    common = {"X": X, "y": y, **{name: trainings[0][1][name] for name in shared}}
    tasks = []
    for (network, of_fit), own in zip(trainings, settings, strict=True):
        try:
            tasks.append(pickled({"network": network} | {n: v for n, v in of_fit.items() if n not in shared})[0])
        except Exception as error:
            error.add_note(f"in the training of {own}")
            raise
        of_fit["optimizer"] = None
    first_error, has_results = None, False
    with written(pickled(common, apart=True)) as data:
        for i, result, failure in _recovered(executor, tasks, data):
            if isinstance(result, Exception):
                result.add_note(f"in the training of {settings[i]}")
                raise result
            has_results |= failure is None
            if failure is None:
                _take(trainings[i][0], result)
            else:
                first_error = first_error or failure
                errors[i] = _line(failure)
                trainings[i][0].history = History(stopped="error")
            yield
    if not has_results:
        first_error.add_note(f"No training of the sweep has results.{_advice(executor, first_error)}")
        raise first_error


def _advice(executor, error):
    """What may help if all workers have died: pools that do not fork import the script in each, which must not begin
    the sweep again."""
    from concurrent.futures import BrokenExecutor, ProcessPoolExecutor

    if not (isinstance(error, BrokenExecutor) and isinstance(executor, ProcessPoolExecutor)):
        return ""
    method = vars(executor)["_mp_context"].get_start_method()
    if method == "fork":
        return ""
    return (
        f" Each worker imports the script, since the start method is {method!r}: pools and sweeps must be below "
        'if __name__ == "__main__":'
    )


def _line(error):
    """A line of text for an error of an executor."""
    from concurrent.futures import BrokenExecutor

    name, text = type(error).__name__, (str(error).splitlines() or [""])[0]
    if isinstance(error, BrokenExecutor):  # their texts are long, and say no more
        return f"the worker died ({name})"
    return f"{name}: {text}"[:ERROR_LENGTH] if text else name


def _take(network, result):
    """Gives a network what its training in a worker returned."""
    network.state[...], network.gradient[...], network.counter[...] = (
        result[n] for n in ("state", "gradient", "counter")
    )
    network.epochs, network.history = result["epochs"], result["history"]
    network.executor = Executor(network, result["last_loss"])


def _train(task, data):
    """Runs in a worker: trains a network and returns its arrays, history and counts; or an exception that ended the
    training; or NO_FILE."""
    try:
        common = read(data)
    except FileNotFoundError:
        return NO_FILE
    of_fit = pickle.loads(task)
    network = of_fit.pop("network")
    try:
        network.fit(**common, **of_fit)
    except DivergenceError:
        pass
    except MemoryError:  # as if the worker had died
        raise
    except Exception as error:
        return _portable(error)
    return {
        "state": network.state, "gradient": network.gradient, "counter": network.counter, "epochs": network.epochs,
        "history": network.history, "last_loss": network.executor.last_loss,
    }  # fmt: skip


def _portable(error):
    """The exception, or a RuntimeError with its text if pickle cannot send it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def _results(executor_of, indices, tasks, data):
    """Submits tasks, and yields (index, result, None), or (index, None, error) where the executor did not bring a
    result, in the order in which they end. What has not begun when the generator is closed is cancelled."""
    from concurrent.futures import Future

    done, index_of = queue.SimpleQueue(), {}

    def submit(i, data):
        try:
            future = executor_of(i).submit(_train, tasks[i], data)
        except RuntimeError as error:  # a worker has died by now, or the executor was shut down
            future = Future()
            future.set_exception(error)
        index_of[future] = i
        future.add_done_callback(done.put)

    is_deserted = _desertion(executor_of(indices[0]))
    try:
        for i in indices:
            submit(i, data[:2])
        values = None
        while index_of:
            try:
                future = done.get(timeout=None if is_deserted is None else DESERTED_SECONDS / 10)
            except queue.Empty:
                if not is_deserted():
                    continue
                for i in index_of.values():
                    yield i, None, RuntimeError("no worker is left, they have died")
                return
            i = index_of.pop(future)
            try:
                result = future.result()
            except Exception as error:  # _train raises none but MemoryError
                yield i, None, error
                continue
            if isinstance(result, str):  # NO_FILE
                values = values or [bytes(part) for part in data[2]]
                submit(i, values)
            else:
                yield i, result, None
    finally:
        for future in index_of:
            future.cancel()


def _desertion(executor):
    """A function that tells whether an executor of Dask had workers and has had none for a while, which it would wait
    for without end: a LocalCluster whose workers die often starts no others. None for other executors."""
    client = getattr(executor, "_client", None)
    if not hasattr(client, "nthreads"):
        return None
    had_workers, seen = False, time.monotonic()

    def is_deserted():
        nonlocal had_workers, seen
        if client.nthreads():
            had_workers, seen = True, time.monotonic()
        return had_workers and time.monotonic() - seen > DESERTED_SECONDS

    had_workers = bool(client.nthreads())
    return is_deserted


def _recovered(executor, tasks, data):
    """As `_results`, for all tasks; those that a pool did not run because a worker had died are run in other pools."""
    from concurrent.futures import BrokenExecutor

    make, lost, has_results = _maker(executor), {}, False

    def sorted_out(results):
        nonlocal has_results
        for i, result, error in results:
            if make and isinstance(error, BrokenExecutor):
                lost[i] = error
            else:
                has_results |= error is None
                yield i, result, error

    yield from sorted_out(_results(lambda i: executor, range(len(tasks)), tasks, data))
    while lost:
        order = sorted(lost)
        running, others = order[: executor._max_workers], order[executor._max_workers :]
        lost.clear()
        with contextlib.ExitStack() as stack:
            alone = {i: stack.enter_context(make(1)) for i in running}
            for i, result, error in _results(alone.__getitem__, running, tasks, data):
                has_results |= error is None
                yield i, result, error
        if not has_results:  # no worker can start, for instance
            return
        if others:
            with make(executor._max_workers) as pool:
                yield from sorted_out(_results(lambda i, pool=pool: pool, others, tasks, data))


def _maker(pool):
    """A function that makes a pool of n processes like the given one, or None if that is another kind of executor.
    Reads private attributes, since there are no public ones."""
    from concurrent.futures import ProcessPoolExecutor

    own = vars(pool)
    if isinstance(pool, ProcessPoolExecutor):
        context = {"mp_context": own["_mp_context"], "max_tasks_per_child": own["_max_tasks_per_child"]}
        make = ProcessPoolExecutor
    elif type(pool).__module__.startswith("loky."):
        import loky

        context = {"context": own["_context"], "env": own["_env"], "timeout": own["_timeout"]}
        make = loky.ProcessPoolExecutor
    else:
        return None
    return functools.partial(make, initializer=own["_initializer"], initargs=own["_initargs"], **context)
