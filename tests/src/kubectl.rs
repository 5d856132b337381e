//! kubectl with other people's rights, and what the API server says against it.

use std::process::Command;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::cluster::{CALL, Cluster};
use crate::process::output_within;

/// kubectl with somebody's rights.
#[derive(Debug)]
pub struct Kubectl {
    /// The cluster, and whose rights on it are used or lent.
    pub cluster: Cluster,
    /// What comes before every verb.
    first: Vec<String>,
}

impl Kubectl {
    /// With the rights of the cluster's administrator.
    pub fn admin() -> Result<Self> {
        Ok(Self { cluster: Cluster::get()?, first: Vec::new() })
    }

    /// As somebody else, who is in these groups besides.
    pub fn person(name: &str, groups: &[&str]) -> Result<Self> {
        let mut first = vec![format!("--as={name}")];
        first.extend(groups.iter().map(|group| format!("--as-group={group}")));
        Ok(Self { cluster: Cluster::get()?, first })
    }

    /// As whoever holds this token.
    pub fn token(&self, token: &str) -> Result<Self> {
        Ok(Self { cluster: self.cluster.with_token(token)?, first: Vec::new() })
    }

    /// kubectl, to be run by the caller.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.cluster.command(&self.first);
        command.args(arguments);
        command
    }

    /// Runs it and gives what it prints; an error says what it said.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        output_within(&mut self.command(arguments), "", CALL)
    }

    /// The same with `object` on its standard input.
    pub fn send(&self, arguments: &[&str], object: &Value) -> Result<String> {
        output_within(&mut self.command(arguments), &object.to_string(), CALL)
    }

    /// What the API server says against it; an error when it does not.
    pub fn refused(&self, arguments: &[&str], object: &Value) -> Result<String> {
        match self.send(arguments, object) {
            Ok(said) => bail!("not refused: kubectl {}: {said}\n{object}", arguments.join(" ")),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// Whether the API server would let it be done in a namespace, or in the cluster if none is named. `what` is a
    /// resource, or a subresource such as `pods/exec`.
    pub fn may(&self, namespace: Option<&str>, verb: &str, what: &str) -> Result<bool> {
        let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
        let subresource = format!("--subresource={subresource}");
        let namespace = namespace.map_or("-A".to_owned(), |namespace| format!("--namespace={namespace}"));
        let output = self.command(&["auth", "can-i", verb, resource, &subresource, &namespace]).output()?;
        match String::from_utf8_lossy(&output.stdout).trim() {
            "yes" => Ok(true),
            text if text.starts_with("no") => Ok(false),
            other => bail!("auth can-i: {other}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// Gives somebody a ClusterRole in a namespace.
    pub fn bind(&self, namespace: &str, role: &str, user: &str) -> Result<()> {
        let (role_flag, user_flag) = (format!("--clusterrole={role}"), format!("--user={user}"));
        let name = format!("{role}-{}", user.replace(':', "-"));
        self.run(&["-n", namespace, "create", "rolebinding", &name, &role_flag, &user_flag]).map(|_| ())
    }
}
