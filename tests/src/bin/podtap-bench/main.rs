//! Measures podtap side by side with tcpdump and dumpcap: short slices, each tool in turn, and what the ratios of each
//! round come to. Started by `cargo xtask bench`.

mod attached;
mod bench;
mod bpf;
mod cluster;
mod count;
mod cpu;
mod flood;
mod held;
mod http;
mod idle;
mod kernel_cost;
mod machine;
mod many;
mod netlink;
mod one;
mod report;
mod stats;
mod tcp;
mod tool;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use podtap_tests::process::target;
use serde_json::json;

use crate::bench::Bench;
use crate::report::Row;
use crate::tool::Tool;

#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Measures podtap against tcpdump and dumpcap")]
struct Options {
    /// Rows to measure, by name; all without any
    #[arg(value_name = "ROW")]
    rows: Vec<String>,
    /// Turns of each tool in each row
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Short slices and two rounds: whether it works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Only this tool, where tools take turns, and none: to compare builds of podtap with each other
    #[arg(long, value_enum, value_name = "TOOL")]
    only: Option<Tool>,
    /// Where the figures go as JSON; what is printed goes beside it as .md
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Names of the rows, and nothing else
    #[arg(long)]
    list: bool,
}

type Measured = fn(&mut Bench) -> Result<Row>;

/// All rows, in the order in which they are measured.
const ROWS: &[(&str, Measured)] = &[
    ("flood64", |bench| flood::run(bench, &flood::SMALL)),
    ("flood1400", |bench| flood::run(bench, &flood::FULL)),
    ("flood1400-snap128", |bench| flood::run(bench, &flood::SNAPPED)),
    ("kernel", kernel_cost::run),
    ("tcp", tcp::run),
    ("http", http::run),
    ("many", |bench| bench.on_all_cores(many::run)),
    ("tap", |bench| bench.on_all_cores(one::tap)),
    ("pod", |bench| bench.on_all_cores(one::pod)),
    ("held", held::run),
    ("idle", idle::run),
    ("label", cluster::label),
    ("new-pod", cluster::new_pod),
];

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all targets are met.
fn run(options: &Options) -> Result<bool> {
    if options.list {
        for (name, _) in ROWS {
            println!("{name}");
        }
        return Ok(true);
    }
    for name in &options.rows {
        if !ROWS.iter().any(|(known, _)| known == name) {
            let known: Vec<&str> = ROWS.iter().map(|(name, _)| *name).collect();
            bail!("there is no row {name}; there are {}", known.join(", "));
        }
    }
    machine::check()?;
    machine::warn_if_busy();
    let rounds = if options.quick { options.rounds.min(2) } else { options.rounds };
    let mut bench = Bench::start(rounds, options.quick, options.only)?;
    let machine = machine::describe(bench.tools.directory());
    println!("{}\n", serde_json::to_string_pretty(&machine)?);
    machine::warm_memory()?;
    let mut rows = Vec::new();
    for (name, measure) in ROWS {
        if !options.rows.is_empty() && !options.rows.iter().any(|wanted| wanted == name) {
            continue;
        }
        bench.begin(name);
        let row = measure(&mut bench).with_context(|| format!("row {name}"))?;
        println!("{}", row.text());
        rows.push(row);
        // After each row: what was measured is not lost when a later one fails.
        write(options, rounds, &machine, &rows)?;
    }
    let measures = || rows.iter().flat_map(|row| &row.measures);
    let missed = measures().filter(|measure| measure.met() == Some(false)).count();
    let judged = measures().filter(|measure| measure.met().is_some()).count();
    println!("{} of {judged} targets met", judged - missed);
    Ok(missed == 0)
}

fn write(options: &Options, rounds: usize, machine: &serde_json::Value, rows: &[Row]) -> Result<()> {
    let file = options.json.clone().unwrap_or_else(|| target().join("bench/bench.json"));
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let text: Vec<String> = rows.iter().map(Row::text).collect();
    let tables = format!("```json\n{}\n```\n\n{}", serde_json::to_string_pretty(machine)?, text.join("\n"));
    std::fs::write(file.with_extension("md"), tables)?;
    let report = json!({
        "machine": machine, "rounds": rounds, "quick": options.quick,
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    std::fs::write(&file, serde_json::to_vec_pretty(&report)?).with_context(|| file.display().to_string())
}
