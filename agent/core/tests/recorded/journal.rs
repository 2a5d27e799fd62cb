//! Open batches in the journal: whatever part of a log survives, each sample in it comes out once.

use std::collections::BTreeSet;
use std::sync::Arc;

use convoy_agent_core::gateway::{Gateway, GatewayConfig, Output};
use convoy_agent_core::journal::{self, JournalRecord, envelope_of, envelope_record, put_together};
use convoy_protocol::columns::Values;
use convoy_protocol::envelope::Envelope;
use convoy_protocol::id::{BootId, Lane};
use proptest::prelude::*;

use crate::gateway::{NOW_US, a, campaign, config, two_messages};

const JOURNAL_AFTER_US: i64 = 500_000;
const STEP_US: i64 = 100_000;

fn journalling(boot: u32) -> GatewayConfig {
    GatewayConfig {
        boot_id: BootId { counter: boot, spool: 9 },
        journal_after_us: Some(JOURNAL_AFTER_US),
        ..config(vec![campaign("M.A", 0, 37, 3_000), campaign("M.*", 0, 1_000, 5_000)])
    }
}

/// The records that a gateway makes for its bulk lane and for the journal, in their order.
fn records(gateway: &mut Gateway, log: &mut Vec<Vec<u8>>) {
    while let Some(output) = gateway.poll_output() {
        match output {
            Output::Envelope { key, bytes, closes, .. } if key.lane == Lane::Bulk => {
                log.push(envelope_record(bytes, closes));
            }
            Output::Chunk { record, .. } => log.push(record),
            Output::Envelope { .. } => {}
            Output::Request { .. } | Output::FlowControl(_) | Output::Tapped { .. } => {
                panic!("nothing was to be asked")
            }
        }
    }
}

/// Times of samples by campaign in the envelopes of a log, and how many there are in all.
fn samples(log: &[Vec<u8>]) -> (BTreeSet<(String, i64)>, usize) {
    let (mut distinct, mut all) = (BTreeSet::new(), 0);
    for record in log {
        let (bytes, _) = envelope_of(record);
        if journal::read(record).is_some() {
            continue;
        }
        let envelope = Envelope::parse(bytes).unwrap();
        let campaign = envelope.header.campaign_id.unwrap().to_string();
        for section in envelope.sections().filter(|section| section.kind.is_samples()) {
            let columns = section.columns(envelope.header.base_us).unwrap().unwrap().0;
            for group in &columns.groups {
                let Values::Raw(values) = &group.columns[0].values else { panic!() };
                for (time_us, value) in group.times_us.iter().zip(values) {
                    assert_eq!(*value, (time_us / STEP_US) % 200, "a value of another time");
                    distinct.insert((campaign.clone(), *time_us));
                    all += 1;
                }
            }
        }
    }
    (distinct, all)
}

/// What an agent that starts with this log finds in it: chunks that no envelope closes.
fn open_chunks(log: &[Vec<u8>]) -> Vec<convoy_agent_core::journal::Recovered> {
    let closed: BTreeSet<_> = log.iter().filter_map(|record| envelope_of(record).1).collect();
    put_together(log.iter().filter_map(|record| match journal::read(record)? {
        JournalRecord::Chunk(header, columns) => {
            Some((header, columns)).filter(|_| !closed.contains(&header.batch))
        }
        JournalRecord::Live(_) => None,
    }))
}

proptest! {
    #[test]
    fn log_cut_anywhere_gives_every_sample_in_it_once(frames in 1..200i64, cuts in prop::collection::vec(0.0..1.0f64, 1..4)) {
        let decoder = Arc::new(two_messages());
        let mut log = Vec::new();
        let mut recovered = Vec::new();
        for (boot, cut) in (1..).zip(cuts) {
            let config = GatewayConfig { recovered, ..journalling(boot) };
            let mut gateway = Gateway::new(config, Arc::clone(&decoder), NOW_US);
            records(&mut gateway, &mut log);
            let (mut taken, start) = (Vec::new(), i64::from(boot) * 1_000);
            let kept = log.len();
            for step in start..start + frames {
                let now_us = NOW_US + step * STEP_US;
                gateway.handle_frame(now_us, &a(step * STEP_US, (step % 200) as u8));
                gateway.handle_timeout(now_us);
                records(&mut gateway, &mut log);
                taken.push((step, log.len()));
            }
            // The process dies; of the log, its beginning is left.
            let left = kept + ((log.len() - kept) as f64 * cut) as usize;
            log.truncate(left);
            recovered = open_chunks(&log);
            // Older than the journal's time when a record that is left was written: it must be there.
            let in_open: usize = recovered.iter().map(|batch| batch.columns.samples()).sum();
            let (distinct, all) = samples(&log);
            prop_assert_eq!(distinct.len(), all, "an envelope repeats a sample of another");
            let written_by = taken.iter().filter(|(_, len)| *len <= left).map(|(step, _)| *step).max();
            if let Some(step) = written_by.filter(|_| left > kept) {
                let due = step - JOURNAL_AFTER_US / STEP_US;
                let must: usize = (start..=due).count();
                let of_this_boot = distinct.iter().filter(|(_, time_us)| time_us / STEP_US >= start).count();
                prop_assert!(of_this_boot + in_open >= 2 * must, "{} + {in_open} of {must}", of_this_boot);
            }
        }
        // One more start sends all that was left open.
        let before: usize = recovered.iter().map(|batch| batch.columns.samples()).sum();
        let (_, sent) = samples(&log);
        let mut gateway = Gateway::new(GatewayConfig { recovered, ..journalling(99) }, decoder, NOW_US);
        records(&mut gateway, &mut log);
        let (distinct, all) = samples(&log);
        prop_assert_eq!(all, sent + before);
        prop_assert_eq!(distinct.len(), all);
        prop_assert!(open_chunks(&log).is_empty());
    }
}
