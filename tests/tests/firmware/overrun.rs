//! A bus that waits for nobody, and a board that is too slow for it.

use std::time::Duration;

use convoy_protocol::frame::CanId;

use crate::agent::{Agent, Sent, whole};
use crate::machine::{Bus, Machine};
use crate::send_all;

/// A twelfth of the chip's speed: what a frame costs takes longer than the next one.
const INSTRUCTION_NS: u32 = 256;
/// What the board is to lose at least. Of how many depends on the host: every third frame where nothing else runs, every fiftieth
/// where much does.
const LOST_MIN: u64 = 200;
/// Frames that are sent before the next look at what was lost.
const ROUND: u32 = 5_000;
/// For the board to catch up with what it has, before it is asked once more whether it has.
const AGAIN: Duration = Duration::from_millis(200);

/// Sends a frame alone until one comes out while no other was sent, so that nothing is left in between; returns how many.
fn settle(machine: &mut Machine, agent: &mut Agent) -> u32 {
    for number in 0u32..300 {
        let last = (CanId::Standard(0x7FF), number.to_be_bytes().to_vec());
        machine.bus.send(0x7FF, &last.1);
        agent.run_for(machine, &mut whole(), AGAIN);
        if agent.frames.last() == Some(&last) {
            return number + 1;
        }
    }
    panic!("the board does not catch up: {:?}", agent.session.counters())
}

#[test]
fn a_board_too_slow_for_its_bus_loses_frames_and_counts_every_one() {
    let (mut machine, mut agent) = (Machine::slow_lm3s6965(INSTRUCTION_NS), Agent::new(true));
    agent.run(&mut machine, &mut whole(), |agent| agent.session.is_up());
    machine.bus.send(Bus::LOSSY, &[]);
    let mut sent = 0;
    while agent.session.counters().lost_in_dongle < LOST_MIN {
        // Without data they cost the board as much as others, and come faster.
        let frames: Vec<Sent> =
            (sent..sent + ROUND).map(|number| (CanId::Extended(number), vec![])).collect();
        sent += ROUND;
        assert!(sent < 1_000_000, "the board loses nothing: {:?}", agent.session.counters());
        let sender = send_all(&machine.bus, frames);
        agent.run(&mut machine, &mut whole(), |_| sender.is_finished());
        machine.bus = sender.join().unwrap();
    }
    let total = u64::from(sent + settle(&mut machine, &mut agent));
    // The next health record after all of that says what was lost.
    let arrived = agent.frames.len() as u64;
    let is_told = |agent: &Agent| agent.session.health().is_some_and(|it| u64::from(it.frames) == arrived);
    agent.run(&mut machine, &mut whole(), is_told);
    let (health, counters) = (agent.session.health().unwrap(), agent.session.counters());
    let bus = &health.buses[0];
    let (overruns, others) = (bus.overruns, health.lost - bus.overruns);
    assert_eq!(arrived + u64::from(overruns) + u64::from(others), total, "{health:?}");
    assert_eq!((u64::from(bus.received), counters.frames, others), (arrived, arrived, 0), "{health:?}");
    assert_eq!((counters.lost_in_dongle, counters.lost_on_line), (u64::from(overruns), 0), "{counters:?}");
    // What arrived is what was sent.
    let mut next = 0;
    for (id, data) in agent.frames.iter().filter(|(id, _)| matches!(id, CanId::Extended(_))) {
        assert!((next..sent).contains(&id.bits()) && data.is_empty(), "{id:?} {data:?} after {next}");
        next = id.bits() + 1;
    }
    // The receiver says so, too: bytes that found no room.
    let output = agent.read_to_end(machine).output;
    let counted = |name: &str| {
        let word = output.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        word.unwrap_or_else(|| panic!("{name} is not in {output}")).parse::<u32>().unwrap()
    };
    assert_eq!((counted("frames_lost"), counted("link_overruns")), (overruns, 0), "{output}");
    assert!(counted("bus_overruns") >= counted("records_rejected"), "{output}");
    println!("{total} sent, {arrived} arrived, {overruns} overruns");
}
