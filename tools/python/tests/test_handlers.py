"""What a function's hints say of its parameters, without a broker."""

import sys
from typing import Annotated, Literal, Optional, Union

import pytest

import ecs
from ecs.handlers import Handler, type_of_hint


@pytest.mark.parametrize(
    "hint, form, may_be_left_out",
    [
        (float, "f64", False),
        (Optional[float], "f64", True),
        (Union[None, int], "i64", True),
        (Union[int, str], "any", False),
        (Union[int, str, None], "any", True),
        (Optional[Literal["a", "b"]], "enum", True),
        (Annotated[Optional[float], ecs.f64(unit="s")], "f64", False),
        (Optional[Annotated[float, ecs.f64(unit="s")]], "f64", True),
    ],
)
def test_hint_says_the_type_and_whether_it_may_be_left_out(hint, form, may_be_left_out):
    kind, is_optional = type_of_hint(hint)
    assert (kind.form, is_optional) == (form, may_be_left_out)


def test_hint_with_a_bar_is_as_optional():
    """Of Python 3.10 and newer; in 3.9 the same text is no hint, which is said."""

    def work(seconds: "float | None", mode: "Literal['a'] | None" = None):
        pass

    if sys.version_info < (3, 10):
        with pytest.raises(TypeError, match="work: .*Optional"):
            Handler("work", work)
        return
    params = {param["name"]: param for param in Handler("work", work).wire()["params"]}
    assert (params["seconds"]["type"], params["seconds"]["optional"]) == ("f64", True)
    assert (params["mode"]["type"], params["mode"]["choices"]) == ("enum", ["a"])
    assert Handler("work", work).check({"seconds": None}) == {"seconds": None}
    with pytest.raises(ecs.WrongType):
        Handler("work", work).check({"seconds": "1"})
