//! From bytes to what they ask, and to exactly one answer (rule E1).
//!
//! A message with a header that cannot be read is counted and dropped: there is nobody to tell. All
//! others are answered, a broken notice too (with id 0), so that whoever writes a client sees why.

use super::{Core, Input, Outgoing, Session, job_life::check_value};
use crate::limits::TELEMETRY_BYTES_MAX;
use ecs_schemas::{
    envelope::{DecodeError, HEADER_BYTES_MAX, Header, Notice, PROTOCOL_VERSION, Request, decode, encode},
    error_code::{ErrorCode, Failure},
    job::{
        Ack, CancelJob, GetJob, GetOutcome, HoldJob, JobId, ListJobs, MoveJob, ReleaseJob, ReportJob, ReportProgress,
        Submit,
    },
    registry::{GetStatus, Heartbeat, Leave, Register, Registered, Status},
    telemetry::{Telemetry, VALUES_MAX},
};
use std::{collections::BTreeMap, time::Duration};

impl Core {
    pub(super) fn message(&mut self, now_ns: u64, session: &Session, parts: &[Vec<u8>], out: &mut Vec<Outgoing>) {
        self.counters.received += 1;
        self.registry.heard(session, now_ns);
        let Some(header) = parts.first().and_then(|bytes| read_header(bytes)) else {
            self.counters.malformed += 1;
            return;
        };
        let mut follow_ups = Vec::new(); // behind the answer: a welcome comes before the first job
        let answer = match parts {
            [_, body] => self.handle(now_ns, session, &header, body, &mut follow_ups),
            _ => Err(bad_message(format!("a message has 2 parts, this one {} or more", parts.len()))),
        };
        match answer {
            Ok(Some(body)) => out.push(Outgoing { session: session.clone(), header: header.reply(), body }),
            Ok(None) => {}
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
    pub fn refuse(&mut self, input: &Input, why: &str) -> Option<Outgoing> {
        let Input::Message { session, parts } = input else { return None };
        self.count_received();
        let header = parts.first().and_then(|bytes| read_header(bytes)).filter(|header| header.id != 0)?;
        let failure = Failure::new(ErrorCode::StoreFailed, format!("the broker cannot write to its store: {why}"))
            .with_hint("free space on the disk of the beamline's state folder, then ask again");
        Some(error_to(session, &header, &failure))
    }

    /// The body of the answer, or none for a notice.
    fn handle(
        &mut self,
        now_ns: u64,
        session: &Session,
        header: &Header,
        body: &[u8],
        out: &mut Vec<Outgoing>,
    ) -> Result<Option<Vec<u8>>, Failure> {
        if header.v != PROTOCOL_VERSION {
            return Err(DecodeError::Version { got: header.v }.into());
        }
        match header.kind.as_str() {
            Telemetry::KIND | ReportProgress::KIND if header.id != 0 => {
                Err(bad_message(format!("{} is a notice: its id is 0 and it is not answered", header.kind)))
            }
            Telemetry::KIND => self.telemetry(session, body).map(|()| None),
            ReportProgress::KIND => self.progress(session, decode(body)?).map(|()| None),
            _ if header.id == 0 || header.deadline_ms.is_none() => Err(bad_message(format!(
                "{} is no notice: it needs an id that is not 0 and a deadline_ms",
                header.kind
            ))),
            _ => self.request(now_ns, session, &header.kind, body, out).map(Some),
        }
    }

    fn request(
        &mut self,
        now_ns: u64,
        session: &Session,
        kind: &str,
        body: &[u8],
        out: &mut Vec<Outgoing>,
    ) -> Result<Vec<u8>, Failure> {
        match kind {
            GetStatus::KIND => answer(body, |_: GetStatus| Ok(self.status(now_ns))),
            GetJob::KIND => answer(body, |get| self.get_job(&get)),
            ListJobs::KIND => answer(body, |list| self.list(&list)),
            GetOutcome::KIND => answer(body, |get| self.outcome(&get)),
            Heartbeat::KIND => {
                let mut is_new = false;
                let body = answer(body, |heartbeat: Heartbeat| {
                    is_new = self.registry.set_state(session, heartbeat.state)?;
                    Ok(Ack {})
                })?;
                if is_new {
                    self.reconcile(now_ns, out);
                }
                Ok(body)
            }
            _ => {
                let body = self.change_request(now_ns, session, kind, body, out)?;
                self.reconcile(now_ns, out);
                Ok(body)
            }
        }
    }

    /// The requests after which something may follow for the jobs.
    fn change_request(
        &mut self,
        now_ns: u64,
        session: &Session,
        kind: &str,
        body: &[u8],
        out: &mut Vec<Outgoing>,
    ) -> Result<Vec<u8>, Failure> {
        match kind {
            Submit::KIND => answer(body, |submit| self.submit(now_ns, submit)),
            CancelJob::KIND => answer(body, |cancel| self.cancel(now_ns, &cancel)),
            HoldJob::KIND => answer(body, |hold| self.hold(&hold)),
            ReleaseJob::KIND => answer(body, |release| self.release(&release)),
            MoveJob::KIND => answer(body, |order| self.move_job(&order)),
            ReportJob::KIND => answer(body, |report| self.report(now_ns, session, report)),
            Register::KIND => answer(body, |register| self.register(now_ns, session, register, out)),
            Leave::KIND => answer(body, |_: Leave| {
                self.registry.leave(session, now_ns);
                Ok(Ack {})
            }),
            _ => Err(Failure::new(ErrorCode::UnknownKind, format!("no request is called {kind:?}"))),
        }
    }

    fn register(
        &mut self,
        now_ns: u64,
        session: &Session,
        register: Register,
        out: &mut Vec<Outgoing>,
    ) -> Result<Registered, Failure> {
        self.followers.check(&register.services)?;
        self.registry.admit(session, &register)?;
        let name = register.name.clone();
        let (own, foreign) = self.claim(&name, &register.jobs);
        self.registry.register(session, register, (own, foreign.clone()), now_ns);
        self.forget_sent(&name);
        for id in foreign {
            self.notify(&name, &self.kill_of(id), out);
        }
        Ok(Registered {
            beamline: self.options.beamline.clone(),
            heartbeat_ms: milliseconds(self.options.heartbeat),
            timeout_ms: milliseconds(self.options.timeout),
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
        telemetry.values.values().try_for_each(|value| check_value("telemetry", value, body.len()))?;
        self.registry.set_telemetry(session, telemetry.values)
    }

    fn status(&self, now_ns: u64) -> Status {
        let mut jobs: BTreeMap<&str, Vec<JobId>> = BTreeMap::new();
        for record in self.jobs.open() {
            if let Some(agent) = &record.agent {
                jobs.entry(agent).or_default().push(record.id);
            }
        }
        let agents = self.registry.statuses(jobs);
        Status { broker: self.broker_status(now_ns), agents, ready: self.registry.is_ready() }
    }
}

/// Decodes a request, lets `serve` do it, and encodes its reply.
fn answer<R: Request>(body: &[u8], serve: impl FnOnce(R) -> Result<R::Reply, Failure>) -> Result<Vec<u8>, Failure> {
    Ok(encode(&serve(decode(body)?)?))
}

/// A header of any version, so that one of another version can be answered under its id (rule E2).
fn read_header(bytes: &[u8]) -> Option<Header> {
    if bytes.len() > HEADER_BYTES_MAX {
        return None;
    }
    decode(bytes).ok()
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
