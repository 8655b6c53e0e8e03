"""Work on all cores, in order; and what ends when."""

from __future__ import annotations

import ctypes
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

PR_SET_PDEATHSIG = 1
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """By a signal. What is being written is to be removed; then `end_by` the signal itself."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


_stopped_by: int | None = None


def stop_on_signals() -> None:
    def stop(number: int, _: object) -> None:
        global _stopped_by
        _stopped_by = number
        raise Stopped(number)

    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, stop)


def check_stopped() -> None:
    """Python drops what is thrown in a callback of its own, such as those of a fork."""
    if _stopped_by is not None:
        raise Stopped(_stopped_by)


def end_by(stopped: Stopped) -> None:
    """Workers end with this process."""
    signal.signal(stopped.number, signal.SIG_DFL)
    os.kill(os.getpid(), stopped.number)


_work: Callable  # a worker process's own


def start_worker(work: Callable, parent: int) -> None:
    global _work
    _work = work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the cores are taken by the other workers
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # ends with its parent, however that ends
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def do_work(batch: list) -> object:
    return _work(batch)


def in_order(
    work: Callable[[list[Item]], Result], items: Iterable[Item], weight: Callable[[Item], float], processes: int
) -> Iterator[Result]:
    """work(batch) for batches of items that weigh 1 together, or more by less than the last one. Only a few batches per
    process are on their way at a time: what is read, but not yet used, does not grow with the data."""
    # Forked workers have the tokenizer that is loaded already.
    pool = ProcessPoolExecutor(processes, get_context("fork"), start_worker, (work, os.getpid()))
    under_way: deque[Future[Result]] = deque()
    try:
        for batch in batches(items, weight):
            under_way.append(pool.submit(do_work, batch))
            check_stopped()
            if len(under_way) > 2 * processes:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
            check_stopped()
    except BrokenProcessPool:
        raise SystemExit("a worker process was killed; is there memory for --processes of them?") from None
    except Stopped:
        raise  # without waiting for what is under way
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    else:
        pool.shutdown()


def batches(items: Iterable[Item], weight: Callable[[Item], float]) -> Iterator[list[Item]]:
    batch, together = [], 0.0
    for item in items:
        batch.append(item)
        together += weight(item)
        if together >= 1:
            yield batch
            batch, together = [], 0.0
    if batch:
        yield batch
