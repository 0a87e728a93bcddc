"""What every optimizer offers besides its rule: clipping, accumulation, averages, factors, low-memory state. On bare
arrays and in networks, on every backend."""

import numpy as np
import pytest
from cases import KERNELS, OPTIMIZERS

import fastgd
from fastgd import SGD, Adam, Dense, Lion, Network
from fastgd.engine import plan, program
from fastgd.optimizers import low_memory as lowmemory
from fastgd.optimizers import standalone

EXTRAS = {
    "plain": {},
    "clip_value": {"clip_value": 0.05},
    "clip_norm": {"clip_norm": 0.5},
    "both": {"clip_norm": 0.5, "clip_value": 0.02},
    "accumulate": {"accumulate": 3},
    "ema": {"ema_decay": 0.9},
    "bfloat16": {"state_dtype": "bfloat16"},
    "8bit": {"state_dtype": "8bit", "ema_decay": 0.5},
    "all": {"clip_norm": 0.5, "clip_value": 0.02, "accumulate": 2, "ema_decay": 0.9, "state_dtype": "bfloat16"},
}

# Valid pairs of optimizers and options: a centred second moment allows no low-memory state.
PAIRS = [(n, e) for n in OPTIMIZERS for e in EXTRAS if n != "RMSProp centred" or "state_dtype" not in EXTRAS[e]]
# Every optimizer on one backend, one optimizer on the others, whose kernels test_kernels.py compares.
TRIPLES = [*((*pair, "cython") for pair in PAIRS), *(("Adam", e, b) for e in EXTRAS for b in ("numba", "numpy"))]


def same_state(a, b):
    assert a.keys() == b.keys()
    for name in a:
        for first, second in zip(a[name], b[name], strict=True):
            np.testing.assert_array_equal(first, second)


# ---- formulas


def test_clip_value(backend, dtype):
    p, g = np.zeros(4, dtype), np.array([-3.0, -0.5, 0.5, 3.0], dtype)
    held = g.copy()
    SGD(1.0, clip_value=1.0).step(p, g, backend=backend)
    np.testing.assert_array_equal(p, [1.0, 0.5, -0.5, -1.0])
    np.testing.assert_array_equal(g, held)


def test_clip_norm_is_of_all_arrays_together(backend, dtype, rng):
    params = [np.zeros((50, 100), dtype), np.zeros(9, dtype)]
    grads = [rng.normal(size=p.shape).astype(dtype) for p in params]
    norm = np.sqrt(sum((g.astype("f8") ** 2).sum() for g in grads))
    optimizer = SGD(1.0, clip_norm=2.0)
    optimizer.step(params, grads, backend=backend)
    assert optimizer.gradient_norm == pytest.approx(norm, rel=1e-6)
    with pytest.raises(ValueError, match="'clip_norm'.*a number.*None"):
        _ = SGD(1.0).gradient_norm
    for p, g in zip(params, grads, strict=True):
        np.testing.assert_allclose(p, -g * (2.0 / (norm + 1e-6)), rtol=1e-6)
    params = [np.zeros_like(p) for p in params]
    SGD(1.0, clip_norm=1e6).step(params, grads, backend=backend)
    for p, g in zip(params, grads, strict=True):
        np.testing.assert_array_equal(p, -g)


def test_accumulate_takes_the_mean_of_k_gradients(backend, dtype, rng):
    p, q = np.zeros(9, dtype), np.zeros(9, dtype)
    grads = rng.normal(size=(4, 9)).astype(dtype)
    slow, fast = Adam(fastgd.schedules.step(0.1, every=1), accumulate=2), Adam(fastgd.schedules.step(0.1, every=1))
    for i, g in enumerate(grads):
        before = p.copy()
        slow.step(p, g, backend=backend)
        assert (p == before).all() == (i % 2 == 0)
    for pair in grads.reshape(2, 2, 9):
        fast.step(q, pair.mean(axis=0), backend=backend)
    np.testing.assert_allclose(p, q, rtol=1e-5 if dtype == "float32" else 1e-12)
    assert (slow.steps, slow.minibatches, fast.steps) == (2, 4, 2)


@pytest.mark.float64
def test_accumulated_minibatches_are_one_large_one(backend, rng):
    X, y = rng.normal(size=(60, 5)), rng.normal(size=(60, 2))
    ends = []
    for size, k in ((20, 3), (60, 1)):
        net = Network(5, [Dense(7, "tanh"), Dense(2)], loss="mse", dtype="float64", backend=backend)
        net.fit(X, y, optimizer=Adam(0.01, accumulate=k), batch_size=size, epochs=4, shuffle=False)
        ends.append(net.parameters.copy())
    np.testing.assert_allclose(*ends, rtol=1e-9)


def test_average_of_the_parameters(backend, dtype, rng):
    p, optimizer = rng.normal(size=9).astype(dtype), Adam(0.1, ema_decay=0.8)
    expected = p.astype("f8")
    for _ in range(5):
        optimizer.step(p, rng.normal(size=9).astype(dtype), backend=backend)
        expected = 0.8 * expected + 0.2 * p
    np.testing.assert_allclose(optimizer.averages[0], expected, rtol=1e-5 if dtype == "float32" else 1e-12)


def test_averaged_lends_the_averages(backend, rng):
    net = Network(5, [Dense(7, "relu"), Dense(2)], loss="mse", backend=backend)
    X, y = rng.normal(size=(60, 5)).astype("f4"), rng.normal(size=(60, 2)).astype("f4")
    optimizer = Adam(0.05, ema_decay=0.9)
    with pytest.raises(ValueError, match="'ema_decay'.*step made"):
        _ = optimizer.averages
    net.fit(X, y, optimizer=optimizer, epochs=2)
    own = net.parameters.copy()
    with optimizer.averaged(net):
        np.testing.assert_array_equal(net.parameters, optimizer.averages[0])
        assert not np.array_equal(net.parameters, own)
        inside = net.predict(X)
    np.testing.assert_array_equal(net.parameters, own)
    assert not np.array_equal(net.predict(X), inside)


@pytest.mark.float64
def test_factors_of_the_learning_rate(backend, rng):
    net = Network(5, [Dense(7, "relu"), Dense(2)], loss="mse", dtype="float64", backend=backend)
    X, y = rng.normal(size=(20, 5)), rng.normal(size=(20, 2))
    before = {name: view.copy() for name, view in net.views().items()}
    _, gradient = net.loss_and_gradient(X, y)
    optimizer = SGD(0.1, learning_rate_factors={"w1": 0.0, "b1": 0.5})
    net.train_step(X, y, optimizer)
    for name, g in net.views(gradient).items():
        factor = {"w1": 0.0, "b1": 0.5}.get(name, 1.0)
        np.testing.assert_allclose(net.views()[name], before[name] - 0.1 * factor * g, rtol=1e-12)


@pytest.mark.float64
def test_factors_of_a_list(backend):
    params, grads = [np.ones(3) for _ in range(3)], [np.ones(3) for _ in range(3)]
    optimizer = Adam(0.1, learning_rate_factors={0: 0.0, 2: 0.5})
    optimizer.step(params, grads, backend=backend)
    np.testing.assert_allclose([p[0] for p in params], [1.0, 0.9, 0.95], rtol=1e-6)
    assert len(optimizer.state["m"]) == 2


@pytest.mark.float64
@pytest.mark.parametrize("decoupled", [True, False])
def test_biases_do_not_decay(decoupled, backend, rng):
    net = Network(5, [Dense(7, "relu", bias_init=np.ones(7)), Dense(2)], loss="mse", dtype="float64", backend=backend)
    X, y = rng.normal(size=(20, 5)), rng.normal(size=(20, 2))
    before, (_, gradient) = net.parameters.copy(), net.loss_and_gradient(X, y)
    net.train_step(X, y, SGD(0.1, weight_decay=0.3, decay_biases=False, decoupled=decoupled))
    decay = np.where(np.arange(net.n_parameters) < net.n_weights, 0.3, 0.0)
    np.testing.assert_allclose(net.parameters, before - 0.1 * (gradient + decay * before), rtol=1e-12)
    w, b = np.ones((2, 2)), np.ones(2)
    SGD(0.1, weight_decay=0.3, decay_biases=False).step([w, b], [np.zeros((2, 2)), np.zeros(2)], backend=backend)
    np.testing.assert_allclose(w, 0.97)
    np.testing.assert_array_equal(b, 1.0)


@pytest.mark.float64
def test_decoupled_decay_is_of_any_optimizer(backend):
    p, q = np.ones(3), np.ones(3)
    for _ in range(3):
        Adam(0.1, weight_decay=0.1, decoupled=True).step(p, p.copy(), backend=backend)
        fastgd.AdamW(0.1, weight_decay=0.1).step(q, q.copy(), backend=backend)
    np.testing.assert_array_equal(p, q)


# ---- the same bits


@pytest.mark.parametrize(("name", "extra", "backend"), [triple for triple in TRIPLES if triple[2] != "numpy"])
@pytest.mark.usefixtures("every_step_is_shared")
def test_threads_change_no_bit(name, backend, extra, dtype, monkeypatch, rng):
    """An update of up to 50,000 elements has one thread."""
    monkeypatch.setattr(standalone, "THREAD_ELEMENTS", 100)
    shapes, ends = [(70, 61), (3,), (50_000,), (1,)], []
    start = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    grads = [[rng.normal(size=shape).astype(dtype) for shape in shapes] for _ in range(4)]
    for threads in (1, 2, 7):
        params, optimizer = [p.copy() for p in start], OPTIMIZERS[name](0.01, **EXTRAS[extra])
        for g in grads:
            optimizer.step(params, g, num_threads=threads, backend=backend)
        ends.append((params, optimizer.state))
    for params, state in ends[1:]:
        for p, q in zip(params, ends[0][0], strict=True):
            np.testing.assert_array_equal(p, q)
        same_state(state, ends[0][1])


@pytest.mark.parametrize(
    ("name", "extra", "backend"), [t for t in TRIPLES if t[1] not in ("8bit", "clip_norm", "both", "all")]
)
def test_a_list_of_arrays_is_one_array_cut(name, extra, backend, dtype, rng):
    """Except for 8-bit blocks, which begin with each array, and norms, which are summed array by array."""
    whole = rng.normal(size=3000).astype(dtype)
    cuts = [12, 900, 901, 2000]
    parts = [part.copy() for part in np.split(whole, cuts)]
    parts[1] = parts[1].reshape(37, 24)
    one, many = OPTIMIZERS[name](0.1, **EXTRAS[extra]), OPTIMIZERS[name](0.1, **EXTRAS[extra])
    for _ in range(5):
        g = rng.normal(size=3000).astype(dtype)
        pieces = np.split(g, cuts)
        pieces[1] = pieces[1].reshape(37, 24)
        one.step(whole, g, backend=backend)
        many.step(parts, pieces, backend=backend)
    np.testing.assert_array_equal(np.concatenate([part.ravel() for part in parts]), whole)


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("backend", ["numba", "cython"])
@pytest.mark.usefixtures("every_step_is_shared")
def test_ways_of_a_step_change_no_bit(extra, backend, monkeypatch, rng):
    """One sweep over all parameters, or each part as its gradient is finished; one call, or step by step; any number of
    threads."""
    X, y = rng.normal(size=(300, 40)).astype("f4"), rng.integers(0, 5, 300)
    options = {"weight_decay": 0.01, "decay_biases": False, "learning_rate_factors": {"w2": 0.5}, **EXTRAS[extra]}
    ends = []
    for limit, threads in ((2**40, 1), (0, 1), (0, 3)):
        monkeypatch.setattr(plan, "FUSED_BYTES", limit)
        monkeypatch.setattr(plan, "FUSED_BLOCK", 64)
        monkeypatch.setattr(plan, "FUSED_ROWS", 8)
        layers = [Dense(33, "relu"), Dense(20, "tanh"), Dense(5)]
        net = Network(40, layers, loss="softmax_cross_entropy", backend=backend, num_threads=threads)
        optimizer = Adam(0.01, **options)
        net.fit(X, y, optimizer=optimizer, batch_size=64, epochs=2)
        ends.append((net.parameters.copy(), optimizer.state))
    stepped, optimizer = Network(40, layers, loss="softmax_cross_entropy", backend=backend), Adam(0.01, **options)
    for epoch in range(2):
        for xb, yb in fastgd.minibatches(X, y, 64, seed=0, epoch=epoch):
            stepped.train_step(xb, yb, optimizer)
    ends.append((stepped.parameters.copy(), optimizer.state))
    for parameters, state in ends[1:]:
        np.testing.assert_array_equal(parameters, ends[0][0])
        same_state(state, ends[0][1])


@pytest.mark.float64
@pytest.mark.parametrize(("name", "extra", "backend"), TRIPLES)
def test_alone_or_in_a_network_an_update_is_the_same(name, extra, backend, rng):
    net = Network(30, [Dense(40, "tanh"), Dense(4)], loss="mse", dtype="float64", backend=backend)
    X, y = rng.normal(size=(9, 30)), rng.normal(size=(9, 4))
    p = net.parameters.copy()
    inside, outside = (OPTIMIZERS[name](0.01, **EXTRAS[extra]) for _ in range(2))
    for _ in range(6):
        outside.step(p, net.loss_and_gradient(X, y)[1], backend=backend)
        net.train_step(X, y, inside)
    np.testing.assert_array_equal(net.parameters, p)
    same_state(inside.state, outside.state)


# ---- low-memory state


@pytest.mark.parametrize(("state_dtype", "last_place"), [("bfloat16", 2**-7), ("8bit", 2**-3)])
@pytest.mark.parametrize("kernel", ["momentum_step", "adagrad_step", "adam_step"])
def test_rounding_is_right_in_the_mean(kernel, state_dtype, last_place, backend, rng):
    """The rule changes each slot by a quarter of a unit in the last place."""
    rule = getattr(fastgd.kernels, kernel)
    low, slots = lowmemory.low_memory_kernel(rule, state_dtype), lowmemory.slots_of(rule)
    p, g = np.zeros(700, "f4"), np.zeros(700, "f4")
    held = lowmemory.new_state(rule, p, state_dtype, [1.0] * len(slots))
    values = [np.abs(rng.normal(size=700)).astype("f4") for _ in slots]
    lowmemory.pack(rule, held, values, 0)
    start = [lowmemory.unpacked(rule, held, slot) for slot in slots]
    for x, rounded in zip(values, start, strict=True):
        assert np.abs(rounded / x - 1).max() <= last_place
    change = last_place / 4
    if kernel == "momentum_step":
        scalars, scale = (0.0, 1 + change, 0.0, 0.0), 1 + change
    elif kernel == "adagrad_step":
        scalars, scale = (0.0, 0.0, 1.0, 0.0, 0.0), 1 + change
        g[...] = np.sqrt(start[0] * change)
    else:
        scalars, scale = (0.0, 1 - change, 1 - change, 1.0, 1e-8, 0.0, 0.0), 1 - change
    totals = [0.0 for _ in slots]
    for seed in range(1000):
        now = {name: array.copy() for name, array in held.items()}
        low.body(backend)(p, *now.values(), g, *scalars, float(seed))
        totals = [total + lowmemory.unpacked(rule, now, slot) for total, slot in zip(totals, slots, strict=True)]
    for total, rounded in zip(totals, start, strict=True):
        # A thousand roundings with probability 1/4 to 1/2: six standard deviations, of 700 numbers.
        assert np.abs(total / 1000 / (rounded * scale) - 1).max() <= 6 * last_place * 0.5 / 1000**0.5 < change


@pytest.mark.parametrize(("name", "state_dtype"), [pair for pair in PAIRS if pair[1] in ("bfloat16", "8bit")])
def test_low_memory_state_trains_digits_to_the_same_loss(name, state_dtype, data):
    (X, y), (X_test, y_test) = data
    rate = {"SGD": 0.1, "momentum": 0.02, "Nesterov": 0.02, "AdaGrad": 0.05, "AdaDelta": 1.0, "Lion": 1e-3}
    rate |= {"RMSProp momentum": 3e-4}
    losses = []
    for dtype in (None, state_dtype):
        net = Network(64, [Dense(64, "relu"), Dense(10)], loss="softmax_cross_entropy")
        optimizer = OPTIMIZERS[name](rate.get(name, 3e-3), state_dtype=dtype)
        net.fit(X, y, optimizer=optimizer, epochs=15)
        losses.append(net.loss(X_test, y_test))
        held = sum(array.nbytes for arrays in optimizer.state.values() for array in arrays)
        assert held <= net.memory_estimate(32, optimizer)["optimizer"] + 8 * 260
    assert losses[1] <= 1.15 * losses[0] + 0.01


@pytest.mark.parametrize("state_dtype", ["bfloat16", "8bit"])
def test_low_memory_state_trains_a_larger_network_to_the_same_loss(state_dtype, data):
    (X, y), _ = data
    losses = []
    for dtype in (None, state_dtype):
        net = Network(64, [Dense(512, "relu"), Dense(512, "relu"), Dense(10)], loss="softmax_cross_entropy")
        net.fit(X, y, optimizer=Adam(1e-3, state_dtype=dtype), epochs=10)
        losses.append(net.loss(X, y))
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


# ---- bad input

SMALL = Network(5, [Dense(2)], loss="mse")
BAD_OPTIONS = {
    "clip_value": ({"clip_value": 0.0}, ValueError, "'clip_value'.*0"),
    "clip_norm": ({"clip_norm": np.nan}, ValueError, "'clip_norm'.*nan"),
    "clip_norm text": ({"clip_norm": "1"}, TypeError, "'clip_norm'.*'1'"),
    "accumulate": ({"accumulate": 0}, ValueError, "'accumulate'.*>= 1.*0"),
    "accumulate half": ({"accumulate": 2.0}, TypeError, "'accumulate'"),
    "ema_decay": ({"ema_decay": 1.0}, ValueError, "'ema_decay'"),
    "ema_decay in float32": ({"ema_decay": 1 - 1e-9}, ValueError, "'ema_decay'.*float32"),
    "factor": ({"learning_rate_factors": {"w1": -1}}, ValueError, r"learning_rate_factors\['w1'\].*-1"),
    "a tiny factor": ({"learning_rate_factors": {"w1": 1e-60}}, ValueError, r"\['w1'\].*float32.*1e-60"),
    "factors": ({"learning_rate_factors": [1.0]}, TypeError, "'learning_rate_factors'.*dict"),
    "factor of": ({"learning_rate_factors": {1.5: 1.0}}, TypeError, "'learning_rate_factors'.*1.5"),
    "state_dtype": ({"state_dtype": "bfloat61"}, ValueError, "'bfloat61'; did you mean 'bfloat16'"),
    "decoupled": ({"decoupled": 1}, TypeError, "'decoupled'.*1"),
    "decay_biases": ({"decay_biases": "no"}, TypeError, "'decay_biases'.*'no'"),
    "decay in float32": ({"weight_decay": 1e-50}, ValueError, "'weight_decay'.*float32.*1e-50"),
    "beta in float32": ({"beta1": 1 - 1e-9}, ValueError, "'beta1'.*float32"),
    "unknown": ({"momentun": 0.9}, TypeError, "momentun"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(case):
    options, error, match = BAD_OPTIONS[case]
    with pytest.raises(error, match=match):
        Adam(1e-3, **options)


def test_factors_of_what_there_is_not():
    with pytest.raises(ValueError, match="'learning_rate_factors'.*w1, b1.*'w2'"):
        SMALL.train_step(np.ones((1, 5)), np.ones((1, 2)), SGD(0.1, learning_rate_factors={"w2": 0.1}))
    optimizer = SGD(0.1, learning_rate_factors={3: 0.1})
    with pytest.raises(ValueError, match="'learning_rate_factors'.*below 1.*3"):
        optimizer.step(np.ones(3), np.ones(3))
    assert optimizer.state == {}


def test_state_is_written_and_read(tmp_path, rng):
    options = {**EXTRAS["all"], "learning_rate_factors": {"w1": 0.5}, "decay_biases": False}
    X, y = rng.normal(size=(60, 5)).astype("f4"), rng.normal(size=(60, 2)).astype("f4")
    for optimizer in (Adam(0.01, **options), Lion(0.01, state_dtype="8bit", weight_decay=0.1, decoupled=False)):
        net = Network(5, [Dense(7, "relu"), Dense(2)], loss="mse")
        net.fit(X, y, optimizer=optimizer, batch_size=20, epochs=1)
        net.save(tmp_path / "net.safetensors", optimizer=optimizer)
        twin, twin_optimizer = fastgd.load(tmp_path / "net.safetensors")
        assert repr(twin_optimizer.options()) == repr(optimizer.options())
        same_state(twin_optimizer.state, optimizer.state)
        for n, o in ((net, optimizer), (twin, twin_optimizer)):
            n.fit(X, y, optimizer=o, batch_size=20, epochs=3)
        np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_describe_names_the_kernels_of_an_update(rng):
    net = Network(5, [Dense(2)], loss="mse")
    net.train_step(np.ones((1, 5)), np.ones((1, 2)), Adam(0.1, **EXTRAS["all"]))
    text = net.describe()
    for kernel in (
        "accumulate_gradient",
        "sum_squares",
        "clip_factor",
        "clip_gradient",
        "adam_step_bfloat16",
        "adam_step",
    ):
        assert kernel in text
    assert all(program.CHAIN_ELEMENTS % kernel.grain == 0 for kernel in KERNELS.values())
