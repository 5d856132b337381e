//! What all rows share: pods, tools, rounds.

use std::time::Instant;

use anyhow::Result;
use podtap_tests::pods::{Pod, Pods};

use crate::bpf::NoStatistics;
use crate::report::{Measure, Row};
use crate::tool::{Tool, Tools};
use crate::{cpu, flood};

/// Port of numbered packets.
pub(crate) const PORT: u16 = 7;

/// Caps that let the bench ask for whatever it wants; all else as it is by default.
pub(crate) const CONFIGURATION: &str = "
caps:
  duration: 24h
  bytes: 100Ti
  capturesPerNamespace: 1000
maxDiskPercent: 90
log: {level: debug}
";

/// The bench at work.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) pods: Pods,
    pub(crate) tools: Tools,
    rounds: usize,
    /// Part of the usual length of a slice.
    scale: f64,
    since: Instant,
    only: Option<Tool>,
    _no_statistics: NoStatistics,
}

impl Bench {
    /// A pod that floods, a client, a server, and one whose interface comes late; and the agent.
    pub(crate) fn start(rounds: usize, quick: bool, only: Option<Tool>) -> Result<Self> {
        let pods = Pods::with(&["flooder", "client", "server", "late"])?;
        pods.introduce("client", "server")?;
        flood::cut_off(pods.pod("flooder"))?;
        cpu::bind(Some(cpu::CAPTURE))?;
        let present: Vec<Pod> = pods.all().iter().filter(|pod| pod.name != "late").cloned().collect();
        let tools = Tools::start(&present, CONFIGURATION)?;
        let scale = if quick { 0.4 } else { 1.0 };
        Ok(Self {
            pods,
            tools,
            rounds,
            scale,
            since: Instant::now(),
            only,
            _no_statistics: NoStatistics::begin()?,
        })
    }

    /// How often each tool has its turn.
    pub(crate) const fn rounds(&self) -> usize {
        self.rounds
    }

    /// Length of a slice that is usually this long.
    pub(crate) fn seconds(&self, usual: f64) -> f64 {
        usual * self.scale
    }

    /// The pod that floods.
    pub(crate) fn flooder(&self) -> Result<Pod> {
        Ok(self.pods.pod("flooder").clone())
    }

    /// Measures where nobody floods: the agent and the work around it use all cores, as on any node.
    pub(crate) fn on_all_cores<T>(&mut self, measure: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.bind(None)?;
        let measured = measure(self);
        self.bind(Some(cpu::CAPTURE))?;
        measured
    }

    fn bind(&mut self, core: Option<usize>) -> Result<()> {
        cpu::bind(core)?;
        cpu::bind_process(self.tools.agent.process().id(), core)
    }

    /// The order of a round: another tool begins each time.
    pub(crate) fn turn(&self, round: usize, tools: &[Tool]) -> Vec<Tool> {
        let mut order = tools.to_vec();
        order.rotate_left(round % tools.len());
        order.retain(|tool| self.takes(*tool));
        order
    }

    /// Whether a tool takes part.
    pub(crate) fn takes(&self, tool: Tool) -> bool {
        tool == Tool::None || self.only.is_none_or(|only| only == tool)
    }

    /// Begins a row's time.
    pub(crate) fn begin(&mut self, name: &str) {
        self.since = Instant::now();
        self.progress(&format!("== {name}"));
    }

    /// Says what goes on, on standard error.
    pub(crate) fn progress(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.since.elapsed().as_secs_f64());
    }

    /// A finished row.
    pub(crate) fn row(
        &self,
        name: &'static str,
        title: &str,
        measures: Vec<Measure>,
        remarks: Vec<String>,
    ) -> Result<Row> {
        let seconds = self.since.elapsed().as_secs_f64();
        Ok(Row { name, title: title.to_owned(), measures, remarks, seconds })
    }
}
