//! `cargo xtask check`: everything that is judged without running the product.

use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::command::{cargo, command, run_streaming, shown, target_dir};
use crate::install;
use crate::tally::Tally;

/// One step: what it is called and how cargo is asked for it.
struct Step {
    name: &'static str,
    arguments: &'static [&'static str],
}

const LM3S6965: &str = "firmware/board-lm3s6965/Cargo.toml";
const STM32F4: &str = "firmware/board-stm32f4/Cargo.toml";

const STEPS: &[Step] = &[
    Step { name: "fmt", arguments: &["fmt", "--all", "--check"] },
    // Outside the workspace, so the step above does not see them.
    Step { name: "fmt lm3s6965", arguments: &["fmt", "--manifest-path", LM3S6965, "--check"] },
    Step { name: "fmt stm32f4", arguments: &["fmt", "--manifest-path", STM32F4, "--check"] },
    Step { name: "clippy", arguments: &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"] },
    Step { name: "doc", arguments: &["doc", "--workspace", "--no-deps"] },
    // Elsewhere the workspace's features are united, so only this build shows a use of `alloc` or
    // of std that slipped out of its feature.
    Step {
        name: "bare",
        arguments: &["check", "-p", "convoy-protocol", "-p", "convoy-dongle", "-p", "convoy-controllers"],
    },
];

/// Advisories need a network, so they are not among the checks.
const DENY: &[&str] = &["--locked", "check", "licenses", "bans", "sources"];

const TIDY: Step = Step { name: "tidy", arguments: &["test", "-p", "convoy-simulator", "--test", "tidy"] };

/// Runs every step and tidy; `false` if any failed.
///
/// # Errors
/// When cargo cannot be started.
pub(crate) fn run() -> Result<bool> {
    let mut tally = steps()?;
    tally += run_step(TIDY.name, &mut step_command(&TIDY))?;
    println!("\n{}", tally.closing_line());
    Ok(tally.failed == 0)
}

/// Runs every step but tidy, which `cargo xtask test` has as a suite of its own.
///
/// # Errors
/// When cargo cannot be started.
pub(crate) fn steps() -> Result<Tally> {
    let mut tally = Tally::default();
    for step in STEPS {
        tally += run_step(step.name, &mut step_command(step))?;
    }
    match target_dir().and_then(|folder| install::cargo_deny(&folder)) {
        Ok(program) => {
            tally += run_step("deny", command(&program).args(DENY))?;
            for (name, board) in [("deny lm3s6965", LM3S6965), ("deny stm32f4", STM32F4)] {
                let of_board = ["--manifest-path", board, "--config", "deny.toml"];
                tally += run_step(name, command(&program).args(of_board).args(DENY))?;
            }
        }
        Err(error) => {
            println!("-- deny: failed: {error:#}");
            tally += Tally::step(false);
        }
    }
    Ok(tally)
}

fn step_command(step: &Step) -> Command {
    let mut command = cargo(step.arguments);
    if step.name == "doc" {
        command.env("RUSTDOCFLAGS", "-D warnings");
    }
    command
}

fn run_step(name: &str, command: &mut Command) -> Result<Tally> {
    println!("-- {name}: {}", shown(command));
    let started = Instant::now();
    let status = run_streaming(command, |line| println!("{line}"))?;
    let outcome = if status.success() { "passed" } else { "failed" };
    println!("-- {name}: {outcome} in {:.1} s", started.elapsed().as_secs_f64());
    Ok(Tally::step(status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_warnings_are_errors_in_the_doc_step_only() {
        for step in STEPS {
            let command = step_command(step);
            let flags = command.get_envs().find(|(name, _)| *name == "RUSTDOCFLAGS");
            assert_eq!(flags.is_some(), step.name == "doc", "{}", step.name);
        }
    }

    #[test]
    fn a_step_is_counted_by_its_exit_code() {
        assert_eq!(run_step("good", &mut command("true")).unwrap(), Tally::step(true));
        assert_eq!(run_step("bad", &mut command("false")).unwrap(), Tally::step(false));
    }
}
