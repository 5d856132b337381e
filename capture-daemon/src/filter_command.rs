//! `capture-daemon filter`: what an expression becomes, and which packets of a file it matches.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use capture_filter::insn::Listing;
use capture_filter::kernel::{KernelError, LoadedFilter};
use capture_filter::savefile::{self, SavefileError};
use capture_filter::translate::MAX_CODE;
use capture_filter::{Compiler, Filter, FilterError};
use thiserror::Error;

/// Why `filter explain` or `filter test` gave no result.
#[derive(Debug, Error)]
pub enum FilterCommandError {
    /// The expression was refused.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] SavefileError),
    /// The kernel may not be asked.
    #[error(
        "running a filter in the kernel takes the capabilities BPF and NET_ADMIN: run this as root ({0})"
    )]
    Privilege(#[source] KernelError),
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(KernelError),
    /// No compiler, or the result cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<KernelError> for FilterCommandError {
    fn from(error: KernelError) -> Self {
        match error.source.kind() {
            io::ErrorKind::PermissionDenied => FilterCommandError::Privilege(error),
            _ => FilterCommandError::Kernel(error),
        }
    }
}

/// Writes libpcap's program and ours as listings; needs no privilege.
///
/// # Errors
/// When the expression is refused, or `out` fails.
pub fn explain(expression: &str, out: &mut impl Write) -> Result<(), FilterCommandError> {
    let filter = compiled(expression)?;
    write_listings(&filter, out)?;
    Ok(())
}

/// Runs the filter in the kernel over every packet of a pcap or pcapng file and writes `matched N of M`. Packets are taken
/// as long as they were captured; when some were cut, a second line says so. Needs the capabilities BPF and NET_ADMIN.
///
/// # Errors
/// When the expression is refused, the file is damaged or not of Ethernet, the kernel refuses, or `out` fails.
pub fn test(expression: &str, file: &Path, out: &mut impl Write) -> Result<(), FilterCommandError> {
    let filter = compiled(expression)?;
    let loaded = LoadedFilter::load(&filter)?;
    let (mut matched, mut total, mut cut) = (0u64, 0u64, 0u64);
    savefile::for_each(file, |frame| {
        matched += u64::from(loaded.matches(frame.bytes)?);
        total += 1;
        cut += u64::from((frame.bytes.len() as u64) < u64::from(frame.original_length));
        Ok::<(), FilterCommandError>(())
    })?;
    writeln!(out, "matched {matched} of {total}")?;
    if cut > 0 {
        writeln!(out, "{cut} of them were cut when they were captured; the filter saw what is left")?;
    }
    Ok(())
}

fn compiled(expression: &str) -> Result<Arc<Filter>, FilterCommandError> {
    Ok(Compiler::new()?.compile("", expression)?)
}

fn write_listings(filter: &Filter, out: &mut impl Write) -> io::Result<()> {
    let classic = filter.classic();
    writeln!(out, "; classic BPF, by libpcap: {} instructions", classic.instructions().len())?;
    write!(out, "{classic}")?;
    writeln!(out)?;
    let translation = filter.translation();
    let count = translation.code.len();
    writeln!(out, "; eBPF, a function: {count} instructions, {MAX_CODE} fit")?;
    if let Some(fast) = filter.fast_path(0) {
        let fast = fast.len();
        writeln!(
            out,
            "; (tc programs try first to decide without it: {fast} instructions in front of its call)"
        )?;
    }
    let listing = Listing(&translation.code).to_string();
    for (index, line) in listing.lines().enumerate() {
        match translation.metadata {
            Some(metadata) if index == metadata => writeln!(out, "; the VLAN tag in the kernel's metadata")?,
            Some(_) if index == 0 => writeln!(out, "; the VLAN tag in the frame, or none")?,
            None if index == 0 => writeln!(out, "; the same wherever the VLAN tag is")?,
            _ => {}
        }
        writeln!(out, "{line}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listings(expression: &str) -> String {
        let classic = capture_filter::compile(expression).expect(expression);
        let filter = Filter::from_classic(expression, classic).expect(expression);
        let mut out = Vec::new();
        write_listings(&filter, &mut out).expect("memory takes it");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn both_programs_are_listed_and_both_places_of_a_tag() {
        let listings = listings("icmp");
        let heads: Vec<&str> = listings.lines().filter(|line| line.starts_with(';')).collect();
        let expected = [
            "; classic BPF, by libpcap: 6 instructions",
            "; eBPF, a function: 29 instructions, 8192 fit",
            "; (tc programs try first to decide without it: 18 instructions in front of its call)",
            "; the VLAN tag in the frame, or none",
            "; the VLAN tag in the kernel's metadata",
        ];
        assert_eq!(heads, expected);
        assert!(listings.contains("\n(000) ldh      [12]\n"), "{listings}");
        assert!(listings.contains("\n(005) r0 = *(u16 *)skb[12]\n"), "{listings}");
        assert!(listings.contains("metadata\n(013) r8 = *(u32 *)(r6 +28)\n"), "{listings}");
    }

    #[test]
    fn an_expression_that_reads_no_further_than_the_addresses_has_one_program() {
        assert!(listings("").ends_with("; the same wherever the VLAN tag is\n(000) r6 = r1\n(001) w0 = 0\n(002) w7 = 0\n(003) w0 = 65535\n(004) exit\n"));
    }

    #[test]
    fn a_missing_privilege_is_named() {
        let denied = KernelError {
            call: "loading the program",
            detail: String::new(),
            source: io::Error::from_raw_os_error(1),
        };
        let message = FilterCommandError::from(denied).to_string();
        assert!(message.contains("BPF and NET_ADMIN: run this as root (loading the program: "), "{message}");
    }
}
