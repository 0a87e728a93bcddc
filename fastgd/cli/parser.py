"""The command line, `fastgd train digits`: its arguments; commands.py carries out the commands. `parser` has over 60
lines, since it lists all commands and options."""

import argparse
import contextlib
import os
import sys

from ..activations import ACTIVATIONS
from ..cli import commands, datasets
from ..core.config import __version__
from ..core.interrupts import Terminated
from ..core.kernel import BACKENDS, DTYPES
from ..metrics import METRICS
from ..optimizers.base import optimizers_of_minibatches
from ..tables.target import TASKS
from . import texts, types
from .networks import ACTIVATION, HIDDEN, MODELS
from .self_check import run as self_check
from .table_data import MAX_CATEGORIES
from .usage import Parser

EXAMPLES = """examples:
  fastgd train digits
  fastgd train houses.csv --target price --hidden 128,64 --epochs 100 --patience 10 --save houses.safetensors
  fastgd predict houses.safetensors new.csv --output prices.csv
  fastgd evaluate houses.safetensors test.parquet
  fastgd train pictures/ --model small_cnn --size 32 --epochs 10
  fastgd predict pictures.safetensors new.png
  fastgd train book.txt --epochs 5
  fastgd generate book.safetensors --prompt "Once upon" --length 500
  fastgd COMMAND --help

exit codes: 0 success, 1 error (one line; --debug shows the traceback), 2 wrong usage, 130 Ctrl-C, 143 SIGTERM
"""
TRAIN = """examples:
  fastgd train digits --backend numba --hidden 128,64 --epochs 40
  fastgd train people.csv --target income --categorical zip --drop name,id
  fastgd train images.npz --target labels --hidden 512,256 --batch-size 128 --optimizer adamw
  fastgd train people.csv --target income --resume       (continues after Ctrl-C)
  fastgd train flights.csv --target late --validation-file other.csv --class-weight late=3 --na-values "?,-999"
  fastgd train pictures/ --model resnet20 --size 32      (a folder with a folder of pictures for each class)
  fastgd train pictures/ --model resnet20 --size 32 --augment flip,crop:4
  fastgd train train-images-idx3-ubyte.gz --model lenet5 --epochs 5      (MNIST's format, the labels beside it)
  fastgd train book.txt --layers 4 --heads 4 --width 128 --context 64    (a model of text)
  fastgd train book.txt other.txt --save books.safetensors --resume --epochs 10    (goes on to 10 epochs in all)
"""
PREDICT = """examples:
  fastgd predict people.safetensors new.csv
  fastgd predict people.safetensors new.parquet --keep id --probabilities --output out.csv
  fastgd predict pictures.safetensors a.png b.jpg --probabilities
"""
EVALUATE = """example:
  fastgd evaluate people.safetensors test.csv --json
  fastgd evaluate people.safetensors test.csv --confusion --metrics auc,f1
  fastgd evaluate book.safetensors other.txt             (loss, perplexity, bits a byte)
"""
GENERATE = """examples:
  fastgd generate book.safetensors --prompt "Once upon" --length 500
  fastgd generate book.safetensors --temperature 0.7 --top-k 20 --seed 1
"""
INFO = """example:
  fastgd info people.safetensors
"""
EXPORT = """example:
  fastgd export people.safetensors people.onnx
"""
FIND = """example:
  fastgd find-lr people.csv --target income --optimizer sgd --plot rates.png
"""
BENCH = """example:
  taskset -c 0 fastgd bench --backend cython
"""


# Options of the model of a text, and what they mean.
_OF_TEXT = {
    "context": "tokens that a prediction looks back on",
    "layers": "blocks of attention and dense layers",
    "heads": "heads of attention",
    "width": "channels of each token",
}


def _default(name):
    """The defaults of an option, for its help."""
    return f"default: {commands.DEFAULTS[name]}; for text: {texts.DEFAULTS[name]}"


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults of options that have one, and leaves the line breaks of the examples."""

    def _get_help_string(self, action):
        none = action.default is None or action.default is False or action.default == ""
        return action.help if none else super()._get_help_string(action)


def _add_data(one, more="", **several):
    one.add_argument("data", metavar="DATA", help=f"{datasets.KINDS}{more}", **several)
    one.add_argument("--target", type=types.name, metavar="COLUMN", help="column to predict, or array of an npz file")
    one.add_argument("--task", default="auto", choices=TASKS, help="kind of target")
    one.add_argument(
        "--categorical",
        type=types.names,
        default="",
        metavar="A,B",
        help="columns of numbers that stand for categories",
    )
    one.add_argument("--drop", type=types.names, default="", metavar="A,B", help="columns to ignore")
    one.add_argument("--missing", default="mean", choices=("mean", "median"), help="value of missing numbers")
    one.add_argument(
        "--na-values",
        type=types.names,
        default="",
        metavar="A,B",
        help="values that are missing ones, such as NA,?,-999 (--na-values=-999,? if a minus comes first)",
    )
    one.add_argument(
        "--max-categories",
        type=int,
        metavar="N",
        help=f"most categories of a column that have their own feature; others share one (default: {MAX_CATEGORIES})",
    )
    _add_drop_missing_target(one)
    _add_delimiter(one)


def _add_drop_missing_target(one, more=""):
    text = f"leave out rows of a table without a target{more}"
    one.add_argument("--drop-missing-target", action="store_true", help=text)


def _add_delimiter(one):
    tab = {"\\t": "\t"}
    one.add_argument("--delimiter", type=lambda text: tab.get(text, text), metavar="C",
                     help="delimiter of a CSV file (default: a comma)")  # fmt: skip


def _add_network(one):
    one.add_argument("--model", dest="network", choices=MODELS, help="network by name, for images (fastgd.models)")
    one.add_argument("--size", type=types.size, metavar="N|HxW",
                     help="height and width to which images are resized (default: that of all images)")  # fmt: skip
    one.add_argument(
        "--augment",
        type=types.augmentations,
        default="",
        metavar="A,B",
        help="random changes of the images in training, such as flip,crop: flip mirrors left to right, crop:N shifts "
        "by up to N pixels (without :N an eighth of the size)",
    )
    # Options of which a network by name takes only some have no default here, so that it is known which are given.
    one.add_argument("--hidden", type=types.units, metavar="N,N",
                     help=f"units of the hidden layers (default: {','.join(map(str, HIDDEN))})")  # fmt: skip
    one.add_argument(
        "--activation", help=f"activation of the hidden layers: {', '.join(ACTIVATIONS)} (default: {ACTIVATION})"
    )
    one.add_argument("--dropout", type=float, metavar="RATE",
                     help="fraction of the outputs of hidden layers that training drops (default: 0)")  # fmt: skip
    one.add_argument(
        "--tokens",
        metavar="KIND",
        help="tokens of a text: characters, bytes (of a file of any kind), or the path of a tokenizer.json (default: "
        "characters)",
    )
    for name, meaning in _OF_TEXT.items():
        text = f"for text: {meaning} (default: {texts.MODEL[name]})"
        one.add_argument(f"--{name}", type=int, metavar="N", help=text)
    names = ", ".join(optimizers_of_minibatches())
    one.add_argument("--optimizer", help=f"optimizer: {names} ({_default('optimizer')})")
    one.add_argument("--weight-decay", type=float, metavar="X", help="weight decay (default: the optimizer's)")
    one.add_argument(
        "--label-smoothing", type=float, default=0.0, help="fraction of each label that is spread over all classes"
    )
    one.add_argument("--batch-size", type=int, default=32, help="rows per minibatch; 1 is stochastic gradient descent")
    one.add_argument("--dtype", default="float32", choices=DTYPES, help="precision of the network")
    one.add_argument("--seed", type=int, default=0, help="seed of initial values, split and shuffling")
    one.add_argument("--threads", type=int, help="number of threads (default: the number of available cores)")
    _add_backend(one)


def _add_metrics(one):
    text = f"further metrics: {', '.join(METRICS)}; of one class as recall(label=2) or recall(label=late)"
    one.add_argument("--metrics", type=types.names, default="", metavar="A,B", help=text)


def _add_backend(one):
    one.add_argument("--backend", default="auto", choices=BACKENDS, help="backend that runs the kernels")


def _add_model_file(one):
    one.add_argument("model", metavar="MODEL", help="file written by `fastgd train` or `Network.save`")


def _add_unknown(one):
    one.add_argument(
        "--unknown", default="error", choices=("error", "zeros"), help="what to do with categories not trained on"
    )


def _add_model(one, **several):
    _add_model_file(one)
    one.add_argument("data", metavar="DATA", help=datasets.KINDS, **several)
    one.add_argument(
        "--target", type=types.name, metavar="ARRAY", help="array of an npz file with the targets (default: 'y')"
    )
    _add_unknown(one)
    _add_delimiter(one)
    _add_backend(one)


def parser():
    top = Parser(
        prog="fastgd",
        description="Trains neural networks by gradient descent on CPUs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"fastgd {__version__}")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    added = top.add_subparsers(dest="command", required=True)

    def command(name, run, text, epilog=""):
        one = added.add_parser(name, help=text, description=text, epilog=epilog, formatter_class=_Help)
        one.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
        one.set_defaults(run=run)
        return one

    one = command("train", commands.train, "train a network on a data set", TRAIN)
    _add_data(one, "; several texts are joined in this order, with nothing in between", nargs="+")
    _add_network(one)
    one.add_argument(
        "--learning-rate",
        type=float,
        metavar="X",
        help=f"largest learning rate; falls to 0 along a cosine ({_default('learning_rate')})",
    )
    one.add_argument(
        "--warmup",
        type=float,
        metavar="EPOCHS",
        help="epochs, such as 0.5, in which it first rises linearly (default: 0; for text: 5 %% of the epochs)",
    )
    one.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help=f"passes over the data, in all if a run is continued ({_default('epochs')})",
    )
    one.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="stop when the validation loss has not improved for N epochs, and keep the best network; 0 takes the last "
        f"epoch whatever its loss ({_default('patience')})",
    )
    one.add_argument(
        "--validation",
        type=float,
        metavar="X",
        help=f"fraction of rows, or tail of a text, to hold out; 0 is none ({_default('validation')}; digits: always a "
        "fifth)",
    )
    one.add_argument(
        "--validation-file", metavar="FILE", help="table to validate on, instead of rows that are held out"
    )
    one.add_argument(
        "--class-weight",
        type=types.class_weight,
        metavar="balanced|A=X,B=Y",
        help="weight of the rows of each class, 1 for others; balanced: all classes have the same total weight",
    )
    one.add_argument("--save", metavar="FILE", help="file for the model (default: DATA.safetensors)")
    if_it_exists = one.add_mutually_exclusive_group()
    if_it_exists.add_argument("--overwrite", action="store_true", help="replace that file if it exists")
    if_it_exists.add_argument("--resume", action="store_true", help="continue the run in that file if it exists")
    _add_metrics(one)
    one.add_argument("--plot", metavar="FILE", help="file for a picture of the loss and the metrics; '' for none")
    one.add_argument("--log", metavar="FILE", help="file to which a line of JSON is appended for each epoch")
    one.add_argument("--tensorboard", metavar="FOLDER", help="folder for logs for TensorBoard")
    one.add_argument("--sample", type=int, default=200, metavar="N",
                     help="for text: tokens that the model writes after each epoch; 0 is none")  # fmt: skip
    one.add_argument("--quiet", action="store_true", help="show no progress bar")

    one = command("predict", commands.predict, "predict the target of each row, as CSV", PREDICT)
    _add_model(one, nargs="+")
    one.add_argument("--output", metavar="FILE", help="file for the predictions (default: printed)")
    one.add_argument("--probabilities", action="store_true", help="also write the probability of each class")
    one.add_argument("--keep", type=types.names, default="", metavar="A,B", help="columns of DATA to write as well")

    one = command("evaluate", commands.evaluate, "loss and metrics of a model on data", EVALUATE)
    _add_model(one)
    _add_drop_missing_target(one, "; the model does not remember whether its training did")
    _add_metrics(one)
    one.add_argument("--confusion", action="store_true",
                     help="how often each class is taken for which, and the recall and precision of each")  # fmt: skip
    one.add_argument("--json", action="store_true", help="print a line of JSON")

    one = command("generate", commands.generate, "continue a text with a model of text", GENERATE)
    _add_model_file(one)
    one.add_argument(
        "--prompt", metavar="TEXT", help="the beginning of the text (default: a new line, if there is such a token)"
    )
    one.add_argument("--length", type=int, default=500, metavar="N", help="number of tokens to add")
    one.add_argument("--temperature", type=float, default=1.0, metavar="X",
                     help="below 1 for more probable texts, above 1 for more varied; 0: the most probable")  # fmt: skip
    one.add_argument("--top-k", type=int, metavar="N", help="draw from the N most probable tokens (default: from all)")
    one.add_argument("--top-p", type=float, metavar="X",
                     help="draw from the most probable tokens with this probability in all (default: 1)")  # fmt: skip
    one.add_argument("--seed", type=int, default=0, help="seed; the same gives the same text")
    _add_backend(one)

    one = command("info", commands.info, "describe a model file", INFO)
    _add_model_file(one)

    one = command("export", commands.export, "write a model as ONNX, its preprocessing included", EXPORT)
    _add_model_file(one)
    one.add_argument("output", metavar="FILE", help="file for the ONNX model")
    _add_unknown(one)

    one = command("find-lr", commands.find_lr, "suggest an initial learning rate (range test)", FIND)
    _add_data(one)
    _add_network(one)
    one.add_argument("--low", type=float, default=1e-6, help="learning rate of the first step")
    one.add_argument("--high", type=float, default=10.0, help="learning rate of the last step")
    one.add_argument("--steps", type=int, default=200, help="number of steps")
    one.add_argument("--plot", metavar="FILE", help="file for a picture of the test (default: none)")

    _add_backend(command("bench", commands.bench, "measure microseconds per training step on this machine", BENCH))
    about = "check this installation, as `python -m fastgd` does"
    one = command("selfcheck", lambda arguments: min(self_check(arguments.numba), 1), about)
    one.add_argument("--numba", action="store_true", help="check Numba's kernels, too: they are compiled for minutes")
    return top


@contextlib.contextmanager
def _streams_that_take_anything():
    """Context in which the standard streams write characters that their encoding lacks as escapes."""
    before = [(s, s.errors) for s in (sys.stdout, sys.stderr) if hasattr(s, "reconfigure")]
    for stream, _ in before:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in before:
            stream.reconfigure(errors=errors)


def _say(text):
    """Writes a line to the standard error, if there is one."""
    if sys.stderr is not None:
        print(text, file=sys.stderr)


def _flush():
    if sys.stdout is not None:
        sys.stdout.flush()


def _give_up_output():
    """Redirects the standard output to os.devnull, so that flushing the rest of its buffer at exit cannot fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def main(argv=None):
    """Runs the command line; returns the exit code: 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    with _streams_that_take_anything():
        return _main(argv)


def _main(argv):
    arguments = parser().parse_args(argv)
    try:
        code = arguments.run(arguments) or 0
        _flush()
        return code
    except KeyboardInterrupt as error:
        terminated = isinstance(error, Terminated)
        message = "; ".join(["terminated" if terminated else "interrupted", *getattr(error, "__notes__", [])])
        _say(f"fastgd {arguments.command}: {message}")
        return 143 if terminated else 130
    except BrokenPipeError:  # the reader, `head` say, has ended
        _give_up_output()
        return 0
    except (ValueError, TypeError, ArithmeticError, OSError, ImportError, MemoryError) as error:
        if arguments.debug:
            raise
        message = "; ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", [])])
        _say(f"fastgd {arguments.command}: {' '.join(message.split())}")
        try:
            _flush()
        except OSError:  # the standard output itself may have caused the error
            _give_up_output()
        return 1
