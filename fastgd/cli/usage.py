"""A parser whose errors are short, and suggest options."""

import argparse
import difflib

# Options by the names that they have elsewhere.
OTHER_NAMES = {
    "lr": "--learning-rate", "verbose": "--quiet", "output": "--save", "model": "--save", "split": "--validation",
    "validation-split": "--validation", "early-stopping": "--patience", "layers": "--hidden", "units": "--hidden",
    "hidden-layers": "--hidden", "n-epochs": "--epochs", "class-weights": "--class-weight", "batch": "--batch-size",
    "n-jobs": "--threads", "random-state": "--seed", "label": "--target", "separator": "--delimiter",
    "sep": "--delimiter", "test": "--validation-file",
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Prints an error on one line, without the list of all options that `--help` shows; and for an unknown option the
    most similar one. Unlike that of argparse, its message about unknown options names the command."""

    def parse_args(self, args=None, namespace=None):
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            of = self.command(arguments.command)
            of.error(f"unrecognized arguments: {' '.join(unknown)}{of.advice(unknown)}")
        return arguments

    def command(self, name):
        """The parser of a command."""
        return next(action for action in self._actions if action.dest == "command").choices[name]

    def advice(self, unknown):
        """The option most like the first unknown one, or nothing."""
        first = next((one for one in unknown if one.startswith("-")), "").partition("=")[0]
        wanted = first.lstrip("-").replace("_", "-").lower()
        known = [option for option in self._option_string_actions if option.startswith("--")]
        meant = OTHER_NAMES.get(wanted)
        near = [meant] if meant in known else difflib.get_close_matches(f"--{wanted}", known, n=1, cutoff=0.75)
        return f"; did you mean {near[0]}?" if wanted and near else ""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (`{self.prog} --help` lists what there is)\n")
