//! The door for people and CI: `cargo xtask check`, `cargo xtask test`, `cargo xtask bench`, `cargo xtask cost`,
//! `cargo xtask deploy`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool talks to its user on the terminal"
)]

mod aws_cli;
mod bench;
mod broker;
mod check;
mod command;
mod cost;
mod deb;
mod debian;
mod deploy;
mod firmware;
mod fuzz;
mod goals;
mod install;
mod package;
mod python;
mod simulation;
mod static_build;
mod suites;
mod table;
mod tally;
mod undeploy;
mod vm;

use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Checks, tests and measures Convoy. Every command works from any folder of the workspace."
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Formatting, clippy, documentation, the bare no_std build, licences and bans, tidy.
    ///
    /// Runs every step, also after one has failed, and exits 1 if any did. cargo-deny is built into
    /// the target folder the first time (a few minutes).
    Check,
    /// Install what the suites need, run them, and end in a table of passed, failed, skipped, seconds.
    #[command(after_help = suites::help())]
    Test {
        /// The suites to run, in the order of the list below; none means all of them.
        #[arg(value_name = "SUITE", value_parser = PossibleValuesParser::new(suites::names()))]
        suites: Vec<String>,
    },
    /// Measure, and print each metric beside its goal. A goal that is not met is not a failure.
    #[command(after_help = bench::help())]
    Bench {
        /// The groups to measure; none means all of them.
        #[arg(value_name = "GROUP", value_parser = PossibleValuesParser::new(bench::names()))]
        groups: Vec<String>,
        /// Print one JSON object a line instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Feed the agent's parsers with what libFuzzer makes up; exits 1 if it finds something.
    ///
    /// cargo-fuzz is built into the target folder the first time. What is found lies in fuzz/artifacts.
    Fuzz {
        /// The targets, files of fuzz/fuzz_targets; none means all of them.
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
        /// How long each runs.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
    /// Run days of the simulated dongle against the agent: bad lines, resets, cables that are pulled out.
    ///
    /// A seed that fails is printed, and runs again in the same way with --seed.
    Sim(simulation::Options),
    /// Build the firmware of every board and print how much of its memories it takes.
    ///
    /// The compiler is Debian's, unpacked below the target folder the first time (a minute, 250 MB), not installed.
    /// For each board with a boot loader, target/firmware/BOARD holds what goes onto it: the boot loader, the first slot
    /// as the factory fills it, and the file that `convoy-agent dongle update` takes.
    Firmware(firmware::Options),
    /// What a month on AWS costs, step by step, beside the naive reading; and which quota breaks first.
    ///
    /// Without arguments: 1,000, 100,000 and 1,000,000 vehicles with windows of 60 and 300 s. docs/cost.md says what
    /// the figures stand on.
    Cost(cost::Options),
    /// Build the agent as it ships and pack it as a Debian package, with its systemd unit.
    Deb,
    /// Build the zip with the `bootstrap` that all functions on AWS share, and print its size.
    Package,
    /// Show what a deployment of the stack would change, and do it with --yes.
    ///
    /// Packages, uploads to a bucket of its own, and makes a change set. docs/aws.md explains the parameters.
    Deploy(deploy::Options),
    /// Show what removing the stack would delete, and do it with --yes.
    ///
    /// Customers' queues and rules first, which the stack does not know; then the stack. Tables, bucket and secret
    /// outlive it without --data.
    Undeploy(undeploy::Options),
    /// Joins standard input and output to a port; for the suite `vm`.
    #[command(hide = true)]
    VmForward { host: String, port: u16 },
}

fn main() -> ExitCode {
    let succeeded = match Arguments::parse().task {
        Task::Check => check::run(),
        Task::Test { suites } => suites::run(&suites),
        Task::Bench { groups, json } => bench::run(&groups, json),
        Task::Fuzz { targets, seconds } => fuzz::run(&targets, seconds).map(|tally| tally.failed == 0),
        Task::Sim(options) => simulation::run(&options),
        Task::Firmware(options) => firmware::run(&options),
        Task::Cost(options) => cost::run(&options),
        Task::Deb => deb::run(),
        Task::Package => package::run().map(|_| true),
        Task::Deploy(options) => deploy::run(&options),
        Task::Undeploy(options) => undeploy::run(&options),
        Task::VmForward { host, port } => return vm::forward::run(&host, port),
    };
    match succeeded {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
