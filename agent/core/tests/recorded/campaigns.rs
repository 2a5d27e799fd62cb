//! Campaigns at work: what is taken, when, how it is swapped, reported and limited.

use std::sync::Arc;

use convoy_agent_core::gateway::{
    FrameTimes, Gateway, REPORT_COUNTS_INTERVAL_US, REPORT_INTERVAL_US, REPORT_RECONNECT_INTERVAL_US,
    SNAPSHOT_INTERVAL_US,
};
use convoy_protocol::campaign::{CAMPAIGNS_MAX, Campaign, Collection, SignalSelector, Trigger, TriggerMode};
use convoy_protocol::columns::Values;
use convoy_protocol::desired::{DesiredError, DesiredState};
use convoy_protocol::downlink::Down;
use convoy_protocol::envelope::SectionKind;
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use convoy_protocol::id::VehicleId;
use convoy_protocol::report::{CampaignStatus, Report, TriggerRecord};
use convoy_protocol::time::ClockQuality;

use crate::gateway::{NOW_US, Read, a, campaign, config, drain, two_messages};

const SECOND_US: i64 = 1_000_000;
const YEAR_US: i64 = 365 * 86_400 * SECOND_US;

fn started(campaigns: Vec<Campaign>) -> Gateway {
    let mut gateway = Gateway::new(config(campaigns), Arc::new(two_messages()), NOW_US);
    drain(&mut gateway);
    gateway
}

fn with(selector: SignalSelector) -> Campaign {
    Campaign { signals: vec![selector], ..campaign("*", 0, 1_000, 60_000) }
}

fn triggered(condition: &str, mode: TriggerMode, before_s: u32, after_s: u32) -> Campaign {
    let trigger = Trigger {
        condition: condition.into(),
        mode,
        minimum_interval_ms: 0,
        before_duration_ms: before_s * 1_000,
        after_duration_ms: after_s * 1_000,
    };
    Campaign {
        name: "triggered".into(),
        window_ms: 0,
        collection: Collection::ConditionBased(trigger),
        ..campaign("M.A", 0, 1_000, 0)
    }
}

fn b(timestamp_us: i64) -> CanFrame {
    CanFrame::new(timestamp_us, BusIndex(0), CanId::Standard(2), &[1; 8]).unwrap()
}

/// Second and value of each sample, an envelope at a time.
fn samples(read: &Read) -> Vec<(i64, i64)> {
    let columns = read.columns().unwrap_or_default();
    let mut samples = Vec::new();
    for group in &columns.groups {
        for column in &group.columns {
            let Values::Raw(values) = &column.values else { panic!("{:?}", column.values) };
            samples.extend(group.times_us.iter().map(|us| us / SECOND_US).zip(values.iter().copied()));
        }
    }
    samples
}

/// Feeds one value of `A` a second and returns what was collected of it.
fn fed(campaign: Campaign, values: &[u8]) -> Vec<Vec<(i64, i64)>> {
    let mut gateway = started(vec![campaign]);
    for (second, value) in (0..).zip(values) {
        gateway.handle_frame(NOW_US + second * SECOND_US, &a(second * SECOND_US, *value));
    }
    gateway.flush(NOW_US);
    drain(&mut gateway).iter().map(samples).filter(|samples| !samples.is_empty()).collect()
}

fn reports(envelopes: &[Read]) -> Vec<Report> {
    let bodies = envelopes.iter().filter_map(|read| read.section(SectionKind::Report));
    bodies.map(|body| postcard::from_bytes(body).unwrap()).collect()
}

fn statuses(report: &Report) -> Vec<(&str, &CampaignStatus)> {
    report.campaigns.iter().map(|campaign| (campaign.name.as_str(), &campaign.status)).collect()
}

fn desired(version: u64, campaigns: Vec<Campaign>) -> DesiredState {
    DesiredState { vehicle_id: VehicleId([3; 16]), version, campaigns }
}

#[test]
fn deadband_takes_a_value_that_moved_far_enough_since_the_last_one_taken() {
    let selector = SignalSelector { deadband: 3.0, ..SignalSelector::every("M.A") };
    let values = [10, 12, 8, 13, 11, 15, 16, 16];
    // 13 is 3 from 10; 11 and 15 are within 3 of 13; 16 is not.
    assert_eq!(fed(with(selector), &values), [[(0, 10), (3, 13), (6, 16)]]);
}

#[test]
fn on_change_takes_a_value_once_and_waits_for_its_period() {
    let selector = SignalSelector { on_change: true, period_ms: 2_000, ..SignalSelector::every("M.A") };
    let values = [5, 6, 6, 6, 7, 8, 7, 7];
    // At second 1 the change comes too early; it is taken when the period is over, if it lasts.
    assert_eq!(fed(with(selector), &values), [[(0, 5), (2, 6), (4, 7)]]);
}

#[test]
fn rising_edge_collects_what_lies_before_and_after_it() {
    let values = [0, 1, 2, 90, 91, 3, 4, 5, 6, 95, 7];
    let campaign = triggered("`M.A` > 80", TriggerMode::RisingEdge, 2, 1);
    let first = vec![(1, 1), (2, 2), (3, 90), (4, 91)];
    assert_eq!(fed(campaign, &values), [first, vec![(7, 5), (8, 6), (9, 95), (10, 7)]]);
}

#[test]
fn any_edge_collects_both_ends_and_while_true_everything_between() {
    let values = [90, 0, 1, 90, 91, 2];
    let at_edges = fed(triggered("`M.A` > 80", TriggerMode::AnyEdge, 0, 0), &values);
    assert_eq!(at_edges.concat(), [(0, 90), (1, 0), (3, 90), (5, 2)]);
    let while_true = fed(triggered("`M.A` > 80", TriggerMode::WhileTrue, 0, 0), &values);
    assert_eq!(while_true.concat(), [(0, 90), (3, 90), (4, 91)]);
}

#[test]
fn triggers_come_no_closer_than_their_minimum_interval() {
    let mut campaign = triggered("`M.A` > 80", TriggerMode::RisingEdge, 0, 0);
    let Collection::ConditionBased(trigger) = &mut campaign.collection else { unreachable!() };
    trigger.minimum_interval_ms = 4_000;
    assert_eq!(fed(campaign, &[90, 0, 90, 0, 90, 0]).concat(), [(0, 90), (4, 90)]);
}

#[test]
fn envelope_of_a_trigger_says_when_it_was() {
    let mut gateway = started(vec![triggered("`M.A` > 80", TriggerMode::RisingEdge, 0, 0)]);
    for (second, value) in [(1, 90), (2, 1), (3, 91)] {
        gateway.handle_frame(NOW_US, &a(second * SECOND_US, value));
    }
    let records: Vec<TriggerRecord> = drain(&mut gateway)
        .iter()
        .filter_map(|read| read.section(SectionKind::Trigger))
        .map(|body| postcard::from_bytes(body).unwrap())
        .collect();
    let record = |second, number| TriggerRecord { triggered_us: second * SECOND_US, number };
    assert_eq!(records, [record(1, 1), record(3, 2)]);
}

#[test]
fn batch_of_a_trigger_is_closed_when_its_time_is_over_without_another_frame() {
    let mut gateway = started(vec![triggered("`M.A` > 80", TriggerMode::RisingEdge, 2, 3)]);
    gateway.handle_frame(NOW_US, &a(0, 90));
    assert_eq!(gateway.poll_timeout(), Some(NOW_US + 3 * SECOND_US));
    gateway.handle_timeout(NOW_US + 3 * SECOND_US);
    assert_eq!(drain(&mut gateway).iter().map(samples).collect::<Vec<_>>(), [[(0, 90)]]);
}

#[test]
fn budget_takes_signals_rarely_when_it_is_nearly_used_and_not_at_all_when_it_is() {
    let limited = Campaign { bytes_per_day: Some(3_000), ..campaign("*", 0, 10, 60_000) };
    let mut gateway = started(vec![limited]);
    let mut taken = Vec::new();
    for second in 0..3_000 {
        let now_us = NOW_US + second * SECOND_US;
        gateway.handle_frame(now_us, &a(second * SECOND_US, second as u8));
        gateway.handle_timeout(now_us);
        taken.extend(drain(&mut gateway));
    }
    let bytes = gateway.counters().envelope_bytes;
    let seconds: Vec<_> = taken.iter().flat_map(samples).map(|(second, _)| second).collect();
    let rare = seconds.windows(2).filter(|pair| pair[1] - pair[0] == 10).count();
    assert!(rare > 5, "{seconds:?}");
    assert!(seconds.windows(2).all(|pair| [1, 10].contains(&(pair[1] - pair[0]))), "{seconds:?}");
    // Reports of the statuses do not count: they are not the campaign's.
    let samples_bytes: u64 = 3_000 + 150;
    assert!(bytes < samples_bytes + 1_500, "{bytes}");
    assert!(gateway.counters().samples_over_budget > 1_000, "{:?}", gateway.counters());
    let seen: Vec<_> = reports(&taken).iter().map(|report| report.campaigns[0].status.clone()).collect();
    assert_eq!(seen, [CampaignStatus::Active, CampaignStatus::Degraded, CampaignStatus::OverBudget]);
    // The next day begins anew.
    let tomorrow_us = NOW_US + 86_400 * SECOND_US;
    gateway.handle_frame(tomorrow_us, &a(90_000 * SECOND_US, 1));
    assert_eq!(gateway.open_samples(), 1);
}

#[test]
fn desired_state_is_swapped_at_once_and_every_campaign_reported() {
    let kept = campaign("M.A", 0, 1_000, 60_000);
    let mut gateway = started(vec![]);
    gateway
        .handle_desired(
            NOW_US,
            desired(
                5,
                vec![
                    kept.clone(),
                    Campaign { priority: 9, ..triggered("Nothing > 1", TriggerMode::RisingEdge, 0, 0) },
                ],
            ),
        )
        .unwrap();
    let report = &reports(&drain(&mut gateway))[0];
    assert_eq!((report.version, &report.refused), (Some(5), &None));
    let why = "its condition names signals that the vehicle does not have: Nothing";
    let rejected = CampaignStatus::Rejected(why.into());
    assert_eq!(statuses(report), [("triggered", &rejected), ("test", &CampaignStatus::WaitingForSignals)]);
    assert_eq!(report.campaigns[1].unseen, ["Vehicle.Private.M.A"]);

    gateway.handle_frame(NOW_US, &a(1, 7));
    gateway.handle_timeout(NOW_US + REPORT_INTERVAL_US);
    let report = &reports(&drain(&mut gateway))[0];
    assert_eq!((statuses(report)[1].1, report.campaigns[1].signals_seen), (&CampaignStatus::Active, 1));

    // The kept campaign goes on with its open batch; the other gives up what it has.
    let other = Campaign { name: "other".into(), ..campaign("N.B", 0, 1_000, 60_000) };
    gateway.handle_desired(NOW_US, desired(6, vec![kept, other])).unwrap();
    gateway.handle_frame(NOW_US, &b(2));
    assert!(drain(&mut gateway).iter().all(|read| samples(read).is_empty()));
    gateway.handle_desired(NOW_US, desired(7, vec![])).unwrap();
    let sent: Vec<_> = drain(&mut gateway).iter().map(samples).filter(|s| !s.is_empty()).collect();
    assert_eq!(sent.len(), 2, "{sent:?}");
    gateway.handle_frame(NOW_US, &a(3, 8));
    gateway.flush(NOW_US);
    assert!(drain(&mut gateway).is_empty(), "nothing is collected any more");
}

#[test]
fn older_or_foreign_desired_state_changes_nothing_and_is_reported() {
    let mut gateway = started(vec![]);
    gateway.handle_desired(NOW_US, desired(9, vec![campaign("M.A", 0, 1, 0)])).unwrap();
    drain(&mut gateway);
    let foreign = DesiredState { vehicle_id: VehicleId([4; 16]), ..desired(10, vec![]) };
    assert_eq!(gateway.handle_desired(NOW_US, foreign), Err(DesiredError::OtherVehicle));
    assert_eq!(
        gateway.handle_desired(NOW_US, desired(8, vec![])),
        Err(DesiredError::NotNewer { got: 8, have: 9 })
    );
    let reported = reports(&drain(&mut gateway));
    let refused: Vec<_> = reported.iter().map(|report| report.refused.clone().unwrap()).collect();
    assert_eq!((refused[0].version, refused[1].version), (Some(10), Some(8)));
    assert_eq!(refused[1].reason, "desired state has version 8, this vehicle has version 9 already");
    assert_eq!(reported[1].version, Some(9));
    assert_eq!(gateway.counters().desired_refused, 2);
    gateway.handle_frame(NOW_US, &a(1, 7));
    assert_eq!(drain(&mut gateway).len(), 1, "the old campaign runs on");
    // Another document under the same version is refused; the same once more only says again what runs, soon.
    let other = gateway.handle_desired(NOW_US, desired(9, vec![]));
    assert_eq!(other, Err(DesiredError::NotNewer { got: 9, have: 9 }));
    drain(&mut gateway);
    gateway.handle_desired(NOW_US, desired(9, vec![campaign("M.A", 0, 1, 0)])).unwrap();
    assert!(drain(&mut gateway).is_empty());
    gateway.handle_timeout(NOW_US + REPORT_RECONNECT_INTERVAL_US);
    assert_eq!(reports(&drain(&mut gateway))[0].version, Some(9));
}

#[test]
fn campaigns_of_the_least_priority_are_rejected_when_there_are_too_many() {
    let many = (0..=CAMPAIGNS_MAX as u32).map(|number| Campaign {
        name: number.to_string(),
        priority: if number == 3 { 200 } else { 7 },
        ..campaign("*", number, 10, 1_000)
    });
    let mut gateway = started(vec![]);
    gateway.handle_desired(NOW_US, desired(1, many.collect())).unwrap();
    let report = gateway.current_report(NOW_US);
    let rejected: Vec<_> = statuses(&report)
        .into_iter()
        .filter(|(_, status)| matches!(status, CampaignStatus::Rejected(_)))
        .collect();
    assert_eq!((rejected.len(), rejected[0].0), (1, "3"));
}

#[test]
fn expired_campaign_sends_what_it_has_and_ends() {
    let until = Campaign { expires_us: Some(NOW_US + SECOND_US), ..campaign("*", 0, 100, 60_000) };
    let mut gateway = started(vec![until]);
    gateway.handle_frame(NOW_US, &a(1, 7));
    assert_eq!(gateway.poll_timeout(), Some(NOW_US + SECOND_US));
    gateway.handle_timeout(NOW_US + SECOND_US);
    gateway.handle_frame(NOW_US + SECOND_US, &a(2, 8));
    gateway.handle_timeout(NOW_US + REPORT_INTERVAL_US);
    let envelopes = drain(&mut gateway);
    assert_eq!(samples(&envelopes[0]), [(0, 7)]);
    assert_eq!(statuses(&reports(&envelopes)[0])[0].1, &CampaignStatus::Expired);
    assert_eq!(gateway.open_samples(), 0);
    // The clock had been ahead: it goes on.
    gateway.handle_clock(NOW_US + REPORT_INTERVAL_US, ClockQuality::Ntp, -60 * SECOND_US);
    gateway.handle_timeout(NOW_US + 2 * REPORT_INTERVAL_US);
    gateway.handle_frame(NOW_US + 2 * REPORT_INTERVAL_US, &a(NOW_US + 2 * REPORT_INTERVAL_US, 9));
    assert_eq!(gateway.open_samples(), 1);
}

#[test]
fn trouble_codes_are_reported_only_while_somebody_wants_them() {
    let dm1 =
        CanFrame::new(5, BusIndex(1), CanId::Extended(0x18FE_CA00), &[0x40, 0xFF, 9, 0, 3, 1, 0, 0]).unwrap();
    let mut gateway = started(vec![]);
    gateway.handle_frame(NOW_US, &dm1);
    assert!(drain(&mut gateway).is_empty());
    let codes = Campaign { signals: Vec::new(), ..Campaign::everything() };
    gateway.handle_desired(NOW_US, desired(1, vec![codes])).unwrap();
    let records: Vec<_> = drain(&mut gateway).iter().flat_map(Read::dtcs).collect();
    assert_eq!(records.len(), 1, "what is active is reported when it is asked for");
}

#[test]
fn snapshot_holds_the_last_value_of_what_is_collected_and_comes_no_more_often_than_it_may() {
    let mut gateway = started(vec![campaign("M.A", 60_000, 1_000, 600_000)]);
    gateway.handle_connected(NOW_US);
    assert!(drain(&mut gateway).is_empty(), "nothing was seen yet");
    for second in 0..3 {
        gateway.handle_frame(NOW_US, &a(second * SECOND_US, second as u8 + 40));
        gateway.handle_frame(NOW_US, &b(second * SECOND_US));
    }
    gateway.handle_connected(NOW_US);
    gateway.handle_downlink(NOW_US + SECOND_US, &Down::WantSnapshot);
    let snapshots = |gateway: &mut Gateway| -> Vec<_> {
        let envelopes = drain(gateway);
        let of = |read: &Read| {
            let body = read.section(SectionKind::CompactSnapshot)?;
            Some(convoy_protocol::compact::decode(body, read.header.base_us).unwrap())
        };
        envelopes.iter().filter_map(of).collect()
    };
    let sent = snapshots(&mut gateway);
    assert_eq!(
        (sent.len(), sent[0].samples(), sent[0].span_us()),
        (1, 1, Some((2 * SECOND_US, 2 * SECOND_US)))
    );
    gateway.handle_timeout(NOW_US + SNAPSHOT_INTERVAL_US);
    assert_eq!(snapshots(&mut gateway).len(), 1, "the second was asked for too early and comes when it may");
    gateway.handle_timeout(NOW_US + REPORT_COUNTS_INTERVAL_US);
    assert!(snapshots(&mut gateway).is_empty());
}

#[test]
fn time_that_arrives_puts_right_what_was_not_sent_and_stalls_nothing() {
    for by_us in [YEAR_US, -YEAR_US] {
        let live = convoy_agent_core::gateway::GatewayConfig {
            frame_times: FrameTimes::Live,
            clock: ClockQuality::None,
            ..config(vec![campaign("M.A", 0, 1_000, 10_000)])
        };
        let mut gateway = Gateway::new(live, Arc::new(two_messages()), NOW_US);
        drain(&mut gateway);
        gateway.handle_frame(NOW_US, &a(NOW_US, 1));
        gateway.handle_clock(NOW_US + SECOND_US, ClockQuality::Gnss, by_us);
        assert_eq!(drain(&mut gateway).len(), 1, "the cloud hears of it");
        gateway.handle_frame(NOW_US + 2 * SECOND_US, &a(NOW_US + 2 * SECOND_US, 2));
        // No timer moved: the batch is closed ten seconds after it was opened.
        let open = gateway.poll_timeout().unwrap();
        assert_eq!(open, NOW_US + REPORT_INTERVAL_US);
        gateway.handle_timeout(NOW_US + REPORT_INTERVAL_US);
        gateway.handle_timeout(NOW_US + 10 * SECOND_US);
        let envelopes = drain(&mut gateway);
        let with_samples: Vec<_> = envelopes.iter().filter(|read| !samples(read).is_empty()).collect();
        assert_eq!(with_samples.len(), 1, "one batch: nothing was cut by the step");
        let header = with_samples[0].header;
        assert_eq!((header.clock, header.monotonic_offset_us), (ClockQuality::Gnss, 42 + by_us));
        let first_s = (NOW_US + by_us) / SECOND_US;
        assert_eq!(samples(with_samples[0]), [(first_s, 1), (first_s + 2, 2)]);
    }
}
