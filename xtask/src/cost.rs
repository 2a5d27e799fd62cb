//! `cargo xtask cost`: what a month on AWS costs, step by step of the reference architecture, and which quota breaks first.
//!
//! Three things are multiplied: prices and quotas of the data file, sizes that were measured (`cargo xtask bench cost`),
//! and the number of requests that our design makes, of which the packing of the buses is simulated. Beside it stands
//! the naive reading of the reference, one of everything for each message.

mod bill;
mod book;
mod design;
mod naive;
mod ours;
mod pack;
mod quota;
mod report;
mod units;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use clap::builder::PossibleValuesParser;

use book::{Book, HOME_REGION, REGIONS, Sizes};
use design::{Design, LADDER, Lever};
use ours::Flow;
use pack::Key;

/// What is asked.
#[derive(Args)]
pub(crate) struct Options {
    /// Vehicles; without it an overview of 1,000, 100,000 and 1,000,000 is printed.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    vehicles: Option<u32>,
    /// Seconds of the batch window.
    #[arg(long, default_value_t = 60, requires = "vehicles", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    window: u32,
    /// Customers; by default 5 for 1,000 vehicles, 200 for 100,000, 1,000 for 1,000,000, and between.
    #[arg(long, requires = "vehicles", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    customers: Option<u32>,
    /// Samples (a value of one signal at one time) in a window; by default 15 each ten seconds.
    #[arg(long, requires = "vehicles", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    samples_per_window: Option<u32>,
    /// Hours a day that a vehicle sends.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=24))]
    duty: u32,
    /// Thresholds of alerts for each vehicle; each is a condition that ingest reads and writes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=20))]
    thresholds: u32,
    /// The region.
    #[arg(long, default_value = HOME_REGION, value_parser = PossibleValuesParser::new(REGIONS))]
    region: String,
    /// Change the design; may be given several times.
    #[arg(long = "lever", value_name = "LEVER")]
    levers: Vec<Lever>,
    /// Shorthand for `--lever no-feed`.
    #[arg(long)]
    no_feed: bool,
    /// Print one JSON object a line instead of tables.
    #[arg(long)]
    json: bool,
}

/// Whose month.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scenario {
    vehicles: f64,
    window_s: f64,
    customers: u32,
    samples_per_window: f64,
    duty_hours: f64,
    /// Thresholds of alerts for each vehicle.
    thresholds: f64,
    region: String,
}

/// Samples that a vehicle takes each [`naive::PERIOD_S`].
const SAMPLES_PER_READING: f64 = 15.0;
/// Vehicles and customers, as in the first estimate.
const FLEETS: [(f64, f64); 3] = [(1e3, 5.0), (1e5, 200.0), (1e6, 1e3)];
/// A measured size that is off by more makes the data file wrong.
const SIZE_TOLERANCE: f64 = 0.02;

impl Scenario {
    /// Vehicles that send all day, fifteen samples each ten seconds, with a threshold each.
    pub(crate) fn of(vehicles: f64, window_s: f64) -> Self {
        Self {
            vehicles,
            window_s,
            customers: customers_of(vehicles),
            samples_per_window: SAMPLES_PER_READING * (window_s / naive::PERIOD_S).max(1.0),
            duty_hours: 24.0,
            thresholds: 1.0,
            region: HOME_REGION.to_owned(),
        }
    }
}

fn customers_of(vehicles: f64) -> u32 {
    let [small, middle, large] = FLEETS;
    let (left, right) = if vehicles < middle.0 { (small, middle) } else { (middle, large) };
    let slope = (right.1 / left.1).ln() / (right.0 / left.0).ln();
    (left.1 * (vehicles / left.0).powf(slope)).round().max(1.0) as u32
}

/// Prints what was asked for.
///
/// # Errors
/// When the data file cannot be used.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let book = Book::of_repository()?;
    let mut levers = options.levers.clone();
    if options.no_feed {
        levers.push(Lever::NoFeed);
    }
    let asked = |vehicles: f64, window_s: f64| Scenario {
        duty_hours: f64::from(options.duty),
        thresholds: f64::from(options.thresholds),
        region: options.region.clone(),
        ..Scenario::of(vehicles, window_s)
    };
    let Some(vehicles) = options.vehicles else {
        let scenarios = overview_scenarios(asked);
        print!("{}", report::overview(&book, &scenarios, &levers, options.json));
        return Ok(true);
    };
    let mut scenario = asked(f64::from(vehicles), f64::from(options.window));
    scenario.customers = options.customers.unwrap_or(scenario.customers);
    scenario.samples_per_window = options.samples_per_window.map_or(scenario.samples_per_window, f64::from);
    print!("{}", report::month(&book, &scenario, &levers, options.json));
    Ok(true)
}

/// The fleets of the overview, first with short windows.
fn overview_scenarios(of: impl Fn(f64, f64) -> Scenario) -> Vec<Scenario> {
    let fleets = |window_s| FLEETS.map(|(vehicles, _)| of(vehicles, window_s));
    [60.0, 300.0].into_iter().flat_map(fleets).collect()
}

/// A metric of the model: name, value, unit, and what it is compared with.
pub(crate) type ModelMetric = (&'static str, f64, &'static str, Option<(&'static str, f64)>);

/// The model's metrics for `cargo xtask bench cost`, all with windows of 60 s in us-east-1.
///
/// # Errors
/// When the data file cannot be used.
pub(crate) fn metrics() -> Result<Vec<ModelMetric>> {
    let book = Book::of_repository()?;
    let each = |vehicles: f64, levers: &[Lever]| {
        let (scenario, design) = (Scenario::of(vehicles, 60.0), Design::with(levers));
        Flow::new(&book, &scenario, &design).bill(&book, HOME_REGION).total() / vehicles
    };
    let naive =
        |vehicles: f64| Some(("naive", naive::bill(&book, &Scenario::of(vehicles, 60.0)).total() / vehicles));
    let pack = |design: &Design| Flow::new(&book, &Scenario::of(1e5, 60.0), design).pack_factor();
    let by_vehicle = pack(&Design { key: Key::Vehicle, ..Design::built() });
    let tuned = pack(&Design::with(&LADDER));
    Ok(vec![
        ("cost.per_vehicle_month.100k", each(1e5, &[]), "$", naive(1e5)),
        ("cost.per_vehicle_month.1m", each(1e6, &[]), "$", naive(1e6)),
        ("cost.per_vehicle_month.100k.levers", each(1e5, &LADDER), "$", naive(1e5)),
        ("cost.per_vehicle_month.1m.levers", each(1e6, &LADDER), "$", naive(1e6)),
        ("pack.factor.100k", pack(&Design::built()), "1", Some(("vehicle-keyed", by_vehicle))),
        ("pack.factor.100k.levers", tuned, "1", Some(("vehicle-keyed", by_vehicle))),
    ])
}

/// Holds what `bench_cost` has measured against the data file; `measured` gives the value of a metric.
///
/// # Errors
/// When a metric is missing or the data file is out of date; the message says what to write into it.
pub(crate) fn check_sizes(measured: impl Fn(&str) -> Option<f64>) -> Result<()> {
    type Part = (&'static str, fn(&Sizes) -> f64);
    const PARTS: [Part; 7] = [
        ("samples", |sizes| sizes.samples),
        ("envelope_bytes", |sizes| sizes.envelope),
        ("record_bytes", |sizes| sizes.record),
        ("event_json_bytes", |sizes| sizes.event_json),
        ("event_zstd_bytes", |sizes| sizes.event_alone),
        ("event_packed_bytes", |sizes| sizes.event_packed),
        ("archived_bytes", |sizes| sizes.archived),
    ];
    let book = Book::of_repository()?;
    let windows = ["10s", "60s", "300s", "900s"];
    ensure!(
        book.measured().len() == windows.len(),
        "the data file needs a [[sizes.window]] for each of {windows:?}"
    );
    let mut wrong = Vec::new();
    for (window, sizes) in windows.into_iter().zip(book.measured()) {
        for (part, of) in PARTS {
            let name = format!("cost.{part}.{window}");
            let value = measured(&name).with_context(|| format!("{name} was not measured"))?;
            if (of(sizes) / value - 1.0).abs() > SIZE_TOLERANCE {
                wrong.push(format!("{name} is {value:.1}, the data file has {:.1}", of(sizes)));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("write the measured sizes into [[sizes.window]] of xtask/data: {}", wrong.join("; "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn customers_are_those_of_the_first_estimate_and_grow_between() {
        assert_eq!([1e3, 1e5, 1e6].map(customers_of), [5, 200, 1_000]);
        assert!((32..33).contains(&customers_of(1e4)));
        assert_eq!(customers_of(1.0), 1);
    }

    #[test]
    fn a_size_that_differs_from_the_data_file_is_named() {
        let book = Book::of_repository().unwrap();
        let value = |name: &str, factor: f64| {
            let window = ["10s", "60s", "300s", "900s"].iter().position(|window| name.ends_with(window))?;
            let sizes = &book.measured()[window];
            let size = match name.split('.').nth(1)? {
                "samples" => sizes.samples,
                "envelope_bytes" => sizes.envelope * factor,
                "record_bytes" => sizes.record,
                "event_json_bytes" => sizes.event_json,
                "event_zstd_bytes" => sizes.event_alone,
                "event_packed_bytes" => sizes.event_packed,
                _ => sizes.archived,
            };
            Some(size)
        };
        assert!(check_sizes(|name| value(name, 1.01)).is_ok());
        let error = check_sizes(|name| value(name, 1.1)).unwrap_err().to_string();
        assert!(error.contains("cost.envelope_bytes.60s is 292.7, the data file has 266.1"), "{error}");
        assert!(!error.contains("record_bytes"), "{error}");
        let error = check_sizes(|_| None).unwrap_err().to_string();
        assert_eq!(error, "cost.samples.10s was not measured");
    }

    #[test]
    fn the_document_shows_what_the_program_prints() {
        let book = Book::of_repository().unwrap();
        let printed = report::overview(&book, &overview_scenarios(Scenario::of), &[], false);
        let month = report::month(&book, &Scenario::of(1e5, 60.0), &[], false);
        let month = month.split("\nQuotas, ").next().unwrap();
        let printed = format!("{printed}{month}");
        let document = include_str!("../../docs/cost.md");
        let missing: Vec<&str> = printed.lines().filter(|line| !document.contains(line)).collect();
        let told =
            "run `cargo xtask cost`, also with --vehicles 100000, and put its output into docs/cost.md";
        assert!(missing.is_empty(), "{told}:\n{}", missing.join("\n"));
    }

    #[test]
    fn the_model_prints_the_metrics_that_have_goals() {
        let metrics = metrics().unwrap();
        for name in ["cost.per_vehicle_month.100k", "cost.per_vehicle_month.1m", "pack.factor.100k"] {
            assert!(metrics.iter().any(|(metric, ..)| *metric == name), "{name}");
            assert!(crate::goals::goal_of(name).is_some(), "{name}");
        }
    }
}
