//! Where our other programs are.

use std::env;
use std::ffi::OsString;

/// The program of this name beside our own, else the name alone, for PATH to find.
pub fn beside(name: &str) -> OsString {
    let beside = env::current_exe().ok().map(|own| own.with_file_name(name)).filter(|path| path.is_file());
    beside.map_or_else(|| name.into(), Into::into)
}
