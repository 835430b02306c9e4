//! Pedestals from dark images: a job of its own.
//!
//! ```text
//! readout ──pixels as they came──▶ ring ──▶ Darks: count, sum, sum of squares ──▶ file ──▶ pedestal.active ──▶ readout
//! ```
//!
//! The detector is put into each of its gains in turn, by whoever controls it. An image is one of the gain that most of
//! its pixels have; a pixel that has another one in it is left out.
//!
//! # Rules
//! D1  A charge is taken only from an image whose number says that all its pixels are as they came, and only from packets
//!     that are there.
//! D2  The job reads as a lossy reader: dark images that it misses cost nothing, and nobody else an image.
//! D3  The readout gives pixels as they come only while the job lives (S3 of the calibration's state).
//! D4  The file has its name only once it is whole and on the disk, and is active only after that.
//!
//! | module | what it does |
//! |---|---|
//! | `darks` | what is summed of images |
//! | `file` | the file of pedestals |
//! | `service` | a job from its parameters to its end |

mod darks;
mod file;
mod service;

pub use service::PedestalService;
