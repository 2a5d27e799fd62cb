//! Errors for people: our errors say what failed, their sources say why.

use std::error::Error;

/// An error with its causes, in one line: `cannot open the log a.log: No such file or directory`.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
