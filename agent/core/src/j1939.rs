//! SAE J1939: identifiers, transport protocol (J1939-21) as a listener, active trouble codes (J1939-73).

use std::fmt;

use convoy_protocol::dtc::Lamps;
use convoy_protocol::frame::{BusIndex, CanId};

/// Longest message of the transport protocol, bytes (255 packets of 7).
pub const TP_MESSAGE_BYTES_MAX: usize = 1_785;
/// Sessions followed at the same time at most; the one silent for longest makes room.
pub const TP_SESSIONS_MAX: usize = 64;
/// Longest silence inside a broadcast, microseconds (T1).
pub const TP_T1_US: i64 = 750_000;
/// Longest silence inside a session with flow control, microseconds (T2, T3).
pub const TP_T3_US: i64 = 1_250_000;

const BYTES_PER_PACKET: usize = 7;

/// A parameter group number, 18 bits; the low 8 are zero where the group is addressed (PDU1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pgn(u32);

impl Pgn {
    /// Active diagnostic trouble codes.
    pub const DM1: Self = Self(65_226);
    /// Previously active diagnostic trouble codes, in the form of DM1 as the next two.
    pub const DM2: Self = Self(65_227);
    /// Pending diagnostic trouble codes.
    pub const DM6: Self = Self(65_231);
    /// Permanent diagnostic trouble codes.
    pub const DM28: Self = Self(64_896);
    /// Vehicle identification.
    pub const VEHICLE_IDENTIFICATION: Self = Self(65_260);
    /// Transport protocol, connection management.
    pub const TP_CM: Self = Self(0xEC00);
    /// Transport protocol, data transfer.
    pub const TP_DT: Self = Self(0xEB00);

    /// The low 18 bits of `bits`.
    pub const fn new(bits: u32) -> Self {
        Self(bits & 0x3_FFFF)
    }

    /// 0 to 0x3FFFF.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Is the group addressed to one controller (PDU format below 240)?
    pub const fn is_pdu1(self) -> bool {
        (self.0 >> 8) & 0xFF < 240
    }
}

impl fmt::Debug for Pgn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pgn({})", self.0)
    }
}

/// The parts of a 29-bit identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct J1939Id {
    /// 0 (highest) to 7.
    pub priority: u8,
    /// The parameter group.
    pub pgn: Pgn,
    /// Source address.
    pub sa: u8,
    /// Destination address, 0xFF for everyone; `None` where the group has none (PDU2).
    pub da: Option<u8>,
}

impl J1939Id {
    /// Splits the 29 bits of an extended identifier.
    #[allow(clippy::cast_possible_truncation, reason = "parts of 3 and 8 bits")]
    pub const fn split(id: u32) -> Self {
        let priority = (id >> 26 & 7) as u8;
        let sa = id as u8;
        let pgn = Pgn::new(id >> 8);
        if pgn.is_pdu1() {
            Self { priority, pgn: Pgn::new(pgn.0 & !0xFF), sa, da: Some((id >> 8) as u8) }
        } else {
            Self { priority, pgn, sa, da: None }
        }
    }

    /// The identifier with these parts.
    pub fn join(self) -> CanId {
        let da = u32::from(self.da.filter(|_| self.pgn.is_pdu1()).unwrap_or(0)) << 8;
        CanId::Extended(u32::from(self.priority & 7) << 26 | self.pgn.0 << 8 | da | u32::from(self.sa))
    }
}

/// A message put together from packets.
#[derive(Debug, PartialEq, Eq)]
pub struct TpMessage {
    /// The bus it was on.
    pub bus: BusIndex,
    /// Its parameter group.
    pub pgn: Pgn,
    /// Source address.
    pub sa: u8,
    /// Destination address; 0xFF for a broadcast.
    pub da: u8,
    /// 9 to 1,785 bytes.
    pub data: Vec<u8>,
}

impl TpMessage {
    /// The identifier that a single frame with this content would have had.
    pub fn can_id(&self) -> CanId {
        J1939Id { priority: 6, pgn: self.pgn, sa: self.sa, da: Some(self.da) }.join()
    }
}

/// What the transport protocol could not use, and what it did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TpCounters {
    /// Messages put together.
    pub messages: u64,
    /// Data packets outside a session.
    pub orphans: u64,
    /// Sessions given up: a packet out of order, an abort message, silence, a new announcement, no room.
    pub aborted: u64,
    /// Announcements that make no sense (size, packet count, length of the frame).
    pub malformed: u64,
}

#[derive(Debug)]
struct Session {
    bus: BusIndex,
    sa: u8,
    da: u8,
    pgn: Pgn,
    size: usize,
    packets: u8,
    /// Next packet expected, from 1.
    next: u16,
    broadcast: bool,
    last_us: i64,
    data: Vec<u8>,
}

impl Session {
    fn is_stale(&self, time_us: i64) -> bool {
        let limit = if self.broadcast { TP_T1_US } else { TP_T3_US };
        time_us.saturating_sub(self.last_us) > limit
    }
}

/// Puts messages of more than 8 bytes together: BAM, and RTS/CTS sessions of others, by listening alone.
///
/// Sessions are told apart by bus, source and destination address. Packets of a broadcast must come in order; in
/// a session with flow control the receiver's CTS may ask for packets again.
#[derive(Debug, Default)]
pub struct TpAssembler {
    sessions: Vec<Session>,
    counters: TpCounters,
}

impl TpAssembler {
    /// Without sessions.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was counted so far.
    pub fn counters(&self) -> TpCounters {
        self.counters
    }

    /// Sessions under way, at most [`TP_SESSIONS_MAX`].
    pub fn open(&self) -> usize {
        self.sessions.len()
    }

    /// Takes a frame with a 29-bit id; frames of other groups are ignored. `time_us` is the time of the frame.
    pub fn handle_frame(&mut self, time_us: i64, bus: BusIndex, id: u32, data: &[u8]) -> Option<TpMessage> {
        let J1939Id { pgn, sa, da, .. } = J1939Id::split(id);
        let da = da.unwrap_or(0xFF);
        match pgn {
            Pgn::TP_CM => {
                self.handle_control(time_us, bus, (sa, da), data);
                None
            }
            Pgn::TP_DT => self.handle_data(time_us, bus, (sa, da), data),
            _ => None,
        }
    }

    /// Gives up sessions that were silent for too long.
    pub fn handle_timeout(&mut self, time_us: i64) {
        let before = self.sessions.len();
        self.sessions.retain(|session| !session.is_stale(time_us));
        self.counters.aborted += (before - self.sessions.len()) as u64;
    }

    fn handle_control(&mut self, time_us: i64, bus: BusIndex, (sa, da): (u8, u8), data: &[u8]) {
        self.handle_timeout(time_us);
        let &[control, size_low, size_high, packets, _, pgn0, pgn1, pgn2] =
            data.first_chunk::<8>().unwrap_or(&[0; 8]);
        let pgn = Pgn::new(u32::from_le_bytes([pgn0, pgn1, pgn2, 0]));
        match control {
            16 | 32 => {
                self.close(bus, sa, da);
                let broadcast = control == 32;
                let size = usize::from(u16::from_le_bytes([size_low, size_high]));
                let sound = (9..=TP_MESSAGE_BYTES_MAX).contains(&size)
                    && size.div_ceil(BYTES_PER_PACKET) == usize::from(packets)
                    && broadcast == (da == 0xFF);
                if !sound {
                    self.counters.malformed += 1;
                    return;
                }
                self.make_room();
                let (next, last_us, data) = (1, time_us, Vec::with_capacity(size));
                self.sessions.push(Session {
                    bus,
                    sa,
                    da,
                    pgn,
                    size,
                    packets,
                    next,
                    broadcast,
                    last_us,
                    data,
                });
            }
            // CTS: the receiver speaks, so the addresses are turned round. 0 packets hold the connection open.
            17 => {
                if let Some(session) = self.session(bus, da, sa).filter(|session| session.pgn == pgn) {
                    session.last_us = time_us;
                    // In a CTS these two bytes are the number of packets and the first one wanted.
                    let (count, wanted) = (size_low, u16::from(size_high));
                    if count > 0 && (1..session.next).contains(&wanted) {
                        session.next = wanted;
                        session.data.truncate((usize::from(wanted) - 1) * BYTES_PER_PACKET);
                    }
                }
            }
            // End of message, acknowledged: a session that is still open missed packets.
            19 => self.close(bus, da, sa),
            255 => {
                self.close(bus, sa, da);
                self.close(bus, da, sa);
            }
            _ => self.counters.malformed += 1,
        }
    }

    fn handle_data(
        &mut self,
        time_us: i64,
        bus: BusIndex,
        (sa, da): (u8, u8),
        data: &[u8],
    ) -> Option<TpMessage> {
        self.handle_timeout(time_us);
        let Some(at) = self.position(bus, sa, da) else {
            self.counters.orphans += 1;
            return None;
        };
        let session = &mut self.sessions[at];
        let packet = data.first().copied().unwrap_or(0);
        if u16::from(packet) != session.next {
            // With flow control the receiver will ask again; a broadcast is lost.
            if session.broadcast {
                self.sessions.swap_remove(at);
                self.counters.aborted += 1;
            } else {
                self.counters.orphans += 1;
            }
            return None;
        }
        let left = session.size - session.data.len();
        let Some(bytes) = data.get(1..=left.min(BYTES_PER_PACKET)) else {
            self.sessions.swap_remove(at);
            self.counters.aborted += 1;
            return None;
        };
        session.data.extend_from_slice(bytes);
        session.last_us = time_us;
        session.next += 1;
        if packet < session.packets {
            return None;
        }
        let session = self.sessions.swap_remove(at);
        self.counters.messages += 1;
        Some(TpMessage { bus, pgn: session.pgn, sa, da, data: session.data })
    }

    fn position(&self, bus: BusIndex, sa: u8, da: u8) -> Option<usize> {
        self.sessions.iter().position(|session| (session.bus, session.sa, session.da) == (bus, sa, da))
    }

    fn session(&mut self, bus: BusIndex, sa: u8, da: u8) -> Option<&mut Session> {
        self.position(bus, sa, da).map(|at| &mut self.sessions[at])
    }

    fn close(&mut self, bus: BusIndex, sa: u8, da: u8) {
        if let Some(at) = self.position(bus, sa, da) {
            self.sessions.swap_remove(at);
            self.counters.aborted += 1;
        }
    }

    fn make_room(&mut self) {
        if self.sessions.len() < TP_SESSIONS_MAX {
            return;
        }
        let oldest = (0..self.sessions.len()).min_by_key(|at| self.sessions[*at].last_us);
        if let Some(at) = oldest {
            self.sessions.swap_remove(at);
            self.counters.aborted += 1;
        }
    }
}

/// One trouble code of a DM1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dm1Dtc {
    /// Suspect parameter number, 19 bits, read by conversion method 4.
    pub spn: u32,
    /// Failure mode identifier, 0 to 31.
    pub fmi: u8,
    /// Occurrence count; `None` where not available.
    pub occurrence_count: Option<u8>,
    /// The controller uses one of the old methods 1 to 3 (CM bit set), which cannot be told apart: `spn` may be
    /// wrong.
    pub old_conversion: bool,
}

/// DM1: a controller's lamps and active trouble codes (PGN 65226).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dm1<'a> {
    /// What the controller wants lit.
    pub lamps: Lamps,
    dtcs: &'a [u8],
}

/// Two bits: off, on, and twice reserved or not available.
const fn lamp(bits: u8) -> Option<bool> {
    match bits & 3 {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

impl<'a> Dm1<'a> {
    /// Reads a single frame or a message of the transport protocol; `None` below the 6 bytes of one code.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let (&[lamps, _flash], dtcs) = data.split_first_chunk::<2>()?;
        if dtcs.len() < 4 {
            return None;
        }
        Some(Self {
            lamps: Lamps {
                malfunction: lamp(lamps >> 6),
                red_stop: lamp(lamps >> 4),
                amber_warning: lamp(lamps >> 2),
                protect: lamp(lamps),
            },
            dtcs,
        })
    }

    /// The active codes; SPN 0 with FMI 0 (none) and all ones (filling) are left out.
    pub fn dtcs(&self) -> impl Iterator<Item = Dm1Dtc> + use<'a> {
        self.dtcs.as_chunks::<4>().0.iter().filter_map(|&[b0, b1, b2, b3]| {
            let spn = u32::from_le_bytes([b0, b1, b2 >> 5, 0]);
            let dtc = Dm1Dtc {
                spn,
                fmi: b2 & 0x1F,
                occurrence_count: Some(b3 & 0x7F).filter(|count| *count != 0x7F),
                old_conversion: b3 & 0x80 != 0,
            };
            let none = (dtc.spn, dtc.fmi) == (0, 0) || [b0, b1, b2] == [0xFF; 3];
            (!none).then_some(dtc)
        })
    }
}
