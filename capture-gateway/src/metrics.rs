//! What the gateway tells of itself on /metrics, in the OpenMetrics text format.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What is written: `state` and `counters` are statuses of PacketCaptures, `record` and `removal` what becomes of records
/// of nodes that are gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// A write that failed, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    kind: &'static str,
    reason: &'static str,
}

/// A watched resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Resource {
    resource: &'static str,
}

/// How a PacketCapture stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// All of the gateway's metrics; clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    /// 1 while this gateway writes.
    pub(crate) leader: Gauge,
    /// PodCaptures known.
    pub(crate) records: Gauge,
    /// Nodes that records name and that are not there.
    pub(crate) nodes_missing: Gauge,
    /// Statuses that wait to be written.
    pub(crate) waiting: Gauge,
    captures: Family<State, Gauge>,
    watches: Family<Resource, Gauge>,
    watch_errors: Family<Resource, Counter>,
    writes: Family<Kind, Counter>,
    write_errors: Family<Failure, Counter>,
}

impl Metrics {
    /// A write was made, or failed for a reason.
    pub(crate) fn written(&self, kind: &'static str, error: Option<&'static str>) {
        match error {
            None => self.writes.get_or_create(&Kind { kind }).inc(),
            Some(reason) => self.write_errors.get_or_create(&Failure { kind, reason }).inc(),
        };
    }

    /// So many PacketCaptures are in this state.
    pub(crate) fn captures(&self, state: &'static str, number: i64) {
        self.captures.get_or_create(&State { state }).set(number);
    }

    /// A watch works, or does not.
    pub(crate) fn watching(&self, resource: &'static str, works: bool) {
        self.watches.get_or_create(&Resource { resource }).set(works.into());
        if !works {
            self.watch_errors.get_or_create(&Resource { resource }).inc();
        }
    }

    /// What `/metrics` shows of them.
    pub(crate) fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("podtap_gateway");
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge("leader", "1 while this gateway holds the lease and writes", &self.leader);
        gauge("records", "PodCaptures known", &self.records);
        gauge(
            "missing_nodes",
            "Nodes that PodCaptures name and that the cluster does not have",
            &self.nodes_missing,
        );
        gauge("waiting_writes", "PacketCaptures whose status waits to be written", &self.waiting);
        registry.register("captures", "PacketCaptures by how they stand", self.captures.clone());
        registry.register("watch_up", "1 while the watch of a resource works", self.watches.clone());
        registry.register(
            "watch_errors",
            "Errors of watches; each is tried again",
            self.watch_errors.clone(),
        );
        registry.register("writes", "Writes to the API server by what was written", self.writes.clone());
        registry.register(
            "write_errors",
            "Writes to the API server that failed, by what was written and why; each is tried again where it makes \
             sense",
            self.write_errors.clone(),
        );
        registry
    }
}

/// The metrics as text.
pub(crate) fn render(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    text::encode(&mut text, registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_shown_under_their_names() {
        let metrics = Metrics::default();
        let registry = metrics.registry();
        metrics.leader.set(1);
        metrics.captures("capturing", 2);
        metrics.watching("nodes", false);
        metrics.written("state", None);
        metrics.written("state", Some("conflict"));
        let text = render(&registry).unwrap();
        for line in [
            "podtap_gateway_leader 1",
            "podtap_gateway_captures{state=\"capturing\"} 2",
            "podtap_gateway_watch_up{resource=\"nodes\"} 0",
            "podtap_gateway_watch_errors_total{resource=\"nodes\"} 1",
            "podtap_gateway_writes_total{kind=\"state\"} 1",
            "podtap_gateway_write_errors_total{kind=\"state\",reason=\"conflict\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
    }
    #[test]
    fn every_metric_is_documented() {
        let document = include_str!("../../docs/gateway.md");
        let metrics = Metrics::default();
        metrics.captures("waiting", 1);
        metrics.watching("nodes", false);
        metrics.written("state", None);
        metrics.written("state", Some("gone"));
        let text = render(&metrics.registry()).unwrap();
        let help = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let names: Vec<_> = help.filter_map(|line| line.split(' ').next()).collect();
        assert!(names.len() >= 9, "{text}");
        for name in names {
            assert!(document.contains(&format!("| `{name}")), "{name} is not in docs/gateway.md");
        }
    }
}
