//! Tables for people, and JSON lines.

use serde_json::{Value, json};

use super::Scenario;
use super::bill::{Bill, STEPS};
use super::book::Book;
use super::design::{Design, LADDER, Lever};
use super::naive;
use super::ours::Flow;
use super::pack::{Key, Order, Queue};
use super::quota::{Standing, remedy, standings};
use crate::bench::readable;
use crate::goals::{Goal, goal_of};
use crate::table::{Align, render};

/// Windows of the goals, seconds.
const GOAL_WINDOW_S: f64 = 60.0;

fn goal(scenario: &Scenario) -> Option<&'static Goal> {
    // The goals are for vehicles that send all day.
    if scenario.window_s != GOAL_WINDOW_S || scenario.duty_hours < 24.0 {
        return None;
    }
    match scenario.vehicles as u64 {
        100_000 => goal_of("cost.per_vehicle_month.100k"),
        1_000_000 => goal_of("cost.per_vehicle_month.1m"),
        _ => None,
    }
}

/// Readings in an entry, and what becomes of the goal where it is for this fleet.
fn pack_line(scenario: &Scenario, factor: f64) -> String {
    let is_of_goal = scenario.vehicles == 1e5 && scenario.window_s == GOAL_WINDOW_S;
    let goal = goal_of("pack.factor.100k").filter(|_| is_of_goal);
    let verdict = goal.map_or(String::new(), |goal| match goal.is_met_by(factor) {
        true => format!(" met ({} {})", goal.sign(), goal.value),
        false => format!(" missed by x{:.1} ({} {})", goal.value / factor, goal.sign(), goal.value),
    });
    format!("pack factor: {factor:.1} readings an entry of the delivery bus{verdict}\n")
}

/// `met`, or by how much it was missed.
fn verdict(goal: Option<&Goal>, value: f64) -> String {
    match goal {
        None => String::new(),
        Some(goal) if goal.is_met_by(value) => format!("met ({} {})", goal.sign(), goal.value),
        Some(goal) => format!("missed by x{:.1} ({} {})", value / goal.value, goal.sign(), goal.value),
    }
}

fn money(dollars: f64) -> String {
    if dollars == 0.0 { "-".to_owned() } else { readable(dollars.round()) }
}

fn each(dollars: f64) -> String {
    format!("${dollars:.3}")
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

fn count(vehicles: f64) -> String {
    match vehicles {
        vehicles if vehicles >= 1e6 => format!("{}M", readable(vehicles / 1e6)),
        vehicles if vehicles >= 1e3 => format!("{}k", readable(vehicles / 1e3)),
        vehicles => readable(vehicles),
    }
}

/// A table under its heading.
fn section(heading: &str, table: &str) -> String {
    format!("\n{heading}\n\n{table}")
}

fn json_lines(values: impl IntoIterator<Item = Value>) -> String {
    values.into_iter().map(|value| format!("{value}\n")).collect()
}

/// One scenario: every line, what dominates, what lowers it, and the quotas.
pub(crate) fn month(book: &Book, scenario: &Scenario, levers: &[Lever], json: bool) -> String {
    let design = Design::with(levers);
    let flow = Flow::new(book, scenario, &design);
    let bill = flow.bill(book, &scenario.region);
    let naive = naive::bill(book, scenario);
    let quotas = quotas_of(book, scenario, &design);
    let totals = lever_totals(book, scenario, levers);
    if json {
        let total = total_json(scenario, &flow, &bill, &naive);
        let levers =
            totals.iter().map(|(lever, with)| json!({"kind": "lever", "lever": lever, "dollars": with}));
        let quotas = quotas.iter().map(|quota| quota_json(scenario, quota));
        return json_lines(bill.lines.iter().map(line_json).chain([total]).chain(levers).chain(quotas));
    }
    [
        title(scenario, levers) + "\n",
        section("Ours, a month", &lines_table(&bill)),
        summary(scenario, &flow, &bill, &naive),
        section("Each lever alone", &levers_table(scenario, totals, bill.total())),
        section("Quotas, the one that breaks first first", &quota_table(&quotas)),
        section("Quotas of the naive reading", &quota_table(&naive_quotas(book, scenario))),
    ]
    .concat()
}

fn title(scenario: &Scenario, levers: &[Lever]) -> String {
    let mut text = format!(
        "{} vehicles of {} customers, a window of {} s with {} samples, {} h a day, {}",
        readable(scenario.vehicles),
        readable(f64::from(scenario.customers)),
        scenario.window_s,
        readable(scenario.samples_per_window),
        scenario.duty_hours,
        scenario.region,
    );
    if !levers.is_empty() {
        let names: Vec<String> = levers.iter().map(|lever| lever.name()).collect();
        text.push_str(&format!("; {}", names.join(", ")));
    }
    text
}

fn lines_table(bill: &Bill<'_>) -> String {
    let total = bill.total();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for step in STEPS {
        for line in bill.lines.iter().filter(|line| line.step.as_str() == step) {
            let is_first = rows.last().is_none_or(|row| row[0] != step && !row[0].is_empty())
                || !rows.iter().any(|row| row[0] == step);
            let foreign = if line.is_foreign_price { "*" } else { "" };
            rows.push(vec![
                if is_first { step.to_owned() } else { String::new() },
                line.what.to_owned(),
                readable(line.quantity),
                line.unit.clone(),
                readable(line.dollars),
                percent(line.dollars / total),
                format!("{}{foreign}", line.source.as_str()),
            ]);
        }
    }
    rows.push(vec!["total".to_owned(), String::new(), String::new(), String::new(), readable(total)]);
    let header = [
        ("step", Align::Left),
        ("for", Align::Left),
        ("quantity", Align::Right),
        ("unit", Align::Left),
        ("$", Align::Right),
        ("share", Align::Right),
        ("price", Align::Left),
    ];
    let note = if bill.lines.iter().any(|line| line.is_foreign_price) {
        "* us-east-1's price: the data file has none of this region\n"
    } else {
        ""
    };
    format!("{}{note}", render(&header, &rows))
}

fn summary(scenario: &Scenario, flow: &Flow<'_>, bill: &Bill<'_>, naive: &Bill<'_>) -> String {
    let (ours, theirs) = (bill.total() / scenario.vehicles, naive.total() / scenario.vehicles);
    let (writes, reads, packed) = (flow.writes, flow.reads, &flow.packed);
    let largest = bill.dominant().map_or(String::new(), |line| {
        let share = percent(line.dollars / bill.total());
        format!("largest line: {}, {}: {share}\n", line.step.as_str(), line.what)
    });
    [
        format!("\na vehicle-month: {} {}", each(ours), verdict(goal(scenario), ours)).trim_end().to_owned() + "\n",
        format!("naive reading:   {}, {} times as much\n", each(theirs), readable(theirs / ours)),
        format!("on documented prices: {} of the total\n", percent(bill.documented_share())),
        format!(
            "write units an envelope: {:.2} event, {:.2} ledger, {:.2} archive's ledger, {:.2} state, {:.2} conditions, \
             {:.2} claims, {:.2} chunks\n",
            writes.event,
            writes.ledger,
            writes.archive_ledger,
            writes.state,
            writes.conditions,
            writes.claims,
            writes.chunks
        ),
        format!(
            "read units an envelope: {:.2} ledger, state and days, {:.2} conditions, {:.2} feed\n",
            reads.store + reads.archive_ledger,
            reads.conditions,
            reads.feed
        ),
        format!(
            "packing: {:.0} shards, the hottest at {:.0} records/s; {:.0} envelopes an entry of the default bus, {:.1} of \
             the delivery bus, {:.1} a chunk\n",
            packed.shards,
            packed.hottest_shard,
            packed.per_default_entry(),
            packed.per_delivery_entry(),
            flow.chunk_events()
        ),
        pack_line(scenario, flow.pack_factor()),
        format!(
            "calls: {:.1} messages each of enrich, {:.1} of feed; ingest takes {:.1} s for a second of the hottest shard\n",
            packed.default_entries / packed.enrich_calls,
            packed.delivery_entries / packed.feed_calls,
            flow.ingest_load()
        ),
        largest,
    ]
    .concat()
}

fn total_with(book: &Book, scenario: &Scenario, levers: &[Lever]) -> (f64, f64) {
    let design = Design::with(levers);
    let flow = Flow::new(book, scenario, &design);
    (flow.bill(book, &scenario.region).total(), flow.pack_factor())
}

/// The total with each lever by itself, the cheapest first, and of the same fleet with a window of 300 s.
fn lever_totals(book: &Book, scenario: &Scenario, pulled: &[Lever]) -> Vec<(String, f64)> {
    let mut totals: Vec<(String, f64)> = LADDER
        .into_iter()
        .chain([Lever::NoFeed, Lever::IotCore])
        .filter(|lever| !pulled.contains(lever))
        .map(|lever| {
            let levers: Vec<Lever> = pulled.iter().copied().chain([lever]).collect();
            (format!("--lever {}", lever.name()), total_with(book, scenario, &levers).0)
        })
        .collect();
    if scenario.window_s < 300.0 {
        let longer = Scenario {
            window_s: 300.0,
            samples_per_window: scenario.samples_per_window * 300.0 / scenario.window_s,
            ..scenario.clone()
        };
        totals.push(("--window 300".to_owned(), total_with(book, &longer, pulled).0));
    }
    totals.sort_by(|left, right| left.1.total_cmp(&right.1));
    totals
}

fn levers_table(scenario: &Scenario, totals: Vec<(String, f64)>, total: f64) -> String {
    let row = |(name, with): (String, f64)| {
        vec![
            name,
            readable((with - total).round()),
            percent(with / total - 1.0),
            each(with / scenario.vehicles),
        ]
    };
    let rows: Vec<Vec<String>> = totals.into_iter().map(row).collect();
    let header = [
        ("lever", Align::Left),
        ("$ a month", Align::Right),
        ("change", Align::Right),
        ("a vehicle-month", Align::Right),
    ];
    render(&header, &rows)
}

fn quotas_of(book: &Book, scenario: &Scenario, design: &Design) -> Vec<Standing> {
    standings(book, &scenario.region, scenario.vehicles, |vehicles| {
        let at = scaled(scenario, vehicles);
        Flow::new(book, &at, design).used()
    })
}

fn naive_quotas(book: &Book, scenario: &Scenario) -> Vec<Standing> {
    standings(book, &scenario.region, scenario.vehicles, |vehicles| naive::used(&scaled(scenario, vehicles)))
}

/// The scenario with another number of vehicles, and of customers as many more as is usual.
fn scaled(scenario: &Scenario, vehicles: f64) -> Scenario {
    let usual = f64::from(super::customers_of(scenario.vehicles));
    let factor = f64::from(scenario.customers) / usual;
    let customers = (f64::from(super::customers_of(vehicles)) * factor).round().max(1.0);
    Scenario { vehicles, customers: customers as u32, ..scenario.clone() }
}

fn quota_table(standings: &[Standing]) -> String {
    let rows: Vec<Vec<String>> = standings
        .iter()
        .map(|standing| {
            let headroom = standing.default / standing.used.max(f64::MIN_POSITIVE);
            vec![
                standing.quota.to_owned(),
                readable(standing.default),
                readable((standing.used * 10.0).round() / 10.0),
                standing.unit.clone(),
                if headroom < 1.0 {
                    "broken".to_owned()
                } else {
                    format!("x{}", readable((headroom * 10.0).round() / 10.0))
                },
                standing.breaks_at.map_or("-".to_owned(), |at| readable(at.round())),
                if standing.is_adjustable { "yes" } else { "no" }.to_owned(),
                remedy(standing.quota).to_owned(),
            ]
        })
        .collect();
    let header = [
        ("quota", Align::Left),
        ("default", Align::Right),
        ("used", Align::Right),
        ("unit", Align::Left),
        ("head-room", Align::Right),
        ("breaks at", Align::Right),
        ("adjustable", Align::Left),
        ("what to do", Align::Left),
    ];
    render(&header, &rows)
}

/// Several fleets and windows beside each other: three fleets with one window, then with another.
pub(crate) fn overview(book: &Book, scenarios: &[Scenario], levers: &[Lever], json: bool) -> String {
    let design = Design::with(levers);
    let flows: Vec<Flow<'_>> = scenarios.iter().map(|scenario| Flow::new(book, scenario, &design)).collect();
    let bills: Vec<Bill<'_>> =
        flows.iter().zip(scenarios).map(|(flow, scenario)| flow.bill(book, &scenario.region)).collect();
    let naive: Vec<Bill<'_>> = scenarios.iter().map(|scenario| naive::bill(book, scenario)).collect();
    if json {
        let total = |index: usize| total_json(&scenarios[index], &flows[index], &bills[index], &naive[index]);
        return json_lines((0..scenarios.len()).map(total));
    }
    let (of_one_window, middle) = (&scenarios[..scenarios.len() / 2], &scenarios[1]);
    let quotas = format!(
        "Quotas at {} vehicles, windows of {} s, {}",
        readable(middle.vehicles),
        middle.window_s,
        middle.region
    );
    let naive_of_fleets = &naive[..of_one_window.len()];
    [
        overview_title(middle, levers) + "\n",
        section("Ours, $ a month", &steps_table(scenarios, &bills)),
        section(
            "The naive reading, $ a month, whatever the window",
            &steps_table(of_one_window, naive_of_fleets),
        ),
        section(
            "Levers, one after the other: $ a vehicle-month, and readings in an entry of the delivery bus",
            &ladder_table(book, scenarios, levers),
        ),
        section(
            "Readings in an entry of the delivery bus, and events in a chunk of a feed, windows of 60 s",
            &pack_table(book, of_one_window),
        ),
        section(&quotas, &quota_table(&quotas_of(book, middle, &design))),
        section("Quotas of the naive reading, the same vehicles", &quota_table(&naive_quotas(book, middle))),
    ]
    .concat()
}

fn overview_title(scenario: &Scenario, levers: &[Lever]) -> String {
    let names: Vec<String> = levers.iter().map(|lever| lever.name()).collect();
    let levers = if names.is_empty() { "as built".to_owned() } else { names.join(", ") };
    format!(
        "15 samples each 10 s, {} h a day, {}, 5, 200 and 1,000 customers; design: {levers}",
        scenario.duty_hours, scenario.region
    )
}

fn steps_table(scenarios: &[Scenario], bills: &[Bill<'_>]) -> String {
    let names: Vec<String> = scenarios
        .iter()
        .map(|scenario| format!("{} {}s", count(scenario.vehicles), scenario.window_s))
        .collect();
    let last = bills.iter().zip(scenarios).rfind(|(_, scenario)| scenario.window_s == GOAL_WINDOW_S);
    let mut rows: Vec<Vec<String>> = STEPS
        .iter()
        .map(|step| {
            let mut row = vec![(*step).to_owned()];
            row.extend(bills.iter().map(|bill| money(bill.of_step(step))));
            row.push(last.map_or(String::new(), |(bill, _)| percent(bill.of_step(step) / bill.total())));
            row
        })
        .collect();
    let mut total = vec!["total".to_owned()];
    total.extend(bills.iter().map(|bill| money(bill.total())));
    let (mut one, mut goals) = (vec!["a vehicle-month".to_owned()], vec!["goal".to_owned()]);
    for (bill, scenario) in bills.iter().zip(scenarios) {
        let value = bill.total() / scenario.vehicles;
        one.push(each(value));
        goals.push(match goal(scenario) {
            Some(goal) if goal.is_met_by(value) => format!("{} met", each(goal.value)),
            Some(goal) => format!("{} x{:.1}", each(goal.value), value / goal.value),
            None => String::new(),
        });
    }
    rows.extend([total, one, goals]);
    let mut header: Vec<(&str, Align)> = vec![("step", Align::Left)];
    header.extend(names.iter().map(|name| (name.as_str(), Align::Right)));
    header.push(("of 1M 60s", Align::Right));
    render(&header, &rows)
}

fn ladder_table(book: &Book, scenarios: &[Scenario], pulled: &[Lever]) -> String {
    let shown: Vec<&Scenario> = [1, 2, 4, 5].into_iter().filter_map(|index| scenarios.get(index)).collect();
    let mut rows = Vec::new();
    for steps in 0..=LADDER.len() {
        let levers: Vec<Lever> = pulled.iter().copied().chain(LADDER[..steps].iter().copied()).collect();
        let name = match steps {
            0 => "as it is".to_owned(),
            _ => format!("+ {}", LADDER[steps - 1].name()),
        };
        let mut row = vec![name];
        let mut packs = Vec::new();
        for scenario in &shown {
            let (total, pack) = total_with(book, scenario, &levers);
            let value = total / scenario.vehicles;
            let met = if goal(scenario).is_some_and(|goal| goal.is_met_by(value)) { " met" } else { "" };
            row.push(format!("{}{met}", each(value)));
            packs.push(format!("{pack:.0}"));
        }
        row.push(packs.join(" / "));
        rows.push(row);
    }
    let names: Vec<String> =
        shown.iter().map(|scenario| format!("{} {}s", count(scenario.vehicles), scenario.window_s)).collect();
    let mut header: Vec<(&str, Align)> = vec![("lever", Align::Left)];
    header.extend(names.iter().map(|name| (name.as_str(), Align::Right)));
    header.push(("packed", Align::Right));
    render(&header, &rows)
}

fn pack_table(book: &Book, scenarios: &[Scenario]) -> String {
    let built = Design::built();
    let alone = Queue { call_messages_max: 1.0, slice_messages_max: 1, ..built.queue };
    let wide = Design::with(&[Lever::WideSlices]).queue;
    let by_rate = Key::BucketsByRate(600.0);
    let designs = [
        ("by vehicle", built.queue, Key::Vehicle, Order::Stream),
        ("16 buckets, entries one by one", alone, built.key, Order::Stream),
        ("16 buckets (as built)", built.queue, built.key, Order::Stream),
        ("16 buckets, wide slices", wide, built.key, Order::Stream),
        ("16 buckets, by customer", built.queue, built.key, Order::Customer),
        ("buckets by rate", built.queue, by_rate, Order::Stream),
        ("buckets by rate, wide slices", wide, by_rate, Order::Stream),
        ("buckets by rate, wide slices, by customer", wide, by_rate, Order::Customer),
    ];
    let rows: Vec<Vec<String>> = designs
        .into_iter()
        .map(|(name, queue, key, order)| {
            let design = Design { queue, key, order, ..built.clone() };
            let mut row = vec![name.to_owned()];
            for scenario in scenarios {
                let flow = Flow::new(book, scenario, &design);
                row.push(format!("{:.1}", flow.pack_factor()));
                row.push(format!("{:.0}", flow.packed.delivery_entries));
                row.push(format!("{:.1}", flow.chunk_events()));
            }
            row
        })
        .collect();
    let names: Vec<String> = scenarios.iter().map(|scenario| count(scenario.vehicles)).collect();
    let mut header: Vec<(&str, Align)> = vec![("partition key, slices, order", Align::Left)];
    for name in &names {
        header.extend([
            (name.as_str(), Align::Right),
            ("entries/s", Align::Right),
            ("a chunk", Align::Right),
        ]);
    }
    render(&header, &rows)
}

fn line_json(line: &super::bill::Line) -> Value {
    json!({
        "kind": "line", "step": line.step.as_str(), "for": line.what, "quantity": line.quantity, "unit": line.unit,
        "dollars": line.dollars, "price": line.source.as_str(), "price_of_another_region": line.is_foreign_price,
    })
}

fn total_json(scenario: &Scenario, flow: &Flow<'_>, bill: &Bill<'_>, naive: &Bill<'_>) -> Value {
    let steps: serde_json::Map<String, Value> =
        STEPS.iter().map(|step| ((*step).to_owned(), Value::from(bill.of_step(step)))).collect();
    let value = bill.total() / scenario.vehicles;
    json!({
        "kind": "total", "vehicles": scenario.vehicles, "window_s": scenario.window_s, "customers": scenario.customers,
        "samples_per_window": scenario.samples_per_window, "duty_hours": scenario.duty_hours, "region": scenario.region,
        "steps": steps, "dollars": bill.total(), "per_vehicle_month": value,
        "naive_per_vehicle_month": naive.total() / scenario.vehicles, "goal": goal(scenario).map(|goal| goal.value),
        "met": goal(scenario).map(|goal| goal.is_met_by(value)), "pack_factor": flow.pack_factor(),
        "shards": flow.packed.shards, "documented_share": bill.documented_share(),
    })
}

fn quota_json(scenario: &Scenario, standing: &Standing) -> Value {
    json!({
        "kind": "quota", "region": scenario.region, "quota": standing.quota, "unit": standing.unit,
        "default": standing.default, "used": standing.used, "breaks_at_vehicles": standing.breaks_at,
        "adjustable": standing.is_adjustable, "source": standing.source, "what_to_do": remedy(standing.quota),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_or_missed_by_a_factor() {
        let scenario = Scenario::of(100_000.0, 60.0);
        assert_eq!(verdict(goal(&scenario), 0.09), "met (<= 0.1)");
        assert_eq!(verdict(goal(&scenario), 0.25), "missed by x2.5 (<= 0.1)");
        assert_eq!(verdict(goal(&Scenario::of(100_000.0, 300.0)), 0.25), "");
    }

    #[test]
    fn the_goal_of_packing_is_for_one_fleet() {
        let (middle, large) = (Scenario::of(100_000.0, 60.0), Scenario::of(1_000_000.0, 60.0));
        let line = "readings an entry of the delivery bus";
        assert_eq!(pack_line(&middle, 16.0), format!("pack factor: 16.0 {line} missed by x2.5 (>= 40)\n"));
        assert_eq!(pack_line(&middle, 40.0), format!("pack factor: 40.0 {line} met (>= 40)\n"));
        assert_eq!(pack_line(&large, 16.0), format!("pack factor: 16.0 {line}\n"));
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([1_000.0, 100_000.0, 2_500_000.0, 12.0].map(count), ["1k", "100k", "2.5M", "12"]);
        assert_eq!(money(0.0), "-");
        assert_eq!(money(1_234.4), "1,234");
    }

    #[test]
    fn another_number_of_vehicles_has_as_many_more_customers() {
        let scenario = Scenario { customers: 400, ..Scenario::of(100_000.0, 60.0) };
        assert_eq!(scaled(&scenario, 1_000_000.0).customers, 2_000);
        assert_eq!(scaled(&scenario, 1_000_000.0).window_s, 60.0);
    }
}
