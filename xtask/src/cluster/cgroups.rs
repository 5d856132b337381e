//! The control groups that a node's pods are in: below one of the node's own, in each hierarchy there is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::machine::wait;

/// The group of a node, as a path below each hierarchy.
pub(super) fn group(node: &str) -> String {
    format!("/podtap-{node}")
}

/// Makes a node's groups.
pub(super) fn make(node: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let own = below(&hierarchy, node);
        if hierarchy.join("cgroup.controllers").exists() {
            // Version 2: children have the controllers that their parents hand on. Beside version 1 it has none, but
            // processes are put there all the same.
            hand_on(&hierarchy)?;
            fs::create_dir_all(&own)?;
            hand_on(&own)?;
            continue;
        }
        fs::create_dir_all(&own).with_context(|| own.display().to_string())?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // Empty in a new group of version 1, which then takes no process.
            if let Ok(all) = fs::read_to_string(hierarchy.join(file)) {
                fs::write(own.join(file), all.trim())?;
            }
        }
    }
    Ok(())
}

/// Removes a node's groups. Their processes were killed, but may still be on their way out.
pub(super) fn remove(node: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let own = below(&hierarchy, node);
        wait(&format!("{} to be empty", own.display()), || {
            remove_tree(&own);
            !own.exists()
        })?;
    }
    Ok(())
}

/// Whether a node has any.
pub(super) fn exist(node: &str) -> bool {
    hierarchies().is_ok_and(|all| all.iter().any(|hierarchy| below(hierarchy, node).exists()))
}

fn below(hierarchy: &Path, node: &str) -> PathBuf {
    hierarchy.join(group(node).trim_start_matches('/'))
}

/// From the leaves up, as far as it goes: the files in them are not files, so only directories are removed.
fn remove_tree(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // Busy for a moment after its last process: tried again.
    let _ = fs::remove_dir(group);
}

/// Where hierarchies are mounted: one in version 2, several in version 1, and often both.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/mounts").context("no /proc/mounts")?;
    Ok(mount_points(&mounts))
}

fn mount_points(mounts: &str) -> Vec<PathBuf> {
    let lines = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    lines
        .filter(|(path, kind)| ["cgroup", "cgroup2"].contains(kind) && path.starts_with("/sys/fs/cgroup"))
        .map(|(path, _)| PathBuf::from(path))
        .collect()
}

fn hand_on(group: &Path) -> Result<()> {
    for controller in fs::read_to_string(group.join("cgroup.controllers"))?.split_whitespace() {
        fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"))
            .with_context(|| format!("{controller} in {}", group.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::mount_points;

    #[test]
    fn every_hierarchy_is_found() {
        let first = "proc /proc proc rw 0 0\n\
                     cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                     cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n\
                     cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
                     cgroup2 /mnt/elsewhere cgroup2 rw 0 0\n";
        let names: Vec<_> = mount_points(first)
            .iter()
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect();
        assert_eq!(names, ["cpu", "systemd", "unified"]);
        let second = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        assert_eq!(mount_points(second), [std::path::Path::new("/sys/fs/cgroup")]);
    }
}
