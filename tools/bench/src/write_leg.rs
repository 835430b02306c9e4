//! The writer's file beside a plain sequential `write` of the same bytes to the same file system.
//!
//! Both legs take the images from warm memory of the ring's size and write into a new file; neither
//! waits for the disk (ours does so only at a job's end, where the baseline would as well). Ours
//! includes making the file, its rows, and its end with ledger.

use crate::pairs::Pairs;
use anyhow::Context;
use ecs_schemas::{detector::Placement, image::LossCause, packets::PacketLedger};
use ecs_writer::file::{Author, End, EndState, FileSpec, ImageFile, ImageRow};
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::Instant,
};

/// Memory that images are taken from, in turn: more than the caches hold.
const SOURCE_IMAGES: usize = 128;

/// GB/s of the writer's file and of plain writes.
///
/// # Errors
/// The folder cannot be written, or is full.
pub fn pairs(placement: &Placement, folder: &Path, images: u64, pairs: &Pairs) -> anyhow::Result<Vec<(f64, f64)>> {
    let image_bytes = placement.image_bytes();
    let source: Vec<u8> = (0..SOURCE_IMAGES * image_bytes).map(|byte| byte as u8).collect();
    let image = |row: u64| &source[row as usize % SOURCE_IMAGES * image_bytes..][..image_bytes];
    let total_gb = images as f64 * image_bytes as f64 / 1e9;
    let (ours, plain) = (folder.join("ecs-bench.h5"), folder.join("ecs-bench.bin"));
    let result = pairs.run(
        "writer, HDF5 file",
        || {
            remove(&ours)?;
            let start = Instant::now();
            write_hdf5(placement, &ours, images, &image)?;
            Ok(total_gb / start.elapsed().as_secs_f64())
        },
        || {
            remove(&plain)?;
            let start = Instant::now();
            let mut file = File::create(&plain).with_context(|| format!("cannot create {}", plain.display()))?;
            for row in 0..images {
                file.write_all(image(row))?;
            }
            Ok(total_gb / start.elapsed().as_secs_f64())
        },
    );
    remove(&ours)?;
    remove(&plain)?;
    result
}

fn write_hdf5<'a>(
    placement: &Placement,
    output: &Path,
    images: u64,
    image: &impl Fn(u64) -> &'a [u8],
) -> anyhow::Result<()> {
    let packets = placement.packets_per_image();
    let bitmap = vec![u64::MAX; packets.div_ceil(64)];
    let mut file = ImageFile::create(&FileSpec {
        output: output.to_owned(),
        author: Author { job: 1, writer: "bench".to_owned(), file_id: 1 },
        images,
        height: placement.height,
        width: placement.width,
        pixel: placement.pixel,
        packets_per_image: packets,
        fill: placement.pixel.all_ones(),
        overwrite: true,
        detector_name: "bench".to_owned(),
        detector_type: "eiger".to_owned(),
        bit_depth: placement.pixel.bytes() as u32 * 8,
        pixel_mask: Vec::new(),
        metadata: std::collections::BTreeMap::new(),
    })?;
    file.set_first_id(1)?;
    for row in 0..images {
        let values = ImageRow {
            image_id: row + 1,
            missing_packets: 0,
            packet_received: &bitmap,
            first_packet_time_ns: 1,
            commit_time_ns: 2,
            detector_timestamp: 3,
            exposure_length: 4,
            do_not_store: false,
            calibration: 0,
        };
        file.write_image(&values, image(row))?;
    }
    let state = EndState::Done;
    let (reason, packets) = (String::new(), PacketLedger::default());
    file.finish(&End { state, reason, pending_cause: LossCause::Several, packets, sync: false })?;
    Ok(())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
