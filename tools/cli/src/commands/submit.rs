//! `ecs-cli submit`: ask a service to do something.

use crate::{
    connection::{Connection, call},
    exit::Exit,
    human, progress,
    progress::Waiting,
    report,
};
use anyhow::Context;
use clap::{Args, Subcommand};
use ecs_schemas::{
    job,
    value::Value,
    write_job::{SERVICE, WriteParams},
};
use std::{
    io::{self, Write as _},
    path::PathBuf,
};

const EXAMPLES: &str = "\
Examples:
  ecs-cli submit write --output run7.h5 --images 1000
  ecs-cli submit write --output /data/run8.h5 --images 1000 --wait --timeout 10
  ecs-cli submit write --output run9.h5 --images 50 --metadata sample=LaB6 --metadata energy_keV=12.4 --json

With --wait the exit code is 0 only if every image is written whole, and 3 if the job ended otherwise.";

#[derive(Debug, Args)]
pub struct Submit {
    #[command(subcommand)]
    service: Service,
}

#[derive(Debug, Subcommand)]
enum Service {
    /// Write images to an HDF5 file
    Write(Write),
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
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
    #[arg(long, value_name = "SECONDS", value_parser = seconds_ms)]
    timeout: Option<u64>,
    /// Written into the file; a value is true, false, a number, or else text. May be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, Value)>,
    /// Name of this request: the same twice is one job [default: a new one]
    #[arg(id = "once", long = "once", value_name = "KEY")]
    key: Option<String>,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    connection: Connection,
}

impl Submit {
    pub fn run(self) -> anyhow::Result<Exit> {
        match self.service {
            Service::Write(write) => write.run(),
        }
    }
}

impl Write {
    fn run(self) -> anyhow::Result<Exit> {
        let client = self.connection.client()?;
        let job = call(&client, &self.request()?)?;
        if self.waiting.wait {
            return progress::finish(&client, job.id, self.waiting.json);
        }
        if self.waiting.json {
            report::print_json(&job)?;
        } else {
            let (id, images) = (job.id, human::count(self.images));
            let mut out = io::stdout().lock();
            writeln!(out, "job {id}: {images} images to {}", report::output(&job))?;
            writeln!(out, "follow it with: ecs-cli job {id} --wait")?;
        }
        Ok(Exit::Ok)
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
        let key = self.key.clone().unwrap_or_else(new_key);
        Ok(job::Submit { service: SERVICE.to_owned(), params: Value::from_typed(&params), key })
    }
}

/// A key that no other submission has: this process, and the nanosecond.
fn new_key() -> String {
    format!("cli-{}-{}", std::process::id(), human::now_ns())
}

/// Milliseconds from seconds, with a fraction if need be.
fn seconds_ms(text: &str) -> Result<u64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.001..=1e9).contains(seconds));
    seconds.map(|seconds| (seconds * 1000.0).round() as u64).ok_or_else(|| "a number of seconds above 0".to_owned())
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

    #[test]
    fn timeout_is_read_to_the_millisecond() {
        assert_eq!((seconds_ms("1.5"), seconds_ms("30")), (Ok(1500), Ok(30_000)));
        assert!(["0", "-1", "inf", "x"].iter().all(|text| seconds_ms(text).is_err()));
    }
}
