//! Convoy on AWS.
