//! How much memory there is: the machine's, or what the control group leaves of it.

use std::fs;

/// Where nothing says how much there is: a small virtual machine's.
const UNKNOWN_BYTES: u64 = 2 << 30;

/// What this process may use, in bytes.
pub(super) fn available_bytes() -> u64 {
    let read = |path: &str| fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| total(&text)).unwrap_or(UNKNOWN_BYTES);
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = groups.into_iter().filter_map(|path| read(path)?.trim().parse().ok());
    limits.fold(machine, u64::min)
}

/// The total of `/proc/meminfo`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_in_the_second_column() {
        let text = "MemTotal:       24689764 kB\nMemFree:        100 kB\n";
        assert_eq!(total(text), Some(24_689_764 * 1024));
        assert_eq!(total("MemFree: 3 kB\n"), None);
        assert_eq!(total("MemTotal: many\n"), None);
    }

    #[test]
    fn there_is_some() {
        assert!(available_bytes() > 64 << 20);
    }
}
