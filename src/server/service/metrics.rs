//! What is counted, in the text form of OpenMetrics.

use std::fmt::Write as _;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::server::hsm::TokenStatus;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    route: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Route {
    route: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Token {
    token: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Sink {
    sink: String,
}

/// The counters of a node. No label comes from a request, so there are few of each.
pub struct Metrics {
    registry: Mutex<Registry>,
    calls: Family<Call, Counter>,
    times: Family<Route, Histogram>,
    refusals: Family<Reason, Counter>,
    /// Requests that are being served.
    pub in_flight: Gauge,
    healthy: Gauge,
    tokens: Family<Token, Gauge>,
    busy: Family<Token, Gauge>,
    stuck: Family<Token, Gauge>,
    sessions: Gauge,
    audit: Histogram,
    unrecorded: Counter,
    behind: Family<Sink, Gauge>,
}

fn milliseconds_to_half_a_minute() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Metrics {
        let metrics = Metrics {
            registry: Mutex::new(Registry::with_prefix("envelopefs_keyserver")),
            calls: Family::default(),
            times: Family::new_with_constructor(milliseconds_to_half_a_minute),
            refusals: Family::default(),
            in_flight: Gauge::default(),
            healthy: Gauge::default(),
            tokens: Family::default(),
            busy: Family::default(),
            stuck: Family::default(),
            sessions: Gauge::default(),
            audit: milliseconds_to_half_a_minute(),
            unrecorded: Counter::default(),
            behind: Family::default(),
        };
        let mut registry = metrics.registry.lock();
        registry.register("requests", "Requests answered, by route and status", metrics.calls.clone());
        registry.register("request_seconds", "Time to the answer", metrics.times.clone());
        registry.register("refusals", "Callers refused, by the exact reason", metrics.refusals.clone());
        registry.register("requests_in_flight", "Requests being served", metrics.in_flight.clone());
        registry.register("healthy", "1 if the last probe of HSM and database passed", metrics.healthy.clone());
        registry.register("hsm_token_up", "1 if a token takes calls", metrics.tokens.clone());
        registry.register("hsm_token_busy", "Calls that a token serves", metrics.busy.clone());
        registry.register("hsm_token_stuck", "Calls that a token has not answered in time", metrics.stuck.clone());
        registry.register("hsm_sessions", "Calls that may run side by side", metrics.sessions.clone());
        registry.register("audit_seconds", "Time until a record is durable", metrics.audit.clone());
        registry.register("audit_failures", "Records that could not be written", metrics.unrecorded.clone());
        registry.register("audit_behind", "Records that a sink does not have yet", metrics.behind.clone());
        drop(registry);
        metrics
    }

    /// One request was answered.
    pub fn called(&self, route: &'static str, status: u16, time: Duration) {
        self.calls.get_or_create(&Call { route, status }).inc();
        self.times.get_or_create(&Route { route }).observe(time.as_secs_f64());
    }

    /// One caller was refused.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&Reason { reason }).inc();
    }

    /// How long a record took, and whether it is there.
    pub fn recorded(&self, time: Duration, well: bool) {
        self.audit.observe(time.as_secs_f64());
        if !well {
            self.unrecorded.inc();
        }
    }

    /// Whether the last probe passed.
    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.set(i64::from(healthy));
    }

    /// How far sinks are behind.
    pub fn set_behind(&self, sinks: impl IntoIterator<Item = (String, u64)>) {
        for (sink, records) in sinks {
            self.behind.get_or_create(&Sink { sink }).set(i64::try_from(records).unwrap_or(i64::MAX));
        }
    }

    /// All of it, with the tokens as they are now.
    pub fn text(&self, tokens: &[TokenStatus], sessions: usize) -> String {
        for status in tokens {
            let label = Token { token: status.name.clone() };
            self.tokens.get_or_create(&label).set(i64::from(status.healthy));
            self.busy.get_or_create(&label).set(i64::try_from(status.busy).unwrap_or(i64::MAX));
            self.stuck.get_or_create(&label).set(i64::try_from(status.stuck).unwrap_or(i64::MAX));
        }
        self.sessions.set(i64::try_from(sessions).unwrap_or(i64::MAX));
        let mut text = String::new();
        if text::encode(&mut text, &self.registry.lock()).is_err() {
            let _ = write!(text, "# EOF");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}
