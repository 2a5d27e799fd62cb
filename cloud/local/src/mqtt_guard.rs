//! What one vehicle may say over MQTT 3.1.1 or 5: a state machine between the vehicle's bytes and the broker's.
//!
//! Nothing of the vehicle's bytes is passed through: every packet is taken apart and written anew from the fields that
//! were checked. So the broker behind cannot read a packet in another way than the guard did, and sees only what the
//! uplink needs: QoS 0 and 1, no retained messages, no will, no topic aliases, no properties, no lasting session.
//!
//! Hand-written, since the parsers at hand (`mqttbytes` in rumqttc and rumqttd) accept what the standard forbids and
//! keep the packets of both versions in types of their own; here all that is needed is eight packet types.

mod packet;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::BytesMut;
use packet::{Connect, Packet, Publish};

use convoy_protocol::id::{Lane, VehicleId};
use convoy_protocol::topic;

/// Largest packet of a vehicle, bytes: an envelope of 256 KiB, and its topic and headers.
pub const PACKET_BYTES_MAX: usize = (256 << 10) + 1_024;
/// Largest first packet, bytes: there is nothing yet that would justify more.
pub const CONNECT_BYTES_MAX: usize = 1_024;
/// Largest packet of the broker, bytes.
pub const BROKER_PACKET_BYTES_MAX: usize = PACKET_BYTES_MAX;
/// Topic filters in one SUBSCRIBE or UNSUBSCRIBE.
pub const FILTERS_MAX: usize = 8;
/// Longest keep-alive that a vehicle may ask for, seconds. Zero would switch it off, and is refused too.
pub const KEEP_ALIVE_S_MAX: u16 = 120;

/// Version of the protocol, by the level in CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

/// Why a connection is ended. Each is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Violation {
    /// Lengths, flags or properties that the standard forbids.
    #[error("malformed packet")]
    Malformed,
    /// More bytes than a packet may have.
    #[error("packet too large")]
    Oversize,
    /// A packet type that a vehicle may not send (now).
    #[error("packet type not allowed here")]
    PacketType,
    /// Neither MQTT 3.1.1 nor MQTT 5.
    #[error("protocol level not supported")]
    ProtocolLevel,
    /// Another's name.
    #[error("client id is not the certificate's vehicle id")]
    ClientId,
    /// A will: nobody needs one, and the broker would publish it unchecked.
    #[error("will not allowed")]
    Will,
    /// None, or a very long one.
    #[error("keep-alive out of range")]
    KeepAlive,
    /// A publish on a topic that is not the vehicle's.
    #[error("topic not allowed")]
    Topic,
    /// A topic by number, which nobody offered.
    #[error("topic alias not allowed")]
    TopicAlias,
    /// QoS 2 or a retained message.
    #[error("QoS 2 or retained publish not allowed")]
    Delivery,
    /// Taking back a subscription that is not the vehicle's.
    #[error("topic filter not allowed")]
    Filter,
}

impl Violation {
    /// All of them, for counters.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::Oversize,
        Self::PacketType,
        Self::ProtocolLevel,
        Self::ClientId,
        Self::Will,
        Self::KeepAlive,
        Self::Topic,
        Self::TopicAlias,
        Self::Delivery,
        Self::Filter,
    ];

    /// The last words to the vehicle in answer to CONNECT.
    fn refused_connack(self, level: Option<Level>) -> Vec<u8> {
        let (v4, v5) = match self {
            Self::ProtocolLevel => (0x01, 0x84),
            Self::ClientId => (0x02, 0x85),
            Self::Oversize => (0x05, 0x95),
            Self::Malformed => (0x05, 0x81),
            _ => (0x05, 0x87),
        };
        match level {
            Some(Level::V5) => vec![0x20, 3, 0, v5, 0],
            _ => vec![0x20, 2, 0, v4],
        }
    }

    /// The last words to a connected vehicle; MQTT 3.1.1 has none.
    fn disconnect(self, level: Level) -> Vec<u8> {
        let reason = match self {
            Self::Malformed => 0x81,
            Self::Oversize => 0x95,
            Self::TopicAlias => 0x94,
            Self::PacketType => 0x82,
            _ => 0x87,
        };
        match level {
            Level::V4 => Vec::new(),
            // With an empty list of properties, though it may be left out: rumqttc 0.25 does not read it otherwise.
            Level::V5 => vec![0xe0, 2, reason, 0],
        }
    }
}

/// What to do with the vehicle's next packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Connect to the broker for this version; send it [`Guard::broker_connect`].
    Connect {
        /// Picks the broker's port.
        level: Level,
        /// Silence after which the vehicle is gone: one and a half times what it promised.
        silence_max: Duration,
    },
    /// Send to the broker.
    Forward(Vec<u8>),
    /// Send to the vehicle: what it asked for is refused.
    Refuse(Vec<u8>),
    /// Send to the broker, and end the connection in peace.
    Goodbye(Vec<u8>),
}

/// Why a connection ends, and what to tell the vehicle before.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, for the counter.
    pub violation: Violation,
    /// Bytes for the vehicle; may be empty.
    pub last_words: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    AwaitingConnect,
    Connected(Level),
    Ended,
}

/// One vehicle's connection, from its first byte to its last.
#[derive(Debug)]
pub struct Guard {
    client_id: String,
    publish_topics: [String; 4],
    filters: [String; 3],
    splitter: Splitter,
    state: State,
}

impl Guard {
    /// A guard for the vehicle that the certificate names.
    pub fn new(vehicle_id: VehicleId) -> Self {
        Self {
            client_id: vehicle_id.to_string(),
            publish_topics: [
                topic::up(vehicle_id, Lane::Fast),
                topic::up(vehicle_id, Lane::Bulk),
                topic::up_backfill(vehicle_id, Lane::Fast),
                topic::up_backfill(vehicle_id, Lane::Bulk),
            ],
            filters: [
                topic::down_ack(vehicle_id),
                topic::down_state(vehicle_id),
                topic::down_filter(vehicle_id),
            ],
            splitter: Splitter::new(CONNECT_BYTES_MAX),
            state: State::AwaitingConnect,
        }
    }

    /// Takes bytes of the vehicle. Call [`Guard::poll_step`] until it has no more steps before the next bytes: then
    /// no more than one packet and one call's bytes are ever kept.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.splitter.handle_bytes(bytes);
    }

    /// Is a packet begun that is not complete?
    pub fn is_inside_packet(&self) -> bool {
        !self.splitter.is_empty()
    }

    /// What the next complete packet asks for; `None` if there is none. After a refusal there is none any more.
    pub fn poll_step(&mut self) -> Result<Option<Step>, Refusal> {
        if self.state == State::Ended {
            return Ok(None);
        }
        let mut level = match self.state {
            State::Connected(level) => Some(level),
            _ => None,
        };
        self.step(&mut level).map_err(|violation| {
            let last_words = match self.state {
                State::Connected(level) => violation.disconnect(level),
                _ => violation.refused_connack(level),
            };
            self.state = State::Ended;
            Refusal { violation, last_words }
        })
    }

    /// `level` is set as soon as it is known, for the wording of a refusal.
    fn step(&mut self, level: &mut Option<Level>) -> Result<Option<Step>, Violation> {
        let Some(frame) = self.splitter.poll_frame()? else { return Ok(None) };
        if self.state == State::AwaitingConnect {
            let connect = Connect::parse(&frame, level)?;
            return self.connect(&connect).map(Some);
        }
        let level = level.ok_or(Violation::PacketType)?;
        self.connected(Packet::parse(&frame, level)?, level).map(Some)
    }

    fn connect(&mut self, connect: &Connect<'_>) -> Result<Step, Violation> {
        if connect.has_will {
            return Err(Violation::Will);
        }
        if connect.client_id != self.client_id.as_bytes() {
            return Err(Violation::ClientId);
        }
        if !(1..=KEEP_ALIVE_S_MAX).contains(&connect.keep_alive_s) {
            return Err(Violation::KeepAlive);
        }
        self.state = State::Connected(connect.level);
        self.splitter.frame_bytes_max = PACKET_BYTES_MAX;
        let silence_max = Duration::from_secs(connect.keep_alive_s.into()) * 3 / 2;
        Ok(Step::Connect { level: connect.level, silence_max })
    }

    fn connected(&mut self, packet: Packet<'_>, level: Level) -> Result<Step, Violation> {
        match packet {
            Packet::Publish(publish) => self.publish(&publish, level),
            Packet::Subscribe { packet_id, filters } => {
                if filters.iter().all(|(filter, _)| self.is_own_filter(filter)) {
                    return Ok(Step::Forward(packet::subscribe(level, packet_id, &filters)));
                }
                // All or nothing: a packet is refused whole, so that no answer has to be put together from two.
                Ok(Step::Refuse(packet::refused_suback(level, packet_id, filters.len())))
            }
            Packet::Unsubscribe { packet_id, filters } => {
                if !filters.iter().all(|filter| self.is_own_filter(filter)) {
                    return Err(Violation::Filter);
                }
                Ok(Step::Forward(packet::unsubscribe(level, packet_id, &filters)))
            }
            Packet::PubAck { packet_id } => Ok(Step::Forward(packet::puback(packet_id))),
            Packet::PingReq => Ok(Step::Forward(packet::PINGREQ.to_vec())),
            Packet::Disconnect => {
                self.state = State::Ended;
                Ok(Step::Goodbye(packet::DISCONNECT.to_vec()))
            }
        }
    }

    fn publish(&self, publish: &Publish<'_>, level: Level) -> Result<Step, Violation> {
        if publish.qos > 1 || publish.is_retained {
            return Err(Violation::Delivery);
        }
        if publish.has_alias {
            return Err(Violation::TopicAlias);
        }
        if !self.publish_topics.iter().any(|topic| topic.as_bytes() == publish.topic) {
            return Err(Violation::Topic);
        }
        Ok(Step::Forward(packet::publish(level, publish)))
    }

    fn is_own_filter(&self, filter: &[u8]) -> bool {
        self.filters.iter().any(|own| own.as_bytes() == filter)
    }

    /// CONNECT for the broker: the vehicle's name, the listener's credentials, a clean session. The keep-alive is the
    /// longest there is, because the listener watches the vehicle itself.
    pub fn broker_connect(&self, level: Level, credentials: &Credentials) -> Vec<u8> {
        packet::connect(level, &self.client_id, credentials)
    }
}

/// What the broker asks of the listener, and nobody else knows.
#[derive(Clone)]
pub struct Credentials {
    /// At most 65,535 bytes.
    pub user: String,
    /// At most 65,535 bytes.
    pub password: String,
}

/// CONNACK for the vehicle, with the limits of the guard where MQTT 5 has a place for them.
pub fn accepted_connack(level: Level) -> Vec<u8> {
    packet::accepted_connack(level)
}

/// Did the broker accept? `None` if the frame is no CONNACK.
pub fn is_accepted(connack: &[u8]) -> Option<bool> {
    match connack {
        [0x20, _, _, code, ..] => Some(*code == 0),
        _ => None,
    }
}

/// Last words to a vehicle whose broker cannot be reached.
pub fn unavailable_connack(level: Level) -> Vec<u8> {
    match level {
        Level::V4 => vec![0x20, 2, 0, 0x03],
        Level::V5 => vec![0x20, 3, 0, 0x88, 0],
    }
}

/// Last words to a vehicle whose certificate counts no more, or that was silent for too long.
pub fn ended_disconnect(level: Level, reason: EndReason) -> Vec<u8> {
    match (level, reason) {
        (Level::V4, _) => Vec::new(),
        (Level::V5, EndReason::NotAuthorized) => vec![0xe0, 2, 0x87, 0],
        (Level::V5, EndReason::KeepAlive) => vec![0xe0, 2, 0x8d, 0],
    }
}

/// Why the listener ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The certificate was revoked or has expired.
    NotAuthorized,
    /// Nothing was heard for too long.
    KeepAlive,
}

/// Cuts a stream of bytes into whole MQTT packets.
#[derive(Debug)]
pub struct Splitter {
    buffer: BytesMut,
    frame_bytes_max: usize,
}

impl Splitter {
    /// For packets of `frame_bytes_max` bytes at most, all headers included.
    pub fn new(frame_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), frame_bytes_max }
    }

    /// Takes bytes.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Is nothing left that could become a packet?
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next whole packet. Its length is judged before its bytes are waited for.
    pub fn poll_frame(&mut self) -> Result<Option<BytesMut>, Violation> {
        let length = self.frame_length_at(0)?;
        Ok(length.map(|length| self.buffer.split_to(length)))
    }

    /// All whole packets at once, as they came; `None` if there is none.
    pub fn poll_whole(&mut self) -> Result<Option<BytesMut>, Violation> {
        let mut end = 0;
        while let Some(length) = self.frame_length_at(end)? {
            end += length;
        }
        Ok((end > 0).then(|| self.buffer.split_to(end)))
    }

    /// Length of the packet that begins at `start`, if all of it is there.
    fn frame_length_at(&self, start: usize) -> Result<Option<usize>, Violation> {
        let bytes = &self.buffer[start..];
        match packet::frame_length(bytes)? {
            Some(length) if length > self.frame_bytes_max => Err(Violation::Oversize),
            length => Ok(length.filter(|length| *length <= bytes.len())),
        }
    }
}
