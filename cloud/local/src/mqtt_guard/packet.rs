//! The packets of MQTT 3.1.1 and 5 that a vehicle needs, read strictly and written canonically.
//!
//! Section numbers are those of the MQTT 5.0 standard.

use super::{Credentials, FILTERS_MAX, Level, PACKET_BYTES_MAX, Violation};

pub(super) const PINGREQ: [u8; 2] = [0xc0, 0];
pub(super) const DISCONNECT: [u8; 2] = [0xe0, 0];

const PROPERTY_SUBSCRIPTION_ID: u8 = 0x0b;
const PROPERTY_TOPIC_ALIAS: u8 = 0x23;
/// Properties of one packet; the standard bounds them by the packet only.
const PROPERTIES_MAX: usize = 32;

/// Length of the packet that `bytes` begin with, headers included; `None` if that cannot be said yet.
pub(super) fn frame_length(bytes: &[u8]) -> Result<Option<usize>, Violation> {
    let Some((_, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((remaining, header)) = variable_integer(rest)? else { return Ok(None) };
    Ok(Some(1 + header + remaining))
}

/// A variable byte integer (1.5.5) and its own length; `None` if it is not complete.
fn variable_integer(bytes: &[u8]) -> Result<Option<(usize, usize)>, Violation> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            // A longer form than necessary has no use but to be read in two ways.
            let is_shortest = index == 0 || *byte != 0;
            return if is_shortest { Ok(Some((value, index + 1))) } else { Err(Violation::Malformed) };
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(Violation::Malformed) }
}

/// Reads fields off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The packet's first byte, and a reader of all behind its length.
    fn frame(frame: &'a [u8]) -> Result<(u8, Self), Violation> {
        let (first, rest) = frame.split_first().ok_or(Violation::Malformed)?;
        let (remaining, header) = variable_integer(rest)?.ok_or(Violation::Malformed)?;
        let body = rest.get(header..).ok_or(Violation::Malformed)?;
        if body.len() != remaining {
            return Err(Violation::Malformed);
        }
        Ok((*first, Self(body)))
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Violation> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Violation::Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn u8(&mut self) -> Result<u8, Violation> {
        let (byte, rest) = self.0.split_first().ok_or(Violation::Malformed)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn u16(&mut self) -> Result<u16, Violation> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Violation::Malformed)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    /// Two bytes of length, then as many bytes: a string or binary data.
    fn field(&mut self) -> Result<&'a [u8], Violation> {
        let length = self.u16()?;
        self.bytes(length.into())
    }

    fn packet_id(&mut self) -> Result<u16, Violation> {
        match self.u16()? {
            0 => Err(Violation::Malformed),
            id => Ok(id),
        }
    }

    /// Properties (2.2.2) of a packet of MQTT 5: the ids that occur, their values only measured.
    fn properties(&mut self) -> Result<Vec<u8>, Violation> {
        let (length, header) = variable_integer(self.0)?.ok_or(Violation::Malformed)?;
        self.bytes(header)?;
        let mut properties = Reader(self.bytes(length)?);
        let mut ids = Vec::new();
        while !properties.0.is_empty() {
            let id = properties.u8()?;
            properties.property_value(id)?;
            if ids.len() == PROPERTIES_MAX {
                return Err(Violation::Malformed);
            }
            ids.push(id);
        }
        Ok(ids)
    }

    fn property_value(&mut self, id: u8) -> Result<(), Violation> {
        match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2a => self.bytes(1).map(drop),
            0x13 | 0x21..=0x23 => self.bytes(2).map(drop),
            0x02 | 0x11 | 0x18 | 0x27 => self.bytes(4).map(drop),
            PROPERTY_SUBSCRIPTION_ID => {
                let (_, length) = variable_integer(self.0)?.ok_or(Violation::Malformed)?;
                self.bytes(length).map(drop)
            }
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => self.field().map(drop),
            0x26 => self.field().and_then(|_| self.field()).map(drop),
            _ => Err(Violation::Malformed),
        }
    }

    fn end(&self) -> Result<(), Violation> {
        if self.0.is_empty() { Ok(()) } else { Err(Violation::Malformed) }
    }
}

/// The first packet. User name and password are read over: the certificate says who it is.
pub(super) struct Connect<'a> {
    pub(super) level: Level,
    pub(super) client_id: &'a [u8],
    pub(super) keep_alive_s: u16,
    pub(super) has_will: bool,
}

impl<'a> Connect<'a> {
    /// `level` is set as soon as it is known.
    pub(super) fn parse(frame: &'a [u8], known_level: &mut Option<Level>) -> Result<Self, Violation> {
        let (first, mut reader) = Reader::frame(frame)?;
        if first != 0x10 {
            return Err(Violation::PacketType);
        }
        let name = reader.field()?;
        let level = match (name, reader.u8()?) {
            (b"MQTT", 4) => Level::V4,
            (b"MQTT", 5) => Level::V5,
            _ => return Err(Violation::ProtocolLevel),
        };
        *known_level = Some(level);
        let flags = reader.u8()?;
        let has_will = flags & 0x04 != 0;
        let is_will_flag_missing = !has_will && flags & 0x38 != 0;
        if flags & 0x01 != 0 || is_will_flag_missing {
            return Err(Violation::Malformed);
        }
        let keep_alive_s = reader.u16()?;
        if level == Level::V5 {
            reader.connect_properties()?;
        }
        let client_id = reader.field()?;
        let connect = Self { level, client_id, keep_alive_s, has_will };
        if has_will {
            // It is refused, whatever it says.
            return Ok(connect);
        }
        for flag in [0x80, 0x40] {
            if flags & flag != 0 {
                reader.field()?;
            }
        }
        reader.end()?;
        Ok(connect)
    }
}

impl Reader<'_> {
    /// Authentication (0x15, 0x16) would need AUTH packets; the other properties are wishes that may go unheard,
    /// since all that the broker sends is small, at QoS 1 and without aliases.
    fn connect_properties(&mut self) -> Result<(), Violation> {
        const ALLOWED: [u8; 7] = [0x11, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27];
        let ids = self.properties()?;
        if ids.iter().all(|id| ALLOWED.contains(id)) { Ok(()) } else { Err(Violation::Malformed) }
    }
}

pub(super) struct Publish<'a> {
    pub(super) topic: &'a [u8],
    pub(super) qos: u8,
    pub(super) is_duplicate: bool,
    pub(super) is_retained: bool,
    pub(super) has_alias: bool,
    /// Zero at QoS 0.
    pub(super) packet_id: u16,
    pub(super) payload: &'a [u8],
}

impl<'a> Publish<'a> {
    fn parse(first: u8, mut reader: Reader<'a>, level: Level) -> Result<Self, Violation> {
        let qos = (first >> 1) & 0x03;
        let is_duplicate = first & 0x08 != 0;
        if qos == 3 || (qos == 0 && is_duplicate) {
            return Err(Violation::Malformed);
        }
        let topic = reader.field()?;
        let packet_id = if qos == 0 { 0 } else { reader.packet_id()? };
        let properties = if level == Level::V5 { reader.properties()? } else { Vec::new() };
        let has_alias = properties.contains(&PROPERTY_TOPIC_ALIAS);
        let is_retained = first & 0x01 != 0;
        Ok(Self { topic, qos, is_duplicate, is_retained, has_alias, packet_id, payload: reader.0 })
    }
}

/// A packet after the first.
pub(super) enum Packet<'a> {
    Publish(Publish<'a>),
    PubAck {
        packet_id: u16,
    },
    /// Filters with the highest QoS that is wanted.
    Subscribe {
        packet_id: u16,
        filters: Vec<(&'a [u8], u8)>,
    },
    Unsubscribe {
        packet_id: u16,
        filters: Vec<&'a [u8]>,
    },
    PingReq,
    Disconnect,
}

impl<'a> Packet<'a> {
    pub(super) fn parse(frame: &'a [u8], level: Level) -> Result<Self, Violation> {
        let (first, mut reader) = Reader::frame(frame)?;
        match first {
            0x30..=0x3f => Publish::parse(first, reader, level).map(Self::Publish),
            0x40 => {
                let packet_id = reader.packet_id()?;
                reader.reason_and_properties(level)?;
                Ok(Self::PubAck { packet_id })
            }
            0x82 => {
                let (packet_id, filters) = reader.filters(level, |reader| {
                    let filter = reader.field()?;
                    Ok((filter, reader.subscription_qos(level)?))
                })?;
                Ok(Self::Subscribe { packet_id, filters })
            }
            0xa2 => {
                let (packet_id, filters) = reader.filters(level, Reader::field)?;
                Ok(Self::Unsubscribe { packet_id, filters })
            }
            0xc0 => reader.end().map(|()| Self::PingReq),
            0xe0 => reader.reason_and_properties(level).map(|()| Self::Disconnect),
            _ => Err(Violation::PacketType),
        }
    }
}

impl<'a> Reader<'a> {
    /// Reason code and properties of MQTT 5, both of which may be left out.
    fn reason_and_properties(&mut self, level: Level) -> Result<(), Violation> {
        if level == Level::V5 && !self.0.is_empty() {
            self.u8()?;
            if !self.0.is_empty() {
                self.properties()?;
            }
        }
        self.end()
    }

    fn filters<T>(
        &mut self,
        level: Level,
        filter: impl Fn(&mut Self) -> Result<T, Violation>,
    ) -> Result<(u16, Vec<T>), Violation> {
        let packet_id = self.packet_id()?;
        if level == Level::V5 {
            self.properties()?;
        }
        let mut filters = Vec::new();
        while !self.0.is_empty() {
            if filters.len() == FILTERS_MAX {
                return Err(Violation::Malformed);
            }
            filters.push(filter(self)?);
        }
        if filters.is_empty() { Err(Violation::Malformed) } else { Ok((packet_id, filters)) }
    }

    /// Subscription options (3.8.3.1); the QoS alone is kept, and QoS 2 is cut to 1, as a server may.
    fn subscription_qos(&mut self, level: Level) -> Result<u8, Violation> {
        let options = self.u8()?;
        let reserved = if level == Level::V5 { 0xc0 } else { 0xfc };
        let is_retain_handling_wrong = options & 0x30 == 0x30;
        if options & reserved != 0 || options & 0x03 == 3 || is_retain_handling_wrong {
            return Err(Violation::Malformed);
        }
        Ok((options & 0x03).min(1))
    }
}

/// Fixed header and body. Bodies are bounded by [`PACKET_BYTES_MAX`], so four bytes of length always suffice.
fn frame(first: u8, body: &[&[u8]]) -> Vec<u8> {
    let mut remaining: usize = body.iter().map(|part| part.len()).sum();
    let mut frame = Vec::with_capacity(remaining + 5);
    frame.push(first);
    loop {
        let low = (remaining % 128) as u8;
        remaining /= 128;
        frame.push(if remaining > 0 { low | 0x80 } else { low });
        if remaining == 0 {
            break;
        }
    }
    body.iter().for_each(|part| frame.extend_from_slice(part));
    frame
}

/// A field that is longer than its length can say is cut; nothing that is written here can be.
fn push_field(body: &mut Vec<u8>, field: &[u8]) {
    let length = u16::try_from(field.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(&field[..length.into()]);
}

fn no_properties(level: Level) -> &'static [u8] {
    if level == Level::V5 { &[0] } else { &[] }
}

pub(super) fn connect(level: Level, client_id: &str, credentials: &Credentials) -> Vec<u8> {
    const USER_PASSWORD_CLEAN: u8 = 0xc2;
    let mut body = Vec::new();
    push_field(&mut body, b"MQTT");
    body.push(if level == Level::V5 { 5 } else { 4 });
    body.push(USER_PASSWORD_CLEAN);
    body.extend_from_slice(&u16::MAX.to_be_bytes());
    body.extend_from_slice(no_properties(level));
    for field in [client_id, &credentials.user, &credentials.password] {
        push_field(&mut body, field.as_bytes());
    }
    frame(0x10, &[&body])
}

pub(super) fn publish(level: Level, publish: &Publish<'_>) -> Vec<u8> {
    let first = 0x30 | (u8::from(publish.is_duplicate) << 3) | (publish.qos << 1);
    let mut head = Vec::with_capacity(publish.topic.len() + 5);
    push_field(&mut head, publish.topic);
    if publish.qos > 0 {
        head.extend_from_slice(&publish.packet_id.to_be_bytes());
    }
    head.extend_from_slice(no_properties(level));
    frame(first, &[&head, publish.payload])
}

pub(super) fn puback(packet_id: u16) -> Vec<u8> {
    frame(0x40, &[&packet_id.to_be_bytes()])
}

pub(super) fn subscribe(level: Level, packet_id: u16, filters: &[(&[u8], u8)]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.extend_from_slice(no_properties(level));
    for (filter, qos) in filters {
        push_field(&mut body, filter);
        body.push(*qos);
    }
    frame(0x82, &[&body])
}

pub(super) fn unsubscribe(level: Level, packet_id: u16, filters: &[&[u8]]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.extend_from_slice(no_properties(level));
    filters.iter().for_each(|filter| push_field(&mut body, filter));
    frame(0xa2, &[&body])
}

pub(super) fn refused_suback(level: Level, packet_id: u16, count: usize) -> Vec<u8> {
    let code = if level == Level::V5 { 0x87 } else { 0x80 };
    frame(0x90, &[&packet_id.to_be_bytes(), no_properties(level), &vec![code; count]])
}

pub(super) fn accepted_connack(level: Level) -> Vec<u8> {
    if level == Level::V4 {
        return vec![0x20, 2, 0, 0];
    }
    let mut properties = vec![
        0x24, 1, // maximum QoS
        0x25, 0, // retained messages
        0x29, 0, // subscription identifiers
        0x2a, 0,    // shared subscriptions
        0x27, // maximum packet size
    ];
    properties.extend_from_slice(&(PACKET_BYTES_MAX as u32).to_be_bytes());
    frame(0x20, &[&[0, 0, properties.len() as u8], &properties])
}
