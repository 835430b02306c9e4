"""Functions of a user as handlers of events, calls and jobs: their parameters, and what they may do meanwhile."""

from __future__ import annotations

import inspect
import threading
import time
import types
import typing
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

from .errors import BadParameter, Cancelled, Conflict, EcsError
from .values import ValueType, from_wire, to_wire

#: What a handler calls its first parameter where it wants to be given its context.
CONTEXT_NAMES = ("ctx", "job")
#: ``Optional[float]``, and ``float | None`` where Python has it (3.10).
_UNIONS = (typing.Union, getattr(types, "UnionType", typing.Union))
_BY_HINT: Dict[Any, str] = {
    float: "f64", int: "i64", str: "string", bool: "bool", bytes: "bytes", list: "list", tuple: "list", dict: "map",
}  # fmt: skip


def type_of_hint(hint: Any) -> Tuple[ValueType, bool]:
    """The type that a hint stands for, and whether it may be left out (``Optional``).

    ``Annotated[float, ecs.f64(unit="s", min=0)]`` says the whole type; ``Literal["a", "b"]`` is an enum.
    """
    if typing.get_origin(hint) in _UNIONS and type(None) in typing.get_args(hint):
        rest = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return (type_of_hint(rest[0])[0] if len(rest) == 1 else ValueType()), True
    for given in getattr(hint, "__metadata__", ()):
        if isinstance(given, ValueType):
            return given, False
    if hasattr(hint, "__metadata__"):
        return type_of_hint(hint.__origin__)
    origin = typing.get_origin(hint)
    if origin is typing.Literal and all(isinstance(choice, str) for choice in typing.get_args(hint)):
        return ValueType("enum", choices=typing.get_args(hint)), False
    if getattr(hint, "__module__", "") == "numpy" and getattr(hint, "__name__", "") == "ndarray":
        return ValueType("array"), False
    try:
        return ValueType(_BY_HINT.get(origin or hint, "any")), False
    except TypeError:  # a hint that cannot be looked up
        return ValueType(), False


def _written_as(function: Callable[..., Any]) -> Tuple[str, str]:
    """Where a function is written, and its name there."""
    return getattr(function, "__module__", ""), getattr(function, "__qualname__", repr(function))


class Handler:
    """A function with what its signature says of its parameters."""

    def __init__(self, name: str, function: Callable[..., Any], help: Optional[str] = None, at_once: int = 1):
        self.name = name
        self.function = function
        self.at_once = at_once
        lines = inspect.getdoc(function) or ""
        self.help = help if help is not None else lines.split("\n", 1)[0]
        self.params: Dict[str, ValueType] = {}
        self.optional: Dict[str, bool] = {}
        self._wants_context: Optional[str] = None
        #: It has ``**params``: whatever is given.
        self.takes_any = False
        hints = _hints_of(name, function)
        for param in inspect.signature(function).parameters.values():
            self._add(param, hints.get(param.name))
        self.result = ValueType() if hints.get("return") is None else type_of_hint(hints["return"])[0]

    def check_takes_the_place_of(self, before: Optional[Handler], where: str) -> None:
        """Two functions under one name: only the last would be called. The same one written anew, as when a cell of a
        notebook runs again, takes the place of the one before."""
        if before is not None and _written_as(before.function) != _written_as(self.function):
            other = _written_as(before.function)[1]
            raise Conflict(f"{where} is done by the function {other} already", hint="give this one another name")

    def _add(self, param: inspect.Parameter, hint: Any) -> None:
        if param.kind is inspect.Parameter.VAR_KEYWORD:
            self.takes_any = True
        elif param.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            raise TypeError(f"{self.name}: parameters are given by name; {param.name} cannot be")
        elif param.name in CONTEXT_NAMES or _is_context(hint):
            self._wants_context = param.name
        else:
            kind, is_optional = (ValueType(), False) if hint is None else type_of_hint(hint)
            self.params[param.name] = kind
            self.optional[param.name] = is_optional or param.default is not inspect.Parameter.empty

    def wire(self) -> Dict[str, Any]:
        """How it is described to the broker."""
        params = [{"name": name, **kind.wire(), "optional": self.optional[name]} for name, kind in self.params.items()]
        described = [] if self.takes_any else params  # a handler that describes none takes any
        return {
            "name": self.name, "help": self.help, "params": described, "result": self.result.wire(),
            "at_once": self.at_once,
        }  # fmt: skip

    def check(self, params: Mapping[str, Any]) -> Dict[str, Any]:
        """The function's arguments. Raises :class:`BadParameter` and its kin, naming the parameter."""
        arguments = {}
        for name, value in params.items():
            if name not in self.params:
                if not self.takes_any:
                    known = ", ".join(self.params) or "none"
                    raise BadParameter(f"{self.name} has no parameter {name!r}", hint=f"it has {known}")
                arguments[name] = from_wire(value)
            elif value is None and self.optional[name]:
                arguments[name] = None
            else:
                arguments[name] = from_wire(self.params[name].taken(f"{self.name}: parameter {name}", value))
        missing = [name for name in self.params if name not in params and not self.optional[name]]
        if missing:
            raise BadParameter(f"{self.name}: parameter {missing[0]} is missing ({self.params[missing[0]].allowed()})")
        return arguments

    def run(self, context: Context, params: Mapping[str, Any]) -> Any:
        """Calls the function; returns its result in the wire's form."""
        arguments = self._with_defaults(self.check(params))
        if self._wants_context is not None:
            arguments[self._wants_context] = context
        return to_wire(self.function(**arguments), f"{self.name}: result")

    def _with_defaults(self, arguments: Dict[str, Any]) -> Dict[str, Any]:
        """``Optional`` parameters without a default are None where they were left out."""
        signature = inspect.signature(self.function).parameters
        for name in self.params:
            if name not in arguments and signature[name].default is inspect.Parameter.empty:
                arguments[name] = None
        return arguments


def _hints_of(name: str, function: Callable[..., Any]) -> Dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except TypeError as error:
        raise TypeError(
            f"{name}: a hint cannot be read: {error}; Python 3.9 needs Optional[float] for float | None"
        ) from None


def _is_context(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Context)


class Context:
    """What a handler sees of whoever asks. None of its functions waits for the broker."""

    def __init__(
        self, name: str, subsystem: str, by: str, trace_id: int, deadline_s: float, tell: Callable[[Any], None]
    ):
        #: The event or call, and the subsystem that was asked.
        self.name = name
        self.subsystem = subsystem
        #: Who asks, by the broker's word.
        self.by = by
        self.trace_id = trace_id
        self._until = time.monotonic() + deadline_s
        self._tell = tell
        self._cancelled = threading.Event()

    def feedback(self, value: Any) -> None:
        """Tells the caller how far it is."""
        self._tell(to_wire(value, f"{self.name}: feedback"))

    @property
    def seconds_left(self) -> float:
        """Until the caller's deadline; 0 when it is over."""
        return max(0.0, self._until - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """True once nobody waits for the result any more: stop, and raise :class:`~ecs.Cancelled`."""
        return self._cancelled.is_set()

    def wait_cancelled(self, timeout: float) -> bool:
        """Waits at most so many seconds; True when it is cancelled. In place of ``time.sleep``."""
        return self._cancelled.wait(timeout)

    def check_cancelled(self) -> None:
        """Raises :class:`~ecs.Cancelled` if it is."""
        if self.cancelled:
            raise Cancelled(f"{self.name}: ended on request")

    def cancel(self) -> None:
        """For the agent: the caller wants no more."""
        self._cancelled.set()


def error_from(exception: BaseException, who: str) -> EcsError:
    """What the caller is told of an exception that a handler raised."""
    if isinstance(exception, EcsError):
        return exception
    kind = type(exception).__name__
    try:
        return EcsError(f"{who} failed: {kind}: {exception}")
    except Exception as worse:  # of the exception's own `__str__`
        return EcsError(f"{who} failed: {kind}, which cannot be shown: {type(worse).__name__}")
