"""Optimizers: hyper-parameters, state, and one fused kernel each over the flat buffer of the parameters.

Formulas are those of the papers as torch.optim computes them. `weight_decay` adds weight_decay * p to the gradient,
in AdamW it shrinks p instead (decoupled). Scalars are worked out in float64, once a step. Over 400 lines: one kernel,
its loop and one class for each optimizer, which grow with their number.
"""

import math
import weakref

import numpy as np

from .buffers import aligned_zeros
from .errors import check_number, shown, type_error, value_error
from .kernel import DTYPES, In, InOut, kernel
from .schedules import SCHEDULES, Schedule, constant

FRACTION = {"low": 0.0, "high": 1.0, "high_open": True}
RANGES = {
    "momentum": FRACTION,
    "alpha": FRACTION,
    "beta1": FRACTION,
    "beta2": FRACTION,
    # The smallest normal float32: an eps that float32 rounds to 0 would divide by 0.
    "eps": {"low": float(np.finfo(np.float32).tiny)},
    "weight_decay": {"low": 0.0},
    "initial_accumulator": {"low": 0.0},
}


@kernel
def sgd_step(p: InOut("n"), g: In("n"), lr: float, weight_decay: float):
    """p <- p - lr (g + weight_decay p)."""
    p -= lr * (g + weight_decay * p)


@sgd_step.loop
def sgd_step(p, g, lr, weight_decay):
    lr, weight_decay = p.dtype.type(lr), p.dtype.type(weight_decay)
    for i in range(p.size):
        p[i] -= lr * (g[i] + weight_decay * p[i])


@kernel
def sgd_outer_step(
    b: InOut("n_out"), w: InOut("n_in", "n_out"), x: In("one", "n_in"), dy: In("one", "n_out"), lr: float
):
    """b <- b - lr dy,  w <- w - lr x^T dy: `sgd_step` for the layer y = x w + b and a minibatch of one row, whose
    gradient is never an array."""
    b -= lr * dy[0]
    w -= lr * (x.T * dy)


@sgd_outer_step.loop
def sgd_outer_step(b, w, x, dy, lr):
    lr = w.dtype.type(lr)
    for j in range(b.size):
        b[j] -= lr * dy[0, j]
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            w[i, j] -= lr * (x[0, i] * dy[0, j])


@kernel
def momentum_step(p: InOut("n"), b: InOut("n"), g: In("n"), lr: float, momentum: float, weight_decay: float):
    """b <- momentum b + d, d = g + weight_decay p;  p <- p - lr b. Polyak 1964."""
    b *= momentum
    b += g + weight_decay * p
    p -= lr * b


@momentum_step.loop
def momentum_step(p, b, g, lr, momentum, weight_decay):
    lr, momentum, weight_decay = p.dtype.type(lr), p.dtype.type(momentum), p.dtype.type(weight_decay)
    for i in range(p.size):
        b[i] = momentum * b[i] + (g[i] + weight_decay * p[i])
        p[i] -= lr * b[i]


@kernel
def nesterov_step(p: InOut("n"), b: InOut("n"), g: In("n"), lr: float, momentum: float, weight_decay: float):
    """b <- momentum b + d, d = g + weight_decay p;  p <- p - lr (d + momentum b). Sutskever et al. 2013, as
    torch.optim.SGD(nesterov=True)."""
    d = g + weight_decay * p
    b *= momentum
    b += d
    p -= lr * (d + momentum * b)


@nesterov_step.loop
def nesterov_step(p, b, g, lr, momentum, weight_decay):
    lr, momentum, weight_decay = p.dtype.type(lr), p.dtype.type(momentum), p.dtype.type(weight_decay)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        b[i] = momentum * b[i] + d
        p[i] -= lr * (d + momentum * b[i])


@kernel
def adagrad_step(
    p: InOut("n"), s: InOut("n", domain="nonnegative"), g: In("n"), lr: float, eps: float, weight_decay: float
):
    """s <- s + d^2, d = g + weight_decay p;  p <- p - lr d / (sqrt(s) + eps). Duchi et al. 2011."""
    d = g + weight_decay * p
    s += d * d
    p -= lr * d / (np.sqrt(s) + eps)


@adagrad_step.loop
def adagrad_step(p, s, g, lr, eps, weight_decay):
    lr, eps, weight_decay = p.dtype.type(lr), p.dtype.type(eps), p.dtype.type(weight_decay)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        s[i] += d * d
        p[i] -= lr * d / (np.sqrt(s[i]) + eps)


@kernel
def rmsprop_step(
    p: InOut("n"),
    v: InOut("n", domain="nonnegative"),
    g: In("n"),
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
):
    """v <- alpha v + (1 - alpha) d^2, d = g + weight_decay p;  p <- p - lr d / (sqrt(v) + eps). Tieleman & Hinton
    2012."""
    d = g + weight_decay * p
    v *= alpha
    v += (1 - alpha) * d * d
    p -= lr * d / (np.sqrt(v) + eps)


@rmsprop_step.loop
def rmsprop_step(p, v, g, lr, alpha, eps, weight_decay):
    fresh = p.dtype.type(1 - alpha)
    lr, eps, weight_decay = p.dtype.type(lr), p.dtype.type(eps), p.dtype.type(weight_decay)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        v[i] += fresh * (d * d - v[i])
        p[i] -= lr * d / (np.sqrt(v[i]) + eps)


@kernel
def adam_step(
    p: InOut("n"),
    m: InOut("n"),
    v: InOut("n", domain="nonnegative"),
    g: In("n"),
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    shrink: float,
):
    """m <- beta1 m + (1 - beta1) d,  v <- beta2 v + (1 - beta2) d^2,  d = g + weight_decay p;
    p <- shrink p - rate m / (sqrt(v) + eps).

    The bias corrections of step t are folded in by the caller, c1 = 1 - beta1^t, c2 = 1 - beta2^t:
    rate = lr sqrt(c2) / c1, eps = sqrt(c2) eps; and decoupled decay as shrink = 1 - lr decay. Kingma & Ba 2015,
    arXiv:1412.6980; Loshchilov & Hutter 2019, arXiv:1711.05101."""
    d = g + weight_decay * p
    m *= beta1
    m += (1 - beta1) * d
    v *= beta2
    v += (1 - beta2) * d * d
    p *= shrink
    p -= rate * m / (np.sqrt(v) + eps)


@adam_step.loop
def adam_step(p, m, v, g, rate, beta1, beta2, eps, weight_decay, shrink):
    fresh1, fresh2 = p.dtype.type(1 - beta1), p.dtype.type(1 - beta2)
    rate = p.dtype.type(rate)
    eps, weight_decay, shrink = p.dtype.type(eps), p.dtype.type(weight_decay), p.dtype.type(shrink)
    for i in range(p.size):
        d = g[i] + weight_decay * p[i]
        m[i] += fresh1 * (d - m[i])
        v[i] += fresh2 * (d * d - v[i])
        p[i] = shrink * p[i] - rate * m[i] / (np.sqrt(v[i]) + eps)


class Optimizer:
    """What every optimizer does: checks its hyper-parameters, holds the state, makes the step.

    learning_rate: a number > 0, a schedule of `fastgd.schedules`, or any function of the number of updates made.
    `steps` counts the updates; `state` maps the name of each slot to a list of flat arrays, one for each parameter
    array (a network is one). An optimizer drives one network, or one list of arrays, for its life.
    """

    kernel = None
    outer_kernel = None  # like `sgd_outer_step`, with scalars of `kernel`, where the rule needs no gradient array

    def __init__(self, learning_rate, **hyper):
        self.hyper = {name: check_number(name, value, **RANGES[name]) for name, value in hyper.items()}
        self.counter = np.zeros(2, np.int64)  # steps, on which the native runner counts, and changes made by hand
        self.learning_rate = learning_rate
        self.state = {}
        self._network = None

    @property
    def learning_rate(self):
        """A number, a schedule or a function of the number of updates made; may be set between two steps."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self.schedule = value if callable(value) else constant(value)
        self._learning_rate = value
        self.counter[1] += 1

    @property
    def steps(self):
        """Updates made."""
        return int(self.counter[0])

    @steps.setter
    def steps(self, value):
        self.counter[:] = value, self.counter[1] + 1

    @property
    def slots(self):
        """Names of the state arrays: what the kernel updates besides p."""
        return [name for name, a in self.kernel.arrays.items() if a.direction == "inout" and name != "p"]

    def initial(self, slot):
        """Initial value of a state array."""
        return 0.0

    def table(self, count, dtype):
        """The learning rates of the next `count` updates, and each scalar of the kernel: arrays with an element an
        update, of stride 0 where they stay the same.

        Raises TypeError or ValueError if a schedule gives what is no finite number >= 0, or one too large for dtype.
        """
        steps = np.arange(self.steps, self.steps + count)
        if isinstance(self.schedule, Schedule):
            rates = np.broadcast_to(np.asarray(self.schedule(steps), np.float64), count)
        else:
            rates = np.array([self._checked_rate(step) for step in steps.tolist()])
        once = rates[0] if rates.strides == (0,) else rates
        scalars = [np.broadcast_to(np.float64(values), count) for values in self.scalars(once, steps + 1.0)]
        for values in scalars:
            with np.errstate(over="ignore"):
                good = np.isfinite((values[:1] if values.strides == (0,) else values).astype(dtype))
            if not good.all():
                step = int(np.argmin(good))
                expected = f"a number whose step is finite in {dtype}"
                raise value_error(f"learning_rate (of step {self.steps + step + 1})", expected, float(rates[step]))
        return rates, scalars

    def _checked_rate(self, step):
        value = self.schedule(step)
        value = value.item() if isinstance(value, (np.ndarray, np.generic)) and value.size == 1 else value
        return check_number(f"learning_rate (of step {step + 1})", value, 0.0)

    def scalars(self, lr, t):
        """The scalars of the kernel at update t = 1, 2, ..., in its order."""
        raise NotImplementedError

    def check_fit(self, parameters):
        """Raises unless the state, if there is one, is for such flat parameter arrays."""
        shapes = [(p.size, p.dtype) for p in parameters]
        for arrays in self.state.values():
            held = [(s.size, s.dtype) for s in arrays]
            if held != shapes:
                raise value_error("params", f"arrays like those of the first step, {held}", shapes)

    def allocate(self, parameters):
        """Makes the state for flat parameter arrays on first use; later it must fit them."""
        self.check_fit(parameters)
        if not self.state:
            # Beside the parameters and the gradient of a network.
            slots = self.slots
            made = [aligned_zeros([p.size] * len(slots), p.dtype, quarter=2)[1] for p in parameters if slots]
            for arrays in made:
                for slot, array in zip(slots, arrays, strict=True):
                    array += self.initial(slot)
            self.state = {slot: [arrays[i] for arrays in made] for i, slot in enumerate(slots)}

    def check_network(self, network):
        """Raises unless this optimizer is free or drives this network: the state belongs to parameters."""
        if self._network is not None and self._network() is not network:
            raise value_error("optimizer", "an optimizer of this network's own", f"{self!r}, which drives another")
        self.check_fit([network.parameters])

    def bind(self, network):
        """Takes charge of a network; another one needs another optimizer."""
        self.check_network(network)
        self.allocate([network.parameters])
        self._network = weakref.ref(network)

    def step(self, params, grads):
        """Updates params in place from grads: an array and its gradient, or lists of them, of equal shapes,
        C-contiguous, float32 or float64; anything that shares its memory by DLPack (a detached torch CPU tensor) is an
        array, too.

        Raises TypeError or ValueError naming the argument; then nothing has changed.
        """
        parameters, gradients = _arrays("params", params, True), _arrays("grads", grads, False)
        if len(parameters) != len(gradients):
            raise value_error("grads", f"{len(parameters)} arrays as in params", len(gradients))
        for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
            if p.shape != g.shape or p.dtype != g.dtype:
                raise value_error(f"grads[{i}]", f"a {p.dtype} array of shape {p.shape} as in params", shown(g))
        _check_apart(parameters, gradients)
        parameters, gradients = [p.reshape(-1) for p in parameters], [g.reshape(-1) for g in gradients]
        scalars = [float(values[0]) for values in self.table(1, np.result_type(*parameters))[1]]
        self.allocate(parameters)
        for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
            self.kernel(p, *(self.state[slot][i] for slot in self.slots), g, *scalars)
        self.steps += 1

    def __getstate__(self):
        return {**vars(self), "_network": None}

    def config(self):
        """Name, hyper-parameters and schedule, to be written to a file; None for the schedule if it is the user's
        own function."""
        schedule = self.schedule.config() if type(self.schedule).__name__ in SCHEDULES else None
        return {"name": type(self).__name__, "learning_rate": schedule, **self.options()}

    def options(self):
        """Arguments of the constructor besides the learning rate."""
        return dict(self.hyper)

    def __repr__(self):
        options = "".join(f", {name}={value!r}" for name, value in self.options().items())
        return f"{type(self).__name__}({self.learning_rate!r}{options})"


def _arrays(argument, values, writable):
    """An array or a list of arrays as a list of numpy arrays that share their memory."""
    single = isinstance(values, np.ndarray) or hasattr(values, "__dlpack__")
    if not (single or isinstance(values, (list, tuple))):
        raise type_error(argument, "an array or a list of arrays", f"{shown(values)} ({type(values).__name__})")
    arrays = []
    for i, value in enumerate([values] if single else values):
        name = argument if single else f"{argument}[{i}]"
        array = _as_numpy(name, value)
        if str(array.dtype) not in DTYPES:
            raise type_error(name, "a float32 or float64 array", shown(array))
        if not (array.flags.c_contiguous and array.flags.aligned):
            raise value_error(name, "a C-contiguous, aligned array", f"strides {array.strides}")
        if writable and not array.flags.writeable:
            raise value_error(name, "a writable array", f"a read-only {shown(array)}")
        arrays.append(array)
    return arrays


def _as_numpy(argument, value):
    """A numpy array over the memory of a value."""
    if isinstance(value, np.ndarray):
        return value
    if not hasattr(value, "__dlpack__"):
        raise type_error(argument, "a float32 or float64 array", f"{shown(value)} ({type(value).__name__})")
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise type_error(argument, "a float32 or float64 array in memory numpy can share", str(error)) from None


def _check_apart(parameters, gradients):
    """Raises unless the memory of each parameter array is its own."""
    spans = [(*np.lib.array_utils.byte_bounds(p), f"params[{i}]", True) for i, p in enumerate(parameters) if p.size]
    spans += [(*np.lib.array_utils.byte_bounds(g), f"grads[{i}]", False) for i, g in enumerate(gradients) if g.size]
    spans.sort()
    end, owner, written = 0, None, False
    for low, high, name, is_parameter in spans:
        if low < end and (is_parameter or written):
            raise value_error(name, "memory of its own", f"memory shared with {owner}")
        if high > end:
            end, owner, written = high, name, is_parameter


class SGD(Optimizer):
    """Stochastic gradient descent; with momentum > 0 heavy-ball momentum, with nesterov=True Nesterov's.

    p <- p - lr (g + weight_decay p);  with momentum see `fastgd.kernels.momentum_step` and `nesterov_step`. As
    torch.optim.SGD with dampening 0.
    """

    def __init__(self, learning_rate=1e-2, *, momentum=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(learning_rate, momentum=momentum, weight_decay=weight_decay)
        if not isinstance(nesterov, bool):
            raise type_error("nesterov", "True or False", shown(nesterov))
        if nesterov and self.hyper["momentum"] == 0:
            raise value_error("momentum", "a number > 0 with nesterov=True", momentum)
        self.nesterov = nesterov
        self.kernel = sgd_step if self.hyper["momentum"] == 0 else nesterov_step if nesterov else momentum_step
        if self.kernel is sgd_step and self.hyper["weight_decay"] == 0:
            self.outer_kernel = sgd_outer_step

    def scalars(self, lr, t):
        if self.kernel is sgd_step:
            return lr, self.hyper["weight_decay"]
        return lr, self.hyper["momentum"], self.hyper["weight_decay"]

    def options(self):
        return {**self.hyper, "nesterov": self.nesterov}


class AdaGrad(Optimizer):
    """AdaGrad: s <- s + g^2;  p <- p - lr g / (sqrt(s) + eps), s starting at initial_accumulator.
    Duchi et al. 2011. As torch.optim.Adagrad with lr_decay 0 (`schedules.inverse_time` is that decay)."""

    kernel = adagrad_step

    def __init__(self, learning_rate=1e-2, *, eps=1e-10, weight_decay=0.0, initial_accumulator=0.0):
        super().__init__(learning_rate, eps=eps, weight_decay=weight_decay, initial_accumulator=initial_accumulator)

    def initial(self, slot):
        return self.hyper["initial_accumulator"]

    def scalars(self, lr, t):
        return lr, self.hyper["eps"], self.hyper["weight_decay"]


class RMSProp(Optimizer):
    """RMSProp: v <- alpha v + (1 - alpha) g^2;  p <- p - lr g / (sqrt(v) + eps). Tieleman & Hinton 2012. As
    torch.optim.RMSprop, eps outside the root."""

    kernel = rmsprop_step

    def __init__(self, learning_rate=1e-2, *, alpha=0.99, eps=1e-8, weight_decay=0.0):
        super().__init__(learning_rate, alpha=alpha, eps=eps, weight_decay=weight_decay)

    def scalars(self, lr, t):
        return lr, self.hyper["alpha"], self.hyper["eps"], self.hyper["weight_decay"]


def bias_correction(beta, t):
    """1 - beta^t for a number t, or ascending ones. Once beta^t is far below the last place of 1 the exponent stays:
    numpy is slow at powers that underflow, and the difference is 1."""
    enough = 64 * math.log(2) / -math.log(beta) if beta > 0 else 1.0
    return 1 - beta ** (enough if np.ravel(t)[0] >= enough else np.minimum(t, enough))


class Adam(Optimizer):
    """Adam: m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2,
    p <- p - lr m' / (sqrt(v') + eps),  m' = m / (1 - beta1^t),  v' = v / (1 - beta2^t).
    Kingma & Ba 2015, arXiv:1412.6980. As torch.optim.Adam: weight_decay is added to the gradient."""

    kernel = adam_step
    decoupled = False

    def __init__(self, learning_rate=1e-3, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
        super().__init__(learning_rate, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)

    def scalars(self, lr, t):
        beta1, beta2, eps, decay = self.hyper.values()
        c1, root2 = bias_correction(beta1, t), bias_correction(beta2, t) ** 0.5
        added, shrink = (0.0, 1 - lr * decay) if self.decoupled else (decay, 1.0)
        return lr * root2 / c1, beta1, beta2, eps * root2, added, shrink


class AdamW(Adam):
    """Adam with decoupled weight decay: p <- (1 - lr weight_decay) p, then as `Adam` with weight_decay 0.
    Loshchilov & Hutter 2019, arXiv:1711.05101. As torch.optim.AdamW."""

    decoupled = True

    def __init__(self, learning_rate=1e-3, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=1e-2):
        super().__init__(learning_rate, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)


OPTIMIZERS = {optimizer.__name__: optimizer for optimizer in (SGD, AdaGrad, RMSProp, Adam, AdamW)}
