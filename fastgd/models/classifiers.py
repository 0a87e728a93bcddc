"""Networks for rows of numbers and for images."""

from collections.abc import Sequence
from typing import Any

from ..core.types import ShapeLike
from ..errors import check_integer
from ..layers import (
    Activation,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    MaxPool2D,
    Residual,
)
from ..network import Network


def _network(input_shape: ShapeLike, layers: list[Layer], options: dict[str, Any]) -> Network:
    return Network(input_shape, layers, **{"loss": "softmax_cross_entropy", **options})


def mlp(
    input_shape: ShapeLike, outputs: int, hidden: Sequence[int] = (256, 128), activation: str = "relu", **options: Any
) -> Network:
    """A multilayer perceptron: dense layers of `hidden` units with an activation, then `outputs` outputs. Rows with
    several axes, such as images, are flattened. Rumelhart et al. 1986, doi:10.1038/323533a0."""
    first: list[Layer] = [Flatten()] if isinstance(input_shape, (list, tuple)) and len(input_shape) > 1 else []
    return _network(input_shape, [*first, *(Dense(units, activation) for units in hidden), Dense(outputs)], options)


def lenet5(input_shape: ShapeLike = (28, 28, 1), classes: int = 10, **options: Any) -> Network:
    """LeNet-5: two convolutions 5 x 5 of 6 and 16 filters, each with pooling, then dense layers of 120 and 84 units.
    44,426 parameters for images of 28 x 28 pixels. With relu and maxima, where the paper has tanh and scaled means.
    LeCun et al. 1998, doi:10.1109/5.726791."""
    layers: list[Layer] = [
        Conv2D(6, 5, "relu"), MaxPool2D(2), Conv2D(16, 5, "relu"), MaxPool2D(2), Flatten(),
        Dense(120, "relu"), Dense(84, "relu"), Dense(classes),
    ]  # fmt: skip
    return _network(input_shape, layers, options)


def small_cnn(input_shape: ShapeLike = (28, 28, 1), classes: int = 10, dropout: float = 0.3, **options: Any) -> Network:
    """Convolutions 3 x 3 with batch normalization: one of 32 filters, pooling, two of 48 and 64, pooling, one of 96;
    then a dense layer of 128 units, with dropout in front of the last layer. After VGG (Simonyan & Zisserman 2015,
    arXiv:1409.1556), for small images."""
    layers: list[Layer] = []
    for stage in ((32,), (48, 64), (96,)):
        if layers:
            layers.append(MaxPool2D(2))
        for filters in stage:
            layers += [Conv2D(filters, 3, padding="same", use_bias=False, weight_init="he_normal"), BatchNorm("relu")]
    layers += [Flatten(), Dense(128, "relu"), Dropout(dropout), Dense(classes)]
    return _network(input_shape, layers, options)


def resnet20(input_shape: ShapeLike = (32, 32, 3), classes: int = 10, **options: Any) -> Network:
    """ResNet-20 for small images: a convolution of 16 filters, three stages of three blocks of 16, 32 and 64 filters,
    the mean over all pixels. Where a stage begins with strides of 2, the shortcut is a convolution 1 x 1 with strides
    (option B of the paper). He et al. 2016, arXiv:1512.03385."""
    check_integer("classes", classes, 1)

    def convolution(filters: int, size: int, strides: int = 1) -> Conv2D:
        return Conv2D(filters, size, strides=strides, padding=size // 2, use_bias=False, weight_init="he_normal")

    layers: list[Layer] = [convolution(16, 3), BatchNorm("relu")]
    for filters in (16, 32, 64):
        for block in range(3):
            strides = 2 if filters > 16 and block == 0 else 1
            f = [convolution(filters, 3, strides), BatchNorm("relu"), convolution(filters, 3), BatchNorm()]
            shortcut = [convolution(filters, 1, strides), BatchNorm()] if strides > 1 else None
            layers += [Residual(f, shortcut), Activation("relu")]
    return _network(input_shape, [*layers, GlobalAvgPool2D(), Dense(classes)], options)
