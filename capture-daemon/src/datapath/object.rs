//! The embedded kernel object: parsed once, copied for each tap with the tap's settings, filter and maps in place.

use std::{
    collections::HashSet,
    ffi::CString,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    thread,
};

use aya::include_bytes_aligned;
use aya_obj::{Function, Map, Object, generated::bpf_insn};
use capture_common::{Direction, DirectionCounters, TapControl, TapSettings};
use capture_filter::{
    Filter,
    insn::{Insn, Reg},
};

use super::{
    DatapathError, fast_path,
    sys::{self, MapSpec, ProgramSpec, ProgramType},
};

/// What `build.rs` found; empty when the kernel programs were not built.
static EMBEDDED: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/capture-ebpf.o"));

/// The function that a filter takes the place of.
const FILTER: &str = "filter";
/// The section of the settings, which is all that is in it.
const SETTINGS: &str = ".rodata";
/// The section of the control words, which are all that is in it.
const CONTROL: &str = ".bss";
const COUNTERS: &str = "COUNTERS";
const RING: &str = "RING";

/// `BPF_F_RDONLY_PROG`
const READ_ONLY: u32 = 1 << 7;
/// `BPF_F_MMAPABLE`
const MAPPABLE: u32 = 1 << 10;

/// An entry point of the kernel object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Ingress of the host interface.
    TcIngress,
    /// Egress of the host interface.
    TcEgress,
    /// The filter of a packet socket, both directions.
    PacketSocket,
}

impl Entry {
    /// The tc program of a direction.
    pub(super) const fn tc(direction: Direction) -> Self {
        match direction {
            Direction::FromPod => Self::TcIngress,
            Direction::ToPod => Self::TcEgress,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::TcIngress => "tc_ingress",
            Self::TcEgress => "tc_egress",
            Self::PacketSocket => "packet_socket",
        }
    }

    /// Whether it may look at a packet's linear part by itself.
    const fn reads_packets(self) -> bool {
        matches!(self.program_type(), ProgramType::SchedClassifier)
    }

    const fn program_type(self) -> ProgramType {
        match self {
            Self::TcIngress | Self::TcEgress => ProgramType::SchedClassifier,
            Self::PacketSocket => ProgramType::SocketFilter,
        }
    }
}

/// The maps of one tap.
#[derive(Debug)]
pub(super) struct TapMaps {
    pub(super) control: OwnedFd,
    pub(super) counters: OwnedFd,
    pub(super) ring: OwnedFd,
}

/// The parsed object, with a filter that accepts everything.
#[derive(Debug)]
pub(super) struct Template {
    object: Object,
    /// Section index and address of [`FILTER`].
    filter: (usize, u64),
    text: HashSet<usize>,
    license: CString,
    /// The object's type information, which global functions need. Loaded once for all taps.
    btf: Option<OwnedFd>,
}

impl Template {
    pub(super) fn embedded() -> Result<Self, DatapathError> {
        if EMBEDDED.is_empty() {
            return Err(DatapathError::NoPrograms);
        }
        let mut object = Object::parse(EMBEDDED).map_err(invalid)?;
        let expected = [
            (SETTINGS, size_of::<TapSettings>()),
            (CONTROL, size_of::<TapControl>()),
            (COUNTERS, size_of::<DirectionCounters>()),
            (RING, 0),
        ];
        for (name, size) in expected {
            let map = object.maps.get(name).ok_or_else(|| invalid(format!("no {name}")))?;
            if map.value_size() as usize != size {
                return Err(invalid(format!("{name} has another size")));
            }
        }
        let mut btf = None;
        if let Some(features) = aya::features().btf()
            && let Some(types) = object.fixup_and_sanitize_btf(features).map_err(invalid)?
        {
            btf = Some(sys::load_btf(&types.to_bytes())?);
        }
        // Copied by `relocate_calls` into each program that calls it, and not needed any more as such.
        object.btf = None;
        object.btf_ext = None;
        let functions = object.functions.iter();
        let filter = functions.filter(|(_, function)| function.name == FILTER).map(|(key, _)| *key).next();
        let filter = filter.ok_or_else(|| invalid(format!("no function {FILTER}")))?;
        let programs: HashSet<_> = object.programs.values().map(|program| program.section_index).collect();
        let sections = object.functions.keys().map(|(section, _)| *section);
        let text = sections.filter(|section| !programs.contains(section)).collect();
        let license = object.license.clone();
        let mut template = Self { object, filter, text, license, btf };
        let accept_all = sys::instructions(&[Insn::set(Reg::R0, 1), Insn::EXIT])?;
        set_body(&mut template.object, filter, accept_all)?;
        Ok(template)
    }

    /// Makes a ring of that size.
    pub(super) fn make_ring(&self, bytes: u32) -> Result<OwnedFd, DatapathError> {
        self.make_map(RING, 0, bytes)
    }

    fn make_map(&self, name: &str, flags: u32, max_entries: u32) -> Result<OwnedFd, DatapathError> {
        let map = &self.object.maps[name];
        let (map_type, key_size, value_size) = (map.map_type(), map.key_size(), map.value_size());
        sys::create_map(&MapSpec { map_type, key_size, value_size, max_entries, flags, name })
    }

    /// Makes the other maps of one tap and loads the entry points that are asked for.
    pub(super) fn load(
        &self,
        filter: Option<&Filter>,
        settings: &TapSettings,
        ring: OwnedFd,
        entries: &[Entry],
    ) -> Result<(TapMaps, Vec<OwnedFd>), DatapathError> {
        let make = |name, flags| self.make_map(name, flags, self.object.maps[name].max_entries());
        let rodata = make(SETTINGS, READ_ONLY)?;
        sys::fill_and_freeze(rodata.as_fd(), &settings_bytes(settings))?;
        let maps = TapMaps { control: make(CONTROL, MAPPABLE)?, counters: make(COUNTERS, 0)?, ring };

        let place = |name: &'static str, fd: &OwnedFd| -> (&'static str, i32, &Map) {
            (name, fd.as_raw_fd(), &self.object.maps[name])
        };
        let places = [
            place(SETTINGS, &rodata),
            place(CONTROL, &maps.control),
            place(COUNTERS, &maps.counters),
            place(RING, &maps.ring),
        ];
        let load = |entry: Entry| {
            let mut object = self.object.clone();
            object.programs.retain(|name, _| name == entry.name());
            if let Some(filter) = filter {
                let body = sys::instructions(&filter.translation().code)?;
                set_body(&mut object, self.filter, body)?;
            }
            object.relocate_maps(places.into_iter(), &self.text).map_err(invalid)?;
            object.relocate_calls(&self.text).map_err(invalid)?;
            let missing = || invalid(format!("no program {}", entry.name()));
            let key = object.programs.get(entry.name()).ok_or_else(missing)?.function_key();
            let program = object.functions.get_mut(&key).ok_or_else(missing)?;
            if let Some(filter) = filter.filter(|_| entry.reads_packets()) {
                fast_path::insert(program, self.filter_type()?, filter)?;
            }
            self.load_entry(program, entry)
        };
        // The kernel takes a millisecond or more to check a program, and checks several at once.
        let programs: Result<Vec<_>, _> = thread::scope(|scope| {
            let (first, others) = entries.split_first().ok_or_else(|| invalid("nothing to load"))?;
            let others: Vec<_> = others.iter().map(|&entry| scope.spawn(move || load(entry))).collect();
            let first = load(*first);
            let others = others
                .into_iter()
                .map(|other| other.join().unwrap_or_else(|_| Err(invalid("loading a program panicked"))));
            std::iter::once(first).chain(others).collect()
        });
        Ok((maps, programs?))
    }

    /// The type of the function [`FILTER`].
    fn filter_type(&self) -> Result<u32, DatapathError> {
        let types = &self.object.functions[&self.filter].func_info.func_info;
        types.first().map(|info| info.type_id).ok_or_else(|| invalid(format!("no type of {FILTER}")))
    }

    fn load_entry(&self, function: &Function, entry: Entry) -> Result<OwnedFd, DatapathError> {
        sys::load_program(&ProgramSpec {
            program_type: entry.program_type(),
            name: entry.name(),
            license: &self.license,
            instructions: &function.instructions,
            btf: self.btf.as_ref().map(|fd| fd.as_fd()),
            functions: (&function.func_info.func_info_bytes(), function.func_info_rec_size),
            lines: (&function.line_info.line_info_bytes(), function.line_info_rec_size),
        })
    }
}

pub(super) fn invalid(what: impl ToString) -> DatapathError {
    DatapathError::Object(what.to_string())
}

/// Gives a function other instructions. What is known of its source lines ends with the first.
fn set_body(object: &mut Object, function: (usize, u64), body: Vec<bpf_insn>) -> Result<(), DatapathError> {
    let function = object.functions.get_mut(&function).ok_or_else(|| invalid("no such function"))?;
    function.instructions = body;
    function.line_info.line_info.truncate(1);
    function.line_info.num_info = function.line_info.line_info.len() as u32;
    Ok(())
}

/// The bytes of the settings as the kernel programs read them.
fn settings_bytes(settings: &TapSettings) -> [u8; size_of::<TapSettings>()] {
    let TapSettings {
        snap_length,
        headers_only,
        direction,
        sample,
        filtered,
        tick_ns,
        packet_cost,
        packet_burst,
        byte_cost,
        byte_burst,
        wakeup_bytes,
    } = *settings;
    let mut bytes = [0; size_of::<TapSettings>()];
    let (words, double_words) = bytes.split_at_mut(24);
    let small = [snap_length, headers_only, direction, sample, filtered, tick_ns];
    for (place, value) in words.as_chunks_mut::<4>().0.iter_mut().zip(small) {
        *place = value.to_ne_bytes();
    }
    let large = [packet_cost, packet_burst, byte_cost, byte_burst, wakeup_bytes];
    for (place, value) in double_words.as_chunks_mut::<8>().0.iter_mut().zip(large) {
        *place = value.to_ne_bytes();
    }
    bytes
}
