"""A network as a module of torch: part of a graph that torch's autograd differentiates. Needs torch."""

import functools
from typing import TYPE_CHECKING, Any

from .errors import shown, type_error, value_error
from .network import Network

if TYPE_CHECKING:
    import torch


def as_module(network: Network) -> "torch.nn.Module":
    """Returns a `torch.nn.Module` that computes `network.forward`, on CPU tensors.

    Its only parameter, `parameters_`, is a flat tensor over the memory of `network.parameters`, so torch's optimizers,
    `state_dict` and fastgd's methods all see the same numbers. Its backward pass gives torch the gradients of input and
    parameters; `network.gradient` has the latter, too, so `optimizer.step(network)` of a fastgd optimizer also works:

        features = fastgd.torch.as_module(network)
        loss = criterion(head(features(x)), y)
        loss.backward()
        optimizer.step(network)

    `module.train()` and `module.eval()` choose the mode of the layers. The module may be called several times before
    the backward pass: earlier forward passes are then repeated, with the same Dropout masks. Networks with `l1` or `l2`
    are refused, since torch sums gradients over calls, which would count the penalty several times: use `weight_decay`
    of the optimizer. Second derivatives do not exist.

    Raises TypeError or ValueError that names the argument, and ImportError without torch."""
    if not isinstance(network, Network):
        raise type_error("network", "a fastgd.Network", shown(network))
    if network.l1 or network.l2:
        raise value_error("network", "one without l1 and l2; use weight_decay of the optimizer", repr(network))
    made: torch.nn.Module = _module_class()(network)
    return made


@functools.cache
def _module_class() -> Any:
    """The class of modules, made when torch is first needed."""
    import torch

    class NetworkFunction(torch.autograd.Function):
        """The forward and backward pass of a network."""

        @staticmethod
        def forward(ctx, x, flat, module):
            network = module.network
            ctx.save_for_backward(x, flat)
            ctx.module, ctx.training, ctx.minibatch = module, module.training, network.minibatches
            ctx.statistics = network.state[network.n_parameters :].copy()
            module.last = ctx
            return torch.from_numpy(network.forward(x.numpy(), training=ctx.training, record=True))

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, dy):
            x, _ = ctx.saved_tensors  # raises if the parameters have been changed since
            module, network = ctx.module, ctx.module.network
            if module.last is not ctx:
                module.last = ctx
                _repeat(network, x.numpy(), ctx)
            dx = network.backward(dy.numpy(), input_gradient=ctx.needs_input_grad[0])
            return (
                None if dx is None else torch.from_numpy(dx).to(x.dtype),
                torch.from_numpy(network.gradient.copy()),
                None,
            )

    class NetworkModule(torch.nn.Module):
        """`fastgd.torch.as_module` of a network."""

        def __init__(self, network):
            super().__init__()
            self.network, self.last = network, None
            self.parameters_ = torch.nn.Parameter(torch.from_numpy(network.parameters))

        def forward(self, x):
            if self.parameters_.data_ptr() != self.network.parameters.ctypes.data:
                raise RuntimeError(
                    "as_module: expected parameters in the network's memory on the CPU, got a copy of them; make a "
                    "module of a copied network instead"
                )
            return NetworkFunction.apply(x, self.parameters_, self)

        def extra_repr(self):
            return repr(self.network)

    return NetworkModule


def _repeat(network, x, ctx):
    """Repeats a forward pass, with the statistics and Dropout masks that it had."""
    statistics = network.state[network.n_parameters :]
    now = statistics.copy()
    statistics[:] = ctx.statistics
    network.forward(x, training=ctx.training, record=True, minibatch=ctx.minibatch)
    statistics[:] = now
