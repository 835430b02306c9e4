"""Types, ranges and arrays, without a broker."""

import math

import numpy
import pytest

import ecs
from ecs import values


@pytest.mark.parametrize(
    "kind, good, bad",
    [
        (ecs.f64(min=-10, max=-2), [-10, -2.5, -2], [-1, -10.5, math.nan]),
        (ecs.f64(min=0), [0, 1e300, math.inf], [-1e-9]),
        (ecs.f64(max=5), [5, -1e300, -math.inf], [5.1]),
        (ecs.f64(), [math.nan, math.inf, 3], []),
        (ecs.i64(min=-3), [-3, 2**63 - 1], [-4, 2**63]),
        (ecs.enum("auto", "manual"), ["auto"], ["Auto", ""]),
        (ecs.string(bytes_max=2), ["ä", "ab"], ["abc", "äb"]),
        (ecs.binary(bytes_max=3), [b"", b"abc"], [b"abcd"]),
    ],
)
def test_values_within_the_range_pass_and_others_are_out_of_range(kind, good, bad):
    for value in good:
        kind.taken("item", value)
    for value in bad:
        with pytest.raises(ecs.OutOfRange, match="^item is .*allowed is "):
            kind.taken("item", value)


@pytest.mark.parametrize(
    "kind, value",
    [
        (ecs.f64(), "3"), (ecs.f64(), True), (ecs.i64(), 3.0), (ecs.i64(), False), (ecs.boolean(), 1),
        (ecs.string(), b"x"), (ecs.binary(), "x"), (ecs.sequence(), {}), (ecs.mapping(), []), (ecs.array(), [1]),
        (ecs.f64(), None), (ecs.anything(), object()), (ecs.mapping(), {1: 2}), (ecs.anything(), {"a": [{2: 3}]}),
    ],
)  # fmt: skip
def test_value_of_another_form_is_a_wrong_type_that_names_the_item(kind, value):
    with pytest.raises(ecs.WrongType, match="^x01/pump pressure"):
        kind.taken("x01/pump pressure", value)


@pytest.mark.parametrize("dtype", sorted(values.DTYPES))
def test_array_of_every_dtype_comes_back_as_it_was(dtype):
    array = numpy.arange(6).astype(values.DTYPES[dtype][1]).reshape(2, 3)
    for form in (array, array.astype(array.dtype.newbyteorder(">")), numpy.asfortranarray(array)):
        wire = ecs.array(dtype, (2, None)).taken("a", form)
        back = values.from_wire({"deep": [wire]})["deep"][0]
        assert back.dtype == array.dtype and (back == array).all()


def test_array_of_another_dtype_shape_or_size_is_refused():
    kind = ecs.array("u16", (2, None))
    with pytest.raises(ecs.WrongType, match="array of f64, not of u16"):
        kind.taken("a", numpy.zeros((2, 2)))
    with pytest.raises(ecs.WrongType, match=r"shape \[3, 2\], not \[2, any\]"):
        kind.taken("a", numpy.zeros((3, 2), "u2"))
    with pytest.raises(ecs.WrongType, match="3 bytes of data"):
        kind.taken("a", {"dtype": "u16", "shape": [2, 1], "data": b"abc"})
    with pytest.raises(ecs.WrongType, match="complex128"):
        kind.taken("a", numpy.zeros(2, "c16"))


def test_arrays_without_numpy_are_plain_arrays(monkeypatch):
    monkeypatch.setattr(values, "numpy", None)
    array = ecs.Array("u8", (2,), b"\x01\x02")
    assert values.from_wire(ecs.array("u8").taken("a", array)) == array


def test_numpy_scalars_and_tuples_become_plain_values():
    assert values.to_wire((numpy.float32(0.5), numpy.int64(3), numpy.bool_(True))) == [0.5, 3, True]


def test_map_that_only_looks_like_an_array_stays_a_map():
    odd = {"dtype": "u8", "shape": [3], "data": b"x"}
    assert values.from_wire(odd) == odd


@pytest.mark.parametrize(
    "like",
    [
        {"dtype": "u1", "shape": [-1, -3], "data": b"abc"},
        {"dtype": "u8", "shape": [-1, -3], "data": b"abc"},
        {"dtype": "u8", "shape": [1.5, 2], "data": b"abc"},
        {"dtype": "u8", "shape": [True, 3], "data": b"abc"},
        {"dtype": "u8", "shape": ["3"], "data": b"abc"},
        {"dtype": "u8", "shape": [3], "data": "abc"},
        {"dtype": "u8", "shape": [3], "data": [1, 2, 3]},
        {"dtype": "u8", "shape": [3], "data": None},
        {"dtype": ["u8"], "shape": [3], "data": b"abc"},
        {"dtype": "u8", "shape": 3, "data": b"abc"},
    ],
)
def test_map_that_only_looks_like_an_array_stays_a_map_and_is_no_array(like):
    assert values.from_wire({"inner": like}) == {"inner": like}
    with pytest.raises(ecs.WrongType, match="^item"):
        ecs.array().taken("item", like)


def test_number_that_python_has_no_form_of_is_refused():
    with pytest.raises(ecs.WrongType, match="item is longdouble|item is float128|item is float96"):
        values.to_wire(numpy.longdouble(1), "item")
    assert values.to_wire(numpy.float32(0.5)) == 0.5 and values.to_wire(numpy.int16(-3)) == -3
