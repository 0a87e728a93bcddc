"""fastgd's networks as torch modules and as JAX functions, with the same weights, for peers_models.py."""

import numpy as np


def torch_module(network):
    """A torch module that computes what a network of fastgd does, channels first, with its weights."""
    import torch
    from torch import nn

    views = network.views()

    class Sum(nn.Module):
        def __init__(self, f, g):
            super().__init__()
            self.f, self.g = f, g

        def forward(self, x):
            return self.f(x) + self.g(x)

    def parameter(array):
        return nn.Parameter(torch.from_numpy(np.ascontiguousarray(array)))

    def activation(layer):
        name = "identity" if layer.activation.forward is None else layer.activation.name
        return {"identity": [], "relu": [nn.ReLU()]}[name]

    def modules(layers, path, shape, image):
        """The modules of layers; image: the shape of the images that the last Flatten had."""
        made = []
        for number, layer in enumerate(layers, 1):
            at, kind = f"{path}{number}", type(layer).__name__
            if kind == "Conv2D":
                padding = paddings(layer)
                one = nn.Conv2d(
                    shape[-1], layer.filters, layer.kernel_size, layer.strides, padding, bias=layer.use_bias
                )
                one.weight = parameter(views[f"w{at}"].transpose(3, 2, 0, 1))
                if layer.use_bias:
                    one.bias = parameter(views[f"b{at}"])
                made += [one, *activation(layer)]
            elif kind == "BatchNorm":
                made += [nn.BatchNorm2d(shape[-1], eps=layer.eps, momentum=layer.momentum), *activation(layer)]
            elif kind == "Activation":
                made += activation(layer)
            elif kind == "MaxPool2D":
                made.append(nn.MaxPool2d(layer.pool_size))
            elif kind == "GlobalAvgPool2D":
                made += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            elif kind == "Flatten":
                made.append(nn.Flatten())
                image = shape
            elif kind == "Residual":
                g, to_g = layer.shortcut.layers if layer.shortcut else [], f"{at}.{len(layer.layers) + 1}."
                inner = [
                    modules(layer.layers, f"{at}.", shape, image),
                    modules(g, to_g, shape, image),
                ]
                made.append(Sum(*(nn.Sequential(*part) for part in inner)))
            elif kind == "Dense":
                weights = views[f"w{at}"]
                if image is not None:  # torch flattens channels first
                    weights = weights.reshape(*image, -1).transpose(2, 0, 1, 3).reshape(weights.shape)
                    image = None
                one = nn.Linear(*weights.shape)
                one.weight, one.bias = parameter(weights.T), parameter(views[f"b{at}"])
                made += [one, *activation(layer)]
            else:
                raise ValueError(f"no module for {layer!r}")
            shape = layer.output_shape(shape)
        return made

    return nn.Sequential(*modules(network.layers, "", network.input_shape, None))


def paddings(layer):
    """The rows and columns of zeros at each border of a convolution with strides 1 or numbers as padding."""
    if isinstance(layer.padding, tuple):
        return layer.padding
    return (0, 0) if layer.padding == "valid" else tuple(k // 2 for k in layer.kernel_size)


def jax_function(network):
    """(parameters, function): function(parameters, x) computes what a network of fastgd does in training."""
    import jax
    from jax import lax
    from jax import numpy as jnp

    def run(parameters, layers, path, x):
        for number, layer in enumerate(layers, 1):
            at, kind = f"{path}{number}", type(layer).__name__
            if kind == "Conv2D":
                x = lax.conv_general_dilated(
                    x, parameters[f"w{at}"], layer.strides, [(p, p) for p in paddings(layer)],
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )  # fmt: skip
                x = x + parameters[f"b{at}"] if layer.use_bias else x
            elif kind == "BatchNorm":
                mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
                x = (x - mean) * lax.rsqrt(variance + layer.eps) * parameters[f"gamma{at}"] + parameters[f"beta{at}"]
            elif kind == "MaxPool2D":
                window = (1, *layer.pool_size, 1)
                x = lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
            elif kind == "GlobalAvgPool2D":
                x = x.mean((1, 2))
            elif kind == "Flatten":
                x = x.reshape(len(x), -1)
            elif kind == "Residual":
                g = layer.shortcut.layers if layer.shortcut else []
                f = run(parameters, layer.layers, f"{at}.", x)
                x = f + run(parameters, g, f"{at}.{len(layer.layers) + 1}.", x)
            elif kind == "Dense":
                x = x @ parameters[f"w{at}"] + parameters[f"b{at}"]
            if getattr(layer, "activation", None) is not None and layer.activation.forward is not None:
                x = jax.nn.relu(x)
        return x

    parameters = {name: jnp.asarray(view.copy()) for name, view in network.views().items()}
    return parameters, lambda parameters, x: run(parameters, network.layers, "", x)


def jax_adam(parameters, loss_of, rate, decay=0.0):
    """(state, update): update(state, batch) is (state, loss) after a step of AdamW on loss_of(parameters, *batch)."""
    import jax
    from jax import numpy as jnp

    def update(state, batch):
        p, m, v, t = state
        loss, g = jax.value_and_grad(loss_of)(p, *batch)
        t = t + 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        scale, correction, kept = rate / (1 - 0.9**t), 1 - 0.999**t, 1 - rate * decay
        p = jax.tree.map(lambda p, m, v: kept * p - scale * m / (jnp.sqrt(v / correction) + 1e-8), p, m, v)
        return [p, m, v, t], loss

    zeros = jax.tree.map(jnp.zeros_like, parameters)
    return [parameters, zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros(())], update
