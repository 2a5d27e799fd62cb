//! `cargo xtask test`: the table of suites, and how one after the other is run and counted.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::broker::Mosquitto;
use crate::command::{cargo, command, run_streaming, shown};
use crate::python::{self, Tools};
use crate::table::{Align, render};
use crate::tally::Tally;
use crate::vm::{self, Forward, Vm, VmOptions, VmOutcome};
use crate::{check, firmware, fuzz, install, package, static_build};

/// What a suite wants to find before it starts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The suite `build` has run and succeeded.
    ReleaseBinaries,
    /// Debian's Mosquitto, for the part that runs against a broker of its own.
    Mosquitto,
    /// Debian's PostgreSQL, for the reference database on a server of its own.
    Postgres,
    /// The emulator of AWS, its command line and the template's linters, from PyPI.
    AwsTools,
    /// The zip of the functions and the bridge, built as they are deployed.
    Functions,
    /// Other ends of SLCAN, ISO-TP and UDS, from PyPI.
    VehicleTools,
    /// A virtual machine whose kernel has CAN, from Debian's packages.
    Vm,
    /// The images of the boards, and what emulates one.
    Firmware,
}

/// How a suite is run.
#[derive(Clone, Copy)]
enum Run {
    /// The steps of `cargo xtask check` but tidy.
    Check,
    /// Cargo commands, each counted as one step.
    Steps(&'static [&'static [&'static str]]),
    /// Cargo commands whose test binaries say how many tests passed.
    Tests(&'static [&'static [&'static str]]),
    /// The test program of this name, built for release, counted in the same way.
    ReleaseTests(&'static str),
    /// The agent's test program of this name, linked statically, in the virtual machine, counted in the same way.
    VmTests(&'static str),
    /// The fuzz targets, each counted as one test.
    Fuzz,
    /// The linters of the AWS template, each counted as one step.
    Template,
}

/// The features of a dependency are united over the packages that a command names. All commands of
/// a profile therefore name the same ones (the whole workspace; these three), though only one has
/// the test: naming that one alone would build serde, tokio and what stands on them once more.
const RELEASED: &[&str] = &["-p", "convoy", "-p", "convoy-agent", "-p", "convoy-simulator"];

struct Suite {
    name: &'static str,
    about: &'static str,
    needs: &'static [Need],
    run: Run,
}

const BUILD: &str = "build";

/// For the tests in the virtual machine, whose processor is emulated.
const VM_TIMEOUT: Duration = Duration::from_secs(400);

/// The port at which the virtual machine reaches one that echoes.
const ECHO_PORT: u16 = 7;
/// Port of the broker as the virtual machine sees it.
const BROKER_PORT: u16 = 1883;

/// How long a fuzz target runs in the suite.
const FUZZ_SECONDS: u64 = 30;

/// In the order in which they run: what fails fastest comes first.
const SUITES: &[Suite] = &[
    Suite {
        name: "check",
        about: "formatting, clippy, documentation, bare build, licences and bans",
        needs: &[],
        run: Run::Check,
    },
    Suite {
        name: "unit",
        about: "unit, golden, scenario, property and documentation tests of every crate",
        // For the vehicle's rights on a broker of its own, the reference database, the ports on AWS, and adapters.
        needs: &[Need::Mosquitto, Need::Postgres, Need::AwsTools, Need::VehicleTools],
        // The simulator's own test programs are the suites below.
        run: Run::Tests(&[
            &["test", "--no-fail-fast", "--workspace", "--lib", "--bins"],
            &["test", "--no-fail-fast", "--workspace", "--exclude", "convoy-simulator", "--test", "*"],
            &["test", "--no-fail-fast", "--workspace", "--exclude", "convoy-simulator", "--doc"],
        ]),
    },
    Suite {
        name: "tidy",
        about: "crate arrows, sizes, names and words of the source tree",
        needs: &[],
        run: Run::Tests(&[&["test", "--workspace", "--test", "tidy"]]),
    },
    Suite {
        name: "sim",
        about: "the dongle's main loop against the agent on simulated lines, 200 seeds; cargo xtask sim runs more",
        needs: &[],
        run: Run::Tests(&[&["test", "--workspace", "--test", "simulation"]]),
    },
    Suite {
        name: "template",
        about: "the AWS template under cfn-lint and sam validate",
        needs: &[Need::AwsTools],
        run: Run::Template,
    },
    Suite {
        name: BUILD,
        about: "the release binaries that the suites below start",
        needs: &[],
        run: Run::Steps(&[&["build", "--release", "-p", "convoy", "-p", "convoy-agent"]]),
    },
    Suite {
        name: "e2e",
        about: "vehicle to customer with the real binaries, embedded broker and Mosquitto",
        needs: &[Need::ReleaseBinaries, Need::Mosquitto],
        run: Run::ReleaseTests("e2e"),
    },
    Suite {
        name: "crash",
        about: "kill -9 of agent, cloud and broker at random moments: nothing lost, nothing twice",
        needs: &[Need::ReleaseBinaries, Need::Mosquitto],
        run: Run::ReleaseTests("crash"),
    },
    Suite {
        name: "demo",
        about: "the demo starts, delivers, prints working commands and ends by itself",
        needs: &[Need::ReleaseBinaries],
        run: Run::ReleaseTests("demo"),
    },
    Suite {
        name: "vm",
        about: "SocketCAN on a real kernel: Debian's, in a virtual machine with virtual buses and two controllers",
        needs: &[Need::Mosquitto, Need::Vm],
        run: Run::VmTests("socketcan"),
    },
    Suite {
        name: "firmware",
        about: "the dongle's firmware on an emulated microcontroller: from the bus onto the link, and into the agent",
        needs: &[Need::Firmware],
        // The first builds the agent's program, as it is built with any test of its package, and with the same features.
        run: Run::Tests(&[
            &["test", "--workspace", "--no-run", "--test", "run"],
            &["test", "--workspace", "--test", "firmware"],
        ]),
    },
    Suite {
        name: "fuzz",
        about: "every fuzz target for 30 s; cargo xtask fuzz runs them for longer",
        needs: &[],
        run: Run::Fuzz,
    },
    Suite {
        name: "aws",
        about: "the AWS template deployed on an emulator, vehicle to customer, beside the single machine",
        needs: &[Need::ReleaseBinaries, Need::Mosquitto, Need::Postgres, Need::AwsTools, Need::Functions],
        run: Run::ReleaseTests("aws"),
    },
];

/// How one suite ended.
struct Outcome {
    name: &'static str,
    tally: Tally,
    seconds: f64,
}

/// The names that `cargo xtask test` takes.
pub(crate) fn names() -> Vec<&'static str> {
    SUITES.iter().map(|suite| suite.name).collect()
}

/// The list of suites below `cargo xtask test --help`.
pub(crate) fn help() -> String {
    let mut text = "Suites:\n".to_owned();
    for suite in SUITES {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  {:<8} {}", suite.name, suite.about);
    }
    text.push_str(
        "\nunit, e2e, crash and aws need Debian's mosquitto, unit and aws also its postgresql: they are installed with apt-get \
         as root or\nthrough `sudo -n`. vm and firmware need an x86-64 Debian: QEMU, a kernel and a compiler are unpacked below the \
         target folder,\nnot installed.\nWhere that is not possible that part is skipped; with CI=true that is a failure.",
    );
    text
}

/// Runs the suites named in `wanted` (all, if empty) and prints the closing table; `false` if
/// anything failed.
///
/// # Errors
/// When cargo cannot be started.
pub(crate) fn run(wanted: &[String]) -> Result<bool> {
    let mut session = Session::default();
    let mut outcomes = Vec::new();
    for suite in selected(wanted) {
        println!("\n== {}: {}", suite.name, suite.about);
        let started = Instant::now();
        let tally = session.run(suite)?;
        let seconds = started.elapsed().as_secs_f64();
        let verdict = if tally.failed == 0 { "passed" } else { "FAILED" };
        println!("== {}: {verdict} in {seconds:.1} s", suite.name);
        outcomes.push(Outcome { name: suite.name, tally, seconds });
    }
    let total = outcomes.iter().fold(Tally::default(), |mut total, outcome| {
        total += outcome.tally;
        total
    });
    println!("\n{}", closing_table(&outcomes));
    for remark in &session.remarks {
        println!("{remark}");
    }
    println!("{}", total.closing_line());
    Ok(total.failed == 0)
}

/// The suites to run, in the order of the table; `build` comes with those that need it.
fn selected(wanted: &[String]) -> Vec<&'static Suite> {
    let named = |suite: &&Suite| wanted.is_empty() || wanted.iter().any(|name| name == suite.name);
    let builds = SUITES.iter().filter(named).any(|suite| suite.needs.contains(&Need::ReleaseBinaries));
    SUITES.iter().filter(|suite| named(suite) || (builds && suite.name == BUILD)).collect()
}

/// What the suites of one run know of each other.
#[derive(Default)]
struct Session {
    build_failed: bool,
    /// Asked for once; the reason if it is not to be had.
    mosquitto: Option<Result<(), String>>,
    /// The folder with its programs; as above.
    postgres: Option<Result<PathBuf, String>>,
    /// As above.
    aws_tools: Option<Result<Tools, String>>,
    /// As above.
    vm: Option<Result<Vm, String>>,
    /// Sentences about what was skipped or counted in an unusual way, repeated below the table.
    remarks: Vec<String>,
}

impl Session {
    fn run(&mut self, suite: &Suite) -> Result<Tally> {
        if suite.needs.contains(&Need::ReleaseBinaries) && self.build_failed {
            self.remark(format!("{}: skipped, because the release build failed", suite.name));
            return Ok(Tally { skipped: 1, ..Tally::default() });
        }
        let mut variables = Vec::new();
        let (mut tally, is_ready) = self.provide(suite, &mut variables);
        if !is_ready {
            return Ok(tally);
        }
        tally += match suite.run {
            Run::Template => lint(&self.aws_tools().map_err(anyhow::Error::msg)?)?,
            Run::Check => check::steps()?,
            Run::Steps(commands) => run_steps(commands)?,
            Run::Tests(commands) => self.run_tests(suite.name, commands, &variables)?,
            Run::ReleaseTests(program) => {
                let arguments = [&["test", "--release"], RELEASED, &["--test", program]].concat();
                self.run_tests(suite.name, &[&arguments], &variables)?
            }
            Run::Fuzz => fuzz::run(&[], FUZZ_SECONDS)?,
            Run::VmTests(program) => self.run_in_vm(suite.name, program)?,
        };
        if suite.name == BUILD {
            self.build_failed = tally.failed > 0;
        }
        Ok(tally)
    }

    /// Sees to what the suite needs: `false` if it cannot run without what is missing. Where things are its programs are
    /// told by `variables`.
    fn provide(&mut self, suite: &Suite, variables: &mut Vec<(&'static str, PathBuf)>) -> (Tally, bool) {
        let mut tally = Tally::default();
        if suite.needs.contains(&Need::Mosquitto)
            && let Err(reason) = self.mosquitto()
        {
            variables.push(("CONVOY_SKIP_MOSQUITTO", PathBuf::from("1")));
            tally += self.without(suite.name, "Mosquitto", &reason);
        }
        if suite.needs.contains(&Need::Postgres) {
            match self.postgres() {
                Ok(folder) => variables.push(("CONVOY_POSTGRES_BIN", folder)),
                Err(reason) => tally += self.without(suite.name, "PostgreSQL", &reason),
            }
        }
        if suite.needs.contains(&Need::AwsTools) {
            match self.aws_tools() {
                Ok(tools) => {
                    variables.push(("CONVOY_MINISTACK", tools.program("ministack")));
                    variables.push(("CONVOY_AWS_CLI", tools.program("aws")));
                }
                Err(reason) => {
                    tally += self.without(suite.name, "AWS", &reason);
                    return (tally, false);
                }
            }
        }
        if suite.needs.contains(&Need::VehicleTools) {
            match python::vehicle() {
                Ok(python) => variables.push(("CONVOY_VEHICLE_PYTHON", python)),
                Err(error) => {
                    tally += self.without(suite.name, "the vehicle's other ends", &format!("{error:#}"))
                }
            }
        }
        if suite.needs.contains(&Need::Functions) {
            if tally != Tally::default() {
                return (tally, false);
            }
            match package::with_bridge() {
                Ok(built) => {
                    variables.push(("CONVOY_LAMBDA_ZIP", built.zip));
                    variables.push(("CONVOY_AWS_BIN", built.folder));
                }
                Err(error) => {
                    self.remark(format!("{}: failed, there are no functions: {error:#}", suite.name));
                    return (Tally::step(false), false);
                }
            }
        }
        if suite.needs.contains(&Need::Vm)
            && let Err(reason) = self.vm()
        {
            tally += self.without(suite.name, "virtual machine", &reason);
            return (tally, false);
        }
        if suite.needs.contains(&Need::Firmware) {
            return self.provide_firmware(suite.name, variables);
        }
        (tally, true)
    }

    fn provide_firmware(
        &mut self,
        suite: &str,
        variables: &mut Vec<(&'static str, PathBuf)>,
    ) -> (Tally, bool) {
        if let Err(error) = firmware::prepare() {
            return (self.without(suite, "emulated", &format!("{error:#}")), false);
        }
        match firmware::emulation() {
            Ok(built) => {
                variables.extend(built.variables());
                (Tally::default(), true)
            }
            Err(error) => {
                self.remark(format!("{suite}: failed, there is no firmware: {error:#}"));
                (Tally::step(false), false)
            }
        }
    }

    fn mosquitto(&mut self) -> Result<(), String> {
        self.mosquitto
            .get_or_insert_with(|| install::mosquitto().map_err(|error| format!("{error:#}")))
            .clone()
    }

    fn postgres(&mut self) -> Result<PathBuf, String> {
        self.postgres.get_or_insert_with(|| install::postgres().map_err(|error| format!("{error:#}"))).clone()
    }

    fn aws_tools(&mut self) -> Result<Tools, String> {
        self.aws_tools.get_or_insert_with(|| python::tools().map_err(|error| format!("{error:#}"))).clone()
    }

    fn vm(&mut self) -> Result<Vm, String> {
        self.vm.get_or_insert_with(|| vm::prepare().map_err(|error| format!("{error:#}"))).clone()
    }

    /// A part that does not run is skipped in front of a person, and a failure in CI, where nobody
    /// would notice it.
    fn without(&mut self, suite: &str, part: &str, reason: &str) -> Tally {
        if std::env::var("CI").is_ok_and(|value| value == "true") {
            self.remark(format!("{suite}: failed in CI, its {part} part cannot run: {reason}"));
            return Tally::step(false);
        }
        self.remark(format!("{suite}: its {part} part is skipped: {reason}"));
        Tally { skipped: 1, ..Tally::default() }
    }

    fn run_tests(
        &mut self,
        suite: &str,
        commands: &[&[&str]],
        variables: &[(&str, PathBuf)],
    ) -> Result<Tally> {
        let mut tally = Tally::default();
        for arguments in commands {
            let mut command = cargo(arguments);
            command.envs(variables.iter().map(|(name, value)| (name, value)));
            println!("-- {}", shown(&command));
            let mut counted = Tally::default();
            let status = run_streaming(&mut command, |line| count(line, &mut counted))?;
            if !status.success() && counted.failed == 0 {
                counted.failed =
                    self.one_failure(suite, &format!("`{}` ended with {status}", shown(&command)));
            }
            tally += counted;
        }
        if tally.executed() == 0 {
            tally.failed = self.one_failure(suite, "no test ran");
        }
        Ok(tally)
    }

    /// The tests run one after the other: they share the machine's buses.
    fn run_in_vm(&mut self, suite: &str, test: &str) -> Result<Tally> {
        let built = match static_build::agent_with_test(test) {
            Ok(built) => built,
            Err(error) => {
                let failed = self.one_failure(suite, &format!("there is no test program: {error:#}"));
                return Ok(Tally { failed, ..Tally::default() });
            }
        };
        let broker = Mosquitto::start()?;
        let options = VmOptions {
            timeout: VM_TIMEOUT,
            forwards: vec![
                Forward { guest_port: ECHO_PORT, host_port: vm::forward::echo()? },
                Forward { guest_port: BROKER_PORT, host_port: broker.port },
            ],
            controllers: true,
            files: vec![built.agent],
            variables: vec![
                ("CONVOY_AGENT_BIN", format!("{}/convoy-agent", vm::HOST_FOLDER)),
                ("CONVOY_VM_ECHO", format!("{}:{ECHO_PORT}", vm::HOST_ADDRESS)),
                ("CONVOY_VM_BROKER", format!("{}:{BROKER_PORT}", vm::HOST_ADDRESS)),
            ],
        };
        let machine = self.vm().map_err(anyhow::Error::msg)?;
        println!("-- {test} in the virtual machine");
        // Some tests of many, for whoever works on them.
        let wanted = std::env::var("CONVOY_VM_TESTS").unwrap_or_default();
        let arguments: Vec<&str> =
            ["--test-threads=1", "--include-ignored"].into_iter().chain(wanted.split_whitespace()).collect();
        let mut counted = Tally::default();
        let ended = machine.run(&built.test, &arguments, &options, |line| count(line, &mut counted));
        let failure = match ended {
            Ok(VmOutcome::Exited(0)) => None,
            Ok(VmOutcome::Exited(code)) => Some(format!("{test} ended with exit code {code}")),
            Ok(VmOutcome::TimedOut) => Some(format!("{test} was ended after {} s", VM_TIMEOUT.as_secs())),
            Err(error) => Some(format!("{error:#}")),
        };
        match failure {
            Some(failure) if counted.failed == 0 => counted.failed = self.one_failure(suite, &failure),
            None if counted.executed() == 0 => counted.failed = self.one_failure(suite, "no test ran"),
            _ => {}
        }
        Ok(counted)
    }

    /// For what no test program counts: says so, and is the number to count.
    fn one_failure(&mut self, suite: &str, what: &str) -> u64 {
        self.remark(format!("{suite}: {what}: counted as one failure"));
        1
    }

    fn remark(&mut self, sentence: String) {
        println!("{sentence}");
        self.remarks.push(sentence);
    }
}

/// Shows a line of a test program, and counts it if it says how many tests passed.
fn count(line: &str, tally: &mut Tally) {
    println!("{line}");
    if let Some(result) = Tally::from_result_line(line) {
        *tally += result;
    }
}

fn lint(tools: &Tools) -> Result<Tally> {
    const TEMPLATE: &str = "cloud/aws/deploy/template.yaml";
    let mut tally = Tally::default();
    for (program, arguments) in [
        ("cfn-lint", ["--region", "eu-central-1", "--template", TEMPLATE].as_slice()),
        ("sam", &["validate", "--lint", "--region", "eu-central-1", "--template", TEMPLATE]),
    ] {
        let mut command = command(tools.program(program));
        // Otherwise a home folder is written to, and usage is told to somebody.
        command.args(arguments).env("SAM_CLI_TELEMETRY", "0");
        println!("-- {}", shown(&command));
        let status = run_streaming(&mut command, |line| println!("{line}"))?;
        tally += Tally::step(status.success());
    }
    Ok(tally)
}

fn run_steps(commands: &[&[&str]]) -> Result<Tally> {
    let mut tally = Tally::default();
    for arguments in commands {
        let mut command = cargo(arguments);
        println!("-- {}", shown(&command));
        let status = run_streaming(&mut command, |line| println!("{line}"))?;
        tally += Tally::step(status.success());
    }
    Ok(tally)
}

fn closing_table(outcomes: &[Outcome]) -> String {
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|Outcome { name, tally, seconds }| {
            vec![
                (*name).to_owned(),
                tally.passed.to_string(),
                tally.failed.to_string(),
                tally.skipped.to_string(),
                format!("{seconds:.1}"),
            ]
        })
        .collect();
    let header = [
        ("suite", Align::Left),
        ("passed", Align::Right),
        ("failed", Align::Right),
        ("skipped", Align::Right),
        ("seconds", Align::Right),
    ];
    render(&header, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected_names(wanted: &[&str]) -> Vec<&'static str> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        selected(&wanted).iter().map(|suite| suite.name).collect()
    }

    #[test]
    fn no_name_selects_every_suite_in_order() {
        let all = [
            "check", "unit", "tidy", "sim", "template", "build", "e2e", "crash", "demo", "vm", "firmware",
            "fuzz", "aws",
        ];
        assert_eq!(selected_names(&[]), all);
        assert_eq!(names(), all);
    }

    #[test]
    fn a_suite_that_starts_binaries_brings_the_build() {
        assert_eq!(selected_names(&["demo"]), ["build", "demo"]);
        assert_eq!(selected_names(&["crash", "unit"]), ["unit", "build", "crash"]);
        assert_eq!(selected_names(&["tidy"]), ["tidy"]);
    }

    #[test]
    fn suites_after_a_failed_build_are_skipped() {
        let mut session = Session { build_failed: true, ..Session::default() };
        let demo = SUITES.iter().find(|suite| suite.name == "demo").unwrap();
        let expected = Tally { skipped: 1, ..Tally::default() };
        assert_eq!(session.run(demo).unwrap(), expected);
        assert_eq!(session.remarks, ["demo: skipped, because the release build failed"]);
    }

    #[test]
    fn a_command_that_fails_without_a_result_line_is_one_failure() {
        let mut session = Session::default();
        let tally = session.run_tests("odd", &[&["no-such-command"]], &[]).unwrap();
        assert_eq!(tally, Tally::step(false));
    }

    #[test]
    fn a_suite_that_runs_no_test_is_one_failure() {
        let mut session = Session::default();
        let tally = session.run_tests("empty", &[&["--version"]], &[]).unwrap();
        assert_eq!(tally, Tally::step(false));
        assert_eq!(session.remarks, ["empty: no test ran: counted as one failure"]);
    }

    #[test]
    fn the_table_has_a_row_a_suite() {
        let tally = Tally { passed: 12, failed: 0, skipped: 1 };
        let outcomes = [Outcome { name: "unit", tally, seconds: 61.25 }];
        let expected = "suite  passed  failed  skipped  seconds\nunit       12       0        1     61.2\n";
        assert_eq!(closing_table(&outcomes), expected);
    }
}
