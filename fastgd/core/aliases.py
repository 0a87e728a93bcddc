"""Other names under which users may choose what the package has: those of torch, Keras and scikit-learn, and any
spelling that differs in case, hyphens and underscores alone. Files always hold the package's names."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ..errors import choose, value_error

T = TypeVar("T")

# By kind, in small letters without hyphens and underscores: the package's name, or several names between which an alias
# does not decide.
ALIASES: dict[str, dict[str, str | tuple[str, ...]]] = {
    "Activation": {
        "swish": "silu", "logistic": "sigmoid", "linear": "identity", "none": "identity", "lrelu": "leaky_relu",
        "geluapproximate": "gelu_tanh", "gelunew": "gelu_tanh",
    },
    "Initializer": {},
    "Loss": {
        "meansquarederror": "mse", "squarederror": "mse", "l2": "mse", "meanabsoluteerror": "mae", "l1": "mae",
        "smoothl1": "huber", "crossentropy": "softmax_cross_entropy", "softmax": "softmax_cross_entropy",
        "categoricalcrossentropy": "softmax_cross_entropy", "sparsecategoricalcrossentropy": "softmax_cross_entropy",
        "bce": "binary_cross_entropy", "bcewithlogits": "binary_cross_entropy",
        "binarycrossentropywithlogits": "binary_cross_entropy", "poissonnll": "poisson", "kl": "kl_divergence",
        "kldiv": "kl_divergence", "kullbackleibler": "kl_divergence", "kullbackleiblerdivergence": "kl_divergence",
        "cosine": "cosine_similarity", "cosineembedding": "cosine_similarity",
        "nll": ("softmax_cross_entropy", "gaussian_nll"), "negativeloglikelihood": ("softmax_cross_entropy",
        "gaussian_nll"), "logloss": ("softmax_cross_entropy", "binary_cross_entropy"),
    },
    "Metric": {
        "acc": "accuracy", "rocauc": "auc", "auroc": "auc", "ap": "average_precision", "sensitivity": "recall",
        "f1score": "f1", "meansquarederror": "mse", "meanabsoluteerror": "mae", "rootmeansquarederror": "rmse",
        "r2score": "r2", "topkaccuracy": "top_k", "prauc": "average_precision",
    },
    "Optimizer": {"stochasticgradientdescent": "SGD"},
}  # fmt: skip
# What to do instead, by names that nothing here stands for.
INSTEAD = {"Activation": dict.fromkeys(("softmax", "logsoftmax"),
           "no activation in the last layer: the loss softmax_cross_entropy applies softmax")}  # fmt: skip


def letters(name: str) -> str:
    """A name in small letters, without hyphens, underscores and blanks."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def named(argument: str, name: object, table: Mapping[str, T], kind: str) -> T:
    """The entry of a table by its name, in any case, or by an alias of its kind. Raises as `choose`, and ValueError for
    a name that may mean several entries."""
    if not isinstance(name, str) or name in table:
        entry: T = choose(argument, name, table)
        return entry
    known: dict[str, tuple[str, ...]] = {}
    for alias, meant in ALIASES[kind].items():
        known[alias] = tuple(one for one in ((meant,) if isinstance(meant, str) else meant) if one in table)
    for own in table:
        plain = letters(own)
        known[plain] = (*known[plain], own) if plain in known and plain not in ALIASES[kind] else (own,)
    plain = letters(name)
    shorter = plain.removesuffix("loss") if kind == "Loss" else plain
    found = known.get(plain) or known.get(shorter) or ()
    if len(found) == 1:
        return table[found[0]]
    if found:
        raise value_error(argument, f"one of {', '.join(map(repr, found))}", repr(name))
    import difflib

    within = [own for own in table if letters(own) in shorter]
    near = difflib.get_close_matches(shorter, [alias for alias, meant in known.items() if len(meant) == 1], n=1)
    nearest = max(within, key=len) if within else known[near[0]][0] if near else None
    hint = f"; did you mean {nearest!r}?" if nearest else ""
    hint = f"; {INSTEAD[kind][plain]}" if plain in INSTEAD.get(kind, ()) else hint
    raise value_error(argument, f"one of {', '.join(map(repr, table))}", f"{name!r}{hint}")


def column(name: Any, columns: Iterable[str]) -> Any:
    """The one of the columns of a history that a name means: in any case, or the name that Keras gives it, such as
    "val_loss". The name itself if it means none."""
    known = list(columns)
    if not isinstance(name, str) or name in known:
        return name
    start = next((start for start in ("val_", "validation_") if name.lower().startswith(start)), "")
    rest = name[len(start) :]
    meant = f"{'validation_' if start else ''}{ALIASES['Metric'].get(letters(rest), rest)}".lower()
    return next((one for one in known if one.lower() == meant), name)
