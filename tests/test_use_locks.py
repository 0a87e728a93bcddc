"""Use of a network or an optimizer that is in use: by functions that a call invokes, and by other threads."""

import copy
import functools
import pickle
import threading

import numpy as np
import pytest

import fastgd
from fastgd import SGD, Adam, Dense, Network
from fastgd._plan import Use, UseLock


@pytest.fixture
def task(rng, backend):
    """A network, rows and targets."""
    network = Network(4, [Dense(5, "tanh"), Dense(1)], loss="mse", backend=backend, dtype="float64")
    return network, rng.normal(size=(40, 4)), rng.normal(size=(40, 1))


# ---- functions that a call invokes


def test_metrics_evaluate_the_network(task):
    network, x, y = task
    asked = []

    def both(targets, prediction):
        asked.append(network.loss(x, y))
        np.testing.assert_array_equal(network.predict(x[:7]), network.predict(x)[:7])
        _, gradient = network.loss_and_gradient(x, y)
        assert copy.deepcopy(network).loss(x, y) == asked[-1]
        network.evaluate(x[:3], y[:3], metrics=["mae"])
        return np.linalg.norm(gradient)

    expected = network.loss(x, y), np.linalg.norm(network.loss_and_gradient(x, y)[1])
    found = network.evaluate(x, y, metrics=["mse", both, "mae"])
    assert (found["loss"], found["both"]) == expected
    assert found["mse"] == pytest.approx(expected[0], rel=1e-12)
    assert asked == [expected[0]]

    twin = copy.deepcopy(network)
    history = network.fit(x, y, epochs=3, validation_data=(x, y), metrics=[both])
    plain = twin.fit(x, y, epochs=3, validation_data=(x, y))
    assert history.validation_loss == plain.validation_loss == asked[1:]
    np.testing.assert_array_equal(network.parameters, twin.parameters)


def test_learning_rates_evaluate_the_network(task):
    """fit computes a rate that depends on the network before each step, as a loop of steps does."""
    network, x, y = task
    twin = copy.deepcopy(network)

    def rate_of(network):
        return lambda step: 0.01 if step % 3 == 0 else 0.1 * network.loss(x, y)

    history = network.fit(x, y, optimizer=SGD(rate_of(network)), batch_size=16, epochs=4)
    optimizer, rates = SGD(rate_of(twin)), []
    for epoch in range(4):
        for rows in _parts(epoch):
            rates.append(optimizer.schedule(optimizer.steps))
            twin.train_step(x[rows], y[rows], optimizer)
    np.testing.assert_array_equal(network.parameters, twin.parameters)
    assert history.learning_rate == rates[2::3]

    asked, optimizer = [], SGD(lambda step: asked.append(0.1 * network.loss(x, y)) or asked[-1])
    history = network.fit([(x[:20], y[:20]), (x[20:], y[20:])], optimizer=optimizer, epochs=3)
    assert history.learning_rate == asked[1::2]
    assert len(asked) == 6


def _parts(epoch):
    order = fastgd.data.minibatches.epoch_order(40, 0, epoch, True)
    return [order[start : start + 16] for start in range(0, 40, 16)]


def test_schedules_that_observe_the_loss_ask_the_network(task):
    network, x, y = task

    class Watching:
        observes_loss = True

        def __init__(self):
            self.losses = []

        def __call__(self, step):
            return 0.01 + 0 * network.loss(x, y)

        def observe(self, loss):
            self.losses.append((loss, network.loss(x, y)))

        def __deepcopy__(self, memo):
            network.loss(x, y)
            return self

    schedule = Watching()
    history = network.fit(x, y, optimizer=SGD(schedule), epochs=2, validation_data=(x, y))
    assert schedule.losses == [(loss, loss) for loss in history.validation_loss]


def test_iterables_and_entered_callbacks_use_the_network(task):
    network, x, y = task
    optimizer, entered = Adam(), []

    def batches():
        for _ in range(3):
            network.train_step(x, y, optimizer)
            network.loss(x, y)
            yield x, y

    class Entering:
        def __enter__(self):
            entered.append(network.loss(x, y))

        def __call__(self, run):
            run.network.train_step(x, y, optimizer)

        def __exit__(self, *raised):
            entered.append(network.loss(x, y))

    network.fit(batches(), optimizer=optimizer, epochs=1, callbacks=[Entering()])
    assert optimizer.steps == 7
    network.fit(x, y, optimizer=optimizer, batch_size=None, epochs=1, callbacks=[Entering()])
    assert optimizer.steps == 9
    assert len(entered) == 4


def test_metrics_and_learning_rates_do_not_train(task):
    network, x, y = task
    optimizer = Adam()
    ways = [
        lambda: network.train_step(x, y, optimizer),
        lambda: network.fit(x, y, optimizer=optimizer, epochs=1),
        lambda: network.loss_and_gradient(x, y, training=True),
    ]
    before = network.parameters.copy()
    for train in ways:
        with pytest.raises(RuntimeError, match="lets the function it called evaluate, but not train"):
            network.evaluate(x, y, metrics=[lambda y, p, train=train: train() or 0.0])
        with pytest.raises(RuntimeError, match="evaluate, but not train"):
            network.train_step(x, y, SGD(lambda step, train=train: train() or 0.1))
        with pytest.raises(RuntimeError, match="evaluate, but not train"):
            network.fit(x, y, optimizer=SGD(lambda step, train=train: train() or 0.1))
    np.testing.assert_array_equal(network.parameters, before)
    network.train_step(x, y, optimizer)  # the locks are free again
    network.train_step(x, y, optimizer)


def test_a_function_within_a_step_is_refused(rng, monkeypatch):
    """A body of the numpy backend can call Python code in the middle of a pass over the rows."""
    network, x = Network(2, [Dense(3, "tanh"), Dense(1)], loss="mse", backend="numpy"), rng.normal(size=(5, 2))
    network.predict(x)
    step = network.executor.evaluation_plan()._phases["forward"][0]
    run = type(step).run
    monkeypatch.setattr(type(step), "run", lambda self: (network.loss(x, x[:, :1]) if self is step else 0, run(self)))
    with pytest.raises(RuntimeError, match="network is already in use further up the call stack; callbacks, metrics"):
        network.predict(x)


def test_averaged_parameters(task):
    network, x, y = task
    optimizer = SGD(0.1, ema_decay=0.5)
    network.fit(x, y, optimizer=optimizer, epochs=2)
    held, failed = network.parameters.copy(), []

    def other():
        for use in (lambda: network.predict(x), lambda: network.train_step(x, y, optimizer)):
            try:
                use()
            except RuntimeError as error:
                failed.append(str(error))

    with optimizer.averaged(network):
        np.testing.assert_array_equal(network.parameters, optimizer.averages[0])
        of_averages = network.loss(x, y)
        assert copy.deepcopy(network).loss(x, y) == of_averages
        with pytest.raises(RuntimeError, match="evaluate, but not train"):
            network.train_step(x, y, optimizer)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(failed) == 2
    np.testing.assert_array_equal(network.parameters, held)

    def averaged(targets, prediction):
        with optimizer.averaged(network):
            return network.loss(x, y)

    assert network.evaluate(x, y, metrics=[averaged])["averaged"] == of_averages
    network.fit(x, y, optimizer=optimizer, epochs=1, metrics=[averaged])


# ---- other threads


def in_threads(*functions):
    """Calls all functions at once, each in its own thread; returns their results or exceptions."""
    results, barrier = [None] * len(functions), threading.Barrier(len(functions))

    def call(i):
        barrier.wait()
        try:
            results[i] = functions[i]()
        except (RuntimeError, ValueError) as error:
            results[i] = error

    threads = [threading.Thread(target=call, args=[i]) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("way", ["fit", "train_step", "iterable"])
def test_one_optimizer_of_two_networks_in_threads(way, rng):
    """One network trains as if alone; the other is refused. Between two steps the locks are free, so a thread that only
    asks may have the other one refused, too."""
    x, y = rng.normal(size=(256, 4)).astype(np.float32), rng.normal(size=(256, 1)).astype(np.float32)

    def train(network, optimizer):
        if way == "fit":
            network.fit(x, y, optimizer=optimizer, epochs=3)
        elif way == "iterable":
            network.fit([(x[:32], y[:32])] * 8, optimizer=optimizer, epochs=3)
        else:
            for _ in range(30):
                network.train_step(x, y, optimizer)
        return network

    expected = train(Network(4, [Dense(64, "tanh"), Dense(1)], loss="mse"), Adam()).parameters
    for _ in range(12):
        networks = [Network(4, [Dense(64, "tanh"), Dense(1)], loss="mse") for _ in range(2)]
        initial, optimizer = networks[0].parameters.copy(), Adam()
        results = in_threads(*(functools.partial(train, n, optimizer) for n in networks))
        refused = [isinstance(result, Exception) for result in results]
        assert any(refused)
        assert way == "train_step" or not all(refused)
        for network, is_refused in zip(networks, refused, strict=True):
            if not is_refused:
                np.testing.assert_array_equal(network.parameters, expected)
            elif way != "train_step":
                np.testing.assert_array_equal(network.parameters, initial)


def test_one_optimizer_in_fit_and_in_steps(rng):
    x, y = rng.normal(size=(64, 4)), rng.normal(size=(64, 1))
    network, optimizer, results = Network(4, [Dense(1)], loss="mse"), Adam(), []
    p, g = np.zeros(5), np.ones(5)

    def elsewhere(run):
        def change():
            optimizer.minibatches = 3

        uses = [
            lambda: optimizer.step(p, g), lambda: copy.deepcopy(optimizer), lambda: pickle.dumps(optimizer), change,
            lambda: network.predict(x), lambda: network.save("nowhere"), lambda: network.fit(x, y),
        ]  # fmt: skip
        results.extend(in_threads(*uses))

    network.fit(x, y, optimizer=optimizer, epochs=1, callbacks=[elsewhere])
    assert len(results) == 7
    assert all(isinstance(result, RuntimeError) and "in use by another call" in str(result) for result in results)
    assert network.history.stopped == "epochs"
    assert not p.any()
    fastgd.Adam().step(p, g)


def test_copies_of_an_optimizer_at_work_are_of_between_two_steps():
    p, g = np.zeros(300_000, np.float32), np.ones(300_000, np.float32)
    optimizer, copies = SGD(0.5, momentum=0.5), []
    thread = threading.Thread(target=lambda: [optimizer.step(p, g) for _ in range(60)])
    thread.start()
    while thread.is_alive():
        try:
            copies.append(copy.deepcopy(optimizer))
        except RuntimeError:
            continue
    thread.join()
    for twin in copies:
        for arrays in twin.state.values():
            assert len(np.unique(arrays[0])) == 1


def test_a_schedule_that_remembers_belongs_to_one_optimizer():
    plateau = fastgd.schedules.reduce_on_plateau(1.0, patience=0, factor=0.5)
    one, other = SGD(plateau), SGD(fastgd.schedules.warmup(plateau, steps=0))
    twin = copy.deepcopy(one)
    for loss in (1.0, 1.0, 1.0):
        one.observe(loss)
    assert one.schedule(0) == 0.25
    assert one.learning_rate is one.schedule
    assert other.schedule(0) == twin.schedule(0) == plateau(0) == 1.0
    assert plateau.best is None


def test_a_callback_serves_one_fit_at_a_time(tmp_path, rng):
    x = rng.normal(size=(8, 2))
    networks = [Network(2, [Dense(1)], loss="mse") for _ in range(2)]
    log = fastgd.callbacks.json_lines(tmp_path / "log.jsonl")
    points = fastgd.callbacks.trajectory(networks[0])
    for shared in (log, points):

        def again(run, shared=shared):
            with pytest.raises(RuntimeError, match="is already in use further up the call stack"):
                networks[1].fit(x, x[:, :1], epochs=1, callbacks=[shared])

        networks[0].fit(x, x[:, :1], epochs=2, callbacks=[shared, again])
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(lines) == 3
    networks[1].fit(x, x[:, :1], epochs=1, callbacks=[pickle.loads(pickle.dumps(log))])
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 5


def test_predictions_of_an_estimator_wait_for_its_fit(rng):
    sklearn = pytest.importorskip("fastgd.sklearn")
    x = rng.normal(size=(300, 4))
    two, three = (x[:, 0] > 0).astype(int), np.digitize(x[:, 0], [-0.5, 0.5])
    estimator = sklearn.MLPClassifier((30,), max_iter=20, tol=0, n_iter_no_change=1000, solver="SGD")

    def fit(y):
        with pytest.warns(match="not converged"):
            estimator.fit(x, y)

    fit(two)
    shapes, ends = set(), threading.Event()

    def ask():
        while not ends.is_set():
            shapes.add(estimator.predict_proba(x).shape)
            estimator.predict(x)

    thread = threading.Thread(target=ask)
    thread.start()
    for y in (three, two, three):
        fit(y)
    ends.set()
    thread.join()
    assert shapes <= {(300, 2), (300, 3)}

    estimator.learning_rate_init = 0.1
    estimator.solver = fastgd.SGD(lambda step: 0.1 + 0 * len(estimator.predict(x)))
    with pytest.raises(RuntimeError, match="estimator is already in use further up the call stack"):
        estimator.fit(x, two)
    assert estimator.predict_proba(x).shape == (300, 3)  # unchanged


def test_uses_of_a_lock():
    lock = UseLock("thing")
    with lock:
        for lent, allowed in ((Use.BORROW, Use.BORROW), (Use.TRAIN, Use.TRAIN)):
            with lock.lend(lent):
                for use in (Use.EVALUATE, Use.BORROW, Use.TRAIN):
                    if use <= allowed:
                        with lock.use(use), pytest.raises(RuntimeError, match="further up the call stack"):
                            lock.reading().__enter__()
                    else:
                        with pytest.raises(RuntimeError, match="not train"), lock.use(use):
                            pass
                with lock.reading():
                    pass
        with pytest.raises(RuntimeError, match="further up the call stack"), lock:
            pass
    assert not pickle.loads(pickle.dumps(lock)).disturbed
