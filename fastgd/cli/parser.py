"""The command line: `fastgd train digits`. What the commands do is in commands.py. `parser` is over 60 lines: it is the
list of the commands and their options."""

import argparse
import contextlib
import csv
import os
import sys

from ..activations import ACTIVATIONS
from ..cli import commands, datasets
from ..core.config import __version__
from ..core.kernel import BACKENDS, DTYPES
from ..optimizers import OPTIMIZERS
from ..tables.columns import TASKS
from .self_check import run as selfcheck

EXAMPLES = """examples:
  fastgd train digits
  fastgd train houses.csv --target price --hidden 128,64 --epochs 100 --patience 10 --save houses.safetensors
  fastgd predict houses.safetensors new.csv --output prices.csv
  fastgd evaluate houses.safetensors test.parquet
  fastgd COMMAND --help

exit codes: 0 done, 1 an error (on one line; --debug shows where), 2 wrong usage, 130 Ctrl-C, 143 SIGTERM
"""
TRAIN = """examples:
  fastgd train digits --backend numba --hidden 128,64 --epochs 40
  fastgd train people.csv --target income --categorical zip --drop name,id
  fastgd train images.npz --target labels --hidden 512,256 --batch-size 128 --optimizer adamw
  fastgd train people.csv --target income --resume       (goes on after Ctrl-C)
"""
PREDICT = """examples:
  fastgd predict people.safetensors new.csv
  fastgd predict people.safetensors new.parquet --keep id --probabilities --output out.csv
"""
EVALUATE = """example:
  fastgd evaluate people.safetensors test.csv --json
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


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, where there are any, and examples as they stand."""

    def _get_help_string(self, action):
        none = action.default is None or action.default is False or action.default == ""
        return action.help if none else super()._get_help_string(action)


def _units(text):
    try:
        return [int(units) for units in text.split(",") if units]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers such as 128,64, got {text!r}") from None


def _names(text):
    """Names of columns, as a row of CSV: in quotes where there are commas in them."""
    return [name for name in next(csv.reader([_name(text)]), []) if name.strip()]


def _name(text):
    """A name as it was typed, in UTF-8, if the locale makes something else of its bytes."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


def _add_data(one):
    one.add_argument("data", metavar="DATA", help=datasets.KINDS)
    one.add_argument(
        "--target", type=_name, metavar="COLUMN", help="what is to be predicted: a column, or an array of an npz file"
    )
    one.add_argument("--task", default="auto", choices=TASKS, help="what the target is")
    one.add_argument("--categorical", type=_names, default="", metavar="A,B", help="columns of numbers for categories")
    one.add_argument("--drop", type=_names, default="", metavar="A,B", help="columns that are left out")
    one.add_argument("--missing", default="mean", choices=("mean", "median"), help="what missing numbers become")
    _add_delimiter(one)


def _add_delimiter(one):
    tab = {"\\t": "\t"}
    one.add_argument("--delimiter", type=lambda text: tab.get(text, text), metavar="C",
                     help="between two fields of a CSV file; a comma unless told")  # fmt: skip


def _add_network(one):
    one.add_argument("--hidden", type=_units, default="128,64", metavar="N,N", help="units of the hidden layers")
    one.add_argument("--activation", default="relu", help=f"of the hidden layers, one of: {', '.join(ACTIVATIONS)}")
    one.add_argument("--dropout", type=float, default=0.0, metavar="RATE",
                     help="part of the outputs of hidden layers that training leaves out")  # fmt: skip
    one.add_argument("--optimizer", default="Adam", help=f"one of: {', '.join(OPTIMIZERS)}")
    one.add_argument("--weight-decay", type=float, metavar="X", help="of the optimizer; its own unless told")
    one.add_argument("--label-smoothing", type=float, default=0.0, help="share of each label given to all classes")
    one.add_argument("--batch-size", type=int, default=32, help="rows of a minibatch; 1 is stochastic descent")
    one.add_argument("--dtype", default="float32", choices=DTYPES, help="precision of the network")
    one.add_argument("--seed", type=int, default=0, help="seed of the initial values and of the shuffling")
    one.add_argument("--threads", type=int, help="threads; as many as there are cores to run on unless told")
    _add_backend(one)


def _add_backend(one):
    one.add_argument("--backend", default="auto", choices=BACKENDS, help="who computes")


def _add_model_file(one):
    one.add_argument("model", metavar="MODEL", help="a file that `fastgd train` or `Network.save` wrote")


def _add_unknown(one):
    one.add_argument("--unknown", default="error", choices=("error", "zeros"), help="categories not trained on")


def _add_model(one):
    _add_model_file(one)
    one.add_argument("data", metavar="DATA", help=datasets.KINDS)
    one.add_argument(
        "--target", type=_name, metavar="ARRAY", help="of an npz file: the array with the targets (default: 'y')"
    )
    _add_unknown(one)
    _add_delimiter(one)
    _add_backend(one)


def parser():
    top = argparse.ArgumentParser(
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
    _add_data(one)
    _add_network(one)
    one.add_argument("--learning-rate", type=float, default=2e-3, help="learning rate, falling to 0 along a cosine")
    one.add_argument("--epochs", type=int, default=40, help="passes over the data")
    one.add_argument("--patience", type=int, metavar="N", help="stop after N epochs without progress, keep the best")
    one.add_argument(
        "--validation", type=float, default=0.2, help="share of the rows that is held out; 0 is none (digits: a fifth)"
    )
    one.add_argument("--class-weight", choices=("balanced",), help="rare classes count as much as others in all")
    one.add_argument("--save", metavar="FILE", help="where the model goes; DATA.safetensors unless told")
    there = one.add_mutually_exclusive_group()
    there.add_argument("--overwrite", action="store_true", help="replace that file, if there is one")
    there.add_argument("--resume", action="store_true", help="go on with the run in that file, if there is one")
    one.add_argument("--plot", metavar="FILE", help="where the loss curve goes; '' for none")
    one.add_argument("--log", metavar="FILE", help="a line of JSON for each epoch is appended to it")
    one.add_argument("--tensorboard", metavar="FOLDER", help="where logs for TensorBoard go")
    one.add_argument("--quiet", action="store_true", help="no progress bar")

    one = command("predict", commands.predict, "predict the target of each row, as CSV", PREDICT)
    _add_model(one)
    one.add_argument("--output", metavar="FILE", help="where the predictions go; printed unless told")
    one.add_argument("--probabilities", action="store_true", help="the probability of each class, too")
    one.add_argument("--keep", type=_names, default="", metavar="A,B", help="columns of DATA that are written, too")

    one = command("evaluate", commands.evaluate, "loss and metrics of a model on data", EVALUATE)
    _add_model(one)
    one.add_argument("--json", action="store_true", help="as a line of JSON")

    one = command("info", commands.info, "what is in a model file", INFO)
    _add_model_file(one)

    one = command("export", commands.export, "write a model as ONNX, its preprocessing included", EXPORT)
    _add_model_file(one)
    one.add_argument("output", metavar="FILE", help="where the ONNX model goes")
    _add_unknown(one)

    one = command("find-lr", commands.find_lr, "find a learning rate to begin with (range test)", FIND)
    _add_data(one)
    _add_network(one)
    one.add_argument("--low", type=float, default=1e-6, help="learning rate of the first step")
    one.add_argument("--high", type=float, default=10.0, help="... and of the last")
    one.add_argument("--steps", type=int, default=200, help="how many")
    one.add_argument("--plot", metavar="FILE", help="where a picture of the test goes; none unless told")

    _add_backend(command("bench", commands.bench, "microseconds a training step on this machine", BENCH))
    command("selfcheck", lambda _: min(selfcheck(), 1), "check this installation; the same as python -m fastgd")
    return top


@contextlib.contextmanager
def _streams_that_take_anything():
    """Context in which letters that the standard streams have no bytes for are written as escapes."""
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
    """Lets the standard output lead to nowhere, so that what is left in its buffer is no error at the exit."""
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
        terminated = isinstance(error, commands.Terminated)
        told = "; ".join(["terminated" if terminated else "interrupted", *getattr(error, "__notes__", [])])
        _say(f"fastgd {arguments.command}: {told}")
        return 143 if terminated else 130
    except BrokenPipeError:  # whoever reads has seen enough
        _give_up_output()
        return 0
    except (ValueError, TypeError, ArithmeticError, OSError, ImportError, MemoryError) as error:
        if arguments.debug:
            raise
        told = "; ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", [])])
        _say(f"fastgd {arguments.command}: {' '.join(told.split())}")
        try:
            _flush()
        except OSError:  # it may have been this that failed
            _give_up_output()
        return 1
