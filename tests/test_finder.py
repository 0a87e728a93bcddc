import numpy as np
import pytest
from cases import OPTIMIZERS

import fastgd
from fastgd import Dense, Network


def test_the_range_test_leaves_the_network_alone(backend, small):
    network, x, y = small
    network = Network(5, network.layers, loss="softmax_cross_entropy", backend=backend)
    before, optimizer = network.parameters.copy(), fastgd.SGD(0.1, momentum=0.9)
    found = fastgd.find_learning_rate(network, x, y, optimizer=optimizer, batch_size=4, low=1e-5, high=1e3, steps=150)
    np.testing.assert_array_equal(network.parameters, before)
    assert optimizer.steps == 0
    n = len(found.loss)
    np.testing.assert_allclose(found.learning_rate, 1e-5 * 1e8 ** (np.arange(n) / 149), rtol=1e-12)
    averages = [found.loss[0]]
    for loss in found.loss[1:]:
        averages.append(0.9 * averages[-1] + 0.1 * loss)
    averages = np.array(averages)
    is_past = averages[15:] > 4 * np.minimum.accumulate(averages[15:])
    assert is_past.tolist() == [False] * (n - 16) + [True]  # a rate of 1000 is too much
    twin = Network(5, network.layers, loss="softmax_cross_entropy", backend=backend)
    tried = fastgd.SGD(lambda step: 1e-5 * 1e8 ** (step / 149), momentum=0.9)
    losses = [
        twin.train_step(xb, yb, tried)
        for epoch in range(5)
        for xb, yb in fastgd.minibatches(x, y, 4, epoch=epoch)
    ]  # fmt: skip
    np.testing.assert_array_equal(found.loss[:15], losses)
    weights = np.exp(-0.5 * ((np.arange(n) - 40) / (150 / 40)) ** 2)
    capped = np.minimum(found.loss, 4 * np.median(found.loss))
    assert found.smoothed[40] == pytest.approx((weights * capped).sum() / weights.sum(), rel=1e-9)
    least, at = found.smoothed.argmin(), list(found.learning_rate).index(found.suggestion)
    tenth = found.smoothed[least] + 0.1 * (found.smoothed[0] - found.smoothed[least])
    assert at < least
    assert found.smoothed[at] >= tenth > found.smoothed[at + 1 : least + 1].max()


@pytest.mark.parametrize("name", ["SGD", "momentum", "RMSProp", "Adam", "Lion"])
def test_the_suggestion_is_a_good_one(name, data):
    """After five epochs its loss is less than twice the least of all rates, a factor sqrt(10) apart; the losses at ten
    times the suggestion and at a hundredth of it are not."""
    X, y = data[0]
    network = Network(64, [Dense(64, "relu"), Dense(10)], loss="softmax_cross_entropy", seed=1)
    optimizer = OPTIMIZERS[name](0.1)
    tested = fastgd.find_learning_rate(network, X, y, optimizer=optimizer)
    rate, part = tested.suggestion, 0.3 if name == "Lion" else 1.0
    assert np.isclose(part * tested.learning_rate, rate, rtol=1e-12).any()
    rates = [rate, 10 * rate, rate / 100, *np.geomspace(1e-4, 1, 9).tolist()]
    found = fastgd.sweep(network, X, y, {"learning_rate": rates}, optimizer=optimizer, epochs=5)
    losses = [network.loss(X, y) for network in found.networks]
    assert losses[0] < 2 * min(losses)
    assert min(losses[1:3]) > 2 * min(losses)


def test_a_lucky_first_row_does_not_end_the_test(rng):
    """Losses of single rows differ by orders of magnitude."""
    network, x = Network(1, [Dense(1)], loss="mse"), rng.normal(size=(400, 1))
    y, rows = network.forward(x)[:, 0] + 3.0, np.arange(400.0)[:, None]
    first = int(next(iter(fastgd.minibatches(rows, y, 1)))[0][0, 0])
    y[first] -= 3.0 - 1e-3
    found = fastgd.find_learning_rate(network, x, y, batch_size=1, optimizer="SGD")
    assert found.loss[0] < 1e-5 < found.loss[1]
    assert len(found.loss) > 100


@pytest.mark.parametrize(
    ("options", "match"), [({"low": 0}, "'low'"), ({"high": 1e-7}, "'high'"), ({"steps": 3}, "'steps'"),
                           ({"optimizer": "Adma"}, "'optimizer'")],
)  # fmt: skip
def test_bad_range_tests(options, match, small):
    network, x, y = small
    with pytest.raises(ValueError, match=match):
        fastgd.find_learning_rate(network, x, y, **options)


def test_accumulated_updates_cover_the_whole_range(data):
    X, y = data[0]
    network = Network(64, [Dense(32, "relu"), Dense(10)], loss="softmax_cross_entropy")
    one = fastgd.find_learning_rate(network, X, y, batch_size=64, steps=100)
    four = fastgd.find_learning_rate(network, X, y, batch_size=16, steps=100, optimizer=fastgd.Adam(accumulate=4))
    assert len(set(four.learning_rate)) == len(four.learning_rate)
    assert one.suggestion / 4 < four.suggestion < 4 * one.suggestion


# ---- unreliable suggestions


def net_of(X, *, loss="softmax_cross_entropy", outputs=10, width=64, **options):
    return Network(X.shape[1], [Dense(width, "relu"), Dense(outputs)], loss=loss, **options)


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_a_trained_network_gives_a_warning(optimizer, data):
    X, y = data[0]
    network = net_of(X)
    network.fit(X, y, epochs=60)
    with pytest.warns(
        UserWarning, match=r"find_learning_rate: the loss has not fallen.*noise.*1e-06.*network.like"
    ) as caught:
        found = fastgd.find_learning_rate(network, X, y, optimizer=optimizer)
    assert found.suggestion == 1e-6
    capped, i = np.minimum(found.loss, 4 * np.median(found.loss)), np.arange(len(found.loss))
    least = found.smoothed.argmin()
    first, scatter = max(least // 2, 20), (capped - found.smoothed)[: max(least + 1, 20)].std()
    weights = np.exp(-0.5 * ((i - least) / 5) ** 2)
    noise = scatter * np.sqrt(1 / first + np.square(weights / weights.sum()).sum())
    figures = f"from {capped[:first].mean():.4g} to {found.smoothed[least]:.4g}, noise {noise:.2g}"
    assert figures in str(caught[0].message)
    assert fastgd.find_learning_rate(network.like(), X, y, optimizer=optimizer).suggestion > 1e-3


NOTHING_TO_LEARN = {
    "targets apart from X": lambda rng: (rng.normal(size=(500, 8)), rng.normal(size=500)),
    "zero loss": lambda rng: (rng.normal(size=(500, 8)), np.zeros(500)),
    "constant data": lambda rng: (np.ones((500, 8)), np.zeros(500)),
}


@pytest.mark.parametrize("batch_size", [32, None])
@pytest.mark.parametrize("case", NOTHING_TO_LEARN)
def test_nothing_to_learn_gives_a_warning(case, batch_size, rng):
    X, y = NOTHING_TO_LEARN[case](rng)
    if batch_size is None and y.any():
        y -= X @ np.linalg.lstsq(X, y)[0]  # a network could fit the noise of a sample
        y -= y.mean()
    network = Network(8, [Dense(1, weight_init="zeros")], loss="mse")
    with pytest.warns(UserWarning, match="has not fallen"):
        assert fastgd.find_learning_rate(network, X, y, batch_size=batch_size, low=1e-5).suggestion == 1e-5


def test_a_solved_regression_gives_a_warning(rng):
    X = rng.normal(size=(500, 8))
    y = X @ rng.normal(size=8) + 0.1 * rng.normal(size=500)
    network = Network(8, [Dense(1)], loss="mse")
    assert fastgd.find_learning_rate(network, X, y).suggestion > 1e-3
    network.fit(X, y, optimizer="SGD", epochs=100)
    with pytest.warns(UserWarning, match="has not fallen"):
        fastgd.find_learning_rate(network, X, y)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"low": 1e15, "high": 1e18, "optimizer": "SGD"}, "diverged at the lowest rates: try a low below 1e.15"),
        ({"low": 1e15, "high": 1e18, "optimizer": "SGD", "steps": 10}, "diverged at the lowest rates"),
        ({"low": 1e-6, "high": 1e-4}, "still falling at the highest rates: try a high above 0.0001"),
    ],
)
def test_ends_of_the_range_give_a_warning(options, match, data):
    X, y = data[0]
    with pytest.warns(UserWarning, match=match):
        fastgd.find_learning_rate(net_of(X), X, y, **options)


def problems(rng, X, y):
    """Yields (network, X, y) of the usual kinds."""
    A = rng.normal(size=(500, 8))
    smooth = np.sin(A @ rng.normal(size=8) / 3)
    yield net_of(X), X, y
    yield net_of(X, loss="binary_cross_entropy", outputs=1), X, (y == 3) * 1.0
    yield net_of(X, loss="mse", outputs=10), X, np.eye(10)[y]
    for loss in ("mse", "mae", "huber"):
        yield net_of(A, loss=loss, outputs=1, width=32), A, 3 * smooth
    yield net_of(A, loss="poisson", outputs=1, width=32), A, rng.poisson(np.exp(2 * smooth)) * 1.0
    yield net_of(A, outputs=2, width=32, l2=0.01), A, (smooth > 0).astype(int)
    layers = [Dense(32, "relu"), fastgd.BatchNorm(), fastgd.Dropout(0.3), Dense(32, "gelu"), Dense(10)]
    yield Network(64, layers, loss="softmax_cross_entropy"), X, y


@pytest.mark.parametrize("batch_size", [16, 64, None])
def test_networks_with_initial_values_give_none(batch_size, data, rng):
    for network, X, y in problems(rng, *data[0]):
        low, high = fastgd.find_learning_rate(network, X, y, batch_size=batch_size).learning_rate[[0, -1]]
        assert low == 1e-6 < high
