//! `--state`: how far an import has come, so that it can be killed at any moment and go on.
//!
//! The file says which bytes are imported, how they are read, and where they go; whatever differs
//! the next time is refused. It is replaced as a whole, several times a second: the new one is on
//! disk before it has the name. Rows between the last time and the end are imported again, which
//! changes nothing (a row that is there already is not written).

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::lock::Lock;
use super::reach::{Follower, Reach};

/// How often the state is written: seldom enough for the disk (each time is two fsyncs), often
/// enough that little is done again.
const SAVE_PAUSE: Duration = Duration::from_millis(250);

/// How many rows that failed are kept.
const FAILED_MAX: usize = 100;

/// What is imported, how, and where to: all of it must be the same when an import goes on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Subject {
    /// Where the file was; a file of another name and the same bytes is the same one.
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// Of the whole file.
    pub(super) xxh3: String,
    /// The format, and for csv the delimiter and the key's column.
    pub(super) format: String,
    pub(super) cluster_id: String,
    pub(super) namespace: String,
    /// Of the namespace: a namespace that was dropped and made again is another one.
    pub(super) namespace_id: String,
}

impl Subject {
    /// What differs, in words; nothing if an import of this one goes on with that of `other`.
    fn difference(&self, other: &Self) -> Option<String> {
        let pairs = [
            ("cluster", &self.cluster_id, &other.cluster_id),
            ("namespace", &self.namespace, &other.namespace),
            ("namespace id", &self.namespace_id, &other.namespace_id),
            ("format", &self.format, &other.format),
        ];
        if let Some((what, there, now)) = pairs.iter().find(|(_, there, now)| there != now) {
            return Some(format!("it is of {what} {there}, not {now}"));
        }
        let changed = (self.bytes, &self.xxh3) != (other.bytes, &other.xxh3);
        changed.then(|| {
            let (path, now) = (self.path.display(), other.path.display());
            format!(
                "the file is another one, or has changed: {path} had {} bytes with hash {}, \
                     {now} has {} bytes with hash {}",
                self.bytes, self.xxh3, other.bytes, other.xxh3
            )
        })
    }
}

/// How many bytes a file has, and their hash.
pub(super) fn fingerprint(path: &Path) -> io::Result<(u64, String)> {
    let (mut file, mut hash, mut bytes) = (File::open(path)?, Xxh3::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((bytes, format!("{:032x}", hash.digest128()))),
            read => {
                hash.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
}

/// A row that did not go in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FailedRow {
    line: u64,
    reason: String,
}

/// The file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    /// Of this very structure.
    version: u32,
    subject: Subject,
    /// All rows up to here are done.
    reached: Reach,
    /// Whether that is all of the file.
    complete: bool,
    /// Rows that failed in the last run, the first of them.
    failed: Vec<FailedRow>,
}

const VERSION: u32 = 1;

/// Follows an import and keeps the file.
#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    contents: Contents,
    follower: Follower,
    /// What an earlier run reached.
    resumed: Reach,
    saved: Instant,
    /// Why it could not be written.
    failure: Option<io::Error>,
    /// Keeps other runs away.
    _lock: Lock,
}

impl State {
    /// Goes on with the import that the file tells of, or begins one. Writes the file, to fail now
    /// rather than after hours. An error while another run has it.
    pub(super) fn open(path: &Path, subject: Subject) -> Result<Self> {
        // Before it is read: what another run reaches meanwhile would be unknown here.
        let lock = Lock::of_state(path)?;
        let begun = match fs::read(path) {
            Ok(json) => Some(read_contents(&json, path)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).context(format!("cannot read {}", path.display())),
        };
        let resumed = match &begun {
            Some(begun) => {
                if let Some(difference) = begun.subject.difference(&subject) {
                    bail!(
                        "{} is the state of another import: {difference}; name another --state, or \
                         remove it to begin anew",
                        path.display()
                    );
                }
                begun.reached
            }
            None => Reach::default(),
        };
        let reached = resumed;
        let contents =
            Contents { version: VERSION, subject, reached, complete: false, failed: Vec::new() };
        let saved = Instant::now();
        let follower = Follower::default();
        let path = path.to_owned();
        let state = Self { path, contents, follower, resumed, saved, failure: None, _lock: lock };
        state.write().with_context(|| format!("cannot write {}", state.path.display()))?;
        Ok(state)
    }

    /// How far an earlier run came.
    pub(super) fn resumed(&self) -> Reach {
        self.resumed
    }

    /// Whether an earlier run is done with the row of this line.
    pub(super) fn is_done(&self, line: u64) -> bool {
        line <= self.resumed.line
    }

    pub(super) fn on_read(&mut self, line: u64, bytes: u64) {
        self.follower.on_read(line, bytes);
    }

    /// The row is stored.
    pub(super) fn on_stored(&mut self, line: u64) {
        self.follower.on_done(line);
        self.save_if_due();
    }

    /// The row is none of the format. It stays so, and holds nothing up.
    pub(super) fn on_bad(&mut self, line: u64, reason: &str) {
        self.keep(line, reason);
        self.follower.on_done(line);
        self.save_if_due();
    }

    /// The row could not be stored. The next run begins with it.
    pub(super) fn on_failed(&mut self, line: u64, reason: &str) {
        self.keep(line, reason);
        self.follower.on_failed(line);
        self.save_if_due();
    }

    fn keep(&mut self, line: u64, reason: &str) {
        if self.contents.failed.len() < FAILED_MAX {
            self.contents.failed.push(FailedRow { line, reason: reason.to_owned() });
        }
    }

    fn save_if_due(&mut self) {
        if self.failure.is_none() && self.saved.elapsed() >= SAVE_PAUSE {
            self.save();
        }
    }

    fn save(&mut self) {
        let reach = self.follower.reach();
        // While rows are passed over that an earlier run did, the file knows better.
        if reach.rows >= self.contents.reached.rows {
            self.contents.reached = reach;
        }
        self.failure = self.write().err();
        self.saved = Instant::now();
    }

    /// The import has ended, with all rows read and stored or not.
    pub(super) fn finish(mut self, complete: bool) -> Result<()> {
        self.contents.complete = complete;
        self.close()
    }

    /// The import ends before its file does. After which line the next run goes on.
    pub(super) fn interrupt(mut self) -> Result<u64> {
        self.close()?;
        Ok(self.contents.reached.line)
    }

    fn close(&mut self) -> Result<()> {
        self.save();
        let path = self.path.display();
        self.failure.take().map_or(Ok(()), Err).with_context(|| {
            format!("cannot write {path}, so that another run would do more again than it need")
        })
    }

    /// The whole file anew: beside its name, to the disk, then under its name.
    fn write(&self) -> io::Result<()> {
        let name = self.path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(".part");
        let beside = self.path.with_file_name(beside);
        let mut file = File::create(&beside)?;
        let mut json = serde_json::to_vec_pretty(&self.contents)?;
        json.push(b'\n');
        file.write_all(&json)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        sync_directory(&self.path)
    }
}

/// The new name is on disk as well.
fn sync_directory(path: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn read_contents(json: &[u8], path: &Path) -> Result<Contents> {
    let not_ours = || format!("{} is no state of an import; name another file", path.display());
    let contents: Contents = serde_json::from_slice(json).with_context(not_ours)?;
    if contents.version != VERSION {
        bail!("{} is of version {}, not {VERSION}", path.display(), contents.version);
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Subject {
        pub(crate) fn of_test() -> Self {
            Self {
                path: "rows.csv".into(),
                bytes: 9,
                xxh3: "ab".to_owned(),
                format: "csv".to_owned(),
                cluster_id: "c".to_owned(),
                namespace: "users".to_owned(),
                namespace_id: "1".to_owned(),
            }
        }
    }

    fn subject() -> Subject {
        Subject::of_test()
    }

    #[test]
    fn what_is_reached_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut state = State::open(&path, subject()).unwrap();
        for line in 1..=4 {
            state.on_read(line, 10);
        }
        state.on_stored(2);
        state.on_stored(1);
        state.on_failed(3, "no quorum");
        state.on_stored(4);
        state.save();
        drop(state);

        let state = State::open(&path, subject()).unwrap();
        assert_eq!(state.resumed(), Reach { rows: 2, line: 2, bytes: 20 });
        assert_eq!([1, 2, 3].map(|line| state.is_done(line)), [true, true, false]);
        drop(state);
        let state = State::open(&path, subject()).unwrap();
        assert_eq!(state.resumed().rows, 2, "opening it changes nothing");
    }

    #[test]
    fn a_second_run_is_refused_until_the_first_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut first = State::open(&path, subject()).unwrap();
        let refused = || State::open(&path, subject()).unwrap_err().to_string();
        let error = refused();
        assert!(error.contains("another import with --state"), "{error}");
        assert!(error.contains("wait until it ends, or stop it"), "{error}");
        assert_eq!(error, refused(), "one that was refused lets no other in");

        first.on_read(1, 10);
        first.on_stored(1);
        first.save();
        assert_eq!(refused(), error, "the lock outlives the file that it is for");
        let elsewhere = directory.path().join("other");
        drop(State::open(&elsewhere, subject()).unwrap());
        first.finish(true).unwrap();
        assert_eq!(State::open(&path, subject()).unwrap().resumed().rows, 1);
    }

    #[test]
    fn another_import_is_refused_with_what_differs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        drop(State::open(&path, subject()).unwrap());
        let moved = Subject { path: "elsewhere.csv".into(), ..subject() };
        drop(State::open(&path, moved).unwrap());
        let cases = [
            (Subject { cluster_id: "d".to_owned(), ..subject() }, "it is of cluster c, not d"),
            (Subject { namespace: "b".to_owned(), ..subject() }, "namespace users, not b"),
            (Subject { namespace_id: "2".to_owned(), ..subject() }, "namespace id 1, not 2"),
            (Subject { format: "lines".to_owned(), ..subject() }, "format csv, not lines"),
            (Subject { bytes: 10, ..subject() }, "has changed"),
            (Subject { xxh3: "cd".to_owned(), ..subject() }, "has changed"),
        ];
        for (other, difference) in cases {
            let error = State::open(&path, other).unwrap_err().to_string();
            assert!(error.contains(difference), "{error}");
            assert!(error.contains("remove it to begin anew"), "{error}");
        }
    }

    #[test]
    fn other_files_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        fs::write(&path, "mine").unwrap();
        let error = State::open(&path, subject()).unwrap_err().to_string();
        assert!(error.contains("is no state of an import"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert!(State::open(&directory.path().join("no/state"), subject()).is_err());
    }

    /// Files of earlier versions must stay readable: this one is never edited.
    #[test]
    fn the_file_of_version_1_reads() {
        let json = r#"{"version":1,"subject":{"path":"f","bytes":3,"xxh3":"00","format":"lines",
            "cluster_id":"c","namespace":"n","namespace_id":"1"},
            "reached":{"rows":1,"line":2,"bytes":3},"complete":true,
            "failed":[{"line":1,"reason":"no tab"}]}"#;
        let contents = read_contents(json.as_bytes(), Path::new("f")).unwrap();
        assert_eq!(contents.reached, Reach { rows: 1, line: 2, bytes: 3 });
    }

    #[test]
    fn a_fingerprint_is_of_the_whole_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows");
        fs::write(&path, vec![b'x'; 3 << 20]).unwrap();
        let (bytes, hash) = fingerprint(&path).unwrap();
        assert_eq!(bytes, 3 << 20);
        let mut other = vec![b'x'; 3 << 20];
        other[(3 << 20) - 1] = b'y';
        fs::write(&path, other).unwrap();
        assert_ne!(fingerprint(&path).unwrap().1, hash);
    }
}
