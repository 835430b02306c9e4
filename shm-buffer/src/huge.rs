//! Huge pages: whether the host gives them for a ring's pixels, and what to do where it does not.
//!
//! A page of 2 MiB in the place of 512 small ones takes one entry of the processor's tables, so copies into and out of images
//! wait less for these. Every participant asks for them (`madvise`, `MADV_HUGEPAGE`); whether they come is the file system's
//! word: the mount option `huge=` of a tmpfs, `never` by default (tmpfs(5), and the kernel's "Transparent Hugepage Support").

use std::{fmt, fs, path::PathBuf};

/// What the kernel has given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HugePages {
    /// Of the pixels, as this process has them mapped: bytes in huge pages, and all.
    pub bytes: u64,
    pub of_bytes: u64,
}

impl HugePages {
    /// How the mapping that begins at `address` is made up; none where the kernel does not tell.
    pub(crate) fn of_mapping(address: usize, of_bytes: u64) -> Option<Self> {
        let maps = fs::read_to_string("/proc/self/smaps").ok()?;
        let bytes = huge_bytes(&maps, address)?;
        Some(Self { bytes, of_bytes })
    }

    /// What to do for all of the ring to lie in huge pages, if it does not.
    pub fn advice(&self, ring: &std::path::Path) -> Option<String> {
        if self.bytes >= self.of_bytes {
            return None;
        }
        let folder = ring.parent().map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from);
        Some(format!("`mount -o remount,huge=advise {}` as root, then start the beamline again", folder.display()))
    }
}

impl fmt::Display for HugePages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of {} MiB in huge pages", self.bytes >> 20, self.of_bytes >> 20)
    }
}

/// `ShmemPmdMapped` of the mapping at `address`, from the text of `smaps` (proc_pid_smaps(5)).
fn huge_bytes(smaps: &str, address: usize) -> Option<u64> {
    let begins = format!("{address:x}-");
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&begins)).skip(1);
    let kib = lines.find_map(|line| line.strip_prefix("ShmemPmdMapped:"))?;
    Some(kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn only_the_mapping_that_is_meant_counts() {
        let smaps = "7f00-7f10 rw-s 00000000 00:01 2 /dev/shm/a\nRss: 4 kB\nShmemPmdMapped:    2048 kB\n\
                     7f100-7f200 rw-s 00000000 00:01 2 /dev/shm/b\nRss: 4 kB\nShmemPmdMapped:    6144 kB\nVmFlags: rd\n";
        assert_eq!(huge_bytes(smaps, 0x7f100), Some(6 << 20));
        assert_eq!((huge_bytes(smaps, 0x7f00), huge_bytes(smaps, 0x7f20)), (Some(2 << 20), None));
    }

    #[test]
    fn advice_is_given_only_where_something_lies_in_small_pages() {
        let ring = Path::new("/dev/shm/ecs-x01.ring");
        let some = HugePages { bytes: 2 << 20, of_bytes: 4 << 20 };
        assert!(some.advice(ring).is_some_and(|advice| advice.contains("huge=advise /dev/shm`")));
        assert_eq!(some.to_string(), "2 of 4 MiB in huge pages");
        assert_eq!(HugePages { bytes: 4 << 20, ..some }.advice(ring), None);
    }
}
