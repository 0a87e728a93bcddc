"""What a network needs to know of the images that it was trained on: classes, size, channels."""

import dataclasses
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from ..core.for_users import ForUsers
from ..core.types import Array, Shape
from ..errors import check_flag, check_integer, shown, value_error

if TYPE_CHECKING:
    from ..onnx import Graph


@dataclasses.dataclass(frozen=True)
class Preprocessing(ForUsers):
    """How images were read for training. `fastgd.images.read(path, like=...)` reads others in the same way, and
    `decode` names the classes that a network predicts. A network stores it in its attribute `preprocessing`, and is
    saved with it.

    classes     their names, in the order of the outputs
    size        (height, width) of an image
    channels    1 (grey) or 3 (RGB); images are converted
    resize      whether images of other sizes are resized, or refused"""

    _internal = frozenset({"config", "from_config", "onnx_decode", "onnx_encode"})

    classes: tuple[str, ...]
    size: tuple[int, int]
    channels: int
    resize: bool

    @property
    def input_shape(self) -> Shape:
        """Shape of a row of the network's input: (height, width, channels)."""
        return (*self.size, self.channels)

    @property
    def n_outputs(self) -> int:
        """Number of outputs of the network: one for each class."""
        return len(self.classes)

    def decode(self, prediction: Array) -> npt.NDArray[Any]:
        """The names of the most probable classes, (rows,), for predictions of the network, (rows, n_outputs)."""
        if prediction.ndim != 2 or prediction.shape[1] != self.n_outputs:
            raise value_error("prediction", f"an array (rows, {self.n_outputs})", shown(prediction))
        classes: npt.NDArray[Any] = np.array(self.classes, object)[prediction.argmax(axis=1)]
        return classes

    # ---- ONNX

    def onnx_encode(self, graph: "Graph") -> str:
        """Adds an input for images, bytes, to an ONNX graph; returns the name of the encoded rows."""
        graph.input("images", np.uint8, *self.input_shape, doc="images (rows, height, width, channels)")
        return graph.cast("images", graph.dtype)

    def onnx_decode(self, graph: "Graph", prediction: str) -> "tuple[str, npt.DTypeLike]":
        """Adds nodes that do what `decode` does; returns the name of the classes, and their dtype."""
        return graph.most_probable(np.array(self.classes, object), prediction)

    # ---- saving

    def config(self) -> dict[str, Any]:
        """What a file stores, as a dict for JSON."""
        return {"images": {**dataclasses.asdict(self), "classes": list(self.classes), "size": list(self.size)}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The preprocessing of a `config`. Raises TypeError, ValueError or KeyError if that is not valid."""
        images = config["images"]
        classes, (height, width) = images["classes"], images["size"]
        if (
            not isinstance(classes, list)
            or {type(name) for name in classes} != {str}
            or len(set(classes)) < len(classes)
        ):
            raise value_error("classes", "a list of different texts", shown(classes))
        size = check_integer("size", height, 1), check_integer("size", width, 1)
        channels = check_integer("channels", images["channels"], 1)
        if channels not in (1, 3):
            raise value_error("channels", "1 or 3", channels)
        return cls(tuple(classes), size, channels, check_flag("resize", images["resize"]))

    def __repr__(self) -> str:
        size, resized = "x".join(map(str, self.size)), "resized to " if self.resize else ""
        colours = "grey" if self.channels == 1 else "RGB"
        return f"Preprocessing(images, {resized}{size} pixels, {colours}; {len(self.classes)} classes)"
