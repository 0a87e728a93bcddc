"""The command line: `fastgd train digits`."""

import argparse
import math
import os
import sys
import time

import numpy as np

from .config import __version__
from .data import check_batch_size
from .errors import choose, value_error
from .kernel import BACKENDS
from .layers import Dense
from .losses import softmax_cross_entropy
from .network import Network
from .optimizers import OPTIMIZERS
from .schedules import cosine
from .selfcheck import run as selfcheck

EXAMPLES = """examples:
  fastgd train digits
  fastgd train digits --backend numba --hidden 128,64 --epochs 40 --save model.safetensors
  fastgd selfcheck
"""


def digits():
    """The handwritten digits of scikit-learn, 1,797 images of 8 x 8 pixels, scaled to [0, 1]: training and test
    rows (every fifth image), X and y each."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come from scikit-learn: pip install 'fastgd[sklearn]'") from error
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    test = np.arange(len(X)) % 5 == 4
    return (X[~test], y[~test]), (X[test], y[test])


DATASETS = {"digits": digits}


def train(arguments):
    """`fastgd train`: trains on a data set, prints loss and test accuracy, saves the model and the loss curve."""
    for option, path in (("--save", arguments.save), ("--plot", arguments.plot)):
        if not path and option == "--plot":
            continue
        if not path or os.path.isdir(path) or not os.path.isdir(os.path.dirname(path) or "."):
            raise value_error(option, "a file in a folder that exists", repr(path))
    if arguments.plot:  # a missing extra or an unknown kind of picture shows before the training
        from .plots import check_picture, plot_loss

        check_picture("--plot", arguments.plot)
    (X, y), (X_test, y_test) = choose("DATA", arguments.data, DATASETS)()
    hidden = [Dense(units, arguments.activation, weight_init="he_uniform") for units in arguments.hidden]
    network = Network(
        X.shape[1],
        [*hidden, Dense(int(y.max()) + 1)],
        loss=softmax_cross_entropy(label_smoothing=arguments.label_smoothing),
        seed=arguments.seed,
        backend=arguments.backend,
    )
    batch_size = check_batch_size(arguments.batch_size, len(X))
    total_steps = max(1, arguments.epochs * math.ceil(len(X) / batch_size))
    learning_rate = cosine(arguments.learning_rate, total_steps=total_steps)
    optimizer = choose("--optimizer", arguments.optimizer, OPTIMIZERS)(learning_rate)
    print(f"{network}\n{len(X)} training rows, {len(X_test)} test rows, {optimizer}")
    start = time.perf_counter()
    history = network.fit(
        X,
        y,
        optimizer=optimizer,
        batch_size=batch_size,
        epochs=arguments.epochs,
        validation_data=(X_test, y_test),
        progress=True,
    )
    seconds = time.perf_counter() - start
    accuracy = float((network.predict(X_test).argmax(axis=1) == y_test).mean())
    print(f"{history.steps} steps in {seconds:.2f} s")
    if history.loss:
        print(f"training loss {history.loss[-1]:.4f}, test loss {history.validation_loss[-1]:.4f}")
    print(f"test accuracy {accuracy:.4f}")
    network.save(arguments.save, optimizer=optimizer)
    print(f"model saved to {arguments.save}")
    if arguments.plot:
        plot_loss(history, f"Loss on {arguments.data}").savefig(arguments.plot, dpi=150)
        print(f"loss curve saved to {arguments.plot}")


def _hidden(text):
    try:
        return [int(units) for units in text.split(",") if units]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers such as 128,64, got {text!r}") from None


def parser():
    top = argparse.ArgumentParser(
        prog="fastgd",
        description="Trains neural networks by gradient descent on CPUs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"fastgd {__version__}")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(dest="command", required=True)
    show = argparse.ArgumentDefaultsHelpFormatter
    one = commands.add_parser("train", help="train a network on a data set", formatter_class=show)
    one.add_argument("data", metavar="DATA", help=f"one of: {', '.join(DATASETS)}")
    one.add_argument("--hidden", type=_hidden, default="128,64", metavar="N,N", help="units of the hidden layers")
    one.add_argument("--activation", default="relu", help="activation of the hidden layers")
    one.add_argument("--optimizer", default="Adam", help=f"one of: {', '.join(OPTIMIZERS)}")
    one.add_argument("--learning-rate", type=float, default=2e-3, help="learning rate, falling to 0 along a cosine")
    one.add_argument("--label-smoothing", type=float, default=0.1, help="share of each label given to all classes")
    one.add_argument("--batch-size", type=int, default=32, help="rows of a minibatch; 1 is stochastic descent")
    one.add_argument("--epochs", type=int, default=40, help="passes over the data")
    one.add_argument("--seed", type=int, default=0, help="seed of the initial values and of the shuffling")
    one.add_argument("--backend", default="auto", choices=BACKENDS, help="who computes")
    one.add_argument("--save", default="digits.safetensors", metavar="FILE", help="where the model goes")
    one.add_argument("--plot", default="digits.png", metavar="FILE", help="where the loss curve goes; '' for none")
    one.set_defaults(run=train)
    check = commands.add_parser("selfcheck", help="check this installation; the same as python -m fastgd")
    check.set_defaults(run=lambda _: min(selfcheck(), 1))
    return top


def main(argv=None):
    """Runs the command line; returns the exit code: 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        print(f"fastgd {arguments.command}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, ArithmeticError, OSError, ImportError, MemoryError) as error:
        if arguments.debug:
            raise
        print(f"fastgd {arguments.command}: {error or type(error).__name__}", file=sys.stderr)
        return 1
