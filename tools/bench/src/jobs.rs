//! Jobs that a hundred submitters hand in at one time. Each is answered when it is on disk.
//!
//! The jobs are held, and cancelled when the clock stands: what is measured is taking them in.

use anyhow::{Context, bail};
use ecs_schemas::{
    envelope::{Header, KIND_ERROR, Request, decode, encode},
    error_code::Failure,
    job::{CancelJob, JobId, JobRecord, Submit},
    value::Value,
};
use std::{
    fs::File,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

pub const SUBMITTERS: usize = 100;
/// The broker takes a thousand open jobs.
pub const JOBS_OF_ONE: usize = 9;
/// What a job carries.
pub const PAYLOAD_BYTES: usize = 64;
const PATIENCE: Duration = Duration::from_secs(20);
/// What the store writes for one job: its record, and what the journal of the database puts around it.
const RECORD_BYTES: usize = 512;

/// Connections that ask one request at a time each.
pub struct Submitters {
    sockets: Vec<zmq::Socket>,
    last_id: u64,
}

impl Submitters {
    /// # Errors
    /// Out of sockets.
    pub fn connect(endpoint: &str) -> anyhow::Result<Self> {
        let context = zmq::Context::new();
        let connect = |_| {
            let socket = context.socket(zmq::DEALER)?;
            socket.set_linger(0)?;
            socket.connect(endpoint)?;
            Ok(socket)
        };
        let sockets = (0..SUBMITTERS).map(connect).collect::<zmq::Result<_>>().context("no socket")?;
        Ok(Self { sockets, last_id: 0 })
    }

    /// Jobs for `service` that were accepted per second.
    ///
    /// # Errors
    /// One was refused, or not answered.
    pub fn jobs_per_s(&mut self, service: &str, leg: Duration) -> anyhow::Result<f64> {
        let (mut spent, mut accepted) = (Duration::ZERO, 0);
        while spent < leg {
            let begun = Instant::now();
            let submit = |key: u64, _: usize| submit(service, key);
            let jobs: Vec<JobId> = self.ask_all::<Submit>(JOBS_OF_ONE, submit)?.iter().map(|job| job.id).collect();
            spent += begun.elapsed();
            accepted += jobs.len();
            self.ask_all::<CancelJob>(JOBS_OF_ONE, |_, index| CancelJob { id: jobs[index] })?;
        }
        Ok(accepted as f64 / spent.as_secs_f64())
    }

    /// Each connection asks so often. `request` is given a number that is used once, and how many there were before.
    fn ask_all<R: Request>(
        &mut self,
        of_each: usize,
        request: impl Fn(u64, usize) -> R,
    ) -> anyhow::Result<Vec<JobRecord>> {
        let (mut asked, mut answers) = (0, Vec::new());
        let Self { sockets, last_id } = self;
        let mut ask = |socket: &zmq::Socket| -> anyhow::Result<()> {
            *last_id += 1;
            let header = Header::request(R::KIND, *last_id, PATIENCE.as_millis() as u32);
            socket.send_multipart([encode(&header), encode(&request(*last_id, asked))], 0)?;
            asked += 1;
            Ok(())
        };
        let mut left = vec![of_each - 1; sockets.len()];
        sockets.iter().try_for_each(&mut ask)?;
        while answers.len() < of_each * sockets.len() {
            let mut items: Vec<_> = sockets.iter().map(|socket| socket.as_poll_item(zmq::POLLIN)).collect();
            if zmq::poll(&mut items, PATIENCE.as_millis() as i64)? == 0 {
                bail!("the broker did not answer {} within {PATIENCE:?}", R::KIND);
            }
            let readable: Vec<bool> = items.iter().map(zmq::PollItem::is_readable).collect();
            for (index, socket) in sockets.iter().enumerate().filter(|(index, _)| readable[*index]) {
                answers.push(record(&socket.recv_multipart(0)?)?);
                if left[index] > 0 {
                    left[index] -= 1;
                    ask(socket)?;
                }
            }
        }
        Ok(answers)
    }
}

fn submit(service: &str, number: u64) -> Submit {
    let params = Value::Map([("payload".to_owned(), Value::Bytes(vec![7; PAYLOAD_BYTES]))].into());
    let key = format!("bench-{}-{number}", std::process::id());
    Submit { service: service.to_owned(), params, key, priority: 0, hold: true, repeat_if_lost: false }
}

fn record(parts: &[Vec<u8>]) -> anyhow::Result<JobRecord> {
    let [header, body] = parts else { bail!("an answer of {} parts", parts.len()) };
    if Header::decode(header)?.kind == KIND_ERROR {
        bail!("the broker refused: {}", decode::<Failure>(body)?);
    }
    Ok(decode(body)?)
}

/// The floor: so many records at a time, as a plain file takes them.
///
/// # Errors
/// The disk's.
pub fn appended_per_s(folder: &Path, leg: Duration) -> anyhow::Result<f64> {
    let mut file = File::create(folder.join("appended")).context("cannot make a file beside the broker's store")?;
    let records = vec![7; SUBMITTERS * RECORD_BYTES];
    let (begun, mut written) = (Instant::now(), 0);
    while begun.elapsed() < leg {
        file.write_all(&records)?;
        file.sync_data()?;
        written += SUBMITTERS;
    }
    Ok(written as f64 / begun.elapsed().as_secs_f64())
}
