//! A disk that is soon full: a tmpfs, which needs root to mount.

use super::Outcome;
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// Unmounted at the end.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// At a folder that is made for it.
    pub fn mount(path: PathBuf, mib: u64) -> Self {
        fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(&path);
        let mounted = Outcome::of(&mut mount);
        assert_eq!(mounted.code, 0, "this test mounts a small tmpfs, which needs root: {}", mounted.stderr);
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        for bytes in [&[1; 1 << 20][..], &[1; 4096], &[1]] {
            while filler.write(bytes).is_ok_and(|written| written > 0) {}
        }
    }

    pub fn free(&self) {
        let _ = fs::remove_file(self.filler());
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
