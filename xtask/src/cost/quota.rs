//! Which quota breaks first.

use super::book::Book;

/// So much of a quota is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Used {
    /// Name in the data file.
    pub(crate) quota: &'static str,
    pub(crate) value: f64,
}

impl Used {
    pub(crate) const fn new(quota: &'static str, value: f64) -> Self {
        Self { quota, value }
    }
}

/// A quota beside what is used of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Standing {
    pub(crate) quota: &'static str,
    pub(crate) unit: String,
    pub(crate) default: f64,
    pub(crate) used: f64,
    pub(crate) is_adjustable: bool,
    pub(crate) source: &'static str,
    /// Vehicles at which it is used up; `None` beyond [`VEHICLES_MAX`].
    pub(crate) breaks_at: Option<f64>,
}

/// Beyond it the model is not asked.
pub(crate) const VEHICLES_MAX: f64 = 1e7;
const VEHICLES_MIN: f64 = 100.0;
/// Numbers of vehicles looked at in each factor of ten.
const STEPS_PER_DECADE: usize = 6;

/// The quotas at `vehicles` in `region`, the one that breaks first first; `used_at` gives what a number of vehicles uses.
pub(crate) fn standings(
    book: &Book,
    region: &str,
    vehicles: f64,
    used_at: impl Fn(f64) -> Vec<Used>,
) -> Vec<Standing> {
    let decades = (VEHICLES_MAX / VEHICLES_MIN).log10();
    let steps = (decades * STEPS_PER_DECADE as f64) as usize;
    let grid: Vec<(f64, Vec<Used>)> = (0..=steps)
        .map(|step| VEHICLES_MIN * 10f64.powf(step as f64 / STEPS_PER_DECADE as f64))
        .map(|vehicles| (vehicles, used_at(vehicles)))
        .collect();
    let now = used_at(vehicles);
    let mut standings: Vec<Standing> = now
        .iter()
        .enumerate()
        .map(|(index, used)| {
            let quota = book.quota(used.quota);
            let default = quota.value(region);
            Standing {
                quota: used.quota,
                unit: quota.unit.clone(),
                default,
                used: used.value,
                is_adjustable: quota.adjustable,
                source: quota.source.as_str(),
                breaks_at: crossing(&grid, index, default),
            }
        })
        .collect();
    let at = |standing: &Standing| standing.breaks_at.unwrap_or(f64::INFINITY);
    standings.sort_by(|left, right| at(left).total_cmp(&at(right)));
    standings
}

/// Where the use crosses `limit`, between two points of the grid by a power law: exact where use grows with vehicles.
fn crossing(grid: &[(f64, Vec<Used>)], index: usize, limit: f64) -> Option<f64> {
    let pair = grid.windows(2).find(|pair| pair[1].1[index].value > limit)?;
    let ((left, below), (right, above)) = (&pair[0], &pair[1]);
    let (below, above) = (below[index].value, above[index].value);
    if below > limit {
        return Some(*left);
    }
    let part = (limit / below).ln() / (above / below).ln();
    Some(left * (right / left).powf(part))
}

/// What to do before it breaks.
pub(crate) fn remedy(quota: &str) -> &'static str {
    match quota {
        "eventbridge_invocations" => "raise; wider slices, fewer entries",
        "eventbridge_put_events" => "raise; one call for ten entries",
        "eventbridge_rules" => "raise, several delivery buses, or the v2 bus",
        "eventbridge_subscribers_v2" => "raise (v2 bus only)",
        "eventbridge_api_destinations" => "raise; signed endpoints take none",
        "lambda_concurrency" => "raise before launch; reserve for ingest and feed",
        "kinesis_shards" => "raise",
        "kinesis_on_demand_in" => "support ticket, or provisioned shards",
        "dynamodb_table_writes" => "raise",
        "dynamodb_partition_writes" => "cannot be raised: several subscriptions, or a feed over several keys",
        "sqs_in_flight" => "raise; shorter leases",
        "api_requests" => "raise; fewer polls",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::{Scenario, naive};

    fn naive_standings(region: &str) -> Vec<Standing> {
        let book = Book::of_repository().unwrap();
        standings(&book, region, 100_000.0, |vehicles| {
            // So few customers that their rules do not matter, as in the first estimate.
            naive::used(&Scenario { customers: 1, ..Scenario::of(vehicles, 60.0) })
        })
    }

    fn breaks_at(standings: &[Standing], quota: &str) -> f64 {
        standings.iter().find(|standing| standing.quota == quota).unwrap().breaks_at.unwrap()
    }

    fn is_near(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 1e-6
    }

    #[test]
    fn in_frankfurt_the_naive_reading_breaks_at_22_500_vehicles_by_invocations() {
        let standings = naive_standings("eu-central-1");
        assert_eq!(standings[0].quota, "eventbridge_invocations");
        assert!(is_near(standings[0].breaks_at.unwrap(), 22_500.0), "{standings:?}");
        assert!(is_near(breaks_at(&standings, "eventbridge_put_events"), 120_000.0));
        let order: Vec<_> = standings.iter().take(3).map(|standing| standing.quota).collect();
        assert_eq!(order, ["eventbridge_invocations", "eventbridge_put_events", "dynamodb_table_writes"]);
    }

    #[test]
    fn in_virginia_it_breaks_at_93_750_vehicles() {
        let standings = naive_standings("us-east-1");
        assert!(is_near(standings[0].breaks_at.unwrap(), 93_750.0));
        assert!(is_near(breaks_at(&standings, "eventbridge_put_events"), 500_000.0));
        assert_eq!(standings[0].used, 20_000.0);
    }

    #[test]
    fn every_quota_has_a_remedy() {
        for standing in naive_standings("us-east-1") {
            assert_ne!(remedy(standing.quota), "", "{}", standing.quota);
        }
    }
}
