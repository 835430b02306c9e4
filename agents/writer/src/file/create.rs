//! The structure of a file: everything that the HDF5 library writes, once, before the first image.

use super::{
    columns::Column,
    layout::{CHUNK_ROWS, Layout, descriptor_path, open_in_library, with_library},
    ledger::{CALIBRATIONS_BYTES, LedgerField, STATE_BYTES, TEXT_BYTES},
    metadata::{self, text_attribute, texts_attribute},
    spec::FileSpec,
    time::iso_utc,
};
use ecs_schemas::{detector::PixelType, image::LossCause, packets::PacketLedger};
use hdf5_metno::{
    self as hdf5, Dataset, Group, Location,
    dataset::{AllocTime, FillTime},
    plist::file_access::LibraryVersion,
    types::{FloatSize, IntSize, TypeDescriptor, VarLenUnicode},
};
use std::{fs::File, time::SystemTime};

/// Lays out `file`, which is empty, and returns where everything lies.
///
/// # Errors
/// What the library said, or in what its layout is not the expected one.
pub(super) fn lay_out(file: &File, spec: &FileSpec) -> Result<Layout, String> {
    with_library(|| {
        create_by_descriptor(file).and_then(hdf5::File::close).map_err(|error| error.to_string())?;
        let library = open_in_library(file, true).map_err(|error| error.to_string())?;
        write_structure(&library, spec).map_err(|error| error.to_string())?;
        let layout = Layout::read(&library)?;
        library.close().map_err(|error| error.to_string())?;
        Ok(layout)
    })
}

/// A file's superblock version follows the bounds that it is created under: 2 up to v1.8, which has no
/// flag that a kill could leave set (rule F6).
/// Makes an empty file an HDF5 one, open in the library.
pub(crate) fn create_by_descriptor(file: &File) -> hdf5::Result<hdf5::File> {
    let mut options = hdf5::File::with_options();
    options.with_fapl(|access| access.file_locking(false).libver_bounds(LibraryVersion::V18, LibraryVersion::latest()));
    options.create(descriptor_path(file))
}

fn write_structure(file: &hdf5::File, spec: &FileSpec) -> hdf5::Result<()> {
    text_attribute(file, "NX_class", "NXroot")?;
    text_attribute(file, "default", "entry")?;
    text_attribute(file, "creator", &format!("ECS {}", ecs_schemas::VERSION))?;
    text_attribute(file, "file_time", &iso_utc(SystemTime::now()))?;
    let entry = group(file, "entry", "NXentry")?;
    text_attribute(&entry, "default", "data")?;
    write_detector(&group(&entry, "detector", "NXdetector")?, spec)?;
    metadata::write(&entry.create_group("metadata")?, &spec.metadata)?;
    write_ledger(&group(&entry, "ledger", "NXcollection")?, spec)?;
    let data = group(&entry, "data", "NXdata")?;
    text_attribute(&data, "signal", "data")?;
    for column in Column::ALL {
        write_column(&data, column, spec)?;
    }
    // The images come last, so that all else lies in the first part of the file.
    write_data(&data, spec)
}

fn group(parent: &Group, name: &str, class: &str) -> hdf5::Result<Group> {
    let group = parent.create_group(name)?;
    text_attribute(&group, "NX_class", class)?;
    Ok(group)
}

fn describe(location: &Location, units: Option<&str>, description: &str) -> hdf5::Result<()> {
    if let Some(units) = units {
        text_attribute(location, "units", units)?;
    }
    text_attribute(location, "description", description)
}

fn write_detector(group: &Group, spec: &FileSpec) -> hdf5::Result<()> {
    let text = |name: &str, value: &str| {
        let value: VarLenUnicode = value.parse().map_err(|error| hdf5::Error::from(format!("{name}: {error}")))?;
        group.new_dataset::<VarLenUnicode>().create(name)?.write_scalar(&value)
    };
    text("name", &spec.detector_name)?;
    text("type", &spec.detector_type)?;
    let number = |name: &str, value: u64| group.new_dataset::<u64>().create(name)?.write_scalar(&value);
    number("bit_depth", spec.bit_depth.into())?;
    number("packets_per_image", spec.packets_per_image as u64)?;
    match spec.pixel {
        PixelType::F32 => group.new_dataset::<f32>().create("fill_value")?.write_scalar(&f32::from_bits(spec.fill)),
        PixelType::I32 => group.new_dataset::<i64>().create("fill_value")?.write_scalar(&i64::from(spec.fill as i32)),
        _ => number("fill_value", spec.fill.into()),
    }?;
    write_pixel_mask(group, spec)
}

/// As NeXus has it, but in one byte a pixel: of its bits, only the first two and the last one are used.
fn write_pixel_mask(group: &Group, spec: &FileSpec) -> hdf5::Result<()> {
    if spec.pixel_mask.is_empty() {
        return Ok(());
    }
    let mask = group.new_dataset::<u8>().shape([spec.height, spec.width]).create("pixel_mask")?;
    mask.write_raw(&spec.pixel_mask)?;
    describe(&mask, None, "bit 0: a gap, no sensor there; bit 1: its module is off; bit 7: masked by a setting")
}

fn write_ledger(group: &Group, spec: &FileSpec) -> hdf5::Result<()> {
    for field in LedgerField::ALL {
        let number = TypeDescriptor::Unsigned(IntSize::U8);
        let dataset = match field {
            LedgerField::State => allocated(group, TypeDescriptor::FixedUnicode(STATE_BYTES), &[], field.name()),
            LedgerField::Calibrations => {
                allocated(group, TypeDescriptor::FixedUnicode(CALIBRATIONS_BYTES), &[], field.name())
            }
            LedgerField::Writer | LedgerField::Reason => {
                allocated(group, TypeDescriptor::FixedUnicode(TEXT_BYTES), &[], field.name())
            }
            LedgerField::LostByCause => allocated(group, number, &[LossCause::ALL.len()], field.name()),
            LedgerField::Packets => allocated(group, number, &[PacketLedger::NAMES.len()], field.name()),
            _ => allocated(group, number, &[], field.name()),
        }?;
        describe(&dataset, None, field.description())?;
        match field {
            LedgerField::Job => dataset.write_scalar(&spec.author.job)?,
            LedgerField::FileId => dataset.write_scalar(&spec.author.file_id)?,
            LedgerField::Asked => dataset.write_scalar(&spec.images)?,
            LedgerField::LostByCause => {
                texts_attribute(&dataset, "names", &LossCause::ALL.map(LossCause::as_str))?;
            }
            LedgerField::Packets => texts_attribute(&dataset, "names", &PacketLedger::NAMES)?,
            _ => {}
        }
    }
    Ok(())
}

/// A dataset of zeros that has its place in the file from now on.
fn allocated(group: &Group, of: TypeDescriptor, shape: &[usize], name: &str) -> hdf5::Result<Dataset> {
    let plain = group.new_dataset_builder().empty_as(of).alloc_time(Some(AllocTime::Early));
    let plain = plain.fill_time(FillTime::Alloc);
    if shape.is_empty() { plain.create(name) } else { plain.shape(shape).create(name) }
}

/// Zeros are written at creation: the blocks are then on the disk and cannot be refused later.
fn write_column(group: &Group, column: Column, spec: &FileSpec) -> hdf5::Result<()> {
    let shape = [spec.images as usize, column.row_bytes(spec.packets_per_image)];
    let chunk = [shape[0].min(CHUNK_ROWS as usize), shape[1]];
    let dimensions = if column == Column::PacketReceived { 2 } else { 1 };
    let array = group
        .new_dataset_builder()
        .empty_as(column.type_descriptor())
        .alloc_time(Some(AllocTime::Early))
        .fill_time(FillTime::Alloc)
        .shape(&shape[..dimensions])
        .chunk(&chunk[..dimensions])
        .create(column.name())?;
    describe(&array, column.units(), column.description())
}

fn write_data(group: &Group, spec: &FileSpec) -> hdf5::Result<()> {
    let pixel = match spec.pixel {
        PixelType::U8 => TypeDescriptor::Unsigned(IntSize::U1),
        PixelType::U16 => TypeDescriptor::Unsigned(IntSize::U2),
        PixelType::U32 => TypeDescriptor::Unsigned(IntSize::U4),
        PixelType::I32 => TypeDescriptor::Integer(IntSize::U4),
        PixelType::F32 => TypeDescriptor::Float(FloatSize::U4),
    };
    let data = group
        .new_dataset_builder()
        .empty_as(pixel)
        .alloc_time(Some(AllocTime::Early))
        .fill_time(FillTime::Never)
        .shape([spec.images as usize, spec.height, spec.width])
        .chunk([1, spec.height, spec.width])
        .create("data")?;
    describe(&data, None, "images in the order of their ids; only those whose status is complete are whole")
}
