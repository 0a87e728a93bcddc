"""Makes torch.npz: what torch 2.13 computes, for test_golden.py. Run: pip install torch==2.13.0 && python make.py

Everything is float64. Names in the file: "<what>.<case>.<quantity>".
"""

import itertools
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
STEPS = 20

ACTIVATIONS = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "leaky_relu(negative_slope=0.3)": lambda x: F.leaky_relu(x, 0.3),
    "elu": F.elu,
    "elu(alpha=0.5)": lambda x: F.elu(x, 0.5),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}
LOSSES = {
    "mse": ("real", F.mse_loss),
    "mae": ("real", F.l1_loss),
    "huber": ("real", F.huber_loss),
    "huber(delta=0.3)": ("real", lambda z, y: F.huber_loss(z, y, delta=0.3)),
    "softmax_cross_entropy": ("labels", F.cross_entropy),
    "softmax_cross_entropy(label_smoothing=0.1)": ("labels", lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1)),
    "softmax_cross_entropy rows": ("probabilities", F.cross_entropy),
    "softmax_cross_entropy(label_smoothing=0.1) rows": (
        "probabilities",
        lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1),
    ),
    "binary_cross_entropy": ("unit", F.binary_cross_entropy_with_logits),
}
OPTIMIZERS = {
    "SGD(0.1)": lambda p: torch.optim.SGD(p, 0.1),
    "SGD(0.1, weight_decay=0.01)": lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.01),
    "SGD(0.1, momentum=0.9)": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "SGD(0.1, momentum=0.9, weight_decay=0.01)": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01)": lambda p: torch.optim.SGD(
        p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01
    ),
    "AdaGrad(0.1)": lambda p: torch.optim.Adagrad(p, 0.1),
    "AdaGrad(0.1, eps=1e-3, weight_decay=0.01, initial_accumulator=0.5)": lambda p: torch.optim.Adagrad(
        p, 0.1, eps=1e-3, weight_decay=0.01, initial_accumulator_value=0.5
    ),
    "RMSProp(0.01)": lambda p: torch.optim.RMSprop(p, 0.01),
    "RMSProp(0.01, alpha=0.9, eps=1e-3, weight_decay=0.01)": lambda p: torch.optim.RMSprop(
        p, 0.01, alpha=0.9, eps=1e-3, weight_decay=0.01
    ),
    "Adam(0.01)": lambda p: torch.optim.Adam(p, 0.01),
    "Adam(0.01, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.01)": lambda p: torch.optim.Adam(
        p, 0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.01
    ),
    "AdamW(0.01)": lambda p: torch.optim.AdamW(p, 0.01),
    "AdamW(0.01, weight_decay=0.1)": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
}


def activations(rng, out):
    x = np.concatenate([rng.normal(scale=3, size=60), [-15.0, 15.0, 0.0]])
    out["activation.x"] = x
    for name, function in ACTIVATIONS.items():
        t = torch.tensor(x, requires_grad=True)
        y = function(t)
        y.sum().backward()
        out[f"activation.{name}.y"], out[f"activation.{name}.dy"] = y.detach().numpy(), t.grad.numpy()


def losses(rng, out):
    z = rng.normal(scale=2, size=(7, 5))
    out["loss.z"] = z
    targets = {
        "real": rng.normal(scale=2, size=(7, 5)),
        "labels": rng.integers(0, 5, 7),
        "probabilities": rng.dirichlet(np.ones(5), 7),
        "unit": rng.uniform(0, 1, (7, 5)),
    }
    for name, (kind, function) in LOSSES.items():
        t = torch.tensor(z, requires_grad=True)
        value = function(t, torch.tensor(targets[kind]))
        value.backward()
        out[f"loss.{name}.y"] = targets[kind]
        out[f"loss.{name}.value"], out[f"loss.{name}.dz"] = value.detach().numpy(), t.grad.numpy()


def network(rng, out):
    """6-7-5-4 with gelu and tanh, cross-entropy: loss and gradient of every parameter."""
    sizes = (6, 7, 5, 4)
    x, y = rng.normal(size=(9, 6)), rng.integers(0, 4, 9)
    weights = [torch.tensor(rng.normal(size=s), requires_grad=True) for s in itertools.pairwise(sizes)]
    biases = [torch.tensor(rng.normal(size=n), requires_grad=True) for n in sizes[1:]]
    hidden = F.gelu(torch.tensor(x) @ weights[0] + biases[0])
    hidden = torch.tanh(hidden @ weights[1] + biases[1])
    loss = F.cross_entropy(hidden @ weights[2] + biases[2], torch.tensor(y))
    loss.backward()
    out["network.x"], out["network.y"], out["network.loss"] = x, y, loss.detach().numpy()
    for kind, arrays in (("w", weights), ("b", biases)):
        for i, array in enumerate(arrays, 1):
            out[f"network.{kind}{i}"], out[f"network.d{kind}{i}"] = array.detach().numpy(), array.grad.numpy()


def optimizers(rng, out):
    start, gradients = rng.normal(size=30), rng.normal(size=(STEPS, 30))
    out["optimizer.start"], out["optimizer.gradients"] = start, gradients
    for name, make in OPTIMIZERS.items():
        p = torch.tensor(start, requires_grad=True)
        optimizer, path = make([p]), []
        for g in gradients:
            p.grad = torch.tensor(g)
            optimizer.step()
            path.append(p.detach().numpy().copy())
        out[f"optimizer.{name}.path"] = np.array(path)


if __name__ == "__main__":
    out = {}
    for part in (activations, losses, network, optimizers):
        part(np.random.default_rng(0), out)
    np.savez_compressed(pathlib.Path(__file__).with_name("torch.npz"), **out)
