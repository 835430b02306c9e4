"""ECS, an experiment control system: the Python client, and agents in Python.

Ask: :func:`connect`, :class:`Client`. Host: :class:`Agent`, and types such as :func:`f64`. What goes wrong is an
:class:`EcsError` of some class. ``README.md`` beside this package has examples of everything.
"""

from .agent import VERSION, Agent
from .client import Client, connect
from .errors import (
    BadMessage,
    BadParameter,
    Busy,
    Cancelled,
    Changed,
    Conflict,
    Disconnected,
    EcsError,
    EcsTimeout,
    Forbidden,
    Gone,
    NameTaken,
    NotFound,
    NotHandled,
    NotRegistered,
    NotSet,
    OutOfRange,
    ReadOnly,
    Refuse,
    UnsupportedVersion,
    Vetoed,
    WriteOnly,
    WrongType,
)  # fmt: skip
from .feeds import Subscription, Watch
from .future import Future, collect
from .handlers import Context
from .job import RunningJob
from .records import (
    AgentStatus,
    Alarm,
    EventResults,
    Job,
    Listed,
    ListedItem,
    Message,
    Outcome,
    Progress,
    Reading,
    Span,
    Spans,
    Status,
    SubsystemStatus,
    TargetResult,
    Update,
)  # fmt: skip
from .remote import Remote
from .subsystem import Subsystem
from .trace import Trace, traced
from .values import Array, ValueType, anything, array, binary, boolean, enum, f64, i64, mapping, sequence, string

__version__ = VERSION
__all__ = [
    "Agent", "AgentStatus", "Alarm", "Array", "BadMessage", "BadParameter", "Busy", "Cancelled", "Changed", "Client",
    "Conflict", "Context", "Disconnected", "EcsError", "EcsTimeout", "EventResults", "Forbidden", "Future", "Gone",
    "Job", "Listed", "ListedItem", "Message", "NameTaken", "NotFound", "NotHandled", "NotRegistered", "NotSet",
    "OutOfRange", "Outcome", "Progress", "ReadOnly", "Reading", "Refuse", "Remote", "RunningJob", "Span", "Spans",
    "Status", "Subscription", "Subsystem", "SubsystemStatus", "TargetResult", "Trace", "UnsupportedVersion", "Update",
    "ValueType", "Vetoed", "Watch", "WriteOnly", "WrongType", "anything", "array", "binary", "boolean", "collect",
    "connect", "enum", "f64", "i64", "mapping", "sequence", "string", "traced",
]  # fmt: skip
