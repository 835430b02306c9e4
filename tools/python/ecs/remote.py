"""A subsystem's items as plain variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List

from .errors import NotFound, NotSet, as_attribute

if TYPE_CHECKING:
    from .client import Client


class Remote:
    """``p = client.remote("x01/pump")``: ``p.pressure`` reads, ``p.setpoint = 3`` asks the owner to set.

    Each is one request, which raises what the broker or the owner says. ``p["name"]`` is for names that are no
    Python identifiers, or begin with ``_``.
    """

    __slots__ = ("_client", "_subsystem")

    def __init__(self, client: Client, subsystem: str):
        object.__setattr__(self, "_client", client)
        object.__setattr__(self, "_subsystem", subsystem)

    def __getitem__(self, item: str) -> Any:
        return self._client.get(f"{self._subsystem}/{item}")

    def __setitem__(self, item: str, value: Any) -> None:
        self._client.set(f"{self._subsystem}/{item}", value)

    def __getattr__(self, item: str) -> Any:
        if item.startswith("_"):
            raise AttributeError(item)  # questions of Python's and of IPython's are not the broker's
        try:
            return self[item]
        except (NotFound, NotSet) as error:
            raise as_attribute(error) from None

    def __setattr__(self, item: str, value: Any) -> None:
        self[item] = value

    def __dir__(self) -> List[str]:
        return sorted(self._client.show(self._subsystem).items)

    def __repr__(self) -> str:
        return f"<remote {self._subsystem}>"
