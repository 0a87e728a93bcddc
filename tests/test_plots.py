import io

import numpy as np
import pytest
from cases import make

import fastgd
from fastgd import SGD, Adam, Dense, History, Network, plots
from fastgd.callbacks import every, trajectory
from fastgd.explore.surface import losses_over, plane_of


def lines(axes):
    """The lines drawn, by label in the legend: (x, y)."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


@pytest.fixture
def trained(rows):
    """A trained network and its trajectory."""
    network = make(seed=3)
    path = trajectory(network)
    network.fit(*rows, optimizer=Adam(0.02), batch_size=20, epochs=4, callbacks=[path, every(2, path)])
    return network, path


def test_every_picture_says_what_it_shows_and_can_be_saved(trained, rows, tmp_path):
    network, path = trained
    found = fastgd.find_learning_rate(network.like(), rows[0], (rows[0][:, 0] > 0).astype(int))
    sweep = fastgd.sweep(network, *rows, {"learning_rate": [0.01, 0.1], "seed": [0, 1]}, epochs=2)
    pictures = {
        "loss": plots.plot_loss(network.history, "A"),
        "rates": found.plot("A"),
        "descents": plots.compare({"one": network.history}, title="A"),
        "sweep": sweep.plot(title="A"),
        "surface": plots.loss_surface(network, *rows, path=path, resolution=5, title="A"),
        "histograms": plots.histograms(network, *rows, title="A"),
    }
    for name, figure in pictures.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert "A" in [figure.get_suptitle(), figure.axes[0].get_title()]
        assert all(axes.get_xlabel() for axes in figure.axes if axes.get_label() != "<colorbar>")
        assert figure.axes[0].get_ylabel()


# ---- curves


def test_plot_loss():
    figure = plots.plot_loss(History(loss=[2.0, 1.0], validation_loss=[2.5, 1.5], best_epoch=2))
    (axes,) = figure.axes
    drawn = lines(axes)
    assert drawn["training"] == ([1, 2], [2.0, 1.0])
    assert drawn["validation"] == ([1, 2], [2.5, 1.5])
    assert drawn["best epoch: 2"][0] == [2, 2]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "mean loss (log scale)")
    assert axes.get_yscale() == "log"


def test_losses_that_are_not_above_zero_and_none_at_all(tmp_path):
    for losses in ([1.0, 0.0, -1.0], []):
        (axes,) = plots.plot_loss(History(loss=losses)).axes
        assert (axes.get_yscale(), axes.get_ylabel()) == ("linear", "mean loss")
        axes.figure.savefig(tmp_path / "loss.png")


def test_plot_range_test(small):
    network, x, y = small
    found = fastgd.find_learning_rate(network, x, y, batch_size=None, steps=60)
    (axes,) = found.plot().axes
    drawn = lines(axes)
    rates = found.learning_rate.tolist()
    assert drawn["loss of a minibatch"] == (rates, found.loss.tolist())
    assert drawn["smoothed"] == (rates, found.smoothed.tolist())
    at = rates.index(found.suggestion)
    assert drawn[f"suggestion: {found.suggestion:.2g}"] == ([found.suggestion], [found.smoothed[at]])
    assert axes.get_xscale() == "log"
    loss = np.geomspace(2.0, 1.0, 101)
    for odd, low in (
        (0.5, 0.5),
        (3.0, 0.9),
    ):  # the axis covers the smoothed loss, and all but the smallest 2 % of the raw losses
        loss[:3] = odd
        found = fastgd.RangeTest(np.geomspace(1e-3, 1, 101), loss, np.geomspace(1.9, 0.9, 101), 0.1)
        (axes,) = found.plot().axes
        assert axes.get_ylim() == pytest.approx((low / 1.5, 1.9 * 1.5), rel=1e-9)


def test_descents_side_by_side(rows):
    """Against epochs, rows and seconds."""
    histories = {}
    for name, batch_size, epochs in (("batch", None, 4), ("mini-batch", 10, 3), ("stochastic", 1, 2)):
        histories[name] = make().fit(*rows, batch_size=batch_size, epochs=epochs, metrics="accuracy")
    histories["stochastic"].validation_loss = [1.0, 2.0]
    figure = plots.compare(histories)
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "epochs (log scale)", "rows trained on (log scale)", "seconds (log scale)",
    ]  # fmt: skip
    for name, history in histories.items():
        x_values = range(1, len(history.loss) + 1), [100 * i for i in range(1, len(history.loss) + 1)], history.seconds
        for axes, x in zip(figure.axes, x_values, strict=True):
            assert lines(axes)[name] == (list(x), history.loss)
    styles = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in figure.axes[0].lines]
    assert all(len(set(column)) == 3 for column in zip(*styles, strict=True))
    assert figure.legends[0].texts[2].get_text() == "stochastic"
    of_metric = plots.compare(histories, "accuracy")
    assert lines(of_metric.axes[1])["batch"][1] == histories["batch"].metrics["accuracy"]
    assert of_metric.axes[1].get_yscale() == "linear"
    for bad, error, match in (({}, TypeError, "'histories'.*dict"), ([histories["batch"]], TypeError, "'histories'"),
                              ({"a": 3}, TypeError, r"histories\['a'\].*3"),
                              ({"a": History()}, TypeError, r"histories\['a'\].*at least 1 epoch")):  # fmt: skip
        with pytest.raises(error, match=match):
            plots.compare(bad)
    with pytest.raises(ValueError, match="'column'.*'validation_loss'"):  # only one history has it
        plots.compare(histories, "validation_loss")


def test_plot_sweep(rows):
    grid = {"optimizer": ["SGD", SGD(momentum=0.9)], "learning_rate": [0.01, 0.1, 1e30], "seed": [0, 1, 2]}
    found = fastgd.sweep(make(), *rows, grid, epochs=2)
    (axes,) = found.plot().axes
    drawn, losses = lines(axes), np.array(found.columns["loss"]).reshape(2, 3, 3)
    assert np.isnan(losses[:, 2]).all()
    for i, name in enumerate(("SGD", "SGD(momentum=0.9)")):
        assert drawn[name] == ([0.01, 0.1], np.median(losses[i, :2], axis=1).tolist())
    points = [line.get_ydata() for line in axes.lines if line.get_linestyle() == "None"]
    assert np.sort(points, axis=1) == pytest.approx(np.sort(losses[:, :2].reshape(2, 6), axis=1))
    assert axes.get_ylabel() == "loss (log scale)"
    (axes,) = found.plot("optimizer").axes  # by name, as points
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["SGD", "SGD(momentum=0.9)"]
    assert lines(axes)["learning_rate 0.01"] == ([0, 1], np.median(losses[:, 0], axis=1).tolist())
    with pytest.raises(ValueError, match="'x'.*'learning_rate'.*'momentum'"):
        found.plot("momentum")
    without = fastgd.sweep(make(), *rows, {"seed": [0, 1], "batch_size": [10, 50]}, epochs=1)
    assert without.plot().axes[0].get_xlabel() == "batch size (log scale)"
    with pytest.raises(ValueError, match="'column'"):
        found.plot(column="accuracy")


# ---- the loss over planes


def test_a_trajectory_is_the_way_of_the_parameters(trained, rows):
    network, path = trained
    assert path.steps == [0, 2, 4, 5, 6, 8, 10, 12, 14, 15, 16, 18, 20]
    twin, optimizer = make(seed=3), Adam(0.02)
    points = [twin.parameters.copy()]
    for epoch in range(4):
        for xb, yb in fastgd.minibatches(*rows, 20, seed=3, epoch=epoch):
            twin.train_step(xb, yb, optimizer)
            points.append(twin.parameters.copy())
    np.testing.assert_array_equal(path.parameters, np.array(points)[path.steps])
    network.fit(*rows, epochs=1, callbacks=[path, every(2, path), every(4, path)])
    assert path.steps[-3:] == [20, 22, 24]
    np.testing.assert_array_equal(path.parameters[-1], network.parameters)
    with pytest.raises(ValueError, match="'network'.*another"):
        make().fit(*rows, epochs=1, callbacks=[path])


@pytest.mark.parametrize("directions", ["pca", "random", "own"])
def test_the_path_lies_on_the_plane(directions, trained, rows):
    """The picture shows all of the path, projected onto the plane; on the plane the loss is the network's."""
    network, path = trained
    before = network.parameters.copy()
    own = directions == "own"
    if own:
        directions = path.parameters[0] - path.parameters[-1], path.parameters[2] - path.parameters[-1]
    figure = plots.loss_surface(network, *rows, path=path, directions=directions, resolution=5)
    np.testing.assert_array_equal(network.parameters, before)
    plane = plane_of(network, path, directions)
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == plane.names
    np.testing.assert_allclose(np.array(lines(axes)["path"]).T, plane.path)
    for i, interval in enumerate((axes.get_xlim(), axes.get_ylim())):
        assert interval == pytest.approx(plane.reach[i])
        assert (interval[0] < plane.path[:, i]).all()
        assert (plane.path[:, i] < interval[1]).all()
    left = path.parameters - np.array([plane.point(*point) for point in plane.path])
    for direction in (plane.first, plane.second):  # the residual is orthogonal to the plane
        assert np.abs(left @ direction).max() < 1e-6 * np.linalg.norm(direction)
    assert np.abs(left[-1]).max() < 1e-12
    if own:
        assert plane.path[[0, 2, -1]] == pytest.approx(np.array([[1, 0], [0, 1], [0, 0]]), abs=1e-7)
    a, b, losses = losses_over(network, *rows, plane, 7)
    twin = make()
    twin.parameters[:] = plane.point(a[5], b[2])
    assert losses[2, 5] == twin.loss(*rows)
    assert losses[5, 2] != losses[2, 5]


def test_principal_directions(trained):
    network, path = trained
    plane = plane_of(network, path)
    values, vectors = np.linalg.eigh(np.cov(path.parameters.T.astype(np.float64)))
    assert abs(plane.first @ vectors[:, -1]) == pytest.approx(1, abs=1e-6)
    assert abs(plane.second @ vectors[:, -2]) == pytest.approx(1, abs=1e-6)
    assert f"{values[-1] / values.sum():.0%}" in plane.names[0]


def test_random_directions_are_as_long_as_the_weights(trained):
    network, _ = trained
    plane = plane_of(network)
    for direction in (plane.first, plane.second):
        parts = network.views(direction)
        for name, weights in network.views().items():
            if name[0] == "w":
                lengths = np.linalg.norm(weights, axis=0)
                np.testing.assert_allclose(np.linalg.norm(parts[name], axis=0), lengths, rtol=1e-6)
            else:
                assert not parts[name].any()
    assert plane.reach == ((-1, 1), (-1, 1))
    assert (plane_of(network, seed=1).first != plane.first).any()


def test_the_plane_of_two_parameters(rng):
    x = rng.normal(size=(50, 1))
    network = Network(1, [Dense(1)], loss="mse", dtype="float64")
    path = trajectory(network)
    y = 2 * x[:, 0] + 1
    network.fit(x, y, optimizer=SGD(0.1), epochs=5, callbacks=path)
    figure = plots.loss_surface(network, x, y, path=path, resolution=9)
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("w1", "b1")
    np.testing.assert_allclose(np.array(lines(axes)["path"]).T, path.parameters, rtol=1e-12)
    plane = plane_of(network, path)
    a, b, losses = losses_over(network, x, y, plane, 9)
    expected = ((a[None, :, None] * x[:, 0] + b[:, None, None] - y) ** 2).mean(axis=2)
    np.testing.assert_allclose(losses, expected, rtol=1e-10)
    for scale in (1.0, 1e-3):  # margins of a quarter; the shorter axis reaches at least half as far as the longer
        points = scale * np.array([[0.0, 0.0], [4.0, 0.4], [2.0, 0.8]])
        expected = scale * np.array([[2.0 - 3.0, 2.0 + 3.0], [0.4 - 1.5, 0.4 + 1.5]])
        np.testing.assert_allclose(plane_of(network, points).reach, expected, rtol=1e-9)
    np.testing.assert_allclose(plane_of(network, points[1:2]).reach, [[-0.996, 1.004], [-0.9996, 1.0004]])


def test_several_paths_on_one_surface(trained, rows):
    """The plane is of all their points, and goes through the mean of their ends."""
    network, path = trained
    points = np.random.default_rng(0).normal(size=(4, 83)) + path.parameters[-1]
    both = {"Adam": path, "a $ b": points}
    plane = plane_of(network, both)
    everything = np.concatenate([path.parameters, points])
    _, vectors = np.linalg.eigh(np.cov(everything.T.astype(np.float64)))
    assert abs(plane.first @ vectors[:, -1]) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(plane.centre, (path.parameters[-1].astype(np.float64) + points[-1]) / 2, rtol=1e-12)
    assert list(plane.paths) == list(both)
    np.testing.assert_array_equal(np.concatenate(list(plane.paths.values())), plane.path)
    axes = plots.loss_surface(network, *rows, path=both, resolution=3).axes[0]
    for label, one in plane.paths.items():
        np.testing.assert_allclose(np.array(lines(axes)[label]).T, one)
        assert (one.min(axis=0) > [plane.reach[0][0], plane.reach[1][0]]).all()
        assert (one.max(axis=0) < [plane.reach[0][1], plane.reach[1][1]]).all()
    texts = axes.get_legend().get_texts()
    assert [text.get_text() for text in texts] == ["Adam", "a $ b", "start", "end"]
    assert not any(text.get_parse_math() for text in texts)
    colours = [line.get_color() for line in axes.get_lines() if line.get_label() in both]
    assert len(set(colours)) == 2
    assert list(plane_of(network, path).paths) == ["path"]
    assert plane_of(network).paths == {}


def test_a_failure_leaves_the_network_as_it_is(trained, rows, monkeypatch):
    network, path = trained
    before = network.parameters.copy()
    monkeypatch.setattr(Network, "loss", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plots.loss_surface(network, *rows, path=path)
    np.testing.assert_array_equal(network.parameters, before)


BAD_PLANES = {
    "path": ({"path": np.zeros((3, 4))}, "'path'.*trajectory"),
    "no paths": ({"path": {}}, "'path'.*a dict of paths.*got {}"),
    "second path": ({"path": {"a": np.zeros((3, 83)), "b": np.zeros((3, 4))}}, r"path\['b'\].*trajectory"),
    "too short": ({"directions": "pca", "path": np.zeros((2, 83))}, "'path'.*at least 3 points"),
    "no path": ({"directions": "pca"}, "'path'.*at least 3 points.*None"),
    "line": ({"directions": "pca", "path": np.linspace(0, 1, 5)[:, None] * np.ones(83)}, "'path'.*not a straight line"),
    "NaN": ({"path": np.full((5, 83), np.nan)}, "'path'.*finite"),
    "seed": ({"seed": -1}, "'seed'.*-1"),
    "two": ({"directions": "parameters"}, "'directions'.*more than two"),
    "name": ({"directions": "rando"}, "'directions'.*did you mean 'random'"),
    "parallel": ({"directions": (np.ones(83), np.ones(83))}, "'directions'.*not along one line"),
    "length": ({"directions": (np.ones(83), np.ones(3))}, "'directions'.*83 numbers"),
    "one": ({"directions": [np.ones(83)]}, "'directions'.*two arrays"),
    "resolution": ({"resolution": 1}, "'resolution'"),
    "network": ({"network": 3}, "'network'"),
}


@pytest.mark.parametrize("case", BAD_PLANES)
def test_bad_planes(case, rows):
    change, match = BAD_PLANES[case]
    with pytest.raises((TypeError, ValueError), match=match):
        plots.loss_surface(**{"network": make(), "X": rows[0], "y": rows[1], **change})


def test_a_straight_path_is_drawn_in_random_directions(rows):
    network = make()
    for path in (np.zeros((5, 83)), np.linspace(0, 1, 5)[:, None] * np.ones(83)):
        figure = plots.loss_surface(network, *rows, path=path, resolution=3)
        assert figure.axes[0].get_xlabel().startswith("random direction 1")


# ---- histograms


def test_histograms(trained, rows):
    network, _ = trained
    before = network.parameters.copy(), network.gradient.copy()
    figure = plots.histograms(network, *rows)
    np.testing.assert_array_equal([network.parameters, network.gradient], before)
    _, gradient = network.loss_and_gradient(*rows)
    drawn = {(axes.get_title().split()[0], axes.get_xlabel()): axes for axes in figure.axes}
    assert list(drawn) == [(name + layer, what) for layer in "12" for what in ("value", "gradient") for name in "wb"]
    for what, views in (("value", network.views()), ("gradient", network.views(gradient))):
        for name, values in views.items():
            bars = drawn[name, what].patches
            counts, edges = np.histogram(values, len(bars))
            assert [bar.get_height() for bar in bars] == counts.tolist()
            assert bars[0].get_x() == pytest.approx(edges[0], rel=1e-5)
    assert len(plots.histograms(network).axes) == 4
    layers = [fastgd.LayerNorm(), fastgd.Dense(5), fastgd.BatchNorm("relu"), fastgd.Dense(3)]
    mixed = fastgd.Network(6, layers, loss="mse")
    titles = [axes.get_title().split()[0] for axes in plots.histograms(mixed).axes if axes.get_visible()]
    assert titles == ["gamma1", "beta1", "w2", "b2", "gamma3", "beta3", "w4", "b4"]
    for scale, title in ((0.0, "sd 0"), (1e30, "sd"), (np.inf, "not finite"), (np.nan, "not finite")):
        network.parameters[:] = scale
        figure = plots.histograms(network)
        figure.savefig(io.BytesIO())
        assert title in figure.axes[0].get_title()
    with pytest.raises(ValueError, match="'y'"):
        plots.histograms(network, rows[0])


def test_surface_with_batch_norm(rows):
    """At each point the loss uses the mean and variance of X there, not the final running statistics."""
    layers = [fastgd.Dense(5), fastgd.BatchNorm("relu"), fastgd.Dropout(0.5), fastgd.Dense(3)]
    network = fastgd.Network(6, layers, loss="softmax_cross_entropy", dtype="float64")
    path = fastgd.callbacks.trajectory(network)
    network.fit(*rows, optimizer=fastgd.Adam(0.05), epochs=20, callbacks=[path])
    before = network.state.copy()
    plane = plane_of(network, path)
    a, b, losses = losses_over(network, *rows, plane, 5)
    np.testing.assert_array_equal(network.state, before)
    x, y = rows
    parts = network.views(plane.point(a[1], b[3]))
    z = x @ parts["w1"] + parts["b1"]
    normal = (z - z.mean(axis=0)) / np.sqrt(z.var(axis=0) + 1e-5)
    out = np.maximum(parts["gamma2"] * normal + parts["beta2"], 0) @ parts["w4"] + parts["b4"]
    expected = np.mean(np.log(np.exp(out).sum(axis=1)) - out[np.arange(len(y)), y])
    assert losses[3, 1] == pytest.approx(expected, rel=1e-6)


def test_metrics_have_axes_of_their_own(data):
    (X, y), (X_test, y_test) = data
    history = fastgd.Network(64, [fastgd.Dense(10)], loss="softmax_cross_entropy").fit(
        X, y, epochs=3, validation_data=(X_test, y_test), metrics=["accuracy", "f1", "auc"], restore_best=True
    )
    figure = history.plot("Digits")
    loss, *panels, empty, last = figure.axes
    assert [axes.get_title() for axes in (loss, *panels)] == ["Loss", "accuracy", "f1", "auc"]
    for name, panel in zip(("accuracy", "f1", "auc"), panels, strict=True):
        drawn = lines(panel)
        assert list(drawn["validation"][1]) == history.metrics[f"validation_{name}"]
        assert f"best epoch: {history.best_epoch}" in drawn
    assert not empty.axison
    assert not last.axison
    assert figure.get_suptitle() == "Digits"
    assert len(history.plot(samples={1: "a"}).axes) == 1
    of_training = fastgd.Network(64, [fastgd.Dense(10)], loss="softmax_cross_entropy").fit(X, y, epochs=1, metrics="f1")
    assert list(lines(of_training.plot().axes[1])["training"][1]) == of_training.metrics["f1"]
    with pytest.raises(TypeError, match="'history'"):
        plots.plot_history(3)


def test_names_are_not_formulas(rows, tmp_path):
    """A dollar sign does not begin one, in titles, labels and legends."""
    metric = fastgd.metrics.own(lambda y, prediction: 1.0, name="$\\frac$ a$")
    history = make().fit(*rows, epochs=2, metrics=metric)
    figures = [history.plot("$\\frac$ b$"), plots.plot_loss(history, "$\\frac$ b$"),
               plots.compare({"$\\frac$ c$": history}, metric.name, title="$\\frac$ b$"),
               plots.loss_surface(make(), *rows, resolution=3, title="$\\frac$ b$"),
               plots.histograms(make(), title="$\\frac$ b$")]  # fmt: skip
    for i, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{i}.png", dpi=20)
