//! From what customers have subscribed to of a vehicle to what the vehicle collects.
//!
//! | subscription | campaign |
//! |---|---|
//! | fields, sampling, latency | one time-based campaign in the bulk lane for each latency: its batch window |
//! | a threshold | a condition-based campaign in the fast lane, sent at once when the limit is crossed, either way |
//! | trouble codes, as telemetry or as alerts | a campaign that wants them |
//!
//! A signal that several subscriptions want is collected once: as often as the most demanding one needs, in the
//! campaign with the shortest window. That is worked out on patterns, without knowing the vehicle's signals: what a
//! campaign with a shorter window takes is excluded from those with longer ones, each pattern is given the shortest
//! period of all patterns that contain it, and the pattern with the shortest period decides. Where two patterns overlap
//! and neither contains the other (`*.Speed` and `Vehicle.*`), a signal in both may be collected twice, never too
//! rarely or not at all.

use std::collections::{BTreeMap, BTreeSet};

use convoy_protocol::campaign::{
    BATCH_SAMPLES_MAX, Campaign, Collection, NAME_CHARS_MAX, PRIORITY_DEFAULT, SignalSelector, Trigger,
    TriggerMode, pattern_matches,
};
use convoy_protocol::id::Lane;

use crate::reference::{Threshold, ThresholdSide};
use crate::snapshot::{Entitlement, Grant};

/// Alerts come before everything else where a vehicle cannot run all campaigns.
const ALERT_PRIORITY: u8 = 10;

/// Longest delivery latency, seconds.
pub const LATENCY_S_MAX: u32 = 3_600;
/// Longest sampling period, milliseconds.
pub const SAMPLING_MS_MAX: u32 = 86_400_000;

/// How often signals are sampled and how long they may wait, where a subscription says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// At most one sample of each signal in this time, milliseconds; 0 takes every one.
    pub sampling_ms: u32,
    /// Longest time between a sample and its sending, seconds.
    pub latency_s: u32,
}

impl Demand {
    /// What a package's readers need: live positions within ten seconds, telematics within a minute, what is read
    /// once a day within five minutes.
    pub fn of_package(name: &str) -> Self {
        match name {
            "track-and-trace" => Self { sampling_ms: 1_000, latency_s: 10 },
            "diagnostics" => Self { sampling_ms: 10_000, latency_s: 300 },
            "raw" => Self { sampling_ms: 0, latency_s: 60 },
            _ => Self { sampling_ms: 1_000, latency_s: 60 },
        }
    }
}

/// What one subscription wants of a vehicle's signals.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Want {
    patterns: Vec<String>,
    demand: Demand,
}

/// The campaigns that give every grant what it is entitled to, and no more.
pub fn campaigns(grants: &[Grant]) -> Vec<Campaign> {
    let mut entitlements: Vec<&Entitlement> = grants.iter().map(|grant| grant.entitlement.as_ref()).collect();
    // The same subscriptions give the same document, whatever order the database has them in.
    entitlements.sort_by(|left, right| left.subscription_id.cmp(&right.subscription_id));
    let wants: Vec<Want> = entitlements.iter().filter_map(|entitlement| want(entitlement)).collect();
    let mut campaigns = telemetry(&wants);
    let alerts: BTreeMap<String, Campaign> = entitlements
        .iter()
        .flat_map(|entitlement| alert_campaigns(entitlement))
        .map(|campaign| (campaign.name.clone(), campaign))
        .collect();
    campaigns.extend(alerts.into_values());
    if entitlements.iter().any(|entitlement| entitlement.diagnostics || entitlement.alerts) {
        campaigns.push(trouble_codes());
    }
    campaigns
}

/// Campaigns for a subscription's thresholds.
pub(crate) fn alert_campaigns(entitlement: &Entitlement) -> impl Iterator<Item = Campaign> {
    let thresholds = if entitlement.alerts { entitlement.thresholds.as_slice() } else { &[] };
    thresholds.iter().filter_map(alert)
}

fn want(entitlement: &Entitlement) -> Option<Want> {
    let patterns = entitlement.mask.patterns();
    (!patterns.is_empty()).then_some(Want { patterns, demand: entitlement.demand })
}

fn telemetry(wants: &[Want]) -> Vec<Campaign> {
    let all: BTreeSet<(&str, u32)> = wants
        .iter()
        .flat_map(|want| want.patterns.iter().map(|pattern| (pattern.as_str(), want.demand.sampling_ms)))
        .collect();
    let windows: BTreeSet<u32> = wants.iter().map(|want| want.demand.latency_s).collect();
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    let mut campaigns = Vec::new();
    for latency_s in windows {
        let own: BTreeSet<&str> = wants
            .iter()
            .filter(|want| want.demand.latency_s == latency_s)
            .flat_map(|want| want.patterns.iter().map(String::as_str))
            .collect();
        let is_taken = |pattern: &str| taken.iter().any(|taken| pattern_matches(taken, pattern));
        // Narrower patterns of others too: where they want more samples, these get a period of their own.
        let selected: BTreeSet<&str> = all
            .iter()
            .map(|(pattern, _)| *pattern)
            .filter(|pattern| own.iter().any(|own| pattern_matches(own, pattern)) && !is_taken(pattern))
            .collect();
        let mut signals: Vec<SignalSelector> = taken
            .iter()
            .filter(|pattern| !selected.is_empty() && own.iter().any(|own| pattern_matches(own, pattern)))
            .filter(|pattern| is_often_enough(&all, pattern))
            .map(|pattern| SignalSelector::none(*pattern))
            .collect();
        signals.extend(by_period(&all, &selected));
        taken.extend(own);
        if !selected.is_empty() {
            campaigns.push(Campaign {
                name: format!("telemetry within {latency_s} s"),
                window_ms: latency_s * 1_000,
                batch_samples: BATCH_SAMPLES_MAX / 2,
                signals,
                trouble_codes: false,
                ..Campaign::everything()
            });
        }
    }
    campaigns
}

/// The shortest period of all patterns that contain this one.
fn period_ms(all: &BTreeSet<(&str, u32)>, pattern: &str) -> u32 {
    let containing = all.iter().filter(|(other, _)| pattern_matches(other, pattern));
    containing.map(|(_, period_ms)| *period_ms).min().unwrap_or(0)
}

/// The first selector that matches decides, so that the shortest period comes first.
fn by_period(all: &BTreeSet<(&str, u32)>, patterns: &BTreeSet<&str>) -> Vec<SignalSelector> {
    let selector = |pattern: &&str| SignalSelector {
        period_ms: period_ms(all, pattern),
        ..SignalSelector::every(*pattern)
    };
    let mut selectors: Vec<_> = patterns.iter().map(selector).collect();
    selectors.sort_by_key(|selector| {
        let pattern = &selector.pattern;
        (selector.period_ms, pattern.contains('*'), std::cmp::Reverse(pattern.len()))
    });
    selectors
}

/// Does nobody want a part of what the pattern matches more often than its own campaign takes it?
fn is_often_enough(all: &BTreeSet<(&str, u32)>, pattern: &str) -> bool {
    let period_ms = period_ms(all, pattern);
    // What contains the pattern is in its period; what it contains is selected beside it.
    all.iter().all(|(other, other_ms)| {
        *other_ms >= period_ms || !overlap(other, pattern) || pattern_matches(pattern, other)
    })
}

/// Can one text match both patterns?
fn overlap(left: &str, right: &str) -> bool {
    let (Some((left_head, _)), Some((right_head, _))) = (left.split_once('*'), right.split_once('*')) else {
        return pattern_matches(left, right) || pattern_matches(right, left);
    };
    let tail = |pattern: &str| pattern.rsplit('*').next().unwrap_or_default().to_owned();
    let (left_tail, right_tail) = (tail(left), tail(right));
    // The longer head, everything between of both, and the longer tail make such a text.
    (left_head.starts_with(right_head) || right_head.starts_with(left_head))
        && (left_tail.ends_with(&right_tail) || right_tail.ends_with(&left_tail))
}

/// The value crosses the limit, or comes back by the hysteresis: the cloud judges each as `crossed` in enrichment.
fn alert(threshold: &Threshold) -> Option<Campaign> {
    let Threshold { path, side, limit, hysteresis } = threshold;
    // Such a path is no signal's name, and would end the name in the expression.
    if path.contains('`') || path.is_empty() {
        return None;
    }
    let (beyond, back, word) = match side {
        ThresholdSide::Above => {
            (format!("`{path}` > {limit}"), format!("`{path}` <= {}", limit - hysteresis), "above")
        }
        ThresholdSide::Below => {
            (format!("`{path}` < {limit}"), format!("`{path}` >= {}", limit + hysteresis), "below")
        }
    };
    let name: String = format!("alert: {path} {word} {limit}, back by {hysteresis}");
    Some(Campaign {
        name: name.chars().take(NAME_CHARS_MAX).collect(),
        lane: Lane::Fast,
        window_ms: 0,
        priority: ALERT_PRIORITY,
        collection: Collection::ConditionBased(Trigger {
            condition: format!("hysteresis({beyond}, {back})"),
            mode: TriggerMode::AnyEdge,
            minimum_interval_ms: 0,
            before_duration_ms: 0,
            after_duration_ms: 0,
        }),
        signals: vec![SignalSelector::every(path.as_str())],
        trouble_codes: false,
        ..Campaign::everything()
    })
}

fn trouble_codes() -> Campaign {
    Campaign {
        name: "trouble codes".into(),
        lane: Lane::Fast,
        priority: PRIORITY_DEFAULT - 1,
        signals: Vec::new(),
        ..Campaign::everything()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(patterns: &[&str], sampling_ms: u32, latency_s: u32) -> Want {
        let patterns = patterns.iter().map(ToString::to_string).collect();
        Want { patterns, demand: Demand { sampling_ms, latency_s } }
    }

    /// Window and period of a signal's first match, for every campaign that takes it.
    fn taken(campaigns: &[Campaign], path: &str) -> Vec<(u32, u32)> {
        let selector = |campaign: &Campaign| {
            let found = campaign.signals.iter().find(|selector| pattern_matches(&selector.pattern, path))?;
            (!found.exclude).then_some((campaign.window_ms, found.period_ms))
        };
        campaigns.iter().filter_map(selector).collect()
    }

    #[test]
    fn shared_signal_is_collected_once_by_the_most_demanding() {
        let wants = [
            want(&["Vehicle.*"], 5_000, 300),
            want(&["Vehicle.Speed", "Vehicle.CurrentLocation.*"], 1_000, 10),
            want(&["Vehicle.Speed", "Vehicle.Powertrain.*"], 100, 60),
        ];
        let campaigns = telemetry(&wants);
        assert_eq!(campaigns.len(), 3);
        assert!(campaigns.iter().all(|campaign| campaign.faults().is_empty()));
        assert_eq!(taken(&campaigns, "Vehicle.Speed"), [(10_000, 100)]);
        assert_eq!(taken(&campaigns, "Vehicle.CurrentLocation.Latitude"), [(10_000, 1_000)]);
        assert_eq!(taken(&campaigns, "Vehicle.Powertrain.Range"), [(60_000, 100)]);
        assert_eq!(taken(&campaigns, "Vehicle.Cabin.Door"), [(300_000, 5_000)]);
        assert_eq!(taken(&campaigns, "Other.Thing"), []);
    }

    #[test]
    fn wide_pattern_of_the_shortest_window_leaves_nothing_to_others_but_their_periods() {
        let wants = [want(&["Vehicle.*"], 1_000, 10), want(&["Vehicle.Speed"], 0, 60)];
        let campaigns = telemetry(&wants);
        assert_eq!(campaigns.len(), 1);
        assert_eq!(taken(&campaigns, "Vehicle.Speed"), [(10_000, 0)]);
        assert_eq!(taken(&campaigns, "Vehicle.Range"), [(10_000, 1_000)]);
    }

    #[test]
    fn signal_in_two_patterns_that_overlap_is_never_taken_too_rarely() {
        let same_window = [want(&["Vehicle.Cabin.*"], 5_000, 60), want(&["*.Speed"], 100, 60)];
        assert_eq!(taken(&telemetry(&same_window), "Vehicle.Cabin.Speed"), [(60_000, 100)]);
        let excluded = [
            want(&["Vehicle.*.Speed"], 5_000, 10),
            want(&["Vehicle.*"], 5_000, 60),
            want(&["Vehicle.Cabin.*"], 100, 60),
        ];
        assert_eq!(taken(&telemetry(&excluded), "Vehicle.Cabin.Speed"), [(10_000, 5_000), (60_000, 100)]);
        for (left, right, expected) in [
            ("Vehicle.*", "*.Speed", true),
            ("Vehicle.*", "Other.*", false),
            ("*.Range", "*.Speed", false),
            ("Vehicle.Speed", "*.Speed", true),
            ("Vehicle.Speed", "Vehicle.Range", false),
        ] {
            assert_eq!((overlap(left, right), overlap(right, left)), (expected, expected), "{left} {right}");
        }
    }

    #[test]
    fn a_threshold_becomes_a_condition_that_the_vehicle_can_judge() {
        let threshold =
            |side, limit, hysteresis| Threshold { path: "Vehicle.Speed".into(), side, limit, hysteresis };
        let above = alert(&threshold(ThresholdSide::Above, 90.0, 5.0)).unwrap();
        let Collection::ConditionBased(trigger) = &above.collection else { panic!() };
        assert_eq!(trigger.condition, "hysteresis(`Vehicle.Speed` > 90, `Vehicle.Speed` <= 85)");
        let below = alert(&threshold(ThresholdSide::Below, -0.5, 0.25)).unwrap();
        let Collection::ConditionBased(trigger) = &below.collection else { panic!() };
        assert_eq!(trigger.condition, "hysteresis(`Vehicle.Speed` < -0.5, `Vehicle.Speed` >= -0.25)");
        assert!(above.faults().is_empty() && below.faults().is_empty());
        let odd = Threshold { path: "a`b".into(), ..threshold(ThresholdSide::Above, 1.0, 0.0) };
        assert_eq!(alert(&odd), None);
        let tiny = alert(&threshold(ThresholdSide::Above, 1e-300, 0.0)).unwrap();
        assert!(tiny.faults().is_empty(), "{:?}", tiny.faults());
    }
}
