"""Losses whose targets have another number of columns than the outputs; and what the losses that were added last are
for: variances, margins, distributions and directions."""

import numpy as np
import pytest

import fastgd
from fastgd import Adam, Dense, Network, custom
from fastgd.losses import LOSSES

pytestmark = pytest.mark.usefixtures("own_definitions")
QUANTILES = (0.1, 0.5, 0.9)


def of_quantiles():
    @custom.loss(targets=1)
    def pinballs(z, y, dz):
        total = 0.0
        for j in range(z.size):
            q = 0.1 + 0.4 * j
            d = y[0] - z[j]
            dz[j] = -q if d > 0 else 1 - q
            total += q * d if d > 0 else (q - 1) * d
        return total

    return pinballs


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_quantiles_of_one_number(backend, rng, tmp_path):
    """Three outputs for one target: their quantiles of uniform noise."""
    loss = of_quantiles()
    x = rng.normal(size=(500, 2))
    y = x[:, 0] + rng.uniform(0, 1, 500)
    net = Network(2, [Dense(3)], loss=loss, dtype="float64", backend=backend)
    assert max(fastgd.check_gradients(net, x[:5], y[:5] + 9).values()) < 1e-8
    assert net.loss(x, y) == net.loss(x, y[:, None])  # one column may lack its axis
    if backend == "numpy":
        return
    net.fit(x, y, optimizer=Adam(0.02), epochs=60, validation_fraction=0.2)
    below = (y[:, None] < net.predict(x)).mean(axis=0)
    np.testing.assert_allclose(below, QUANTILES, atol=0.05)
    net.save(tmp_path / "m.safetensors")
    twin, _ = fastgd.load(tmp_path / "m.safetensors")
    assert twin.loss(x, y) == net.loss(x, y)
    for bad, shape in ((np.ones((500, 3)), r"\(500, 3\)"), (np.ones((500, 2)), r"\(500, 2\)")):
        with pytest.raises(ValueError, match=rf"'y'.*\(500, 1\), got float64 array of shape {shape}"):
            net.fit(x, bad)
        with pytest.raises(ValueError, match=r"'y'.*\(500, 1\)"):
            net.train_step(x, bad, Adam())


@pytest.mark.parametrize("targets", [2, 4])
def test_any_number_of_targets_and_positions(targets, rng):
    @custom.loss(targets=targets)
    def sums(z, y, dz):
        d = z.sum() - y.sum()
        for j in range(z.size):
            dz[j] = d
        return d * d / 2

    x, y = rng.normal(size=(6, 5, 4)), rng.normal(size=(6, 5, targets))
    net = Network((5, 4), [Dense(3, "tanh"), Dense(3)], loss=sums, dtype="float64", backend="numpy")
    assert net.loss(x, y) == pytest.approx(((net.forward(x).sum(-1) - y.sum(-1)) ** 2).mean() / 2, rel=1e-12)
    assert max(fastgd.check_gradients(net, x, y).values()) < 1e-8


def test_bad_targets_of_a_loss():
    def zero(z, y, dz):
        return 0.0

    for options, error, match in (
        ({"targets": 0}, ValueError, "'targets'.*>= 1"),
        ({"targets": 1.5}, TypeError, "'targets'"),
        ({"targets": 2, "labels": True}, ValueError, "'targets'.*None for labels"),
    ):
        with pytest.raises(error, match=match):
            custom.loss(**options)(zero)
    assert "zero" not in LOSSES


def test_gaussian_nll_finds_mean_and_variance(backend, rng):
    """Of a straight line with noise that grows from left to right."""
    x = rng.uniform(-1, 1, (2000, 1))
    deviation = np.exp(x[:, 0] - 1)
    y = 2 * x[:, 0] + deviation * rng.normal(size=2000)
    net = Network(1, [Dense(2)], loss="gaussian_nll", backend=backend)
    net.fit(x, y, optimizer=Adam(0.05), epochs=20, batch_size=100)
    mean, log_variance = net.predict(x).T
    np.testing.assert_allclose(mean, 2 * x[:, 0], atol=0.1)
    np.testing.assert_allclose(log_variance, 2 * np.log(deviation), atol=0.3)
    by_hand = ((y - mean) ** 2 * np.exp(-log_variance) + log_variance).mean() / 2
    assert net.loss(x, y) == pytest.approx(by_hand, rel=1e-5)
    for outputs in (1, 3):
        with pytest.raises(ValueError, match="'layers'.*2 outputs"):
            Network(1, [Dense(outputs)], loss="gaussian_nll")
    with pytest.raises(ValueError, match=r"'y'.*\(2000, 1\)"):
        net.loss(x, np.ones((2000, 2)))


def test_gaussian_nll_of_sequences(rng):
    x, y = rng.normal(size=(7, 5, 3)), rng.normal(size=(7, 5, 2))
    net = Network((5, 3), [Dense(4, "tanh"), Dense(4)], loss="gaussian_nll", dtype="float64")
    z = net.forward(x)
    assert net.loss(x, y) == pytest.approx(((y - z[..., :2]) ** 2 * np.exp(-z[..., 2:]) + z[..., 2:]).mean() / 2)
    assert max(fastgd.check_gradients(net, x, y).values()) < 1e-8


def test_hinge_separates_and_wants_signs(backend, rng):
    x = rng.normal(size=(300, 2))
    y = np.sign(x[:, 0] + x[:, 1])
    net = Network(2, [Dense(1)], loss="hinge", backend=backend)
    net.fit(x, y, optimizer=Adam(0.05), epochs=30)
    assert (np.sign(net.predict(x)[:, 0]) == y).mean() > 0.97
    for bad in (0, 2, np.nan):
        with pytest.raises(ValueError, match="'y'"):
            net.train_step(x, np.where(y > 0, y, bad), Adam())
        with pytest.raises(ValueError, match="'y'"):
            net.loss(x, np.where(y > 0, y, bad))


def test_kl_divergence_is_0_at_its_target_and_cross_entropy_less_entropy(backend, rng):
    p, x = rng.dirichlet(np.ones(4), 9), np.eye(9)
    p[0] = [0, 0, 1, 0]
    net = Network(9, [Dense(4, use_bias=False)], loss="kl_divergence", dtype="float64", backend=backend)
    net.views()["w1"][...] = np.log(np.maximum(p, 1e-300))
    assert net.loss(x, p) == pytest.approx(0, abs=1e-15)
    twin = net.like(loss="softmax_cross_entropy")
    other = rng.dirichlet(np.ones(4), 9)
    net.views()["w1"][...] = twin.views()["w1"]
    entropy = -(other * np.log(other)).sum(axis=1).mean()
    assert net.loss(x, other) == pytest.approx(twin.loss(x, other) - entropy, rel=1e-12)
    np.testing.assert_allclose(net.loss_and_gradient(x, other)[1], twin.loss_and_gradient(x, other)[1], rtol=1e-12)


def test_cosine_similarity_of_directions(backend):
    """Lengths do not matter; a vector of length 0 has a finite loss and gradient."""
    y = np.array([[3.0, 4.0], [-30.0, -40.0], [8.0, -6.0], [0.0, 0.0], [1.0, 1.0]])
    z = np.array([[0.6, 0.8], [6.0, 8.0], [3.0, 4.0], [1.0, 2.0], [0.0, 0.0]])
    kernel = fastgd.kernels.cosine_similarity_loss
    losses, dz = np.empty(5), np.empty((5, 2))
    kernel.body(backend)(losses, dz, z, y, np.ones(5))
    np.testing.assert_allclose(losses, [0, 2, 1, 1, 1], atol=1e-15)
    assert np.isfinite(dz).all()
    np.testing.assert_allclose((dz * z).sum(axis=1), 0, atol=1e-15)
    with pytest.raises(ValueError, match="'layers'.*2 outputs for cosine_similarity"):
        Network(3, [Dense(1)], loss="cosine_similarity")
