//! A file that appears whole or not at all: written beside its name, renamed when complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Stdout, Write};
use std::path::{Path, PathBuf};

/// Where rows go.
pub(super) enum Target {
    /// A pipe, a terminal or a device: what was written is out at once.
    Direct(Box<dyn Write + Send>),
    /// A file.
    File { out: BufWriter<File>, beside: Beside, path: PathBuf },
}

/// A file that is removed unless it was renamed.
pub(super) struct Beside(Option<PathBuf>);

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

impl Target {
    pub(super) fn stdout(out: BufWriter<Stdout>) -> Self {
        Self::Direct(Box::new(out))
    }

    /// A file called `path` once [`Self::commit`] has run; before, and if it never does, what was
    /// there stays as it is.
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        if fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
            let device = OpenOptions::new().write(true).open(path)?;
            return Ok(Self::Direct(Box::new(BufWriter::new(device))));
        }
        if path.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
        }
        // A link stays a link: the file that it names is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(format!(".{}.part", std::process::id()));
        let beside = path.with_file_name(beside);
        let file = OpenOptions::new().write(true).create_new(true).open(&beside)?;
        let out = BufWriter::with_capacity(64 << 10, file);
        Ok(Self::File { out, beside: Beside(Some(beside)), path })
    }

    /// What there is if not everything could be written.
    pub(super) fn if_incomplete(&self) -> String {
        let rest = match self {
            Self::Direct(_) => "and so is what was written of it".to_owned(),
            Self::File { path, .. } => nothing_kept(path),
        };
        format!("the export is incomplete, {rest}")
    }

    /// What becomes of the rows that were written, if others cannot be.
    pub(super) fn without_others(&self) -> String {
        match self {
            Self::Direct(_) => "the others are written".to_owned(),
            Self::File { path, .. } => nothing_kept(path),
        }
    }

    /// Everything is written.
    pub(super) fn commit(mut self) -> io::Result<()> {
        self.flush()?;
        if let Self::File { out, mut beside, path } = self {
            // On disk before it has the name, or a power cut could leave the name on half a file.
            out.get_ref().sync_all()?;
            if let Some(from) = &beside.0 {
                fs::rename(from, path)?;
            }
            beside.0 = None;
        }
        Ok(())
    }
}

/// Whether there was a file or not.
fn nothing_kept(path: &Path) -> String {
    format!("so nothing is kept, and {} is as it was", path.display())
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Direct(out) => out.write(bytes),
            Self::File { out, .. } => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Direct(out) => out.flush(),
            Self::File { out, .. } => out.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        fs::read_dir(directory).unwrap().map(|e| name(e).into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_appears_only_when_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows");
        let mut target = Target::file(&path).unwrap();
        target.write_all(b"a\n").unwrap();
        assert!(!path.exists());
        target.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"a\n");
        assert_eq!(names(directory.path()), ["rows"]);
    }

    #[test]
    fn a_failed_export_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows");
        fs::write(&path, "old").unwrap();
        let mut target = Target::file(&path).unwrap();
        target.write_all(b"half").unwrap();
        for said in [target.without_others(), target.if_incomplete()] {
            assert!(said.contains("so nothing is kept, and /"), "{said}");
            assert!(said.ends_with("/rows is as it was"), "{said}");
        }
        drop(target);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(directory.path()), ["rows"]);
    }

    #[test]
    fn directories_and_missing_ones_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Target::file(directory.path()).is_err());
        assert!(Target::file(&directory.path().join("no/rows")).is_err());
    }

    #[test]
    fn devices_are_written_directly() {
        let mut target = Target::file(Path::new("/dev/null")).unwrap();
        target.write_all(b"a").unwrap();
        assert!(target.if_incomplete().ends_with("so is what was written of it"));
        target.commit().unwrap();
    }
}
