//! How a process locks itself in once everything it needs is open.
//!
//! Locks that each hold without the others: no new privileges, no capabilities, no core dumps, a list of files (Landlock,
//! [`files`]) and a list of system calls (seccomp, [`calls`]). What is refused fails with an error and ends nothing. What
//! is on the lists is each process's own to say, with the reason beside it; what all of them need is in [`common`].

pub mod calls;
pub mod common;
pub mod files;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

/// Why a process could not be locked in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The privileges stay.
    #[error("Cannot give up privileges: {0}")]
    Privileges(#[from] Errno),
    /// A file of the list is not there.
    #[error("Cannot open {0}: {1}")]
    Grant(String, landlock::PathFdError),
    /// The kernel refuses the list of files.
    #[error("Cannot enforce the list of files (Landlock): {0}")]
    Files(#[from] landlock::RulesetError),
    /// The list of system calls cannot be compiled.
    #[error("Cannot make the list of system calls: {0}")]
    Rules(#[from] seccompiler::BackendError),
    /// The kernel refuses the list of system calls.
    #[error("Cannot install the list of system calls (seccomp): {0}")]
    Calls(#[from] seccompiler::Error),
}

/// No new privileges, no capability, no core dump: nothing that a process of ours ever needs.
pub fn give_up_privileges() -> Result<(), Error> {
    set_no_new_privs(true)?;
    drop_capabilities()?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    Ok(setrlimit(Resource::Core, none)?)
}

/// Gives up every capability, also those that a program executed as root would get back.
pub fn drop_capabilities() -> Result<(), Errno> {
    if capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..64 {
            let capability = CapabilitySet::from_bits_retain(1 << bit);
            match remove_capability_from_bounding_set(capability) {
                // Past the last one that this kernel knows.
                Err(Errno::INVAL) => break,
                other => other?,
            }
        }
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}
