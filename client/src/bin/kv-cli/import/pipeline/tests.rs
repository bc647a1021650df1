use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::time::Duration;

use super::super::report::Summary;
use super::super::state::{State, Subject};
use super::*;
use crate::formats::{LinesReader, RowReader};
use crate::progress::Progress;

/// Takes some turns for each row, remembers the order, and fails values that say so.
#[derive(Default)]
struct Memory {
    stored: RefCell<BTreeMap<Bytes, Vec<Bytes>>>,
    flying: Cell<usize>,
    most: Cell<usize>,
    groups: RefCell<Vec<usize>>,
    alone: Cell<usize>,
}

/// Longer than any of these tests.
const PATIENCE: Duration = Duration::from_secs(3600);

fn told(outcome: RowOutcome, is_retryable: bool) -> RowError {
    RowError { outcome, reason: "as told".to_owned(), is_retryable }
}

impl Memory {
    async fn take(&self, pair: Pair) -> Result<(), RowError> {
        for _ in 0..pair.value.len() % 5 {
            tokio::task::yield_now().await;
        }
        match &pair.value[..] {
            b"failed" => return Err(told(RowOutcome::Failed, false)),
            b"unknown" => return Err(told(RowOutcome::Unknown, false)),
            _ => {}
        }
        self.stored.borrow_mut().entry(pair.key).or_default().push(pair.value);
        Ok(())
    }

    fn took_off(&self, rows: usize) {
        self.flying.set(self.flying.get() + rows);
        self.most.set(self.most.get().max(self.flying.get()));
    }

    fn landed(&self, rows: usize) {
        self.flying.set(self.flying.get() - rows);
    }
}

impl Store for Memory {
    type Stored = ();
    type Alone = Pair;

    /// Values that begin with `open` go on alone.
    async fn store_all(&self, pairs: Vec<Pair>, _: &Doubt) -> Vec<Tried<(), Pair>> {
        let (mut tried, count) = (Vec::new(), pairs.len());
        self.groups.borrow_mut().push(count);
        self.took_off(count);
        for pair in pairs {
            tried.push(match pair.value.starts_with(b"open") {
                true => Tried::Alone(pair),
                false => Tried::Ended(self.take(pair).await),
            });
        }
        self.landed(count);
        tried
    }

    async fn store(&self, pair: Pair, _: &Doubt) -> Result<(), RowError> {
        self.took_off(1);
        self.alone.set(self.alone.get() + 1);
        let result = self.take(pair).await;
        self.landed(1);
        result
    }
}

async fn import(text: String) -> (Memory, Summary, io::Result<End>) {
    import_from(Box::new(LinesReader::new(io::Cursor::new(text)))).await
}

async fn import_from(reader: Box<dyn RowReader>) -> (Memory, Summary, io::Result<End>) {
    let (memory, mut report) =
        (Memory::default(), Report::new(Progress::bytes(None), None, PATIENCE));
    let read = run(&memory, Source::spawn(reader), &mut report).await;
    (memory, report.finish(read.is_ok()).0, read)
}

#[tokio::test]
async fn rows_of_one_key_keep_their_order() {
    let value = |i: usize| format!("{}{i}", "v".repeat(i % 11));
    let text = (0..2000).map(|i| format!("k{}\t{}\n", i % 7, value(i))).collect();
    let (memory, summary, _) = import(text).await;
    assert_eq!((summary.rows, summary.stored), (2000, 2000));
    for (key, values) in memory.stored.borrow().iter() {
        let of = |i: &usize| format!("k{}", i % 7) == *key;
        let expected: Vec<String> = (0..2000).filter(of).map(value).collect();
        assert_eq!(*values, expected);
    }
    assert_eq!(memory.most.get(), 7);
}

#[tokio::test]
async fn no_more_than_the_bound_are_in_flight() {
    let text = (0..1000).map(|i| format!("k{i}\tbusy\n")).collect();
    let (memory, summary, _) = import(text).await;
    assert_eq!(summary.stored, 1000);
    assert!((GROUP_MAX..=IN_FLIGHT_MAX).contains(&memory.most.get()), "{}", memory.most.get());
}

#[tokio::test]
async fn rows_fly_in_groups_and_large_ones_in_small_groups() {
    let text = (0..1000).map(|i| format!("k{i}\tbusy\n")).collect();
    let (memory, _, _) = import(text).await;
    let groups = memory.groups.take();
    assert_eq!(groups.iter().sum::<usize>(), 1000);
    assert!(groups.iter().all(|&rows| rows <= GROUP_MAX) && groups.contains(&GROUP_MAX));

    let large = "v".repeat(GROUP_BYTES / 2);
    let text = (0..9).map(|i| format!("k{i}\t{large}\n")).collect();
    let (memory, summary, _) = import(text).await;
    assert_eq!(summary.stored, 9);
    assert!(memory.groups.borrow().iter().all(|&rows| rows <= 2));
}

#[tokio::test]
async fn what_a_group_leaves_open_goes_on_alone_and_before_the_next_of_its_key() {
    let text = (0..400).map(|i| format!("k{}\topen{i}\nk{}\tv{i}\n", i % 100, i % 100));
    let (memory, summary, _) = import(text.collect()).await;
    assert_eq!((summary.stored, memory.alone.get()), (800, 400));
    for (key, values) in memory.stored.borrow().iter() {
        let of = |i: &usize| format!("k{}", i % 100) == *key;
        let both = |i| [format!("open{i}"), format!("v{i}")];
        let expected: Vec<String> = (0..400).filter(of).flat_map(both).collect();
        assert_eq!(*values, expected);
    }
}

#[tokio::test]
async fn every_row_is_counted_once() {
    let text = "a\t1\nb\tfailed\nbad\nc\tunknown\na\t2\n";
    let (memory, summary, read) = import(text.to_owned()).await;
    read.unwrap();
    let counts = (summary.rows, summary.stored, summary.failed, summary.unknown);
    assert_eq!(counts, (5, 2, 2, 1));
    assert_eq!(summary.bytes, text.len() as u64);
    assert!(!summary.is_complete());
    assert_eq!(memory.stored.borrow().len(), 1);
}

#[tokio::test]
async fn an_error_of_the_file_comes_after_the_rows_before_it() {
    struct Torn(u64);
    impl RowReader for Torn {
        fn next_row(&mut self) -> io::Result<Option<Row>> {
            self.0 += 1;
            if self.0 > 300 {
                return Err(io::Error::other("torn"));
            }
            let pair = Pair { key: self.0.to_string().into(), value: "v".into() };
            Ok(Some(Row { line: self.0, bytes: 1, note: None, content: Ok(pair) }))
        }
    }
    let (_, summary, read) = import_from(Box::new(Torn(0))).await;
    assert_eq!(read.unwrap_err().to_string(), "torn");
    assert_eq!(summary.stored, 300);
}

#[tokio::test]
async fn an_empty_file_has_no_rows() {
    let (_, summary, read) = import(String::new()).await;
    read.unwrap();
    assert!(summary.is_complete() && summary.rows == 0);
}

#[tokio::test]
async fn rows_that_an_earlier_run_stored_are_counted_and_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let import = async |text: &'static str| {
        let state = State::open(&path, Subject::of_test()).unwrap();
        let resumed = state.resumed();
        let (memory, mut report) =
            (Memory::default(), Report::new(Progress::bytes(None), Some(state), PATIENCE));
        let reader = Box::new(LinesReader::new(io::Cursor::new(text)));
        let read = run(&memory, Source::spawn(reader), &mut report).await;
        let (summary, kept) = report.finish(read.is_ok());
        kept.unwrap();
        let written: usize = memory.stored.borrow().values().map(Vec::len).sum();
        (resumed.rows, written, summary)
    };
    // The third row fails, the second is none.
    let (resumed, written, first) = import("a\t1\nbad\nb\tfailed\nc\t3\na\t4\n").await;
    assert_eq!((resumed, written, first.stored, first.failed), (0, 3, 3, 2));
    let (resumed, written, second) = import("a\t1\nbad\nb\t2\nc\t3\na\t4\n").await;
    assert_eq!((resumed, written, second.stored, second.failed), (2, 3, 4, 1));
    assert_eq!((second.rows, second.bytes), (5, 20));
    let (resumed, written, third) = import("a\t1\nbad\nb\t2\nc\t3\na\t4\n").await;
    assert_eq!((resumed, written, third.stored, third.failed), (5, 0, 4, 1));
}

/// Stores so many rows; then the cluster is gone.
struct Gone(Cell<usize>);

impl Store for Gone {
    type Stored = ();
    type Alone = Pair;

    async fn store_all(&self, pairs: Vec<Pair>, _: &Doubt) -> Vec<Tried<(), Pair>> {
        pairs.into_iter().map(Tried::Alone).collect()
    }

    async fn store(&self, _: Pair, _: &Doubt) -> Result<(), RowError> {
        tokio::task::yield_now().await;
        match self.0.get().checked_sub(1) {
            Some(left) => self.0.set(left),
            None => return Err(told(RowOutcome::Failed, true)),
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_cluster_that_takes_no_rows_ends_the_import() {
    let text: String = (0..100_000).map(|i| format!("k{}\tv\n", i % 300)).collect();
    let (gone, mut report) =
        (Gone(Cell::new(1000)), Report::new(Progress::bytes(None), None, Duration::ZERO));
    let source = Source::spawn(Box::new(LinesReader::new(io::Cursor::new(text))));
    let end = run(&gone, source, &mut report).await.unwrap();
    assert_eq!(end, End::Hopeless("as told".to_owned()));
    let (summary, _) = report.finish(false);
    assert_eq!((summary.stored, summary.unknown), (1000, 0));
    assert_eq!(summary.rows, summary.stored + summary.failed, "each row read is accounted for");
    assert!(summary.failed <= HELD_MAX as u64, "{summary}");
}

/// A cluster that was lost: no request is answered within its time.
struct Lost;

/// How long an import and each row waits.
const TIMEOUT: Duration = Duration::from_secs(2);

impl Store for Lost {
    type Stored = ();
    type Alone = Pair;

    async fn store_all(&self, pairs: Vec<Pair>, _: &Doubt) -> Vec<Tried<(), Pair>> {
        tokio::time::sleep(TIMEOUT / 2).await;
        pairs.into_iter().map(Tried::Alone).collect()
    }

    /// Half of the rows are written by then.
    async fn store(&self, pair: Pair, doubt: &Doubt) -> Result<(), RowError> {
        if pair.key.len().is_multiple_of(2) {
            doubt.arise();
        }
        tokio::time::sleep(TIMEOUT).await;
        Err(told(doubt.outcome(), true))
    }
}

/// Many more rows than go on alone at a time.
#[tokio::test(start_paused = true)]
async fn an_import_does_not_wait_for_each_row_of_a_lost_cluster() {
    let text: String = (0..300).map(|i| format!("{}\tv\n", "k".repeat(i + 1))).collect();
    let mut report = Report::new(Progress::bytes(None), None, TIMEOUT);
    let source = Source::spawn(Box::new(LinesReader::new(io::Cursor::new(text))));
    let started = Instant::now();
    let end = run(&Lost, source, &mut report).await.unwrap();
    assert_eq!(end, End::Hopeless("as told".to_owned()));
    let first_failed = TIMEOUT / 2 + TIMEOUT;
    assert!(started.elapsed() < first_failed + TIMEOUT + TIMEOUT / 2, "{:?}", started.elapsed());
    let (summary, _) = report.finish(false);
    assert_eq!((summary.stored, summary.rows), (0, summary.failed + summary.unknown));
    assert!(summary.rows > 2 * ALONE_MAX as u64 && summary.unknown > 0, "{summary}");
}

/// The first row of each key fails for the cluster's sake, at once; told when it has.
#[derive(Default)]
struct Stumbling {
    failed: RefCell<BTreeSet<Bytes>>,
    told: tokio::sync::Notify,
}

impl Store for Stumbling {
    type Stored = ();
    type Alone = Pair;

    async fn store_all(&self, pairs: Vec<Pair>, _: &Doubt) -> Vec<Tried<(), Pair>> {
        pairs.into_iter().map(Tried::Alone).collect()
    }

    async fn store(&self, pair: Pair, _: &Doubt) -> Result<(), RowError> {
        if !self.failed.borrow_mut().insert(pair.key) {
            return Ok(());
        }
        self.told.notify_one();
        Err(told(RowOutcome::Failed, true))
    }
}

/// Rows of these keys, each of which crosses by itself and waits to be asked for.
struct Piped(std::vec::IntoIter<&'static str>, mpsc::Receiver<()>);

impl RowReader for Piped {
    fn next_row(&mut self) -> io::Result<Option<Row>> {
        let Some(key) = self.0.next() else { return Ok(None) };
        self.1.recv().expect("the test goes on");
        let pair = Pair { key: key.into(), value: "v".into() };
        Ok(Some(Row { line: 1, bytes: 1 << 20, note: None, content: Ok(pair) }))
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_file_says_nothing_of_the_cluster() {
    let (ask, asked) = mpsc::channel();
    let source = Source::spawn(Box::new(Piped(vec!["a", "b", "b"].into_iter(), asked)));
    let (store, mut report) =
        (Stumbling::default(), Report::new(Progress::bytes(None), None, TIMEOUT));
    let pauses = async {
        for _ in 0..2 {
            ask.send(()).unwrap();
            store.told.notified().await;
            tokio::time::advance(3 * TIMEOUT).await;
        }
        ask.send(()).unwrap();
        std::future::pending::<()>().await;
    };
    let end = tokio::select! {
        end = run(&store, source, &mut report) => end.unwrap(),
        () = pauses => unreachable!("it never ends"),
    };
    assert_eq!(end, End::Read);
    let (summary, _) = report.finish(true);
    assert_eq!((summary.rows, summary.stored, summary.failed), (3, 1, 2));
}
