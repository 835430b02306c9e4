//! Every limit of the broker: why it is there, and what happens at it.
//!
//! A hostile or broken sender reaches a limit long before the broker's memory does, and pays alone.

use std::time::Duration;

/// Agents that are listed, gone ones included. At the limit the one that is gone longest and that the
/// configuration does not name is forgotten; if there is none, a new name is refused with `busy`.
pub const AGENTS_MAX: usize = 256;
/// Services of one agent. More are refused with `bad_parameter`.
pub const SERVICES_MAX: usize = 16;
/// Jobs of one service that one agent takes at the same time. More are refused with `bad_parameter`: with
/// `SERVICES_MAX` an agent can always list all its jobs (`OPEN_JOBS_MAX`).
pub const JOBS_AT_ONCE_MAX: u32 = 32;
/// Bytes of a service's help. Longer ones are refused: 256 agents with 16 services each, and their telemetry,
/// stay below one body.
pub const HELP_BYTES_MAX: usize = 256;
/// Bytes of a service's name, kind, host name or version text. Longer ones are refused.
pub const TEXT_BYTES_MAX: usize = 128;
/// Bytes of one agent's telemetry. More is refused. 256 agents stay below one body (16 MiB) in `status.get`.
pub const TELEMETRY_BYTES_MAX: usize = 48 * 1024;
/// Jobs that have not ended. At the limit a submission is refused with `busy`.
pub const OPEN_JOBS_MAX: usize = 1000;
/// Open jobs that follow others, beside those that were submitted. At the limit a job that follows is made and
/// fails at once with `busy`: a following service that never comes back must not take the place of what
/// people submit, and what was not done is in the list.
pub const OPEN_FOLLOWERS_MAX: usize = 500;
/// Services that follow others, those of agents that are away included. A registration with one more is
/// refused with `busy`. It bounds the answer to `job.outcome`: no service is twice in what follows a job.
pub const FOLLOWERS_MAX: usize = 32;
/// Services in a row that follow each other, not counting the first. A longer row is refused: the parameters of
/// each step have those of the step before inside, one level deeper and up to 256 KiB of result larger.
pub const FOLLOW_DEPTH_MAX: usize = 4;
/// Jobs that are kept, ended ones included. Beyond it the oldest ended jobs are forgotten, on disk too.
pub const KEPT_JOBS_MAX: usize = 10_000;
/// Bytes of the kept records together, so that few large jobs cannot take what many small ones may not.
pub const KEPT_JOBS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of a job's parameters, and of its result with its reason. Larger ones are refused: a job names
/// files and images, it does not carry them.
pub const JOB_VALUE_BYTES_MAX: usize = 256 * 1024;
/// Nesting of values that others are given again inside lists and records. It stays well below
/// `envelope::DEPTH_MAX`, so that no sender can make a list that nobody can decode.
pub const VALUE_DEPTH_MAX: usize = 16;
/// Bytes of records in one answer. Beyond it the jobs of `job.list` are on the next page, and those of
/// `job.outcome` come without their parameters and results.
pub const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of records in which one `job.list` looks for a text (some 50 ms). The answer then says where to go on.
pub const SEARCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest text to look for. A longer one is refused.
pub const SEARCH_TEXT_BYTES_MAX: usize = 256;
/// Characters of the reason of a followed job in the reason of the job that follows it.
pub const FOLLOWED_REASON_CHARS_MAX: usize = 1000;
/// Subsystems that are listed, gone ones included. At the limit the one that is gone longest is forgotten; if all are
/// here, a new one is refused with `busy`.
pub const SUBSYSTEMS_MAX: usize = 4096;
/// Subsystems of one agent. More are refused with `bad_parameter`.
pub const SUBSYSTEMS_OF_AGENT_MAX: usize = 256;
/// Bytes of one description: some thousand items. More is refused.
pub const DESCRIPTION_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of all descriptions together. At the limit those that are gone longest are forgotten; if all are here, a new one
/// is refused with `busy`.
pub const DESCRIPTIONS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Alarms that one subsystem has raised. More are refused with `busy`.
pub const ALARMS_OF_SUBSYSTEM_MAX: usize = 256;
/// Highest revision that a publication may jump to (`skipped`). One beyond is refused: at 2^64 a revision could not rise
/// any more, and `if_revision` would guard nothing. From here on it rises one by one, which takes for ever.
pub const REVISION_JUMP_MAX: u64 = 1 << 63;
/// Bytes of the last values of all items together. A publication that would go beyond is refused with `busy`.
pub const KEPT_VALUES_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Stored values of one subsystem that are put aside because their items are not described now. More are dropped.
pub const UNCLAIMED_OF_SUBSYSTEM_MAX: usize = 1024;
/// Longest value that a list of items shows.
pub const LISTED_VALUE_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a list of items or alarms; how many are left out is said.
pub const LISTED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes that watchers are told at one time. Beyond it they are told the newest value a moment later.
pub const UPDATES_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Items that one connection watches, and all together. More are refused with `busy`.
pub const WATCHES_OF_SESSION_MAX: usize = 10_000;
pub const WATCHES_MAX: usize = 200_000;
/// Requests to handlers that are open, of one connection and of all. More are refused with `busy`.
pub const EXCHANGES_OF_SESSION_MAX: usize = 4096;
pub const EXCHANGES_MAX: usize = 65_536;
/// Calls of one name that wait for a worker. More are refused with `busy`.
pub const QUEUED_CALLS_MAX: usize = 16_384;
/// Bytes of the parameters of all calls that wait for a worker. More are refused with `busy`.
pub const QUEUED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of an event's parameters, for all its targets together. More is refused.
pub const FANOUT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of what several targets of one event answer: together they must fit into one body, with their names. What
/// finds no room ends as `failed`.
pub const RESULTS_BYTES_MAX: usize = 60 * 1024 * 1024;
/// Bytes of a handler's reason, and of its hint. The rest is cut off.
pub const REASON_BYTES_MAX: usize = 4 * 1024;
/// Unknown targets of one event to which the nearest name is looked for; it takes some time.
pub const SUGGESTIONS_MAX: usize = 16;
/// Targets that an event names. More are refused; a broadcast has as many as there are handlers.
pub const TARGETS_MAX: usize = 1024;
/// Parameters of an event or call. More are refused.
pub const PARAMS_MAX: usize = 256;
/// Bytes of one word of feedback. More is refused.
pub const FEEDBACK_BYTES_MAX: usize = 64 * 1024;
/// Longest time that an answer is waited for, whatever the deadline says.
pub const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Connections of which is remembered how many messages each has lost. Beyond it only the sum is.
pub const CLIENTS_MAX: usize = 10_000;
/// Connections that `status.get` lists.
pub const CLIENTS_LISTED_MAX: usize = 1000;
/// Spans that are remembered, the newest; some MB of memory.
pub const SPANS_MAX: usize = 16_384;
/// Topics whose last value is kept for new subscribers. Beyond it the one that was silent longest is
/// forgotten, and its sequence begins again if it speaks again.
pub const TOPICS_MAX: usize = 32_768;
/// Bytes of the last values of all topics, for the same reason and with the same end.
pub const TOPICS_BYTES_MAX: usize = 2 * 1024 * 1024 * 1024;
/// Last values are sent again at most this often, whatever the number of new subscribers.
pub const REPLAY_INTERVAL: Duration = Duration::from_millis(20);

/// An accepted or running job whose agent is gone waits this long for it to come back: time for a
/// supervisor to start it again, and for it to say how the job ended. Then the job is lost.
pub const LOST_GRACE: Duration = Duration::from_secs(30);
/// `job.run`, `job.kill`, and the cancel of a call that keeps a worker busy for nobody, are sent again after this long.
pub const REPEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Keys that open something. Beyond it none is made, and files beyond it are not read: all are read anew
/// every `KEYS_INTERVAL`.
pub const KEYS_MAX: usize = 1000;
/// How often the key folder is looked at. A key that is revoked works for no longer, and the time to cut its
/// subscriptions off (`RENEW_PATIENCE` at most).
pub const KEYS_INTERVAL: Duration = Duration::from_millis(250);
/// For a key that is not known the folder is looked at again at once, so that a new key works at once; but where nothing
/// was added or taken away, not more often than this, whoever knocks.
pub const KEYS_INTERVAL_MIN: Duration = Duration::from_millis(20);
/// The time of a change is that of the system's last tick: one that is not older than this when the folder is read may
/// be followed by another of the same time.
pub const FILE_TIME_STEP: Duration = Duration::from_millis(10);
/// What CURVE adds to a message that travels (ZeroMQ RFC 26: command name, nonce, flags, MAC), so that the longest body
/// passes encrypted too.
pub const CURVE_BYTES: i64 = 33;
/// How long the publishing socket may take to let its endpoint go, when it is made anew to cut somebody off. Beyond it
/// the broker ends with an error, and is started again by `up`.
pub const RENEW_PATIENCE: Duration = Duration::from_secs(2);

/// Messages of one batch (one transaction). What waits beyond it is taken by the next batch. The last bundle is taken whole:
/// up to `BUNDLE_MESSAGES_MAX` more.
pub const BATCH_MESSAGES_MAX: usize = 256;
/// Bytes of one batch, for the same reason.
pub const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that a socket takes from the system, or gives to it, at one time. libzmq's own 8 KiB are less than a bundle: each would
/// take three calls. A connection has two such buffers, of which only what is used takes memory.
pub const BATCH_BYTES: i32 = 64 * 1024;
/// Parts of one message that are looked at; an honest one has two. Further parts are dropped unread and
/// the message counts as malformed.
pub const PARTS_MAX: usize = 3;
/// Messages, or bundles of them, that wait for one peer of the ROUTER. Further ones are dropped, counted as undeliverable, and
/// told to the peer.
/// As many as are asked of one agent at a time by a thousand clients with some questions each.
pub const REQUEST_HWM: i32 = 10_000;
/// Messages of one peer that wait for the broker. Beyond it the peer's own socket waits.
pub const REQUEST_RECEIVE_HWM: i32 = 1000;
/// A connection is probed this often, and given up after this long without a sign: one whose process is stopped, or whose host is
/// gone, holds what waits for it no longer.
pub const PROBE_INTERVAL_MS: i32 = 2000;
pub const PROBE_TIMEOUT_MS: i32 = 6000;
/// How often it is looked whether those who watch, or wait for an answer, are still there.
pub const PRESENCE_INTERVAL: Duration = Duration::from_secs(2);
/// Messages that wait for one subscriber. A slower one misses messages and sees the gap in `seq`.
pub const PUBLISH_HWM: i32 = 1000;
/// Longest subscription: a topic is an agent's name and a word. A longer one costs the connection.
pub const SUBSCRIPTION_BYTES_MAX: i64 = 1024;
/// How often time is looked at: agents that fall silent, repeats, the order to stop.
pub const TICK: Duration = Duration::from_millis(50);
/// How long answers may still leave after the broker was told to stop.
pub const LINGER_MS: i32 = 200;
/// How long SQLite waits for somebody else's lock (a person's shell) before the batch fails.
pub const STORE_PATIENCE: Duration = Duration::from_millis(100);
/// After messages that came this close to each other the loop looks for more before it sleeps: a call and its answer are closer.
pub const LOOK_GAP: Duration = Duration::from_millis(1);
/// It looks so long at most: longer than a question takes to be answered by the same machine.
pub const LOOK_MAX: Duration = Duration::from_micros(200);
/// Share of the time that looks which find nothing may take, and how much of it may gather.
pub const LOOK_SHARE: f64 = 0.05;
pub const LOOK_ALLOWANCE_MAX: Duration = Duration::from_millis(2);
/// A look that comes back this late found others at work on its core: the loop sleeps, and does not look for a while.
pub const LOOK_LATE: Duration = Duration::from_micros(200);
pub const LOOK_PAUSE: Duration = Duration::from_millis(20);
