//! What `/metrics` shows: one registry a process, and the few measurements this crate takes itself.
//!
//! Counters live where the counted thing happens; numbers that somebody else keeps (engines, storage,
//! the process) are read when they are asked for, by a [`Source`] registered at start.
//! **Invariant.** No label value comes from a client: their number is bounded by the code.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    CounterVec, Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

mod process;

pub use process::{
    cpu_seconds, resident_bytes, resident_bytes_of, started, thread_seconds, written_bytes,
};

/// Upper ends of the buckets for durations, in seconds: from a read out of memory to a stuck disk.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 10.0,
];

/// A number that somebody else keeps, as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The metric. Readings of one name stand next to each other; those that only rise end in `_total`.
    pub name: &'static str,
    /// What it means, the same for all readings of one name.
    pub help: &'static str,
    /// Name and value of a label, for several readings of one name.
    pub label: Option<(&'static str, &'static str)>,
    /// The number.
    pub value: f64,
}

impl Reading {
    /// A reading that is the only one of its name.
    pub fn new(name: &'static str, help: &'static str, value: u64) -> Reading {
        Reading { name, help, label: None, value: value as f64 }
    }
}

/// Reads what it can at the moment.
pub type Source = Box<dyn Fn() -> Vec<Reading> + Send + Sync>;

/// The registry and the measurements of this crate. Shared by everything that measures.
pub struct Metrics {
    registry: Registry,
    rpc_requests: IntCounterVec,
    rpc_seconds: HistogramVec,
    scheduler_requests: IntCounterVec,
    /// 1 while the last exchange with the scheduler went well.
    pub scheduler_connected: IntGauge,
    sources: Mutex<Vec<Source>>,
}

impl Metrics {
    /// An empty registry with the measurements of this crate.
    pub fn new() -> Arc<Metrics> {
        let rpc_requests = Opts::new(
            "skerry_rpc_requests_total",
            "Requests answered, by method and gRPC status code; 0 is success or a region error.",
        );
        let rpc_seconds = HistogramOpts::new(
            "skerry_rpc_seconds",
            "Time from the header of a request to the header of its answer.",
        );
        let scheduler_requests = Opts::new(
            "skerry_scheduler_requests_total",
            "Exchanges with the scheduler, by kind and by result (ok, refused, unreachable).",
        );
        let connected = Opts::new(
            "skerry_scheduler_connected",
            "1 while the last exchange with the scheduler went well.",
        );
        const WELL_FORMED: &str = "names and labels are constants of this file, well formed";
        let metrics = Metrics {
            registry: Registry::new(),
            rpc_requests: IntCounterVec::new(rpc_requests, &["method", "code"]).expect(WELL_FORMED),
            rpc_seconds: HistogramVec::new(rpc_seconds.buckets(SECONDS.to_vec()), &["method"])
                .expect(WELL_FORMED),
            scheduler_requests: IntCounterVec::new(scheduler_requests, &["kind", "result"])
                .expect(WELL_FORMED),
            scheduler_connected: IntGauge::with_opts(connected).expect(WELL_FORMED),
            sources: Mutex::new(vec![Box::new(process::readings)]),
        };
        metrics.register(metrics.rpc_requests.clone());
        metrics.register(metrics.rpc_seconds.clone());
        metrics.register(metrics.scheduler_requests.clone());
        metrics.register(metrics.scheduler_connected.clone());
        Arc::new(metrics)
    }

    /// Adds a measurement that is kept elsewhere in this crate. Panics on a name used twice.
    pub fn register(&self, collector: impl Collector + 'static) {
        let registered = self.registry.register(Box::new(collector));
        registered.expect("every metric has a name of its own");
    }

    /// Adds numbers that are read at each scrape.
    pub fn add_source(&self, source: Source) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    /// Reads nothing any more: what a source holds may be about to close.
    pub fn forget_sources(&self) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Counts one answered request. `method` is a name the server knows, never what a client sent.
    pub fn rpc_answered(&self, method: &str, code: &str, duration: Duration) {
        self.rpc_requests.with_label_values(&[method, code]).inc();
        self.rpc_seconds.with_label_values(&[method]).observe(duration.as_secs_f64());
    }

    /// Counts one exchange with the scheduler.
    pub fn scheduler_exchange(&self, kind: &'static str, result: &'static str) {
        self.scheduler_requests.with_label_values(&[kind, result]).inc();
        self.scheduler_connected.set(i64::from(result != "unreachable"));
    }

    /// Everything, in the text form that Prometheus reads.
    pub fn render(&self) -> String {
        let mut families = self.registry.gather();
        let mut readings = Vec::new();
        for source in self.sources.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            readings.extend(source());
        }
        for of_one_name in readings.chunk_by(|one, other| one.name == other.name) {
            families.extend(family(of_one_name));
        }
        let mut text = Vec::new();
        match TextEncoder::new().encode(&families, &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# cannot be shown: {error}\n"),
        }
    }
}

/// The readings of one name in the form of the registry.
fn family(readings: &[Reading]) -> Vec<MetricFamily> {
    const WELL_FORMED: &str = "names and labels of readings are constants, well formed";
    let first = &readings[0];
    let labels: Vec<&str> = first.label.iter().map(|(name, _)| *name).collect();
    let values = |reading: &Reading| reading.label.map(|(_, value)| value).into_iter().collect();
    if first.name.ends_with("_total") {
        let counters = CounterVec::new(Opts::new(first.name, first.help), &labels);
        let counters = counters.expect(WELL_FORMED);
        for reading in readings {
            let values: Vec<&str> = values(reading);
            counters.with_label_values(&values).inc_by(reading.value);
        }
        return counters.collect();
    }
    let gauges = GaugeVec::new(Opts::new(first.name, first.help), &labels).expect(WELL_FORMED);
    for reading in readings {
        let values: Vec<&str> = values(reading);
        gauges.with_label_values(&values).set(reading.value);
    }
    gauges.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_counters_durations_and_foreign_numbers() {
        let metrics = Metrics::new();
        metrics.rpc_answered("RawGet", "0", Duration::from_micros(700));
        metrics.rpc_answered("RawGet", "0", Duration::from_micros(70));
        metrics.scheduler_exchange("store_heartbeat", "ok");
        metrics.add_source(Box::new(|| {
            let of_family = |family, value| Reading {
                label: Some(("family", family)),
                ..Reading::new("skerry_engine_table_bytes", "Table files.", value)
            };
            vec![
                Reading::new("skerry_storage_writes_total", "Writes.", 9),
                of_family("lock", 5),
                of_family("raw", 6),
            ]
        }));
        let page = metrics.render();
        for line in [
            "skerry_rpc_requests_total{code=\"0\",method=\"RawGet\"} 2",
            "skerry_rpc_seconds_bucket{method=\"RawGet\",le=\"0.0001\"} 1",
            "skerry_rpc_seconds_bucket{method=\"RawGet\",le=\"0.001\"} 2",
            "skerry_scheduler_connected 1",
            "# TYPE skerry_storage_writes_total counter",
            "skerry_storage_writes_total 9",
            "# TYPE skerry_engine_table_bytes gauge",
            "skerry_engine_table_bytes{family=\"lock\"} 5",
            "skerry_engine_table_bytes{family=\"raw\"} 6",
        ] {
            assert!(page.lines().any(|shown| shown == line), "{line} is missing in\n{page}");
        }
        assert_eq!(page.matches("# TYPE skerry_engine_table_bytes").count(), 1);
    }
}
