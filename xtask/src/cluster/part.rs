//! Parts of the cluster that can be ended, started or made to hang on their own: what tests of reliability do.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use super::control;
use super::layout::{NODES, Node};
use super::machine::{Machine, Service};
use super::node;

/// A part.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// A program of the control plane.
    Control(&'static str),
    /// A node with all that is on it.
    Node(&'static Node),
    /// A program of a node.
    OnNode(&'static Node, &'static str),
}

impl Part {
    /// Every part.
    pub(super) fn all() -> Vec<Self> {
        let mut all: Vec<Self> = control::NAMES.into_iter().map(Self::Control).collect();
        for node in &NODES {
            all.push(Self::Node(node));
            all.extend(node::NAMES.into_iter().map(|name| Self::OnNode(node, name)));
        }
        all
    }

    /// Where its program is, and which; none for a whole node.
    fn service(&self) -> Result<Option<(Machine, Service)>> {
        Ok(match self {
            Self::Control(name) => Some((control::MACHINE, control::service(name)?)),
            Self::OnNode(node, name) => Some((node.machine(), node.service(name)?)),
            Self::Node(_) => None,
        })
    }

    /// Whether it runs.
    pub(super) fn runs(&self) -> Result<bool> {
        Ok(match (self, self.service()?) {
            (Self::Node(node), _) => node.machine().process().is_some(),
            (_, service) => service.is_some_and(|(machine, service)| machine.pid_of(&service).is_some()),
        })
    }

    /// Ends it as a crash does; a node as a loss of power does.
    pub(super) fn stop(&self) -> Result<()> {
        match self {
            Self::Node(node) => node.power_off(),
            _ => self.signal("KILL"),
        }
    }

    /// Starts it, unless it runs.
    pub(super) fn start(&self) -> Result<()> {
        match (self, self.service()?) {
            (Self::Node(node), _) => node.start(),
            (_, Some((machine, service))) => machine.start(&service),
            (_, None) => Ok(()),
        }
    }

    /// Sends a signal to its program.
    pub(super) fn signal(&self, signal: &str) -> Result<()> {
        let (machine, service) = self.service()?.with_context(|| format!("{self} is no single program"))?;
        if !machine.signal(&service, signal)? {
            bail!("{self} does not run");
        }
        Ok(())
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control(name) => f.write_str(name),
            Self::Node(node) => f.write_str(node.name),
            Self::OnNode(node, name) => write!(f, "{}/{name}", node.name),
        }
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = Self::all();
        let names = || all.iter().map(Self::to_string).collect::<Vec<_>>().join(", ");
        all.iter()
            .find(|part| part.to_string() == text)
            .copied()
            .ok_or_else(|| format!("the parts are {}", names()))
    }
}
