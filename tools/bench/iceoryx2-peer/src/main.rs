//! iceoryx2 publish/subscribe between processes: what `ecs-cli bench ring --peers` measures the ring beside.
//!
//! ```text
//! this process, core 0                           a process for each subscriber
//! loan ─▶ its number in front ─▶ send ══shm══▶   receive ─▶ its number read ─▶ (the time, or counted)
//!   ▲                                                │
//!   └── the time ──────────────────────── stdout ────┘   at the end: a number of all ones
//! ```
//!
//! | arguments | what it prints |
//! |---|---|
//! | `handoff BYTES SECONDS PACE_NS` | `p50_ns N`: from before `send` until the number is read, one message in each pause; `clock_ns N`: what two clocks show with nothing between them |
//! | `rate BYTES SECONDS DEPTH SUBSCRIBERS` | `messages_per_s N`: that each subscriber gets, none lost |
//! | `version` | that of iceoryx2 |
//!
//! The messages are slices of bytes that nobody writes or reads but for the number, as the images of the ring's legs are.
//! What is not counted, or is chosen so that it is fastest, favours iceoryx2: a message is loaned and written before its
//! time is taken; ports belong to one thread (`ipc::Service`); memory is that of all messages from the begin on; a
//! publisher whose subscribers are full looks thousands of times, as iceoryx2 does it by itself, before it sleeps.

use iceoryx2::{
    port::{publisher::Publisher, subscriber::Subscriber},
    prelude::*,
    service::port_factory::publish_subscribe,
};
use std::{
    env,
    error::Error,
    hint::spin_loop,
    io, mem,
    process::{self, Child, Command, Stdio},
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

/// iceoryx2's own version, as Cargo.toml pins it.
const VERSION: &str = "0.10.0";
/// The number of the last message.
const END: u64 = u64::MAX;
/// Of a hand-off; none is ever full.
const HANDOFF_DEPTH: usize = 64;
/// Times of one leg that are kept without memory being asked for meanwhile; a leg of seconds has fewer.
const TIMES_KEPT: usize = 1 << 20;
/// Subscribers are there after this long, and end as soon after the last message.
const PATIENCE: Duration = Duration::from_secs(20);
/// Messages between two looks at the clock, and at whether somebody asks to end.
const ROUND: u64 = 256;
/// Empty looks of a subscriber that counts, before it lets others run: with more of them than cores, who spins on takes
/// the publisher's time.
const SPINS: u32 = 5;

type Failed = Box<dyn Error>;
type Service = publish_subscribe::PortFactory<ipc::Service, [u8], ()>;

fn main() {
    set_log_level(LogLevel::Error);
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["version"] => {
            println!("{VERSION}");
            Ok(())
        }
        ["handoff", bytes, seconds, pace_ns] => handoff(bytes, seconds, pace_ns),
        ["rate", bytes, seconds, depth, subscribers] => rate(bytes, seconds, depth, subscribers),
        ["time", service, depth, _] => time(service, depth),
        ["count", service, depth, subscribers] => count(service, depth, subscribers),
        _ => Err(
            "usage: ecs-iceoryx2-peer version | handoff BYTES SECONDS PACE_NS | rate BYTES SECONDS DEPTH SUBSCRIBERS"
                .into(),
        ),
    };
    if let Err(error) = done {
        eprintln!("ecs-iceoryx2-peer: {error}");
        process::exit(1);
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, Failed> {
    text.parse().map_err(|_| format!("not a number: {text}").into())
}

/// One way of a message to a subscriber that spins.
fn handoff(bytes: &str, seconds: &str, pace_ns: &str) -> Result<(), Failed> {
    let (bytes, leg) = (number(bytes)?, Duration::from_secs_f64(number(seconds)?));
    let pace = Duration::from_nanos(number(pace_ns)?);
    let (node, name) = (node()?, service_name());
    let service = service(&node, &name, HANDOFF_DEPTH)?;
    let publisher = publisher(&service, bytes)?;
    let subscribers = Subscribers::start("time", &name, HANDOFF_DEPTH, 1, &service)?;
    pin(0)?;
    let (start, mut sent_ns) = (Instant::now(), Vec::with_capacity(TIMES_KEPT));
    while start.elapsed() < leg && sent_ns.len() < TIMES_KEPT {
        rest(pace);
        let message = message(&publisher, bytes, sent_ns.len() as u64)?;
        let now_ns = monotonic_ns();
        message.send()?;
        sent_ns.push(now_ns);
        if (sent_ns.len() as u64).is_multiple_of(ROUND) {
            end_if_asked(&node)?;
        }
    }
    message(&publisher, bytes, END)?.send()?;
    let said = subscribers.end()?;
    let mut times_ns = Vec::with_capacity(sent_ns.len());
    for line in said[0].lines() {
        let (number_of, read_ns) = line.split_once(' ').ok_or("a subscriber says no times")?;
        let sent_ns = sent_ns.get(number::<usize>(number_of)?).ok_or("a message that was not sent")?;
        times_ns.push(number::<u64>(read_ns)?.saturating_sub(*sent_ns));
    }
    if times_ns.len() != sent_ns.len() {
        return Err(format!("{} of {} messages arrived", times_ns.len(), sent_ns.len()).into());
    }
    println!("p50_ns {}", median(times_ns));
    println!("clock_ns {}", clock_ns());
    Ok(())
}

/// Messages that each of some subscribers gets.
fn rate(bytes: &str, seconds: &str, depth: &str, subscribers: &str) -> Result<(), Failed> {
    let (bytes, leg) = (number(bytes)?, Duration::from_secs_f64(number(seconds)?));
    let (depth, subscribers) = (number(depth)?, number(subscribers)?);
    let (node, name) = (node()?, service_name());
    let service = service(&node, &name, depth)?;
    let publisher = publisher(&service, bytes)?;
    let subscribers = Subscribers::start("count", &name, depth, subscribers, &service)?;
    pin(0)?;
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < leg {
        for _ in 0..ROUND {
            message(&publisher, bytes, sent)?.send()?;
            sent += 1;
        }
        end_if_asked(&node)?;
    }
    let elapsed_s = start.elapsed().as_secs_f64();
    message(&publisher, bytes, END)?.send()?;
    for said in subscribers.end()? {
        let got: u64 = number(said.trim())?;
        if got != sent {
            return Err(format!("{got} of {sent} messages arrived").into());
        }
    }
    println!("messages_per_s {}", sent as f64 / elapsed_s);
    Ok(())
}

/// The subscriber of a hand-off, on core 1.
fn time(name: &str, depth: &str) -> Result<(), Failed> {
    pin(1)?;
    let node = node()?;
    let subscriber = subscriber(&node, name, number(depth)?)?;
    let mut read = Vec::with_capacity(TIMES_KEPT + 1);
    loop {
        let Some(message) = subscriber.receive()? else {
            spin_loop();
            continue;
        };
        let number = number_of(&message)?;
        if number == END {
            break;
        }
        read.push((number, monotonic_ns()));
    }
    let lines: Vec<String> = read.iter().map(|(number, read_ns)| format!("{number} {read_ns}\n")).collect();
    print!("{}", lines.concat());
    Ok(())
}

/// A subscriber that counts; one that is alone does so on core 1.
fn count(name: &str, depth: &str, subscribers: &str) -> Result<(), Failed> {
    if subscribers == "1" {
        pin(1)?;
    }
    let node = node()?;
    let subscriber = subscriber(&node, name, number(depth)?)?;
    let (mut got, mut empty) = (0_u64, 0);
    loop {
        let Some(message) = subscriber.receive()? else {
            empty += 1;
            if empty < SPINS {
                spin_loop();
            } else {
                thread::yield_now();
            }
            continue;
        };
        empty = 0;
        let number = number_of(&message)?;
        if number == END {
            break;
        }
        if number != got {
            return Err(format!("message {number} came where {got} was due").into());
        }
        got += 1;
    }
    println!("{got}");
    Ok(())
}

/// The processes that subscribe; killed when this is dropped before their end.
struct Subscribers(Vec<Child>);

impl Subscribers {
    /// Starts so many, and waits until all are there.
    fn start(role: &str, name: &str, depth: usize, count: usize, service: &Service) -> Result<Self, Failed> {
        let program = env::current_exe()?;
        let mut subscribers = Self(Vec::new());
        for _ in 0..count {
            let mut command = Command::new(&program);
            let child =
                command.args([role, name, &depth.to_string(), &count.to_string()]).stdout(Stdio::piped()).spawn()?;
            subscribers.0.push(child);
        }
        let start = Instant::now();
        while service.dynamic_config().number_of_subscribers() < count {
            if start.elapsed() > PATIENCE {
                return Err(format!("subscribers were not there within {PATIENCE:?}").into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(subscribers)
    }

    /// What each has said, after the last message.
    fn end(mut self) -> Result<Vec<String>, Failed> {
        let mut said = Vec::new();
        while let Some(child) = self.0.pop() {
            let output = child.wait_with_output()?;
            if !output.status.success() {
                return Err(format!("a subscriber has ended: {}", output.status).into());
            }
            said.push(String::from_utf8(output.stdout)?);
        }
        Ok(said)
    }
}

impl Drop for Subscribers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn node() -> Result<Node<ipc::Service>, Failed> {
    Ok(NodeBuilder::new().create::<ipc::Service>()?)
}

fn service_name() -> String {
    format!("ecs-bench-{}", process::id())
}

/// Lossless: what is full is waited for.
fn service(node: &Node<ipc::Service>, name: &str, depth: usize) -> Result<Service, Failed> {
    let builder = node.service_builder(&name.try_into()?).publish_subscribe::<[u8]>();
    let builder =
        builder.enable_safe_overflow(false).subscriber_max_buffer_size(depth).subscriber_max_borrowed_samples(1);
    Ok(builder.history_size(0).max_publishers(1).max_subscribers(8).open_or_create()?)
}

fn publisher(service: &Service, bytes: usize) -> Result<Publisher<ipc::Service, [u8], ()>, Failed> {
    let builder = service.publisher_builder().initial_max_slice_len(bytes).max_loaned_samples(1);
    Ok(builder.backpressure_strategy(BackpressureStrategy::RetryUntilDelivered).create()?)
}

fn subscriber(
    node: &Node<ipc::Service>,
    name: &str,
    depth: usize,
) -> Result<Subscriber<ipc::Service, [u8], ()>, Failed> {
    Ok(service(node, name, depth)?.subscriber_builder().buffer_size(depth).create()?)
}

/// A message with its number in front.
fn message(
    publisher: &Publisher<ipc::Service, [u8], ()>,
    bytes: usize,
    number: u64,
) -> Result<iceoryx2::sample_mut::SampleMut<ipc::Service, [u8], ()>, Failed> {
    let mut message = publisher.loan_slice_uninit(bytes)?;
    for (to, from) in message.payload_mut().iter_mut().zip(number.to_ne_bytes()) {
        to.write(from);
    }
    // SAFETY: bytes of shared memory that the kernel has filled with zeros at first: any value is one.
    Ok(unsafe { message.assume_init() })
}

fn number_of(message: &[u8]) -> Result<u64, Failed> {
    Ok(u64::from_ne_bytes(message.get(..8).ok_or("a message without a number")?.try_into()?))
}

/// An error where SIGINT or SIGTERM came: what is in shared memory is then removed on the way out.
fn end_if_asked(node: &Node<ipc::Service>) -> Result<(), Failed> {
    Ok(node.wait(Duration::ZERO)?)
}

/// Spins: a core that goes idle answers later.
fn rest(pace: Duration) {
    let start = Instant::now();
    while start.elapsed() < pace {
        spin_loop();
    }
}

/// What two clocks show that are read one after the other.
fn clock_ns() -> u64 {
    let pair = |_| {
        let first_ns = monotonic_ns();
        monotonic_ns() - first_ns
    };
    median((0..1001).map(pair).collect())
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time lives over the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Keeps this thread on one core.
fn pin(core: usize) -> Result<(), Failed> {
    // SAFETY: a set of zeros is an empty one, and the core is far below its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(core, &mut set);
        set
    };
    // SAFETY: the set lives over the call and has the size that is told.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) } {
        0 => Ok(()),
        _ => Err(format!("cannot stay on core {core}: {}", io::Error::last_os_error()).into()),
    }
}
