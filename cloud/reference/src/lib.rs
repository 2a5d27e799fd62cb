//! The reference database: the one home of SQL.
//!
//! [`Reference`] implements [`convoy_cloud_core::reference::ReferenceDatabase`] on SQLite. Every statement is of the
//! subset that SQLite and PostgreSQL share (`$1` placeholders, 64-bit integers, text, byte strings, `ON CONFLICT`),
//! so that PostgreSQL is the same code behind another driver.
//!
//! Two things are encrypted under the [`VinKey`] given at opening: vehicle identification numbers, which are looked
//! up by HMAC, and the customers' pseudonym keys. Neither is ever part of an error, a log or a `Debug` text.
//!
//! A write that touches routing raises the routing version as the *first* statement of its transaction: that row is
//! then also the lock that puts such writers in line, on both databases.
#![warn(missing_docs)]

mod campaigns;
mod certificates;
mod database;
mod failure;
#[cfg(feature = "sqlite")]
mod file;
mod open;
mod packages;
mod rows;
mod schema;
mod secret;
mod vehicles;

pub use open::{OpenOptions, PasswordProvider, Reference};
pub use secret::VinKey;
