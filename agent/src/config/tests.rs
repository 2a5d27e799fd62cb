use convoy_protocol::campaign::Collection;
use convoy_protocol::frame::CanId;

use super::*;

const GOOD: &str = r#"
[vehicle]
id = "00112233445566778899aabbccddeeff"
[broker]
url = "mqtt://127.0.0.1"
[spool]
dir = "spool"
[source]
kind = "replay"
log = "drive.log"
[[dbc]]
file = "a.dbc"
bus = "can1"
"#;

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("drive.log"), "(1.0) can1 123#00\n").unwrap();
    fs::write(dir.path().join("a.dbc"), "VERSION \"\"\n").unwrap();
    dir
}

fn faults(text: &str) -> Vec<String> {
    let dir = directory();
    let faults = parse(text, dir.path(), Overrides::default()).map(|_| ()).unwrap_err();
    let dir = dir.path().display().to_string();
    faults.iter().map(|fault| fault.to_string().replace(&dir, "DIR")).collect()
}

#[test]
fn defaults_are_filled_in_and_paths_count_from_the_file() {
    let dir = directory();
    fs::write(dir.path().join("agent.toml"), GOOD).unwrap();
    let overrides = Overrides { speed: Some(Speed::Max), time: Some(TimeBase::Now) };
    let Loaded { agent, input: Input::Replay(replay) } =
        load(&dir.path().join("agent.toml"), overrides).unwrap()
    else {
        panic!("not a recording");
    };
    assert_eq!((agent.broker.host.as_str(), agent.broker.port), ("127.0.0.1", 1883));
    assert_eq!(agent.spool.dir, dir.path().join("spool"));
    assert_eq!((agent.spool.bytes_max, agent.spool.segment_bytes), (256 << 20, 4 << 20));
    assert_eq!((agent.spool.sync_ms, agent.campaigns), (1_000, vec![]));
    assert_eq!((replay.speed, replay.time, replay.repeat), (Speed::Max, TimeBase::Now, false));
    assert_eq!(replay.buses, ["can1"]);
}

#[test]
fn every_fault_is_reported_at_once_with_its_line() {
    let text = r#"colour = "red"
[vehicle]
id = "0011"
vin = "SHORT"
nick = "x"
[broker]
url = "mqtt://broker.example"
cert_file = "c.pem"
[spool]
bytes_max = 5
sync_ms = "often"
[source]
kind = "serial"
log = "missing.log"
speed = -1.0
repeat = 1
[[dbc]]
file = "missing.dbc"
[[campaign]]
name = "c"
lane = "slow"
window_ms = 99999999
signals = [{ pattern = 5 }, { period_ms = -1, pattern = "a", extra = true }]
"#;
    assert_eq!(
        faults(text),
        [
            "line 1: colour is not a key that the agent knows: use one of vehicle, broker, spool, source, dbc, campaign, cloud, metrics",
            "line 3: vehicle.id = \"0011\": expected 32 hex digits, got 4 characters",
            "line 4: vehicle.vin: a VIN has 17 characters, got 5",
            "line 5: vehicle.nick is not a key that the agent knows: use one of id, vin",
            "line 7: broker.url = \"mqtt://broker.example\": plain mqtt:// to another machine would send everything \
             unencrypted; use mqtts:// with ca_file, or set broker.allow_plaintext = true",
            "line 8: broker.cert_file = \"c.pem\": a certificate is of no use with mqtt://; write mqtts:// or remove it",
            "line 9: spool.dir is missing: add dir = \"spool\"",
            "line 10: spool.bytes_max = 5: it must be from 2097152 to 1099511627776",
            "line 11: spool.sync_ms: expected a whole number, found string",
            "line 13: source.kind = \"serial\": it is \"replay\", a recorded log; adapters and buses are sections [[source]] with a url",
            "line 14: source.log = \"missing.log\": cannot read DIR/missing.log: No such file or directory (os error 2); \
             name a recording (candump, ASC, TRC, CSV or CRTD), plain or .gz",
            "line 15: source.speed = \"-1.0\": expected a number above 0 and up to 10000, or max",
            "line 16: source.repeat: expected true or false, found integer",
            "line 18: dbc[1].file = \"missing.dbc\": cannot read DIR/missing.dbc: No such file or directory (os error 2)",
            "line 21: campaign[1].lane = \"slow\": no such lane: expected fast or bulk",
            "line 22: campaign[1].window_ms = 99999999: it must be from 0 to 3600000",
            "line 23: campaign[1].signals[1].pattern: expected a text in quotes, found integer",
            "line 23: campaign[1].signals[2].period_ms = -1: it must be from 0 to 4294967295",
            "line 23: campaign[1].signals[2].extra is not a key that the agent knows: use one of pattern, period_ms, deadband, on_change, exclude",
        ]
    );
}

#[test]
fn an_empty_file_names_everything_that_is_missing() {
    assert_eq!(
        faults(""),
        [
            "vehicle.id is missing: add id = \"00112233445566778899aabbccddeeff\"",
            "broker.url is missing: add url = \"mqtt://127.0.0.1:1883\"",
            "spool.dir is missing: add dir = \"spool\"",
            "source.kind is missing: add kind = \"replay\"",
            "source.log is missing: add log = \"drive.log.gz\"",
            "no [[dbc]] section: add one with file = \"signals.dbc\", or nothing can be decoded",
        ]
    );
}

#[test]
fn text_that_is_not_toml_is_named_by_line_beside_the_other_faults() {
    let faults =
        faults(&GOOD.replace("kind = \"replay\"", "kind = ").replace("[vehicle]\n", "[vehicle]\nx = 1\n"));
    assert!(faults.iter().any(|fault| fault.starts_with("line 10: not TOML:")), "{faults:?}");
    assert!(faults.iter().any(|fault| fault.starts_with("line 3: vehicle.x is not a key")), "{faults:?}");
}

#[test]
fn broker_urls_have_a_host_and_a_port() {
    let parse = |url| BrokerUrl::parse(url).map(|url| (url.tls, url.host, url.port));
    assert_eq!(parse("mqtt://localhost"), Ok((false, "localhost".into(), 1883)));
    assert_eq!(parse("mqtts://b.example/"), Ok((true, "b.example".into(), 8883)));
    assert_eq!(parse("mqtt://[::1]:99"), Ok((false, "[::1]".into(), 99)));
    for url in [
        "http://a",
        "mqtt://",
        "mqtt://a:0",
        "mqtt://a:65536",
        "mqtt://a:b",
        "mqtt://u@a",
        "mqtt://::1",
        "mqtt://a/b",
        "mqtts://[::1]",
        "mqtt://[::1",
    ] {
        assert!(parse(url).is_err(), "{url}");
    }
    assert!(is_loopback("127.9.9.9") && is_loopback("[::1]") && !is_loopback("10.0.0.1"));
}

#[test]
fn tls_needs_an_authority_and_both_halves_of_a_client_certificate() {
    let with = |broker: &str| faults(&GOOD.replace("url = \"mqtt://127.0.0.1\"", broker));
    assert_eq!(
        with("url = \"mqtts://b.example\"\nkey_file = \"k.pem\""),
        [
            "line 5: broker.url = \"mqtts://b.example\": mqtts:// needs broker.ca_file, the certificate that the \
             broker's comes from",
            "line 6: broker.key_file = \"k.pem\": it needs broker.cert_file beside it",
        ]
    );
    let missing = with("url = \"mqtts://b.example\"\nca_file = \"a.dbc\"");
    assert_eq!(
        missing,
        ["line 6: broker.ca_file = \"a.dbc\": TLS cannot be set up: DIR/a.dbc has no certificate"]
    );
}

#[test]
fn the_example_is_good_once_its_files_are_there_and_says_what_the_defaults_are() {
    let dir = directory();
    fs::write(dir.path().join("drive.log.gz"), "(1.0) can1 123#00\n").unwrap();
    fs::write(dir.path().join("signals.dbc"), "VERSION \"\"\n").unwrap();
    let example = include_str!("../../examples/agent.toml");
    let loaded = parse(example, dir.path(), Overrides::default()).unwrap();
    let uncommented: String = example
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            // A section of its own, or a file that is not there.
            Some(key) if key.contains(" = ") && !key.contains(['.', '`']) && !key.contains("digits") => {
                format!("{key}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let explicit = parse(&uncommented, dir.path(), Overrides::default());
    let [braking, everything] = loaded.agent.campaigns.as_slice() else {
        panic!("{:?}", loaded.agent.campaigns)
    };
    assert_eq!(*everything, Campaign::everything());
    assert!(matches!(braking.collection, Collection::ConditionBased(_)) && braking.faults().is_empty());
    let explicit = explicit.unwrap_or_else(|faults| panic!("{faults:?}\n{uncommented}"));
    assert_eq!(format!("{:?}", explicit.agent.spool), format!("{:?}", loaded.agent.spool));
    let (Input::Replay(explicit), Input::Replay(loaded)) = (explicit.input, loaded.input) else {
        panic!("not recordings");
    };
    assert_eq!((explicit.time, explicit.repeat), (loaded.time, loaded.repeat));
}

#[test]
fn the_example_with_adapters_is_good_and_asks_what_it_says() {
    let dir = directory();
    fs::write(dir.path().join("signals.dbc"), "VERSION \"\"\n").unwrap();
    let text = include_str!("../../examples/adapters.toml");
    let loaded = parse(text, dir.path(), Overrides::default()).unwrap_or_else(|faults| panic!("{faults:?}"));
    let Input::Live(sources) = loaded.input else { panic!("a recording") };
    let buses: Vec<_> = sources.iter().map(|source| source.bus.as_str()).collect();
    assert_eq!(buses, ["obd", "can0", "gnss"]);
    let [poll] = loaded.agent.polls.as_slice() else { panic!("{:?}", loaded.agent.polls) };
    assert_eq!(
        (poll.obd_period_us, poll.voltage_min_v, poll.requests.len()),
        (Some(1_000_000), Some(13.0), 2)
    );
    assert_eq!(
        (poll.requests[0].id, poll.requests[1].answers_on),
        (CanId::Standard(0x7DF), Some(CanId::Standard(0x7EC)))
    );
    // The file first, then what ships with the agent.
    let names: Vec<_> = loaded.agent.dbcs.iter().map(|dbc| dbc.name.as_str()).collect();
    assert_eq!(names, ["signals.dbc", "OBD-II (built in)", "NMEA 0183 (built in)"]);
}

#[test]
fn faults_of_sources_and_polls_say_what_to_do() {
    let (before, after) = GOOD.split_once("[source]").unwrap();
    let text = format!(
        "{before}[[source]]\nurl = \"usb:x\"\n[[source]]\nurl = \"elm327:/dev/x\"\n[[source]]\nurl = \"slcan:/tty/x\"\n\
         [[source]]\nurl = \"nmea:/dev/y\"\n[[poll]]\nbus = \"can7\"\n[[poll]]\nbus = \"gnss\"\n[[poll]]\nbus = \"x\"\n\
         requests = [{{ data = \"1\" }}, {{ data = \"0100\", id = \"9999\" }}]\nframes_per_s_max = 0\n{}",
        &after[after.find("[[dbc]]").unwrap()..]
    );
    let found = faults(&text);
    let expected = [
        "source[1].url = \"usb:x\": there is no such kind of source: write socketcan:can0",
        "source[3].url = \"slcan:/tty/x\": there is a source for bus x already",
        "poll[1].bus = \"can7\": there is no [[source]] with this bus",
        "poll[2].bus = \"gnss\": nothing can be asked of a receiver",
        "poll[3].requests[1].data = \"1\": expected 1 to 7 bytes in hex digits",
        "poll[3].requests[2].id = \"9999\": expected a CAN id of 3 or 8 hex digits",
        "poll[3].frames_per_s_max = 0: it must be from 1 to 500",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (fault, expected) in found.iter().zip(expected) {
        assert!(fault.contains(expected), "{fault}\n{expected}");
    }
}

#[test]
fn campaigns_with_conditions_and_the_keys_of_cloud_and_metrics_are_read_or_refused_by_line() {
    let more = format!(
        "{GOOD}[cloud]\ncampaign_key = \"{}\"\n[metrics]\nlisten = \"127.0.0.1:9110\"\n",
        "0a".repeat(32)
    );
    let dir = directory();
    let agent = parse(&more, dir.path(), Overrides::default()).unwrap().agent;
    assert_eq!(agent.campaign_key.unwrap().0, [10; 32]);
    assert_eq!(agent.metrics.unwrap().port(), 9110);
    let bad = r#"[cloud]
campaign_key = "beef"
[metrics]
listen = "0.0.0.0:9110"
[[campaign]]
name = "a"
condition = "Vehicle.Speed >"
signals = [{ pattern = "*", deadband = "much" }]
[[campaign]]
name = "b"
trigger_mode = "rising_edge"
signals = [{ pattern = "*" }]
[[campaign]]
name = "c"
condition = "A > 1"
trigger_mode = "sometimes"
trouble_codes = true
"#;
    assert_eq!(
        faults(&format!("{GOOD}{bad}")),
        [
            "line 15: cloud.campaign_key = \"beef\": expected 64 hex digits, as `convoy serve` prints them at its start",
            "line 17: metrics.listen = \"0.0.0.0:9110\": metrics are served in plain text to whoever asks: use a loopback address",
            "line 19: campaign a: condition, at character 16: expected a number, a signal or a function",
            "line 21: campaign[1].signals[1].deadband: expected a number, found string",
            "line 24: campaign[2].trigger_mode = \"rising_edge\": it needs condition = \"Vehicle.Speed > 90\" beside it",
            "line 29: campaign[3].trigger_mode = \"sometimes\": expected rising_edge, any_edge or while_true",
        ]
    );
}
