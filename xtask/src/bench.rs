//! `cargo xtask bench`: runs the measuring programs and prints their metrics beside the goals.
//!
//! A measuring program is the example `bench_GROUP` of a package. It prints one JSON object
//! a line: `{"metric":"agent.binary_mib","value":4.1,"unit":"MiB"}`, with `peer` and `peer_value`
//! where a peer was measured in the same run. The group `cost` adds what the cost model makes of the measured sizes;
//! the group `dongle` has no such program: `firmware` measures its image and the suite's flood.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Number, Value};

use crate::command::{cargo, run_streaming, shown, target_dir};
use crate::goals::{GOALS, Goal, goal_of};
use crate::table::{Align, render};
use crate::{cost, firmware, package, python};

struct Group {
    name: &'static str,
    about: &'static str,
    /// The package whose example it is.
    package: &'static str,
    need: Need,
}

/// What is made before a program measures it.
#[derive(Clone, Copy)]
enum Need {
    Nothing,
    /// A Python with cantools.
    Cantools,
    /// The agent as it ships.
    Agent,
    /// The release binaries.
    Binaries,
    /// The functions as they are deployed, the emulator, and a Python with what functions in Python stand on.
    Functions,
    /// The image of the dongle; `firmware` does the measuring, with the suite's flood.
    Firmware,
}

const SIMULATOR: &str = "convoy-simulator";

const GROUPS: &[Group] = &[
    Group {
        name: "decode",
        about: "frames in memory to physical values, beside cantools",
        package: SIMULATOR,
        need: Need::Cantools,
    },
    Group {
        name: "wire",
        about: "bytes a sample, encode and decode speed",
        package: SIMULATOR,
        need: Need::Nothing,
    },
    Group {
        name: "agent",
        about: "size, memory and speed of convoy-agent as it ships, also on four full buses",
        package: SIMULATOR,
        need: Need::Agent,
    },
    Group {
        name: "dongle",
        about: "memories of the dongle's firmware, and frames a second on an emulated board, the best of 3 runs",
        package: SIMULATOR,
        need: Need::Firmware,
    },
    Group { name: "local", about: "end to end on one machine", package: SIMULATOR, need: Need::Binaries },
    Group {
        name: "demo",
        about: "time from start to the first event delivered",
        package: SIMULATOR,
        need: Need::Binaries,
    },
    Group {
        name: "cost",
        about: "sizes that AWS bills by, and the month's bill",
        package: SIMULATOR,
        need: Need::Nothing,
    },
    Group {
        name: "lambda",
        about: "the ingest function on AWS beside one in Python",
        package: "convoy-aws",
        need: Need::Functions,
    },
];

/// One measured value.
#[derive(Clone, Debug, PartialEq)]
struct Metric {
    metric: String,
    value: Number,
    unit: String,
    /// Another program measured in the same run, and its value in the same unit.
    peer: Option<(String, Number)>,
}

/// The names that `cargo xtask bench` takes.
pub(crate) fn names() -> Vec<&'static str> {
    GROUPS.iter().map(|group| group.name).collect()
}

/// The list of groups below `cargo xtask bench --help`.
pub(crate) fn help() -> String {
    let mut text = "Groups:\n".to_owned();
    for group in GROUPS {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  {:<6} {}", group.name, group.about);
    }
    text
}

/// Measures the groups named in `wanted` (all, if empty); `false` if one could not be measured.
/// Progress and failures go to standard error, so that standard output holds the numbers alone.
///
/// # Errors
/// When cargo cannot be started.
pub(crate) fn run(wanted: &[String], json: bool) -> Result<bool> {
    let mut metrics = Vec::new();
    let mut failed = Vec::new();
    let groups: Vec<&Group> = GROUPS
        .iter()
        .filter(|group| wanted.is_empty() || wanted.iter().any(|name| name == group.name))
        .collect();
    for group in &groups {
        eprintln!("== {}: {}", group.name, group.about);
        match measure(group) {
            Ok(measured) if json => measured.iter().for_each(|metric| println!("{}", json_line(metric))),
            Ok(measured) => metrics.extend(measured),
            Err(error) => {
                eprintln!("== {}: failed: {error:#}", group.name);
                failed.push(group.name);
            }
        }
    }
    if !json {
        if !metrics.is_empty() {
            print!("{}", people_table(&metrics));
        }
        for goal in unmeasured(&groups, &metrics) {
            println!("not measured: {} (goal {} {})", goal.metric, goal.sign(), readable(goal.value));
        }
    }
    if !failed.is_empty() {
        eprintln!("failed: {}", failed.join(", "));
    }
    Ok(failed.is_empty())
}

fn measure(group: &Group) -> Result<Vec<Metric>> {
    let example = format!("bench_{}", group.name);
    let mut program = cargo(&["run", "--release", "-q", "-p", group.package, "--example", &example]);
    match group.need {
        Need::Nothing => {}
        Need::Firmware => {
            let measured = firmware::measure()?.into_iter();
            return Ok(measured
                .filter_map(|(name, value, unit)| own_metric((name, value, unit, None)))
                .collect());
        }
        Need::Cantools => {
            program.env("CONVOY_VEHICLE_PYTHON", python::vehicle()?);
        }
        Need::Agent => {
            let mut build = cargo(&["build", "--profile", "agent", "-q", "-p", "convoy-agent"]);
            let status = run_streaming(&mut build, |line| eprintln!("{line}"))?;
            ensure!(status.success(), "`{}` failed ({status})", shown(&build));
            program.env("CONVOY_AGENT_BIN", target_dir()?.join("agent/convoy-agent"));
        }
        Need::Binaries => {
            let mut build = cargo(&["build", "--release", "-q", "-p", "convoy", "-p", "convoy-agent"]);
            let status = run_streaming(&mut build, |line| eprintln!("{line}"))?;
            ensure!(status.success(), "`{}` failed ({status})", shown(&build));
        }
        Need::Functions => {
            let built = package::run()?;
            program.env("CONVOY_BOOTSTRAP", built.program).env("CONVOY_LAMBDA_ZIP", built.zip);
            program.env("CONVOY_MINISTACK", python::tools()?.program("ministack"));
            program.env("CONVOY_PEER_PYTHON", python::peer()?);
        }
    }
    let mut lines = Vec::new();
    let status = run_streaming(&mut program, |line| lines.push(line.to_owned()))?;
    ensure!(status.success(), "`{}` failed ({status})", shown(&program));
    let mut metrics = parse_lines(&lines, group.name)?;
    ensure!(!metrics.is_empty(), "`{}` printed no metric", shown(&program));
    if group.name == "cost" {
        let value = |name: &str| metrics.iter().find(|metric| metric.metric == name)?.value.as_f64();
        cost::check_sizes(value)?;
        metrics.extend(cost::metrics()?.into_iter().filter_map(own_metric));
    }
    Ok(metrics)
}

/// A metric of the cost model, or one that xtask measured; `None` for one that is no finite number.
fn own_metric((metric, value, unit, peer): cost::ModelMetric) -> Option<Metric> {
    let peer = match peer {
        Some((name, value)) => Some((name.to_owned(), Number::from_f64(value)?)),
        None => None,
    };
    Some(Metric { metric: metric.to_owned(), value: Number::from_f64(value)?, unit: unit.to_owned(), peer })
}

fn parse_lines(lines: &[String], group: &str) -> Result<Vec<Metric>> {
    let mut metrics: Vec<Metric> = Vec::new();
    for line in lines.iter().filter(|line| !line.trim().is_empty()) {
        let metric = parse_line(line).with_context(|| format!("the line `{line}`"))?;
        if metric.metric.split('.').next() != Some(group) {
            bail!("the metric {} does not begin with its group, {group}", metric.metric);
        }
        if metrics.iter().any(|earlier| earlier.metric == metric.metric) {
            bail!("the metric {} was printed twice", metric.metric);
        }
        metrics.push(metric);
    }
    Ok(metrics)
}

fn parse_line(line: &str) -> Result<Metric> {
    let object: Value = serde_json::from_str(line).context("is not JSON")?;
    let text = |key: &str| object[key].as_str().map(str::to_owned);
    let number = |key: &str| object[key].as_number().cloned();
    let peer = match (text("peer"), number("peer_value")) {
        (Some(name), Some(value)) => Some((name, value)),
        (None, None) => None,
        _ => bail!("has one of peer and peer_value without the other"),
    };
    Ok(Metric {
        metric: text("metric").context("lacks the text `metric`")?,
        value: number("value").context("lacks the number `value`")?,
        unit: text("unit").context("lacks the text `unit`")?,
        peer,
    })
}

/// One JSON object, keys in the order in which a person reads them.
fn json_line(metric: &Metric) -> String {
    let text = |text: &str| Value::from(text).to_string();
    let mut line = format!(
        r#"{{"metric":{},"value":{},"unit":{}"#,
        text(&metric.metric),
        metric.value,
        text(&metric.unit)
    );
    // Writing into a String cannot fail.
    if let Some((name, value)) = &metric.peer {
        let _ = write!(line, r#","peer":{},"peer_value":{value}"#, text(name));
    }
    if let Some(goal) = goal_of(&metric.metric) {
        let _ = write!(line, r#","goal":"{} {}""#, goal.sign(), goal.value);
    }
    line.push('}');
    line
}

fn people_table(metrics: &[Metric]) -> String {
    let rows: Vec<Vec<String>> = metrics.iter().map(row).collect();
    let header = [
        ("metric", Align::Left),
        ("value", Align::Right),
        ("unit", Align::Left),
        ("goal", Align::Right),
        ("met", Align::Left),
        ("peer", Align::Left),
    ];
    render(&header, &rows)
}

fn row(metric: &Metric) -> Vec<String> {
    let value = metric.value.as_f64().unwrap_or(f64::NAN);
    let (goal, met) = match goal_of(&metric.metric) {
        Some(goal) => {
            let met = if goal.is_met_by(value) { "yes" } else { "no" };
            (format!("{} {}", goal.sign(), readable(goal.value)), met)
        }
        None => (String::new(), ""),
    };
    let peer = metric
        .peer
        .as_ref()
        .map(|(name, value)| format!("{name} {}", readable(value.as_f64().unwrap_or(f64::NAN))));
    vec![
        metric.metric.clone(),
        readable(value),
        metric.unit.clone(),
        goal,
        met.to_owned(),
        peer.unwrap_or_default(),
    ]
}

/// Goals of the measured groups for which no program printed a value: named, not hidden.
fn unmeasured(groups: &[&Group], metrics: &[Metric]) -> Vec<&'static Goal> {
    let in_group = |goal: &&Goal| {
        let prefix = goal.metric.split('.').next();
        groups.iter().any(|group| Some(group.name) == prefix)
    };
    GOALS
        .iter()
        .filter(in_group)
        .filter(|goal| !metrics.iter().any(|metric| metric.metric == goal.metric))
        .collect()
}

/// A value for the eye: whole and in groups of three digits from 1,000 on, else three decimals.
pub(crate) fn readable(value: f64) -> String {
    if value.abs() < 1_000.0 {
        let text = format!("{value:.3}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        let remaining = digits.len() - index;
        if index > 0 && remaining % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(line: &str) -> Metric {
        parse_line(line).unwrap()
    }

    fn refusal(lines: &[&str]) -> String {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        format!("{:#}", parse_lines(&lines, "wire").unwrap_err())
    }

    const DRIVE: &str = r#"{"metric":"wire.bytes_per_sample.drive.1000","value":0.74,"unit":"B"}"#;

    #[test]
    fn a_line_is_read_with_its_peer() {
        let parsed = metric(r#"{"metric":"wire.x","value":7,"unit":"B","peer":"other","peer_value":7.33}"#);
        assert_eq!(parsed.value, Number::from(7));
        assert_eq!(parsed.peer, Some(("other".to_owned(), Number::from_f64(7.33).unwrap())));
        assert_eq!(metric(DRIVE).peer, None);
    }

    #[test]
    fn lines_that_are_no_metric_are_refused_with_the_reason() {
        let no_unit = r#"{"metric":"wire.x","value":1}"#;
        assert_eq!(refusal(&[no_unit]), format!("the line `{no_unit}`: lacks the text `unit`"));
        let half_peer = r#"{"metric":"wire.x","value":1,"unit":"B","peer":"other"}"#;
        assert!(refusal(&[half_peer]).ends_with("without the other"));
        assert!(refusal(&["warming up"]).starts_with("the line `warming up`: is not JSON"));
        assert_eq!(refusal(&[DRIVE, DRIVE]), "the metric wire.bytes_per_sample.drive.1000 was printed twice");
        let foreign = r#"{"metric":"agent.binary_mib","value":1,"unit":"MiB"}"#;
        assert_eq!(refusal(&[foreign]), "the metric agent.binary_mib does not begin with its group, wire");
    }

    #[test]
    fn a_json_line_keeps_the_order_and_adds_the_goal() {
        let expected =
            r#"{"metric":"wire.bytes_per_sample.drive.1000","value":0.74,"unit":"B","goal":"<= 0.52"}"#;
        assert_eq!(json_line(&metric(DRIVE)), expected);
        let peered = r#"{"metric":"wire.x","value":7,"unit":"B","peer":"a \"b\"","peer_value":7.33}"#;
        assert_eq!(json_line(&metric(peered)), peered);
    }

    #[test]
    fn the_table_says_whether_the_goal_is_met() {
        let fast = metric(r#"{"metric":"decode.frames_per_s.truck","value":31000000,"unit":"1/s"}"#);
        let expected = "\
metric                                 value  unit           goal  met  peer
wire.bytes_per_sample.drive.1000        0.74  B           <= 0.52  no
decode.frames_per_s.truck         31,000,000  1/s   >= 30,000,000  yes
";
        assert_eq!(people_table(&[metric(DRIVE), fast]), expected);
    }

    #[test]
    fn goals_without_a_value_are_named() {
        let group = GROUPS.iter().find(|group| group.name == "decode").unwrap();
        let measured = metric(r#"{"metric":"decode.frames_per_s.truck","value":1,"unit":"1/s"}"#);
        let left: Vec<&str> = unmeasured(&[group], &[measured]).iter().map(|goal| goal.metric).collect();
        assert_eq!(left, ["decode.allocs_per_frame"]);
    }

    #[test]
    fn values_are_readable_at_any_size() {
        assert_eq!(readable(0.0), "0");
        assert_eq!(readable(0.7404), "0.74");
        assert_eq!(readable(999.5), "999.5");
        assert_eq!(readable(1_000.0), "1,000");
        assert_eq!(readable(-123_456.0), "-123,456");
        assert_eq!(readable(88_000_000.4), "88,000,000");
    }
}
