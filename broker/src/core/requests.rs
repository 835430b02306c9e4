//! From bytes to what they ask, and to exactly one answer (rule E1).
//!
//! A message with a header that cannot be read is counted and dropped: there is nobody to tell. All
//! others are answered, a broken notice too (with id 0), so that whoever writes a client sees why.

use super::{
    ANONYMOUS, Core, Input, Outgoing, SOURCE_BROKER, Sender, Session,
    traces::{Begun, Origin},
};
use crate::limits::{CLIENTS_LISTED_MAX, TELEMETRY_BYTES_MAX};
use bytes::Bytes;
use ecs_schemas::{
    alarm::{Clear, ListAlarms, Raise},
    envelope::{DecodeError, Header, Notice, PROTOCOL_VERSION, Request, decode, encode},
    error_code::{ErrorCode, Failure},
    exchange::{CallEvent, Cancel, DoCall, Feedback},
    job::{
        Ack, CancelJob, GetJob, GetOutcome, HoldJob, JobId, ListJobs, MoveJob, ReleaseJob, ReportJob, ReportProgress,
        Submit,
    },
    kv::{Get, ListItems, Publish, Set, Unwatch, Watch},
    registry::{ClientStatus, GetStatus, Heartbeat, Leave, Register, Registered, Status},
    subsystem::{Describe, GetSubsystem, ListSubsystems, Remove, SubsystemList},
    telemetry::{Telemetry, VALUES_MAX},
    trace::GetTrace,
};
use smol_str::SmolStr;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A request on its way to its answer.
pub(super) struct Call<'a> {
    pub session: &'a Session,
    pub sender: &'a Sender,
    pub header: &'a Header,
    pub now_ns: u64,
    /// Who asks, by the broker's word: an agent's name, a key's, or nobody known.
    pub by: SmolStr,
    /// Where it stands in its trace.
    pub origin: Origin,
}

/// The body of the answer; none if it comes later, or never for a notice.
pub(super) type Answer = Result<Option<Vec<u8>>, Failure>;

impl Core {
    pub(super) fn message(
        &mut self,
        now_ns: u64,
        session: &Session,
        sender: &Sender,
        parts: &[Bytes],
        out: &mut Vec<Outgoing>,
    ) {
        self.counters.received += 1;
        if self.registry.hear(session, sender, now_ns) {
            self.follow_parted(now_ns); // what it answers now is not the agent's answer
        }
        let Some(header) = parts.first().and_then(|bytes| Header::decode_any_version(bytes).ok()) else {
            self.counters.malformed += 1;
            return;
        };
        let mut follow_ups = Vec::new(); // behind the answer: a welcome comes before the first job
        let answer = match parts {
            [_, body] => {
                let permitted = sender.permit(&header.kind);
                permitted.and_then(|()| self.handle(now_ns, session, sender, &header, body, &mut follow_ups))
            }
            _ => Err(bad_message(format!("a message has 2 parts, this one {} or more", parts.len()))),
        };
        match answer {
            Ok(Some(body)) => out.push(Outgoing { session: session.clone(), header: header.reply(), body }),
            Ok(None) => {}
            Err(_) if header.is_answer() => self.counters.malformed += 1, // an answer is not answered
            Err(failure) => self.refuse_message(session, &header, &failure, out),
        }
        out.extend(follow_ups);
    }

    fn refuse_message(&mut self, session: &Session, header: &Header, failure: &Failure, out: &mut Vec<Outgoing>) {
        if matches!(failure.code, ErrorCode::BadMessage | ErrorCode::UnsupportedVersion | ErrorCode::UnknownKind) {
            self.counters.malformed += 1;
        }
        out.push(error_to(session, header, failure));
    }

    /// The answer to an input whose changes could not be stored.
    pub(super) fn refuse(&mut self, input: &Input, why: &str) -> Option<Outgoing> {
        let Input::Message { session, parts, .. } = input else { return None };
        self.count_received();
        let header =
            parts.first().and_then(|bytes| Header::decode_any_version(bytes).ok()).filter(|header| header.id != 0)?;
        let failure = Failure::new(ErrorCode::StoreFailed, format!("the broker cannot write to its store: {why}"))
            .with_hint("free space on the disk of the beamline's state folder, then ask again");
        Some(error_to(session, &header, &failure))
    }

    fn handle(
        &mut self,
        now_ns: u64,
        session: &Session,
        sender: &Sender,
        header: &Header,
        body: &[u8],
        out: &mut Vec<Outgoing>,
    ) -> Answer {
        if header.v != PROTOCOL_VERSION {
            return Err(DecodeError::Version { got: header.v }.into());
        }
        let kind = header.kind.as_str();
        self.once |= matches!(kind, Feedback::KIND | Cancel::KIND | Watch::KIND | Unwatch::KIND);
        if header.is_answer() {
            self.once = true;
            self.handler_answered(now_ns, session, header, body);
            return Ok(None);
        }
        match kind {
            Telemetry::KIND | ReportProgress::KIND | Feedback::KIND | Cancel::KIND if header.id != 0 => {
                Err(bad_message(format!("{kind} is a notice: its id is 0 and it is not answered")))
            }
            Telemetry::KIND => self.telemetry(session, body).map(|()| None),
            ReportProgress::KIND => self.progress(session, decode(body)?).map(|()| None),
            Feedback::KIND => self.feedback(session, decode(body)?).map(|()| None),
            Cancel::KIND => {
                self.cancel_exchange(now_ns, session, decode(body)?);
                Ok(None)
            }
            Publish::KIND if header.id == 0 => self.publish_item(now_ns, session, body).map(|_| None),
            _ if header.id == 0 || header.deadline_ms.is_none() => {
                Err(bad_message(format!("{kind} is no notice: it needs an id that is not 0 and a deadline_ms")))
            }
            _ => {
                let origin = self.traces.origin(header.trace);
                let by = self.who(session, sender);
                self.request(&Call { session, sender, header, now_ns, by, origin }, body, out)
            }
        }
    }

    fn who(&self, session: &Session, sender: &Sender) -> SmolStr {
        self.registry.name_of(session).cloned().unwrap_or_else(|| match sender.name() {
            Some(name) => SmolStr::new(name),
            None => SmolStr::new_static(ANONYMOUS),
        })
    }

    fn request(&mut self, call: &Call<'_>, body: &[u8], out: &mut Vec<Outgoing>) -> Answer {
        let now_ns = call.now_ns;
        match call.header.kind.as_str() {
            GetStatus::KIND => answer(body, |_: GetStatus| Ok(self.status(now_ns))),
            GetJob::KIND => answer(body, |get| self.get_job(&get)),
            ListJobs::KIND => answer(body, |list| self.list(&list)),
            GetOutcome::KIND => answer(body, |get| self.outcome(&get)),
            ListSubsystems::KIND => answer(body, |list: ListSubsystems| {
                Ok(SubsystemList { subsystems: self.subsystems.listed(&list.prefix, &self.registry) })
            }),
            GetSubsystem::KIND => answer(body, |get: GetSubsystem| {
                let name = self.subsystems.resolve(&get.name)?;
                Ok(self.subsystems.status(name, &self.registry).expect("it was resolved"))
            }),
            ListItems::KIND => answer(body, |list: ListItems| Ok(self.list_items(&list))),
            ListAlarms::KIND => answer(body, |_: ListAlarms| Ok(self.list_alarms())),
            GetTrace::KIND => answer(body, |get: GetTrace| self.find_trace(get.id)),
            Watch::KIND => answer(body, |watch| self.watch(call, watch)),
            Unwatch::KIND => answer(body, |unwatch| Ok(self.unwatch(call.session, &unwatch))),
            Heartbeat::KIND => {
                let mut is_new = false;
                let body = answer(body, |heartbeat: Heartbeat| {
                    is_new = self.registry.set_state(call.session, heartbeat.state)?;
                    Ok(Ack {})
                })?;
                if is_new {
                    self.note_agent_state(call.session, now_ns);
                    self.reconcile_unless_put_off(now_ns, out);
                }
                Ok(body)
            }
            _ => self.traced(call, body, out),
        }
    }

    /// The requests that do something: each is a span of its trace, from here to its answer.
    fn traced(&mut self, call: &Call<'_>, body: &[u8], out: &mut Vec<Outgoing>) -> Answer {
        let (kind, from) = (call.header.kind.clone(), call.by.clone());
        let begun = Begun { kind, subject: SmolStr::default(), from, to: SmolStr::new_static(SOURCE_BROKER) };
        self.traces.begin(call.origin.at, begun, call.now_ns);
        let answered = self.change_request(call, body, out);
        match &answered {
            Ok(Some(_)) => self.traces.end(call.origin.number, "ok", call.now_ns),
            Ok(None) => {}
            Err(failure) => self.traces.end(call.origin.number, failure.code.as_str(), call.now_ns),
        }
        answered
    }

    fn change_request(&mut self, call: &Call<'_>, body: &[u8], out: &mut Vec<Outgoing>) -> Answer {
        let (now_ns, session) = (call.now_ns, call.session);
        match call.header.kind.as_str() {
            Get::KIND => self.get_item(call, decode(body)?),
            Set::KIND => self.set_item(call, decode(body)?),
            CallEvent::KIND => self.call_event(call, decode(body)?),
            DoCall::KIND => self.do_call(call, body),
            Publish::KIND => Ok(Some(encode(&self.publish_item(now_ns, session, body)?))),
            Describe::KIND => answer(body, |describe| self.describe(call, describe)),
            Remove::KIND => answer(body, |remove| self.remove(session, &remove)),
            Raise::KIND => answer(body, |raise| self.raise(now_ns, session, raise)),
            Clear::KIND => answer(body, |clear| self.clear(now_ns, session, &clear)),
            _ => {
                let answered = self.job_request(call, body, out)?;
                match call.header.kind.as_str() {
                    Register::KIND | Leave::KIND => self.reconcile_unless_put_off(now_ns, out),
                    _ => self.reconcile(now_ns, out), // in one transaction with it
                }
                Ok(answered)
            }
        }
    }

    /// Rule C6. What follows what is stored in any case: no job may end unfollowed.
    fn reconcile_unless_put_off(&mut self, now_ns: u64, out: &mut Vec<Outgoing>) {
        match self.are_jobs_put_off {
            true => self.learn_followers(),
            false => self.reconcile(now_ns, out),
        }
    }

    /// The requests after which something may follow for the jobs.
    fn job_request(&mut self, call: &Call<'_>, body: &[u8], out: &mut Vec<Outgoing>) -> Answer {
        let (now_ns, session) = (call.now_ns, call.session);
        match call.header.kind.as_str() {
            Submit::KIND => answer(body, |submit| self.submit(now_ns, submit)),
            CancelJob::KIND => answer(body, |cancel| self.cancel(now_ns, &cancel)),
            HoldJob::KIND => answer(body, |hold| self.hold(&hold)),
            ReleaseJob::KIND => answer(body, |release| self.release(&release)),
            MoveJob::KIND => answer(body, |order| self.move_job(&order)),
            ReportJob::KIND => answer(body, |report| self.report(now_ns, session, report)),
            Register::KIND => answer(body, |register| self.register(now_ns, session, call.sender, register, out)),
            Leave::KIND => answer(body, |_: Leave| {
                self.registry.leave(session, now_ns);
                Ok(Ack {})
            }),
            kind => Err(Failure::new(ErrorCode::UnknownKind, format!("no request is called {kind:?}"))),
        }
    }

    fn register(
        &mut self,
        now_ns: u64,
        session: &Session,
        sender: &Sender,
        register: Register,
        out: &mut Vec<Outgoing>,
    ) -> Result<Registered, Failure> {
        sender.permit_name(&register.name)?;
        self.registry.check_limits(&register)?;
        self.followers.check(&register.services)?;
        self.registry.check_free(session, &register)?;
        let name = register.name.clone();
        let described = self.brought(&register);
        described.iter().try_for_each(|description| sender.permit_name(&description.name))?;
        self.subsystems.admit(&name, &described, true, &self.registry)?;
        self.registry.make_room(&name)?; // from here on nothing is refused
        let (own, foreign) = self.claim(&register);
        let state_before = self.registry.state_of(&name);
        let is_other_start = self.registry.register(session, register, (own, foreign.clone()), now_ns);
        if is_other_start {
            self.end_of_agent(&name, now_ns); // before this start is asked anything
        }
        let is_other_state = is_other_start || self.registry.state_of(&name) != state_before;
        let subsystems = self.take_in(&name, described, is_other_state, now_ns);
        self.registry.note_key(session, sender.key());
        self.forget_sent(&name);
        for id in foreign {
            self.notify(&name, &self.kill_of(id), out);
        }
        Ok(Registered {
            beamline: self.options.beamline.clone(),
            heartbeat_ms: milliseconds(self.options.heartbeat),
            timeout_ms: milliseconds(self.options.timeout),
            started_ns: self.started_ns,
            subsystems,
        })
    }

    fn telemetry(&mut self, session: &Session, body: &[u8]) -> Result<(), Failure> {
        self.registry.registered(session)?;
        let bad = |message: String| Failure::new(ErrorCode::BadParameter, message);
        if body.len() > TELEMETRY_BYTES_MAX {
            return Err(bad(format!("telemetry of {} bytes; at most {TELEMETRY_BYTES_MAX}", body.len())));
        }
        let telemetry: Telemetry = decode(body)?;
        if telemetry.values.len() > VALUES_MAX {
            return Err(bad(format!("{} values; at most {VALUES_MAX}", telemetry.values.len())));
        }
        telemetry.values.values().try_for_each(|value| super::job_life::check_value("telemetry", value, body.len()))?;
        self.registry.set_telemetry(session, telemetry.values)
    }

    fn status(&self, now_ns: u64) -> Status {
        let mut jobs: BTreeMap<&str, Vec<JobId>> = BTreeMap::new();
        for record in self.jobs.given() {
            if let Some(agent) = &record.agent {
                jobs.entry(agent).or_default().push(record.id);
            }
        }
        let agents = self.registry.statuses(jobs);
        let clients = self.clients();
        Status { broker: self.broker_status(now_ns), agents, ready: self.registry.is_ready(), clients }
    }

    /// Connections that hold something of the broker's, or have lost something.
    fn clients(&self) -> Vec<ClientStatus> {
        let mut sessions: BTreeSet<&Session> = self.lost.keys().collect();
        sessions.extend(self.exchanges.callers());
        sessions.extend(self.watches.watchers());
        let status = |session: &Session| ClientStatus {
            connection: session.bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
            name: self.registry.name_of(session).map_or(ANONYMOUS, SmolStr::as_str).to_owned(),
            requests_open: self.exchanges.count_of(session) as u64,
            watches: self.watches.count_of(session) as u64,
            lost: self.lost_of(session),
        };
        sessions.into_iter().take(CLIENTS_LISTED_MAX).map(status).collect()
    }
}

/// Decodes a request, lets `serve` do it, and encodes its reply.
fn answer<R: Request>(body: &[u8], serve: impl FnOnce(R) -> Result<R::Reply, Failure>) -> Answer {
    Ok(Some(encode(&serve(decode(body)?)?)))
}

fn error_to(session: &Session, header: &Header, failure: &Failure) -> Outgoing {
    Outgoing { session: session.clone(), header: header.error(), body: encode(failure) }
}

fn bad_message(message: String) -> Failure {
    Failure::new(ErrorCode::BadMessage, message)
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

// A value lies at most this much deeper in a status or list than in the message that brought it.
const _: () = assert!(crate::limits::VALUE_DEPTH_MAX + 8 < ecs_schemas::envelope::DEPTH_MAX);
