//! The ring's file: made, opened, taken over and removed. The only system calls on files are here.
//!
//! # Rules
//! M1  The owner holds an exclusive `flock` on the file: the kernel gives it back at whatever
//!     instruction the owner dies, and there is never a second owner.
//! M2  A ring appears under its name only when it is whole: it is made without a name, so that nothing
//!     is left of it if its maker dies, and linked.
//! M3  A ring is removed only by who holds the lock, and only when nobody alive is in it, or by its
//!     owner when it ends on purpose.
//! M4  Who is refused is told the process that holds the lock, by the kernel's own list: the header names the
//!     owner before, or nobody, until the next one has taken over.

use crate::{
    control::{Backing, Ring},
    geometry::{Geometry, GeometryError},
    layout::{Header, MAGIC, VERSION},
    process::Liveness,
    sync::{Acquire, Relaxed, fence},
};
use memmap2::{Advice, MmapOptions, MmapRaw};
use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
    ptr::NonNull,
};

/// The mappings of one ring: control read-write, pixels as the role needs them.
pub(crate) struct MappedFile {
    _control: MmapRaw,
    _pixels: MmapRaw,
}

/// Keeps the owner's lock, and with it the right to remove the file. Given back when it is dropped.
pub struct OwnerLock {
    path: PathBuf,
    file: File,
}

/// How often a lock that is taken, by nobody who can be told, is tried again: whoever had it has most likely ended
/// in this moment. Beyond it the holder is one whom the kernel does not show to this process (of another container),
/// and the header's word is taken for who it is.
const LOCK_TRIES: u32 = 10;

/// What a participant may do with pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelAccess {
    ReadOnly,
    ReadWrite,
}

/// Why a ring cannot be made, opened or taken over. Nothing has changed when it comes back.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    #[error("no ring at {path}; is the assembler running?")]
    Missing { path: PathBuf },
    #[error("ring {path}: cannot {action}: {source}")]
    Io { path: PathBuf, action: &'static str, source: io::Error },
    #[error("ring {path}: no room for {bytes} bytes ({source}); choose a smaller ring.size or free shared memory")]
    NoRoom { path: PathBuf, bytes: u64, source: io::Error },
    #[error("{path} is not a ring, or it is cut: {reason}")]
    NotARing { path: PathBuf, reason: String },
    #[error("ring {path} has layout version {found}, this program {VERSION}; stop what uses it and start again")]
    OtherVersion { path: PathBuf, found: u32 },
    #[error(
        "ring {path} is in use with another geometry: {found:?}, wanted {wanted:?}; stop what uses it and start again"
    )]
    OtherGeometry { path: PathBuf, found: Box<Geometry>, wanted: Box<Geometry> },
    #[error("ring {path} has an owner already: process {pid}")]
    Owned { path: PathBuf, pid: u32 },
    #[error(transparent)]
    Geometry(#[from] GeometryError),
}

/// Opens a ring as a participant.
///
/// # Errors
/// There is none, or it is not a ring of this version.
pub fn open(path: &Path, access: PixelAccess) -> Result<Ring, RingError> {
    let file = open_file(path)?.ok_or_else(|| RingError::Missing { path: path.to_owned() })?;
    map(path, &file, access)
}

/// Opens a ring to look at: nothing of it can be changed through this, not even by mistake, since writing to
/// read-only memory ends the process. Only for loads of the control part, of 8 bytes at most.
pub(crate) fn open_to_look(path: &Path) -> Result<Ring, RingError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RingError::Missing { path: path.to_owned() });
        }
        opened => opened.map_err(io_error(path, "open it"))?,
    };
    let geometry = read_geometry(path, &file)?;
    let control = MmapOptions::new().len(geometry.control_bytes()).map_raw_read_only(&file);
    let control = control.map_err(io_error(path, "map its control part"))?;
    let mut options = MmapOptions::new();
    options.offset(geometry.pixels_offset()).len(geometry.pixels_bytes() as usize);
    let pixels = options.map_raw_read_only(&file).map_err(io_error(path, "map its pixels"))?; // never touched
    Ok(ring_over(geometry, control, pixels))
}

/// True if the ring that `path` names now is the one that `ring` has mapped.
pub fn is_current(ring: &Ring, path: &Path) -> bool {
    // Two files never share the moment and the owner of their making.
    let created_ns = File::open(path).and_then(|file| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, std::mem::offset_of!(Header, created_ns) as u64)?;
        Ok(u64::from_le_bytes(bytes))
    });
    created_ns.is_ok_and(|created_ns| created_ns == ring.header().created_ns.load(Relaxed))
}

/// Makes the ring at `path`, or takes over the one that is there and in use by living participants. A
/// ring that nobody alive is in is replaced by a new one. The pixels of a new ring are prefaulted.
///
/// # Errors
/// See [`RingError`]; in particular another living owner, or living participants of another geometry.
pub fn create_or_take_over(
    path: &Path,
    geometry: Geometry,
    liveness: &dyn Liveness,
) -> Result<(Ring, OwnerLock), RingError> {
    geometry.check()?;
    let mut lock_tries = 0;
    loop {
        let Some(file) = open_file(path)? else {
            match create(path, geometry) {
                Err(RingError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => continue,
                other => return other,
            }
        };
        if !lock(&file) {
            lock_tries += 1;
            match lock_holder(&file) {
                None if lock_tries < LOCK_TRIES => continue,
                holder => {
                    let pid = holder.unwrap_or_else(|| owner_pid(&file));
                    return Err(RingError::Owned { path: path.to_owned(), pid });
                }
            }
        }
        if !is_same_file(path, &file) {
            continue; // it was removed while we waited for nothing
        }
        let left_over = map(path, &file, PixelAccess::ReadWrite);
        if let Ok(ring) = &left_over
            && ring.participants().iter().filter_map(|place| place.who()).any(|(process, _)| liveness.is_alive(process))
        {
            if *ring.geometry() == geometry {
                return Ok((ring.clone(), OwnerLock { path: path.to_owned(), file }));
            }
            let (found, wanted) = (Box::new(*ring.geometry()), Box::new(geometry));
            return Err(RingError::OtherGeometry { path: path.to_owned(), found, wanted });
        }
        remove_ring(path, left_over.ok())?;
    }
}

/// Removes a ring that nobody alive owns or uses, if there is one. Returns whether it did.
///
/// # Errors
/// The file cannot be opened or removed.
pub fn remove_left_over(path: &Path, liveness: &dyn Liveness) -> Result<bool, RingError> {
    let Some(file) = open_file(path)? else { return Ok(false) };
    if !lock(&file) || !is_same_file(path, &file) {
        return Ok(false);
    }
    let left_over = map(path, &file, PixelAccess::ReadOnly).ok();
    let is_used = |ring: &Ring| {
        ring.participants().iter().filter_map(|place| place.who()).any(|(process, _)| liveness.is_alive(process))
    };
    if left_over.as_ref().is_some_and(is_used) {
        return Ok(false);
    }
    remove_ring(path, left_over)?;
    Ok(true)
}

/// Removes a ring that nobody alive is in. Who joins it in this moment finds it closed, and lets go.
fn remove_ring(path: &Path, ring: Option<Ring>) -> Result<(), RingError> {
    if let Some(ring) = ring {
        ring.close();
    }
    std::fs::remove_file(path).map_err(io_error(path, "remove the left-over ring"))
}

impl Drop for OwnerLock {
    fn drop(&mut self) {
        // Without this the lock would last as long as the ring is mapped, by whomever in this process.
        // SAFETY: plain system call on a descriptor that lives over it.
        unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_UN) };
    }
}

impl OwnerLock {
    /// Removes the ring's name: those who have it mapped keep their memory until they let go (M3).
    /// Nothing, if somebody has removed it, or put another file in its place.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(self) -> Result<(), RingError> {
        if !is_same_file(&self.path, &self.file) {
            return Ok(());
        }
        std::fs::remove_file(&self.path).map_err(io_error(&self.path, "remove"))
    }
}

fn create(path: &Path, geometry: Geometry) -> Result<(Ring, OwnerLock), RingError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(folder);
    let file = file.map_err(io_error(path, "make a file in its folder"))?;
    let ring = fill_new(path, &file, geometry)?;
    name_file(&file, path).map_err(io_error(path, "name it"))?; // M2
    Ok((ring, OwnerLock { path: path.to_owned(), file }))
}

/// Gives a file without a name its name, if there is nothing of that name: open(2), O_TMPFILE.
fn name_file(file: &File, path: &Path) -> io::Result<()> {
    let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let to = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: plain system call; both strings live over it.
    let failed =
        unsafe { libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn fill_new(path: &Path, file: &File, geometry: Geometry) -> Result<Ring, RingError> {
    let bytes = geometry.file_bytes();
    let no_room = |source| RingError::NoRoom { path: path.to_owned(), bytes, source };
    check_room(file, bytes).map_err(no_room)?;
    assert!(lock(file), "nobody else can have a file without a name");
    file.set_len(bytes).map_err(io_error(path, "give it its size"))?;
    // Mapped first: pages come huge, where the host gives such, to who asks for them in a mapping.
    let ring = map_with(path, file, geometry, PixelAccess::ReadWrite)?;
    // Now all of it is to be there; only this tells where it is not.
    // SAFETY: plain system call on a descriptor that lives over it.
    let failed = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) };
    if failed != 0 {
        return Err(no_room(io::Error::from_raw_os_error(failed)));
    }
    let now = crate::owner::Now::read();
    ring.header().created_ns.store(now.utc_ns ^ u64::from(std::process::id()) << 44, Relaxed);
    ring.write_identity();
    Ok(ring)
}

/// Looked at before any page is touched: those of a ring that is much too large would first take all that there is.
fn check_room(file: &File, bytes: u64) -> io::Result<()> {
    // SAFETY: plain system call on a descriptor that lives over it; zeros are a valid answer to be overwritten.
    let (failed, room) = unsafe {
        let mut room: libc::statvfs = std::mem::zeroed();
        (libc::fstatvfs(file.as_raw_fd(), &raw mut room), room)
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    match room.f_bavail * room.f_frsize >= bytes {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
    }
}

fn map(path: &Path, file: &File, access: PixelAccess) -> Result<Ring, RingError> {
    let geometry = read_geometry(path, file)?;
    map_with(path, file, geometry, access)
}

fn map_with(path: &Path, file: &File, geometry: Geometry, access: PixelAccess) -> Result<Ring, RingError> {
    let control = MmapOptions::new().len(geometry.control_bytes()).map_raw(file);
    let control = control.map_err(io_error(path, "map its control part"))?;
    let mut options = MmapOptions::new();
    options.offset(geometry.pixels_offset()).len(geometry.pixels_bytes() as usize);
    let pixels = match access {
        PixelAccess::ReadOnly => options.map_raw_read_only(file),
        PixelAccess::ReadWrite => options.map_raw(file),
    };
    let pixels = pixels.map_err(io_error(path, "map its pixels"))?;
    let _ = pixels.advise(Advice::HugePage); // kernels and file systems without them refuse
    let advice = if access == PixelAccess::ReadOnly { Advice::PopulateRead } else { Advice::PopulateWrite };
    let _ = pixels.advise(advice); // faults later cost time, nothing else: kernels before 5.14 refuse
    Ok(ring_over(geometry, control, pixels))
}

/// Both mappings have the sizes of the geometry.
fn ring_over(geometry: Geometry, control: MmapRaw, pixels: MmapRaw) -> Ring {
    let at = |map: &MmapRaw| NonNull::new(map.as_mut_ptr()).expect("a mapping is not at address 0");
    let (control_at, pixels_at) = (at(&control), at(&pixels));
    let backing = Backing::File(MappedFile { _control: control, _pixels: pixels });
    // SAFETY: both mappings have the sizes of this geometry, which was written by this crate
    // (read_geometry) or is about to be (fill_new), and live as long as the backing.
    unsafe { Ring::over(geometry, control_at, pixels_at, backing) }
}

/// Reads and checks the identity of a file that may be anything.
fn read_geometry(path: &Path, file: &File) -> Result<Geometry, RingError> {
    let not_a_ring = |reason: String| RingError::NotARing { path: path.to_owned(), reason };
    let bytes = file.metadata().map_err(io_error(path, "look at it"))?.len();
    if bytes < size_of::<Header>() as u64 {
        return Err(not_a_ring(format!("{bytes} bytes, a header has {}", size_of::<Header>())));
    }
    let map = MmapOptions::new()
        .len(size_of::<Header>())
        .map_raw_read_only(file)
        .map_err(io_error(path, "map its header"))?;
    // SAFETY: the mapping is as long as a header, page aligned, and a header is all atomics, for which
    // every bit pattern is valid.
    let header = unsafe { &*map.as_ptr().cast::<Header>() };
    let magic = header.magic.load(Relaxed);
    fence(Acquire); // not a load with Acquire: these pages can only be read
    if magic != MAGIC {
        return Err(not_a_ring("it does not begin with ECS_RING".to_owned()));
    }
    let version = header.version.load(Relaxed);
    if version != VERSION {
        return Err(RingError::OtherVersion { path: path.to_owned(), found: version });
    }
    let geometry = Geometry {
        slots: header.slots.load(Relaxed),
        window: header.window.load(Relaxed),
        height: header.height.load(Relaxed),
        width: header.width.load(Relaxed),
        pixel_bytes: header.pixel_bytes.load(Relaxed),
        packets_per_image: header.packets_per_image.load(Relaxed),
        fill: header.fill.load(Relaxed),
        placement_hash: header.placement_hash.load(Relaxed),
    };
    geometry.check()?;
    if bytes < geometry.file_bytes() {
        return Err(not_a_ring(format!("{bytes} bytes, its geometry needs {}", geometry.file_bytes())));
    }
    Ok(geometry)
}

fn open_file(path: &Path) -> Result<Option<File>, RingError> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error(path, "open it")(source)),
    }
}

fn lock(file: &File) -> bool {
    // SAFETY: plain system call on a descriptor that lives over it.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
}

fn is_same_file(path: &Path, file: &File) -> bool {
    let id = |metadata: &std::fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((std::fs::metadata(path), file.metadata()), (Ok(ref named), Ok(ref open)) if id(named) == id(open))
}

/// The process that has the lock of a file (M4), from `/proc/locks` as proc(5) describes it; none if nobody has it, or
/// the kernel does not tell.
fn lock_holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let device = metadata.dev();
    let wanted = format!("{:02x}:{:02x}:{}", libc::major(device), libc::minor(device), metadata.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "FLOCK", _, _, pid, found, ..] if found == wanted => pid.parse().ok().filter(|&pid| pid > 0),
        _ => None,
    })
}

/// The process that the header names.
fn owner_pid(file: &File) -> u32 {
    let mut bytes = [0; 4];
    let read = file.read_exact_at(&mut bytes, std::mem::offset_of!(Header, owner_pid) as u64);
    read.map_or(0, |()| u32::from_le_bytes(bytes))
}

fn io_error<'a>(path: &'a Path, action: &'static str) -> impl FnOnce(io::Error) -> RingError + 'a {
    move |source| RingError::Io { path: path.to_owned(), action, source }
}
