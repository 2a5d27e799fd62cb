//! CAN controllers for [`convoy_dongle::shell`]: drivers of chips outside the microcontroller, which any board may carry, and
//! of those inside one whatever can be computed and tested without their registers.
#![no_std]
#![warn(missing_docs)]

pub mod bxcan;
mod frame;
pub mod mcp2515;

pub use frame::{ClassicFrame, DATA_BYTES_MAX};
