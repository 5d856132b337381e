//! The tests on other kernels: Debian's own, booted in QEMU with nothing but the tests and what they use.

mod archive;
mod choice;
mod image;
mod machine;
mod package;

use std::thread;

use anyhow::{Result, bail};

use super::programs::Programs;
use super::total::Total;
use crate::workspace::own;
use choice::Choice;
use image::UserSpace;
use machine::Machine;
use package::Kernel;

/// Kernels to boot: the last release of each that this system's package lists have. The first is older than tcx.
const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// Boots each kernel and runs the tests there: those that are meant for it, or all whose name contains `name`. What the
/// machines say is shown as they say it when they are alone, else at their end.
pub(super) fn run(programs: &Programs, name: Option<&str>, alone: bool) -> Result<Total> {
    let choice = Choice::of(programs, name)?;
    let user_space = UserSpace::with(&choice, &programs.called)?;
    let mut machines = Vec::new();
    for version in KERNELS {
        let kernel = Kernel::find(version)?;
        let initial = own().join(format!("initial-{version}"));
        std::fs::write(&initial, user_space.archive(&kernel)?)?;
        machines.push(Machine { version, kernel: kernel.image(), initial, shown: alone });
    }
    // Side by side: each uses one core.
    let totals: Vec<Result<Total>> = thread::scope(|scope| {
        let choice = &choice;
        let running: Vec<_> =
            machines.iter().map(|machine| scope.spawn(move || machine.run(choice))).collect();
        let joined = running.into_iter().map(|thread| thread.join());
        joined.map(|end| end.unwrap_or_else(|_| bail!("a thread panicked"))).collect()
    });
    let mut total = Total::default();
    for one in totals {
        total.add(one?);
    }
    if !choice.left_out.is_empty() {
        println!(
            "{} tests ran on this machine's kernel only: {}",
            choice.left_out.len(),
            choice.left_out.join(", ")
        );
    }
    Ok(total)
}
