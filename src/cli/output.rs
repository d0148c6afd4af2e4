//! Where text goes. A reader that went away (`verydeep plan | head`) is no reason to panic.

use std::io::{self, Write};

use serde::Serialize;

use crate::error::Error;

/// Writes a line to standard output.
pub(super) fn say(line: impl std::fmt::Display) {
    ignore_closed(writeln!(io::stdout().lock(), "{line}"));
}

/// Writes a line to standard error.
pub(super) fn note(line: impl std::fmt::Display) {
    ignore_closed(writeln!(io::stderr().lock(), "{line}"));
}

/// Says what went wrong.
pub(super) fn complain(error: &Error) {
    note(format_args!("verydeep: {error}"));
}

/// Writes the one JSON object of `--json`.
pub(super) fn print_json(value: &impl Serialize) {
    let text = serde_json::to_string(value).expect("plain data serialises");
    say(text);
}

/// Nothing can be done about a closed pipe; nobody is left to hear about any other failure to write.
fn ignore_closed(result: io::Result<()>) {
    drop(result);
}
