"""CNNClassifier: convolutional networks with scikit-learn's interface (extra `sklearn`)."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from .. import models
from ..core.types import Array
from ..errors import check_integer, choose, shown, type_error, value_error
from ..layers import Conv2D, Dense, Flatten, Layer, MaxPool2D, Standardize
from ..layers.base import parameter_specs
from ..network import Network
from ..optimizers.base import Optimizer
from .estimators import Classifier, keep_arguments
from .perceptron import Rows
from .proofs import arrays_of
from .training import Objective

MODELS = {name: getattr(models, name) for name in ("lenet5", "mlp", "resnet20", "small_cnn")}
Layers: TypeAlias = Network | Sequence[Layer]
Model: TypeAlias = str | Layers | Callable[[tuple[int, int, int], int], Layers]


class CNNClassifier(Classifier):
    """A classifier of images for scikit-learn: any network of `fastgd` with the fit, predict and arguments of
    `MLPClassifier`, for two or more classes, or multi-label.

    X is (rows, height, width, channels), (rows, height, width) of one channel, or as elsewhere in scikit-learn (rows,
    features), each row the pixels of an image in that order. Bytes stay bytes and are cast a minibatch at a time.
    Training is in float64 if X is float64, else in float32, which is faster.

    model: "auto", two convolutions of 32 and 64 filters 3 x 3, each with pooling, and a dense layer of 128 units, for
        images of any size, with a first layer that divides bytes by 255 (no other model scales X); a name of
        `fastgd.models` ("small_cnn", "lenet5", "resnet20", "mlp"); a list of layers, the last of which has an output
        for each class (or label); a `Network`, from whose parameters training then starts, in its dtype, for instance
        with weights from torch; or a function of (image_shape, outputs) that returns a list of layers or a `Network`.
        The loss and the penalties of a `Network` are not used. A weight of a row acts like that many copies of the row,
        except in networks with BatchNorm or Dropout, such as "small_cnn".
    image_shape: (height, width) or (height, width, channels) of the images in flat rows. None is the shape of X if it
        has more axes; else square images of one channel if the number of features is a square, else a single row of
        pixels.
    solver: "adam", "sgd", the name of an optimizer of fastgd or an optimizer, as in `MLPClassifier`.
    class_weight: as in `MLPClassifier`.

    The other arguments are those of sklearn.neural_network.MLPClassifier: alpha is the penalty on weights, filters
    included; learning_rate, power_t, momentum and nesterovs_momentum are for "sgd". max_iter is the number of epochs.

    Fitted attributes: classes_, image_shape_ (height, width, channels), network_ (a `Network` for images, a copy),
    loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_, n_features_in_, feature_names_in_,
    n_iter_, n_outputs_, out_activation_, t_; the arrays of the network: coefs_ (filters and weights), intercepts_ (its
    other parameters), statistics_ (running ones of BatchNorm). warm_start and partial_fit continue with the network of
    the first fit.

    Raises TypeError or ValueError that names the argument; a fit that raises leaves the estimator unchanged.
    """

    image_shape_: tuple[int, int, int]
    statistics_: "list[Array]"
    _solvers = ("adam", "sgd")
    _counts = ("max_iter",)
    _held = ("coefs_", "intercepts_", "statistics_")
    _dtypes = "numeric"
    _two_classes_share = False

    def __init__(
        self,
        model: Model = "auto",
        *,
        image_shape: tuple[int, ...] | None = None,
        solver: str | Optimizer = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 50,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        class_weight: dict[Any, float] | str | None = None,
    ) -> None:
        keep_arguments(self, locals())

    # ---- images

    def _given_shape(self):
        """The argument image_shape as (height, width, channels), or None."""
        shape = self.image_shape
        if shape is None:
            return None
        if not isinstance(shape, (list, tuple)) or len(shape) not in (2, 3):
            raise type_error("image_shape", "(height, width) or (height, width, channels)", shown(shape))
        return (*(check_integer(f"image_shape[{i}]", n, 1) for i, n in enumerate(shape)), 1)[:3]

    def _flat(self, X, expected):
        """Returns X as rows of features, and the shape of its images, or None if it has rows of features already.
        expected: a shape that images must have, or None."""
        if isinstance(X, (list, tuple)) and np.ndim(X) > 2:
            X = np.asarray(X)
        if getattr(X, "ndim", 2) not in (3, 4):
            return X, None
        shape = (*X.shape[1:], 1)[:3]
        if expected is not None and shape != expected:
            raise value_error("X", f"images of shape {expected}", f"shape {X.shape}")
        return np.asanyarray(X).reshape(len(X), math.prod(shape)), shape

    def _encoded(self, X, y, *, incremental, reset):
        X, shape = self._flat(X, self._given_shape() if reset else self.image_shape_)
        X, *rest = super()._encoded(X, y, incremental=incremental, reset=reset)
        if reset:
            shape = self._given_shape() or shape or _guessed_shape(X.shape[1])
            if math.prod(shape) != X.shape[1]:
                expected = f"a shape of the {X.shape[1]} features of X, or None"
                raise value_error("image_shape", expected, self.image_shape)
            self.image_shape_, self._is_of_bytes = shape, X.dtype == np.uint8
        return X, *rest

    def _checked(self, X, y, *, incremental, reset):
        X, y = super()._checked(X, y, incremental=incremental, reset=reset)
        if len(self.classes_) < 2:
            raise value_error("y", "labels of at least 2 classes", f"one class, {shown(self.classes_[0])}")
        return X, y

    def _predictions(self, X: "Rows", finish: "Callable[[Array], Array]") -> "Array":
        return super()._predictions(self._flat(X, vars(self).get("image_shape_"))[0], finish)

    def _shaped(self, X):
        return X.reshape(len(X), *self.image_shape_)

    # ---- the network

    def _dtype(self, X):
        return np.dtype(np.float64 if X.dtype == np.float64 else np.float32)

    def _initialize(self, n_features, n_outputs, out_activation, dtype, random_state):
        """Sets the layers of the model, and their initial values."""
        made, shape, start = self.model, self.image_shape_, None
        if isinstance(made, str):
            make = choose("model", made, {"auto": None, **MODELS})
            made = make(shape, n_outputs).layers if make else _plain(shape, n_outputs, self._is_of_bytes)
        elif callable(made):
            made = made(shape, n_outputs)
        if isinstance(made, Network):
            made, start = made.layers, made
            if start.input_shape != shape:
                raise value_error("model", f"a network for rows of shape {shape}", repr(start))
        if not isinstance(made, (list, tuple)) or not all(isinstance(layer, Layer) for layer in made):
            expected = (
                f"'auto', {', '.join(map(repr, MODELS))}, a list of layers, a Network, or a function that returns one"
            )
            raise type_error("model", expected, shown(made))
        loss = Objective.of(out_activation, n_outputs).loss
        seed = int(random_state.randint(2**31))
        network = Network(shape, list(made), loss=loss, dtype=dtype if start is None else start.dtype, seed=seed)
        if network.output_shape != (n_outputs,):
            raise value_error("model", f"{n_outputs} outputs", f"outputs of shape {network.output_shape}")
        if start is not None:
            network.copy_from(start)
        arrays, n = arrays_of(network), len(network.views())
        n_weights = sum(spec.is_weight for spec in parameter_specs(network.body, shape))
        self.coefs_, self.intercepts_, self.statistics_ = arrays[:n_weights], arrays[n_weights:n], arrays[n:]
        self._layers, self.n_outputs_, self.out_activation_ = network.layers, n_outputs, out_activation
        self.n_iter_, self.t_, self._minibatches = 0, 0, 0

    def _arrays(self):
        return *super()._arrays(), *self.statistics_

    def _make_network(self, dtype, alpha=0.0, seed=0):
        loss = Objective.of(self.out_activation_, self.n_outputs_).loss
        network = Network(self.image_shape_, self._layers, loss=loss, l2=alpha, dtype=dtype, seed=seed)
        self._give_parameters(arrays_of(network))
        return network

    def _design(self):
        return self._layers

    def _is_random(self, design):
        return True

    def _layer_arguments(self):
        return (self._layers,)


def _plain(shape, outputs, is_of_bytes):
    """The layers of "auto". Pooling halves each axis that has more than one pixel."""
    layers, sizes = [Standardize(scale=1 / 255)] if is_of_bytes else [], shape[:2]
    for filters in (32, 64):
        height, width = (min(2, size) for size in sizes)
        convolution = Conv2D(filters, 3, "relu", padding="same", weight_init="he_normal")
        layers += [convolution, MaxPool2D((height, width))]
        sizes = [max(1, size // 2) for size in sizes]
    return [*layers, Flatten(), Dense(128, "relu"), Dense(outputs)]


def _guessed_shape(n_features):
    """The shape of images in rows of so many features: a square, or a row of pixels."""
    side = math.isqrt(n_features)
    return (side, side, 1) if side * side == n_features else (1, n_features, 1)
