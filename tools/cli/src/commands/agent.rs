//! `ecs-cli agent`: one agent of a beamline as a process of its own.

use crate::{beamline_file, cores, exit::Exit, identity, realtime};
use anyhow::bail;
use clap::{Args, ValueEnum};
use ecs_schemas::beamline::Beamline;
use ecs_sdk::stop;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  ecs-cli agent assembler --config beamline.toml
  ecs-cli agent readout --config beamline.toml --index 1

`ecs-cli up` starts all of them; alone they may be started in any order, with the broker or without.
Exit code 78: the configuration cannot work, or a port is taken.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Agent {
    /// Which agent
    kind: Kind,
    /// The beamline's file
    #[arg(long, env = "ECS_CONFIG", value_name = "FILE", default_value = beamline_file::DEFAULT_FILE)]
    config: PathBuf,
    /// Which one of its kind, from 0
    #[arg(long, value_name = "I", default_value_t = 0)]
    index: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Receives packets into their place in the image
    Readout,
    /// Opens and closes images, counts every loss
    Assembler,
    /// Writes images to HDF5 files
    Writer,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Readout => "readout",
            Self::Assembler => "assembler",
            Self::Writer => "writer",
        }
    }
}

impl Agent {
    pub fn process_name(&self) -> String {
        match self.index {
            0 => self.kind.name().to_owned(),
            index => format!("{}-{index}", self.kind.name()),
        }
    }

    pub fn run(self) -> anyhow::Result<Exit> {
        let beamline = beamline_file::load(&self.config)?;
        cores::keep(&beamline)?;
        self.check_index(&beamline)?;
        identity::of_beamline(&beamline)?;
        let stop = stop::install();
        let _realtime = realtime::of_agent(&beamline);
        match self.kind {
            Kind::Readout => ecs_readout::run(&beamline, self.index, &stop)?,
            Kind::Assembler => ecs_assembler::run(&beamline, &stop)?,
            Kind::Writer => ecs_writer::run(&beamline, self.index, &stop)?,
        }
        Ok(Exit::Ok)
    }

    fn check_index(&self, beamline: &Beamline) -> anyhow::Result<()> {
        let kind = self.kind.name();
        let count = beamline.agents().iter().filter(|agent| agent.kind == kind).count();
        if self.index as usize >= count {
            bail!("--index {}: beamline {} has {count} {kind} (from 0)", self.index, beamline.name);
        }
        Ok(())
    }
}
