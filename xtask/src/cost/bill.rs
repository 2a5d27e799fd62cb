//! A month's bill: lines of resource, quantity and price, by the steps of the reference architecture.

use super::book::{Book, Source};

/// The steps, in the order in which they are printed.
pub(crate) const STEPS: [&str; 14] = [
    "A0 vehicles to cloud",
    "A1 stream",
    "A1 raw archive",
    "A2 ingest",
    "A3 event table and state",
    "A4 default bus",
    "A5 enrich, delivery bus",
    "A6 queues",
    "A6 feed",
    "A7 API",
    "A8 reading, egress",
    "A9 alerts",
    "reference database, network",
    "logs, metrics, B",
];

/// A step of the reference architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Uplink,
    Stream,
    Archive,
    Ingest,
    Store,
    DefaultBus,
    Enrich,
    Queues,
    Feed,
    Api,
    Reading,
    Alerts,
    Base,
    Rest,
}

impl Step {
    pub(crate) const fn as_str(self) -> &'static str {
        STEPS[self as usize]
    }
}

/// One resource of one step.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) step: Step,
    /// What it is for.
    pub(crate) what: &'static str,
    /// Units a month.
    pub(crate) quantity: f64,
    pub(crate) unit: String,
    pub(crate) dollars: f64,
    /// How the price is known.
    pub(crate) source: Source,
    /// Another region's price stands in.
    pub(crate) is_foreign_price: bool,
}

/// A month.
pub(crate) struct Bill<'b> {
    pub(crate) book: &'b Book,
    region: &'b str,
    pub(crate) lines: Vec<Line>,
}

impl<'b> Bill<'b> {
    pub(crate) fn new(book: &'b Book, region: &'b str) -> Self {
        Self { book, region, lines: Vec::new() }
    }

    /// Adds `quantity` units of `price`.
    pub(crate) fn add(&mut self, step: Step, what: &'static str, price: &str, quantity: f64) {
        let found = self.book.price(price, self.region);
        self.lines.push(Line {
            step,
            what,
            quantity,
            unit: found.unit.clone(),
            dollars: found.dollars(quantity),
            source: found.source,
            is_foreign_price: !self.book.has_own_price(price, self.region),
        });
    }

    /// Adds a function's requests and time.
    pub(crate) fn add_lambda(&mut self, step: Step, what: &'static str, requests: f64, ms: f64, mb: f64) {
        self.add(step, what, "lambda_requests", requests);
        self.add(step, what, "lambda_gb_s", requests * ms / 1_000.0 * mb / 1_024.0);
    }

    pub(crate) fn total(&self) -> f64 {
        self.lines.iter().map(|line| line.dollars).sum()
    }

    pub(crate) fn of_step(&self, step: &str) -> f64 {
        let of_step = self.lines.iter().filter(|line| line.step.as_str() == step);
        of_step.fold(0.0, |sum, line| sum + line.dollars)
    }

    /// The part of the total that stands on documented prices, 0 to 1.
    pub(crate) fn documented_share(&self) -> f64 {
        let documented = self.lines.iter().filter(|line| line.source == Source::Documented);
        documented.map(|line| line.dollars).sum::<f64>() / self.total()
    }

    /// The line that costs most.
    pub(crate) fn dominant(&self) -> Option<&Line> {
        self.lines.iter().max_by(|left, right| left.dollars.total_cmp(&right.dollars))
    }
}

/// Units that `bytes` take, each of `unit_bytes`, begun ones paid whole.
pub(crate) fn units(bytes: f64, unit_bytes: f64) -> f64 {
    (bytes / unit_bytes).ceil().max(1.0)
}

/// Write units of an item.
pub(crate) fn write_units(bytes: f64) -> f64 {
    units(bytes, 1_024.0)
}

/// Entries and requests are paid by 64 KB.
pub(crate) fn chunks(bytes: f64) -> f64 {
    units(bytes, 65_536.0)
}

/// Kinesis counts records by 25 KB.
pub(crate) fn put_units(bytes: f64) -> f64 {
    units(bytes, 25_600.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begun_units_are_paid_whole() {
        assert_eq!([0.0, 1.0, 1_024.0, 1_025.0].map(write_units), [1.0, 1.0, 1.0, 2.0]);
        assert_eq!([65_536.0, 65_537.0, 131_072.0].map(chunks), [1.0, 2.0, 2.0]);
        assert_eq!([25_600.0, 25_601.0].map(put_units), [1.0, 2.0]);
    }

    #[test]
    fn a_bill_adds_up_by_step_and_names_its_largest_line() {
        let book = Book::of_repository().unwrap();
        let mut bill = Bill::new(&book, "us-east-1");
        bill.add(Step::DefaultBus, "entries", "eventbridge_events", 3e6);
        bill.add_lambda(Step::Ingest, "ingest", 1e6, 1_000.0, 1_024.0);
        assert!((bill.of_step("A2 ingest") - 13.5334).abs() < 1e-9);
        assert!((bill.total() - 16.5334).abs() < 1e-9);
        assert_eq!(bill.dominant().unwrap().unit, "GB-seconds");
        assert!((bill.documented_share() - 3.0 / 16.5334).abs() < 1e-9);
    }
}
