//! Every limit and interval of the SDK: why it is there, and what happens at it.

use std::time::Duration;

/// First and longest pause between two attempts to register. Doubled in between.
pub const BACKOFF_MIN: Duration = Duration::from_millis(100);
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// libzmq's own pauses between attempts to connect.
pub const CONNECT_INTERVAL_MS: i32 = 50;
pub const CONNECT_INTERVAL_MAX_MS: i32 = 500;
/// Bytes that the request connection takes from the system, or gives to it, at one time. libzmq's own 8 KiB are less than a bundle.
pub const BATCH_BYTES: i32 = 64 * 1024;
/// Silence after which the connection is made anew, until the broker has said what its timeout is.
pub const SILENCE_DEFAULT: Duration = Duration::from_secs(3);
/// A report that was not answered is sent again after this long.
pub const REPEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Progress is sent at most this often, for all jobs of an agent together.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Deadline written into the requests of an agent; it repeats them itself.
pub const AGENT_DEADLINE_MS: u32 = 3000;
/// Jobs that run in one agent beyond those that its services take at once. The broker gives no more than
/// these; more can only come from jobs that do not end when they are killed. Beyond it a job is rejected with
/// `busy`.
pub const STUCK_JOBS_MAX: usize = 15;
/// A connection over which nothing can be sent for this long is lost; while its queue is full, it is looked at this often.
pub const BLOCKED_PATIENCE: Duration = Duration::from_millis(300);
pub const BLOCKED_LOOK: Duration = Duration::from_millis(1);
/// Threads of one agent: handlers that take long have one each. Further questions wait for one of them.
pub const THREADS_MAX: usize = 64;
/// A handler that takes longer than this has a thread of its own from then on, and others go on beside it.
pub const HANDLER_PATIENCE: Duration = Duration::from_millis(1);
/// Quick handlers are run one after another for so long before their answers leave.
pub const HANDLERS_SLICE: Duration = Duration::from_micros(500);
/// A thread that has nothing to do ends after this long.
pub const THREAD_IDLE: Duration = Duration::from_secs(5);
/// News of hosted subsystems that wait for the I/O thread. Beyond it a value replaces the one of its item that waits
/// already, and says so to its readers.
pub const HOST_NEWS_MAX: usize = 10_000;
/// Questions that this agent has and has not answered. More are refused with `busy`.
pub const QUESTIONS_MAX: usize = 10_000;
/// Messages taken from the socket before the agent's own are sent again.
pub const RECEIVE_BURST: usize = 256;
/// Messages that wait in each direction in one socket. Beyond it an agent's message is dropped and, where it
/// matters, repeated.
pub const LINK_HWM: i32 = 10_000;
/// Messages that wait for a subscriber. A slower one misses messages and sees the gap in `seq`.
pub const SUBSCRIBER_HWM: i32 = 10_000;
/// Parts of a message that are looked at; longer messages are malformed.
pub const PARTS_MAX: usize = 4;
/// Topics whose newest sequence number a subscriber remembers, to skip repeats. Beyond it all are
/// forgotten, and repeats are seen once more.
pub const TOPICS_MAX: usize = 8192;
/// What CURVE adds to a message that travels (ZeroMQ RFC 26), so that the longest body passes encrypted too.
pub const CURVE_BYTES: i64 = 33;
/// A client that has no connection after this long says that there is no broker.
pub const CONNECT_PATIENCE: Duration = Duration::from_millis(1500);
/// A watcher says again what it watches this often, and begins anew after this long without one.
pub const WATCH_PING: Duration = Duration::from_secs(1);
pub const WATCH_SILENCE: Duration = Duration::from_secs(3);
/// The broker's own word that somebody did not answer in time comes this much after the deadline at most.
pub const ANSWER_GRACE: Duration = Duration::from_millis(200);
/// How long the answer to a leave is waited for.
pub const LEAVE_PATIENCE: Duration = Duration::from_secs(1);
/// How long closing waits for what was already sent.
pub const LINGER_MS: i32 = 100;
/// A subscriber's connection is probed this often, and given up after this long without a sign: half-open
/// connections are not noticed otherwise.
pub const PROBE_INTERVAL_MS: i32 = 2000;
pub const PROBE_TIMEOUT_MS: i32 = 6000;
/// How often it is looked whether threads that messages pass go first, and which.
pub const REALTIME_LOOK: Duration = Duration::from_millis(100);
/// They do while less of a core was idle, of the whole host, over so many looks: the kernel counts in hundredths of a second.
pub const REALTIME_IDLE: f64 = 0.15;
pub const REALTIME_LOOKS: usize = 5;
/// One that takes more of a core does not.
pub const REALTIME_SHARE_MAX: f64 = 0.5;
