//! A simulated dongle: the main loop that every board runs ([`convoy_dongle::shell`]) on a simulated controller and a simulated
//! line, against the agent's own live source and gateway. No other dispatch stands in for either.
//!
//! ```text
//! vehicle (traffic, ECU) <-> controller <-> Shell::turn <-> UART <-> wire, faults <-> kernel <-> LiveSources -> Gateway
//!        \----------------------------------- direct source -------------------------------------------------/
//! ```
//!
//! Time is simulated on both sides: the world steps by [`bench::STEP_US`], the agent runs in tokio's paused time. The same seed
//! makes the same run, on one thread.

pub mod bench;
pub mod controller;
pub mod device;
pub mod faults;
pub mod line;
pub mod rig;
pub mod vehicle;
