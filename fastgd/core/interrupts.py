"""Ctrl-C at a moment that suits."""

import contextlib
import signal
import threading


@contextlib.contextmanager
def held(*, pass_on=True):
    """Context in which Ctrl-C, and SIGTERM where it is handled to, wait for its end, or are dropped if they are not to
    be passed on. Gives a list that is empty until then."""
    if threading.current_thread() is not threading.main_thread():  # no other is interrupted
        yield []
        return
    numbers, pressed = (signal.SIGINT, signal.SIGTERM), []
    before = {number: signal.getsignal(number) for number in numbers if callable(signal.getsignal(number))}
    try:
        for number in before:
            signal.signal(number, lambda *told: pressed.append(told))
        yield pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if pressed and pass_on:
        before[pressed[0][0]](*pressed[0])
