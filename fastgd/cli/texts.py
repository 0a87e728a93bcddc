"""Texts on the command line: which paths are texts, a language model for one, and its figures."""

import contextlib
import itertools
import os
import sys
import time
import unicodedata

import numpy as np

from .. import callbacks, models, text
from ..data.windows import Windows
from ..errors import check_integer, shown, value_error
from ..tables.files import READERS
from ..text.reading import ENDINGS
from .table_data import OPTIONS as OF_TABLES

# Options of text that are not given, and those whose defaults differ from those of other data.
MODEL = {"context": 64, "layers": 4, "heads": 4, "width": 128}
OPTIONS = ("tokens", *MODEL)
DEFAULTS = {"optimizer": "AdamW", "learning_rate": 1e-3, "epochs": 5, "validation": 0.1, "patience": 0}
WARMUP, CLIP_NORM = 0.05, 1.0  # a fraction of the epochs; the largest norm of a gradient
# So many bytes of a file of unknown name decide whether it is a text.
HEAD = 2**12
CONTROL = frozenset(range(32)) - frozenset(b"\t\n\r\f")


def ending(path):
    """The ending of a file name that says it is a text, or None."""
    return next((end for end in ENDINGS if path.lower().endswith(end)), None)


def is_text(path):
    """Whether a path is that of a text: a file .txt or .md, or one without an ending whose content is text; or a folder
    of files .txt or .md and no folders."""
    if os.path.isdir(path):
        with os.scandir(path) as entries:
            entries = [entry for entry in entries if entry.name[0] != "."]
        return any(e.name.lower().endswith(ENDINGS) for e in entries) and not any(e.is_dir() for e in entries)
    if ending(path):
        return True
    if os.path.splitext(path)[1] or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        head = file.read(HEAD)
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":  # a character may be cut
            return False
    return bool(head) and not CONTROL & set(head)


def check_unset(arguments):
    """Raises ValueError if an option is given that texts do not have."""
    for name in ("target", *OF_TABLES, "size", "augment", "hidden", "activation", "network", "class_weight",
                 "label_smoothing", "metrics"):  # fmt: skip
        if getattr(arguments, name, None):
            option = "model" if name == "network" else name.replace("_", "-")
            raise value_error(f"--{option}", "no such option for text", shown(getattr(arguments, name)))
    for name, default in (("task", "auto"), ("missing", "mean")):
        if getattr(arguments, name) != default:
            raise value_error(f"--{name}", "no such option for text", repr(getattr(arguments, name)))


def read_to_train(arguments, fraction):
    """(text, windows to train on, held-out part, its windows); the last two are None without a fraction."""
    check_unset(arguments)
    context = MODEL["context"] if arguments.context is None else arguments.context
    found = text.read(arguments.data, "characters" if arguments.tokens is None else arguments.tokens)
    try:
        whole = found.windows(context)  # before a split, whose error names no file
        if fraction == 0:
            return found, whole, None, None
        rest, tail = found.split(fraction)
        return found, rest.windows(context), tail, tail.windows(context)
    except text.TextError as error:
        error.add_note("--context or --validation may be smaller")
        raise


def make_network(arguments, data, options):
    """A language model for the tokens of a text."""
    given = {name: getattr(arguments, name) for name in ("layers", "heads", "width")}
    given = {name: MODEL[name] if value is None else value for name, value in given.items()}
    if check_integer("--width", given["width"], 1) % check_integer("--heads", given["heads"], 1):
        raise value_error("--heads", f"a divisor of --width = {given['width']}", given["heads"])
    return models.gpt(data.n_classes, data.X.context, **given, dropout=arguments.dropout or 0.0, **options)


def default_prompt(vocabulary):
    """What a text begins with that has no prompt: a new line, or, if that is no token, the first token that is text."""
    firsts = (vocabulary.decode(np.array([i])) for i in range(len(vocabulary)))
    for prompt in itertools.chain(["\n"], firsts):
        with contextlib.suppress(ValueError):
            if len(vocabulary.encode(prompt)):
                return prompt
    raise value_error("--prompt", f"a text, since no token of {vocabulary!r} is one", None)


def on_terminal(text):
    """A text for the standard output: in a terminal, which would obey them, control characters are escaped."""
    if sys.stdout is None or not sys.stdout.isatty():
        return text
    return "".join(repr(c)[1:-1] if c not in "\n\t" and unicodedata.category(c) == "Cc" else c for c in text)


class Samples:
    """A callback that prints a text of so many tokens after each epoch, and keeps all of them.

    texts   {epoch: text}"""

    def __init__(self, length, show):
        self.length, self.show, self.texts = length, show, {}

    def __call__(self, run):
        network = run.network
        made = network.generate(default_prompt(network.preprocessing), self.length, seed=network.seed)
        self.texts[run.epoch] = made
        self.show(f"--- after epoch {run.epoch}: {on_terminal(made.strip())}")


def samples(arguments):
    """The `Samples` of a run, or None."""
    length = check_integer("--sample", arguments.sample, 0)
    return Samples(length, print if arguments.quiet else callbacks.print_above_bars) if length else None


def generate(arguments, network):
    """Writes a prompt and its continuation to the standard output, as it comes."""
    vocabulary = network.preprocessing
    if not isinstance(vocabulary, text.Vocabulary):
        raise value_error("MODEL", "a model of text", f"{arguments.model!r}, which is none")
    if sys.stdout is None:
        raise OSError("the standard output is closed")
    given = "" if arguments.prompt is None else arguments.prompt
    prompt, waiting = default_prompt(vocabulary) if arguments.prompt is None else given, [given]

    def show(new):
        sys.stdout.write(on_terminal("".join([*waiting, new])))  # the prompt comes first, once it is known to be one
        waiting.clear()
        sys.stdout.flush()

    start = time.perf_counter()
    made = network.generate(
        prompt, arguments.length, temperature=arguments.temperature, top_k=arguments.top_k, top_p=arguments.top_p,
        seed=arguments.seed, stream=show,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if not made.endswith("\n"):
        show("\n")
    if sys.stderr is not None:
        print(
            f"{arguments.length} tokens in {seconds:.2f} s, {arguments.length / seconds:,.0f} a second", file=sys.stderr
        )


def described(path, found):
    """What a text is, as one line."""
    vocabulary = found.vocabulary
    parts = [f"{path}: {len(found):,} tokens, {len(vocabulary):,} different ones"]
    parts += [f"characters: {shown(vocabulary.characters)}"] if isinstance(vocabulary, text.Characters) else []
    return "; ".join([*parts, *found.notes])


def figures(found, loss):
    """The figures of a mean loss on a text, by name."""
    return {"loss": loss, "perplexity": text.perplexity(loss), "bits a byte": found.bits_per_byte(loss)}


def evaluate(arguments, network):
    """The number of tokens predicted, and the figures of a model on a text."""
    for name in ("metrics", "confusion"):
        if getattr(arguments, name):
            raise value_error(f"--{name}", "no such option for a model of text", shown(getattr(arguments, name)))
    if not (is_text(arguments.data) or isinstance(network.preprocessing, text.Bytes)):
        named = ", ".join([*ENDINGS, *READERS])
        expected = f"a text, since {arguments.model} is a model of text"
        raise value_error("DATA", expected, f"{arguments.data!r}, by its name none ({named})")
    found = text.read(arguments.data, network.preprocessing)
    windows: Windows = found.windows(network.input_shape[0])
    return {"tokens": windows.y.size, **figures(found, network.loss(windows.x, windows.y))}
