"""Every message of the control plane by its kind: the fields that this side reads and writes.

The normative text is ``schemas/spec/*.md``. What a broker of a later version sends beside these is ignored.
"""

from __future__ import annotations

from typing import Any, Dict

from .fields import (
    Check,
    FieldSpec,
    anything,
    flag,
    i32,
    list_of,
    map_of,
    number,
    one_of,
    optional,
    struct,
    text,
    u16,
    u32,
    u64,
)  # fmt: skip

Fields = Dict[str, FieldSpec]

TRACE: Fields = {"trace": u64, "span": u64, "parent": (u64, 0)}
HEADER: Fields = {
    "v": u16,
    "kind": text,
    "id": u64,
    "deadline_ms": optional(u32),
    "trace": optional(struct(TRACE)),
    "lost": (u64, 0),
}
PUBLISH_HEADER: Fields = {"v": u16, "source": text, "seq": u64, "time_ns": u64}

AGENT_STATE = one_of("starting", "ready", "gone", "missing")
JOB_STATE = one_of("submitted", "accepted", "rejected", "running", "done", "failed", "cancelled", "lost")
TARGET_END = one_of("ok", "refused", "failed", "not_handled", "gone", "timeout", "cancelled")
SEVERITY = one_of("info", "warn", "alarm")
FORM = one_of("any", "bool", "i64", "f64", "string", "enum", "bytes", "array", "list", "map")

FAILURE: Fields = {"code": text, "message": text, "hint": optional(text)}
READING: Fields = {"value": anything, "revision": u64, "time_ns": u64}
VALUE_TYPE: Fields = {
    "type": (FORM, "any"),
    "unit": optional(text),
    "min": optional(number),
    "max": optional(number),
    "choices": (list_of(text), list),
    "bytes_max": optional(u64),
    "dtype": optional(text),
    "shape": optional(list_of(optional(u64)[0])),
}
ITEM: Fields = {
    "name": text,
    **VALUE_TYPE,
    "help": (text, ""),
    "readable": (flag, True),
    "writable": (flag, False),
    "published": (flag, True),
    "persist": (flag, False),
}
PARAM: Fields = {"name": text, **VALUE_TYPE, "optional": (flag, False), "help": (text, "")}
HANDLED: Fields = {
    "name": text,
    "help": (text, ""),
    "params": (list_of(struct(PARAM)), list),
    "result": (struct(VALUE_TYPE), lambda: struct(VALUE_TYPE)({}, "result")),
    "at_once": (u32, 1),
}
ALARM: Fields = {"code": text, "severity": SEVERITY, "text": text, "since_ns": (u64, 0)}
RAISED_ALARM: Fields = {"subsystem": text, **ALARM, "raised": flag}
DESCRIPTION: Fields = {
    "name": text,
    "uuid": optional(text),
    "temporary": (flag, False),
    "help": (text, ""),
    "items": (list_of(struct(ITEM)), list),
    "events": (list_of(struct(HANDLED)), list),
    "calls": (list_of(struct(HANDLED)), list),
    "alarms": (list_of(struct(ALARM)), list),
}
RESTORED: Fields = {"item": text, "value": anything, "revision": u64, "time_ns": u64}
DESCRIBED: Fields = {"name": text, "uuid": text, "restored": (list_of(struct(RESTORED)), list)}
LISTED: Fields = {
    "name": text, "uuid": text, "agent": text, "state": AGENT_STATE, "temporary": flag, "help": text, "items": u32,
    "events": u32, "calls": u32, "alarms": u32, "since_ns": u64, "seen_ns": u64,
}  # fmt: skip
SUBSYSTEM_STATUS: Fields = {
    "description": struct(DESCRIPTION), "agent": text, "state": AGENT_STATE, "since_ns": u64,
}  # fmt: skip
LISTED_ITEM: Fields = {"subsystem": text, **ITEM, "reading": optional(struct(READING)), "bytes": u64}
TARGET_RESULT: Fields = {
    "target": text, "end": TARGET_END, "value": (anything, None), "reason": optional(struct(FAILURE)),
}  # fmt: skip
PARAMS = (map_of(anything), dict)
ASKED: Fields = {"params": PARAMS, "by": text}
SPAN: Fields = {
    "span": u64, "parent": u64, "kind": text, "subject": text, "from": text, "to": text, "begin_ns": u64,
    "end_ns": u64, "outcome": text,
}  # fmt: skip

#: A service as an agent offers it: its name alone, or with what else is to be known of it.
OFFER = struct({"name": text, "jobs_at_once": (u32, 1), "follows": optional(text), "help": (text, "")})
PROGRESS: Fields = {"done": u64, "total": u64, "unit": text, "bytes": u64}
JOB_RECORD: Fields = {
    "id": u64,
    "key": text,
    "service": text,
    "params": anything,
    "state": JOB_STATE,
    "cancel_requested": (flag, False),
    "agent": optional(text),
    "reason": optional(struct(FAILURE)),
    "progress": optional(struct(PROGRESS)),
    "result": (anything, None),
    "history": list_of(struct({"state": JOB_STATE, "time_ns": u64})),
    "priority": (i32, 0),
    "held": (flag, False),
    "repeat_if_lost": (flag, False),
    "attempt": (u32, 0),
    "follows": optional(u64),
    "position": optional(u32),
}
BROKER_STATUS: Fields = {
    "beamline": text, "version": text, "pid": u32, "started_ns": u64, "now_ns": u64, "received": u64,
    "malformed": u64, "undeliverable": u64, "jobs_open": u64,
}  # fmt: skip
AGENT_STATUS: Fields = {
    "name": text, "kind": text, "state": AGENT_STATE, "host": text, "pid": u32, "version": text, "since_ns": u64,
    "seen_ns": u64, "services": list_of(OFFER), "jobs": list_of(u64), "telemetry": map_of(anything),
}  # fmt: skip
CLIENT_STATUS: Fields = {"connection": text, "name": text, "requests_open": u64, "watches": u64, "lost": u64}
STATUS: Fields = {
    "broker": struct(BROKER_STATUS),
    "agents": list_of(struct(AGENT_STATUS)),
    "ready": flag,
    "clients": (list_of(struct(CLIENT_STATUS)), list),
}
REGISTER: Fields = {
    "name": text, "kind": text, "host": text, "pid": u32, "version": text, "instance": u64, "state": AGENT_STATE,
    "services": (list_of(OFFER), list), "jobs": (list_of(u64), list),
    "subsystems": (list_of(struct(DESCRIPTION)), list),
}  # fmt: skip
REGISTERED: Fields = {
    "beamline": text, "heartbeat_ms": u32, "timeout_ms": u32, "started_ns": (u64, 0),
    "subsystems": (list_of(struct(DESCRIBED)), list),
}  # fmt: skip

_ACK: Fields = {}
_ITEM_PATH: Fields = {"subsystem": text, "item": text}
_JOB_ID: Fields = {"id": u64}
_PREFIX: Fields = {"prefix": (text, "")}

_KINDS: Dict[str, Fields] = {
    "header": HEADER,
    "publish.header": PUBLISH_HEADER,
    "ack": _ACK,
    "error": FAILURE,
    "job.record": JOB_RECORD,
    "description": DESCRIPTION,
    "item": ITEM,
    "handled": HANDLED,
    "agent.register": REGISTER,
    "agent.register.reply": REGISTERED,
    "agent.heartbeat": {"state": AGENT_STATE},
    "agent.heartbeat.reply": _ACK,
    "agent.leave": _ACK,
    "agent.leave.reply": _ACK,
    "status.get": _ACK,
    "status.get.reply": STATUS,
    "telemetry": {"values": map_of(anything)},
    "subsystem.describe": {"description": struct(DESCRIPTION)},
    "subsystem.describe.reply": DESCRIBED,
    "subsystem.remove": {"name": text},
    "subsystem.remove.reply": _ACK,
    "subsystem.list": _PREFIX,
    "subsystem.list.reply": {"subsystems": list_of(struct(LISTED))},
    "subsystem.get": {"name": text},
    "subsystem.get.reply": SUBSYSTEM_STATUS,
    "kv.get": _ITEM_PATH,
    "kv.get.reply": READING,
    "kv.set": {**_ITEM_PATH, "value": anything, "if_revision": optional(u64)},
    "kv.set.reply": READING,
    "kv.list": _PREFIX,
    "kv.list.reply": {"items": list_of(struct(LISTED_ITEM)), "left_out": (u64, 0)},
    "kv.publish": {**_ITEM_PATH, "value": anything, "skipped": (u64, 0)},
    "kv.publish.reply": {"revision": u64},
    "kv.watch": {"items": list_of(text), "max_hz": optional(number)},
    "kv.watch.reply": _ACK,
    "kv.unwatch": {"items": list_of(text)},
    "kv.unwatch.reply": _ACK,
    "kv.update": {**_ITEM_PATH, "value": anything, "revision": u64, "time_ns": u64, "missed": u64},
    "kv.read": {**_ITEM_PATH, "by": text},
    "kv.read.reply": {"value": anything},
    "kv.write": {**_ITEM_PATH, "value": anything, "by": text},
    "kv.write.reply": {"value": anything},
    "event.call": {"event": text, "targets": (list_of(text), list), "params": PARAMS},
    "event.call.reply": {"results": list_of(struct(TARGET_RESULT))},
    "event.ended": {"by": text, **TARGET_RESULT},
    "event.run": {"subsystem": text, "event": text, **ASKED},
    "event.run.reply": {"value": (anything, None)},
    "call.do": {"call": text, "params": PARAMS},
    "call.do.reply": {"value": anything, "by": text},
    "call.run": {"subsystem": text, "call": text, **ASKED},
    "call.run.reply": {"value": (anything, None)},
    "exchange.feedback": {"id": u64, "target": (text, ""), "value": anything},
    "exchange.result": {"id": u64, **TARGET_RESULT},
    "exchange.cancel": {"id": u64},
    "alarm.raise": {"subsystem": text, **ALARM},
    "alarm.raise.reply": _ACK,
    "alarm.clear": {"subsystem": text, "code": text},
    "alarm.clear.reply": _ACK,
    "alarm.raised": RAISED_ALARM,
    "alarm.list": _ACK,
    "alarm.list.reply": {"alarms": list_of(struct(RAISED_ALARM)), "left_out": (u64, 0)},
    "trace.get": {"id": u64},
    "trace.get.reply": {"trace": u64, "spans": list_of(struct(SPAN))},
    "job.submit": {
        "service": text,
        "params": (anything, None),
        "key": text,
        "priority": (i32, 0),
        "hold": (flag, False),
        "repeat_if_lost": (flag, False),
    },
    "job.submit.reply": JOB_RECORD,
    "job.get": _JOB_ID,
    "job.get.reply": JOB_RECORD,
    "job.list": {
        "limit": u32,
        "states": (list_of(JOB_STATE), list),
        "service": optional(text),
        "since_ns": optional(u64),
        "until_ns": optional(u64),
        "text": optional(text),
        "before": optional(u64),
    },
    "job.list.reply": {"jobs": list_of(struct(JOB_RECORD)), "next": optional(u64)},
    "job.cancel": _JOB_ID,
    "job.cancel.reply": JOB_RECORD,
    "job.hold": _JOB_ID,
    "job.hold.reply": JOB_RECORD,
    "job.release": _JOB_ID,
    "job.release.reply": JOB_RECORD,
    "job.move": {"id": u64, "priority": optional(i32), "before": optional(u64)},
    "job.move.reply": JOB_RECORD,
    "job.outcome": _JOB_ID,
    "job.outcome.reply": {"ended": flag, "failed": flag, "jobs": list_of(struct(JOB_RECORD))},
    "job.run": {"id": u64, "attempt": (u32, 0), "service": text, "params": anything},
    "job.kill": {**_JOB_ID, "attempt": (u32, 0)},
    "job.report": {
        "id": u64,
        "attempt": (u32, 0),
        "state": JOB_STATE,
        "reason": optional(struct(FAILURE)),
        "result": (anything, None),
    },
    "job.report.reply": _ACK,
    "job.progress": {"id": u64, "progress": struct(PROGRESS)},
}
CHECKS: Dict[str, Check] = {
    "value": anything,
    "offer": OFFER,
    **{kind: struct(fields) for kind, fields in _KINDS.items()},
}


def check(kind: str, fields: Any, where: str) -> Any:
    """What was understood of a message of this kind.

    Raises :class:`~ecs.fields.Mismatch` where a field is missing or of the wrong type, KeyError for an unknown kind.
    """
    return CHECKS[kind](fields, where)
