//! `ecs-cli picture`: an image of a file, to look at.

use crate::{exit::Exit, picture};
use anyhow::{Context, bail};
use clap::Args;
use hdf5_metno::{Dataset, File};
use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

const DATASET: &str = "/entry/data/data";
const FILL_VALUE: &str = "/entry/detector/fill_value";

const EXAMPLES: &str = "\
Examples:
  ecs-cli picture run7.h5 --output last.png
  ecs-cli picture run7.h5 --image 0 --output first.png

Colours are logarithmic, from dark violet to yellow. Pixels whose packet was missing, or
that are masked, are magenta.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Picture {
    /// An HDF5 file that ECS wrote
    file: PathBuf,
    /// Which image: its row in the file, from 0, or `last`
    #[arg(long, value_name = "N", default_value = "last", value_parser = row)]
    image: Row,
    /// The PNG file; it is replaced if it is there
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    Last,
    Number(usize),
}

fn row(text: &str) -> Result<Row, String> {
    match text {
        "last" => Ok(Row::Last),
        number => number.parse().map(Row::Number).map_err(|_| "a row, from 0, or last".to_owned()),
    }
}

impl Picture {
    pub fn run(self) -> anyhow::Result<Exit> {
        let file = File::open(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        let data = file.dataset(DATASET).with_context(|| format!("{} has no {DATASET}", self.file.display()))?;
        let row = self.row(&data)?;
        let image = data.read_slice_2d::<f64, _>((row, .., ..)).context("cannot read the image")?;
        let (height, width) = image.dim();
        let pixels: Vec<f64> = image.iter().copied().collect();
        let missing = file.dataset(FILL_VALUE).and_then(|fill| fill.read_scalar::<f64>());
        let missing = missing.with_context(|| format!("{} has no {FILL_VALUE}", self.file.display()))?;
        let png = picture::png(&pixels, height, width, missing)?;
        fs::write(&self.output, png).with_context(|| format!("cannot write {}", self.output.display()))?;
        writeln!(io::stdout(), "{}: image {row}, {width} x {height} pixels", self.output.display())?;
        Ok(Exit::Ok)
    }

    fn row(&self, data: &Dataset) -> anyhow::Result<usize> {
        let shape = data.shape();
        let &[images, _, _] = shape.as_slice() else { bail!("{DATASET} has the shape {shape:?}, not [images, y, x]") };
        match self.image {
            Row::Last if images > 0 => Ok(images - 1),
            Row::Number(row) if row < images => Ok(row),
            _ => bail!("{} has {images} images; --image takes 0 to {images} - 1", self.file.display()),
        }
    }
}
