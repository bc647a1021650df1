//! Metrics of staleness: how old writes are when they come to their owners, by which way; and for how long
//! this node has lacked what others have seen.
//!
//! Ages are counted by powers of two of a millisecond: whoever wants to know how stale replicas are cares for
//! the order of magnitude, from a message on its way to a node that was down for a day.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

use crate::dynamo::arrival::Way;

/// Up to 1 ms, 2 ms, 4 ms, .. 2^29 ms, which is six days; and what is older.
const BUCKETS: usize = 31;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ArrivalLabels {
    namespace: String,
    way: &'static str,
}

/// How old writes were when they came.
#[derive(Clone, Default, Debug)]
pub struct Ages(Arc<Counts>);

#[derive(Default, Debug)]
struct Counts {
    buckets: [AtomicU64; BUCKETS],
    sum_ms: AtomicU64,
    max_ms: AtomicU64,
}

/// What ages come to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AgeSummary {
    /// How many writes came.
    pub count: u64,
    /// At most so old were half of them, 99 in 100, and all of them. The first two are rounded up to a power
    /// of two.
    pub p50: Duration,
    /// 99 in 100.
    pub p99: Duration,
    /// All.
    pub max: Duration,
}

/// Which bucket an age is in: the first whose bound is not below it.
fn bucket_of(age_ms: u64) -> usize {
    let bits = u64::BITS - age_ms.saturating_sub(1).leading_zeros();
    (bits as usize).min(BUCKETS - 1)
}

/// The greatest age of a bucket; none for the last one.
fn bound_ms(bucket: usize) -> Option<u64> {
    (bucket + 1 < BUCKETS).then(|| 1 << bucket)
}

impl Ages {
    /// Counts one.
    pub fn observe(&self, age_ms: u64) {
        let Counts { buckets, sum_ms, max_ms } = &*self.0;
        buckets[bucket_of(age_ms)].fetch_add(1, Ordering::Relaxed);
        sum_ms.fetch_add(age_ms, Ordering::Relaxed);
        max_ms.fetch_max(age_ms, Ordering::Relaxed);
    }

    fn counts(&self) -> [u64; BUCKETS] {
        self.0.buckets.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// What they come to so far.
    pub fn summary(&self) -> AgeSummary {
        let (counts, max_ms) = (self.counts(), self.0.max_ms.load(Ordering::Relaxed));
        let count: u64 = counts.iter().sum();
        let quantile = |of_100: u64| {
            let (mut seen, wanted) = (0, (count * of_100).div_ceil(100));
            let reaches = |in_bucket: &u64| {
                seen += in_bucket;
                seen >= wanted
            };
            let bucket = counts.iter().position(reaches).unwrap_or(0);
            Duration::from_millis(bound_ms(bucket).map_or(max_ms, |bound| bound.min(max_ms)))
        };
        AgeSummary {
            count,
            p50: quantile(50),
            p99: quantile(99),
            max: Duration::from_millis(max_ms),
        }
    }
}

impl TypedMetric for Ages {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Ages {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = self.counts();
        let in_seconds = |ms: u64| ms as f64 / 1000.0;
        let bound = |bucket| bound_ms(bucket).map_or(f64::INFINITY, in_seconds);
        let buckets: Vec<_> = (0..BUCKETS).map(|bucket| (bound(bucket), counts[bucket])).collect();
        let sum = in_seconds(self.0.sum_ms.load(Ordering::Relaxed));
        encoder.encode_histogram::<[(String, String); 0]>(sum, counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// The handles.
#[derive(Debug)]
pub struct StalenessMetrics {
    arrivals: Family<ArrivalLabels, Ages>,
    /// The same, to be gone through.
    ages: Mutex<BTreeMap<(String, Way), Ages>>,
    missing_oldest: Gauge<f64, AtomicU64>,
}

impl StalenessMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let (arrivals, missing_oldest) = (Family::default(), Gauge::default());
        let metrics = Self { arrivals, ages: Mutex::default(), missing_oldest };
        let help = "How old writes were when they came to this node, which owns their keys, by the way that \
                    they came";
        registry.register_with_unit("arrival", help, Unit::Seconds, metrics.arrivals.clone());
        let help =
            "How long ago the first of the writes was found missing that this node still lacks";
        let oldest = metrics.missing_oldest.clone();
        registry.register_with_unit("exchange_missing_oldest", help, Unit::Seconds, oldest);
        metrics
    }

    /// Where it is counted how old the writes of a namespace are that come this way.
    pub fn ages(&self, namespace: &str, way: Way) -> Ages {
        let labels = ArrivalLabels { namespace: namespace.to_owned(), way: way.name() };
        let ages = self.arrivals.get_or_create_owned(&labels);
        self.all().insert((labels.namespace, way), ages.clone());
        ages
    }

    /// How old writes were so far, by namespace and way.
    pub fn summaries(&self) -> Vec<(String, Way, AgeSummary)> {
        let all = self.all();
        all.iter().map(|((name, way), ages)| (name.clone(), *way, ages.summary())).collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<(String, Way), Ages>> {
        self.ages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long something has been missing.
    pub fn missing_for(&self, oldest: Duration) {
        self.missing_oldest.set(oldest.as_secs_f64());
    }

    /// The same, as it was told last.
    pub fn missing(&self) -> Duration {
        Duration::from_secs_f64(self.missing_oldest.get())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_metric_shows() {
        let mut registry = Registry::default();
        let metrics = StalenessMetrics::register(&mut registry);
        for age_ms in [0, 1, 3, 90_000, u64::from(u32::MAX)] {
            metrics.ages("things", Way::Hint).observe(age_ms);
        }
        metrics.missing_for(Duration::from_millis(1_500));
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        for line in [
            "arrival_seconds_count{namespace=\"things\",way=\"hint\"} 5",
            "arrival_seconds_bucket{le=\"0.001\",namespace=\"things\",way=\"hint\"} 2",
            "arrival_seconds_bucket{le=\"0.004\",namespace=\"things\",way=\"hint\"} 3",
            "arrival_seconds_bucket{le=\"131.072\",namespace=\"things\",way=\"hint\"} 4",
            "arrival_seconds_bucket{le=\"+Inf\",namespace=\"things\",way=\"hint\"} 5",
            "exchange_missing_oldest_seconds 1.5",
        ] {
            assert!(page.contains(line), "{line} is not in:\n{page}");
        }
        assert_eq!(metrics.missing(), Duration::from_millis(1_500));
    }

    proptest! {
        #[test]
        fn a_summary_is_what_sorting_tells_rounded_up(
            ages in prop::collection::vec(prop_oneof![0..20_u64, 0..1_000_000_u64], 1..200)
        ) {
            let counted = Ages::default();
            ages.iter().for_each(|age| counted.observe(*age));
            let mut sorted = ages;
            sorted.sort_unstable();
            let max = sorted[sorted.len() - 1];
            let rounded = |of_100: usize| {
                let age = sorted[(sorted.len() * of_100).div_ceil(100) - 1];
                Duration::from_millis(age.max(1).next_power_of_two().min(max))
            };
            let expected = AgeSummary {
                count: sorted.len() as u64,
                p50: rounded(50),
                p99: rounded(99),
                max: Duration::from_millis(max),
            };
            prop_assert_eq!(counted.summary(), expected);
        }
    }
}
