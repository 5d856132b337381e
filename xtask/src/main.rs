//! podtap's entry point: every job of a developer, of CI and of whoever tries it is one verb here.

mod build;
mod cluster;
mod command;
mod demo;
mod generate;
mod image;
mod lint;
mod measure;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::setup::Purpose;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests and shows podtap", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find or install every tool and package that the other verbs use
    Setup,
    /// Build the kernel programs
    BuildEbpf,
    /// Build the agent with the kernel programs in it (release)
    Build,
    /// Capture two of three pods that talk to each other, and show what came of it
    Demo(demo::Options),
    /// Check format, lints, documentation, dependencies, licences and generated files
    Lint,
    /// Write the files of deploy/ that follow from code: custom resource definitions, the default policy
    Generate(generate::Options),
    /// A Kubernetes with two nodes on this machine, for tests and for trying podtap
    #[command(subcommand)]
    Cluster(cluster::Action),
    /// Make podtap's container image without a container engine, and give it to the cluster when that is up
    Image(image::Options),
    /// Run the tests, all of them without a flag; the last line is the total
    Test(test::Selection),
    /// Measure podtap side by side with tcpdump and dumpcap
    Bench(measure::Arguments),
    /// Look for filters that the kernel runs otherwise than libpcap does, and for texts that harm the compiler
    Fuzz(measure::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Setup => setup::prepare(&Purpose::ALL),
        Verb::BuildEbpf => {
            setup::prepare(&[Purpose::Bpf]).and_then(|()| build::kernel_programs()).map(|path| {
                println!("{}", path.display());
            })
        }
        Verb::Build => {
            setup::prepare(&[Purpose::Build, Purpose::Bpf]).and_then(|()| build::agent()).map(|path| {
                println!("{}", path.display());
            })
        }
        Verb::Demo(options) => demo::run(&options),
        Verb::Lint => lint::run_all(),
        Verb::Generate(options) => generate::generate(&options),
        Verb::Cluster(action) => cluster::run(&action),
        Verb::Image(options) => image::run(&options),
        Verb::Test(selection) => test::run(&selection),
        Verb::Bench(arguments) => measure::bench(&arguments),
        Verb::Fuzz(arguments) => measure::fuzz(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
