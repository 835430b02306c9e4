//! `ecs-cli submit`: ask a service to do something.

use crate::{
    completing,
    connection::{Connection, call},
    exit::Exit,
    human, params, progress,
    progress::Waiting,
    report,
};
use anyhow::Context;
use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use ecs_schemas::{
    job::{self, JobRecord},
    value::Value,
    write_job::{SERVICE, WriteParams},
};
use std::{
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

const EXAMPLES: &str = "\
Examples:
  ecs-cli submit write --output run7.h5 --images 1000
  ecs-cli submit reduce file=run7.h5 bins=512 mask='[1, 2]'
  ecs-cli submit pedestal output=dark.h5 frames=1000 --wait
  ecs-cli submit reduce @params.json bins=256 --priority 10 --wait --timeout 60
  ecs-cli submit reduce file=run8.h5 --hold && ecs-cli jobs

A value is JSON where it parses as JSON, else text; @FILE.json brings all that is in the file.
`ecs-cli submit write --help` has the options of a write.
With --wait the exit code is 0 only if the job is done, and 3 if it ended otherwise.";

const WRITE_EXAMPLES: &str = "\
Examples:
  ecs-cli submit write --output run7.h5 --images 1000
  ecs-cli submit write --output /data/run8.h5 --images 1000 --wait --timeout 10
  ecs-cli submit write --output run9.h5 --images 50 --metadata sample=LaB6 --metadata energy_keV=12.4 --json

With --wait the exit code is 0 only if every image is written whole, and 3 if the job ended otherwise.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Submit {
    #[command(subcommand)]
    known: Option<Known>,
    /// The service; one that nobody offers is refused with those that there are
    #[arg(required = true, add = ArgValueCompleter::new(completing::services))]
    service: Option<String>,
    /// Parameters
    #[arg(value_name = "KEY=VALUE|@FILE.json", add = ArgValueCompleter::new(completing::files_of_parameters))]
    params: Vec<String>,
    /// With --wait: give up waiting after this long; the job goes on
    #[arg(long, value_name = "SECONDS", value_parser = crate::options::milliseconds, requires = "wait")]
    timeout: Option<u64>,
    #[command(flatten)]
    queueing: Queueing,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    connection: Connection,
}

/// Services whose parameters this command knows.
#[derive(Debug, Subcommand)]
enum Known {
    /// Write images to an HDF5 file
    Write(Box<Write>),
}

/// How a job stands in the queue, whatever its service.
#[derive(Debug, Args)]
struct Queueing {
    /// Higher goes first
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// Keep it from being begun until `ecs-cli release`
    #[arg(long)]
    hold: bool,
    /// Queue it again when its agent is lost, three times at most
    #[arg(long)]
    repeat_if_lost: bool,
    /// Name of this request: the same twice is one job [default: a new one]
    #[arg(id = "once", long = "once", value_name = "KEY")]
    key: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = WRITE_EXAMPLES)]
struct Write {
    /// The file, relative to the current folder
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// How many images
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    images: u64,
    /// Id of the first image [default: the first one that comes]
    #[arg(long, value_name = "ID")]
    start: Option<u64>,
    /// Replace the file if it is there, once the first image has come
    #[arg(long)]
    overwrite: bool,
    /// Fail when no image came for this long [default: the beamline's writer.image_timeout]
    #[arg(long, value_name = "SECONDS", value_parser = crate::options::milliseconds)]
    timeout: Option<u64>,
    /// Written into the file; a value is true, false, a number, or else text. May be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, Value)>,
    #[command(flatten)]
    queueing: Queueing,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    connection: Connection,
}

impl Submit {
    pub fn run(self) -> anyhow::Result<Exit> {
        match &self.known {
            Some(Known::Write(write)) => write.run(),
            None => self.run_any(),
        }
    }

    /// A job of any service.
    fn run_any(&self) -> anyhow::Result<Exit> {
        let service = self.service.as_deref().context("the name of a service is wanted")?;
        let client = self.connection.client()?;
        let job = call(&client, &self.queueing.submit(service, params::parse(&self.params)?))?;
        if self.waiting.wait {
            let patience = self.timeout.map(Duration::from_millis);
            return progress::finish(&client, job.id, patience, self.waiting.json);
        }
        print(&job, self.waiting.json, &report::what(&job))
    }
}

impl Queueing {
    fn submit(&self, service: &str, params: Value) -> job::Submit {
        job::Submit {
            service: service.to_owned(),
            params,
            key: self.key.clone().unwrap_or_else(new_key),
            priority: self.priority,
            hold: self.hold,
            repeat_if_lost: self.repeat_if_lost,
        }
    }
}

/// Says what was submitted.
fn print(job: &JobRecord, json: bool, what: &str) -> anyhow::Result<Exit> {
    if json {
        report::print_json(job)?;
    } else {
        let (id, hold) = (job.id, if job.held { ", held" } else { "" });
        let mut out = io::stdout().lock();
        writeln!(out, "job {id}: {}{hold}", format!("{} {what}", job.service).trim_end())?;
        writeln!(out, "follow it with: ecs-cli job {id} --wait")?;
    }
    Ok(Exit::Ok)
}

impl Write {
    fn run(&self) -> anyhow::Result<Exit> {
        let client = self.connection.client()?;
        let job = call(&client, &self.request()?)?;
        if self.waiting.wait {
            return progress::finish(&client, job.id, None, self.waiting.json);
        }
        print(&job, self.waiting.json, &format!("{} images to {}", human::count(self.images), report::what(&job)))
    }

    fn request(&self) -> anyhow::Result<job::Submit> {
        // The writer has another current folder than the person who names the file.
        let output = std::path::absolute(&self.output).context("--output")?;
        let output = output.to_str().context("--output: the path is not UTF-8")?.to_owned();
        let params = WriteParams {
            output,
            images: self.images,
            start: self.start,
            overwrite: self.overwrite,
            image_timeout_ms: self.timeout,
            metadata: self.metadata.iter().cloned().collect(),
        };
        Ok(self.queueing.submit(SERVICE, Value::from_typed(&params)))
    }
}

/// A key that no other submission has: this process, and the nanosecond.
fn new_key() -> String {
    format!("cli-{}-{}", std::process::id(), human::now_ns())
}

fn key_value(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("KEY=VALUE is wanted")?;
    Ok((key.to_owned(), typed(value)))
}

fn typed(text: &str) -> Value {
    if let Ok(flag) = text.parse::<bool>() {
        return flag.into();
    }
    if let Ok(integer) = text.parse::<i64>() {
        return integer.into();
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => number.into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_takes_the_type_that_its_text_has() {
        let cases: [(&str, Value); 6] = [
            ("true", true.into()),
            ("-7", (-7).into()),
            ("12.4", 12.4.into()),
            ("LaB6", "LaB6".into()),
            ("inf", "inf".into()),
            ("a=b", "a=b".into()),
        ];
        for (text, expected) in cases {
            assert_eq!(key_value(&format!("key={text}")), Ok(("key".to_owned(), expected)));
        }
        assert!(key_value("key").is_err() && key_value("=1").is_err());
    }
}
