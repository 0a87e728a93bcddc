"""Deferring signals until it is safe to handle them."""

import contextlib
import signal
import threading


@contextlib.contextmanager
def held(*, pass_on=True):
    """Defers SIGINT and SIGTERM until the block ends; yields a list of the signals received.

    Only signals with a Python handler are deferred. pass_on: False drops them. In a thread other than the main thread
    it does nothing, since Python handles signals in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield []
        return
    numbers, received = (signal.SIGINT, signal.SIGTERM), []
    before = {number: signal.getsignal(number) for number in numbers if callable(signal.getsignal(number))}
    try:
        for number in before:
            signal.signal(number, lambda *signal_and_frame: received.append(signal_and_frame))
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received and pass_on:
        before[received[0][0]](*received[0])


class Terminated(KeyboardInterrupt):
    """Raised by SIGTERM, which ends a run as Ctrl-C does."""


@contextlib.contextmanager
def sigterm_raises():
    """Context in which SIGTERM raises `Terminated`. It has no effect in other threads than the main one, and where
    Python could not restore the present handler."""

    def terminate(*_):
        raise Terminated

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is None:
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
