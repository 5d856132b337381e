//! The compiler for the kernel programs. Two ways are known: rustup's nightly, which builds `core` from its sources,
//! and Debian's rustc, which has `core` prebuilt for this target. Both link with bpf-linker.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{apt, is_root};
use crate::command::{output, step};
use crate::workspace::{cargo, cargo_bin, find_program, root};

/// The target of the kernel programs on a little-endian machine.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// The instruction set of Linux 5.1. Comparisons with constants both ways round are in it: without them, verifiers up to
/// 6.7 go down branches that are never taken, and refuse what they find there.
const CPU: &str = "v3";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CLIPPY: &str = "/usr/bin/clippy-driver";
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const LINKER_VERSION: &str = "0.13.0";

const BOTH_WAYS: &str = "no compiler for the kernel programs was found. Either of these will do:
  1. rustup toolchain install nightly --component rust-src && cargo install bpf-linker
  2. on Debian 12 or later, as root: apt-get install rustc-web libstd-rust-web-dev-bpf llvm-22-dev, and then
     LLVM_SYS_221_PREFIX=/usr/lib/llvm-22 LLVM_PREFIX=/usr/lib/llvm-22 PATH=/usr/lib/llvm-22/bin:$PATH \\
       cargo install bpf-linker --no-default-features --features llvm-22
(as root on Debian, `cargo xtask setup` does the second by itself)";

/// A way to compile the kernel programs.
pub(crate) enum Toolchain {
    /// rustup's nightly with its sources.
    Nightly { linker: PathBuf },
    /// Debian's rustc with its prebuilt `core`.
    Debian { linker: PathBuf },
}

impl Toolchain {
    /// A name for people.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Nightly { .. } => "rustup nightly, bpf-linker",
            Self::Debian { .. } => "Debian rustc, bpf-linker",
        }
    }

    /// `cargo SUBCOMMAND`, set up for the kernel programs' target.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command;
        let linker = match self {
            Self::Nightly { linker } => {
                command = Command::new("rustup");
                command.args(["run", "nightly", "cargo", subcommand, "-Z", "build-std=core"]);
                // Set by the cargo that runs xtask; they would pin the inner one to the outer one's toolchain.
                command.env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
                linker
            }
            Self::Debian { linker } => {
                command = cargo();
                command.arg(subcommand).env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                linker
            }
        };
        command.env_remove("CARGO_ENCODED_RUSTFLAGS");
        command.env(
            "RUSTFLAGS",
            format!("-Cdebuginfo=2 -Clinker={} -Clink-arg=--btf -Ctarget-cpu={CPU}", linker.display()),
        );
        command.args(["--target", TARGET, "--package", "capture-ebpf"]);
        command
    }

    /// The lints of clippy, warnings being errors; none when this toolchain has no clippy.
    pub(crate) fn clippy(&self) -> Option<Command> {
        let mut command = match self {
            Self::Nightly { .. } => {
                let mut command = self.cargo("clippy");
                command.args(["--quiet", "--release", "--", "-D", "warnings"]);
                command
            }
            // What `cargo clippy` does, with the clippy that belongs to this compiler.
            Self::Debian { .. } if Path::new(DEBIAN_CLIPPY).exists() => {
                let mut command = self.cargo("check");
                command.env("RUSTC_WORKSPACE_WRAPPER", DEBIAN_CLIPPY);
                command.env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__");
                command.args(["--quiet", "--release"]);
                command
            }
            Self::Debian { .. } => return None,
        };
        command.env("CLIPPY_CONF_DIR", root());
        Some(command)
    }
}

/// Finds a toolchain, or installs Debian's.
pub(crate) fn toolchain() -> Result<Toolchain> {
    if let Some(found) = find()? {
        return Ok(found);
    }
    if !is_root() || find_program("apt-get").is_none() {
        bail!("{BOTH_WAYS}");
    }
    println!("missing  a compiler for the kernel programs");
    if !debian_core() {
        if !apt::all_known(&DEBIAN_PACKAGES) {
            apt::update()?;
        }
        if !apt::all_known(&DEBIAN_PACKAGES) {
            bail!("{BOTH_WAYS}\n(this system's package lists do not have the packages of the second way)");
        }
        apt::install(&DEBIAN_PACKAGES)?;
    }
    if linker().is_none() {
        install_linker()?;
    }
    find()?.context(BOTH_WAYS)
}

/// Installs what lints the kernel programs, where that is a package.
pub(crate) fn linter() -> Result<()> {
    if matches!(toolchain()?, Toolchain::Debian { .. }) && !Path::new(DEBIAN_CLIPPY).exists() && is_root() {
        println!("missing  {DEBIAN_CLIPPY:<26} lints the kernel programs (package rust-web-clippy)");
        apt::install(&["rust-web-clippy"])?;
    }
    Ok(())
}

fn find() -> Result<Option<Toolchain>> {
    let Some(linker) = linker() else { return Ok(None) };
    if nightly_sources() {
        return Ok(Some(Toolchain::Nightly { linker }));
    }
    Ok(debian_core().then_some(Toolchain::Debian { linker }))
}

fn linker() -> Option<PathBuf> {
    find_program("bpf-linker")
        .or_else(|| cargo_bin().map(|bin| bin.join("bpf-linker")).filter(|file| file.exists()))
}

fn nightly_sources() -> bool {
    let sysroot = output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]));
    sysroot.is_ok_and(|path| Path::new(path.trim()).join("lib/rustlib/src/rust/library/core").is_dir())
}

fn debian_core() -> bool {
    let sysroot = output(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"]));
    sysroot.is_ok_and(|path| Path::new(path.trim()).join("lib/rustlib").join(TARGET).join("lib").is_dir())
}

fn install_linker() -> Result<()> {
    let bin = Path::new(LLVM_PREFIX).join("bin");
    if !bin.join("llvm-config").exists() {
        apt::install(&["llvm-22-dev"])?;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path)))?;
    step(
        &format!("cargo install bpf-linker {LINKER_VERSION} (about a minute)"),
        cargo()
            .args(["install", "--locked", "--version", LINKER_VERSION, "bpf-linker"])
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_SYS_221_PREFIX", LLVM_PREFIX)
            .env("LLVM_PREFIX", LLVM_PREFIX)
            .env("PATH", path),
    )
}
