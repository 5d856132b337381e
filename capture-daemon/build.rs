//! Embeds the kernel programs: `PODTAP_EBPF_OBJECT`, else what `cargo xtask build-ebpf` left in the target directory,
//! else an empty stub, so that checking and unit tests need no BPF toolchain.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Where the build leaves the object, below the target directory.
const BUILT: &str = "bpfel-unknown-none/release/capture-ebpf";

fn main() {
    println!("cargo::rerun-if-env-changed=PODTAP_EBPF_OBJECT");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let embedded = out.join("capture-ebpf.o");
    let object = match env::var_os("PODTAP_EBPF_OBJECT") {
        Some(path) => Some(PathBuf::from(path)),
        None => target_dir(&out).map(|target| target.join(BUILT)),
    };
    match object {
        Some(path) if path.exists() => {
            println!("cargo::rerun-if-changed={}", path.display());
            fs::copy(&path, &embedded).expect("the kernel programs can be copied");
        }
        found => {
            // A file that is missing counts as changed; so does its directory when it appears.
            if let Some(directory) = found.as_deref().and_then(existing_parent) {
                println!("cargo::rerun-if-changed={}", directory.display());
            }
            fs::write(&embedded, []).expect("OUT_DIR is writable");
        }
    }
}

/// The target directory that `OUT_DIR` (`<target>/<profile>/build/<package>/out`) is in: where the programs are, else
/// where cargo has left its mark, which it does in directories that it made itself.
fn target_dir(out: &Path) -> Option<PathBuf> {
    let built = out.ancestors().find(|directory| directory.join(BUILT).exists());
    let marked = || out.ancestors().find(|directory| directory.join("CACHEDIR.TAG").exists());
    built.or_else(marked).map(Path::to_path_buf)
}

fn existing_parent(path: &Path) -> Option<&Path> {
    path.ancestors().skip(1).find(|directory| directory.exists())
}
