use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::super::report::Summary;
use super::*;
use crate::formats::{LinesReader, RowReader};
use crate::progress::Progress;

/// Takes some turns for each row, remembers the order, and fails values that say so.
#[derive(Default)]
struct Memory {
    stored: RefCell<BTreeMap<Bytes, Vec<Bytes>>>,
    flying: Cell<usize>,
    most: Cell<usize>,
}

impl Store for Memory {
    type Stored = ();

    async fn store(&self, pair: Pair) -> Result<(), RowError> {
        self.flying.set(self.flying.get() + 1);
        self.most.set(self.most.get().max(self.flying.get()));
        for _ in 0..pair.value.len() % 5 {
            tokio::task::yield_now().await;
        }
        self.flying.set(self.flying.get() - 1);
        match &pair.value[..] {
            b"failed" => return Err(RowError::Failed("as told".to_owned())),
            b"unknown" => return Err(RowError::Unknown("as told".to_owned())),
            _ => {}
        }
        self.stored.borrow_mut().entry(pair.key).or_default().push(pair.value);
        Ok(())
    }
}

async fn import(text: String) -> (Memory, Summary, io::Result<()>) {
    import_from(Box::new(LinesReader::new(io::Cursor::new(text)))).await
}

async fn import_from(reader: Box<dyn RowReader>) -> (Memory, Summary, io::Result<()>) {
    let (memory, mut report) = (Memory::default(), Report::new(Progress::bytes(None)));
    let read = run(&memory, Source::spawn(reader), &mut report).await;
    (memory, report.finish(), read)
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
    let (memory, _, _) = import(text).await;
    assert_eq!(memory.most.get(), IN_FLIGHT_MAX);
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
            Ok(Some(Row { line: self.0, bytes: 1, content: Ok(pair) }))
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
