//! The dongle's firmware in QEMU with the agent's own end of the line: what goes in on the bus side comes out, whatever the line
//! does to it, and what is lost is counted.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test, and says so")]

mod agent;
mod machine;
mod overrun;
mod process;
mod update;

use convoy_agent_core::dongle::DongleCounters;
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use convoy_protocol::link::BusState;

use agent::{Agent, Sent, whole};
use machine::{Bus, End, Machine};

/// Sends in a thread of its own, so that the link is read meanwhile; returns the bus when all is sent.
fn send_all(bus: &Bus, frames: Vec<Sent>) -> std::thread::JoinHandle<Bus> {
    let mut bus = bus.another_handle();
    std::thread::spawn(move || {
        bus.send_frames(&frames);
        bus
    })
}

/// Feeds `frames` and checks that they come out; the rate, frames a second.
fn carry(frames: Vec<Sent>) -> f64 {
    let (mut machine, mut agent) = (Machine::lm3s6965(), Agent::new(true));
    agent.run(&mut machine, &mut whole(), |agent| agent.session.is_up());
    let started = std::time::Instant::now();
    let sender = send_all(&machine.bus, frames.clone());
    agent.run(&mut machine, &mut whole(), |agent| agent.frames.len() == frames.len());
    let seconds = started.elapsed().as_secs_f64();
    machine.bus = sender.join().unwrap();
    assert_eq!(agent.read_to_end(machine), End::clean());
    let wrong = agent.frames.iter().zip(&frames).position(|(got, sent)| got != sent);
    assert_eq!(wrong, None, "the first frame that differs");
    let counters = DongleCounters { frames: frames.len() as u64, repeated: 0, ..DongleCounters::default() };
    assert_eq!(DongleCounters { repeated: 0, ..agent.session.counters() }, counters);
    frames.len() as f64 / seconds
}

#[test]
fn frames_of_every_length_and_kind_of_id_come_out_equal_and_in_order() {
    let lengths = (0..=8).chain([12, 16, 20, 24, 32, 48, 64]);
    let frames: Vec<Sent> = lengths
        .cycle()
        .zip(0u32..5_000)
        .map(|(len, number)| {
            let mixed = number.wrapping_mul(0x9E37_79B9);
            let id = if number % 3 == 0 {
                CanId::Standard((mixed >> 21) as u16)
            } else {
                CanId::Extended(mixed & CanId::EXTENDED_MAX)
            };
            // Zeros and 0xFF too: COBS treats them in other ways.
            (id, (0..len).map(|at| (mixed >> (at % 4 * 8)) as u8 & 0x7F_u8.wrapping_add(at)).collect())
        })
        .collect();
    carry(frames);
}

#[test]
fn a_flood_of_full_classic_frames_loses_none() {
    let frames = (0u64..20_000).map(|number| (CanId::Extended(0x0CF0_0400), number.to_le_bytes().to_vec()));
    let rate = carry(frames.collect());
    // For `cargo xtask bench dongle`: another build on this machine halves it, so that no limit holds here.
    println!("dongle.frames_per_s={rate:.0}");
}

#[test]
fn what_the_bus_side_lost_or_garbled_is_counted_and_the_rest_comes_out() {
    let (mut machine, mut agent) = (Machine::lm3s6965(), Agent::new(true));
    agent.run(&mut machine, &mut whole(), |agent| agent.session.is_up());
    machine.bus.send(0x123, &[1]);
    // Sent by nobody: three numbers are missing.
    machine.bus.sequence += 3;
    machine.bus.send(0x123, &[2]);
    let mut broken = machine.bus.packet(&[(0x123, &[3])]);
    broken[6] ^= 0x40;
    machine.bus.send_bytes(&broken);
    machine.bus.send_bytes(&[7; 500]);
    machine.bus.send_bytes(&[0, 0, 0]);
    machine.bus.send(0x123 | Bus::REMOTE, &[]);
    // 2,048 needs 12 bits, and nobody has set the bit for 29; no frame has 65 bytes.
    let packet =
        machine.bus.packet(&[(0x123, &[4]), (0x800, &[]), (0x123, &[5]), (0x123, &[0; 65]), (0x123, &[6])]);
    machine.bus.send_bytes(&packet);
    let all = |agent: &Agent| agent.session.health().is_some_and(|health| health.buses[0].received == 5);
    agent.run(&mut machine, &mut whole(), all);
    let end = agent.read_to_end(machine);
    let data: Vec<_> = agent.frames.iter().map(|(_, data)| data[0]).collect();
    assert_eq!(data, [1, 2, 4, 5, 6]);
    // The broken record and the two that no frame is are missing from the numbers, too.
    let counted = "frames_lost=6 records_rejected=4 bus_overruns=0 link_overruns=0";
    assert_eq!(end, End { code: Some(0), output: counted.to_owned() });
    let health = agent.session.health().unwrap();
    let bus = &health.buses[0];
    assert_eq!((bus.received, bus.remote, bus.overruns, bus.state), (5, 1, 6, BusState::ErrorActive));
    assert_eq!((agent.session.counters().lost_in_dongle, agent.session.counters().lost_on_line), (6, 0));
}

#[test]
fn the_agent_sends_onto_the_bus_only_where_it_may() {
    let request = CanFrame::new(0, BusIndex(0), CanId::Standard(0x7DF), &[2, 1, 0x0C, 0, 0xFF]).unwrap();
    let (mut machine, mut listener) = (Machine::lm3s6965(), Agent::new(true));
    listener.run(&mut machine, &mut whole(), |agent| agent.session.is_up());
    assert!(!listener.session.transmit(&request));
    drop(machine);
    let (mut machine, mut agent) = (Machine::lm3s6965(), Agent::new(false));
    agent.run(&mut machine, &mut whole(), |agent| agent.session.is_up());
    for number in 0..3 {
        assert!(agent.session.transmit(&request));
        let sent = |agent: &Agent| agent.session.health().is_some_and(|health| health.buses[0].sent > number);
        agent.run(&mut machine, &mut whole(), sent);
        assert_eq!(machine.receive_from_bus(), (number, 0x7DF, request.data().to_vec()));
    }
    assert_eq!(agent.session.counters().refused, 0);
}

/// What a bad line does to bytes at random points: bits flip, bytes go missing or come from nowhere, and whole bursts of them.
fn damage(bytes: Vec<u8>, dice: &mut impl FnMut() -> u32, points: &mut u32) -> Vec<u8> {
    let mut out = Vec::new();
    let mut missing = 0;
    for byte in bytes {
        if missing > 0 {
            missing -= 1;
            continue;
        }
        if !dice().is_multiple_of(180) {
            out.push(byte);
            continue;
        }
        *points += 1;
        match dice() % 4 {
            0 => out.push(byte ^ 1 << (dice() % 8)),
            1 => missing = dice() % 300,
            2 => out.extend([byte, dice().to_le_bytes()[0]]),
            _ => out.extend((0..dice() % 40).map(|_| dice().to_le_bytes()[0])),
        }
    }
    out
}

#[test]
fn a_line_that_corrupts_never_makes_a_wrong_frame_and_every_lost_one_is_counted() {
    let (mut machine, mut agent) = (Machine::lm3s6965(), Agent::new(true));
    agent.run(&mut machine, &mut whole(), |agent| agent.session.is_up());
    let mut state = 0x5EED_u64;
    let mut dice = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as u32
    };
    let mut points = 0;
    let frames: Vec<Sent> =
        (0u32..30_000).map(|number| (CanId::Standard(0x123), number.to_be_bytes().to_vec())).collect();
    let sender = send_all(&machine.bus, frames.clone());
    let heard =
        |agent: &Agent| agent.session.health().is_some_and(|health| health.buses[0].received == 30_000);
    agent.run(&mut machine, &mut |bytes, _| damage(bytes, &mut dice, &mut points), heard);
    machine.bus = sender.join().unwrap();
    // The next health record, on a line that is whole again, settles what was lost before.
    let uptime_us = |agent: &Agent| agent.session.health().map(|health| health.uptime_us);
    let before = uptime_us(&agent);
    agent.run(&mut machine, &mut whole(), |agent| uptime_us(agent) > before);
    assert_eq!(agent.read_to_end(machine), End::clean());
    let numbers: Vec<u32> =
        agent.frames.iter().map(|(_, data)| u32::from_be_bytes(data[..].try_into().unwrap())).collect();
    assert!(numbers.is_sorted_by(|before, after| before < after));
    assert!(
        agent
            .frames
            .iter()
            .all(|frame| frames[u32::from_be_bytes(frame.1[..].try_into().unwrap()) as usize] == *frame)
    );
    let counters = agent.session.counters();
    let lost = counters.lost_on_line + counters.lost_in_dongle;
    assert!(points >= 1_000, "{points} points");
    assert!(counters.lost_on_line > 1_000 && counters.damaged > 500, "{counters:?}");
    assert_eq!((numbers.len() as u64 + lost, counters.resets), (30_000, 0), "{counters:?}");
}

#[test]
fn a_reset_in_the_middle_is_reported_and_no_wrong_frame_comes_of_it() {
    let (mut machine, mut agent) = (Machine::lm3s6965(), Agent::new(true));
    for round in 0..4u32 {
        agent.run(&mut machine, &mut whole(), |agent| agent.session.is_up());
        let frames = (0..500u32).map(|number| round * 1_000 + number);
        let frames = frames.map(|number| (CanId::Standard(0x123), number.to_be_bytes().to_vec())).collect();
        let so_far = agent.frames.len();
        let sender = send_all(&machine.bus, frames);
        agent.run(&mut machine, &mut whole(), |agent| agent.frames.len() >= so_far + 300);
        machine.reset();
        // The board waits for whoever reads, and the sender for the board.
        agent.run(&mut machine, &mut whole(), |_| sender.is_finished());
        machine.bus = sender.join().unwrap();
        agent.run(&mut machine, &mut whole(), |agent| agent.session.counters().resets > u64::from(round));
    }
    agent.run(&mut machine, &mut whole(), |agent| agent.session.is_up());
    machine.bus.send(0x123, &u32::MAX.to_be_bytes());
    let last = (CanId::Standard(0x123), u32::MAX.to_be_bytes().to_vec());
    agent.run(&mut machine, &mut whole(), |agent| agent.frames.last() == Some(&last));
    let numbers: Vec<u32> =
        agent.frames.iter().map(|(_, data)| u32::from_be_bytes(data[..].try_into().unwrap())).collect();
    assert!(numbers.is_sorted_by(|before, after| before < after), "{numbers:?}");
    assert_eq!(agent.session.counters().resets, 4);
}
