//! From frames to the messages that transport protocols carry: one dispatch for the gateway and for `decode`.

use convoy_protocol::frame::{BusIndex, CanFrame, CanId};

use crate::decoder::{Decoder, Outcome, Row};
use crate::isotp::{IsoTpAssembler, IsoTpCounters, IsoTpMessage};
use crate::j1939::{J1939Id, Pgn, TpAssembler, TpCounters, TpMessage};

/// Which ids may carry ISO-TP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IsoTpIds {
    /// Those of OBD-II (ISO 15765-4) and those that DBCs and signal sets describe so.
    #[default]
    Known,
    /// These, and 0x600 to 0x7FF, where makers put their diagnostics.
    Likely,
}

/// A whole message of a transport protocol.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// ISO 15765-2.
    IsoTp(IsoTpMessage),
    /// SAE J1939-21.
    J1939(TpMessage),
}

impl Message {
    /// The bus it was on.
    pub fn bus(&self) -> BusIndex {
        match self {
            Self::IsoTp(message) => message.bus,
            Self::J1939(message) => message.bus,
        }
    }

    /// The identifier of its frames, or the one that a single frame with this content would have had.
    pub fn id(&self) -> CanId {
        match self {
            Self::IsoTp(message) => message.id,
            Self::J1939(message) => message.can_id(),
        }
    }

    /// What was carried.
    pub fn data(&self) -> &[u8] {
        match self {
            Self::IsoTp(message) => message.data(),
            Self::J1939(message) => &message.data,
        }
    }

    /// Decodes it by DBCs and signal sets.
    pub fn decode(&self, decoder: &Decoder, row: &mut Row) -> Outcome {
        match self {
            Self::IsoTp(message) => decoder.decode_isotp(message.bus, message.id, message.with_length(), row),
            Self::J1939(message) => decoder.decode_payload(message.bus, message.can_id(), &message.data, row),
        }
    }
}

/// Follows the transport protocols on all buses.
#[derive(Debug, Default)]
pub struct Listener {
    ids: IsoTpIds,
    isotp: IsoTpAssembler,
    tp: TpAssembler,
}

impl Listener {
    /// A listener that follows ISO-TP on these ids.
    pub fn new(ids: IsoTpIds) -> Self {
        Self { ids, ..Self::default() }
    }

    /// Takes a frame; hands out the message that it completes.
    #[inline]
    pub fn handle_frame(&mut self, decoder: &Decoder, frame: &CanFrame) -> Option<Message> {
        if let CanId::Extended(id) = frame.id
            && matches!(J1939Id::split(id).pgn, Pgn::TP_CM | Pgn::TP_DT)
        {
            return self.tp.handle_frame(frame.timestamp_us, frame.bus, id, frame.data()).map(Message::J1939);
        }
        if !self.is_isotp(decoder, frame.bus, frame.id) {
            return None;
        }
        let has_address = decoder.has_isotp_address(frame.bus, frame.id);
        let sender = (frame.bus, frame.id);
        self.isotp.handle_frame(frame.timestamp_us, sender, has_address, frame.data()).map(Message::IsoTp)
    }

    /// Takes a message back that is done with.
    pub fn recycle(&mut self, message: Message) {
        if let Message::IsoTp(message) = message {
            self.isotp.recycle(message);
        }
    }

    fn is_isotp(&self, decoder: &Decoder, bus: BusIndex, id: CanId) -> bool {
        let is_known = match id {
            CanId::Standard(0x7DF..=0x7EF) => true,
            CanId::Standard(0x600..=0x7FF) if self.ids == IsoTpIds::Likely => true,
            // ISO 15765-4 with 29 bits; J1939 keeps both groups free for it.
            CanId::Extended(id) if matches!(id >> 16, 0x18DA | 0x18DB) => true,
            _ => false,
        };
        is_known || decoder.is_isotp(bus, id)
    }

    /// What was counted of ISO-TP.
    pub fn isotp_counters(&self) -> IsoTpCounters {
        self.isotp.counters()
    }

    /// What was counted of J1939's transport protocol.
    pub fn tp_counters(&self) -> TpCounters {
        self.tp.counters()
    }

    /// Messages under way: ISO-TP, J1939.
    pub fn open(&self) -> (usize, usize) {
        (self.isotp.open(), self.tp.open())
    }
}
