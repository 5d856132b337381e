//! Makes taps: a copy of the kernel object with settings and filter, loaded into the kernel.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::{Mutex, PoisonError},
};

use aya::{Ebpf, EbpfLoader, VerifierLogLevel, maps::Map, programs::Program};
use capture_common::{DIRECTION_TO_POD, MAX_CAPTURED, TapSettings};
use capture_filter::Filter;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    AttachMode, Control, DatapathError, Ring, Tap,
    attach::WarmLinks,
    object::{Image, Template},
    tap::{Maps, Programs},
};

/// Loads taps. One for the process, shared by threads.
#[derive(Debug)]
pub struct Loader {
    mode: AttachMode,
    template: Template,
    /// aya's loader would read the kernel's BTF for each new one, and nothing here is relocated by that.
    parser: Mutex<EbpfLoader<'static>>,
    _warm: Option<WarmLinks>,
}

impl Loader {
    /// Finds out how this kernel attaches taps, by trying, or takes the way that is `forced`. Raises the process's
    /// limit of open files to what it may have: a tap holds six.
    pub fn new(forced: Option<AttachMode>) -> Result<Self, DatapathError> {
        let template = Template::embedded()?;
        raise(Resource::Nofile);
        // Kernels before 5.11 charge maps to this one.
        raise(Resource::Memlock);
        let (mode, warm) = match (forced, WarmLinks::create()) {
            (Some(AttachMode::Socket), _) | (None, Err(DatapathError::NoTcx(_))) => {
                (AttachMode::Socket, None)
            }
            (Some(AttachMode::Tcx) | None, warm) => (AttachMode::Tcx, Some(warm?)),
        };
        let mut parser = EbpfLoader::new();
        parser.btf(None).verifier_log_level(VerifierLogLevel::DEBUG);
        Ok(Self { mode, template, parser: Mutex::new(parser), _warm: warm })
    }

    /// How taps are attached here.
    pub fn mode(&self) -> AttachMode {
        self.mode
    }

    /// Loads a tap, halted and not yet attached. `ring_bytes` is a power of two of at least a page.
    pub fn load(
        &self,
        filter: Option<&Filter>,
        settings: &TapSettings,
        ring_bytes: u32,
    ) -> Result<Tap, DatapathError> {
        check(settings, ring_bytes)?;
        let image = self.template.instance(filter, settings)?;
        let mut ebpf = self.parse(&image, ring_bytes)?;
        // What is kept are file descriptors: aya's objects hold a copy of the instructions.
        let control = Control::map(map(&ebpf, "CONTROL")?.as_fd())?;
        control.set_halted(true);
        let ring = Ring::map(map(&ebpf, "RING")?, ring_bytes)?;
        let maps = Maps { control, ring: Some(ring), counters: map(&ebpf, "COUNTERS")? };
        let tcx = match self.mode {
            AttachMode::Tcx => {
                Some([load_program(&mut ebpf, "tc_ingress")?, load_program(&mut ebpf, "tc_egress")?])
            }
            AttachMode::Socket => None,
        };
        let programs = Programs { tcx, socket: load_program(&mut ebpf, "packet_socket")? };
        Ok(Tap::new(settings.direction, maps, programs))
    }

    fn parse(&self, image: &Image, ring_bytes: u32) -> Result<Ebpf, DatapathError> {
        let mut parser = self.parser.lock().unwrap_or_else(PoisonError::into_inner);
        parser
            .map_max_entries("RING", ring_bytes)
            .load(image.bytes())
            .map_err(|error| DatapathError::Load(Box::new(error)))
    }
}

fn check(settings: &TapSettings, ring_bytes: u32) -> Result<(), DatapathError> {
    if !ring_bytes.is_power_of_two() || (ring_bytes as usize) < rustix::param::page_size() {
        return Err(DatapathError::RingSize(ring_bytes));
    }
    let out_of_range = |setting, value| Err(DatapathError::Setting { setting, value });
    match settings {
        TapSettings { snap_length: value, .. } if !(1..=MAX_CAPTURED).contains(value) => {
            out_of_range("snap_length", u64::from(*value))
        }
        TapSettings { direction: value @ DIRECTION_TO_POD..=u32::MAX, .. } if *value != DIRECTION_TO_POD => {
            out_of_range("direction", u64::from(*value))
        }
        TapSettings { sample: 0, .. } => out_of_range("sample", 0),
        _ => Ok(()),
    }
}

fn map(ebpf: &Ebpf, name: &str) -> Result<OwnedFd, DatapathError> {
    let data = match ebpf.map(name) {
        Some(Map::Array(data) | Map::PerCpuArray(data) | Map::RingBuf(data)) => data,
        _ => return Err(DatapathError::Object(format!("no map {name}"))),
    };
    duplicate(data.fd().as_fd())
}

fn load_program(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, DatapathError> {
    let refused = |source| DatapathError::Program { program: name, source: Box::new(source) };
    let fd = match ebpf.program_mut(name) {
        Some(Program::SchedClassifier(program)) => {
            program.load().map_err(refused)?;
            program.fd().map_err(refused)?
        }
        Some(Program::SocketFilter(program)) => {
            program.load().map_err(refused)?;
            program.fd().map_err(refused)?
        }
        _ => return Err(DatapathError::Object(format!("no program {name}"))),
    };
    duplicate(fd.as_fd())
}

fn duplicate(fd: std::os::fd::BorrowedFd<'_>) -> Result<OwnedFd, DatapathError> {
    fd.try_clone_to_owned()
        .map_err(|source| DatapathError::Syscall { call: "duplicate a descriptor", source })
}

/// As far as this process may. Where that is not enough, what needs it says so.
fn raise(resource: Resource) {
    let limit = getrlimit(resource);
    let _ = setrlimit(resource, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
