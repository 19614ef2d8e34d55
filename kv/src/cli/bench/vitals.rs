//! What processes take of the machine, as the kernel counts it, and what our own stores count themselves.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::metrics::{cpu_seconds, resident_bytes_of, written_bytes};

/// What some processes have taken since they began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Vitals {
    /// Seconds of processors.
    pub(super) cpu: f64,
    /// Bytes that were written to disks.
    pub(super) written: u64,
    /// Bytes in memory now.
    pub(super) resident: u64,
}

impl Vitals {
    /// Of these processes, together.
    pub(super) fn of(processes: &[u32]) -> Vitals {
        processes.iter().fold(Vitals::default(), |sum, process| Vitals {
            cpu: sum.cpu + cpu_seconds(Some(*process)),
            written: sum.written + written_bytes(*process).unwrap_or(0),
            resident: sum.resident + resident_bytes_of(*process).unwrap_or(0),
        })
    }

    /// What was taken since `before`; memory is what it is.
    pub(super) fn since(&self, before: &Vitals) -> Vitals {
        Vitals {
            cpu: self.cpu - before.cpu,
            written: self.written.saturating_sub(before.written),
            resident: self.resident,
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "cpu_seconds": self.cpu, "written_bytes": self.written, "resident_bytes": self.resident,
        })
    }
}

/// Bytes that the stores whose status pages are at `addresses` have written to their raft logs, together; nothing if
/// one does not say.
pub(super) async fn raft_log_bytes(addresses: &[String]) -> Option<u64> {
    let mut sum = 0;
    for address in addresses {
        sum += counter(&page(address).await.ok()?, "skerry_raft_log_bytes_total")?;
    }
    (!addresses.is_empty()).then_some(sum)
}

/// The text of `/metrics`. HTTP/1.0, so that it ends where the connection does.
async fn page(address: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    connection.read_to_string(&mut text).await?;
    Ok(text)
}

/// The sum of a counter over its labels.
fn counter(page: &str, name: &str) -> Option<u64> {
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        // Another counter may begin with the same name.
        rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    values.map(|value| value as u64).reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_the_sum_of_its_labels_and_of_no_other_counter() {
        let page =
            "# HELP a_total x\na_total{kind=\"x\"} 3\na_total{kind=\"y\"} 4\na_total_more 9\n";
        assert_eq!(counter(page, "a_total"), Some(7));
        assert_eq!(counter("a_total 1e3\n", "a_total"), Some(1_000));
        assert_eq!(counter(page, "b_total"), None);
    }

    #[test]
    fn this_process_has_memory_and_what_it_took_is_a_difference() {
        let now = Vitals::of(&[std::process::id()]);
        assert!(now.resident > 1 << 20, "{now:?}");
        assert_eq!(now.since(&now), Vitals { resident: now.resident, ..Vitals::default() });
        assert_eq!(Vitals::of(&[]), Vitals::default());
    }
}
