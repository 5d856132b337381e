//! The embedded kernel object, and a tap's own copy of it: with its settings and its filter in place.

use capture_common::TapSettings;
use capture_filter::Filter;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use super::DatapathError;

/// What `build.rs` found; empty when the kernel programs were not built.
static EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/capture-ebpf.o"));
/// The global that the programs read their settings from.
const SETTINGS: &str = "SETTINGS";

/// The kernel object, and where a tap's settings go in it.
#[derive(Debug)]
pub(super) struct Template {
    settings_offset: usize,
}

impl Template {
    pub(super) fn embedded() -> Result<Self, DatapathError> {
        if EMBEDDED.is_empty() {
            return Err(DatapathError::NoPrograms);
        }
        let invalid = |what: &str| DatapathError::Object(what.to_owned());
        let file = object::File::parse(EMBEDDED).map_err(|error| DatapathError::Object(error.to_string()))?;
        let symbol = file.symbol_by_name(SETTINGS).ok_or_else(|| invalid("no settings"))?;
        if symbol.size() != size_of::<TapSettings>() as u64 {
            return Err(invalid("settings of another size"));
        }
        let section = symbol.section_index().and_then(|index| file.section_by_index(index).ok());
        let range = section.and_then(|section| section.file_range()).ok_or_else(|| invalid("no settings"))?;
        let settings_offset = (range.0 + symbol.address()) as usize;
        if settings_offset + size_of::<TapSettings>() > EMBEDDED.len() {
            return Err(invalid("settings outside of the file"));
        }
        Ok(Self { settings_offset })
    }

    /// A copy for one tap.
    pub(super) fn instance(
        &self,
        filter: Option<&Filter>,
        settings: &TapSettings,
    ) -> Result<Image, DatapathError> {
        let mut image = Image::new(EMBEDDED);
        let bytes = image.bytes_mut();
        let place = self.settings_offset..self.settings_offset + size_of::<TapSettings>();
        bytes[place].copy_from_slice(&settings_bytes(settings));
        if let Some(filter) = filter {
            capture_filter::splice(bytes, filter)?;
        }
        Ok(image)
    }
}

/// The bytes of the settings as the kernel programs read them.
fn settings_bytes(settings: &TapSettings) -> [u8; size_of::<TapSettings>()] {
    let TapSettings {
        snap_length,
        headers_only,
        direction,
        sample,
        packet_cost,
        packet_burst,
        byte_cost,
        byte_burst,
        wakeup_bytes,
    } = *settings;
    let mut bytes = [0; size_of::<TapSettings>()];
    let (words, double_words) = bytes.split_at_mut(16);
    for (place, value) in
        words.as_chunks_mut::<4>().0.iter_mut().zip([snap_length, headers_only, direction, sample])
    {
        *place = value.to_ne_bytes();
    }
    for (place, value) in double_words.as_chunks_mut::<8>().0.iter_mut().zip([
        packet_cost,
        packet_burst,
        byte_cost,
        byte_burst,
        wakeup_bytes,
    ]) {
        *place = value.to_ne_bytes();
    }
    bytes
}

/// An ELF file in memory, aligned as its parser wants it.
#[derive(Debug)]
pub(super) struct Image {
    words: Vec<u64>,
    length: usize,
}

impl Image {
    fn new(bytes: &[u8]) -> Self {
        let mut image = Self { words: vec![0; bytes.len().div_ceil(8)], length: bytes.len() };
        image.bytes_mut().copy_from_slice(bytes);
        image
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the words hold `length` bytes, and any bytes are valid as `u8`.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.length) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; any bytes are valid as part of a `u64`.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.length) }
    }
}
