//! Times of operations, as they are measured and as they are told.
//!
//! Every client has a window of its own, which nobody else writes; the reporter takes all of them once a second.
//! Times are kept in a histogram with three digits, up to a minute.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::bank::Verdict;
use super::vitals::Vitals;

/// Longer operations count as this long.
const LONGEST_US: u64 = 60_000_000;

/// What clients did in a while.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// Microseconds of each operation that was done.
    times: Histogram<u64>,
    /// Reasons of those that failed, and how often.
    failures: BTreeMap<String, u64>,
}

impl Window {
    pub(super) fn new() -> Window {
        let times = Histogram::new_with_max(LONGEST_US, 3).expect("the limits are fixed");
        Window { times, failures: BTreeMap::new() }
    }

    pub(super) fn done(&mut self, time: Duration) {
        let time = u64::try_from(time.as_micros()).unwrap_or(LONGEST_US);
        self.times.saturating_record(time);
    }

    pub(super) fn failed(&mut self, reason: String) {
        *self.failures.entry(reason).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Window) {
        self.times.add(&other.times).expect("all have the same limits");
        for (reason, count) in &other.failures {
            *self.failures.entry(reason.clone()).or_default() += count;
        }
    }

    /// Operations that were done.
    pub(super) fn count(&self) -> u64 {
        self.times.len()
    }

    /// Operations that failed.
    pub(super) fn failure_count(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Reasons of failures, the most frequent first.
    pub(super) fn failures(&self) -> Vec<(&str, u64)> {
        let mut all: Vec<(&str, u64)> =
            self.failures.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all
    }

    /// Milliseconds that `part` of the operations did not exceed.
    pub(super) fn at_ms(&self, part: f64) -> f64 {
        self.times.value_at_quantile(part) as f64 / 1e3
    }
}

/// The window of one client.
pub(super) type Slot = Mutex<Window>;

/// Takes what all clients did since the last time.
pub(super) fn take(slots: &[Slot]) -> Window {
    let mut all = Window::new();
    for slot in slots {
        let mut window = slot.lock().expect("no holder panics");
        all.add(&window);
        window.times.reset();
        window.failures.clear();
    }
    all
}

/// A workload that has ended, or was interrupted.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) workload: String,
    pub(super) clients: usize,
    pub(super) took: Duration,
    pub(super) window: Window,
    /// Attempts that had to be repeated.
    pub(super) repeated: u64,
    pub(super) regions: usize,
    /// Processor seconds of this process.
    pub(super) client_cpu: f64,
    /// What the servers took, if they were started for the run.
    pub(super) servers: Option<Vitals>,
    /// What all of our own stores together wrote to their raft logs.
    pub(super) raft_log_bytes: Option<u64>,
    /// Keys of an operation; nothing where a scan or a transaction has as many as it has.
    pub(super) batch: Option<u64>,
    /// Bytes of keys and values that one operation writes.
    pub(super) user_bytes: u64,
    /// What a bank says about its accounts.
    pub(super) bank: Option<Verdict>,
}

impl Outcome {
    pub(super) fn rate(&self) -> f64 {
        self.window.count() as f64 / self.took.as_secs_f64()
    }

    /// Keys a second, however many an operation has.
    fn key_rate(&self) -> Option<f64> {
        self.batch.map(|batch| self.rate() * batch as f64)
    }

    /// Processor microseconds of an operation.
    fn each_us(&self, seconds: f64) -> f64 {
        seconds * 1e6 / self.window.count().max(1) as f64
    }

    /// So many bytes, of all servers, for a byte that a client has written.
    fn of_user_bytes(&self, bytes: Option<u64>) -> Option<f64> {
        let written = self.window.count() * self.user_bytes;
        bytes.filter(|_| written > 0).map(|bytes| bytes as f64 / written as f64)
    }

    pub(super) fn heading() -> Vec<String> {
        let names = [
            "workload",
            "clients",
            "ops",
            "ops/s",
            "keys/s",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "max ms",
            "failed",
            "repeated",
            "regions",
            "client us/op",
            "servers us/op",
            "disk B/B",
            "servers MiB",
        ];
        names.map(String::from).to_vec()
    }

    pub(super) fn row(&self) -> Vec<String> {
        let ms = |part| format!("{:.2}", self.window.at_ms(part));
        vec![
            self.workload.clone(),
            self.clients.to_string(),
            self.window.count().to_string(),
            format!("{:.0}", self.rate()),
            shown(self.key_rate(), 0),
            ms(0.5),
            ms(0.99),
            ms(0.999),
            ms(1.0),
            self.window.failure_count().to_string(),
            self.repeated.to_string(),
            self.regions.to_string(),
            format!("{:.0}", self.each_us(self.client_cpu)),
            shown(self.servers.map(|taken| self.each_us(taken.cpu)), 0),
            shown(self.of_user_bytes(self.servers.map(|taken| taken.written)), 2),
            shown(self.servers.map(|taken| taken.resident as f64 / f64::from(1 << 20)), 0),
        ]
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "workload": self.workload,
            "clients": self.clients,
            "operations": self.window.count(),
            "seconds": self.took.as_secs_f64(),
            "per_second": self.rate(),
            "batch_size": self.batch,
            "keys_per_second": self.key_rate(),
            "p50_ms": self.window.at_ms(0.5),
            "p99_ms": self.window.at_ms(0.99),
            "p999_ms": self.window.at_ms(0.999),
            "max_ms": self.window.at_ms(1.0),
            "failed": self.window.failure_count(),
            "failures": self.window.failures().into_iter()
                .map(|(reason, count)| json!({ "reason": reason, "count": count }))
                .collect::<Vec<_>>(),
            "repeated": self.repeated,
            "regions": self.regions,
            "client_cpu_us_per_operation": self.each_us(self.client_cpu),
            "servers_cpu_us_per_operation": self.servers.map(|taken| self.each_us(taken.cpu)),
            "servers": self.servers.map(|taken| taken.json()),
            "disk_bytes_per_user_byte": self.of_user_bytes(self.servers.map(|taken| taken.written)),
            "raft_log_bytes_per_user_byte": self.of_user_bytes(self.raft_log_bytes),
            "bank": self.bank.as_ref().map(Verdict::json),
        })
    }
}

/// A figure of a table, if there is one.
fn shown(figure: Option<f64>, digits: usize) -> String {
    figure.map_or_else(|| "-".to_string(), |figure| format!("{figure:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_clients_add_up_and_begin_anew() {
        let slots = [Slot::new(Window::new()), Slot::new(Window::new())];
        for (slot, ms) in slots.iter().zip([1, 3]) {
            let mut window = slot.lock().expect("nobody panics");
            (0..10).for_each(|_| window.done(Duration::from_millis(ms)));
            window.failed("no leader".to_string());
        }
        let all = take(&slots);
        assert_eq!((all.count(), all.failures()), (20, vec![("no leader", 2)]));
        assert!((all.at_ms(0.5) - 1.0).abs() < 0.01, "{}", all.at_ms(0.5));
        assert!((all.at_ms(0.99) - 3.0).abs() < 0.01, "{}", all.at_ms(0.99));
        assert_eq!(take(&slots).count(), 0);
    }

    #[test]
    fn an_operation_beyond_the_scale_counts_as_the_longest() {
        let mut window = Window::new();
        window.done(Duration::from_secs(3_600));
        assert!(window.at_ms(1.0) >= 60_000.0);
    }
}
