"""An answer that is still to come."""

from __future__ import annotations

import concurrent.futures
import time
from typing import Any, Callable, Iterable, List, Optional

from .errors import EcsTimeout
from .workers import Workers


class Future(concurrent.futures.Future):  # type: ignore[type-arg]
    """What a request returns at once. It ends by its deadline in any case, and keeps its result.

    Callbacks run on a worker thread. It works with ``concurrent.futures.wait`` and ``asyncio.wrap_future``.
    """

    def __init__(self, subject: str, trace_id: int, workers: Workers, cancel: Callable[[], Any]):
        super().__init__()
        #: What was asked, for a person.
        self.subject = subject
        #: For ``client.trace``.
        self.trace_id = trace_id
        self._workers = workers
        self._ask_to_cancel = cancel

    def result(self, timeout: Optional[float] = None) -> Any:
        """The answer; raises the :class:`~ecs.EcsError` that it ended with."""
        try:
            return super().result(timeout)
        except concurrent.futures.TimeoutError:
            if self.done():
                raise  # it ended with an EcsTimeout
            raise EcsTimeout(f"{self.subject}: no answer within {timeout} s", trace_id=self.trace_id) from None

    def cancel(self) -> bool:
        """Wants no more of it: the handlers are told, and it ends with :class:`~ecs.Cancelled`."""
        if self.done():
            return False
        self._ask_to_cancel()
        return True

    def at_end(self, task: Callable[[Any], None]) -> None:
        """For this package: on the I/O thread, or at once where it has ended."""
        super().add_done_callback(task)

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None:
        # In any case: ``await asyncio.wrap_future(…)`` waits for it.
        super().add_done_callback(lambda future: self._workers.run_in_any_case(lambda: callback(future)))


def collect(futures: Iterable[Future], timeout: Optional[float] = None, return_errors: bool = False) -> List[Any]:
    """The results of several futures, in their order, once all have ended.

    The first error is raised after that; with ``return_errors`` errors take their result's place instead. Raises
    :class:`~ecs.EcsTimeout` naming those that have not ended after ``timeout`` seconds.
    """
    futures = list(futures)
    until = None if timeout is None else time.monotonic() + timeout
    concurrent.futures.wait(futures, None if until is None else max(0.0, until - time.monotonic()))
    open_ = [future.subject for future in futures if not future.done()]
    if open_:
        raise EcsTimeout(f"no answer within {timeout} s: {', '.join(open_)}")
    outcomes = [future.exception() or future.result() for future in futures]
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if errors and not return_errors:
        raise errors[0]
    return outcomes
