//! Request and reply through a nats-server with NATS' own Rust client: what `ecs-cli bench broker --peers` measures
//! calls beside.
//!
//! ```text
//! this process:  callers ─▶ async-nats ─▶ nats-server ─▶ async-nats ─▶ worker, and back
//!                a connection                           a connection
//! ```
//!
//! | arguments | what it prints |
//! |---|---|
//! | `calls PORT BYTES IN_FLIGHT SECONDS` | `calls_per_s N`: that are answered while so many are under way; `p50_us N`: median time of one |
//! | `version` | that of async-nats |
//!
//! Each call is a `Client::request` of a task of its own, as programs write it, in the client's defaults but for its
//! queues, which hold every call. One thread for both sides was the fastest on two cores beside a server that wants them
//! too; tried were a thread for each side, a pool of two, and one task that drives all calls.

use bytes::Bytes;
use futures::StreamExt;
use std::{
    env,
    error::Error,
    process,
    str::FromStr,
    time::{Duration, Instant},
};
use tokio::runtime::Builder;

/// async-nats' own version, as Cargo.toml pins it.
const VERSION: &str = "0.51.0";
const SUBJECT: &str = "bench.echo";
/// What may wait in a client.
const CAPACITY: usize = 1 << 14;

type Failed = Box<dyn Error + Send + Sync>;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["version"] => {
            println!("{VERSION}");
            Ok(())
        }
        ["calls", port, bytes, in_flight, seconds] => calls(port, bytes, in_flight, seconds),
        _ => Err("usage: ecs-nats-peer version | calls PORT BYTES IN_FLIGHT SECONDS".into()),
    };
    if let Err(error) = done {
        eprintln!("ecs-nats-peer: {error}");
        process::exit(1);
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, Failed> {
    text.parse().map_err(|_| format!("not a number: {text}").into())
}

fn calls(port: &str, bytes: &str, in_flight: &str, seconds: &str) -> Result<(), Failed> {
    let (port, bytes, in_flight): (u16, usize, usize) = (number(port)?, number(bytes)?, number(in_flight)?);
    let leg = Duration::from_secs_f64(number(seconds)?);
    let mut times_ns = Builder::new_current_thread().enable_all().build()?.block_on(async {
        start_worker(port).await?;
        let client = connect(port).await?;
        let start = Instant::now();
        let callers: Vec<_> =
            (0..in_flight).map(|_| tokio::spawn(keep_calling(client.clone(), bytes, start + leg))).collect();
        let mut times_ns = Vec::new();
        for caller in callers {
            times_ns.extend(caller.await??);
        }
        println!("calls_per_s {}", times_ns.len() as f64 / start.elapsed().as_secs_f64());
        Ok::<_, Failed>(times_ns)
    })?;
    times_ns.sort_unstable();
    println!("p50_us {}", times_ns[times_ns.len() / 2] as f64 / 1e3);
    Ok(())
}

/// Sends back what it gets; when this returns, the server knows it.
async fn start_worker(port: u16) -> Result<(), Failed> {
    let client = connect(port).await?;
    let mut asked = client.subscribe(SUBJECT).await?;
    client.flush().await?;
    tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            let Some(reply) = message.reply else { continue };
            if let Err(error) = client.publish(reply, message.payload).await {
                eprintln!("ecs-nats-peer: the worker cannot answer: {error}");
            }
        }
    });
    Ok(())
}

async fn connect(port: u16) -> Result<async_nats::Client, Failed> {
    let options = async_nats::ConnectOptions::new().client_capacity(CAPACITY).subscription_capacity(CAPACITY);
    Ok(options.connect(format!("127.0.0.1:{port}")).await?)
}

/// Calls one after the other until `end`; the nanoseconds that each took.
async fn keep_calling(client: async_nats::Client, bytes: usize, end: Instant) -> Result<Vec<u64>, Failed> {
    let payload = Bytes::from(vec![7; bytes]);
    let mut times_ns = Vec::new();
    loop {
        let begun = Instant::now();
        let answer = client.request(SUBJECT, payload.clone()).await?;
        if answer.payload != payload {
            return Err(format!("{bytes} bytes were sent, others of {} came back", answer.payload.len()).into());
        }
        let now = Instant::now();
        times_ns.push((now - begun).as_nanos() as u64);
        if now > end {
            return Ok(times_ns);
        }
    }
}
