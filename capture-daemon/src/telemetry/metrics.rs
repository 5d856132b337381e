//! All metrics, in the OpenMetrics text format. `docs/metrics.md` lists them; a test compares the two.
//!
//! The highest cardinality is the namespace's: pods, captures and files are in their records, not here.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use super::{
    meters::Meters,
    process::Process,
    snapshot::{Counts, Namespace, STATES, Snapshot},
};
use crate::{datapath::AttachMode, delays::Delays, pulse::Pulse};

/// What answers have in `Content-Type`.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All that is told at one moment.
#[derive(Debug)]
pub(super) struct Reading {
    /// The engine's numbers.
    pub(super) snapshot: Snapshot,
    /// Counters of other threads.
    pub(super) meters: Meters,
    /// The threads that must not stop.
    pub(super) pulses: Vec<Pulse>,
    /// How long writes take, and how long rings wait for buffers.
    pub(super) delays: [Delays; 2],
    /// How interfaces are tapped unless many come at once; none while the agent starts.
    pub(super) attach_mode: Option<AttachMode>,
    /// When the process began, in seconds of UTC.
    pub(super) started: f64,
    /// The process.
    pub(super) process: Process,
}

impl Reading {
    /// As text.
    ///
    /// # Errors
    /// None is known: it is written into memory.
    pub(super) fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("podtap");
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page { encoder };
        self.runs(&mut page)?;
        self.packets(&mut page)?;
        self.files(&mut page)?;
        self.node(&mut page)?;
        self.agent(&mut page)
    }
}

type Labels<'a> = &'a [(&'a str, &'a str)];

/// Where metrics are written, one after the other.
struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Page<'_> {
    fn counter(
        &mut self,
        (name, unit): (&str, Option<Unit>),
        help: &str,
        samples: impl FnOnce(&mut dyn FnMut(Labels<'_>, u64) -> fmt::Result) -> fmt::Result,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        samples(&mut |labels, value| counter(metric.encode_family(&labels)?, value))
    }

    fn gauge(
        &mut self,
        (name, unit): (&str, Option<Unit>),
        help: &str,
        samples: impl FnOnce(&mut dyn FnMut(Labels<'_>, u64) -> fmt::Result) -> fmt::Result,
    ) -> fmt::Result {
        let mut metric = self.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        samples(&mut |labels, value| metric.encode_family(&labels)?.encode_gauge(&value))
    }

    fn one_gauge(
        &mut self,
        name: (&str, Option<Unit>),
        help: &str,
        value: impl Into<Option<u64>>,
    ) -> fmt::Result {
        let (name, unit) = name;
        let mut metric = self.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        value.into().map_or(Ok(()), |value| metric.encode_gauge(&value))
    }

    fn histogram(&mut self, name: (&str, Option<Unit>), help: &str, delays: &Delays) -> fmt::Result {
        let (name, unit) = name;
        let metric = self.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Histogram)?;
        delays.histogram().encode(metric)
    }

    fn info(&mut self, name: &str, help: &str, labels: Labels<'_>) -> fmt::Result {
        self.encoder.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }
}

fn counter(mut metric: MetricEncoder<'_>, value: u64) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
}

/// A name without unit.
const fn plain(name: &str) -> (&str, Option<Unit>) {
    (name, None)
}

const fn bytes(name: &str) -> (&str, Option<Unit>) {
    (name, Some(Unit::Bytes))
}

const fn seconds(name: &str) -> (&str, Option<Unit>) {
    (name, Some(Unit::Seconds))
}

impl Reading {
    fn namespaces(&self) -> impl Iterator<Item = (&str, &Namespace)> {
        self.snapshot.namespaces()
    }

    fn runs(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            plain("runs"),
            "Runs on this node by state, finished ones until retention ends.",
            |put| {
                for (name, namespace) in self.namespaces() {
                    for (state, runs) in STATES.iter().zip(namespace.runs) {
                        put(&[("namespace", name), ("state", &format!("{state:?}"))], runs.into())?;
                    }
                }
                Ok(())
            },
        )?;
        let help =
            "Runs on this node that were refused and have no record: their namespace has too many of these.";
        page.gauge(plain("runs_turned_away"), help, |put| {
            let mut namespaces = self.namespaces();
            namespaces.try_for_each(|(name, of)| put(&[("namespace", name)], of.turned_away.into()))
        })
    }

    /// A counter by namespace and direction.
    fn by_direction(
        &self,
        page: &mut Page<'_>,
        name: (&str, Option<Unit>),
        help: &str,
        of: impl Fn(&capture_common::DirectionCounters) -> u64,
    ) -> fmt::Result {
        page.counter(name, help, |put| {
            for (name, Namespace { counts, .. }) in self.namespaces() {
                put(&[("namespace", name), ("direction", "FromPod")], of(&counts.from_pod))?;
                put(&[("namespace", name), ("direction", "ToPod")], of(&counts.to_pod))?;
            }
            Ok(())
        })
    }

    /// A counter by namespace.
    fn by_namespace(
        &self,
        page: &mut Page<'_>,
        name: (&str, Option<Unit>),
        help: &str,
        of: impl Fn(&Counts) -> u64,
    ) -> fmt::Result {
        page.counter(name, help, |put| {
            self.namespaces()
                .try_for_each(|(name, namespace)| put(&[("namespace", name)], of(&namespace.counts)))
        })
    }

    fn packets(&self, page: &mut Page<'_>) -> fmt::Result {
        let help = "Packets that passed interfaces of captured pods.";
        self.by_direction(page, plain("packets_seen"), help, |of| of.seen)?;
        let help = "Packets that filters accepted.";
        self.by_direction(page, plain("packets_matched"), help, |of| of.matched)?;
        let help = "Packets that the kernel handed to the agent.";
        self.by_direction(page, plain("packets_captured"), help, |of| of.captured)?;
        let help =
            "Bytes of the packets that the kernel handed to the agent, as long as they were on the wire.";
        self.by_direction(page, bytes("captured"), help, |of| of.bytes)?;
        let help = "Packets that matched and are lost: the ring buffer was full, the capture's rate limit was \
                    reached, or storage did not take them.";
        page.counter(plain("packets_dropped"), help, |put| {
            for (name, Namespace { counts, .. }) in self.namespaces() {
                let (from, to) = (&counts.from_pod, &counts.to_pod);
                for (cause, packets) in [
                    ("ring", from.ring_full + to.ring_full),
                    ("rate", from.rate_limited + to.rate_limited),
                    ("storage", counts.storage_drops),
                ] {
                    put(&[("namespace", name), ("cause", cause)], packets)?;
                }
            }
            Ok(())
        })?;
        let help = "Packets that matched and were left out by sampling, as asked.";
        self.by_namespace(page, plain("packets_sampled_out"), help, |of| {
            of.from_pod.sampled_out + of.to_pod.sampled_out
        })?;
        let help = "Packets that came after a capture had reached a limit, before its tap was off.";
        self.by_namespace(page, plain("packets_beyond_limit"), help, |of| of.beyond_limit)?;
        let help = "Packets that are longer than the largest record and were cut there.";
        self.by_namespace(page, plain("packets_truncated"), help, |of| {
            of.from_pod.truncated + of.to_pod.truncated
        })
    }

    fn files(&self, page: &mut Page<'_>) -> fmt::Result {
        let help = "Packets written to files.";
        self.by_namespace(page, plain("packets_written"), help, |of| of.packets_written)?;
        let help = "Bytes written to capture files.";
        self.by_namespace(page, bytes("written"), help, |of| of.bytes_written)?;
        let help = "Capture files begun.";
        self.by_namespace(page, plain("files"), help, |of| of.files)?;
        let help = "Bytes that a namespace's captures hold in the data directory.";
        page.gauge(bytes("namespace_used"), help, |put| {
            self.namespaces().try_for_each(|(name, namespace)| put(&[("namespace", name)], namespace.used))
        })
    }

    fn node(&self, page: &mut Page<'_>) -> fmt::Result {
        let Snapshot { storage, taps, provisional, rings_used, rings_limit, .. } = &self.snapshot;
        let help = "Bytes in the data directory.";
        page.one_gauge(bytes("data_dir_used"), help, storage.used)?;
        let help = "Bytes that the data directory may hold; absent without a quota.";
        page.one_gauge(bytes("data_dir_quota"), help, storage.quota)?;
        let help = "Bytes that each namespace may hold in the data directory; absent without a quota.";
        page.one_gauge(bytes("namespace_quota"), help, storage.namespace_quota)?;
        let help = "Bytes that the data directory's file system has left.";
        page.one_gauge(bytes("disk_free"), help, storage.disk_free)?;
        let help = "Memory of the agent's budget that is in use.";
        page.gauge(bytes("memory_budget_used"), help, |put| {
            put(&[("part", "rings")], *rings_used)?;
            put(&[("part", "buffers")], storage.buffers_used)
        })?;
        let help = "Memory of the agent's budget.";
        page.gauge(bytes("memory_budget_limit"), help, |put| {
            put(&[("part", "rings")], *rings_limit)?;
            put(&[("part", "buffers")], storage.buffers)
        })?;
        let [writes, buffer_waits] = &self.delays;
        let help =
            "How long writers took for each turn of a capture: up to 4 MiB written, files begun and ended.";
        page.histogram(seconds("write"), help, writes)?;
        let help = "How long, each time, ring buffers could not be emptied since no write buffer was free.";
        page.histogram(seconds("buffer_wait"), help, buffer_waits)?;
        let help = "Interfaces that are tapped now.";
        page.gauge(plain("taps_attached"), help, |put| {
            put(&[("mode", "Tcx")], taps.tcx.into())?;
            put(&[("mode", "Socket")], taps.socket.into())
        })?;
        let help =
            "Taps for pods that have no interface yet: ready, or on new interfaces that are nobody's so far.";
        page.gauge(plain("provisional_taps"), help, |put| {
            put(&[("stage", "Ready")], provisional.ready.into())?;
            put(&[("stage", "Attached")], provisional.attached.into())
        })?;
        let help = "Memory of the budget that the rings of provisional taps have.";
        page.one_gauge(bytes("provisional_rings_used"), help, provisional.rings_used)?;
        let help = "Memory of the budget that the rings of provisional taps may have.";
        page.one_gauge(bytes("provisional_rings_limit"), help, provisional.rings_limit)?;
        let help = "How interfaces are tapped on this node, unless many are wanted at once.";
        if let Some(mode) = self.attach_mode {
            page.info("attach_mode", help, &[("mode", &format!("{mode:?}"))])?;
        }
        let help = "News of network links that the kernel told.";
        page.counter(plain("link_events"), help, |put| {
            self.meters.links().into_iter().try_for_each(|(kind, events)| put(&[("kind", kind)], events))
        })?;
        let help =
            "Filters asked for: compiled (or known already), refused as wrong, or failed for another reason.";
        page.counter(plain("filters"), help, |put| {
            self.meters
                .filters()
                .into_iter()
                .try_for_each(|(result, filters)| put(&[("result", result)], filters))
        })?;
        let help = "Writes to the API server.";
        page.counter(plain("api_writes"), help, |put| {
            self.meters
                .api()
                .into_iter()
                .try_for_each(|(object, writes, _)| put(&[("object", object)], writes))
        })?;
        let help = "Writes to the API server that failed.";
        page.counter(plain("api_write_errors"), help, |put| {
            self.meters
                .api()
                .into_iter()
                .try_for_each(|(object, _, errors)| put(&[("object", object)], errors))
        })?;
        let help = "Complete lists of objects read from the API server.";
        page.counter(plain("api_lists"), help, |put| {
            self.meters
                .api_lists()
                .into_iter()
                .try_for_each(|(resource, lists)| put(&[("resource", resource)], lists))
        })?;
        let help = "Watches of the API server that failed; each is tried again.";
        page.counter(plain("api_watch_errors"), help, |put| {
            for (resource, errors) in self.meters.api_watch_errors() {
                for (reason, errors) in errors {
                    put(&[("resource", resource), ("reason", reason)], errors)?;
                }
            }
            Ok(())
        })
    }

    fn agent(&self, page: &mut Page<'_>) -> fmt::Result {
        page.info("build", "The agent's version.", &[("version", env!("CARGO_PKG_VERSION"))])?;
        let (name, unit) = seconds("thread_silence");
        let help = "Time since a thread last said that it goes on; 0 while it has nothing to do.";
        let mut metric = page.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for pulse in &self.pulses {
            let silence = pulse.silence().unwrap_or_default().as_secs_f64();
            metric.encode_family(&[("thread", pulse.thread())])?.encode_gauge(&silence)?;
        }
        let process = &self.process;
        let (name, unit) = seconds("process_cpu");
        let help = "Time on CPUs, in user and kernel mode.";
        page.encoder
            .encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, f64>(&process.cpu_seconds, None)?;
        let help = "Memory in RAM, ring buffers that are mapped included.";
        page.one_gauge(bytes("process_resident_memory"), help, process.resident)?;
        page.one_gauge(plain("process_open_fds"), "Open file descriptors.", process.open_files)?;
        let help = "File descriptors that may be open; absent without a limit.";
        page.one_gauge(plain("process_max_fds"), help, process.most_open_files)?;
        let (name, unit) = seconds("process_start_time");
        let help = "When the agent was started, in seconds of UTC since 1970.";
        page.encoder
            .encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?
            .encode_gauge(&self.started)
    }
}
