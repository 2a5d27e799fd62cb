//! Checks a signature as AWS does, from what arrived (IAM user guide, "Create a signed AWS API request").

use std::fmt::Write as _;

use ring::{digest, hmac};

use crate::fake::Request;

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes))
}

fn mac(key: impl AsRef<[u8]>, text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()), text.as_bytes())
}

/// Names of the headers that are signed; panics where the signature is not that of this request, key and secret, for
/// this region and service.
pub(crate) fn signed_headers<'r>(
    request: &'r Request,
    (key, secret): (&str, &str),
    (region, service): (&str, &str),
) -> Vec<&'r str> {
    let header = |name: &str| request.headers.get(name).map(|value| value.to_str().unwrap());
    let (time, authorization) = (header("x-amz-date").unwrap(), header("authorization").unwrap());
    let scope = format!("{}/{region}/{service}/aws4_request", &time[..8]);
    let rest =
        authorization.strip_prefix(&format!("AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders="));
    let (names, signature) = rest.unwrap().split_once(", Signature=").unwrap();
    let mut canonical =
        format!("{}\n{}\n{}\n", request.method, request.uri.path(), request.uri.query().unwrap_or(""));
    for name in names.split(';') {
        writeln!(canonical, "{name}:{}", header(name).unwrap().trim()).unwrap();
    }
    write!(canonical, "\n{names}\n{}", hash(&request.body)).unwrap();
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hash(canonical.as_bytes()));
    let day_key = mac(format!("AWS4{secret}"), &time[..8]);
    let signing_key = mac(mac(mac(day_key, region), service), "aws4_request");
    assert_eq!(hex(mac(signing_key, &to_sign)), signature, "{canonical}");
    names.split(';').collect()
}
