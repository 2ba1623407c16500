//! Figures in Prometheus's text format (0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counts up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

/// All of the service's.
#[derive(Debug, Default)]
pub struct Metrics {
    /// By kind of path and status: both are few.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    pub uploaded_bytes: Counter,
    pub publishes: Counter,
    pub limited: Counter,
    pub pruned_files: Counter,
}

impl Metrics {
    pub fn request(&self, route: &'static str, status: u16) {
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry((route, status)).or_default() += 1;
    }

    pub fn text(&self) -> String {
        let mut text = String::from(
            "# HELP vsekai_service_requests_total Requests answered.\n# TYPE vsekai_service_requests_total counter\n",
        );
        for ((route, status), count) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "vsekai_service_requests_total{{route=\"{route}\",status=\"{status}\"}} {count}");
        }
        for (name, help, counter) in [
            ("uploaded_bytes", "Bytes of uploads that came.", &self.uploaded_bytes),
            ("publishes", "Uploads of metadata that were published.", &self.publishes),
            ("rate_limited", "Requests that were refused for their number.", &self.limited),
            ("pruned_files", "Files that were pruned.", &self.pruned_files),
        ] {
            let value = counter.0.load(Ordering::Relaxed);
            let name = format!("vsekai_service_{name}_total");
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
        }
        text
    }
}
