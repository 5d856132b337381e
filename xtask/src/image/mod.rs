//! Container images without a container engine: a layer made of this machine's files, in the archive that `docker save`
//! writes. The same files make the same archive, byte for byte.

mod archive;
mod layer;
mod podtap;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::cluster;
use crate::command::output;
use crate::setup::{self, Purpose};
use crate::workspace::{find_program, target};
use archive::{Image, Settings};
use layer::Layer;

/// The image that holds pods' namespaces.
pub(crate) const PAUSE: &str = "podtap-test/pause:dev";
/// The image that tests make pods of.
const BUSYBOX: &str = "podtap-test/busybox:dev";
/// The same with podtap's numbered packets.
const TRAFFIC: &str = "podtap-test/traffic:dev";

/// What can be chosen.
#[derive(Args)]
pub(crate) struct Options {
    /// Name and tag of the image
    #[arg(long, default_value = podtap::NAME)]
    tag: String,
}

/// Makes podtap's image and the tests', and gives them to the cluster when there is one.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::prepare(&[Purpose::Build, Purpose::Bpf, Purpose::Image])?;
    let archives = make(&options.tag)?;
    if cluster::is_up() {
        archives.iter().try_for_each(|archive| cluster::load(archive))?;
        eprintln!("     {} and {TRAFFIC} are on both nodes of the cluster", options.tag);
    }
    println!("{}", archives[0].display());
    Ok(())
}

/// Makes the archives of podtap's image and of the tests'.
pub(crate) fn make_all() -> Result<[PathBuf; 2]> {
    make(podtap::NAME)
}

fn make(tag: &str) -> Result<[PathBuf; 2]> {
    Ok([podtap::make(tag)?, traffic()?])
}

/// The image for pods' sandboxes.
pub(crate) fn pause() -> Result<PathBuf> {
    let mut layer = Layer::default();
    layer.program("/bin/busybox", &busybox_program()?)?;
    layer.link("/bin/sleep", "busybox");
    let settings = Settings { entrypoint: &["/bin/sleep", "infinity"], ..Settings::default() };
    write("pause.tar", &Image { tag: PAUSE, layer, settings })
}

/// A shell and some tools for pods of tests. Its `wget` does not work: Debian's static busybox cannot ask for names.
pub(crate) fn busybox() -> Result<PathBuf> {
    let settings = Settings { command: &["/bin/sh"], ..Settings::default() };
    write("busybox.tar", &Image { tag: BUSYBOX, layer: busybox_layer()?, settings })
}

/// busybox, and the sender and receiver of numbered packets.
fn traffic() -> Result<PathBuf> {
    let mut layer = busybox_layer()?;
    layer.program("/usr/bin/podtap-traffic", &podtap::stripped(&target().join("release/podtap-traffic"))?)?;
    let settings = Settings { command: &["/bin/sh"], ..Settings::default() };
    write("traffic.tar", &Image { tag: TRAFFIC, layer, settings })
}

fn busybox_layer() -> Result<Layer> {
    let program = busybox_program()?;
    let mut layer = Layer::default();
    layer.program("/bin/busybox", &program)?;
    for path in output(Command::new(&program).arg("--list-full"))?.lines() {
        layer.link(&format!("/{path}"), "/bin/busybox");
    }
    layer.file(
        "/etc/passwd",
        0o444,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n".to_vec(),
    );
    layer.file("/etc/group", 0o444, b"root:x:0:\nnogroup:x:65534:\n".to_vec());
    layer.directory("/root", 0o700);
    layer.directory("/tmp", 0o1777);
    Ok(layer)
}

fn busybox_program() -> Result<PathBuf> {
    find_program("busybox").context("no busybox")
}

/// Writes an image's archive, and its layer beside it.
fn write(name: &str, image: &Image<'_>) -> Result<PathBuf> {
    let directory = target().join("image");
    fs::create_dir_all(&directory)?;
    let path = directory.join(name);
    let (archive, layer) = image.archive()?;
    // Somebody may be reading the one that is there.
    for (path, bytes) in [(path.clone(), archive), (path.with_extension("layer.tar"), layer)] {
        let new = path.with_extension(format!("new{}", std::process::id()));
        fs::write(&new, bytes)?;
        fs::rename(&new, &path)?;
    }
    Ok(path)
}
