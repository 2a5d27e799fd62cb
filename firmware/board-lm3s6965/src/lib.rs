//! What the boot loader and the dongle of this board share.
#![no_std]

pub mod flash;
pub mod layout;
pub mod registers;
pub mod restart;
pub mod watchdog;
