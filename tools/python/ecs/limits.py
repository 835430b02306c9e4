"""Every limit and interval of this package: why it is there, and what happens at it."""

#: Version of the protocol. A header with another one is refused.
PROTOCOL_VERSION = 1
#: A header is small; a longer one is refused as malformed.
HEADER_BYTES_MAX = 4 * 1024
#: Longest value of an item, parameter or result, and longest body: such a value with its names.
VALUE_BYTES_MAX = 64 * 1024 * 1024
BODY_BYTES_MAX = VALUE_BYTES_MAX + 64 * 1024
#: Lists and maps in each other: this many and more are refused.
DEPTH_MAX = 32
#: What CURVE adds to a message: nonce, authentication, flags; rounded up.
CURVE_BYTES = 64

#: Longest time that an answer is waited for: the broker's own limit.
DEADLINE_MAX_S = 24 * 3600.0
#: The broker answers with `timeout` at the deadline; so much longer is waited for that answer.
LATE_GRACE_S = 0.5
#: How long a request takes where nobody says otherwise.
TIMEOUT_DEFAULT_S = 5.0

#: Messages that wait for the I/O thread or for the connection. At the limit whoever sends more waits until there is
#: room: a request at most until its deadline.
WAITING_MAX = 10_000
#: Messages taken from one socket before the others are looked at.
RECEIVE_BURST = 256
#: Messages that wait in each direction in the DEALER, and for a subscription's socket.
LINK_HWM = 1000
SUBSCRIBER_HWM = 10_000
#: Updates or published messages that wait for one callback. Beyond it the oldest are dropped and counted as missed.
UNREAD_MAX = 10_000
#: Entries that one callback is called with before others are let to the thread.
TELL_BURST = 100
#: Topics whose sequence a subscription remembers. Beyond it all are forgotten, and repeats are seen once more.
TOPICS_MAX = 8192
#: Items in one `kv.watch` when all are sent again after a reconnect.
WATCH_BATCH = 500

#: Pauses of libzmq between attempts to connect, doubling from the first to the second.
CONNECT_INTERVAL_MS = 50
CONNECT_INTERVAL_MAX_MS = 500
#: A connection is probed this often, and made anew after this long without a sign: half-open ones are not noticed
#: otherwise.
PROBE_INTERVAL_MS = 2000
PROBE_TIMEOUT_MS = 6000
#: How long closing a socket waits for what was already sent.
LINGER_MS = 200

#: First and longest pause between two attempts to register, doubling.
BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 1.0
#: A job's report that was not answered is sent again after this long.
REPEAT_INTERVAL_S = 1.0
#: Progress of one job is sent at most this often, the newest.
PROGRESS_INTERVAL_S = 0.1
#: Deadline of what an agent sends by itself and repeats: registering, heartbeats, reports.
AGENT_DEADLINE_S = 3.0
#: How long the answer to a leave is waited for.
LEAVE_PATIENCE_S = 1.0

#: Threads of one agent's handlers, and of one client's callbacks. Beyond it tasks wait for a free one.
HANDLER_THREADS_MAX = 128
CALLBACK_THREADS_MAX = 16
#: Tasks that wait for a thread. Beyond it a handler's caller is told `busy`.
TASKS_MAX = 10_000
#: A thread without work ends after this long.
THREAD_IDLE_S = 10.0

#: Characters of an error's message, and of its hint. The rest is cut off, as the broker does at as many bytes.
REASON_CHARS_MAX = 4 * 1024
#: Longest text of an alarm, and longest name of an item, event, call or alarm, in bytes.
ALARM_TEXT_BYTES_MAX = 1024
PART_BYTES_MAX = 64
