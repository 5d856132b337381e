//! What of `deploy/` follows from code: the custom resource definitions and the default policy.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::run;
use crate::setup::{self, Purpose};
use crate::workspace::{cargo, own, root};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Change nothing; fail when a file is not what the code says
    #[arg(long)]
    check: bool,
}

/// Writes the files, or compares them.
pub(crate) fn generate(options: &Options) -> Result<()> {
    setup::prepare(&[Purpose::Build])?;
    let made = made()?;
    let base = root().join("deploy/base");
    let differ: Vec<&PathBuf> = made
        .iter()
        .filter(|(file, text)| fs::read_to_string(base.join(file)).ok().as_ref() != Some(*text))
        .map(|(file, _)| file)
        .collect();
    if differ.is_empty() {
        return Ok(());
    }
    let shown = differ.iter().map(|file| format!("deploy/base/{}", file.display())).collect::<Vec<_>>();
    if options.check {
        bail!(
            "not what the code says: {}; run `cargo xtask generate` and commit what it changes",
            shown.join(", ")
        );
    }
    for (file, shown) in differ.into_iter().zip(&shown) {
        write(&base.join(file), &made[file])?;
        println!("{shown}");
    }
    Ok(())
}

/// Compares, as part of `lint`.
pub(crate) fn check() -> Result<()> {
    generate(&Options { check: true })
}

/// What the files should be, by their paths below `deploy/base`.
fn made() -> Result<BTreeMap<PathBuf, String>> {
    let scratch = own().join("generate");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    }
    run(cargo().args(["run", "--quiet", "--example", "manifests", "--"]).arg(&scratch).current_dir(root()))?;
    let mut files = BTreeMap::new();
    collect(&scratch, &scratch, &mut files)?;
    Ok(files)
}

fn collect(directory: &Path, base: &Path, files: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, base, files)?;
        } else {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            files.insert(path.strip_prefix(base)?.to_owned(), text);
        }
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(file, text).with_context(|| file.display().to_string())
}
