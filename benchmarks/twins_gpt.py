"""fastgd.models.gpt as a torch module and as a JAX function, with the same weights, for peers_models.py. Both return
the loss, so that torch.compile and JAX see all of it."""

import numpy as np
from twins import jax_adam

EPS = 1e-5  # of LayerNorm


def blocks_of(network):
    """The paths of the blocks, the number of heads and the path of the last LayerNorm."""
    numbered = list(enumerate(network.layers, 1))
    blocks = [(str(i), layer) for i, layer in numbered if type(layer).__name__ == "TransformerBlock"]
    (last,) = (str(i) for i, layer in numbered if type(layer).__name__ == "LayerNorm")
    return [path for path, _ in blocks], blocks[0][1].attention.heads, last


def torch_gpt(network):
    """A torch module: module(tokens, targets) is the mean loss."""
    import torch
    from torch import nn
    from torch.nn import functional

    views = network.views()
    paths, heads, last = blocks_of(network)

    def parameter(array):
        return nn.Parameter(torch.from_numpy(np.array(array, order="C")))

    def linear(w, b):
        one = nn.Linear(*views[w].shape)
        one.weight, one.bias = parameter(views[w].T), parameter(views[b])
        return one

    def norm(path):
        one = nn.LayerNorm(len(views[f"gamma{path}"]), eps=EPS)
        one.weight, one.bias = parameter(views[f"gamma{path}"]), parameter(views[f"beta{path}"])
        return one

    class Block(nn.Module):
        def __init__(self, path):
            super().__init__()
            self.norm1, self.norm2 = norm(f"{path}.1.1"), norm(f"{path}.2.1")
            self.qkv = linear(f"w_qkv{path}.1.2", f"b_qkv{path}.1.2")
            self.out = linear(f"w_out{path}.1.2", f"b_out{path}.1.2")
            self.hidden = linear(f"w{path}.2.2", f"b{path}.2.2")
            self.projection = linear(f"w{path}.2.3", f"b{path}.2.3")

        def forward(self, x):
            rows, t, n = x.shape
            qkv = self.qkv(self.norm1(x)).split(n, 2)
            q, k, v = (part.view(rows, t, heads, n // heads).transpose(1, 2) for part in qkv)
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(rows, t, n))
            return x + self.projection(functional.gelu(self.hidden(self.norm2(x)), approximate="tanh"))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = parameter(views["w1"]), parameter(views["p2"])
            self.blocks, self.norm = nn.Sequential(*map(Block, paths)), norm(last)

        def forward(self, x, y):
            z = functional.embedding(x, self.tokens) + self.positions
            z = functional.linear(self.norm(self.blocks(z)), self.tokens)
            return functional.cross_entropy(z.flatten(0, 1), y.flatten())

    return Gpt()


def jax_gpt(network):
    """(parameters, function): function(parameters, tokens, targets) is the mean loss."""
    import jax
    from jax import numpy as jnp

    paths, heads, last = blocks_of(network)

    def norm(p, path, x):
        centred = x - x.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + EPS)
        return centred * scale * p[f"gamma{path}"] + p[f"beta{path}"]

    def block(p, path, x):
        rows, t, n = x.shape
        qkv = norm(p, f"{path}.1.1", x) @ p[f"w_qkv{path}.1.2"] + p[f"b_qkv{path}.1.2"]
        q, k, v = (part.reshape(rows, t, heads, n // heads) for part in jnp.split(qkv, 3, 2))
        s = jnp.einsum("bqhd,bkhd->bhqk", q, k) * (n // heads) ** -0.5
        weights = jax.nn.softmax(jnp.where(jnp.tri(t, dtype=bool), s, -jnp.inf))
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(rows, t, n)
        x = x + y @ p[f"w_out{path}.1.2"] + p[f"b_out{path}.1.2"]
        hidden = jax.nn.gelu(norm(p, f"{path}.2.1", x) @ p[f"w{path}.2.2"] + p[f"b{path}.2.2"], approximate=True)
        return x + hidden @ p[f"w{path}.2.3"] + p[f"b{path}.2.3"]

    def function(p, tokens, targets):
        x = p["w1"][tokens] + p["p2"]
        for path in paths:
            x = block(p, path, x)
        z = jax.nn.log_softmax(norm(p, last, x) @ p["w1"].T)
        return -jnp.take_along_axis(z, targets[..., None], -1).mean()

    return {name: jnp.asarray(view.copy()) for name, view in network.views().items()}, function


def torch_steps(task, rate, decay, *, compiled=False):
    import torch

    module = torch_gpt(task.network)
    optimizer = torch.optim.AdamW(module.parameters(), rate, weight_decay=decay, fused=True)
    batches = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in task.batches()]
    loss_of = torch.compile(module, fullgraph=True) if compiled else module

    def step(i):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(*batches[i])
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, lambda: [step(i) for i in range(task.steps)]


def jax_steps(task, rate, decay):
    import functools

    import jax
    from jax import numpy as jnp

    state, update = jax_adam(*jax_gpt(task.network), rate, decay)
    batches = [jnp.asarray(a.reshape(task.steps, task.batch, -1), jnp.int32) for a in (task.X, task.y)]

    @functools.partial(jax.jit, donate_argnums=0)
    def updates(state, *batches):
        return jax.lax.scan(update, state, batches)

    def run(first, last):
        state[:], losses = updates(list(state), *(a[first:last] for a in batches))
        return np.asarray(losses)

    return lambda i: float(run(i, i + 1)[0]), lambda: run(0, task.steps)
