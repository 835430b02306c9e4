"""A job while an agent has it: what its handler sees, and the reports that the broker must have.

J1  Reports leave in the order in which they were made, one at a time, each again until it is answered, over any
    number of connections.
J2  A job is this agent's from `job.run` until the report of its end was answered. A `job.run` for it meanwhile
    changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, Optional

from .errors import Cancelled, EcsError, Refuse
from .handlers import Context, Handler, error_from
from .limits import PROGRESS_INTERVAL_S
from .values import from_wire

if TYPE_CHECKING:
    from .agent import Agent

_ENDS = ("rejected", "done", "failed", "cancelled")


class RunningJob(Context):
    """What a service's handler is given as ``job``."""

    def __init__(self, agent: Agent, id: int, attempt: int, service: str, params: Any):
        super().__init__(service, agent.name, "", 0, float("inf"), lambda value: None)
        self.id = id
        #: How often it was given to an agent, this time too.
        self.attempt = attempt
        self.service = service
        self.params = from_wire(params)
        self._agent = agent
        self._state = "submitted"
        self._lock = threading.Lock()
        self._progress_at = 0.0
        self._progress: Optional[Dict[str, Any]] = None
        self._is_flush_due = False
        #: Reports that were not answered; the first one is under way. Used by the I/O thread alone.
        self.reports: Deque[Dict[str, Any]] = deque()
        self.is_reporting = False

    def accept(self) -> None:
        """The parameters are good and the job will be done. Refusing is not possible any more after this."""
        with self._lock:
            if self._state == "submitted":
                self._report("accepted")

    def running(self) -> None:
        """The job is under way."""
        with self._lock:
            if self._state == "submitted":
                self._report("accepted")
            if self._state == "accepted":
                self._report("running")

    def progress(self, done: int, total: int, unit: str = "", bytes: int = 0) -> None:
        """How far it is; call it as often as it is convenient, the newest is told."""
        self.running()
        progress = {"done": int(done), "total": int(total), "unit": unit, "bytes": int(bytes)}
        with self._lock:
            self._progress = progress
            if self._is_flush_due:
                return
            self._is_flush_due = True
            wait = self._progress_at + PROGRESS_INTERVAL_S - time.monotonic()
        self._agent.later(max(0.0, wait), self._tell_progress)

    def feedback(self, value: Any) -> None:
        raise EcsError("a job has no feedback: it has progress", code="bad_parameter")

    def _tell_progress(self) -> None:
        """On the I/O thread."""
        with self._lock:
            progress, self._is_flush_due = self._progress, False
            self._progress_at = time.monotonic()
            if self._state in _ENDS or progress is None:
                return
        self._agent.tell_now("job.progress", {"id": self.id, "progress": progress})

    def _report(self, state: str, error: Optional[EcsError] = None, result: Any = None) -> None:
        self._state = state
        reason = None if error is None else error.failure()
        self._agent.report(
            self, {"id": self.id, "attempt": self.attempt, "state": state, "reason": reason, "result": result}
        )

    def run(self, handler: Handler) -> None:
        """Calls the handler on this thread, and reports the end."""
        try:
            params = self.params if isinstance(self.params, dict) else {}
            # A handler that names no parameters of its own reads `job.params`.
            result = handler.run(self, params if handler.params or handler.takes_any else {})
            self._end("done", None, result)
        except Cancelled as error:
            self._end("cancelled", error)
        except Refuse as error:
            self._end("rejected" if self._state == "submitted" else "failed", error)
        except BaseException as error:
            told = error_from(error, f"job {self.id} ({self.service})")
            is_parameter = told.code in ("bad_parameter", "wrong_type", "out_of_range")
            self._end("rejected" if self._state == "submitted" and is_parameter else "failed", told)

    def reject(self, error: EcsError) -> None:
        """It is not even begun."""
        self._end("rejected", error)

    def end_unknown(self, error: EcsError) -> None:
        """The broker thinks that this agent has it, and it has not."""
        self._end("cancelled", error)

    def _end(self, state: str, error: Optional[EcsError], result: Any = None) -> None:
        with self._lock:
            self._report(state, error, result)

    @property
    def has_ended(self) -> bool:
        return self._state in _ENDS


class Service:
    """What an agent does jobs for."""

    def __init__(
        self, handler: Handler, jobs_at_once: int, follows: Optional[str], on_kill: Optional[Callable[[Any], None]]
    ):
        self.handler = handler
        self.jobs_at_once = jobs_at_once
        self.follows = follows
        self.on_kill = on_kill

    def wire(self) -> Dict[str, Any]:
        fields = {"name": self.handler.name, "jobs_at_once": self.jobs_at_once, "help": self.handler.help}
        return fields if self.follows is None else {**fields, "follows": self.follows}


def shortened(report: Dict[str, Any], error: EcsError) -> Dict[str, Any]:
    """The report of an end that the broker does not take, without what is too much of it."""
    message = f"{report['state']}, but its report was refused: {error.message}"
    reason = EcsError(message[:1000], code=error.code).failure()
    return {**report, "state": "failed", "reason": reason, "result": None}
