//! A recorder that keeps counters, and how often something was recorded in a histogram.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

/// By name and the values of their labels, such as `snapshot_transfers_total/1/sent`.
#[derive(Clone, Default)]
pub(crate) struct Counters(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

/// Those of the whole process. To be called before what is counted is started.
pub(crate) fn counters() -> &'static Counters {
    static ALL: OnceLock<Counters> = OnceLock::new();
    ALL.get_or_init(|| {
        let all = Counters::default();
        let set = metrics::set_global_recorder(all.clone());
        set.expect("no other recorder");
        all
    })
}

impl Counters {
    /// The sum of those with this name and this last label, of all nodes since the process began.
    pub(crate) fn sum(&self, name: &str, last: &str) -> u64 {
        let all = self.0.lock().expect("counters");
        let fits = |key: &str| key.starts_with(name) && key.ends_with(last);
        let fitting = all.iter().filter(|(key, _)| fits(key));
        fitting.map(|(_, cell)| cell.load(Ordering::Relaxed)).sum()
    }

    fn cell(&self, key: &Key) -> Arc<AtomicU64> {
        let name = key.name().trim_start_matches("conveyor_raft_");
        let values = key.labels().map(|label| label.value());
        let parts: Vec<_> = std::iter::once(name).chain(values).collect();
        let mut all = self.0.lock().expect("counters");
        Arc::clone(all.entry(parts.join("/")).or_default())
    }
}

/// How often something was recorded.
struct Times(Arc<AtomicU64>);

impl HistogramFn for Times {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Recorder for Counters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Times(self.cell(key))))
    }
}
