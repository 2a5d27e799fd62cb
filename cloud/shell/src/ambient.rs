//! Time and randomness of the machine.

use std::time::{SystemTime, UNIX_EPOCH};

use convoy_cloud_core::ambient::Ambient;

/// The system's clock and randomness.
pub fn system_ambient() -> Ambient {
    let now_us = || {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX)
    };
    // Without random bytes no key may be made; the system call cannot fail once the system has booted.
    Ambient::new(now_us, |bytes| getrandom::fill(bytes).expect("the system gives random bytes"))
}
