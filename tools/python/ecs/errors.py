"""What can go wrong, as exceptions: one class for each stable code that a program may want to tell apart.

Every error has ``code`` (stable, for programs), ``message`` (what happened and with what, for people) and ``hint``
(what to do next, or None). The codes are those of ``schemas/spec/envelope.md``; one that this version does not know
arrives as a plain :class:`EcsError` with that code.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Type

from .limits import REASON_CHARS_MAX


class EcsError(Exception):
    """The base of all. Raise it in a handler, with a code, to tell the caller what went wrong."""

    code = "other"

    def __init__(
        self, message: object, *, code: Optional[str] = None, hint: Optional[object] = None, trace_id: int = 0
    ):
        #: Text, also where an exception, a path or a number was given.
        self.message = str(message)
        super().__init__(self.message)
        if code is not None:
            self.code = str(code)
        self.hint = None if hint is None else str(hint)
        #: Trace of the request that failed, for ``client.trace``; 0 where there was none.
        self.trace_id = trace_id

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def failure(self) -> Dict[str, Any]:
        """The form that goes over the wire."""
        fields = {"code": _sendable(self.code), "message": _sendable(self.message)}
        return fields if self.hint is None else {**fields, "hint": _sendable(self.hint)}


def _sendable(text: str) -> str:
    """Text that is UTF-8 in any case, and no longer than what is read of it.

    *Why?* A file's name may have half a character in it (``os.fsdecode``); that is no reason to say nothing.
    """
    told = str(text)[:REASON_CHARS_MAX].encode("utf-8", "backslashreplace")
    return told.decode()


class EcsTimeout(EcsError, TimeoutError):
    """The answer did not come in time; the message names who did not answer."""

    code = "timeout"


class Disconnected(EcsError):
    """The connection broke, or was closed, before the answer came; the request may have been carried out."""

    code = "disconnected"


class Refuse(EcsError):
    """Whoever was asked said no: raise it in a handler to veto, with the sentence that the caller is to read."""

    code = "refused"


class Vetoed(Refuse):
    """Somebody objected, or could not be asked; ``results`` has every target's end."""

    def __init__(self, message: str, results: Any, **more: Any):
        super().__init__(message, **more)
        self.results = results


class NotFound(EcsError):
    """No subsystem, item, job or service has this name; the hint has the nearest one."""

    code = "no_such_item"


class NotHandled(EcsError):
    """Nobody here answers this event or call."""

    code = "not_handled"


class NotSet(EcsError):
    """The item has no value yet."""

    code = "not_set"


class WrongType(EcsError):
    """A value of another type than the item or parameter has."""

    code = "wrong_type"


class OutOfRange(EcsError):
    """A value outside of what is allowed."""

    code = "out_of_range"


class BadParameter(EcsError):
    """A parameter is missing, unknown or contradictory."""

    code = "bad_parameter"


class BadMessage(EcsError):
    """Bytes that are not the message they claim to be, or a message that is too large."""

    code = "bad_message"


class UnsupportedVersion(BadMessage):
    """A message of another version of the protocol."""

    code = "unsupported_version"


class ReadOnly(EcsError):
    """The item cannot be set by others."""

    code = "read_only"


class WriteOnly(EcsError):
    """The item cannot be read by others."""

    code = "write_only"


class Changed(EcsError):
    """The item has changed since the revision that was named."""

    code = "changed"


class Conflict(EcsError):
    """Not possible in the present state; for example something that exists already."""

    code = "conflict"


class Busy(EcsError):
    """A limit was reached; asking again later may help."""

    code = "busy"


class Gone(EcsError):
    """The agent that was asked is not here, or died before it answered."""

    code = "agent_lost"


class Cancelled(EcsError):
    """The caller wanted no more of it. A handler raises it when it has stopped because of that."""

    code = "cancelled"


class Forbidden(EcsError):
    """The key that this side connects with may not do that."""

    code = "forbidden"


class NameTaken(EcsError):
    """Another live agent holds this name."""

    code = "name_taken"


class NotRegistered(EcsError):
    """The broker does not know this agent (any more)."""

    code = "not_registered"


class NoSuchAttribute(NotFound, AttributeError):
    """As an attribute, ``pump.presure``: ``hasattr`` and ``getattr`` with a default are to work."""


class UnsetAttribute(NotSet, AttributeError):
    """As :class:`NoSuchAttribute`."""


def as_attribute(error: EcsError) -> EcsError:
    """The same error, for who asked for an attribute."""
    kind = NoSuchAttribute if isinstance(error, NotFound) else UnsetAttribute if isinstance(error, NotSet) else None
    if kind is None:
        return error
    return kind(error.message, code=error.code, hint=error.hint, trace_id=error.trace_id)


_CLASSES = (
    EcsTimeout, Refuse, NotFound, NotHandled, NotSet, WrongType, OutOfRange, BadParameter, BadMessage,
    UnsupportedVersion, ReadOnly, WriteOnly, Changed, Conflict, Busy, Gone, Cancelled, Forbidden, NameTaken,
    NotRegistered,
)  # fmt: skip
_BY_CODE: Dict[str, Type[EcsError]] = {
    **{error.code: error for error in _CLASSES},
    **dict.fromkeys(("no_such_subsystem", "no_such_job", "no_such_service"), NotFound),
}


def error_of(failure: Mapping[str, Any], trace_id: int = 0) -> EcsError:
    """The exception for a failure that came over the wire."""
    code = failure["code"]
    kind = _BY_CODE.get(code, EcsError)
    return kind(failure["message"], code=code, hint=failure.get("hint"), trace_id=trace_id)
