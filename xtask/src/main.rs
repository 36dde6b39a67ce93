// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask …`: the one command line. Parse, match, hand over; each subcommand is one file.

mod accel;
mod apt;
mod bench;
mod bisect;
mod bundle;
mod clean;
mod config;
mod coverage;
mod distill;
mod doctor;
mod exit;
mod fuzz;
mod gate;
mod gdb;
mod guest;
mod initramfs;
mod kernel;
mod known;
mod lock;
mod many;
mod matrix;
mod minimize;
mod patch;
mod paths;
mod portable;
mod prepare;
mod proc;
mod prove;
mod regress;
mod repro;
mod rerun;
mod run;
mod sandbox;
mod score;
mod setup;
mod source;
mod test;
mod tools;
mod trace;
mod tree;
mod triage;
mod userland;

use clap::{Parser, Subcommand};

use crate::exit::Outcome;

/// Boots Linux kernels in QEMU and tortures their memory-reclaim shrinkers.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fuzz: installs, builds, boots, fuzzes; a status line a second, a summary, a folder per finding.
    Fuzz(fuzz::FuzzArgs),
    /// Run programs and show what each op returned and what the kernel said.
    Run(run::RunArgs),
    /// Run a finding afresh: k of n, same bug or another, consoles identical or not.
    Repro(repro::ReproArgs),
    /// Make a finding's program as small as still shows it.
    Minimize(minimize::MinimizeArgs),
    /// Build and run a finding's stand-alone reproducer, in a guest that has nothing of ours.
    Bundle(bundle::BundleArgs),
    /// Say whether a patch fixes a finding.
    Prove(prove::ProveArgs),
    /// Find the commit that brought a finding.
    Bisect(bisect::BisectArgs),
    /// Say whether a patch series may go in: hygiene, scenarios, campaign and speed, against the kernel without it.
    Gate(gate::GateArgs),
    /// Measure two kernels against each other: is one slower, by how much, and where does its time go.
    Regress(regress::RegressArgs),
    /// Everything CI runs: format, lints, tests, and guests with a real kernel.
    Test(test::TestArgs),
    /// Judge console or dmesg logs.
    Triage(triage::TriageArgs),
    /// Say what is missing or slow on this machine, and the mend.
    Doctor(doctor::Args),
    /// Install what is missing.
    Setup(setup::Args),
    /// Take out of the cache what was not used for a while.
    Clean(clean::CleanArgs),
    /// Say what boots, epochs and programs cost, as ratios.
    Bench(bench::BenchArgs),
    /// Plant bugs and say which the fuzzer finds, after how many programs.
    Score(score::ScoreArgs),
    /// Say which functions and edges a campaign's corpus reaches.
    Coverage(coverage::CoverageArgs),
    /// Write the few programs of a campaign's corpus that reach most of what it reaches.
    Distill(distill::DistillArgs),
    /// Build kernels.
    Kernel(kernel::Args),
}

fn main() -> std::process::ExitCode {
    if let Some(code) = sandbox::stage() {
        return code;
    }
    exit::code_of(|| match Cli::try_parse() {
        Ok(cli) => dispatch(cli.command),
        Err(error) => exit::usage_from_clap(&error),
    })
}

fn dispatch(command: Command) -> Outcome {
    match command {
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Repro(args) => repro::run(&args),
        Command::Minimize(args) => minimize::run(&args),
        Command::Bundle(args) => bundle::run(&args),
        Command::Prove(args) => prove::run(&args),
        Command::Bisect(args) => bisect::run(&args),
        Command::Gate(args) => gate::run(&args),
        Command::Regress(args) => regress::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Triage(args) => triage::run(&args),
        Command::Doctor(args) => doctor::run(args),
        Command::Setup(args) => setup::run(args),
        Command::Clean(args) => clean::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Coverage(args) => coverage::run(&args),
        Command::Distill(args) => distill::run(&args),
        Command::Kernel(args) => kernel::run(args),
    }
}
