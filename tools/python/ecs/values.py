"""What a value may be: types with unit and range, arrays, and how Python's own forms map to them.

| type | Python | wire |
|---|---|---|
| `f64`, `i64` | float, int, numpy scalars | number, integer |
| `string`, `enum` | str | text |
| `boolean`, `binary` | bool, bytes | the same |
| `array` | numpy.ndarray, or :class:`Array` where there is no numpy | map of `dtype`, `shape`, `data` |
| `sequence`, `mapping`, `anything` | list, dict with text keys, any of these | the same |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from .errors import EcsError, OutOfRange, WrongType

try:
    import numpy
except ImportError:  # arrays are `Array` then
    numpy = None  # type: ignore[assignment]

#: Bytes of an element, and numpy's name of it (little-endian), by the wire's name.
DTYPES: Dict[str, Tuple[int, str]] = {
    "bool": (1, "|b1"), "u8": (1, "|u1"), "u16": (2, "<u2"), "u32": (4, "<u4"), "u64": (8, "<u8"), "i8": (1, "|i1"),
    "i16": (2, "<i2"), "i32": (4, "<i4"), "i64": (8, "<i8"), "f32": (4, "<f4"), "f64": (8, "<f8"),
}  # fmt: skip
_BY_NUMPY = {name: wire for wire, (_, name) in DTYPES.items()}
#: Most axes of an array.
AXES_MAX = 8
Number = Union[int, float]


@dataclass(frozen=True)
class Array:
    """An n-dimensional array as it goes over the wire: C order, little-endian."""

    dtype: str
    shape: Tuple[int, ...]
    data: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:
            raise WrongType(f"dtype is one of {', '.join(DTYPES)}, not {self.dtype!r}")
        if not all(type(length) is int and length >= 0 for length in self.shape):
            raise WrongType(f"a shape is of integers from 0 on, not {list(self.shape)}")
        if not isinstance(self.data, bytes):
            raise WrongType(f"the data of an array is bytes, not {_form_of(self.data)}")
        if len(self.shape) > AXES_MAX:
            raise WrongType(f"an array of {len(self.shape)} axes; at most {AXES_MAX}")
        if math.prod(self.shape) * DTYPES[self.dtype][0] != len(self.data):
            raise WrongType(f"{len(self.data)} bytes of data for shape {list(self.shape)} of {self.dtype}")

    def wire(self) -> Dict[str, Any]:
        return {"dtype": self.dtype, "shape": list(self.shape), "data": self.data}


@dataclass(frozen=True)
class ValueType:
    """Type, unit and range of an item, a parameter or a result. Made by :func:`f64` and its kin."""

    form: str = "any"
    unit: Optional[str] = None
    min: Optional[Number] = None
    max: Optional[Number] = None
    choices: Tuple[str, ...] = ()
    bytes_max: Optional[int] = None
    dtype: Optional[str] = None
    shape: Optional[Tuple[Optional[int], ...]] = None

    def wire(self) -> Dict[str, Any]:
        fields: Dict[str, Any] = {"type": self.form}
        for name in ("unit", "min", "max", "choices", "bytes_max", "dtype", "shape"):
            value = getattr(self, name)
            if value is not None and value != ():
                fields[name] = list(value) if isinstance(value, tuple) else value
        return fields

    def taken(self, what: str, value: Any) -> Any:
        """The wire's form of a value of this type; ``what`` names it in the error.

        Raises :class:`WrongType` or :class:`OutOfRange` with what was found and what is allowed.
        """
        value = to_wire(value, what)
        if not self._is_form(value):
            raise WrongType(f"{what} is {_form_of(value)}, not {self.form}")
        if self.form == "array":
            self._check_array(what, value)
        elif not self._is_within(value):
            raise OutOfRange(f"{what} is {_shown(self, value)}; allowed is {self.allowed()}")
        return float(value) if self.form == "f64" else value

    def _is_form(self, value: Any) -> bool:
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        forms = {
            "any": True,
            "bool": isinstance(value, bool),
            "i64": is_integer,
            "f64": is_integer or isinstance(value, float),
            "string": isinstance(value, str),
            "enum": isinstance(value, str),
            "bytes": isinstance(value, bytes),
            "list": isinstance(value, list),
            "map": isinstance(value, dict),
            "array": isinstance(value, dict),
        }
        return forms[self.form]

    def _is_within(self, value: Any) -> bool:
        if self.form == "i64" and not -(2**63) <= value < 2**63:
            return False
        if self.form in ("i64", "f64"):
            is_low = self.min is not None and not value >= self.min
            is_high = self.max is not None and not value <= self.max
            return not (is_low or is_high)
        if self.form == "enum":
            return value in self.choices
        if self.bytes_max is not None and self.form in ("string", "bytes"):
            return len(value.encode() if isinstance(value, str) else value) <= self.bytes_max
        return True

    def _check_array(self, what: str, value: Dict[str, Any]) -> None:
        try:
            array = Array(value["dtype"], tuple(value["shape"]), value["data"])
        except (KeyError, TypeError):
            raise WrongType(f"{what}: an array is a map of dtype, shape and data") from None
        except WrongType as error:
            raise WrongType(f"{what}: {error.message}") from None
        if self.dtype is not None and array.dtype != self.dtype:
            raise WrongType(f"{what}: an array of {array.dtype}, not of {self.dtype}")
        wanted = self.shape
        if wanted is not None and not (
            len(wanted) == len(array.shape) and all(w in (None, found) for w, found in zip(wanted, array.shape))
        ):
            axes = ", ".join("any" if axis is None else str(axis) for axis in wanted)
            raise WrongType(f"{what}: shape {list(array.shape)}, not [{axes}]")

    def allowed(self) -> str:
        """What is allowed, for a person: `0 to 10 mbar`, `auto, manual`."""
        unit = f" {self.unit}" if self.unit else ""
        if self.form == "enum":
            return ", ".join(self.choices)
        if self.min is not None and self.max is not None:
            return f"{self.min} to {self.max}{unit}"
        if self.min is not None:
            return f"{self.min}{unit} or more"
        if self.max is not None:
            return f"{self.max}{unit} or less"
        return f"at most {self.bytes_max} bytes" if self.bytes_max is not None else f"any {self.form}"


def f64(unit: Optional[str] = None, min: Optional[Number] = None, max: Optional[Number] = None) -> ValueType:
    """A number; integers are taken too. Each bound on its own, or both."""
    return ValueType("f64", unit=unit, min=min, max=max)


def i64(unit: Optional[str] = None, min: Optional[int] = None, max: Optional[int] = None) -> ValueType:
    """An integer."""
    return ValueType("i64", unit=unit, min=min, max=max)


def string(bytes_max: Optional[int] = None) -> ValueType:
    """Text."""
    return ValueType("string", bytes_max=bytes_max)


def enum(*choices: str) -> ValueType:
    """One of some words."""
    return ValueType("enum", choices=choices)


def boolean() -> ValueType:
    return ValueType("bool")


def binary(bytes_max: Optional[int] = None) -> ValueType:
    """Bytes."""
    return ValueType("bytes", bytes_max=bytes_max)


def array(dtype: Optional[str] = None, shape: Optional[Sequence[Optional[int]]] = None) -> ValueType:
    """An array; ``dtype`` as in ``f64`` or ``u16``, ``shape`` with None for an axis of any length."""
    return ValueType("array", dtype=dtype, shape=None if shape is None else tuple(shape))


def sequence() -> ValueType:
    """A list."""
    return ValueType("list")


def mapping() -> ValueType:
    """A map with text keys."""
    return ValueType("map")


def anything() -> ValueType:
    return ValueType("any")


def to_wire(value: Any, what: str = "value") -> Any:
    """The form that goes over the wire. Raises :class:`WrongType` naming what has no such form."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, Array):
        return value.wire()
    if numpy is not None and isinstance(value, numpy.ndarray):
        return _array_of(value, what)
    if numpy is not None and isinstance(value, numpy.generic):
        plain = value.item()
        if isinstance(plain, numpy.generic):  # `longdouble` has no form of Python's
            raise WrongType(f"{what} is {type(value).__name__}, which has no form on the wire")
        return to_wire(plain, what)
    if isinstance(value, Mapping):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        if wrong is not None:
            raise WrongType(f"{what}: the key {wrong!r} of a map is no text")
        return {str(key): to_wire(entry, f"{what}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_wire(entry, f"{what}[{index}]") for index, entry in enumerate(value)]
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    forms: Tuple[Any, ...] = (bool, int, float, str, bytes)
    for form in forms:  # their subclasses, an enum.IntEnum for example
        if isinstance(value, form):
            return form(value)
    raise WrongType(f"{what} is {type(value).__name__}, which has no form on the wire")


def _array_of(value: Any, what: str) -> Dict[str, Any]:
    little = value.astype(value.dtype.newbyteorder("<"), copy=False)
    name = little.dtype.str
    dtype = _BY_NUMPY.get(name)
    if dtype is None:
        raise WrongType(f"{what}: an array of {value.dtype}; it may be of {', '.join(DTYPES)}")
    return Array(dtype, tuple(int(length) for length in value.shape), little.tobytes()).wire()


def from_wire(value: Any) -> Any:
    """Python's form: what is an array becomes one, at any depth."""
    if isinstance(value, dict):
        if value.keys() == {"dtype", "shape", "data"}:
            return _array_from(value)
        return {key: from_wire(entry) for key, entry in value.items()}
    return [from_wire(entry) for entry in value] if isinstance(value, list) else value


def _array_from(value: Dict[str, Any]) -> Any:
    try:
        array_ = Array(value["dtype"], tuple(value["shape"]), value["data"])
    except (EcsError, TypeError):
        return value  # a map that only looks like one
    if numpy is None:
        return array_
    return numpy.frombuffer(array_.data, dtype=DTYPES[array_.dtype][1]).reshape(array_.shape)


def _form_of(value: Any) -> str:
    forms: List[Tuple[Any, str]] = [
        (bool, "bool"), (int, "an integer"), (float, "a number"), (str, "text"), (bytes, "bytes"), (list, "a list"),
        (dict, "a map"),
    ]  # fmt: skip
    return next((name for form, name in forms if isinstance(value, form)), "nil")


def _shown(kind: ValueType, value: Any) -> str:
    if isinstance(value, (str, bytes)) and kind.form != "enum":
        return f"{len(value.encode() if isinstance(value, str) else value)} bytes long"
    return repr(value)
