//! Any bytes, any order, any damage.

use std::sync::{Arc, LazyLock};

use convoy_agent_core::dbc;
use convoy_agent_core::decoder::{Decoder, Outcome, RawValue, Row};
use convoy_agent_core::gateway::{Gateway, GatewayConfig};
use convoy_agent_core::isotp::IsoTpAssembler;
use convoy_agent_core::j1939::TpAssembler;
use convoy_agent_core::vss::VssMap;
use convoy_protocol::campaign::{Campaign, SignalSelector};
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use convoy_protocol::id::{BootId, Lane, VehicleId};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::recording::{GPS_DBC, J1939_DBC, OBD_DBC, decoder, source};
use crate::transport::tp_frames;

static DECODER: LazyLock<Arc<Decoder>> = LazyLock::new(|| {
    let files =
        [("j1939.dbc", J1939_DBC, None), ("obd2.dbc", OBD_DBC, Some(1)), ("gps.dbc", GPS_DBC, Some(2))];
    Arc::new(decoder(&files))
});

fn can_id() -> impl Strategy<Value = CanId> {
    // Ids that the core looks at closely come up as often as all others.
    prop_oneof![
        (0u16..=0xFFFF).prop_map(CanId::Standard),
        (0x7E8u16..=0x7EF).prop_map(CanId::Standard),
        (0u16..12).prop_map(CanId::Standard),
        any::<u32>().prop_map(CanId::Extended),
        any::<u8>().prop_map(|sa| CanId::Extended(0x18FE_CA00 | u32::from(sa))),
        (0u32..4, any::<bool>())
            .prop_map(|(sa, data)| { CanId::Extended(if data { 0x1CEB_FF00 } else { 0x1CEC_FF00 } | sa) }),
    ]
}

fn frame() -> impl Strategy<Value = CanFrame> {
    let time_us = prop_oneof![0i64..3_000_000, any::<i64>()];
    (time_us, 0u8..4, can_id(), vec(any::<u8>(), 0..=64), any::<bool>()).prop_map(
        |(time_us, bus, id, mut data, classic)| {
            data.truncate(if classic { 8 } else { 64 });
            CanFrame::new(time_us, BusIndex(bus), id, &data).unwrap()
        },
    )
}

/// Indexes that interleave `lengths` sequences, each kept in order.
fn interleaving(lengths: Vec<usize>) -> impl Strategy<Value = Vec<usize>> {
    let all: Vec<usize> = lengths.iter().enumerate().flat_map(|(at, len)| vec![at; *len]).collect();
    Just(all).prop_shuffle()
}

fn sessions() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<usize>)> {
    vec(vec(any::<u8>(), 9..200), 1..6).prop_flat_map(|messages| {
        let lengths = messages.iter().map(|message| 1 + message.len().div_ceil(7)).collect();
        (Just(messages), interleaving(lengths))
    })
}

fn isotp_frames(message: &[u8]) -> Vec<Vec<u8>> {
    let mut first = vec![0x10 | (message.len() >> 8) as u8, message.len() as u8];
    first.extend_from_slice(&message[..6]);
    let rest = message[6..].chunks(7).zip(1u8..);
    let consecutive = rest.map(|(chunk, number)| [&[0x20 | number & 0xF][..], chunk].concat());
    std::iter::once(first).chain(consecutive).collect()
}

/// One signal of one message, and a payload for it.
#[derive(Debug, Clone)]
struct Placement {
    start: usize,
    size: usize,
    big_endian: bool,
    signed: bool,
    payload: Vec<u8>,
}

impl Placement {
    /// Positions of its bits in the payload, the highest first, as byte x 8 + bit.
    fn bits(&self) -> Option<Vec<usize>> {
        let limit = self.payload.len() * 8;
        let mut at = self.start;
        let mut bits = Vec::new();
        for _ in 0..self.size {
            if at >= limit {
                return None;
            }
            bits.push(at);
            // Motorola runs down through a byte and on at the top of the next one.
            at = match (self.big_endian, at % 8) {
                (false, _) => at + 1,
                (true, 0) => at + 15,
                (true, _) => at - 1,
            };
        }
        if !self.big_endian {
            bits.reverse();
        }
        Some(bits)
    }

    fn expected(&self) -> Option<RawValue> {
        let bit = |at: usize| u64::from(self.payload[at / 8] >> (at % 8) & 1);
        let raw = self.bits()?.into_iter().fold(0u64, |value, at| value << 1 | bit(at));
        let spare = 64 - self.size;
        Some(match self.signed {
            true => RawValue::Raw((raw << spare) as i64 >> spare),
            false => i64::try_from(raw).map_or(RawValue::F64(raw as f64), RawValue::Raw),
        })
    }
}

fn placement() -> impl Strategy<Value = Placement> {
    (vec(any::<u8>(), 1..=64), 1usize..=64, any::<bool>(), any::<bool>()).prop_flat_map(
        |(payload, size, big_endian, signed)| {
            (0..payload.len() * 8).prop_map(move |start| Placement {
                start,
                size,
                big_endian,
                signed,
                payload: payload.clone(),
            })
        },
    )
}

proptest! {
    #[test]
    fn signal_bits_are_those_that_a_bit_by_bit_reading_gives(placement in placement()) {
        let text = format!(
            "VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_:\n\nBO_ 1 M: {} X\n SG_ S : {}|{}@{}{} (1,0) [0|0] \"\" X\n",
            placement.payload.len(),
            placement.start,
            placement.size,
            u8::from(!placement.big_endian),
            if placement.signed { '-' } else { '+' },
        );
        let (decoder, warnings) = dbc::load(&[source("x", text.as_bytes(), None)], &VssMap::empty()).unwrap();
        let mut row = Row::new();
        let frame = CanFrame::new(0, BusIndex(0), CanId::Standard(1), &placement.payload).unwrap();
        prop_assert_eq!(decoder.decode(&frame, &mut row), Outcome::Decoded);
        let expected = placement.expected();
        prop_assert_eq!(row.values(), expected.as_slice());
        prop_assert_eq!(warnings.len(), usize::from(expected.is_none()));
        let payload = decoder.decode_payload(BusIndex(0), CanId::Standard(1), &placement.payload, &mut row);
        prop_assert_eq!((payload, row.values()), (Outcome::Decoded, expected.as_slice()));
    }

    #[test]
    fn decoding_any_payload_never_panics(
        bus: u8, id in can_id(), data in vec(any::<u8>(), 0..1_900),
    ) {
        let mut row = Row::new();
        let _ = DECODER.decode_payload(BusIndex(bus), id, &data, &mut row);
        prop_assert_eq!(row.signals().len(), row.values().len());
    }

    #[test]
    fn loading_any_text_never_panics(damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut bytes = OBD_DBC[..4_000].to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = dbc::load(&[source("x", &bytes, None)], &VssMap::builtin());
    }

    #[test]
    fn any_frames_through_the_gateway_never_panic_and_give_whole_envelopes(
        frames in vec(frame(), 0..200), now_us in vec(any::<i64>(), 0..4),
    ) {
        let signals = vec![SignalSelector { period_ms: 1, ..SignalSelector::every("*") }];
        let campaign =
            Campaign { lane: Lane::Fast, window_ms: 50, batch_samples: 20, signals, ..Campaign::everything() };
        let config = GatewayConfig::new(VehicleId([0; 16]), BootId { counter: 1, spool: 2 }, vec![campaign]);
        let mut gateway = Gateway::new(config, Arc::clone(&DECODER), 0);
        for (at, frame) in frames.iter().enumerate() {
            gateway.handle_frame(now_us.get(at / 60).copied().unwrap_or(i64::MAX), frame);
        }
        now_us.iter().for_each(|now_us| gateway.handle_timeout(*now_us));
        gateway.flush(0);
        while let Some(convoy_agent_core::gateway::Output::Envelope { bytes, .. }) = gateway.poll_output() {
            prop_assert!(convoy_protocol::envelope::Envelope::parse(&bytes).is_ok());
        }
        let counters = gateway.counters();
        let outcomes = counters.frames_decoded
            + counters.unknown
            + counters.mux_unmatched
            + counters.too_short
            + counters.parts;
        prop_assert_eq!(counters.frames, frames.len() as u64);
        prop_assert_eq!(outcomes, counters.frames + counters.tp_messages);
    }

    #[test]
    fn interleaved_j1939_sessions_all_come_out_whole((messages, order) in sessions(), broadcast: bool) {
        let (control, da) = if broadcast { (32, 0xFF) } else { (16, 0x42) };
        let mut frames: Vec<_> = messages
            .iter()
            .zip(0u8..)
            .map(|(message, sa)| tp_frames(control, sa, da, 0xEF00, message).into_iter())
            .collect();
        let mut assembler = TpAssembler::new();
        let mut whole = vec![Vec::new(); messages.len()];
        for at in order {
            let (id, data) = frames[at].next().unwrap();
            if let Some(message) = assembler.handle_frame(0, BusIndex(1), id, &data) {
                whole[usize::from(message.sa)] = message.data;
            }
        }
        prop_assert_eq!(whole, messages);
        prop_assert_eq!((assembler.open(), assembler.counters().orphans), (0, 0));
    }

    #[test]
    fn interleaved_isotp_messages_all_come_out_whole((messages, order) in sessions()) {
        let mut frames: Vec<_> = messages.iter().map(|message| isotp_frames(message).into_iter()).collect();
        let mut assembler = IsoTpAssembler::new();
        let mut whole = vec![Vec::new(); messages.len()];
        for at in order {
            // A first frame carries 6 bytes, so that some messages need a frame less than J1939 would.
            let Some(data) = frames[at].next() else { continue };
            let id = CanId::Standard(0x7E8 + at as u16);
            if let Some(message) = assembler.handle_frame(0, (BusIndex(1), id), false, &data) {
                whole[at] = message.data().to_vec();
            }
        }
        for (at, rest) in frames.into_iter().enumerate() {
            for data in rest {
                let id = CanId::Standard(0x7E8 + at as u16);
                if let Some(message) = assembler.handle_frame(0, (BusIndex(1), id), false, &data) {
                    whole[at] = message.data().to_vec();
                }
            }
        }
        prop_assert_eq!(whole, messages);
        prop_assert_eq!((assembler.open(), assembler.counters().aborted), (0, 0));
    }

    #[test]
    fn damaged_sessions_give_the_message_or_nothing(
        message in vec(any::<u8>(), 20..200), lost in any::<prop::sample::Index>(), twice: bool,
    ) {
        let mut frames = tp_frames(32, 1, 0xFF, 0xFECA, &message);
        let mut isotp = isotp_frames(&message);
        let (at, isotp_at) = (lost.index(frames.len()), lost.index(isotp.len()));
        if twice {
            frames.insert(at, frames[at].clone());
            isotp.insert(isotp_at, isotp[isotp_at].clone());
        } else {
            frames.remove(at);
            isotp.remove(isotp_at);
        }
        let mut assembler = TpAssembler::new();
        for (id, data) in frames {
            if let Some(whole) = assembler.handle_frame(0, BusIndex(0), id, &data) {
                prop_assert_eq!(&whole.data, &message);
            }
        }
        let mut assembler = IsoTpAssembler::new();
        for data in isotp {
            if let Some(whole) = assembler.handle_frame(0, (BusIndex(0), CanId::Standard(0x7E8)), false, &data) {
                prop_assert_eq!(whole.data(), &message[..]);
            }
        }
    }
}
