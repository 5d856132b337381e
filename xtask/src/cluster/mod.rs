//! A real Kubernetes with two nodes on this machine, without a container engine: etcd, the API server, controllers and
//! scheduler, and for each node a containerd and a kubelet.
//!
//! Its processes are on three "machines" ([`machine`]), each a process namespace and a mount namespace, which end as a
//! whole. What else there is of it has fixed names and is taken away by name, so it does not matter at which point an
//! earlier `up` or `down` was interrupted. There is no service proxy and no name server: pods find the API server at the
//! address that the kubelet tells them, and each other by their addresses.

mod certificates;
mod cgroups;
mod control;
mod kubernetes;
mod layout;
mod machine;
mod network;
mod node;
mod part;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use crate::command::output;
use crate::image;
use crate::setup::{self, Purpose, is_root};
use layout::{NODES, cache, home, kubeconfig, logs, marker, program};
use machine::{Machine, remove_dir, wait_for};
use part::Part;

pub(crate) use kubernetes::hex;

/// How long the cluster may take to be ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the API server is asked; kubectl costs a tenth of a second of a core each time.
const PAUSE: Duration = Duration::from_millis(200);

/// What to do with it.
#[derive(Subcommand)]
pub(crate) enum Action {
    /// Start it, or whatever of it does not run
    Up,
    /// Take it away, with everything in it
    Down,
    /// Tell which parts of it run
    Status,
    /// Print the file that kubectl needs
    Kubeconfig,
    /// Run kubectl on it
    Kubectl {
        /// What kubectl takes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<String>,
    },
    /// Give an image archive (as of `docker save`) to both nodes
    Load {
        /// The archive
        archive: PathBuf,
    },
    /// Run a program on a node, with that node's mounts, processes and network
    On {
        /// node1 or node2
        node: String,
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND", required = true)]
        command: Vec<String>,
    },
    /// End a part at once: etcd, api, controllers, scheduler, a whole node, or node1/kubelet and the like
    Stop {
        /// The part
        part: Part,
    },
    /// Start a part that does not run
    Start {
        /// The part
        part: Part,
    },
    /// Let a part hang: it keeps its connections and answers nothing
    Pause {
        /// The part; not a whole node
        part: Part,
    },
    /// Let a part that hangs go on
    Resume {
        /// The part; not a whole node
        part: Part,
    },
}

/// Does it.
pub(crate) fn run(action: &Action) -> Result<()> {
    match action {
        Action::Up => up().map(|_| ()),
        Action::Down => down(),
        Action::Status => status(),
        Action::Kubeconfig => {
            println!("{}", there()?.display());
            Ok(())
        }
        Action::Kubectl { arguments } => {
            there()?;
            Err(kubectl().args(arguments).exec()).context("cannot start kubectl")
        }
        Action::Load { archive } => load(archive),
        Action::On { node, command } => {
            let node =
                NODES.iter().find(|known| known.name == node).context("the nodes are node1 and node2")?;
            let mut inside = node.machine().command(&command[0])?;
            Err(inside.args(&command[1..]).exec()).context("cannot start nsenter")
        }
        Action::Stop { part } => part.stop(),
        Action::Start { part } => part.start(),
        Action::Pause { part } => part.signal("STOP"),
        Action::Resume { part } => part.signal("CONT"),
    }
}

/// Starts the cluster, or what is missing of it; tells whether there was one already.
pub(crate) fn up() -> Result<bool> {
    if !is_root() {
        bail!("a cluster is made of namespaces and mounts: run as root");
    }
    setup::prepare(&[Purpose::Cluster])?;
    let _lock = lock()?;
    kubernetes::build()?;
    let start = Instant::now();
    let there = is_up();
    if !there {
        clean()?;
        eprintln!("     starting the cluster ...");
        network::up()?;
        certificates::make()?;
        control::configure()?;
    }
    start_all(!there).with_context(|| format!("these parts do not run: {}", stopped()))?;
    if there {
        eprintln!("     the cluster is up");
    } else {
        fs::write(marker(), "")?;
        eprintln!("     starting the cluster: done in {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(there)
}

/// Takes the cluster away.
pub(crate) fn down() -> Result<()> {
    if !is_root() {
        bail!("a cluster is made of namespaces and mounts: run as root");
    }
    if !home().exists() {
        return Ok(());
    }
    let _lock = lock()?;
    clean()
}

/// Whether it is up; single parts of it may have been stopped.
pub(crate) fn is_up() -> bool {
    marker().exists() && control::MACHINE.process().is_some()
}

/// The file that kubectl needs, once the cluster is up.
pub(crate) fn there() -> Result<PathBuf> {
    if !is_up() {
        bail!("the cluster is not up: cargo xtask cluster up");
    }
    Ok(kubeconfig())
}

/// Our own kubectl, whatever it is used on; none before the first `up`.
pub(crate) fn own_kubectl() -> Option<PathBuf> {
    Some(program("kubectl")).filter(|path| path.exists())
}

/// Gives an archive to both nodes.
pub(crate) fn load(archive: &Path) -> Result<()> {
    there()?;
    each_node(|node| node.load(archive))
}

/// Kills what runs and removes what is left, of this cluster or of one that was interrupted anywhere.
fn clean() -> Result<()> {
    if marker().exists() {
        fs::remove_file(marker())?;
    }
    machines().try_for_each(|machine| machine.kill())?;
    network::down()?;
    for node in &NODES {
        cgroups::remove(node.name)?;
        remove_dir(&home().join(format!("{}.etc", node.name)))?;
    }
    for machine in machines() {
        remove_dir(&machine.disk())?;
    }
    remove_dir(&layout::pki())?;
    remove_dir(&cache())?;
    for holder in ["controllers.kubeconfig", "scheduler.kubeconfig", "kubeconfig"] {
        match fs::remove_file(home().join(holder)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let left = left();
    if !left.is_empty() {
        bail!("still there: {}", left.join(", "));
    }
    Ok(())
}

/// What is there of a cluster outside its directory; nothing after [`clean`].
fn left() -> Vec<String> {
    let mut left: Vec<String> =
        machines().filter(|machine| machine.process().is_some()).map(|one| one.name.to_owned()).collect();
    left.extend(network::left());
    left.extend(NODES.iter().filter(|node| cgroups::exist(node.name)).map(|node| cgroups::group(node.name)));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let own = home().display().to_string();
    left.extend(mounts.lines().filter(|line| line.contains(&own)).map(str::to_owned));
    left
}

/// The parts that do not run, for people.
fn stopped() -> String {
    let stopped = Part::all().into_iter().filter(|part| !part.runs().unwrap_or_default());
    let names: Vec<String> = stopped.map(|part| part.to_string()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Starts every program that does not run and waits until the cluster is of use.
fn start_all(fresh: bool) -> Result<()> {
    if fresh {
        remove_dir(&logs())?;
        fs::create_dir_all(logs())?;
        certificates::write_private(&kubeconfig(), &certificates::kubeconfig("admin"))?;
    }
    let images = [image::pause()?, image::busybox()?];
    control::MACHINE.boot()?;
    for name in control::NAMES.into_iter().take(2) {
        control::MACHINE.start(&control::service(name)?)?;
    }
    each_node(|node| {
        node.start()?;
        if fresh { images.iter().try_for_each(|archive| node.load(archive)) } else { Ok(()) }
    })?;
    wait_for("the API server to be ready", PATIENCE, PAUSE, || ask(&["get", "--raw", "/readyz"]).is_ok())?;
    // These would give up before that.
    for name in control::NAMES.into_iter().skip(2) {
        control::MACHINE.start(&control::service(name)?)?;
    }
    wait_for("both nodes to be ready", PATIENCE, PAUSE, || {
        let ready = r#"jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}"#;
        ask(&["get", "nodes", "-o", ready]).is_ok_and(|text| text.trim() == "True True")
    })?;
    wait_for("service accounts", PATIENCE, PAUSE, || ask(&["get", "serviceaccount", "default"]).is_ok())
}

fn machines() -> impl Iterator<Item = Machine> {
    // Nodes first: they have nobody to tell then.
    NODES.iter().map(layout::Node::machine).chain([control::MACHINE])
}

fn each_node(work: impl Fn(&layout::Node) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    std::thread::scope(|scope| {
        let running: Vec<_> = NODES.iter().map(|node| scope.spawn(move || work(node))).collect();
        running
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })
}

/// kubectl, set up for the cluster.
fn kubectl() -> Command {
    let mut command = Command::new(program("kubectl"));
    command.env("KUBECONFIG", kubeconfig()).env("KUBECACHEDIR", cache());
    command
}

fn ask(arguments: &[&str]) -> Result<String> {
    output(kubectl().arg("--request-timeout=5s").args(arguments))
}

fn status() -> Result<()> {
    for part in Part::all() {
        println!("{:<20} {}", part.to_string(), if part.runs()? { "runs" } else { "does not run" });
    }
    for name in left() {
        println!("{name:<20} is there");
    }
    if !is_up() {
        println!("the cluster is not up");
        return Ok(());
    }
    println!("{}", ask(&["get", "nodes", "-o", "wide"])?.trim_end());
    Ok(())
}

/// One at a time starts or ends the cluster. Released when this is dropped, also by a crash.
fn lock() -> Result<File> {
    fs::create_dir_all(home())?;
    let file = File::options().create(true).truncate(false).write(true).open(home().join("lock"))?;
    if let Err(error) = file.try_lock() {
        match error {
            fs::TryLockError::WouldBlock => {
                eprintln!("     waiting for another `cluster up` or `cluster down` to end");
                file.lock()?;
            }
            fs::TryLockError::Error(error) => return Err(error).context("cannot lock the cluster"),
        }
    }
    Ok(file)
}
