//! Requests of tools: ask the broker, wait for the answer.

use crate::{
    key,
    limits::{ANSWER_GRACE, CONNECT_PATIENCE},
    link::{Link, LinkError},
    monitor::Handshake,
    trace_context,
};
use bytes::Bytes;
use ecs_schemas::{
    envelope::{BODY_BYTES_MAX, Header, KIND_ERROR, Request, decode},
    error_code::Failure,
    keys::ClientKey,
};
use foldhash::fast::RandomState;
use smol_str::SmolStr;
use std::{
    collections::HashMap,
    marker::PhantomData,
    slice,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// It is looked for requests that nobody will finish after so many others.
const ABANDONED_LOOK: u64 = 1024;

/// Why a call has no reply. What the broker did is not known after `Timeout`; after all others it did nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens at the endpoint.
    #[error("no broker at {endpoint}: is it running? start it with `ecs-cli up beamline.toml`")]
    NoBroker { endpoint: String },
    /// There is a broker, and it does not let this client in.
    #[error("{}", not_accepted(.endpoint, .key.as_deref()))]
    NotAccepted {
        endpoint: String,
        /// Name of the key that was used, if one was.
        key: Option<String>,
    },
    /// The broker, or the service behind it, said no.
    #[error("{}", described(.0))]
    Refused(Failure),
    /// There is a connection, but no answer came.
    #[error(
        "the broker at {endpoint} did not answer `{kind}` within {seconds:.1} s: is it stopped or overloaded? see its log"
    )]
    Timeout { endpoint: String, kind: &'static str, seconds: f64 },
    /// An answer that is not of the expected form.
    #[error("the broker at {endpoint} answered `{kind}` with something else ({reason}): are both of the same version?")]
    BadReply { endpoint: String, kind: &'static str, reason: String },
    /// The request is longer than a message may be.
    #[error("a request of {bytes} bytes; at most {BODY_BYTES_MAX} are accepted")]
    TooLong { bytes: usize },
    /// The endpoint is not one, or no socket could be made.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Asks the broker, one request at a time.
///
/// ```no_run
/// use ecs_schemas::registry::GetStatus;
/// use std::time::Duration;
/// let client = ecs_sdk::Client::new("tcp://127.0.0.1:7750")?;
/// let status = client.call(&GetStatus {}, Duration::from_secs(2))?;
/// println!("{} agents", status.agents.len());
/// # Ok::<(), ecs_sdk::CallError>(())
/// ```
pub struct Client {
    endpoint: String,
    key: Option<ClientKey>,
    state: Mutex<State>,
}

struct State {
    /// None after a timeout: what was queued in the old one must not leave later.
    link: Option<Link>,
    last_id: u64,
    last_trace: Option<u64>,
    /// Requests that were started and not finished, by their id.
    open: HashMap<u64, Open, RandomState>,
}

/// A request that was started.
struct Open {
    /// No answer is waited for after this.
    until: Instant,
    answer: Option<(Header, Bytes)>,
}

/// A request that was sent; see [`Client::start`].
#[derive(Debug)]
pub struct Pending<R> {
    id: u64,
    timeout: Duration,
    _request: PhantomData<fn() -> R>,
}

impl Client {
    /// A client of the broker at `endpoint`, with the key of this process; it need not be there yet.
    ///
    /// # Errors
    /// `Link`.
    pub fn new(endpoint: &str) -> Result<Self, CallError> {
        Self::with_key(endpoint, key::of_process().cloned())
    }

    /// As [`Client::new`], with a key of its own or none.
    ///
    /// # Errors
    /// `Link`.
    pub fn with_key(endpoint: &str, key: Option<ClientKey>) -> Result<Self, CallError> {
        let link = Some(Link::connect(endpoint, key.as_ref())?);
        let state = State { link, last_id: 0, last_trace: None, open: HashMap::default() };
        Ok(Self { endpoint: endpoint.to_owned(), key, state: Mutex::new(state) })
    }

    /// Sends `request` and waits for its reply, at most for `timeout`. Without a connection it gives up
    /// after `CONNECT_PATIENCE` (1.5 s), or `timeout` if that is shorter. Calls from several threads
    /// follow one another.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call<R: Request>(&self, request: &R, timeout: Duration) -> Result<R::Reply, CallError> {
        self.call_with(request, timeout, |_, _| {})
    }

    /// As [`Client::call`]; notices that come before the answer, feedback for example, go to `on_notice` with their kind.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call_with<R: Request>(
        &self,
        request: &R,
        timeout: Duration,
        on_notice: impl FnMut(&str, &[u8]),
    ) -> Result<R::Reply, CallError> {
        let pending = self.start(request, timeout)?;
        self.finish_with(pending, on_notice)
    }

    /// Sends `request`; its reply is fetched later with [`Client::finish`], in any order with others.
    ///
    /// # Errors
    /// `NoBroker`, `TooLong`, `Link`.
    pub fn start<R: Request>(&self, request: &R, timeout: Duration) -> Result<Pending<R>, CallError> {
        let mut started = self.start_all(slice::from_ref(request), timeout)?;
        Ok(started.pop().expect("one for each request"))
    }

    /// As [`Client::start`], of several requests, in their order. They leave together: many small ones cost a fraction of
    /// what they cost one by one.
    ///
    /// # Errors
    /// As for one, `TooLong` before any is sent. After the others some may have been: their replies are dropped.
    pub fn start_all<R: Request>(&self, requests: &[R], timeout: Duration) -> Result<Vec<Pending<R>>, CallError> {
        let deadline = Instant::now() + timeout;
        let bodies: Vec<_> = requests.iter().map(Request::to_body).collect();
        if let Some(long) = bodies.iter().find(|body| body.len() > BODY_BYTES_MAX) {
            return Err(CallError::TooLong { bytes: long.len() });
        }
        let mut state = self.lock();
        let deadline_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let message = |body| (state.next_header(R::KIND, deadline_ms), body);
        let messages: Vec<_> = bodies.into_iter().map(message).collect();
        let link = match state.link.take() {
            Some(link) => link,
            None => Link::connect(&self.endpoint, self.key.as_ref())?,
        };
        if !send_all(&link, &messages, CONNECT_PATIENCE.min(timeout)) {
            let error = self.no_connection(link.handshake());
            if matches!(error, CallError::NoBroker { .. }) {
                state.link = Some(link); // it goes on trying; one that was refused does not
            }
            return Err(error);
        }
        state.link = Some(link);
        let open = |(header, _): &(Header, _)| {
            state.forget_abandoned(header.id);
            // The broker says at the deadline who did not answer: that word is waited for.
            state.open.insert(header.id, Open { until: deadline + ANSWER_GRACE, answer: None });
            Pending { id: header.id, timeout, _request: PhantomData }
        };
        Ok(messages.iter().map(open).collect())
    }

    /// The trace of the request that was sent last, for `trace.get`.
    pub fn last_trace(&self) -> Option<u64> {
        self.lock().last_trace
    }

    /// The reply to a request that was started.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn finish<R: Request>(&self, pending: Pending<R>) -> Result<R::Reply, CallError> {
        self.finish_with(pending, |_, _| {})
    }

    fn finish_with<R: Request>(
        &self,
        pending: Pending<R>,
        on_notice: impl FnMut(&str, &[u8]),
    ) -> Result<R::Reply, CallError> {
        let mut state = self.lock();
        let answer = state.await_answer(pending.id, on_notice);
        state.open.remove(&pending.id);
        let Some((header, body)) = answer else {
            let now = Instant::now();
            if state.open.values().all(|other| other.until <= now) {
                state.link = None;
            }
            let (endpoint, seconds) = (self.endpoint.clone(), pending.timeout.as_secs_f64());
            return Err(CallError::Timeout { endpoint, kind: R::KIND, seconds });
        };
        drop(state);
        self.read_answer::<R>(&header.kind, &body)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn no_connection(&self, handshake: Handshake) -> CallError {
        let endpoint = self.endpoint.clone();
        match handshake {
            Handshake::Refused | Handshake::Broken => {
                CallError::NotAccepted { endpoint, key: self.key.as_ref().map(|key| key.name.clone()) }
            }
            Handshake::Unknown | Handshake::Begun | Handshake::Succeeded => CallError::NoBroker { endpoint },
        }
    }

    fn read_answer<R: Request>(&self, kind: &str, body: &[u8]) -> Result<R::Reply, CallError> {
        let bad = |reason: String| CallError::BadReply { endpoint: self.endpoint.clone(), kind: R::KIND, reason };
        if kind == KIND_ERROR {
            let failure = decode(body).map_err(|error| bad(error.to_string()))?;
            return Err(CallError::Refused(failure));
        }
        if kind.strip_suffix(".reply") != Some(R::KIND) {
            return Err(bad(format!("a message of kind {kind:?}")));
        }
        R::read_reply(body).map_err(|error| bad(error.to_string()))
    }
}

impl State {
    /// The answer to request `id`, if it comes in its time. Answers to other requests that were started are kept, late ones
    /// dropped.
    fn await_answer(&mut self, id: u64, mut on_notice: impl FnMut(&str, &[u8])) -> Option<(Header, Bytes)> {
        let Self { link, open, .. } = self;
        let (link, own) = (link.as_mut()?, open.get_mut(&id)?);
        if let Some(answer) = own.answer.take() {
            return Some(answer);
        }
        let until = own.until;
        loop {
            while let Some((header, body)) = link.receive() {
                let Ok(header) = Header::decode(&header) else { continue };
                if header.id == id {
                    return Some((header, body));
                } else if header.id == 0 {
                    on_notice(&header.kind, &body);
                } else if let Some(other) = open.get_mut(&header.id) {
                    other.answer = Some((header, body));
                }
            }
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return None;
            }
            link.wait_readable(rest);
        }
    }

    /// The header of the next request: another id, a span of the trace.
    fn next_header(&mut self, kind: &'static str, deadline_ms: u32) -> Header {
        self.last_id += 1;
        let trace = trace_context::next();
        self.last_trace = Some(trace.trace);
        Header { trace: Some(trace), ..Header::request(SmolStr::new_static(kind), self.last_id, deadline_ms) }
    }

    /// Forgets requests that nobody finished in their time, before some of the `next`: some may never be.
    fn forget_abandoned(&mut self, next: u64) {
        if next.is_multiple_of(ABANDONED_LOOK) {
            let now = Instant::now();
            self.open.retain(|_, open| now < open.until);
        }
    }
}

/// Sends messages, waiting for a connection or for room at most for `patience` each time; false if there is none.
fn send_all(link: &Link, messages: &[(Header, Vec<u8>)], patience: Duration) -> bool {
    let mut sent = link.send_all(messages);
    while sent < messages.len() {
        if !link.wait_writable(patience) {
            return false;
        }
        let now_sent = link.send_all(&messages[sent..]);
        if now_sent == 0 {
            return false;
        }
        sent += now_sent;
    }
    true
}

/// What a refused handshake means for a person, and what to do.
pub(crate) fn not_accepted(endpoint: &str, key: Option<&str>) -> String {
    match key {
        None => format!(
            "the broker at {endpoint} did not accept this connection, which has no key: pass one with --key FILE or \
             ECS_KEY; keys are made with `ecs-cli keys add NAME --role ROLE`"
        ),
        Some(name) => format!(
            "the broker at {endpoint} did not accept the key {name}: it was revoked, it is another broker's, or this \
             broker has no keys; see `ecs-cli keys list`, and make a new one with `ecs-cli keys add`"
        ),
    }
}

fn described(failure: &Failure) -> String {
    match &failure.hint {
        Some(hint) => format!("{}: {hint}", failure.message),
        None => failure.message.clone(),
    }
}
