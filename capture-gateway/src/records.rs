//! What is kept of PodCaptures: a few numbers each, by the request that they belong to.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use capture_api::RunState;
use kube::core::Object;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as ValueError;

use crate::uid::Uid;

/// A PodCapture as far as the gateway reads it. What is missing or new does not keep it from being read.
pub(crate) type RecordObject = Object<RecordSpec, RecordStatus>;

/// See [`capture_api::PodCaptureSpec`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RecordSpec {
    #[serde(rename = "podUID")]
    pub(crate) pod_uid: String,
    pub(crate) capture: Option<String>,
    #[serde(rename = "requestUID")]
    pub(crate) request_uid: String,
    pub(crate) node: String,
}

/// See [`capture_api::PodCaptureStatus`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RecordStatus {
    pub(crate) state: String,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) dropped: u64,
}

/// The state of that name; one that this gateway does not know is taken for one that goes on.
pub(crate) fn run_state(name: &str) -> RunState {
    let name: serde::de::value::StrDeserializer<'_, ValueError> = name.into_deserializer();
    RunState::deserialize(name).unwrap_or_default()
}

/// A PacketCapture, as records name it: its UID counts in its own namespace only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Request {
    pub(crate) namespace: Arc<str>,
    pub(crate) uid: Uid,
}

/// One run.
#[derive(Clone, Debug)]
struct Record {
    node: Arc<str>,
    /// Tells pods apart.
    pod: u64,
    packets: u64,
    bytes: u64,
    dropped: u64,
    /// The listing that named it last.
    listing: u32,
    state: RunState,
}

/// The runs of one request.
#[derive(Debug, Default)]
struct Group {
    runs: HashMap<Uid, Record>,
    /// Runs that ended and whose records were removed since.
    removed: Sums,
}

/// How the runs of one request stand together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Different pods.
    pub(crate) pods: u64,
    pub(crate) pending: u64,
    pub(crate) scheduled: u64,
    /// Tapped, without a packet yet.
    pub(crate) waiting: u64,
    /// Tapped, with packets.
    pub(crate) capturing: u64,
    pub(crate) paused: u64,
    pub(crate) completed: u64,
    pub(crate) stopped: u64,
    pub(crate) refused: u64,
    pub(crate) failed: u64,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) dropped: u64,
    /// Some nodes with runs that have not ended, in order.
    pub(crate) busy_nodes: Vec<Arc<str>>,
}

/// The most nodes that are named in a message.
const NAMED_NODES: usize = 3;

impl Sums {
    /// Runs that have not ended.
    pub(crate) const fn unfinished(&self) -> u64 {
        self.pending + self.scheduled + self.waiting + self.capturing + self.paused
    }

    fn add(&mut self, run: &Record) {
        *match run.state {
            RunState::Pending => &mut self.pending,
            RunState::Scheduled => &mut self.scheduled,
            RunState::WaitingForTraffic => &mut self.waiting,
            RunState::Capturing => &mut self.capturing,
            RunState::Paused => &mut self.paused,
            RunState::Completed => &mut self.completed,
            RunState::Stopped => &mut self.stopped,
            RunState::Refused => &mut self.refused,
            RunState::Failed => &mut self.failed,
        } += 1;
        self.packets = self.packets.saturating_add(run.packets);
        self.bytes = self.bytes.saturating_add(run.bytes);
        self.dropped = self.dropped.saturating_add(run.dropped);
    }
}

impl Group {
    fn remove(&mut self, uid: Uid) {
        if let Some(run) = self.runs.remove(&uid)
            && run.state.is_final()
        {
            self.removed.add(&run);
            self.removed.pods += 1;
        }
    }

    fn sums(&self) -> Sums {
        let mut sums = self.removed.clone();
        let mut pods = HashSet::with_capacity(self.runs.len());
        for run in self.runs.values() {
            sums.add(run);
            pods.insert(run.pod);
            if !run.state.is_final() && !sums.busy_nodes.contains(&run.node) {
                let at = sums.busy_nodes.partition_point(|node| *node < run.node);
                sums.busy_nodes.insert(at, run.node.clone());
                sums.busy_nodes.truncate(NAMED_NODES);
            }
        }
        sums.pods += pods.len() as u64;
        sums
    }
}

/// All records.
#[derive(Debug, Default)]
pub(crate) struct Records {
    groups: HashMap<Request, Group>,
    /// Records of labels, which no PacketCapture sums up: their node and the listing that named them last.
    others: HashMap<Uid, (Arc<str>, u32)>,
    /// Each namespace's and node's name once.
    names: HashSet<Arc<str>>,
    /// When there are so many names, those that nobody has any more are forgotten.
    names_full: usize,
    /// Counts the listings, so that what a new one does not name is known to be gone.
    listing: u32,
}

impl Records {
    /// A listing begins.
    pub(crate) fn list(&mut self) {
        self.listing = self.listing.wrapping_add(1);
    }

    /// The listing is complete: what it did not name is gone. Gives the requests that lost runs.
    pub(crate) fn listed(&mut self) -> Vec<Request> {
        let listing = self.listing;
        let mut changed = Vec::new();
        for (request, group) in &mut self.groups {
            let gone: Vec<Uid> =
                group.runs.iter().filter(|(_, run)| run.listing != listing).map(|(uid, _)| *uid).collect();
            if !gone.is_empty() {
                changed.push(request.clone());
            }
            for uid in gone {
                group.remove(uid);
            }
        }
        self.others.retain(|_, (_, named)| *named == listing);
        changed
    }

    /// A record is there, or has changed. Gives the request whose sums changed.
    pub(crate) fn apply(&mut self, object: RecordObject) -> Option<Request> {
        let uid = Uid::parse(object.metadata.uid.as_deref()?)?;
        let node = self.intern(object.spec.node.clone());
        let Some(request) = self.request(&object) else {
            self.others.insert(uid, (node, self.listing));
            return None;
        };
        let status = object.status.unwrap_or_default();
        let run = Record {
            node,
            pod: hash(&object.spec.pod_uid),
            packets: status.packets,
            bytes: status.bytes,
            dropped: status.dropped,
            listing: self.listing,
            state: run_state(&status.state),
        };
        self.groups.entry(request.clone()).or_default().runs.insert(uid, run);
        Some(request)
    }

    /// A record is gone. Gives the request whose sums changed.
    pub(crate) fn delete(&mut self, object: &RecordObject) -> Option<Request> {
        let uid = Uid::parse(object.metadata.uid.as_deref()?)?;
        let request = self.request(object);
        match request.as_ref().and_then(|request| self.groups.get_mut(request)) {
            Some(group) => group.remove(uid),
            None => drop(self.others.remove(&uid)),
        }
        request
    }

    /// Nobody asks for these sums any more: numbers of records that are gone need not be kept.
    pub(crate) fn forget(&mut self, request: &Request) {
        if let Some(group) = self.groups.get_mut(request) {
            group.removed = Sums::default();
            if group.runs.is_empty() {
                self.groups.remove(request);
            }
        }
    }

    /// How the runs of a request stand.
    pub(crate) fn sums(&self, request: &Request) -> Sums {
        self.groups.get(request).map(Group::sums).unwrap_or_default()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.groups.values().map(|group| group.runs.len()).sum::<usize>() + self.others.len()
    }

    /// The nodes that records name, each once.
    pub(crate) fn nodes(&self) -> HashSet<Arc<str>> {
        let runs = self.groups.values().flat_map(|group| group.runs.values().map(|run| &run.node));
        runs.chain(self.others.values().map(|(node, _)| node)).cloned().collect()
    }

    fn request(&mut self, object: &RecordObject) -> Option<Request> {
        object.spec.capture.as_ref()?;
        let uid = Uid::parse(&object.spec.request_uid)?;
        let namespace = object.metadata.namespace.clone()?;
        Some(Request { namespace: self.intern(namespace), uid })
    }

    fn intern(&mut self, name: String) -> Arc<str> {
        if let Some(known) = self.names.get(name.as_str()) {
            return known.clone();
        }
        if self.names.len() >= self.names_full {
            self.names.retain(|name| Arc::strong_count(name) > 1);
            self.names_full = (2 * self.names.len()).max(1024);
        }
        let name = Arc::<str>::from(name);
        self.names.insert(name.clone());
        name
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn uid(number: u64) -> String {
        format!("00000000-0000-4000-8000-{number:012x}")
    }

    fn request(namespace: &str, number: u64) -> Request {
        Request { namespace: namespace.into(), uid: Uid::parse(&uid(number)).unwrap() }
    }

    fn record(number: u64, of: u64, pod: &str, node: &str, state: &str, packets: u64) -> RecordObject {
        serde_json::from_value(json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "PodCapture",
            "metadata": {"name": "r", "namespace": "team-a", "uid": uid(number)},
            "spec": {"pod": pod, "podUID": pod, "capture": "web", "requestUID": uid(of), "node": node, "request": "PacketCapture"},
            "status": {"state": state, "packets": packets, "bytes": packets * 100, "dropped": 1, "later": {}},
        }))
        .unwrap()
    }

    #[test]
    fn runs_are_summed_up_by_request_and_state() {
        let mut records = Records::default();
        for (number, pod, node, state, packets) in [
            (1, "a", "n2", "Capturing", 10),
            (2, "b", "n1", "WaitingForTraffic", 0),
            (3, "c", "n1", "Completed", 5),
            (4, "c", "n1", "Refused", 0),
            (5, "d", "n3", "SomethingNew", 0),
        ] {
            assert_eq!(
                records.apply(record(number, 100, pod, node, state, packets)),
                Some(request("team-a", 100))
            );
        }
        records.apply(record(6, 101, "a", "n1", "Capturing", 1000));
        let sums = records.sums(&request("team-a", 100));
        assert_eq!(
            (sums.pods, sums.capturing, sums.waiting, sums.completed, sums.refused),
            (4, 1, 1, 1, 1),
            "{sums:?}"
        );
        assert_eq!((sums.packets, sums.bytes, sums.dropped, sums.unfinished()), (15, 1500, 5, 3));
        assert_eq!(sums.busy_nodes, ["n1".into(), "n2".into(), Arc::<str>::from("n3")]);
        // Another namespace's request of the same UID has no part in it.
        assert_eq!(records.sums(&request("team-b", 100)), Sums::default());
    }

    #[test]
    fn a_changed_record_replaces_its_numbers() {
        let mut records = Records::default();
        records.apply(record(1, 100, "a", "n1", "Capturing", 10));
        records.apply(record(1, 100, "a", "n1", "Completed", 25));
        let sums = records.sums(&request("team-a", 100));
        assert_eq!((sums.pods, sums.capturing, sums.completed, sums.packets), (1, 0, 1, 25));
    }

    #[test]
    fn what_an_ended_run_counted_stays_counted_when_its_record_goes() {
        let mut records = Records::default();
        let ended = record(1, 100, "a", "n1", "Completed", 10);
        let unfinished = record(2, 100, "b", "n1", "Capturing", 7);
        records.apply(ended.clone());
        records.apply(unfinished.clone());
        assert_eq!(records.delete(&ended), Some(request("team-a", 100)));
        records.delete(&unfinished);
        let sums = records.sums(&request("team-a", 100));
        assert_eq!((sums.pods, sums.completed, sums.packets, sums.unfinished()), (1, 1, 10, 0));
        records.forget(&request("team-a", 100));
        assert_eq!(records.sums(&request("team-a", 100)), Sums::default());
        assert!(records.groups.is_empty());
    }

    #[test]
    fn a_new_listing_takes_away_what_it_does_not_name_also_after_a_broken_one() {
        let mut records = Records::default();
        let mut label = record(3, 100, "c", "n9", "Capturing", 1);
        label.spec.capture = None;
        records.list();
        records.apply(record(1, 100, "a", "n1", "Capturing", 10));
        records.apply(record(2, 100, "b", "n2", "Capturing", 10));
        assert_eq!(records.apply(label), None);
        assert!(records.listed().is_empty());
        assert_eq!(records.nodes().len(), 3);
        // One that breaks off in the middle takes nothing away.
        records.list();
        records.apply(record(1, 100, "a", "n1", "Capturing", 10));
        assert_eq!(records.len(), 3);
        records.list();
        records.apply(record(2, 100, "b", "n2", "Capturing", 11));
        assert_eq!(records.listed(), [request("team-a", 100)]);
        assert_eq!(records.len(), 1);
        assert_eq!(records.sums(&request("team-a", 100)).packets, 11);
        assert!(records.nodes().len() == 1 && records.nodes().contains("n2"));
    }

    #[test]
    fn names_of_nodes_that_are_gone_are_forgotten() {
        let mut records = Records::default();
        for number in 0..5000 {
            let passing = record(1, 100, "a", &format!("node-{number}"), "Capturing", 1);
            records.apply(passing.clone());
            records.delete(&passing);
            records.forget(&request("team-a", 100));
        }
        assert!(records.names.len() <= 1024 && records.groups.is_empty(), "{}", records.names.len());
    }

    #[test]
    fn a_record_takes_few_bytes() {
        assert_eq!(size_of::<Record>(), 56);
        assert_eq!(size_of::<(Uid, Record)>(), 72);
    }

    #[test]
    fn a_hundred_thousand_records_fit() {
        const MANY: u64 = 100_000;
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
            pages * rustix::param::page_size() as u64
        };
        let (mut records, before) = (Records::default(), resident());
        let one = record(0, 1, "pod", "node", "Capturing", 1);
        for number in 0..MANY {
            let mut one = one.clone();
            one.metadata.uid = Some(uid(number));
            // A thousand captures, five thousand nodes.
            one.spec.request_uid = uid(number % 1000);
            one.spec.node = format!("node-{}", number % 5000);
            records.apply(one);
        }
        let each = resident().saturating_sub(before) / MANY;
        println!("{each} bytes for each of {MANY} records");
        assert!(records.len() as u64 == MANY && each < 256, "{each}");
    }

    #[test]
    fn a_record_that_cannot_be_placed_still_counts_for_its_node() {
        let mut records = Records::default();
        let mut odd = record(1, 100, "a", "n1", "Capturing", 10);
        odd.spec.request_uid = "not-a-uid".into();
        assert_eq!(records.apply(odd.clone()), None);
        assert_eq!((records.len(), records.nodes().len()), (1, 1));
        records.delete(&odd);
        assert_eq!(records.len(), 0);
    }
}
