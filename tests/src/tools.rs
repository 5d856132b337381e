//! Other people's readers of pcapng files. A file that one of them warns about is an error here.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Runs a reader; anything on standard error is an error, as tshark exits with 0 on some damage.
fn read(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let noise = |line: &str| {
        line.is_empty()
            || line.starts_with("Running as user \"root\"")
            || line.starts_with("reading from file")
    };
    ensure!(output.status.success() && said.lines().all(noise), "{command:?}: {}: {said}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One field a packet, of the packets that match a display filter, as tshark sees them. Several fields are separated by
/// tabs.
pub fn tshark(file: &Path, display_filter: &str, fields: &[&str]) -> Result<Vec<String>> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-r"]).arg(file).args(["-T", "fields"]);
    if !display_filter.is_empty() {
        command.args(["-Y", display_filter]);
    }
    for field in fields {
        command.args(["-e", field]);
    }
    Ok(read(&mut command)?.lines().map(str::to_owned).collect())
}

/// How many packets match a display filter.
pub fn tshark_count(file: &Path, display_filter: &str) -> Result<usize> {
    tshark(file, display_filter, &["frame.number"]).map(|lines| lines.len())
}

/// How many packets capinfos counts.
pub fn capinfos_count(file: &Path) -> Result<usize> {
    let text = read(Command::new("capinfos").args(["-c", "-r", "-M", "-T"]).arg(file))?;
    let count = text.trim().rsplit('\t').next().context("no output")?;
    count.parse().with_context(|| format!("capinfos says {text:?}"))
}

/// How many packets tcpdump reads, with a capture filter or an empty one.
pub fn tcpdump_count(file: &Path, filter: &str) -> Result<usize> {
    let mut command = Command::new("tcpdump");
    command.args(["-n", "--count", "-r"]).arg(file);
    if !filter.is_empty() {
        command.arg(filter);
    }
    let text = read(&mut command)?;
    let count = text.split_whitespace().next().context("no output")?;
    count.parse().with_context(|| format!("tcpdump says {text:?}"))
}

/// Checks that all readers read the file without complaint and count as many packets as the strict one. Where
/// `PODTAP_OWN_READER_ONLY` is set there are no others: on an emulated machine.
pub fn agree(file: &Path) -> Result<usize> {
    let strict = crate::blocks::read(file)?.packets.len();
    if std::env::var_os("PODTAP_OWN_READER_ONLY").is_some() {
        return Ok(strict);
    }
    let counts = [tshark_count(file, "")?, capinfos_count(file)?, tcpdump_count(file, "")?];
    ensure!(
        counts == [strict; 3],
        "{}: {strict} packets, but tshark, capinfos, tcpdump: {counts:?}",
        file.display()
    );
    Ok(strict)
}
