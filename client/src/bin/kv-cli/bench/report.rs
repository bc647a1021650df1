//! What was measured.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use quorate_client::{Error, WriteError};
use serde::Serialize;

use crate::failure::describe_write;
use crate::stderr::Notice;

/// An hour: no deadline is longer. Three digits make p99 right to a thousandth.
const LATENCY_MAX_US: u64 = 3_600_000_000;

/// How an operation ended that was not ok.
#[derive(Debug)]
pub(super) struct Failure {
    kind: &'static str,
    /// Put into words for the first of a kind alone: there may be very many.
    why: Why,
}

#[derive(Debug)]
enum Why {
    Read(Error),
    Write(WriteError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { kind: error.kind().as_str(), why: Why::Read(error) }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        let kind = match &error {
            WriteError::NotApplied { error } => error.kind().as_str(),
            WriteError::Unknown { .. } => "unknown",
        };
        Self { kind, why: Why::Write(error) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Read(error) => error.fmt(f),
            Why::Write(error) => f.write_str(&describe_write(error)),
        }
    }
}

/// Counts and latencies of some operations.
pub(super) struct Report {
    operations: u64,
    errors: BTreeMap<&'static str, u64>,
    /// The first of each kind.
    examples: BTreeMap<&'static str, String>,
    pub(super) not_found: u64,
    pub(super) retries: u64,
    pub(super) missed: u64,
    pub(super) seconds: f64,
    /// Of those that succeeded, in microseconds: a refusal is quick, and would flatter.
    latencies: Histogram<u64>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            operations: 0,
            errors: BTreeMap::new(),
            examples: BTreeMap::new(),
            not_found: 0,
            retries: 0,
            missed: 0,
            seconds: 0.0,
            latencies: Histogram::new_with_max(LATENCY_MAX_US, 3).expect("bounds it supports"),
        }
    }
}

impl Report {
    /// An operation ended, with a failure or without one.
    pub(super) fn on_ended(&mut self, latency: Duration, failure: Option<&Failure>) {
        self.operations += 1;
        match failure {
            Some(failure) => {
                *self.errors.entry(failure.kind).or_default() += 1;
                self.examples.entry(failure.kind).or_insert_with(|| failure.to_string());
            }
            None => self.latencies.saturating_record(latency.as_micros() as u64),
        }
    }

    /// All keys of a batch ended, with a failure or without one each.
    pub(super) fn on_batch_ended(&mut self, latency: Duration, failures: &[Option<Failure>]) {
        failures.iter().for_each(|failure| self.on_ended(latency, failure.as_ref()));
    }

    /// Takes in what others counted.
    fn add(&mut self, part: &Self) {
        self.operations += part.operations;
        self.not_found += part.not_found;
        self.retries += part.retries;
        for (kind, count) in &part.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        for (kind, example) in &part.examples {
            self.examples.entry(kind).or_insert_with(|| example.clone());
        }
        let grown = self.latencies.add(&part.latencies);
        grown.expect("both histograms have the same bounds");
    }

    fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Whether nothing succeeded, of all that was tried.
    pub(super) fn is_in_vain(&self) -> bool {
        self.operations > 0 && self.failed() == self.operations
    }

    /// How many errors there are of each kind, and the first of them in full; or that nothing was
    /// tried, which says nothing of the cluster.
    pub(super) fn notices(&self) -> Vec<Notice> {
        if self.operations == 0 {
            let message = "no operation was started before --duration was over; allow more of it";
            return vec![Notice::note(message)];
        }
        let notice = |(kind, example): (&&'static str, &String)| {
            let count = self.errors[kind];
            let of = self.operations;
            let message = format!("{count} of {of} operations ended with {kind}: {example}");
            Notice::note(message).with("kind", kind).with("count", count)
        };
        self.examples.iter().map(notice).collect()
    }

    pub(super) fn json(&self) -> BenchJson<'_> {
        let at = |quantile| self.latencies.value_at_quantile(quantile);
        let failed = self.failed();
        let ok = self.operations - failed;
        let ops_per_s = ok as f64 / self.seconds;
        BenchJson {
            operations: self.operations,
            ok,
            failed,
            errors: &self.errors,
            not_found: self.not_found,
            retries: self.retries,
            seconds: self.seconds,
            ops_per_s: (ops_per_s * 10.0).round() / 10.0,
            latency_us: Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999) },
            missed: self.missed,
        }
    }
}

/// What all workers count in: a few reports, since one for each of ten thousand workers would take
/// gigabytes of histograms, and one for all would have them wait for each other.
#[derive(Default)]
pub(super) struct Reports([Mutex<Report>; Self::COUNT]);

impl Reports {
    const COUNT: usize = 16;

    /// The report that the worker of this number counts in.
    pub(super) fn of(&self, worker: u64) -> MutexGuard<'_, Report> {
        let report = &self.0[worker as usize % Self::COUNT];
        report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them together.
    pub(super) fn whole(&self) -> Report {
        let mut whole = Report::default();
        (0..Self::COUNT as u64).for_each(|worker| whole.add(&self.of(worker)));
        whole
    }
}

/// What `bench` answers.
#[derive(Serialize)]
pub(super) struct BenchJson<'a> {
    /// All attempted.
    operations: u64,
    /// Those that succeeded within their deadline: `ops_per_s` and latencies are theirs alone.
    ok: u64,
    /// The others.
    failed: u64,
    /// The others by kind.
    errors: &'a BTreeMap<&'static str, u64>,
    /// Reads of keys without a value.
    not_found: u64,
    /// How many more times writes were sent than there were writes.
    retries: u64,
    seconds: f64,
    ops_per_s: f64,
    latency_us: Latency,
    /// Due, but not started before the end.
    missed: u64,
}

#[derive(Serialize)]
struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
}

impl fmt::Display for BenchJson<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = match self.errors.iter() {
            kinds if kinds.len() == 0 => "none".to_owned(),
            kinds => kinds.map(|(kind, n)| format!("{kind} {n}")).collect::<Vec<_>>().join(", "),
        };
        let Latency { p50, p90, p99, p999 } = self.latency_us;
        writeln!(f, "operations  {}", self.operations)?;
        writeln!(f, "ok          {}", self.ok)?;
        writeln!(f, "failed      {}", self.failed)?;
        writeln!(f, "errors      {errors}")?;
        writeln!(f, "not found   {}", self.not_found)?;
        writeln!(f, "retries     {}", self.retries)?;
        writeln!(f, "missed      {}", self.missed)?;
        writeln!(f, "seconds     {:.3}", self.seconds)?;
        writeln!(f, "ops/s       {:.1}", self.ops_per_s)?;
        write!(f, "latency     p50 {p50} us, p90 {p90} us, p99 {p99} us, p99.9 {p999} us")
    }
}

#[cfg(test)]
mod tests {
    use quorate_client::{Client, ClientConfig};

    use super::*;

    /// Of kind `invalid`.
    async fn failure() -> Failure {
        let nowhere = ClientConfig::new([""; 0]);
        Client::connect(nowhere).await.unwrap_err().into()
    }

    #[tokio::test]
    async fn one_error_of_each_kind_is_told_in_full() {
        let failure = failure().await;
        let (mut whole, mut part) = (Report::default(), Report::default());
        for report in [&mut whole, &mut part] {
            report.on_batch_ended(Duration::ZERO, &[None, None]);
            report.on_ended(Duration::ZERO, Some(&failure));
        }
        whole.add(&part);
        let [notice] = &whole.notices()[..] else { panic!("there is one kind") };
        let said = format!("{notice:?}");
        assert!(said.contains("2 of 6 operations ended with invalid"), "{said}");
        assert!(said.contains(&failure.to_string()), "{said}");
        assert!(!whole.is_in_vain());
    }

    #[tokio::test]
    async fn parts_add_up_to_the_contract() {
        let failure = failure().await;
        let (mut whole, mut part) = (Report::default(), Report::default());
        for us in 1..=1000 {
            let to = if us % 2 == 0 { &mut whole } else { &mut part };
            to.on_ended(Duration::from_micros(us), (us > 998).then_some(&failure));
        }
        part.not_found = 3;
        part.retries = 2;
        whole.add(&part);
        whole.seconds = 2.0;
        let json = serde_json::to_string(&whole.json()).unwrap();
        assert_eq!(
            json,
            "{\"operations\":1000,\"ok\":998,\"failed\":2,\"errors\":{\"invalid\":2},\"not_found\":3,\
             \"retries\":2,\"seconds\":2.0,\"ops_per_s\":499.0,\
             \"latency_us\":{\"p50\":499,\"p90\":899,\"p99\":989,\"p999\":998},\"missed\":0}"
        );
        assert!(whole.json().to_string().contains("errors      invalid 2\n"));
    }

    #[test]
    fn what_every_worker_counted_is_in_the_whole() {
        let reports = Reports::default();
        for worker in 0..100 {
            reports.of(worker).on_ended(Duration::from_micros(worker), None);
        }
        assert_eq!(reports.whole().operations, 100);
    }

    #[test]
    fn slow_operations_are_recorded_as_slow() {
        let mut report = Report { seconds: 1.0, ..Report::default() };
        for ms in [8, 9, 4_000] {
            report.on_ended(Duration::from_millis(ms), None);
        }
        let mut whole = Report { seconds: 1.0, ..Report::default() };
        whole.add(&report);
        let Latency { p50, p999, .. } = whole.json().latency_us;
        assert!((8_990..9_010).contains(&p50) && (3_995_000..4_005_000).contains(&p999));
    }

    #[test]
    fn an_empty_report_is_a_report() {
        let report = Report { seconds: 1.0, ..Report::default() };
        assert!(report.json().to_string().contains("errors      none\n"));
        let said = format!("{:?}", report.notices());
        assert!(said.contains("no operation was started") && !report.is_in_vain(), "{said}");
    }
}
