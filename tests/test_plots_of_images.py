"""Pictures of classifiers of images: what they draw, their captions, errors."""

import dataclasses
import io
import warnings

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

import fastgd
from fastgd import BatchNorm, Conv2D, Dense, Dropout, Flatten, Network, plots

X = np.random.default_rng(0).integers(0, 256, (20, 2, 3, 1), dtype=np.uint8)


def brightest(scale=0.05, shape=(2, 3, 1)):
    """A network that says which of six pixels is the brightest."""
    layers = [Flatten(), Dense(6, weight_init=scale * np.eye(6))]
    return Network(shape, layers, loss="softmax_cross_entropy")


def convolutional(channels=1, **options):
    layers = [Conv2D(5, 2, "tanh"), BatchNorm(), Flatten(), Dropout(0.5), Dense(4)]
    return Network((4, 5, channels), layers, loss="softmax_cross_entropy", dtype="float64", **options)


def panels(figure):
    """(title, drawn array) of each image."""
    return [(axes.get_title(), np.asarray(axes.images[0].get_array())) for axes in figure.axes if axes.images]


def test_misclassified():
    """The most confident mistake first, with both probabilities; bytes from black to white."""
    net, truth = brightest(), X.reshape(20, 6).argmax(axis=1)
    y = truth.copy()
    y[[3, 7, 11]] = (truth[[3, 7, 11]] + 1) % 6
    found = net.predict(X)
    order = sorted((3, 7, 11), key=lambda i: -found[i].max())
    figure = plots.plot_misclassified(net, X, y, list("abcdef"))
    assert figure.get_suptitle() == "Misclassified: 3 of 20"
    for i, (title, image) in zip(order, panels(figure), strict=True):
        guess, true = ("abcdef"[k] for k in (truth[i], y[i]))
        assert title == f"{guess}, {found[i].max():.0%}\ntrue: {true}, {found[i, y[i]]:.0%}"
        np.testing.assert_allclose(image, X[i, ..., 0] / 255)
    first = plots.plot_misclassified(net, X, y, most=1, title="A")
    assert first.get_suptitle() == "A: 3 of 20 (the first 1)"
    assert [title[0] for title, _ in panels(first)] == [str(truth[order[0]])]
    none = plots.plot_misclassified(net, X, truth)
    assert (none.get_suptitle(), panels(none)) == ("Misclassified: 0 of 20", [])
    flat = plots.plot_misclassified(brightest(shape=6), X.reshape(20, 6), y, image_shape=(2, 3))
    for one, other in zip(panels(flat), panels(figure), strict=True):
        np.testing.assert_array_equal(one[1], other[1])


@pytest.fixture
def pictures(tmp_path):
    """Images of a folder with a folder for each class; the last two are in the wrong one."""
    rows = X[np.argsort(X.reshape(20, 6).argmax(axis=1), kind="stable"), ..., 0]
    for i, image in enumerate(rows):
        k = image.argmax() if i < 18 else (image.argmax() + 1) % 6
        folder = tmp_path / "data" / f"pixel {k}"
        folder.mkdir(parents=True, exist_ok=True)
        name = "a name that is too long to be shown.png" if i == 19 else f"{i}.png"
        Image.fromarray(image).save(folder / name)
    return fastgd.images.read(tmp_path / "data")


def test_images_bring_labels_names_of_classes_and_of_files(pictures):
    net = brightest()
    expected = plots.plot_misclassified(net, pictures.images, pictures.labels, pictures.classes)
    assert "pixel" in panels(expected)[0][0]
    figure = plots.plot_misclassified(net, pictures)
    names = {title.split("\n")[2] for title, _ in panels(figure)}
    assert names == {"18.png", "… long to be shown.png"}
    for (one, image), (other, same) in zip(panels(figure), panels(expected), strict=True):
        assert one.rsplit("\n", 1)[0] == other
        np.testing.assert_array_equal(image, same)
    without = dataclasses.replace(pictures, paths=None, _pixels=pictures.images)
    assert [title for title, _ in panels(plots.plot_misclassified(net, without))] == [t for t, _ in panels(expected)]
    assert plots.plot_confusion(net, pictures).axes[0].get_yticklabels()[0].get_text() == "pixel 0"
    assert "pixel" in panels(plots.plot_saliency(net, pictures))[0][0]
    with pytest.raises(TypeError, match="'y': expected labels, unless X is images with labels"):
        plots.plot_misclassified(net, pictures.images)
    with pytest.raises(TypeError, match="'y': expected labels"):
        plots.plot_confusion(net, dataclasses.replace(pictures, labels=None))


def test_names_of_classes_are_those_of_the_preprocessing(pictures):
    net = brightest()
    net.preprocessing = pictures.preprocessing
    drawn = plots.plot_misclassified(net, pictures.images, pictures.labels)
    assert all(title.startswith("pixel") for title, _ in panels(drawn))
    other = dataclasses.replace(pictures, classes=tuple("abcdef"))
    with pytest.raises(ValueError, match=r"'X': expected images with the classes \['pixel 0'.*got \['a', 'b'"):
        plots.plot_misclassified(net, other)
    assert panels(plots.plot_misclassified(net, pictures, class_names=list("abcdef")))[0][0][0] in "abcdef"
    table = pa.table({"a": np.arange(6.0), "kind": ["no", "yes"] * 3})
    of_table = Network(1, [Dense(2)], loss="softmax_cross_entropy")
    of_table.preprocessing = fastgd.tables.Preprocessing.of(table, "kind")
    figure = plots.plot_confusion(of_table, np.arange(6.0)[:, None], [0, 1] * 3)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["no", "yes"]


def test_names_are_shown_as_they_are():
    """Signs of formulas and lines are text; long names keep beginning and end."""
    names = ["$\\frac$", "a\nb", "a name that is long 1", 5, "$\\frac$", "$\\frac$"]
    y = np.argsort(X.reshape(20, 6), axis=1)[:, 0]
    for figure in (
        plots.plot_misclassified(brightest(), X, y, names, most=6),
        plots.plot_confusion(brightest(), X, y, names),
        plots.plot_saliency(brightest(), X, y, names, most=2),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure.savefig(io.BytesIO(), dpi=30)
    titles = "".join(title for title, _ in panels(plots.plot_saliency(brightest(), X, y, names, most=20)))
    assert "a name … long 1, " in titles
    assert "a b, " in titles


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_filters(channels):
    net = convolutional(channels)
    figure = plots.plot_filters(net)
    assert figure.get_suptitle() == f"Filters of layer 1: 5 of 2 x 2 x {channels}"
    drawn = [(title, image) for title, image in panels(figure) if title]
    w = net.views()["w1"]
    assert [title for title, _ in drawn] == list("01234")
    for i, (_, image) in enumerate(drawn):
        if channels == 3:
            np.testing.assert_allclose(image, 0.5 + 0.5 * w[..., i] / np.abs(w[..., i]).max(), atol=1e-9)
        elif channels == 1:
            np.testing.assert_array_equal(image, w[:, :, 0, i])
        else:
            np.testing.assert_array_equal(np.delete(image, 2, axis=1), np.hstack([w[:, :, 0, i], w[:, :, 1, i]]))
    assert len([title for title, _ in panels(plots.plot_filters(net, most=2)) if title]) == 2
    net.parameters[:] = 0.0 if channels > 1 else np.nan
    plots.plot_filters(net).savefig(io.BytesIO(), dpi=30)


def test_confusion():
    net, y = brightest(), np.arange(20) % 5  # class 5 has no rows
    counts = confusion_matrix(y, net.predict(X).argmax(axis=1), labels=range(6))
    figure = plots.plot_confusion(net, X, y)
    axes = figure.axes[0]
    assert axes.get_title() == f"Confusion matrix: {np.trace(counts) / 20:.2%} right"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    texts = {text.get_position(): int(text.get_text()) for text in axes.texts}
    assert texts == {(j, i): counts[i, j] for i, j in np.argwhere(counts)}
    assert texts != {(i, j): counts[i, j] for i, j in np.argwhere(counts)}
    np.testing.assert_allclose(panels(figure)[0][1], counts / np.maximum(1, counts.sum(axis=1))[:, None])
    many = Network(3, [Dense(100)], loss="softmax_cross_entropy")
    figure = plots.plot_confusion(many, np.ones((4, 3)), [0, 1, 2, 99])
    figure.savefig(io.BytesIO(), dpi=30)
    assert not figure.axes[0].texts
    assert len(figure.axes[0].get_xticks()) <= 40


def test_saliency(rng):
    """The magnitude of the derivative of the class's raw output, the greatest over the channels."""
    net = convolutional(2, l2=0.1)
    net.statistics["mean2"][:] = rng.normal(size=5)
    x = rng.normal(size=(3, 4, 5, 2))
    net.forward(x, record=True)
    state, gradient, of_parameters = net.state.copy(), net.backward(np.ones((3, 4))), net.gradient.copy()
    y = (net.forward(x).argmax(axis=1) + 1) % 4
    for labels in (None, y):
        classes = net.forward(x).argmax(axis=1) if labels is None else labels
        expected = np.empty(x.shape)
        for pixel in np.ndindex(x.shape[1:]):
            step = np.zeros(x.shape[1:])
            step[pixel] = 1e-6
            change = net.forward(x + step) - net.forward(x - step)
            expected[:, *pixel] = change[np.arange(3), classes] / 2e-6
        net.forward(x, record=True)
        drawn = panels(plots.plot_saliency(net, x, labels))
        for i in range(3):
            np.testing.assert_allclose(drawn[3 + i][1], np.abs(expected[i]).max(axis=2), rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(net.gradient, of_parameters)
        np.testing.assert_array_equal(net.backward(np.ones((3, 4))), gradient)
    np.testing.assert_array_equal(net.state, state)
    assert len(panels(plots.plot_saliency(net, np.tile(x, (5, 1, 1, 1)), most=11))) == 22


def test_images_of_all_kinds(rng):
    for channels in (1, 3, 4):
        net = convolutional(channels)
        for x in (
            rng.normal(size=(4, 4, 5, channels)), np.zeros((4, 4, 5, channels), bool),
            np.full((4, 4, 5, channels), -3, np.int8), rng.integers(0, 2**16, (4, 4, 5, channels), dtype=np.uint16),
        ):  # fmt: skip
            y = (net.predict(x).argmax(axis=1) + 1) % 4
            image = panels(plots.plot_misclassified(net, x, y, most=1))[0][1]
            assert image.shape == ((4, 5, 3) if channels == 3 else (4, 5))
            assert (image >= 0).all()
            assert (image <= 1).all()
    thin = Network((1, 300), [Flatten(), Dense(3)], loss="softmax_cross_entropy")
    plots.plot_saliency(thin, rng.normal(size=(2, 1, 300))).savefig(io.BytesIO(), dpi=30)


Y = np.zeros(20, int)
WRONG = {
    "network": (lambda: plots.plot_misclassified(3, X, Y), "'network'.*got 3"),
    "loss": (lambda: plots.plot_confusion(brightest().like(loss="mse"), X, Y), "'network'.*softmax_cross_entropy"),
    "X": (lambda: plots.plot_saliency(brightest(), X[:, :1]), "'X'.*rows of shape"),
    "no rows": (lambda: plots.plot_saliency(brightest(), X[:0]), "'X'.*at least 1 row"),
    "NaN": (lambda: plots.plot_saliency(brightest(), np.where(X > 9, np.nan, 1.0)), "'X'.*finite"),
    "labels": (lambda: plots.plot_misclassified(brightest(), X, Y + 6), "'y'.*6"),
    "length": (lambda: plots.plot_confusion(brightest(), X, Y[:3]), "'y'"),
    "names": (lambda: plots.plot_confusion(brightest(), X, Y, ["a", "b"]), "'class_names'.*6 classes"),
    "a text": (lambda: plots.plot_confusion(brightest(), X, Y, "abcdef"), "'class_names'"),
    "dict": (lambda: plots.plot_confusion(brightest(), X, Y, dict.fromkeys(range(6), "a")), "'class_names'"),
    "most": (lambda: plots.plot_misclassified(brightest(), X, Y, most=0), "'most'"),
    "shape": (lambda: plots.plot_misclassified(brightest(shape=6), X.reshape(20, 6), Y), "'image_shape'.*None"),
    "size": (lambda: plots.plot_saliency(brightest(shape=6), X.reshape(20, 6), image_shape=(2, 2)), "'image_shape'.*6"),
    "filters": (lambda: plots.plot_filters(brightest()), "'network'.*Conv2D"),
    "no network": (lambda: plots.plot_filters(None), "'network'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors(case):
    call, match = WRONG[case]
    with pytest.raises((TypeError, ValueError), match=match):
        call()


def test_they_are_in_plots():
    assert {"plot_confusion", "plot_filters", "plot_misclassified", "plot_saliency"} < set(fastgd.plots.__all__)
