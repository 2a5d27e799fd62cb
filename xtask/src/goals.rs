//! The goals that the project's numbers are measured against.

/// On which side of its bound a value should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    AtLeast,
    AtMost,
}

/// One row: a metric and where its value should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Goal {
    pub(crate) metric: &'static str,
    pub(crate) bound: Bound,
    /// In the unit of the metric.
    pub(crate) value: f64,
}

const fn at_least(metric: &'static str, value: f64) -> Goal {
    Goal { metric, bound: Bound::AtLeast, value }
}

const fn at_most(metric: &'static str, value: f64) -> Goal {
    Goal { metric, bound: Bound::AtMost, value }
}

/// Throughputs are per core unless the metric says otherwise.
pub(crate) const GOALS: &[Goal] = &[
    at_least("decode.frames_per_s.truck", 30_000_000.0),
    at_most("decode.allocs_per_frame", 0.0),
    at_most("wire.bytes_per_sample.drive.1000", 0.52),
    at_most("wire.bytes_per_sample.drive.10000", 0.33),
    at_most("wire.bytes_per_sample.truck.1000", 0.34),
    at_most("wire.bytes_per_sample.truck.10000", 0.15),
    at_least("wire.encode_samples_per_s", 10_000_000.0),
    at_least("wire.decode_samples_per_s", 30_000_000.0),
    at_least("agent.frames_per_s.truck", 5_000_000.0),
    at_most("agent.binary_mib", 6.0),
    at_most("agent.rss_idle_mib", 8.0),
    at_most("agent.rss_4bus_mib", 12.0),
    at_most("agent.cpu_4bus_percent", 5.0),
    at_most("dongle.flash_kib", 32.0),
    at_most("dongle.ram_kib", 16.0),
    at_least("dongle.frames_per_s", 4_000.0),
    at_least("local.samples_per_s", 1_000_000.0),
    at_least("local.envelopes_per_s", 4_000.0),
    at_most("local.queryable_ms_p99", 2_000.0),
    at_most("local.webhook_ms_p99", 1_000.0),
    at_most("demo.first_event_s", 5.0),
    at_most("cost.per_vehicle_month.100k", 0.10),
    at_most("cost.per_vehicle_month.1m", 0.08),
    at_least("pack.factor.100k", 40.0),
    at_most("lambda.init_ms", 20.0),
    at_most("lambda.zip_mib", 4.0),
    at_least("lambda.speed_ratio", 10.0),
    at_most("lambda.rss_ratio", 0.25),
];

/// The goal of `metric`, if it has one.
pub(crate) fn goal_of(metric: &str) -> Option<&'static Goal> {
    GOALS.iter().find(|goal| goal.metric == metric)
}

impl Goal {
    pub(crate) fn is_met_by(&self, value: f64) -> bool {
        match self.bound {
            Bound::AtLeast => value >= self.value,
            Bound::AtMost => value <= self.value,
        }
    }

    /// The bound as a sign: `>=` or `<=`.
    pub(crate) fn sign(&self) -> &'static str {
        match self.bound {
            Bound::AtLeast => ">=",
            Bound::AtMost => "<=",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_its_bound_meets_the_goal() {
        assert!(at_least("m", 5.0).is_met_by(5.0));
        assert!(!at_least("m", 5.0).is_met_by(4.9));
        assert!(at_most("m", 5.0).is_met_by(5.0));
        assert!(!at_most("m", 5.0).is_met_by(5.1));
    }

    #[test]
    fn every_metric_has_one_goal() {
        for (index, goal) in GOALS.iter().enumerate() {
            let first = GOALS.iter().position(|other| other.metric == goal.metric);
            assert_eq!(first, Some(index), "{}", goal.metric);
        }
        assert_eq!(goal_of("demo.first_event_s"), Some(&at_most("demo.first_event_s", 5.0)));
        assert_eq!(goal_of("demo.nothing"), None);
    }
}
