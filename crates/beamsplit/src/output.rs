//! What commands print, and what they complain of.
//!
//! `println!` panics when nobody reads any more what it prints, as in `beamsplit list | head -1`: that is no failure, and a
//! disk that is full is one that can be said in a line.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};

use anyhow::Result;
use serde_json::Value;

use crate::table::printable;

/// Nobody reads any more what is printed: there is nothing left to do, and nothing that went wrong.
#[derive(Debug, thiserror::Error)]
#[error("Nobody reads what is printed")]
pub struct Unread;

/// Prints text as it is.
pub fn print(text: impl Display) -> Result<()> {
    write(text.to_string().as_bytes())
}

/// Prints bytes as they are, all of them before it returns.
pub fn write(bytes: &[u8]) -> Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(bytes).and_then(|()| output.flush()).map_err(unwritten)
}

/// Why something was not printed.
pub fn unwritten(error: io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::BrokenPipe => Unread.into(),
        _ => anyhow::Error::new(error).context("Cannot write to the standard output"),
    }
}

/// Prints an answer for programs.
pub fn json(value: &Value) -> Result<()> {
    print(format_args!("{value:#}\n"))
}

/// Says what went wrong, in one line. Where nobody hears it, the exit code says it.
pub fn complain(what: impl Display) {
    let _ = writeln!(io::stderr(), "beamsplit: {}", printable(&what.to_string()));
}

/// Says what people should know besides what is printed. Programs do not hear it.
pub fn remark(what: impl Display) {
    if io::stderr().is_terminal() {
        let _ = writeln!(io::stderr(), "# {}", printable(&what.to_string()));
    }
}
