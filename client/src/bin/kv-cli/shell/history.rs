//! Where the lines of earlier shells are kept: in the user's state directory, for the user alone.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// How many lines are kept.
pub(super) const LINES_MAX: usize = 10_000;

/// `$XDG_STATE_HOME/quorate/kv-cli-history`, by the XDG base directory specification: below
/// `~/.local/state` if that is not set, or not absolute.
pub(super) fn path() -> Option<PathBuf> {
    path_in(std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME"))
}

fn path_in(state: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: OsString| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    let home = || home.and_then(absolute).map(|home| home.join(".local/state"));
    let state = state.and_then(absolute).or_else(home)?;
    Some(state.join("quorate").join("kv-cli-history"))
}

/// Makes the file, and its directories, readable to the user alone: lines may hold secrets.
pub(super) fn create(path: &Path) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new();
    let mut directory = std::fs::DirBuilder::new();
    file.append(true).create(true);
    directory.recursive(true);
    #[cfg(unix)]
    {
        std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600);
        std::os::unix::fs::DirBuilderExt::mode(&mut directory, 0o700);
    }
    if let Some(parent) = path.parent() {
        directory.create(parent)?;
    }
    let file = file.open(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // One that was there may have been made by another hand.
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    drop(file);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_that_of_the_specification() {
        let path = |state: Option<&str>, home: Option<&str>| {
            let path = path_in(state.map(OsString::from), home.map(OsString::from));
            path.map(|path| path.to_str().unwrap().to_owned())
        };
        let name = "quorate/kv-cli-history";
        assert_eq!(path(Some("/s"), Some("/h")), Some(format!("/s/{name}")));
        assert_eq!(path(None, Some("/h")), Some(format!("/h/.local/state/{name}")));
        assert_eq!(path(Some("relative"), Some("/h")), Some(format!("/h/.local/state/{name}")));
        assert_eq!(path(None, None), None);
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_private() {
        use std::os::unix::fs::PermissionsExt as _;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("quorate").join("history");
        create(&path).unwrap();
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        create(&path).unwrap();
        assert_eq!(mode(), 0o600);
    }
}
