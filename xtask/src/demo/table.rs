//! The table at the end.

use std::path::{Path, PathBuf};

use podtap_tests::record::Record;

/// Prints a line for each file, with what its record says.
pub(crate) fn print(records: &[Record], files: &[Vec<PathBuf>]) {
    let mut rows = vec![
        ["NAMESPACE", "CAPTURE", "POD", "STATE", "PACKETS", "DROPPED", "SIZE", "FILE"].map(str::to_owned),
    ];
    for (record, files) in records.iter().zip(files) {
        for file in files {
            rows.push([
                record.namespace().to_owned(),
                if record.capture().is_empty() { "(label)" } else { record.capture() }.to_owned(),
                record.pod().to_owned(),
                record.state().to_owned(),
                record.packets().to_string(),
                record.dropped().to_string(),
                record.size().to_owned(),
                shown(file),
            ]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    for row in &rows {
        let line: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}", line.join("  ").trim_end());
    }
}

/// Relative to where the user is, when it is below.
fn shown(file: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    file.strip_prefix(here).unwrap_or(file).display().to_string()
}
