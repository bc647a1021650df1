//! How far the rows reach that have ended well, without a gap: where to go on after an interruption.
//!
//! ```text
//!   rows    1 2 3 4 5 6        ended  1 2 . 4 5 .        reach  2
//!   3 ends                            1 2 3 4 5 .               5
//!   6 fails                           1 2 3 4 5 x               5, and it stays there
//! ```
//!
//! A row that failed holds the reach where it is: the next run does that row again, and all after
//! it, so that the last row of a key still wins.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// The rows before this are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reach {
    /// How many they are.
    pub(super) rows: u64,
    /// The line on which the last of them begins, from 1; 0 before the first.
    pub(super) line: u64,
    /// How many bytes of the file they take.
    pub(super) bytes: u64,
}

/// What became of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Row {
    Open,
    Done,
    Failed,
}

/// Follows the rows of one run.
#[derive(Debug, Default)]
pub(super) struct Follower {
    reach: Reach,
    /// Those beyond it that were read: line, bytes, and what became of them.
    beyond: VecDeque<(u64, u64, Row)>,
    /// One beyond it failed, so that nothing behind that one matters.
    stuck: bool,
}

impl Follower {
    pub(super) fn reach(&self) -> Reach {
        self.reach
    }

    /// A row was read; rows are read in the order of their lines.
    pub(super) fn on_read(&mut self, line: u64, bytes: u64) {
        if !self.stuck {
            self.beyond.push_back((line, bytes, Row::Open));
        }
    }

    /// A row is where it should be, or is none and never will be.
    pub(super) fn on_done(&mut self, line: u64) {
        self.on_ended(line, Row::Done);
        while let Some(&(line, bytes, Row::Done)) = self.beyond.front() {
            self.beyond.pop_front();
            let Reach { rows, bytes: before, .. } = self.reach;
            self.reach = Reach { rows: rows + 1, line, bytes: before + bytes };
        }
    }

    /// A row is not where it should be.
    pub(super) fn on_failed(&mut self, line: u64) {
        self.stuck = true;
        self.on_ended(line, Row::Failed);
    }

    fn on_ended(&mut self, line: u64, row: Row) {
        // Read after a failed one, and so not kept.
        if let Ok(at) = self.beyond.binary_search_by_key(&line, |&(line, ..)| line) {
            self.beyond[at].2 = row;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_reach_is_the_longest_prefix_that_is_done(
            order in Just((0..30_usize).collect::<Vec<_>>()).prop_shuffle(),
            failed in prop::collection::btree_set(0..30_usize, 0..3),
            ended in 0..=30_usize,
        ) {
            let mut follower = Follower::default();
            let line = |row: usize| 2 * row as u64 + 1;
            for row in 0..30 {
                follower.on_read(line(row), 10);
            }
            for &row in &order[..ended] {
                if failed.contains(&row) {
                    follower.on_failed(line(row));
                } else {
                    follower.on_done(line(row));
                }
            }
            let done = |row: &usize| order[..ended].contains(row) && !failed.contains(row);
            let prefix = (0..30).take_while(done).count();
            let expected = Reach {
                rows: prefix as u64,
                line: prefix.checked_sub(1).map_or(0, line),
                bytes: 10 * prefix as u64,
            };
            prop_assert_eq!(follower.reach(), expected);
        }
    }

    #[test]
    fn what_is_read_after_a_failure_is_not_kept() {
        let mut follower = Follower::default();
        follower.on_read(1, 10);
        follower.on_failed(1);
        for line in 2..1000 {
            follower.on_read(line, 10);
            follower.on_done(line);
        }
        assert_eq!((follower.reach(), follower.beyond.len()), (Reach::default(), 1));
    }
}
