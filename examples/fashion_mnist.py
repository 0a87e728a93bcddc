"""Which garment is it? LeNet-5 on Fashion-MNIST, in half a minute: python examples/fashion_mnist.py [FOLDER]

FOLDER, or the environment variable FASHION_MNIST, names a folder with the four IDX files, gzipped or not: 60,000 images
for training, 10,000 for the test (Xiao et al. 2017, arXiv:1708.07747; Debian's package dataset-fashion-mnist). Without
a folder scikit-learn's 1,797 handwritten digits take their place, and a fifth of them is the test.

The test images are used once, at the end. A guess that is always the most frequent class says what an accuracy is
worth, and the confusion matrix which classes are taken for each other."""

import os
import sys
import time

import numpy as np

import fastgd

GARMENTS = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
EPOCHS, BATCH, RATE = 6, 64, 4e-3


def fashion(folder):
    """Images (n, 28, 28, 1) and labels for training, the same for the test, and the names of the classes."""
    parts = [fastgd.images.read(folder, part=part) for part in ("train", "test")]
    return *((part.images, part.labels) for part in parts), GARMENTS


def digits():
    """scikit-learn's digits, with pixels three times as large and a margin: 28 x 28, as `fashion`."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.kron(images.reshape(-1, 8, 8), np.ones((3, 3)))
    images = np.pad(255 / 16 * images, ((0, 0), (2, 2), (2, 2)))[..., np.newaxis].astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = np.split(order, [len(images) * 4 // 5])
    return (images[train], labels[train]), (images[test], labels[test]), [str(digit) for digit in range(10)]


def trained(X, y, epochs=EPOCHS):
    """LeNet-5, trained at a rate that rises and falls; it takes bytes, which its first layer scales."""
    scaled = fastgd.Standardize.of(X[..., 0].reshape(-1, 1))  # one shift and one scale for all pixels
    net = fastgd.models.lenet5()
    net = net.like(layers=[scaled, *net.layers])
    schedule = fastgd.schedules.one_cycle(RATE, total_steps=epochs * -(-len(X) // BATCH))
    net.fit(X, y, optimizer=fastgd.AdamW(schedule), batch_size=BATCH, epochs=epochs, progress=sys.stderr.isatty())
    return net


def print_confusion(matrix, names):
    """A row for each true class, a column for each predicted one, and the share of the row that is right."""
    print(f"\n{'true':9}" + "".join(f"{name[:8]:>9}" for name in names) + f"{'right':>9}")
    for name, row in zip(names, matrix, strict=True):
        print(f"{name:9}" + "".join(f"{count:9.0f}" for count in row) + f"{row[names.index(name)] / row.sum():9.3f}")


def main(folder=None):
    if folder:
        (X, y), (X_test, y_test), names = fashion(folder)
    else:
        print("scikit-learn's digits; for garments, name the folder of Fashion-MNIST's files")
        (X, y), (X_test, y_test), names = digits()
    begin = time.perf_counter()
    net = trained(X, y)
    seconds, probabilities = time.perf_counter() - begin, net.predict(X_test)
    accuracy = fastgd.metrics.accuracy.value(y_test, probabilities)
    usual = np.bincount(y).argmax()
    always = np.mean(y_test == usual)
    print(f"{net.n_parameters:,} parameters, {len(X):,} images, {EPOCHS} epochs: {seconds:.1f} s")
    print(f"accuracy {accuracy:.3f} on {len(X_test):,} test images; always {names[usual]}: {always:.3f}")
    print_confusion(fastgd.metrics.confusion_matrix(y_test, probabilities), names)
    return accuracy, always


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("FASHION_MNIST"))
