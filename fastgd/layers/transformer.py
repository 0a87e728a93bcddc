"""TransformerBlock: attention and a multilayer perceptron, each with a skip connection."""

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy.typing as npt

from ..activations import ACTIVATIONS, Activation
from ..core.choice import choice_from_config, pick
from ..core.types import Shape
from ..errors import check_flag, check_integer, value_error
from ..initializers import Initializer
from .attention import CausalSelfAttention, SelfAttention
from .base import Layer, layer
from .containers import Residual, Sequential
from .dense import Dense
from .dropout import Dropout
from .embedding import check_sequence
from .normalization import LayerNorm

if TYPE_CHECKING:
    from ..engine.plan import Plan
    from ..onnx import Graph


@layer
class TransformerBlock(Layer):
    """A block of a transformer with normalization first: x, y (rows, T, C),

        h = x + drop(attention(norm(x))),
        y = h + drop(activation(norm(h) w + b) w' + b').

    It is Sequential([Residual([LayerNorm(), CausalSelfAttention(heads, dropout), Dropout(dropout)]),
    Residual([LayerNorm(), Dense(hidden, activation), Dense(C), Dropout(dropout)])]), and has the same names of
    parameters. In the third layer of a network the attention has the weights "w_qkv3.1.2" and "w_out3.1.2", and the
    dense layers have "w3.2.2" and "w3.2.3". Radford et al. 2019, "Language models are unsupervised multitask learners"
    (GPT-2).

    heads: as in `SelfAttention`. hidden: int >= 1, or None for 4 C. activation: as in `Dense`. dropout: in [0, 1).
    causal: whether a position sees only itself and those before it; else all, but those with the token `padding`.
    padding: as in `SelfAttention`; None if causal.
    weight_init: as in `Dense`, of all weights; projection_init: of those in front of both sums, w_out and w', if it is
        another.

    Raises TypeError or ValueError that names the argument; `Network` raises ValueError unless rows of x are (T, C) and
    heads divides C.
    """

    def __init__(
        self,
        heads: int,
        hidden: int | None = None,
        activation: str | Activation = "gelu_tanh",
        *,
        dropout: float = 0.0,
        causal: bool = True,
        padding: int | None = None,
        weight_init: "str | Initializer | npt.NDArray[Any]" = "glorot_uniform",
        projection_init: "str | Initializer | npt.NDArray[Any] | None" = None,
    ) -> None:
        self.hidden = None if hidden is None else check_integer("hidden", hidden, 1)
        self.activation = pick("activation", activation, ACTIVATIONS, Activation)
        self.causal = check_flag("causal", causal)
        inits: dict[str, Any] = {"weight_init": weight_init, "projection_init": projection_init}
        self.attention: SelfAttention = (
            CausalSelfAttention(heads, dropout, **inits)
            if self.causal
            else SelfAttention(heads, dropout, padding=padding, **inits)
        )
        if self.causal and padding is not None:
            raise value_error("padding", "None for causal attention", padding)
        self._bodies: dict[int, Sequential] = {}

    def _body(self, shape: Shape) -> Sequential:
        """The block for rows (T, C)."""
        _, n = check_sequence(self, shape)
        if n not in self._bodies:
            one, rate = self.attention, self.attention.dropout
            hidden = Dense(self.hidden or 4 * n, self.activation, weight_init=one.weight_init)
            output = Dense(n, weight_init=one.projection_init)
            self._bodies[n] = Sequential([
                Residual([LayerNorm(), one, Dropout(rate)]), Residual([LayerNorm(), hidden, output, Dropout(rate)]),
            ])  # fmt: skip
        return self._bodies[n]

    def output_shape(self, shape: Shape) -> Shape:
        return self._body(shape).output_shape(shape)

    def activations(self) -> tuple[Activation, ...]:
        return (self.activation,)

    def leaves(self, path: str, shape: Shape) -> Iterator[tuple[str, Layer, Shape]]:
        yield from self._body(shape).leaves(path, shape)

    def without_noise(self) -> Layer:
        quiet = copy.copy(self)
        quiet.attention, quiet._bodies = self.attention.without_noise(), {}
        return quiet

    def forward(self, plan: "Plan", path: str, x: str) -> str:
        return self._body(plan.shape(x)).forward(plan, path, x)

    def backward(self, plan: "Plan", path: str, x: str, dy: str, is_wanted: bool) -> str | None:
        return self._body(plan.shape(x)).backward(plan, path, x, dy, is_wanted)

    def onnx(self, graph: "Graph", path: str, x: str) -> str:
        first = next(shape for leaf, shape in graph.shapes.items() if leaf.startswith(f"{path}."))
        return self._body(first).onnx(graph, path, x)

    def describe(self, path: str, shape: Shape) -> Iterator[tuple[str, str, Shape]]:
        yield path, repr(self), self.output_shape(shape)
        for number, text, made in self._body(shape).describe(path, shape):
            if number != path:
                yield number, text, made

    def config(self) -> dict[str, Any]:
        config = {"layer": "TransformerBlock", "heads": self.attention.heads, "hidden": self.hidden}
        config |= {"activation": self.activation.config(), "dropout": self.attention.dropout, "causal": self.causal}
        padding = self.attention.padding
        return config if padding is None else {**config, "padding": padding}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        options = {name: value for name, value in config.items() if name not in ("layer", "activation")}
        return cls(activation=choice_from_config("activation", config["activation"], ACTIVATIONS), **options)

    def __repr__(self) -> str:
        one = self.attention
        options = f", causal={self.causal}" + ("" if one.padding is None else f", padding={one.padding}")
        hidden = "" if self.hidden is None else f"hidden={self.hidden}, "
        return f"TransformerBlock({one.heads}, {hidden}{self.activation!r}, dropout={one.dropout}{options})"
