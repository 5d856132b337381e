//! The tests on other kernels: Debian's own, booted in QEMU with nothing but the tests and what they use.

mod archive;
mod image;
mod machine;
mod package;
mod programs;

use std::thread;

use anyhow::{Result, bail};

use super::total::Total;
use crate::workspace::own;
use image::UserSpace;
use package::Kernel;
use programs::Programs;

/// Kernels to boot: the last release of each that this system's package lists have. The first is older than tcx.
const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// Boots each kernel and runs the tests there: those that are meant for it, or all whose name contains `name`.
pub(super) fn run(name: Option<&str>) -> Result<Total> {
    let programs = Programs::build(name)?;
    let user_space = UserSpace::with(&programs)?;
    let mut machines = Vec::new();
    for version in KERNELS {
        let kernel = Kernel::find(version)?;
        let initial = own().join(format!("initial-{version}"));
        std::fs::write(&initial, user_space.archive(&kernel)?)?;
        machines.push((version, kernel.image(), initial));
    }
    // Side by side: each uses one core.
    let totals: Vec<Result<Total>> = thread::scope(|scope| {
        let programs = &programs;
        let running: Vec<_> = machines
            .iter()
            .map(|(version, kernel, initial)| {
                scope.spawn(move || machine::boot(version, kernel, initial, programs))
            })
            .collect();
        let joined = running.into_iter().map(|thread| thread.join());
        joined.map(|end| end.unwrap_or_else(|_| bail!("a thread panicked"))).collect()
    });
    let mut total = Total::default();
    for one in totals {
        total.add(one?);
    }
    if !programs.left_out.is_empty() {
        println!(
            "{} tests ran on this machine's kernel only: {}",
            programs.left_out.len(),
            programs.left_out.join(", ")
        );
    }
    Ok(total)
}
