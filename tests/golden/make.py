"""Makes peers.npz, the values of torch 2.13 and optax for test_golden.py. To run it:

    pip install torch==2.13.0 jax optax && python make.py

Everything is float64. Names in the file: "<what>.<case>.<quantity>".
"""

import itertools
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
# Steps of an optimizer, the number of parameters, and the numbers of steps after which they are recorded.
STEPS, SIZE = 1000, 12
RECORDED = (0, 1, 2, 3, 4, 5, 6, 20, 100, 500, 1000)

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
    "poisson": ("counts", lambda z, y: F.poisson_nll_loss(z, y) + (torch.xlogy(y, y) - y).mean()),
    "gaussian_nll": ("halves", lambda z, y: F.gaussian_nll_loss(z[:, :2], y, torch.exp(z[:, 2:]))),
    "hinge": ("signs", lambda z, y: F.margin_ranking_loss(z, torch.zeros_like(z), y, margin=1.0)),
    "kl_divergence": ("probabilities", lambda z, y: F.kl_div(F.log_softmax(z, 1), y, reduction="batchmean")),
    "cosine_similarity": ("real", lambda z, y: (1 - F.cosine_similarity(z, y)).mean()),
}
LAYERS = {
    "LayerNorm()": lambda n: torch.nn.LayerNorm(n),
    "LayerNorm(eps=0.1)": lambda n: torch.nn.LayerNorm(n, eps=0.1),
    "BatchNorm()": lambda n: torch.nn.BatchNorm1d(n),
    "BatchNorm(eps=0.1, momentum=0.3)": lambda n: torch.nn.BatchNorm1d(n, eps=0.1, momentum=0.3),
}
# A layer on images of 6 x 5 pixels and 4 channels, channels first in torch.
IMAGE_LAYERS = {
    "Conv2D(6, 3)": torch.nn.Conv2d(4, 6, 3),
    "Conv2D(6, (2, 3), strides=(2, 1), padding=(1, 2))": torch.nn.Conv2d(4, 6, (2, 3), (2, 1), (1, 2)),
    "Conv2D(6, 3, padding='same', groups=2)": torch.nn.Conv2d(4, 6, 3, padding="same", groups=2),
    "Conv2D(4, 3, groups=4, use_bias=False)": torch.nn.Conv2d(4, 4, 3, groups=4, bias=False),
    "MaxPool2D(2)": torch.nn.MaxPool2d(2),
    "MaxPool2D((3, 2), strides=(1, 2), padding=1)": torch.nn.MaxPool2d((3, 2), (1, 2), 1),
    "AvgPool2D(3, strides=2)": torch.nn.AvgPool2d(3, 2),
    "AvgPool2D((3, 2), padding=1)": torch.nn.AvgPool2d((3, 2), padding=1, count_include_pad=False),
    "GlobalAvgPool2D()": torch.nn.AdaptiveAvgPool2d(1),
}
# name: torch's name of the optimizer and its options; slots by torch's names of the state
ADAM = {"m": "exp_avg", "v": "exp_avg_sq"}
RMS = {"v": "square_avg"}
TORCH_OPTIMIZERS = {
    "SGD(0.1)": ("SGD", {"lr": 0.1}, {}),
    "SGD(0.1, weight_decay=0.01)": ("SGD", {"lr": 0.1, "weight_decay": 0.01}, {}),
    "SGD(0.1, momentum=0.9)": ("SGD", {"lr": 0.1, "momentum": 0.9}, {"b": "momentum_buffer"}),
    "SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01)": (
        "SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}, {"b": "momentum_buffer"},
    ),
    "AdaGrad(0.1)": ("Adagrad", {"lr": 0.1}, {"s": "sum"}),
    "AdaGrad(0.1, eps=1e-3, weight_decay=0.01, initial_accumulator=0.5)": (
        "Adagrad", {"lr": 0.1, "eps": 1e-3, "weight_decay": 0.01, "initial_accumulator_value": 0.5}, {"s": "sum"},
    ),
    "AdaDelta()": ("Adadelta", {}, {"s": "square_avg", "u": "acc_delta"}),
    "AdaDelta(0.5, rho=0.8, eps=1e-4, weight_decay=0.01)": (
        "Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-4, "weight_decay": 0.01},
        {"s": "square_avg", "u": "acc_delta"},
    ),
    "RMSProp(0.01)": ("RMSprop", {"lr": 0.01}, RMS),
    "RMSProp(0.01, alpha=0.9, eps=1e-3, weight_decay=0.01)": (
        "RMSprop", {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.01}, RMS,
    ),
    "RMSProp(0.01, momentum=0.8, weight_decay=0.01)": (
        "RMSprop", {"lr": 0.01, "momentum": 0.8, "weight_decay": 0.01}, {**RMS, "b": "momentum_buffer"},
    ),
    "RMSProp(0.01, centred=True, alpha=0.9, eps=1e-3)": (
        "RMSprop", {"lr": 0.01, "centered": True, "alpha": 0.9, "eps": 1e-3}, {**RMS, "a": "grad_avg"},
    ),
    "RMSProp(0.01, centred=True, momentum=0.8, weight_decay=0.01)": (
        "RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.8, "weight_decay": 0.01},
        {**RMS, "a": "grad_avg", "b": "momentum_buffer"},
    ),
    "Adam(0.01)": ("Adam", {"lr": 0.01}, ADAM),
    "Adam(0.01, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.01)": (
        "Adam", {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.01}, ADAM,
    ),
    "AdamW(0.01)": ("AdamW", {"lr": 0.01}, ADAM),
    "AdamW(0.01, weight_decay=0.1)": ("AdamW", {"lr": 0.01, "weight_decay": 0.1}, ADAM),
    "AMSGrad(0.01, beta2=0.9, weight_decay=0.01)": (
        "Adam", {"lr": 0.01, "betas": (0.9, 0.9), "weight_decay": 0.01, "amsgrad": True},
        {**ADAM, "s": "max_exp_avg_sq"},
    ),
    "Adamax(0.01)": ("Adamax", {"lr": 0.01}, {"m": "exp_avg", "u": "exp_inf"}),
    "Adamax(0.01, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.01)": (
        "Adamax", {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.01},
        {"m": "exp_avg", "u": "exp_inf"},
    ),
    "NAdam(0.01)": ("NAdam", {"lr": 0.01}, ADAM),
    "NAdam(0.01, beta1=0.8, eps=1e-3, momentum_decay=0.1, weight_decay=0.01, decoupled=True)": (
        "NAdam",
        {
            "lr": 0.01, "betas": (0.8, 0.999), "eps": 1e-3, "momentum_decay": 0.1, "weight_decay": 0.01,
            "decoupled_weight_decay": True,
        },
        ADAM,
    ),
    "RAdam(0.01)": ("RAdam", {"lr": 0.01}, ADAM),
    "RAdam(0.01, beta2=0.9, eps=1e-3, weight_decay=0.01)": (
        "RAdam", {"lr": 0.01, "betas": (0.9, 0.9), "eps": 1e-3, "weight_decay": 0.01}, ADAM,
    ),
    "RAdam(0.01, weight_decay=0.01, decoupled=True)": (
        "RAdam", {"lr": 0.01, "weight_decay": 0.01, "decoupled_weight_decay": True}, ADAM,
    ),
}  # fmt: skip
# The same of optax, for rules that torch lacks.
OPTAX_OPTIMIZERS = {
    "Lion(0.01)": ("lion", {"learning_rate": 0.01, "weight_decay": 0.0}, {"m": "mu"}),
    "Lion(0.01, beta1=0.8, beta2=0.9, weight_decay=0.1)": (
        "lion", {"learning_rate": 0.01, "b1": 0.8, "b2": 0.9, "weight_decay": 0.1}, {"m": "mu"},
    ),
    "NAdam(0.01, momentum_decay=None)": ("nadam", {"learning_rate": 0.01}, {"m": "mu", "v": "nu"}),
    "AMSGrad(0.01, beta2=0.9, corrected=True)": (
        "amsgrad", {"learning_rate": 0.01, "b2": 0.9}, {"m": "mu", "v": "nu", "s": "nu_max"},
    ),
    "AdaGrad(0.1, eps=1e-3, eps_in_root=True, initial_accumulator=0.5)": (
        "adagrad", {"learning_rate": 0.1, "eps": 1e-3, "initial_accumulator_value": 0.5}, {"s": "sum_of_squares"},
    ),
    "RMSProp(0.01, alpha=0.9, eps=1e-3, eps_in_root=True)": (
        "rmsprop", {"learning_rate": 0.01, "decay": 0.9, "eps": 1e-3}, {"v": "nu"},
    ),
    "RMSProp(0.01, alpha=0.9, eps=1e-3, eps_in_root=True, centred=True)": (
        "rmsprop", {"learning_rate": 0.01, "decay": 0.9, "eps": 1e-3, "centered": True}, {"v": "nu", "a": "mu"},
    ),
    "RAdam(0.01, eps=1e-3, eps_corrected=True)": (
        "radam", {"learning_rate": 0.01, "eps": 1e-3}, {"m": "mu", "v": "nu"},
    ),
}  # fmt: skip


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
        "counts": rng.poisson(1.5, (7, 5)).astype(np.float64),
    }
    targets |= {"halves": targets["real"][:, :2], "signs": np.sign(targets["real"])}
    for name, (kind, function) in LOSSES.items():
        t = torch.tensor(z[:, :4] if kind == "halves" else z, requires_grad=True)  # two outputs for each target
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


def layers(rng, out):
    """6-7-4 with tanh, a layer in between, cross-entropy: loss and gradient of every parameter in training and in
    evaluation; statistics before and after a step of training."""
    x, y = rng.normal(size=(9, 6)), rng.integers(0, 4, 9)
    out["layer.x"], out["layer.y"] = x, y
    for name, make in LAYERS.items():
        model = torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.Tanh(), make(7), torch.nn.Linear(7, 4))
        first, _, layer, last = model
        named = {"w1": first.weight, "b1": first.bias, "gamma2": layer.weight, "beta2": layer.bias, "w3": last.weight,
                 "b3": last.bias}  # fmt: skip
        kept = {"mean2": "running_mean", "variance2": "running_var"}
        kept = {mine: getattr(layer, theirs) for mine, theirs in kept.items() if hasattr(layer, theirs)}
        with torch.no_grad():
            for parameter in named.values():
                parameter[...] = torch.tensor(rng.normal(size=parameter.shape))
            for statistic in kept.values():
                statistic[...] = torch.tensor(rng.uniform(0.5, 1.5, size=statistic.shape))
        for key, tensor in {**named, **kept}.items():
            out[f"layer.{name}.{key}"] = tensor.detach().numpy().T.copy()
        for mode in ("evaluation", "training"):
            model.train(mode == "training")
            model.zero_grad()
            loss = F.cross_entropy(model(torch.tensor(x)), torch.tensor(y))
            loss.backward()
            out[f"layer.{name}.{mode}.loss"] = loss.detach().numpy()
            for key, parameter in named.items():
                out[f"layer.{name}.{mode}.d{key}"] = parameter.grad.numpy().T.copy()
        for key, statistic in kept.items():
            out[f"layer.{name}.next.{key}"] = statistic.numpy().copy()


def images(rng, out):
    """Layers on images: output, gradients of the input and of the parameters, all in this package's order of axes."""
    x = rng.normal(size=(17, 6, 5, 4))
    out["image.x"] = x
    for name, layer in IMAGE_LAYERS.items():
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter[...] = torch.tensor(rng.normal(size=parameter.shape))
        inputs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
        y = layer(inputs)
        dy = torch.tensor(rng.normal(size=y.shape))
        y.backward(dy)
        found = {"y": y, "dy": dy, "dx": inputs.grad}
        for kind, parameter in layer.named_parameters():
            found |= {kind[0]: parameter, f"d{kind[0]}": parameter.grad}
        for key, tensor in found.items():
            array = tensor.detach().numpy()
            axes = (2, 3, 1, 0) if key in ("w", "dw") else (0, 2, 3, 1)
            out[f"image.{name}.{key}"] = (array.transpose(axes) if array.ndim == 4 else array).copy()


# Language models: tokens (5, 7) of a vocabulary of 11, two heads of 3 columns, the padding token 0.
SEQUENCES = {"causal": (4, None), "padding": (4, 0), "gpt": (11, None)}


def attention(p, path, x, mask):
    """Attention of 2 heads by torch's own kernel, with parameters by this package's names. mask: True where a position
    is seen."""
    rows, t, n = x.shape
    qkv = (x @ p[f"w_qkv{path}"] + p[f"b_qkv{path}"]).reshape(rows, t, 3, 2, n // 2)
    q, k, v = (part.squeeze(2).transpose(1, 2) for part in qkv.split(1, 2))
    y = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).reshape(rows, t, n)
    return y @ p[f"w_out{path}"] + p[f"b_out{path}"]


def layer_norm(p, path, x):
    return F.layer_norm(x, x.shape[-1:], p[f"gamma{path}"], p[f"beta{path}"])


def block(p, path, x, mask):
    h = x + attention(p, f"{path}.1.2", layer_norm(p, f"{path}.1.1", x), mask)
    f = layer_norm(p, f"{path}.2.1", h) @ p[f"w{path}.2.2"] + p[f"b{path}.2.2"]
    return h + F.gelu(f, approximate="tanh") @ p[f"w{path}.2.3"] + p[f"b{path}.2.3"]


def sequence_model(name, p, x):
    """Logits (rows, T, outputs) of tokens x."""
    t = x.shape[1]
    z = F.embedding(x, p["w1"]) + p["p2"]
    mask = torch.ones(t, t, dtype=bool).tril() if SEQUENCES[name][1] is None else (x != 0)[:, None, None, :]
    if name == "gpt":
        z = block(p, "5", block(p, "4", z, mask), mask)
        return layer_norm(p, "6", z) @ p["w1"].T
    return attention(p, "3", z, mask) @ p["w4"] + p["b4"]


def sequences(rng, out):
    """Loss and gradient of every parameter of small language models."""
    x, n = rng.integers(1, 11, (5, 7)), 6
    x[1, 4:] = x[3, 2:] = 0
    out["sequence.x"] = x
    of_attention = {"w_qkv": (n, 3 * n), "b_qkv": (3 * n,), "w_out": (n, n), "b_out": (n,)}
    norm = {"gamma": (n,), "beta": (n,)}
    for name, (outputs, _) in SEQUENCES.items():
        y = rng.integers(0, outputs, x.shape)
        shapes = {"w1": (11, n), "p2": (7, n)}
        if name != "gpt":
            shapes |= {f"{key}3": shape for key, shape in of_attention.items()} | {"w4": (n, outputs), "b4": (outputs,)}
        for i in (4, 5) if name == "gpt" else ():
            shapes |= {f"{key}{i}.1.1": shape for key, shape in norm.items()}
            shapes |= {f"{key}{i}.1.2": shape for key, shape in of_attention.items()}
            shapes |= {f"{key}{i}.2.1": shape for key, shape in norm.items()}
            shapes |= {f"w{i}.2.2": (n, 24), f"b{i}.2.2": (24,), f"w{i}.2.3": (24, n), f"b{i}.2.3": (n,)}
        if name == "gpt":
            shapes |= {f"{key}6": shape for key, shape in norm.items()}
        p = {key: torch.tensor(rng.normal(0, 0.5, shape), requires_grad=True) for key, shape in shapes.items()}
        logits = sequence_model(name, p, torch.tensor(x))
        loss = F.cross_entropy(logits.reshape(-1, outputs), torch.tensor(y.reshape(-1)))
        loss.backward()
        out[f"sequence.{name}.y"], out[f"sequence.{name}.loss"] = y, loss.detach().numpy()
        out[f"sequence.{name}.logits"] = logits.detach().numpy()
        for key, tensor in p.items():
            out[f"sequence.{name}.{key}"] = tensor.detach().numpy()
            out[f"sequence.{name}.d{key}"] = tensor.grad.numpy()


class Conv1D(torch.nn.Module):
    """A dense layer whose matrix is (in, out), as in Hugging Face's GPT-2."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(torch.zeros(n_in, n_out)), torch.nn.Parameter(torch.zeros(n_out))

    def forward(self, x):
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).reshape(*x.shape[:-1], -1)


class GPT2Block(torch.nn.Module):
    """A block with the names and the buffers of Hugging Face's, written after the paper's code."""

    def __init__(self, n, t, heads):
        super().__init__()
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(n, eps=1e-5), torch.nn.LayerNorm(n, eps=1e-5)
        self.attn, self.mlp, self.heads = torch.nn.Module(), torch.nn.Module(), heads
        self.attn.c_attn, self.attn.c_proj = Conv1D(n, 3 * n), Conv1D(n, n)
        self.attn.register_buffer("bias", torch.ones(1, 1, t, t, dtype=torch.uint8).tril())
        self.attn.register_buffer("masked_bias", torch.tensor(-1e4))
        self.mlp.c_fc, self.mlp.c_proj = Conv1D(n, 4 * n), Conv1D(4 * n, n)

    def forward(self, x):
        rows, t, n = x.shape
        q, k, v = (
            part.view(rows, t, self.heads, n // self.heads).transpose(1, 2)
            for part in self.attn.c_attn(self.ln_1(x)).split(n, dim=2)
        )
        scores = q @ k.transpose(2, 3) / (n // self.heads) ** 0.5
        scores = torch.where(self.attn.bias.bool(), scores, self.attn.masked_bias)
        x = x + self.attn.c_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, t, n))
        f = self.mlp.c_fc(self.ln_2(x))
        gelu = 0.5 * f * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (f + 0.044715 * f**3)))
        return x + self.mlp.c_proj(gelu)


def gpt2(rng, out):
    """Weights by their names in Hugging Face's files, and the logits of a GPT-2 of 3 heads."""
    vocabulary, t, n, layers = 11, 7, 6, 2
    model = torch.nn.Module()
    body = model.transformer = torch.nn.Module()
    body.wte, body.wpe = torch.nn.Embedding(vocabulary, n), torch.nn.Embedding(t, n)
    body.h, body.ln_f = torch.nn.ModuleList([GPT2Block(n, t, 3) for _ in range(layers)]), torch.nn.LayerNorm(n)
    model.lm_head = torch.nn.Linear(n, vocabulary, bias=False)
    with torch.no_grad():
        for parameter in body.parameters():
            parameter[...] = torch.tensor(rng.normal(0, 0.5, parameter.shape))
    model.lm_head.weight = body.wte.weight
    x = rng.integers(0, vocabulary, (4, t))
    z = body.wte(torch.tensor(x)) + body.wpe(torch.arange(t))
    for one in body.h:
        z = one(z)
    out["gpt2.x"], out["gpt2.logits"] = x, model.lm_head(body.ln_f(z)).detach().numpy()
    for key, tensor in model.state_dict().items():
        out[f"gpt2.state.{key}"] = tensor.numpy().copy()


def recurrent(rng, out):
    """LSTM and GRU of 5 units on sequences (3, 7, 4): y, the last y, and the gradients of both."""
    x, n, u = rng.normal(size=(3, 7, 4)), 4, 5
    out["recurrent.x"] = x
    for name, kind, gates in (("LSTM", torch.nn.LSTM, 4), ("GRU", torch.nn.GRU, 3)):
        shapes = {"w_x1": (n, gates * u), "w_h1": (u, gates * u), "b1": (gates * u,)}
        if name == "GRU":
            shapes["b_h1"] = (gates * u,)
        p = {key: torch.tensor(rng.normal(0, 0.7, shape), requires_grad=True) for key, shape in shapes.items()}
        out |= {f"recurrent.{name}.{key}": tensor.detach().numpy() for key, tensor in p.items()}
        of_torch = {"weight_ih_l0": p["w_x1"].T, "weight_hh_l0": p["w_h1"].T, "bias_ih_l0": p["b1"]}
        of_torch["bias_hh_l0"] = p.get("b_h1", torch.zeros(gates * u))
        inputs = torch.tensor(x, requires_grad=True)
        every = torch.func.functional_call(kind(n, u, batch_first=True), of_torch, inputs)[0]
        for case, y in (("every", every), ("last", every[:, -1])):
            dy = torch.tensor(rng.normal(size=y.shape))
            gradients = torch.autograd.grad(y, [inputs, *p.values()], dy, retain_graph=True)
            found = {"y": y, "dy": dy} | {f"d{key}": g for key, g in zip(("x", *p), gradients, strict=True)}
            out |= {f"recurrent.{name}.{case}.{key}": tensor.detach().numpy() for key, tensor in found.items()}


class Recurrent(torch.nn.Module):
    """An LSTM, a GRU, an LSTM without biases, and a dense layer on its last state."""

    def __init__(self):
        super().__init__()
        self.lstm, self.gru = torch.nn.LSTM(3, 4, batch_first=True), torch.nn.GRU(4, 5, batch_first=True)
        self.bare = torch.nn.LSTM(5, 3, bias=False, batch_first=True)
        self.head = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.bare(self.gru(self.lstm(x)[0])[0])[0][:, -1])


class Block(torch.nn.Module):
    """A residual block with the names and the order that torchvision has."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = torch.nn.Conv2d(8, 6, 3, 2, 1, bias=False), torch.nn.BatchNorm2d(6)
        self.conv2, self.bn2 = torch.nn.Conv2d(6, 6, 3, 1, 1, bias=False), torch.nn.BatchNorm2d(6)
        self.downsample = torch.nn.Sequential(torch.nn.Conv2d(8, 6, 1, 2, bias=False), torch.nn.BatchNorm2d(6))

    def forward(self, x):
        f = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(f + self.downsample(x))


def models():
    """Models for `fastgd.models.from_torch`, and the shape of a row of x, channels first."""
    nn = torch.nn
    lenet = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(24, 10), nn.ReLU(), nn.Linear(10, 3),
    )  # fmt: skip
    resnet = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=4), Block(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    mlp = nn.Sequential(
        nn.Linear(7, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(),
        nn.Linear(6, 2),
    )  # fmt: skip
    of_images = {"lenet": (lenet, (2, 14, 16)), "resnet": (resnet, (3, 7, 8))}
    return {**of_images, "mlp": (mlp, (7,)), "recurrent": (Recurrent(), (6, 3))}


def weights(rng, out):
    """The state of models, and what they compute in evaluation; images in this package's order of axes."""
    for name, (model, shape) in models().items():
        for key, tensor in model.state_dict().items():
            if tensor.dtype == torch.float64:
                values = rng.uniform(0.5, 1.5, tensor.shape) if "var" in key else rng.normal(size=tensor.shape)
                tensor[...] = torch.tensor(values)
            out[f"weights.{name}.state.{key}"] = tensor.numpy().copy()
        x = rng.normal(size=(5, *shape))
        out[f"weights.{name}.x"] = (np.moveaxis(x, 1, -1) if len(shape) == 3 else x).copy()
        out[f"weights.{name}.y"] = model.eval()(torch.tensor(x)).detach().numpy()


class Torch:
    """Runs a torch optimizer on an array."""

    def __init__(self, name, start):
        kind, options, self.slots = TORCH_OPTIMIZERS[name]
        self.p = torch.tensor(start, requires_grad=True)
        self.optimizer = getattr(torch.optim, kind)([self.p], **options)

    def step(self, g):
        self.p.grad = torch.tensor(g)
        self.optimizer.step()

    def snapshot(self):
        """Copies of the array and of the state by slot; before the first step there may be no state."""
        state = self.optimizer.state.get(self.p, {})
        found = {slot: state[key].numpy().copy() for slot, key in self.slots.items() if state.get(key) is not None}
        return self.p.detach().numpy().copy(), found


class Optax:
    """Runs an optax optimizer on an array."""

    def __init__(self, name, start):
        import jax
        import optax

        jax.config.update("jax_enable_x64", True)
        self.array, self.apply = jax.numpy.asarray, optax.apply_updates
        kind, options, self.slots = OPTAX_OPTIMIZERS[name]
        self.optimizer = getattr(optax, kind)(**options)
        self.p = self.array(start)
        self.state = self.optimizer.init(self.p)
        self.update = jax.jit(self.optimizer.update)

    def step(self, g):
        updates, self.state = self.update(self.array(g), self.state, self.p)
        self.p = self.apply(self.p, updates)

    def snapshot(self):
        held = next(part for part in self.state if all(hasattr(part, key) for key in self.slots.values()))
        return np.array(self.p), {slot: np.array(getattr(held, key)) for slot, key in self.slots.items()}


def optimizers(rng, out):
    """Parameters and state after the RECORDED numbers of steps, and the parameters one step later."""
    start, gradients = rng.normal(size=SIZE), rng.normal(size=(STEPS + 1, SIZE))
    out["optimizer.start"], out["optimizer.gradients"], out["optimizer.looks"] = start, gradients, RECORDED
    for make, table in ((Torch, TORCH_OPTIMIZERS), (Optax, OPTAX_OPTIMIZERS)):
        for name in table:
            peer, path, states, steps = make(name, start), [], {}, []
            for t, g in enumerate(gradients):
                p, state = peer.snapshot()
                peer.step(g)
                if t in RECORDED:
                    path.append(p)
                    steps.append(peer.snapshot()[0])
                    for slot in peer.slots:
                        states.setdefault(slot, []).append(state.get(slot, np.full(SIZE, np.nan)))
            out[f"optimizer.{name}.path"], out[f"optimizer.{name}.step"] = np.array(path), np.array(steps)
            for slot, held in states.items():
                out[f"optimizer.{name}.{slot}"] = np.array(held)


if __name__ == "__main__":
    out = {}
    for part in (
        activations, losses, network, layers, images, sequences, gpt2, recurrent, weights, optimizers,
    ):  # fmt: skip
        part(np.random.default_rng(0), out)
    np.savez_compressed(pathlib.Path(__file__).with_name("peers.npz"), **out)
