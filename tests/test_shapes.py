"""Rows with shapes: a sequence (T, C) gives what its T vectors give one by one; and assumptions that no longer hold
once a row has positions."""

import numpy as np
import onnxruntime
import pytest
from cases import definitions

import fastgd
from fastgd import BatchNorm, Dense, Dropout, Flatten, LayerNorm, Network, Reshape, Residual, Standardize
from fastgd.core.domains import domain_of
from fastgd.engine.program import fold
from fastgd.losses import LOSSES

T, C, K, ROWS = 5, 6, 4, 11
# For fourth-order differences of smooth networks, h = 1e-3.
GRADIENT_TOLERANCE = 1e-8
KINDS = [(name, kernel) for name, loss in LOSSES.items() for kernel in range(len(loss.kernels))]
LABELS, PROBABILITIES = ("softmax_cross_entropy", 0), ("softmax_cross_entropy", 1)


def layers(width=7, rate=0.0):
    return [
        Standardize(np.linspace(0, 1, C), 1.2), Dense(width, "tanh"), LayerNorm("gelu"), Dropout(rate),
        Residual([Dense(width, "silu")]), Dense(K),
    ]  # fmt: skip


def targets(kind, rng, shape=(ROWS, T)):
    """Targets for a kernel of a loss."""
    loss = LOSSES[kind[0]]
    if kind == LABELS:
        return rng.integers(0, K, shape)
    domain = domain_of(loss.kernels[-1].arrays["y"])
    return domain.example(rng, (*shape, *loss.target_shape((K,))), None)


def network(loss="softmax_cross_entropy", shape=(T, C), made=None, **options):
    return Network(shape, layers() if made is None else made, loss=loss, **{"dtype": "float64", "seed": 3, **options})


@pytest.fixture
def x(rng):
    return rng.normal(size=(ROWS, T, C))


# ---- results


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_sequences_are_rows_of_their_positions(kind, backend, x, rng):
    """Predictions agree bit for bit, losses and gradients up to the order of sums over several blocks of rows."""
    y, flat = targets(kind, rng), x.reshape(-1, C)
    flat_y = y.reshape(-1, *y.shape[2:])
    long, short = network(kind[0], backend=backend), network(kind[0], C, backend=backend)
    assert long.output_shape == (T, K)
    np.testing.assert_array_equal(long.predict(x), short.predict(flat).reshape(ROWS, T, K))
    for weight in (None, rng.uniform(0.1, 2, (ROWS, T)), (rng.random((ROWS, T)) < 0.6) * 1.0):
        got = long.loss_and_gradient(x, y, sample_weight=weight)
        of_flat = None if weight is None else weight.reshape(-1)
        expected = short.loss_and_gradient(flat, flat_y, sample_weight=of_flat)
        assert got[0] == pytest.approx(expected[0], rel=1e-14)
        np.testing.assert_allclose(got[1], expected[1], rtol=1e-12, atol=1e-15)
        assert long.loss(x, y, sample_weight=weight) == pytest.approx(expected[0], rel=1e-14)


@pytest.mark.float64
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gradient(kind, backend, x, rng):
    made, y = [Dense(5, "tanh"), LayerNorm("silu"), Dense(K)], targets(kind, rng)[:3]
    if kind[0] == "mae":  # away from where the derivative jumps
        y = y + 9
    errors = fastgd.check_gradients(network(kind[0], made=made, backend=backend), x[:3], y)
    assert max(errors.values()) <= GRADIENT_TOLERANCE


def test_one_weight_a_row_is_that_of_its_positions(x, rng):
    y, weight = targets(LABELS, rng), rng.uniform(0.1, 2, ROWS)
    net = network()
    one = net.loss_and_gradient(x, y, sample_weight=weight)
    each = net.loss_and_gradient(x, y, sample_weight=np.repeat(weight, T).reshape(ROWS, T))
    assert one[0] == each[0]
    np.testing.assert_array_equal(one[1], each[1])


@pytest.mark.parametrize("batch_size", [1, 4, None])
def test_what_a_mask_leaves_out_does_not_count(batch_size, backend, x, rng):
    """Positions of weight 0 may hold any input and any label."""
    y, mask = targets(LABELS, rng), (rng.random((ROWS, T)) < 0.6) * 1.0
    mask[:, 0] = 1
    other_x, other_y = np.where(mask[..., None] > 0, x, 7.0), np.where(mask > 0, y, 0)
    ends = []
    for inputs, labels in ((x, y), (other_x, other_y)):
        net = network(backend=backend)
        net.fit(inputs, labels, sample_weight=mask, optimizer=fastgd.Adam(0.01), batch_size=batch_size, epochs=2)
        ends.append(net.parameters.copy())
        assert net.evaluate(inputs, labels, metrics=["accuracy"], sample_weight=mask)["accuracy"] <= 1
    np.testing.assert_array_equal(*ends)


def test_metrics_of_the_package_go_over_positions_and_own_ones_get_shapes(x, rng):
    y, weight, recorded = targets(LABELS, rng), rng.uniform(0, 1, (ROWS, T)), []

    def shapes(y, prediction, weight):
        recorded.append((y.shape, prediction.shape, weight.shape))
        return 0.0

    net = network()
    values = net.evaluate(x, y, metrics=["accuracy", shapes], sample_weight=weight)
    right = net.predict(x).argmax(axis=-1) == y
    assert values["accuracy"] == pytest.approx((right * weight).sum() / weight.sum(), rel=1e-14)
    assert recorded == [((ROWS, T), (ROWS, T, K), (ROWS, T))]


def test_class_weights_count_by_position(x, rng):
    y = targets(LABELS, rng)
    by_class, by_hand = network(), network()
    by_class.fit(x, y, class_weight={0: 3.0}, optimizer="SGD", epochs=2, batch_size=4)
    by_hand.fit(x, y, sample_weight=np.where(y == 0, 3.0, 1.0), optimizer="SGD", epochs=2, batch_size=4)
    np.testing.assert_allclose(by_class.parameters, by_hand.parameters, rtol=1e-12)


def test_moments_go_over_positions(x):
    made, flat = Standardize.of(x), Standardize.of(x.reshape(-1, C))
    np.testing.assert_allclose(made.shift, flat.shift, rtol=1e-14)
    np.testing.assert_allclose(made.scale, flat.scale, rtol=1e-14)


def test_images_become_vectors(backend, rng):
    """Flatten and Reshape move no data: the network equals one on flat rows."""
    images, y = rng.random((ROWS, 4, 3, 2)), rng.integers(0, K, ROWS)
    made = [Flatten(), Dense(8, "tanh"), Reshape((2, -1)), Reshape((8,)), Dense(K)]
    net = network(shape=(4, 3, 2), made=made, backend=backend)
    flat = network(shape=24, made=[Dense(8, "tanh"), Dense(K)], backend=backend)
    assert net.output_shape == (K,)
    net.fit(images, y, optimizer=fastgd.Adam(0.01), batch_size=4, epochs=2)
    flat.fit(images.reshape(ROWS, -1), y, optimizer=fastgd.Adam(0.01), batch_size=4, epochs=2)
    np.testing.assert_array_equal(net.parameters, flat.parameters)


@pytest.mark.parametrize("layout", ["other dtype", "strided", "bytes", "mapped"])
def test_rows_of_any_layout(layout, x, rng, tmp_path):
    y = targets(LABELS, rng)
    given = {
        "other dtype": lambda: x.astype(np.float32),
        "strided": lambda: np.asfortranarray(x),
        "bytes": lambda: (x * 9).astype(np.int8),
        "mapped": lambda: np.memmap(tmp_path / "x", x.dtype, "w+", shape=x.shape),
    }[layout]()
    if layout == "mapped":
        given[:] = x
    ends = []
    for rows in (given, np.array(given, np.float64)):
        net = network(made=layers(rate=0.2))
        net.fit(rows, y, optimizer=fastgd.Adam(0.01), batch_size=4, epochs=2, validation_fraction=0.2)
        ends.append(np.append(net.parameters, net.history.validation_loss))
    np.testing.assert_array_equal(*ends)


# ---- saved


def test_saved_loaded_and_resumed(backend, x, rng, tmp_path):
    y, path = targets(PROBABILITIES, rng), tmp_path / "run.safetensors"
    options = {"optimizer": fastgd.Adam(0.01), "batch_size": 4, "sample_weight": rng.random((ROWS, T)) + 0.1}
    made = [*layers(rate=0.3)[:-1], BatchNorm("tanh"), Dense(K)]
    whole = network(made=made, backend=backend)
    whole.fit(x, y, epochs=5, **options)
    stopped = network(made=made, backend=backend)
    options["optimizer"] = fastgd.Adam(0.01)
    stopped.fit(x, y, epochs=2, checkpoint=path, **options)
    resumed = network(made=made, backend=backend)
    options["optimizer"] = fastgd.Adam(0.01)
    resumed.fit(x, y, epochs=5, checkpoint=path, resume=True, **options)
    np.testing.assert_array_equal(resumed.state, whole.state)
    loaded, _ = fastgd.load(path, backend=backend)
    assert loaded.input_shape == (T, C)
    np.testing.assert_array_equal(loaded.predict(x), whole.predict(x))


@pytest.mark.parametrize("loss", LOSSES)
def test_onnx(loss, x, tmp_path):
    made = [*layers(rate=0.3)[:-1], BatchNorm("tanh"), Reshape((K, -1)), Reshape((T, -1)), Dense(K)]
    net = network(loss, made=[Dense(8, "tanh"), *made[2:3], BatchNorm(), Reshape((-1, T)), Reshape((T, -1)), Dense(K)])
    net.to_onnx(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["prediction"], {"x": x})[0], net.predict(x), rtol=1e-12, atol=1e-14)


# ---- threads


@pytest.mark.parametrize("rows", [1, 2, 3, 30])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("backend", ["numba", "cython"])
def test_the_same_bits_for_any_number_of_threads(rows, optimizer, backend, dtype, every_step_is_shared, rng):
    """Also with fewer rows than threads, which then share the positions."""
    X, y = rng.normal(size=(rows, 70, C)).astype(dtype), rng.integers(0, K, (rows, 70))
    made = [
        Dense(33, "tanh"), BatchNorm(), Dropout(0.2), Residual([LayerNorm("gelu"), Dense(33)]), Reshape((-1, 11)),
        Dense(5, "tanh"), Reshape((70, -1)), Dense(K),
    ]  # fmt: skip
    ends = []
    for threads in (1, 2, 3, 8):
        net = network(shape=(70, C), made=made, dtype=dtype, backend=backend, num_threads=threads)
        used = getattr(fastgd, optimizer)(0.01)
        net.fit(X, y, optimizer=used, batch_size=max(1, rows // 2), epochs=2)
        losses = [net.train_step(X, y, used) for _ in range(2)]
        ends.append(np.concatenate([net.parameters, losses, net.predict(X).ravel(), net.history.loss]))
        assert net.executor.plan.threads(rows) == threads
    for end in ends[1:]:
        np.testing.assert_array_equal(end, ends[0])


# ---- assumptions that no longer hold


def test_shapes_that_a_kernel_gets_of_rows():
    kernels = fastgd.kernels
    assert fold(kernels.tanh_forward, [(7,), (7,)]) == (1, ((7,), (7,)))
    assert fold(kernels.tanh_forward, [(3, 5, 7), (3, 5, 7)]) == (15, ((7,), (7,)))
    assert fold(kernels.dense_forward, [(5, 9), (5, 7), None, None]) == (5, ((9,), (7,), None, None))
    # One number for each row: all other axes belong to the row.
    assert fold(kernels.dropout, [(5, 7), (5, 7), ()]) == (1, ((35,), (35,), ()))
    assert fold(kernels.gather_labels, [(), (), ()]) == (1, ((1,), (1,), ()))
    assert fold(kernels.layer_norm_forward, [(5, 7), (5, 7), (5,), (5, 7), None, None]) == (
        5, ((7,), (7,), (), (7,), None, None),
    )  # fmt: skip
    with pytest.raises(ValueError, match="mse_loss: array 'weight' has no place"):
        fold(kernels.mse_loss, [(), (7,), (7,), (7,), (3,)])


@pytest.mark.parametrize("pass_name", ["step", "guarded", "fused"])
def test_the_guard_counts_the_products_of_all_positions(pass_name, monkeypatch):
    """Inputs and output gradients that are safe with one product per row, but not with 100."""
    size = 2.5e9
    x, y = np.full((2, 100, 300), size, np.float32), np.full((2, 100, 1), size * 100, np.float32)
    monkeypatch.setattr(fastgd.engine.plan.Plan, "_choose_pass", lambda plan: pass_name)
    made = [Dense(1, weight_init="zeros"), Dense(1, weight_init="ones")]
    net, unguarded = (Network((100, 300), made, loss="mse") for _ in range(2))
    before = net.parameters.copy()
    with pytest.raises(fastgd.DivergenceError):
        net.train_step(x, y, fastgd.SGD(1e-6))
    np.testing.assert_array_equal(net.parameters, before)
    plan = unguarded.executor.training_plan(2)
    plan.terms = 1  # the negative control: as if a row were one product
    plan._bind()
    if pass_name != "step":
        unguarded.train_step(x, y, fastgd.SGD(1e-6))
        assert np.abs(unguarded.gradient).max() > np.finfo(np.float32).max ** 0.5


@pytest.mark.parametrize("hidden", [0, 400])
def test_one_row_of_many_positions_is_not_one_product(hidden, backend, rng):
    """The rank-one pass of plain SGD is for rows of one position only."""
    x, y = rng.normal(size=(1, T, C)), rng.normal(size=(1, T, K))
    made = [*([Dense(hidden, "tanh")] if hidden else []), Dense(K)]
    net, by_hand = (network("mse", made=made, backend=backend) for _ in range(2))
    net.fit(x, y, optimizer=fastgd.SGD(0.1), batch_size=1, epochs=1)
    by_hand.parameters[:] -= 0.1 * by_hand.loss_and_gradient(x, y)[1]
    np.testing.assert_allclose(net.parameters, by_hand.parameters, rtol=1e-13, atol=1e-15)


def test_fans_are_the_layers_to_say(rng):
    """For a kernel (3, 3, 16, 32) fan_in is 144, not the first axis."""
    values = fastgd.initializers.he_normal.values(rng, (3, 3, 16, 32), (144, 288))
    assert values.std() == pytest.approx((2 / 144) ** 0.5, rel=0.03)


def test_positions_count_as_work(rng):
    long, short = network(shape=(1000, C), num_threads=4), network(shape=C, num_threads=4)
    plans = [net.executor.training_plan(4) for net in (long, short)]
    assert plans[0].work == pytest.approx(1000 * plans[1].work, rel=0.01)
    assert (plans[0].threads(8), plans[1].threads(8)) == (3, 1)


def test_one_row_of_positions_suits_batch_norm(x, rng):
    y = targets(LABELS, rng)
    net = network(made=[BatchNorm(), Dense(K)])
    net.fit(x, y, batch_size=1, epochs=1, optimizer="SGD")
    with pytest.raises(ValueError, match="'batch_size'.*at least 2.*BatchNorm"):
        network(shape=C, made=[BatchNorm(), Dense(K)]).fit(x[:, 0], y[:, 0], batch_size=1)


BAD = {
    "x of vectors": (lambda net, x, y: net.predict(x[:, 0]), r"'x'.*3-D array \(rows, 5, 6\)"),
    "one row": (lambda net, x, y: net.predict(x[0]), r"'x'.*3-D.*use x.reshape\(1, 5, 6\)"),
    "other rows": (lambda net, x, y: net.predict(x[:, :4]), r"'x'.*rows of shape \(5, 6\).*\(4, 6\)"),
    "labels of rows": (lambda net, x, y: net.fit(x, y[:, 0]), r"'y'.*labels of shape \(11, 5\) or.*\(11, 5, 4\)"),
    "a label": (lambda net, x, y: net.fit(x, np.where(x[..., 0] > 2, 9, y)), r"'y'.*\[0, 3\].*9 at index \(\d+, \d\)"),
    "weights": (
        lambda net, x, y: net.fit(x, y, sample_weight=np.ones((11, 4))),
        r"'sample_weight'.*\(11,\).*\(11, 5\)",
    ),
    "a weight": (
        lambda net, x, y: net.loss(x, y, sample_weight=y - 1.0),
        r"'sample_weight'.*-1.0 at index \(\d+, \d\)",
    ),
    "all weights": (lambda net, x, y: net.loss(x, y, sample_weight=y * 0.0), "'sample_weight'.*above 0.*0 in all 55"),
    "no reshape": (lambda net, x, y: network(made=[Reshape((7,)), Dense(K)]), r"'shape'.*30 elements.*\(5, 6\)"),
    "two -1": (lambda net, x, y: Reshape((-1, -1)), "'shape'.*at most one -1"),
    "a number": (lambda net, x, y: Reshape(7), "'shape'.*tuple of ints.*7"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_shapes(name, x, rng):
    call, pattern = BAD[name]
    net = network()
    before = net.parameters.copy()
    with pytest.raises((TypeError, ValueError), match=pattern):
        call(net, x, targets(LABELS, rng))
    np.testing.assert_array_equal(net.parameters, before)


def test_losses_of_users_work_on_positions(x, rng):
    with definitions():

        @fastgd.custom.loss
        def quartic(z, y, dz):
            total = 0.0
            for j in range(z.size):
                total += (z[j] - y[j]) ** 4
                dz[j] = 4 * (z[j] - y[j]) ** 3
            return total

        y = targets(("mse", 0), rng)
        net, flat = network(quartic()), network(quartic(), C)
        got, expected = net.loss_and_gradient(x, y), flat.loss_and_gradient(x.reshape(-1, C), y.reshape(-1, K))
        assert got[0] == pytest.approx(expected[0], rel=1e-14)
        np.testing.assert_allclose(got[1], expected[1], rtol=1e-12, atol=1e-15)
