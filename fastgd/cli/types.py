"""Values of options of the command line."""

import argparse
import csv
import os

from .networks import AUGMENTATIONS


def units(text):
    try:
        return [int(units) for units in text.split(",") if units]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers such as 128,64, got {text!r}") from None


def size(text):
    """The size of images: "32", or "32x48", height by width."""
    height, _, width = text.lower().partition("x")
    try:
        return int(height), int(width or height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected pixels such as 32 or 32x48, got {text!r}") from None


def augmentations(text):
    """Random changes of images, "flip,crop:2": a list of (name, padding), where a padding of None is the default."""
    changes = []
    for part in filter(None, text.lower().replace(" ", "").split(",")):
        name, colon, padding = part.partition(":")
        is_valid = name in AUGMENTATIONS and name not in dict(changes)
        is_padding = name == "crop" and padding.isdecimal() and int(padding) > 0
        if not is_valid or (colon and not is_padding):
            expected = "flip, crop, or crop:N with a padding of N > 0 pixels, each at most once"
            raise argparse.ArgumentTypeError(f"expected {expected}, such as flip,crop:2, got {text!r}")
        changes.append((name, int(padding) if colon else None))
    return changes


def names(text):
    """Names of columns, given as a row of CSV; a name that contains commas is in quotes."""
    return [name for name in next(csv.reader([name(text)]), []) if name.strip()]


def class_weight(text):
    """Weights of classes: "balanced", or pairs (class, weight) of "late=3,on-time=1"."""
    if text == "balanced":
        return text
    pairs = []
    for part in names(text):
        label, _, weight = part.rpartition("=")
        try:
            pairs.append((label.strip(), float(weight)))
        except ValueError:
            pairs.append(("", 0))
    if not pairs or not all(label for label, _ in pairs) or len(dict(pairs)) < len(pairs):
        expected = "'balanced', or a weight for each class, such as late=3,on-time=1"
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return pairs


def name(text):
    """A name as typed: in UTF-8, even if the locale has decoded its bytes otherwise."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text
