//! The naive reading of the reference: one message a reading, one of everything a message.

use super::Scenario;
use super::bill::{Bill, Step};
use super::book::Book;
use super::quota::Used;

/// A reading of all signals as JSON, bytes.
const MESSAGE_BYTES: f64 = 1_024.0;
/// Seconds between two readings.
pub(crate) const PERIOD_S: f64 = 10.0;
/// Requests to a queue for each message: a send, and a receive and a delete for ten.
const QUEUE_REQUESTS: f64 = 1.2;
/// Alerts for each reading.
pub(crate) const ALERTS: f64 = 0.001;
/// Aurora capacity units that it has, though they could not answer a query for each message.
const DATABASE_ACU: f64 = 1.5;
const READERS: f64 = 2.0;
const LOG_LINE_BYTES: f64 = 200.0;

/// The month's bill.
pub(crate) fn bill<'b>(book: &'b Book, scenario: &'b Scenario) -> Bill<'b> {
    let mut bill = Bill::new(book, &scenario.region);
    let active = scenario.duty_hours / 24.0;
    let messages = scenario.vehicles * book.month_s / PERIOD_S * active;
    let gb = messages * MESSAGE_BYTES / book.gb_bytes;
    let hours = book.month_s / 3_600.0;
    bill.add(Step::Uplink, "messages", "iot_messages", messages);
    let minutes = scenario.vehicles * book.month_s / 60.0 * active;
    bill.add(Step::Uplink, "connections", "iot_connect_minutes", minutes);
    bill.add(Step::Stream, "written", "kinesis_on_demand_in", gb);
    bill.add(Step::Stream, "read twice", "kinesis_on_demand_out", READERS * gb);
    bill.add(Step::Stream, "stream", "kinesis_stream_hours", hours);
    bill.add(Step::Archive, "an object a message", "s3_put", messages);
    bill.add(Step::Archive, "one month", "s3_storage", gb);
    bill.add_lambda(Step::Ingest, "ingest", messages, 5.0, 128.0);
    bill.add(Step::Store, "an item a message", "dynamodb_wru", messages);
    bill.add(Step::Store, "30 days", "dynamodb_storage", gb);
    bill.add(Step::DefaultBus, "an entry a message", "eventbridge_events", messages);
    bill.add_lambda(Step::Enrich, "enrich", messages, 5.0, 128.0);
    bill.add(Step::Enrich, "an entry a message", "eventbridge_events", messages);
    bill.add(Step::Queues, "send, receive, delete", "sqs_requests", QUEUE_REQUESTS * messages);
    bill.add(Step::Api, "pages of ten", "http_api_requests", messages / 10.0);
    bill.add_lambda(Step::Reading, "pages of ten", messages / 10.0, 30.0, 256.0);
    bill.add(Step::Reading, "plain JSON", "egress", gb);
    bill.add(Step::Alerts, "API destinations", "eventbridge_api_destinations", ALERTS * messages);
    bill.add(Step::Base, "reference database", "aurora_acu_hours", DATABASE_ACU * hours);
    bill.add(Step::Rest, "a line a message", "log_ingest", messages * LOG_LINE_BYTES / book.gb_bytes);
    bill
}

/// What it uses of the quotas, all vehicles driving at once.
pub(crate) fn used(scenario: &Scenario) -> Vec<Used> {
    let messages = scenario.vehicles / PERIOD_S;
    // A message, base64 in the record, is a unit of 1 KB and its key.
    let megabytes = messages * MESSAGE_BYTES / 1_048_576.0;
    vec![
        Used::new("eventbridge_invocations", 2.0 * messages),
        Used::new("eventbridge_put_events", 2.0 * messages / 10.0),
        Used::new("eventbridge_rules", 3.0 * f64::from(scenario.customers)),
        Used::new("lambda_concurrency", 2.0 * messages * 0.005),
        Used::new("dynamodb_table_writes", messages),
        Used::new("kinesis_on_demand_in", megabytes),
        Used::new("api_requests", messages / 10.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::bill::STEPS;

    fn of(vehicles: f64) -> Scenario {
        Scenario::of(vehicles, 60.0)
    }

    fn is_near(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 0.02
    }

    #[test]
    fn totals_are_those_of_the_first_estimate() {
        let book = Book::of_repository().unwrap();
        for (vehicles, each) in [(1_000.0, 2.82), (100_000.0, 2.59), (1_000_000.0, 2.55)] {
            let scenario = of(vehicles);
            let total = bill(&book, &scenario).total();
            assert!(is_near(total / vehicles, each), "{vehicles}: {}", total / vehicles);
        }
        let million = of(1e6);
        assert!(is_near(bill(&book, &million).total(), 2_545_415.0));
    }

    #[test]
    fn steps_are_those_of_the_first_estimate() {
        let book = Book::of_repository().unwrap();
        let scenario = of(1e6);
        let bill = bill(&book, &scenario);
        let expected = [
            185_596.0,
            39_580.0,
            1_301_685.0,
            54_000.0,
            223_798.0,
            259_200.0,
            313_200.0,
            96_650.0,
            0.0,
            23_358.0,
            24_027.0,
            52.0,
            130.0,
            24_140.0,
        ];
        for (step, expected) in STEPS.iter().zip(expected) {
            let dollars = bill.of_step(step);
            assert!(is_near(dollars, expected) || dollars == expected, "{step}: {dollars}");
        }
    }

    #[test]
    fn half_the_duty_halves_what_messages_cost() {
        let book = Book::of_repository().unwrap();
        let (whole, half) = (of(1e5), Scenario { duty_hours: 12.0, ..of(1e5) });
        let (whole, half) = (bill(&book, &whole), bill(&book, &half));
        assert_eq!(half.of_step(STEPS[3]), whole.of_step(STEPS[3]) / 2.0);
        assert_eq!(half.of_step(STEPS[12]), whole.of_step(STEPS[12]));
    }
}
