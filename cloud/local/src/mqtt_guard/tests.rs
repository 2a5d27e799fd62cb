use std::time::Duration;

use proptest::prelude::{ProptestConfig, any, prop, proptest};

use super::packet::frame_length;
use super::{
    CONNECT_BYTES_MAX, Credentials, Guard, Level, PACKET_BYTES_MAX, Refusal, Splitter, Step, Violation,
};
use convoy_protocol::id::VehicleId;

const OWN: VehicleId = VehicleId([0xaa; 16]);
const OTHER: VehicleId = VehicleId([0xbb; 16]);
const LEVELS: [Level; 2] = [Level::V4, Level::V5];

fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    let mut remaining = body.len();
    while remaining > 127 {
        frame.push((remaining % 128) as u8 | 0x80);
        remaining /= 128;
    }
    frame.push(remaining as u8);
    frame.extend_from_slice(body);
    frame
}

fn field(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

fn properties(level: Level, properties: &[u8]) -> Vec<u8> {
    if level == Level::V5 { [&[properties.len() as u8], properties].concat() } else { Vec::new() }
}

fn connect_with(level: Level, client_id: &str, flags: u8, keep_alive: u16, rest: &[u8]) -> Vec<u8> {
    let number = if level == Level::V5 { 5 } else { 4 };
    let head = [&field("MQTT")[..], &[number, flags], &keep_alive.to_be_bytes()].concat();
    frame(0x10, &[&head[..], &properties(level, &[]), &field(client_id), rest].concat())
}

fn connect(level: Level) -> Vec<u8> {
    connect_with(level, &OWN.to_string(), 0x02, 15, &[])
}

fn publish(level: Level, topic: &str, first: u8, props: &[u8]) -> Vec<u8> {
    let id: &[u8] = if first & 0x06 == 0 { &[] } else { &[0, 7] };
    frame(first, &[&field(topic)[..], id, &properties(level, props), b"payload"].concat())
}

fn subscribe(level: Level, filters: &[&str]) -> Vec<u8> {
    let mut body = [&[0, 9][..], &properties(level, &[])].concat();
    for filter in filters {
        body.extend_from_slice(&field(filter));
        body.push(1);
    }
    frame(0x82, &body)
}

fn unsubscribe(level: Level, filter: &str) -> Vec<u8> {
    frame(0xa2, &[&[0, 9][..], &properties(level, &[]), &field(filter)].concat())
}

fn up(vehicle: VehicleId) -> String {
    format!("convoy/v1/{vehicle}/up/fast")
}

fn connected(level: Level) -> Guard {
    let mut guard = Guard::new(OWN);
    guard.handle_bytes(&connect(level));
    let step = Step::Connect { level, silence_max: Duration::from_millis(22_500) };
    assert_eq!(guard.poll_step(), Ok(Some(step)));
    guard
}

fn step(guard: &mut Guard, bytes: &[u8]) -> Result<Option<Step>, Refusal> {
    guard.handle_bytes(bytes);
    guard.poll_step()
}

fn violation(guard: &mut Guard, bytes: &[u8]) -> Violation {
    let refusal = step(guard, bytes).expect_err("the guard lets it pass");
    assert_eq!(guard.poll_step(), Ok(None), "after a refusal there is nothing any more");
    refusal.violation
}

#[test]
fn own_topics_pass_and_are_written_anew() {
    for level in LEVELS {
        let mut guard = connected(level);
        // Message expiry, content type and a user property: allowed, and gone behind the guard.
        let props = [&[0x02, 0, 0, 0, 9, 0x03][..], &field("x"), &[0x26], &field("k"), &field("v")].concat();
        for first in [0x30, 0x32, 0x3a] {
            let sent = publish(level, &up(OWN), first, &props);
            assert_eq!(
                step(&mut guard, &sent),
                Ok(Some(Step::Forward(publish(level, &up(OWN), first, &[]))))
            );
        }
        let filter = format!("convoy/v1/{OWN}/down/+");
        let subscribe = subscribe(level, &[&filter, &format!("convoy/v1/{OWN}/down/ack")]);
        assert_eq!(step(&mut guard, &subscribe), Ok(Some(Step::Forward(subscribe.clone()))));
        let unsubscribe = unsubscribe(level, &filter);
        assert_eq!(step(&mut guard, &unsubscribe), Ok(Some(Step::Forward(unsubscribe.clone()))));
        assert_eq!(step(&mut guard, &[0xc0, 0]), Ok(Some(Step::Forward(vec![0xc0, 0]))));
        assert_eq!(step(&mut guard, &[0xe0, 0]), Ok(Some(Step::Goodbye(vec![0xe0, 0]))));
    }
}

#[test]
fn publish_on_a_topic_that_is_not_its_own_ends_the_connection() {
    let own_down = format!("convoy/v1/{OWN}/down/ack");
    let longer = format!("{}/x", up(OWN));
    let upper = up(OWN).to_uppercase();
    let zero = format!("{}\0", up(OWN));
    let wildcard = "convoy/v1/+/up/fast";
    for level in LEVELS {
        for topic in [&up(OTHER), &own_down, &longer, &upper, &zero, wildcard, "", "$SYS/x", "#"] {
            for first in [0x30, 0x32] {
                let sent = publish(level, topic, first, &[]);
                assert_eq!(violation(&mut connected(level), &sent), Violation::Topic, "{topic}");
            }
        }
    }
}

#[test]
fn topic_alias_is_refused_with_and_without_a_topic() {
    for topic in ["", &up(OWN), &up(OTHER)] {
        let sent = publish(Level::V5, topic, 0x32, &[0x23, 0, 1]);
        let refusal = step(&mut connected(Level::V5), &sent).unwrap_err();
        let last_words = vec![0xe0, 2, 0x94, 0];
        assert_eq!(refusal, Refusal { violation: Violation::TopicAlias, last_words });
    }
}

#[test]
fn retained_messages_and_qos_2_are_refused() {
    for level in LEVELS {
        for first in [0x31, 0x33, 0x34, 0x3d] {
            let sent = publish(level, &up(OWN), first, &[]);
            assert_eq!(violation(&mut connected(level), &sent), Violation::Delivery, "{first:x}");
        }
    }
}

#[test]
fn subscription_to_anything_else_is_answered_with_failure_and_not_forwarded() {
    let own = format!("convoy/v1/{OWN}/down/+");
    let attacks = [
        format!("convoy/v1/{OTHER}/down/+"),
        "#".into(),
        "convoy/v1/+/down/ack".into(),
        "convoy/v1/#".into(),
        format!("convoy/v1/{OWN}/#"),
        format!("convoy/v1/{OWN}/up/+"),
        format!("$share/g/convoy/v1/{OWN}/down/+"),
        format!("$share/g/convoy/v1/{OTHER}/down/+"),
        "$SYS/#".into(),
        String::new(),
    ];
    for (level, refused) in
        [(Level::V4, vec![0x90, 4, 0, 9, 0x80, 0x80]), (Level::V5, vec![0x90, 5, 0, 9, 0, 0x87, 0x87])]
    {
        for attack in &attacks {
            let mut guard = connected(level);
            let answer = step(&mut guard, &subscribe(level, &[&own, attack]));
            assert_eq!(answer, Ok(Some(Step::Refuse(refused.clone()))), "{attack}");
            assert_eq!(violation(&mut guard, &unsubscribe(level, attack)), Violation::Filter);
        }
    }
}

#[test]
fn first_packet_must_be_connect_in_the_certificates_name() {
    let id = OWN.to_string();
    let will = [field(&up(OTHER)), field("gone")].concat();
    let own_will = [field(&up(OWN)), field("gone")].concat();
    for level in LEVELS {
        let refused = |bytes: &[u8]| violation(&mut Guard::new(OWN), bytes);
        assert_eq!(refused(&connect_with(level, &OTHER.to_string(), 2, 15, &[])), Violation::ClientId);
        assert_eq!(refused(&connect_with(level, "", 2, 15, &[])), Violation::ClientId);
        assert_eq!(refused(&connect_with(level, &id, 0x06, 15, &will)), Violation::Will);
        assert_eq!(refused(&connect_with(level, &id, 0x06, 15, &own_will)), Violation::Will);
        assert_eq!(refused(&connect_with(level, &id, 2, 0, &[])), Violation::KeepAlive);
        assert_eq!(refused(&connect_with(level, &id, 2, 121, &[])), Violation::KeepAlive);
        assert_eq!(refused(&connect_with(level, &id, 2, 15, b"more")), Violation::Malformed);
        assert_eq!(refused(&connect_with(level, &id, 3, 15, &[])), Violation::Malformed);
        assert_eq!(refused(&connect_with(level, &id, 0x22, 15, &[])), Violation::Malformed);
        assert_eq!(refused(&publish(level, &up(OWN), 0x30, &[])), Violation::PacketType);
        assert_eq!(violation(&mut connected(level), &connect(level)), Violation::PacketType);
    }
}

#[test]
fn other_protocol_levels_are_refused_in_words() {
    for (name, level) in [("MQTT", 3), ("MQTT", 6), ("MQIsdp", 3), ("mqtt", 4), ("MQTT", 0x84)] {
        let bytes = frame(0x10, &[&field(name)[..], &[level, 2, 0, 15], &field("x")].concat());
        let refusal = step(&mut Guard::new(OWN), &bytes).unwrap_err();
        let last_words = vec![0x20, 2, 0, 1];
        assert_eq!(refusal, Refusal { violation: Violation::ProtocolLevel, last_words });
    }
}

#[test]
fn user_and_password_of_the_vehicle_never_reach_the_broker() {
    let login = [field("user"), field("password")].concat();
    let bytes = connect_with(Level::V4, &OWN.to_string(), 0xc2, 15, &login);
    let mut guard = Guard::new(OWN);
    assert!(matches!(step(&mut guard, &bytes), Ok(Some(Step::Connect { .. }))));
    let credentials = Credentials { user: "guard".into(), password: "secret".into() };
    let expected = [field("guard"), field("secret")].concat();
    for level in LEVELS {
        let frame = guard.broker_connect(level, &credentials);
        assert_eq!(frame, connect_with(level, &OWN.to_string(), 0xc2, u16::MAX, &expected));
    }
}

#[test]
fn oversize_is_refused_by_the_header_alone() {
    let first = frame(0x10, &vec![0; CONNECT_BYTES_MAX - 2]);
    assert_eq!(violation(&mut Guard::new(OWN), &first[..3]), Violation::Oversize);
    for level in LEVELS {
        let large = frame(0x30, &vec![0; PACKET_BYTES_MAX - 3]);
        assert_eq!(large.len(), PACKET_BYTES_MAX + 1);
        assert_eq!(violation(&mut connected(level), &large[..4]), Violation::Oversize);
        let topic = field(&up(OWN));
        let rest = PACKET_BYTES_MAX - 4 - topic.len() - properties(level, &[]).len();
        let fits = frame(0x30, &[topic, properties(level, &[]), vec![1; rest]].concat());
        assert_eq!(fits.len(), PACKET_BYTES_MAX);
        assert_eq!(step(&mut connected(level), &fits), Ok(Some(Step::Forward(fits.clone()))));
    }
}

#[test]
fn malformed_lengths_flags_and_properties_are_refused() {
    let overlong_topic = frame(0x30, &[0xff, 0xff, b'a']);
    let zero_id = frame(0x32, &[&field(&up(OWN))[..], &[0, 0]].concat());
    for level in LEVELS {
        let refused = |bytes: &[u8]| violation(&mut connected(level), bytes);
        assert_eq!(refused(&[0x30, 0x80, 0x80, 0x80, 0x80]), Violation::Malformed);
        assert_eq!(refused(&[0x30, 0x82, 0x00, 0, 0]), Violation::Malformed);
        assert_eq!(refused(&[0x30, 0]), Violation::Malformed);
        assert_eq!(refused(&overlong_topic), Violation::Malformed);
        assert_eq!(refused(&zero_id), Violation::Malformed);
        assert_eq!(refused(&publish(level, &up(OWN), 0x36, &[])), Violation::Malformed);
        assert_eq!(refused(&publish(level, &up(OWN), 0x38, &[])), Violation::Malformed);
        assert_eq!(refused(&[0x82, 2, 0, 1]), Violation::Malformed);
        assert_eq!(refused(&[0x40, 2, 0, 0]), Violation::Malformed);
        assert_eq!(refused(&[0xc0, 1, 0]), Violation::Malformed);
        for first in [0x00, 0x20, 0x41, 0x50, 0x62, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xd0, 0xe1, 0xf0] {
            assert_eq!(refused(&[first, 0]), Violation::PacketType, "{first:x}");
        }
    }
    let many: Vec<_> = (0..9).map(|_| "x").collect();
    assert_eq!(violation(&mut connected(Level::V4), &subscribe(Level::V4, &many)), Violation::Malformed);
    // Properties longer than the packet, an unknown one, one that is cut off, and a reserved option.
    let topic = up(OWN);
    for props in [&[0x7f][..], &[1, 0x7e], &[2, 0x02, 0], &[2, 0x0b, 0x80]] {
        let bytes = frame(0x30, &[&field(&topic)[..], props].concat());
        assert_eq!(violation(&mut connected(Level::V5), &bytes), Violation::Malformed);
    }
    let options = frame(0x82, &[&[0, 9, 0][..], &field("x"), &[0x40]].concat());
    assert_eq!(violation(&mut connected(Level::V5), &options), Violation::Malformed);
}

#[test]
fn bytes_that_come_one_by_one_give_the_same_steps() {
    for level in LEVELS {
        let sent = publish(level, &up(OWN), 0x32, &[]);
        let mut guard = Guard::new(OWN);
        let mut steps = Vec::new();
        for byte in [connect(level), sent.clone(), vec![0xc0, 0]].concat() {
            steps.extend(step(&mut guard, &[byte]).unwrap());
        }
        assert!(matches!(steps[0], Step::Connect { .. }));
        assert_eq!(steps[1..], [Step::Forward(sent), Step::Forward(vec![0xc0, 0])]);
        assert!(!guard.is_inside_packet());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_end_in_a_step_or_a_refusal_and_what_passes_is_the_vehicles_own(
        is_v5: bool,
        first in any::<u8>(),
        topic in "convoy/v1/(a{32}|b{32}|\\+)/(up|down)/(fast|ack|\\+|#)",
        tail in prop::collection::vec(any::<u8>(), 0..40),
        raw in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let level = LEVELS[usize::from(is_v5)];
        for body in [[field(&topic), tail.clone()].concat(), [vec![0, 1, 0], field(&topic), tail.clone()].concat(), raw] {
            let mut guard = connected(level);
            let Ok(Some(Step::Forward(forwarded))) = step(&mut guard, &frame(first, &body)) else { continue };
            assert_eq!(frame_length(&forwarded), Ok(Some(forwarded.len())));
            // Short packets have a header of two bytes; a SUBSCRIBE has its packet id and no properties before the filter.
            let start = match forwarded[0] {
                0x30..=0x3f => 2,
                0x82 | 0xa2 => 4 + usize::from(is_v5),
                _ => continue,
            };
            let own = ["up/fast", "up/bulk", "down/ack", "down/state", "down/+"];
            let is_own = |kind: &str| forwarded[start..].starts_with(&field(&format!("convoy/v1/{OWN}/{kind}")));
            assert!(own.iter().any(|kind| is_own(kind)), "{forwarded:?}");
        }
        let mut splitter = Splitter::new(64);
        splitter.handle_bytes(&tail);
        while let Ok(Some(whole)) = splitter.poll_whole() {
            assert!(!whole.is_empty());
        }
    }
}
