"""Advice for users who know other libraries, for the ends of messages about unknown names: of arguments, of attributes,
and in modules. Names are compared without regard to case, hyphens and underscores."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

from .aliases import letters

F = TypeVar("F", bound=Callable[..., Any])

# Arguments by the names that they have elsewhere.
ARGUMENTS = {
    "nepochs": "epochs", "numepochs": "epochs", "maxiter": "epochs", "iterations": "epochs", "verbose": "progress",
    "validationsplit": "validation_fraction", "valsplit": "validation_fraction", "valdata": "validation_data",
    "testdata": "validation_data", "restorebestweights": "restore_best",
    "mindelta": "tolerance", "tol": "tolerance", "randomstate": "seed", "randomseed": "seed", "njobs": "num_threads",
    "threads": "num_threads", "weights": "sample_weight", "batch": "batch_size", "callback": "callbacks",
    "inputdim": "input_shape", "inputsize": "input_shape", "nfeatures": "input_shape", "opt": "optimizer",
    "weightdecay": "l2", "criterion": "loss", "lossfunction": "loss",
}  # fmt: skip
# What to do instead of giving an argument that a function does not have.
OTHERWISE = {
    "lr": "the learning rate is the optimizer's: optimizer=fastgd.Adam(1e-3)",
    "learningrate": "the learning rate is the optimizer's: optimizer=fastgd.Adam(1e-3)",
    "momentum": "momentum is the optimizer's: optimizer=fastgd.SGD(0.1, momentum=0.9)",
    "loss": "the loss is an argument of fastgd.Network",
    "optimizer": "the optimizer is an argument of fit",
    "metrics": "metrics are an argument of fit and evaluate",
    "epochs": "epochs are an argument of fit",
    "batchsize": "the size of minibatches is an argument of fit",
    "earlystopping": "patience=5 stops early, restore_best=True keeps the best epoch",
    "device": "fastgd computes on CPUs alone",
}
# Names in modules of other libraries, and what stands for them.
NAMES = {
    "linear": "Dense", "fullyconnected": "Dense", "batchnormalization": "BatchNorm", "batchnorm1d": "BatchNorm",
    "batchnorm2d": "BatchNorm", "layernormalization": "LayerNorm", "maxpooling2d": "MaxPool2D",
    "averagepooling2d": "AvgPool2D", "globalaveragepooling2d": "GlobalAvgPool2D", "adaptiveavgpool2d":
    "GlobalAvgPool2D", "multiheadattention": "SelfAttention", "model": "Network", "loadmodel": "load",
    "cosineannealing": "cosine", "cosineannealinglr": "cosine", "cosinedecay": "cosine", "onecyclelr": "one_cycle",
    "steplr": "step", "multisteplr": "piecewise", "exponentiallr": "exponential", "exponentialdecay": "exponential",
    "reducelronplateau": "reduce_on_plateau",
}  # fmt: skip
INSTEAD = {
    **dict.fromkeys(("relu", "tanh", "sigmoid", "gelu", "silu", "elu"), "activations have names: Dense(64, 'relu')"),
    "softmax": "the loss softmax_cross_entropy applies it",
    **dict.fromkeys(("nn", "optim", "keras"), "layers and optimizers are names of fastgd itself: fastgd.Dense"),
    "earlystopping": "stopping early is an argument of fit: patience=5, restore_best=True",
    "modelcheckpoint": "saving during training is an argument of fit: checkpoint='run.safetensors'",
    "learningratescheduler": "an optimizer takes a schedule as its learning rate: Adam(fastgd.schedules.cosine(...))",
    "train": "a network has the method fit",
    "dataloader": "fit makes minibatches; fastgd.minibatches(X, y) is for a loop of your own",
    "traintestsplit": "fit holds out rows: validation_fraction=0.2",
    "readcsv": "fastgd.tables.read reads tables",
}
# Attributes of networks elsewhere.
OF_NETWORKS = {
    "compile": "the loss is an argument of fastgd.Network, the optimizer one of fit",
    "summary": "print(net.describe())",
    **dict.fromkeys(("weights", "getweights", "statedict", "namedparameters", "trainableweights", "coefs"),
                    "net.views() has the arrays by name, net.parameters all in one"),
    "setweights": "write to net.parameters, or to the arrays of net.views()",
    **dict.fromkeys(("train", "eval"), "fit, train_step and forward(x, training=True) train; all else evaluates"),
    "score": "net.evaluate(X, y, metrics=['accuracy'])",
    **dict.fromkeys(("predictproba", "predictclasses"),
                    "net.predict gives the probabilities, their argmax(axis=1) the classes"),
    "saveweights": "net.save", **dict.fromkeys(("loadweights", "loadstatedict"), "fastgd.load, or net.copy_from"),
    "zerograd": "backward replaces the gradient", "step": "optimizer.step(net)",
    "trainonbatch": "net.train_step(x, y, optimizer)", "plot": "net.history.plot()",
    **dict.fromkeys(("to", "cuda", "cpu"), "fastgd computes on CPUs alone"),
    "optimizer": "the optimizer is an object of its own, an argument of fit",
    "evaluatetable": "prep = net.preprocessing; net.evaluate(prep.encode(table), prep.targets(table))",
}  # fmt: skip

# Options of optimizers by the names that they have elsewhere, and what to do instead of giving others.
OF_OPTIMIZERS = {
    "betas": ("beta1", "beta2"), "beta1": ("momentum",), "epsilon": ("eps",), "alpha": ("rho",),
    "rho": ("alpha",), "globalclipnorm": ("clip_norm",),
    "maxgradnorm": ("clip_norm",), "l2": ("weight_decay",), "emamomentum": ("ema_decay",),
    "gradientaccumulationsteps": ("accumulate",),
}  # fmt: skip
INSTEAD_OF_OPTIONS = {
    **dict.fromkeys(("schedule", "scheduler", "lrscheduler", "learningrateschedule"),
                    "a schedule is given as the learning rate: fastgd.Adam(fastgd.schedules.cosine(...))"),
    "params": "train_step and fit give the optimizer its network",
    "amsgrad": "fastgd.AMSGrad is an optimizer of its own",
    "nesterov": "fastgd.NAdam and fastgd.SGD(0.1, momentum=0.9, nesterov=True) have it",
}  # fmt: skip
# Attributes of optimizers elsewhere.
OF_STATE = {
    "zerograd": "a step leaves nothing to be cleared: each gradient replaces the last one",
    **dict.fromkeys(("lr", "paramgroups"), "optimizer.learning_rate, which may be set"),
    "applygradients": "optimizer.step(params, grads)", "minimize": "net.train_step(x, y, optimizer)",
    **dict.fromkeys(("statedict", "loadstatedict"), "net.save(path, optimizer=optimizer) and fastgd.load(path)"),
    "iterations": "optimizer.steps",
}  # fmt: skip

# Arguments of schedules, likewise.
OF_SCHEDULES = {
    **dict.fromkeys(("lr", "initiallearningrate", "baselr", "maxlr", "alpha"), ("learning_rate", "peak")),
    **dict.fromkeys(("tmax", "decaysteps", "maxiters", "totaliters", "steps", "epochs"),
                    ("total_steps", "period", "every")),
    **dict.fromkeys(("etamin", "minlr", "endlearningrate"), ("final",)), "gamma": ("factor",), "decayrate": ("factor",),
    "stepsize": ("every",), "t0": ("period",), "tmult": ("growth",), "pctstart": ("rising",), "milestones": ("steps",),
    "values": ("rates",), "boundaries": ("steps",), "divfactor": ("divisor",), "warmup": ("warmup_steps",),
}  # fmt: skip
INSTEAD_IN_SCHEDULES = {
    "monitor": "fit passes it the validation loss, or without validation data the training loss",
    "mode": "lower losses are better",
    "optimizer": "an optimizer takes the schedule as its learning rate: fastgd.Adam(schedule)",
}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like a name, or None."""
    import difflib

    own = {letters(one): one for one in known}
    near = difflib.get_close_matches(letters(name), own, n=1, cutoff=0.75)
    return own[near[0]] if near else None


def of_argument(name: str, known: Iterable[str]) -> str:
    """Advice on an unknown argument of a function with the arguments `known`."""
    return _of(name, list(known), ARGUMENTS, OTHERWISE)


def of_option(name: str, known: Iterable[str]) -> str:
    """Advice on an unknown option of an optimizer with the options `known`."""
    return _of(name, list(known), OF_OPTIMIZERS, INSTEAD_OF_OPTIONS)


def of_schedule(name: str, known: Iterable[str]) -> str:
    """Advice on an unknown argument of a schedule with the arguments `known`."""
    return _of(name, list(known), OF_SCHEDULES, INSTEAD_IN_SCHEDULES)


def _of(name: str, known: list[str], names: Mapping[str, str | tuple[str, ...]], instead: dict[str, str]) -> str:
    """Advice from a table of the names that may be meant, of which some are known, and one of what to do instead."""
    entry = names.get(letters(name), ())
    meant = [one for one in ((entry,) if isinstance(entry, str) else entry) if one in known]
    near = None if meant else nearest(name, known)
    meant = [near] if near else meant
    if meant:
        return f"; did you mean {', '.join(map(repr, meant))}?"
    return f"; {instead[letters(name)]}" if letters(name) in instead else ""


def explains_arguments(usage: str, advice: Callable[[str, Iterable[str]], str] = of_argument) -> Callable[[F], F]:
    """A decorator: the TypeError for an unknown argument says what helps, that for a missing one shows a usage."""

    def decorated(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except TypeError as error:
                signature = inspect.signature(function)
                unknown = next((name for name in kwargs if name not in signature.parameters), None)
                if unknown is None and _fits(signature, args, kwargs):
                    raise
                message = str(error)
            known = list(signature.parameters)[1:]  # without self
            raise TypeError(f"{message}{f'; for example {usage}' if unknown is None else advice(unknown, known)}")

        return cast(F, call)

    return decorated


def _fits(signature, args, kwargs):
    """Whether a function can be called with these arguments."""
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def of_name(name: str, known: Iterable[str]) -> str:
    """Advice on a name that a module with the names `known` does not have."""
    return _of(name, list(known), NAMES, INSTEAD)


def no_name(module: str, names: Iterable[str], name: str) -> AttributeError:
    """The error for a name that a module does not have. It has no `name`: Python adds no suggestion."""
    advice = "" if name.startswith("_") else of_name(name, names)
    return AttributeError(f"module {module!r} has no attribute {name!r}{advice}", obj=sys.modules[module])


def show_names(module: str) -> None:
    """Lets dir() of a module show the names of its `__all__`, and the error for an unknown name say what helps."""
    content = vars(sys.modules[module])

    def raises(name):
        raise no_name(module, content["__all__"], name)

    content["__dir__"] = lambda: sorted(content["__all__"])
    content.setdefault("__getattr__", raises)


def of_attribute(name: str, known: Iterable[str], otherwise: Mapping[str, str]) -> str:
    """Advice on an attribute that an object with the attributes `known` does not have."""
    if name.startswith("_"):
        return ""
    if letters(name) in otherwise:
        return f"; {otherwise[letters(name)]}"
    meant = nearest(name, (one for one in known if not one.startswith("_")))
    return "" if meant is None else f"; did you mean {meant!r}?"


def no_attribute(owner: object, name: str, advice: str) -> AttributeError:
    """The error of an object without an attribute. It has no `name`, so that Python adds no suggestion of its own."""
    return AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r}{advice}", obj=owner)
