"""Draws the pictures of README from the digits and breast-cancer data: python docs/pictures.py [FOLDER]"""

import io
import pathlib
import sys

from PIL import Image
from sklearn.datasets import load_breast_cancer

import fastgd
from fastgd import SGD, Conv2D, Dense, Flatten, MaxPool2D, Network, plots
from fastgd.callbacks import every, trajectory
from fastgd.cli.datasets import digits

FOLDER = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
COLOURS = 128  # in a file: it looks the same with a third of the bytes


def save(figure, name):
    file = io.BytesIO()
    figure.savefig(file, dpi=100)
    Image.open(file).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(FOLDER / name, optimize=True)


def descents(X, y, held_out):
    """SGD with the whole batch, with minibatches and with single rows, each at a suitable rate."""
    histories = {}
    for name, batch_size, epochs, rate in (
        ("batch, rate 0.2", None, 400, 0.2),
        ("mini-batches of 32, rate 0.1", 32, 60, 0.1),
        ("stochastic, rate 0.01", 1, 20, 0.01),
    ):
        network = Network(64, [Dense(64, "relu"), Dense(10)], loss="softmax_cross_entropy")
        options = {"optimizer": SGD(rate), "batch_size": batch_size, "validation_data": held_out}
        histories[name] = network.fit(X, y, epochs=epochs, **options)
    return plots.compare(histories, title="Three ways of gradient descent on the digits")


def surface():
    """Logistic regression on one feature: the plane shows both of its parameters."""
    X, y = load_breast_cancer(return_X_y=True)
    X = (X[:, :1] - X[:, 0].mean()) / X[:, 0].std()
    network = Network(1, [Dense(1)], loss="binary_cross_entropy")
    network.parameters[:] = 2, 3
    path = trajectory(network)
    network.fit(X, y, optimizer=SGD(0.3, momentum=0.9), epochs=8, callbacks=every(1, path))
    title = "Logistic regression on breast cancer, SGD with momentum"
    return plots.loss_surface(network, X, y, path=path, title=title)


def of_images(X, y, held_out):
    """A convolutional network for the digits: its mistakes, what it looks at, its filters."""
    layers = [Conv2D(16, 3, "relu", padding="same"), MaxPool2D(2), Conv2D(32, 3, "relu"), Flatten(), Dense(10)]
    network = Network((8, 8, 1), layers, loss="softmax_cross_entropy")
    network.fit(X.reshape(-1, 8, 8), y, optimizer=fastgd.Adam(3e-3), epochs=6)
    X, y = held_out[0].reshape(-1, 8, 8), held_out[1]
    return {
        "misclassified": plots.plot_misclassified(network, X, y, most=8),
        "saliency": plots.plot_saliency(network, X[:8], y[:8]),
        "confusion": plots.plot_confusion(network, X, y),
        "filters": plots.plot_filters(network),
    }


if __name__ == "__main__":
    (X, y), held_out = digits()
    network = Network(64, [Dense(64, "relu"), Dense(10)], loss="softmax_cross_entropy")
    network.like().fit(X, y)  # warm-up: the first call takes longer
    save(fastgd.find_learning_rate(network, X, y).plot("Range test of Adam on the digits"), "range_test.png")
    save(descents(X, y, held_out), "descents.png")
    save(surface(), "surface.png")
    for name, figure in of_images(X, y, held_out).items():
        save(figure, f"{name}.png")
