//! Whether the disk takes writes, and if not, why and for how long.
//!
//! An engine that could not write or sync refuses everything from then on, and a file system that is
//! filled to the last byte cannot even be compacted. So writes are refused before that, and whoever
//! refuses them says what an operator is to do. Reads go on, as far as the engine's do: fjall's always,
//! sled's not once a write of its own failed.
//!
//! ```text
//!   well ◄──► low     less free than the reserve: the engine is well, and goes on by itself
//!    │
//!    ├──────► full    the engine met the end of the space: opened again once there is some
//!    ├──────► failed  a write or sync failed otherwise: until a restart
//!    └──────► poisoned, if only the engine's own threads know why: soon full or failed
//! ```

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::{EngineError, files};

/// What a probe writes: more than a file system keeps back for small files.
const PROBE_BYTES: usize = 1 << 20;

/// What is known of the disk.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum DiskState {
    /// It takes writes.
    #[default]
    Well,
    /// Too little is free.
    Low {
        /// What is free, in bytes.
        free_bytes: u64,
        /// What is to stay free, in bytes.
        reserve_bytes: u64,
    },
    /// A write found no space, and the engine takes no more.
    Full {
        /// What the engine said.
        reason: String,
    },
    /// The engine takes no more writes, and did not say why.
    Poisoned {
        /// What it said.
        reason: String,
    },
    /// A write or a sync failed, and the engine takes no more.
    Failed {
        /// What the engine said.
        reason: String,
    },
}

impl DiskState {
    /// Whether more space is all that is needed.
    pub fn is_for_space(&self) -> bool {
        matches!(self, Self::Low { .. } | Self::Full { .. })
    }
}

impl fmt::Display for DiskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SPACE: &str = "writes are refused until there is more space; delete something else, \
                             or enlarge the file system";
        const RESTART: &str =
            "writes are refused until the node is restarted; check the disk first";
        match self {
            Self::Well => f.write_str("the disk takes writes"),
            Self::Low { free_bytes, reserve_bytes } => write!(
                f,
                "the disk is almost full: {free_bytes} bytes are free, and {reserve_bytes} are to stay \
                 so (disk_reserve_bytes); {SPACE}"
            ),
            Self::Full { reason } => write!(f, "the disk is full ({reason}); {SPACE}"),
            Self::Poisoned { reason } | Self::Failed { reason } => {
                write!(f, "the disk failed ({reason}); {RESTART}")
            }
        }
    }
}

/// The disk of one opening, as shards, tasks and pages see it.
#[derive(Debug, Default)]
pub struct Disk {
    /// The one thing that a request looks at.
    refuses: AtomicBool,
    state: watch::Sender<DiskState>,
}

impl Disk {
    /// Why writes are refused now; none if they are not.
    pub fn refusal(&self) -> Option<DiskState> {
        self.refuses.load(Ordering::Acquire).then(|| self.state())
    }

    /// What is known now.
    pub fn state(&self) -> DiskState {
        self.state.borrow().clone()
    }

    /// Tells of changes.
    pub fn changes(&self) -> watch::Receiver<DiskState> {
        self.state.subscribe()
    }

    /// Takes note of an engine's failed write or sync.
    pub fn on_failure(&self, error: &EngineError) {
        let reason = error.to_string();
        self.become_state(match error {
            // The end of a simulated process says nothing of its disk.
            EngineError::Closed => return,
            EngineError::Full { free_bytes, needed_bytes } => {
                DiskState::Low { free_bytes: *free_bytes, reserve_bytes: *needed_bytes }
            }
            EngineError::Poisoned => DiskState::Poisoned { reason },
            error if error.is_out_of_space() => DiskState::Full { reason },
            _ => DiskState::Failed { reason },
        });
    }

    /// Takes note of how much is free, of which so much is to stay so. Once writes are refused, an
    /// eighth more must be free before they are taken again; than the engine asked for, if it did.
    pub fn on_free(&self, free_bytes: u64, reserve_bytes: u64) {
        let state = self.state();
        let enough = match state {
            DiskState::Low { reserve_bytes: asked, .. } => asked.max(reserve_bytes),
            _ => reserve_bytes,
        };
        let enough = enough.saturating_add(enough / 8);
        match state {
            DiskState::Well if free_bytes < reserve_bytes => {
                self.become_state(DiskState::Low { free_bytes, reserve_bytes });
            }
            DiskState::Low { .. } if free_bytes >= enough => self.become_state(DiskState::Well),
            _ => {}
        }
    }

    /// Takes note of why a poisoned engine is so: for want of space, or for another reason.
    pub fn on_cause(&self, is_space: bool) {
        if let DiskState::Poisoned { reason } = self.state() {
            self.become_state(match is_space {
                true => DiskState::Full { reason },
                false => DiskState::Failed { reason },
            });
        }
    }

    fn become_state(&self, next: DiskState) {
        self.state.send_if_modified(|now| {
            let explained = matches!(now, DiskState::Full { .. } | DiskState::Failed { .. });
            let explains = matches!(next, DiskState::Full { .. } | DiskState::Failed { .. });
            let poisoned = matches!(now, DiskState::Poisoned { .. });
            if explained || poisoned && !explains {
                return false;
            }
            self.refuses.store(next != DiskState::Well, Ordering::Release);
            match &next {
                DiskState::Well => tracing::info!("{next}"),
                _ => tracing::error!("{next}"),
            }
            *now = next;
            true
        });
    }
}

/// Looks at the file system of a data directory.
#[derive(Clone, Debug)]
pub struct DiskProbe {
    /// The data directory.
    pub directory: PathBuf,
    /// What is to stay free, in bytes.
    pub reserve_bytes: u64,
}

impl DiskProbe {
    /// What this user may still write, in bytes.
    pub fn free_bytes(&self) -> io::Result<u64> {
        files::free_bytes(&self.directory)
    }

    /// Whether a file can be written: a quota, too, can be what is missing.
    pub fn has_space(&self) -> io::Result<bool> {
        let path = self.directory.join("space.tmp");
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(&vec![1; PROBE_BYTES])?;
            file.sync_all()
        };
        let written = write();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match written {
            Ok(()) => Ok(true),
            Err(error) if is_out_of_space(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Whether the operating system refused for want of space.
pub(super) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: io::ErrorKind) -> EngineError {
        EngineError::io("apply a batch")(kind.into())
    }

    #[test]
    fn low_space_comes_and_goes_with_a_margin() {
        let disk = Disk::default();
        disk.on_free(800, 800);
        assert_eq!(disk.refusal(), None);
        disk.on_free(799, 800);
        assert_eq!(disk.refusal(), Some(DiskState::Low { free_bytes: 799, reserve_bytes: 800 }));
        disk.on_free(899, 800);
        assert!(disk.refusal().is_some_and(|state| state.is_for_space()));
        disk.on_free(900, 800);
        assert_eq!(disk.refusal(), None);
    }

    #[test]
    fn what_an_engine_asks_for_is_waited_for() {
        let disk = Disk::default();
        disk.on_failure(&EngineError::Full { free_bytes: 100, needed_bytes: 800 });
        disk.on_free(899, 0);
        assert!(disk.refusal().is_some_and(|state| state.is_for_space()));
        disk.on_free(900, 0);
        assert_eq!(disk.refusal(), None);
    }

    #[test]
    fn the_first_clear_reason_stays_until_the_end() {
        for (kind, is_space) in [
            (io::ErrorKind::StorageFull, true),
            (io::ErrorKind::QuotaExceeded, true),
            (io::ErrorKind::Other, false),
        ] {
            let disk = Disk::default();
            disk.on_free(0, 1);
            disk.on_failure(&EngineError::Closed);
            assert!(matches!(disk.state(), DiskState::Low { .. }));
            disk.on_failure(&failed(kind));
            let state = disk.state();
            assert_eq!(state.is_for_space(), is_space, "{state:?}");
            disk.on_failure(&EngineError::Poisoned);
            disk.on_failure(&failed(io::ErrorKind::StorageFull));
            disk.on_free(9, 1);
            disk.on_cause(!is_space);
            assert_eq!(disk.state(), state);
        }
    }

    #[test]
    fn a_failed_sync_is_never_for_want_of_space() {
        let disk = Disk::default();
        disk.on_failure(&EngineError::io("sync")(io::ErrorKind::StorageFull.into()));
        assert!(matches!(disk.state(), DiskState::Failed { .. }), "pages may be lost already");
    }

    #[test]
    fn a_poisoned_engine_is_explained_by_who_looks() {
        for is_space in [true, false] {
            let disk = Disk::default();
            disk.on_failure(&EngineError::Poisoned);
            assert!(!disk.state().is_for_space());
            disk.on_cause(is_space);
            assert_eq!(disk.state().is_for_space(), is_space);
        }
    }

    #[test]
    fn a_probe_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let probe = DiskProbe { directory: directory.path().into(), reserve_bytes: 0 };
        assert!(probe.free_bytes().unwrap() > 0 && probe.has_space().unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
