"""Ctrl-C and SIGTERM: a stage stops between two steps, where its checkpoint is exact."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from alignloop.machine import process_rank


@contextmanager
def stop_requests(after: str = "this step") -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set an event that is looked at between steps; a second one stops at once.

    The first one is answered on stderr when it comes, because a step may take minutes. Between steps weights
    and optimizer belong together, so the checkpoint written then is exact.

    Args:
        after: what is finished first, for the answer.

    Yields:
        The event.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if process_rank() == 0:
            _answer(f"stopping after {after}; Ctrl-C again stops now")

    old = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _answer(text: str) -> None:
    """Written past Python's buffers: the handler may have interrupted a write to the same stream."""
    try:
        os.write(sys.stderr.fileno(), f"\n{text}\n".encode())
    except (OSError, ValueError):  # no stderr, or one without a file, as in a notebook
        return
