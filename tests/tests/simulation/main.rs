//! The simulated dongle against the agent, over lines that have bad days: `cargo xtask sim --seed N` runs one of them again.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test, and says so")]

mod runs;

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use convoy_agent::source::FrameSource;
use convoy_agent_core::decoder::RawValue;
use convoy_protocol::checkin::VinCheck;
use convoy_protocol::frame::CanId;
use convoy_protocol::manifest::SignalIndex;
use convoy_simulator::dongle::bench::{Attached, Bench};
use convoy_simulator::dongle::device::Device;
use convoy_simulator::dongle::rig::{DirectSource, Rig, Shared, live};
use convoy_simulator::dongle::vehicle::{Traffic, Vehicle};
use convoy_simulator::recording::Recording;
use convoy_simulator::vehicle::VehicleKind;

use runs::{Figures, UP, VIN, bad_day, gateway, in_simulated_time, options, polls};

/// Runs of the suite; `cargo xtask sim --seeds N` makes more.
const SEEDS: u64 = 200;

/// A number that `cargo xtask sim` tells.
fn told(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

#[test]
fn no_wrong_frame_ever_arrives_and_every_lost_one_is_counted_whatever_the_line_does() {
    let first = told("CONVOY_SIM_SEED");
    let count = told("CONVOY_SIM_SEEDS").unwrap_or(if first.is_some() { 1 } else { SEEDS });
    let first = first.unwrap_or(0);
    let (next, failed, total) =
        (AtomicU64::new(first), Mutex::new(Vec::new()), Mutex::new(Figures::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed - first >= count {
                return;
            }
            match catch_unwind(|| bad_day(seed)) {
                Ok(figures) => *total.lock().unwrap() += figures,
                Err(_) => {
                    eprintln!("seed {seed} failed; again: cargo xtask sim --seed {seed}");
                    failed.lock().unwrap().push(seed);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let (failed, total) = (failed.into_inner().unwrap(), total.into_inner().unwrap());
    println!("{count} seeds from {first} on: {total:?}");
    assert!(failed.is_empty(), "again: cargo xtask sim --seed N for N of {failed:?}");
    // What was not there was not tested.
    if count >= SEEDS {
        assert!(total.lost > 0 && total.resets > 0 && total.reopened > 0 && total.unwanted > 0, "{total:?}");
        assert!(total.uncounted * 10 < total.emitted, "breaks excuse too much: {total:?}");
    }
}

#[test]
fn the_same_seed_makes_the_same_run() {
    for seed in [3, 7] {
        assert_eq!(bad_day(seed), bad_day(seed));
    }
}

/// A truck that drives for a while, heard and asked by an agent.
async fn drive<S: FrameSource>(world: &Shared, source: S, is_up: impl Fn(&Rig<S>) -> bool) -> Rig<S> {
    const START_MS: u64 = 1_000;
    let mut rig = Rig::new(world.clone(), source, gateway(polls(), true));
    rig.gateway.set_tap(true);
    assert!(rig.run(START_MS, is_up).await);
    while world.bench().now_us() < START_MS * 1_000 {
        rig.tick().await;
    }
    let recording = Recording::of_kind(VehicleKind::Truck);
    let bus = recording.bus("can1").unwrap();
    world.bench().play(Traffic::recorded(recording, bus));
    rig.run(15_000, |_| false).await;
    world.bench().play(Traffic::Silence);
    rig.run(2_000, |_| false).await;
    rig
}

/// What each signal was, one value after the other.
fn values<S: FrameSource>(rig: &Rig<S>) -> BTreeMap<SignalIndex, Vec<RawValue>> {
    let mut values: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (signal, value) in rig.said.iter().flat_map(|(_, row)| row) {
        values.entry(*signal).or_default().push(*value);
    }
    values
}

#[test]
fn through_the_dongle_a_vehicle_says_what_it_says_without_one() {
    let attached = [
        Attached::Directly { heard: Default::default(), reader: None },
        Attached::Dongle(Box::new(Device::new(1))),
    ];
    let [direct, dongle] = attached.map(|attached| Shared::new(Bench::new(Vehicle::new(VIN, 5), attached)));
    let direct = in_simulated_time(drive(&direct, DirectSource::new(direct.clone()), |_| true));
    let dongle = in_simulated_time(async {
        let source = live(&dongle, 1, options(Some(polls())));
        drive(&dongle, source, |rig| rig.source.links()[0].state == UP).await
    });
    // What nobody asked for comes in the same order, with its time.
    let unasked = |arrived: &[convoy_simulator::dongle::rig::Arrival]| {
        let frames = arrived.iter().map(|arrival| arrival.frame);
        frames.filter(|frame| frame.id != CanId::Standard(0x7E8)).collect::<Vec<_>>()
    };
    let (plain, carried) = (unasked(&direct.arrived), unasked(&dongle.arrived));
    assert!(plain.len() > 4_000, "{}", plain.len());
    assert_eq!(plain.len(), carried.len());
    for (plain, carried) in plain.iter().zip(&carried) {
        assert_eq!((plain.id, plain.data()), (carried.id, carried.data()));
        let later_us = carried.timestamp_us - plain.timestamp_us;
        assert!((0..=2_000).contains(&later_us), "{later_us} us at {plain:?}");
    }
    // The n-th answer to a question is the same whenever it is asked, and the questions take the same pace.
    let (plain, carried) = (values(&direct), values(&dongle));
    assert_eq!(plain.keys().collect::<Vec<_>>(), carried.keys().collect::<Vec<_>>());
    assert!(plain.len() > 15, "{} signals", plain.len());
    for (signal, plain) in &plain {
        let carried = &carried[signal];
        let both = plain.len().min(carried.len());
        assert_eq!(plain[..both], carried[..both], "{signal:?}");
        assert!(both > 0 && plain.len().max(carried.len()) - both <= both / 10 + 1, "{signal:?}");
    }
    for (vin, sent) in [
        (direct.gateway.vin_check(), direct.world.bench().sent.len()),
        (dongle.gateway.vin_check(), dongle.world.bench().sent.len()),
    ] {
        assert!(vin == VinCheck::Matches && sent > 100, "{vin:?}, {sent} frames sent");
    }
    let status = &dongle.source.links()[0];
    assert_eq!((status.dropped, status.malformed, status.reopened), (0, 0, 0), "{status:?}");
}
