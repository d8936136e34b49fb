//! The device locks itself in once everything it needs is open: what breaks out of a parser here finds no file, no
//! network, no other program and no other process within reach.
//!
//! Five locks, each of which holds without the others: no new privileges, no capabilities, no core dumps, a list of
//! files and a list of system calls ([`calls`]). What is refused fails with an error and ends nothing: a device must not
//! die, for its VM would lose its GPU for good.

mod calls;

use anyhow::{Context, Result};
use jail::calls::{Group, Otherwise};
use jail::files::{self, Grant};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::set_no_new_privs;

use crate::values::SandboxMode;

/// Descriptors a device may hold: a thousand memory regions, its rings, its clients. Stops a peer that sends fds for ever
/// at a number that no parent's limit cuts short.
const MAX_FILES: u64 = 4096;

/// Locks this process in. Call it with one thread running: what starts later is locked in with it. Returns what this
/// machine cannot enforce, in words for the log.
///
/// `guest` are calls that a library in this process makes: they count where they are on our own list too.
pub fn lock_in(mode: SandboxMode, grants: &[Grant], guest: &'static [Group]) -> Result<Vec<String>> {
    match mode {
        SandboxMode::Off => {
            Ok(vec!["Sandbox off: a guest that breaks its device has all rights of this user".to_owned()])
        }
        SandboxMode::Log => {
            set_no_new_privs(true).context("Cannot give up new privileges")?;
            jail::calls::allow_only(calls::ALWAYS.iter().chain(calls::FILES).chain(guest), Otherwise::Report)?;
            Ok(vec!["Sandbox log: nothing is refused; unexpected system calls go to the kernel's audit log".to_owned()])
        }
        SandboxMode::On => {
            jail::give_up_privileges()?;
            let enforced = files::allow_only(grants)?;
            // Without Landlock no file can be told from another: then none is opened at all, if the device can do so.
            let opens = enforced.guards_files() || !grants.iter().all(Grant::is_optional);
            let list = calls::ALWAYS.iter().chain(calls::FILES.iter().filter(|_| opens)).chain(guest);
            jail::calls::allow_only(list, Otherwise::Refuse)?;
            Ok(enforced.missing().into_iter().collect())
        }
    }
}

/// Makes room for as many descriptors as a device may need, whatever the shell or libvirt allowed for.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(MAX_FILES, |most| most.min(MAX_FILES));
    if limit.current.is_some_and(|current| current < wanted) {
        // Failing leaves what there was, which a small guest does not notice.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
}

#[cfg(test)]
mod tests;
