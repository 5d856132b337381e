//! Running programs: named when they fail, with what they said.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// Runs it with its output on the terminal; fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| format!("cannot start {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// Runs it silently and gives its standard output; an error carries the end of what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {shown}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let said = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        let lines: Vec<&str> = said.lines().collect();
        let tail = &lines[lines.len().saturating_sub(30)..];
        bail!("{shown}: {}\n{}", output.status, tail.join("\n"));
    }
    Ok(text)
}

/// As [`output`], saying on standard error what is done and how long it took.
pub(crate) fn step(what: &str, command: &mut Command) -> Result<()> {
    eprintln!("     {what} ...");
    let start = Instant::now();
    output(command)?;
    eprintln!("     {what}: done in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    format!("`{}`", words.join(" "))
}
