"""A network as a module of torch: part of a graph that torch's autograd differentiates. Needs torch."""

import contextlib
import functools
from typing import TYPE_CHECKING, Any

from .core.types import Array
from .data.tensors import as_numpy
from .errors import shown, type_error, value_error
from .network import Network

__all__ = ["as_module"]
__dir__ = functools.partial(sorted, __all__)

if TYPE_CHECKING:
    import torch


def as_module(network: Network) -> "torch.nn.Module":
    """Returns a `torch.nn.Module` that computes `network.forward`, on CPU tensors.

    Its only parameter, `parameters_`, is a flat tensor over the memory of `network.parameters`, and its buffer
    `statistics_`, if there are statistics, one over the rest of `network.state`: torch's optimizers, `state_dict` and
    fastgd's methods all see the same numbers. A deep copy of the module has a copy of the network. Its backward pass
    gives torch the gradients of input and parameters; `network.gradient` has the latter, too, so `optimizer.step(
    network)` of a fastgd optimizer also works:

        features = fastgd.torch.as_module(network)
        loss = criterion(head(features(x)), y)
        loss.backward()
        optimizer.step(network)

    `module.train()` and `module.eval()` choose the mode of the layers. Each call in training mode draws new Dropout
    masks. The module may be called several times before the backward pass: earlier forward passes are then repeated,
    with the masks that they had. In that case `network.gradient` has only the gradient of one call; torch has the sum:
    `optimizer.step(module.parameters_, module.parameters_.grad)`. Networks with `l1` or `l2` are refused, since torch
    sums gradients over calls, which would count the penalty several times: use `weight_decay` of the optimizer. Second
    derivatives do not exist. The backward pass raises RuntimeError if the parameters have been updated since the
    forward pass, and ValueError if the gradient that it is given is not finite.

    Raises TypeError or ValueError that names the argument, and ImportError without torch."""
    if not isinstance(network, Network):
        raise type_error("network", "a fastgd.Network", shown(network))
    if network.l1 or network.l2:
        raise value_error("network", "one without l1 and l2; use weight_decay of the optimizer", repr(network))
    made: torch.nn.Module = _module_class()(network)
    return made


class RecordedPass:
    """A forward pass that a backward pass may follow even after other calls of the network. `y` is its result.

    minibatch: the number from which random layers draw."""

    y: Array

    def __init__(self, network: Network, x: Array, *, training: bool, minibatch: int) -> None:
        self.network, self.training, self.minibatch = network, training, minibatch
        self._version, self._statistics = network.executor.version, _statistics(network).copy()
        self._forward(x)

    def _forward(self, x):
        options = {"training": self.training, "record": True, "minibatch": self.minibatch}
        self.y = self.network.forward(x, **options)
        self._number = self.network.executor.pass_number

    @contextlib.contextmanager
    def _with_its_statistics(self):
        statistics = _statistics(self.network)
        now = statistics.copy()
        statistics[:] = self._statistics
        try:
            yield
        finally:
            statistics[:] = now

    def backward(self, x: Array, dy: Array, input_gradient: bool) -> Array | None:
        """`Network.backward` of this pass. x: as in the forward pass, which is repeated if others came between.

        Raises RuntimeError if the network's parameters have been updated since."""
        network = self.network
        if network.executor.version != self._version:
            raise RuntimeError(
                "as_module: expected a backward pass with the parameters of the forward pass, got an update of the "
                "network since"
            )
        if network.executor.pass_number == self._number:
            return network.backward(dy, input_gradient=input_gradient)
        with self._with_its_statistics():
            self._forward(x)
            return network.backward(dy, input_gradient=input_gradient)


def _statistics(network):
    return network.state[network.n_parameters :]


@functools.cache
def _function_class() -> Any:
    """The class of the modules' autograd functions, made when torch is first needed."""
    import torch

    class NetworkFunction(torch.autograd.Function):
        """The forward and backward pass of a network."""

        @staticmethod
        def forward(ctx, x, flat, module):
            ctx.save_for_backward(x, flat)
            made = RecordedPass(
                module.network, as_numpy(x), training=module.training, minibatch=module.next_minibatch()
            )
            result, made.y, ctx.recorded = torch.from_numpy(made.y), None, made
            return result

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, dy):
            x, _ = ctx.saved_tensors  # raises if the parameters have been changed since
            to_input, to_parameters, _ = ctx.needs_input_grad
            dx = ctx.recorded.backward(as_numpy(x), as_numpy(dy), to_input)
            ctx.recorded.y = None
            gradient = torch.from_numpy(ctx.recorded.network.gradient.copy()) if to_parameters else None
            return None if dx is None else torch.from_numpy(dx).to(x.dtype), gradient, None

    return NetworkFunction


@functools.cache
def _module_class() -> Any:
    """The class of modules, made when torch is first needed."""
    import torch

    function = _function_class()

    class NetworkModule(torch.nn.Module):
        """`fastgd.torch.as_module` of a network."""

        def __init__(self, network):
            super().__init__()
            self.network, self._minibatch = network, -1
            self.parameters_ = torch.nn.Parameter(torch.from_numpy(network.parameters))
            if network.statistics:
                self.register_buffer("statistics_", torch.from_numpy(_statistics(network)))

        def next_minibatch(self):
            """The number for the Dropout masks of a call: new in each call in training mode, and `network.minibatches`
            if there is one call in each training step."""
            if self.training:
                self._minibatch = max(self._minibatch + 1, self.network.minibatches)
            return max(self._minibatch, 0)

        def forward(self, x):
            if not isinstance(x, torch.Tensor):
                raise type_error("x", "a torch.Tensor", shown(x))
            statistics = _statistics(self.network)
            is_shared = self.parameters_.data_ptr() == self.network.parameters.ctypes.data
            if statistics.size:
                is_shared = is_shared and self.statistics_.data_ptr() == statistics.ctypes.data
            if not is_shared:
                raise RuntimeError(
                    "as_module: expected parameters in the network's memory on the CPU, got a copy of them; make a "
                    "module of a copied network instead"
                )
            if not self.training and not torch.is_grad_enabled():
                return torch.from_numpy(self.network.forward(as_numpy(x)))
            return function.apply(x, self.parameters_, self)

        def __reduce__(self):
            return _copied, (self.network, self.training, self.parameters_.requires_grad, self._minibatch)

        def extra_repr(self):
            return repr(self.network)

    return NetworkModule


def _copied(network, training, requires_grad, minibatch):
    """A module like another one; for copies and pickles."""
    module = as_module(network).train(training).requires_grad_(requires_grad)
    module._minibatch = minibatch
    return module
