"""Descriptions of messages, and the check of what comes against them.

A check takes a value and where it stands, and returns what was understood: unknown fields left out, missing optional
ones filled in. It raises :class:`Mismatch` with the path of the field that is wrong.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple, Union

Check = Callable[[Any, str], Any]


class Mismatch(ValueError):
    """A field that is missing or of the wrong type."""


class _Required:
    """Marks a field without a default."""


REQUIRED = _Required()
#: A field: its check alone where it must be there, else with what it is when it is missing.
FieldSpec = Union[Check, Tuple[Check, Any]]


def _typed(what: str, is_one: Callable[[Any], bool]) -> Check:
    def check(value: Any, where: str) -> Any:
        if is_one(value):
            return value
        raise Mismatch(f"{where} is {type(value).__name__}, not {what}")

    return check


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def integer(low: int, high: int) -> Check:
    return _typed(f"an integer from {low} to {high}", lambda value: _is_integer(value) and low <= value <= high)


u16, u32, u64 = integer(0, 2**16 - 1), integer(0, 2**32 - 1), integer(0, 2**64 - 1)
i32 = integer(-(2**31), 2**31 - 1)
text = _typed("text", lambda value: isinstance(value, str))
flag = _typed("a boolean", lambda value: isinstance(value, bool))
number = _typed("a number", lambda value: isinstance(value, float) or _is_integer(value))


def anything(value: Any, where: str) -> Any:
    return value


def one_of(*words: str) -> Check:
    return _typed("one of " + ", ".join(words), lambda value: value in words)


def optional(check: Check) -> Tuple[Check, Any]:
    """A field that may be nil or missing."""
    return (lambda value, where: None if value is None else check(value, where), None)


def list_of(check: Check) -> Check:
    def check_list(value: Any, where: str) -> List[Any]:
        if not isinstance(value, (list, tuple)):
            raise Mismatch(f"{where} is {type(value).__name__}, not a list")
        return [check(entry, f"{where}[{index}]") for index, entry in enumerate(value)]

    return check_list


def map_of(check: Check) -> Check:
    def check_map(value: Any, where: str) -> Dict[str, Any]:
        if not isinstance(value, dict):
            raise Mismatch(f"{where} is {type(value).__name__}, not a map")
        return {text(key, where): check(entry, f"{where}.{key}") for key, entry in value.items()}

    return check_map


def struct(fields: Dict[str, FieldSpec]) -> Check:
    """A map with named fields."""
    specs = {name: spec if isinstance(spec, tuple) else (spec, REQUIRED) for name, spec in fields.items()}

    def check_struct(value: Any, where: str) -> Dict[str, Any]:
        if not isinstance(value, dict):
            raise Mismatch(f"{where} is {type(value).__name__}, not a map")
        understood = {}
        for name, (check, default) in specs.items():
            if name in value:
                understood[name] = check(value[name], f"{where}.{name}")
            elif default is REQUIRED:
                raise Mismatch(f"{where} has no field {name}")
            else:
                understood[name] = default() if callable(default) else default
        return understood

    return check_struct
