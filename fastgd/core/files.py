"""Paths, and files that are replaced as a whole: whatever happens, a path holds the old file or the new one."""

import contextlib
import os
import stat
import sys
import time

from .._plan import sync_folder
from ..errors import plain, shown, type_error, value_error

# Ending of files that are being written, and the seconds after which such a file is taken for that of a killed process.
UNFINISHED, FORGOTTEN = ".fastgd-unfinished", 3600
# Windows replaces no file that a program has open, and virus scanners open new files for a moment: for so many seconds
# `put` tries again.
IS_WINDOWS, PATIENCE = os.name == "nt", 2.0
# First bytes of files of other formats.
FOREIGN = {
    b"PK\x03\x04": "a zip archive, as torch and numpy's npz are",
    b"\x80": "a pickle, which is never opened",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a numpy array",
    b"GGUF": "a GGUF file",
    b"PAR1": "a Parquet file",
}

# Endings of files of models in other formats, and what is said of them.
OTHER_FORMATS = {
    **dict.fromkeys((".h5", ".hdf5", ".keras"), "the ending of Keras's files"),
    **dict.fromkeys((".pt", ".pth"), "the ending of torch's files"),
    **dict.fromkeys((".pkl", ".pickle", ".joblib"), "the ending of pickles"),
    ".onnx": "the ending of ONNX models, which net.to_onnx(path) and `fastgd export` write",
}


def as_path(path, argument="path"):
    try:
        path = os.fsdecode(path)
    except TypeError:
        raise type_error(argument, "a path", f"{shown(path)} ({type(path).__name__})") from None
    if not path:
        raise value_error(argument, "a path", "''")
    if os.path.isdir(path):
        raise IsADirectoryError(f"argument {argument!r}: expected a file, got the folder {path!r}")
    return path


def check_path(path, argument="path"):
    """Returns the path as a str. Raises unless it is the path of a file in a folder that exists."""
    path = as_path(path, argument)
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"argument {argument!r}: expected a file in a folder that exists, got {path!r}")
    return path


def check_file(path, argument="path"):
    """As `check_path`, for files that are replaced as a whole: raises if the path is that of a pipe, say."""
    path = check_path(path, argument)
    if os.path.exists(path) and not os.path.isfile(path):
        expected = "a regular file, or a path where there is none yet"
        raise value_error(argument, expected, f"{path!r}, a pipe, socket or device")
    return path


def check_model_file(path, argument="path"):
    """As `check_file`, for files of models: raises if the ending of the path is that of another format."""
    path = check_file(path, argument)
    other = OTHER_FORMATS.get(os.path.splitext(path)[1].lower())
    if other:
        raise value_error(argument, "a path ending in .safetensors, the format of models", f"{path!r}, {other}")
    return path


def replace_file(path, parts):
    """Replaces the file at `path`, or the file that a link there points to, atomically. parts: its bytes."""
    path = os.path.realpath(path)
    folder, name = os.path.split(path)
    _remove_forgotten(folder, name)
    sibling = os.path.join(folder, f"{_stem(name)}{os.urandom(8).hex()}{UNFINISHED}")
    try:
        with open(sibling, "xb") as file:
            if os.path.exists(path) and not IS_WINDOWS:  # which has one mode, read-only, and replaces no such file
                os.chmod(sibling, stat.S_IMODE(os.stat(path).st_mode))
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        put(sibling, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno and error.filename is None:  # a full disk
            error.filename = path
        with contextlib.suppress(FileNotFoundError, PermissionError):  # Windows removes no open file: it is forgotten
            os.remove(sibling)
        raise
    if hasattr(os, "O_DIRECTORY"):  # the new name is durable once the folder is
        try:
            sync_folder(folder)
        except OSError as error:
            error.add_note(f"{path!r} is the new file, but it may not last if the power fails now")
            raise


def put(sibling, path):
    """Renames a finished file to `path`; a file there is replaced. Raises PermissionError on Windows if a program has
    that file open."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return os.replace(sibling, path)
        except PermissionError as error:
            if not IS_WINDOWS:
                raise
            if time.monotonic() > end:
                reason = "Windows cannot replace a file that is read-only, or that a program has open or mapped"
                raise PermissionError(error.errno, reason, path) from error
            time.sleep(0.02)


def _stem(name):
    """The beginning of the names under which this file is written; names have 255 bytes at most."""
    return "." + os.fsencode(name)[:100].decode(sys.getfilesystemencoding(), "ignore") + "."


def _remove_forgotten(folder, name):
    """Removes unfinished files of processes that were killed while they wrote this file."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_stem(name)) and entry.name.endswith(UNFINISHED):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_mtime > FORGOTTEN:
                        os.remove(entry.path)


def ignored(names):
    """A note of files that are ignored."""
    different = sorted({plain(name) for name in names})
    more = f" and {len(different) - 3:,} more names" if len(different) > 3 else ""
    return [f"ignored: {', '.join(different[:3])}{more}"] if different else []
