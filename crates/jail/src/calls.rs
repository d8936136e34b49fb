//! A list of system calls. What is not on it fails with EPERM, or is made and reported in the kernel's audit log.

use std::collections::{BTreeMap, BTreeSet};

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::Error;

/// System calls and why a process makes them.
#[derive(Debug)]
pub struct Group {
    /// The reason.
    pub why: &'static str,
    /// The calls.
    pub calls: &'static [Call],
}

/// A system call, perhaps only with certain arguments.
#[derive(Debug)]
pub enum Call {
    /// However it is made.
    Any(i64),
    /// When the argument at this place has none of these bits.
    Without(i64, u8, u64),
    /// When the argument at this place has all of these bits.
    With(i64, u8, u64),
    /// When the argument at this place is one of these.
    Only(i64, u8, &'static [u64]),
}

impl Call {
    /// Its number.
    pub fn number(&self) -> i64 {
        match *self {
            Call::Any(number) | Call::Without(number, ..) | Call::With(number, ..) | Call::Only(number, ..) => number,
        }
    }

    fn rules(&self) -> Result<Vec<SeccompRule>, BackendError> {
        let rule = |place, operator, value| {
            SeccompRule::new(vec![SeccompCondition::new(place, SeccompCmpArgLen::Qword, operator, value)?])
        };
        match *self {
            Call::Any(_) => Ok(Vec::new()),
            Call::Without(_, place, bits) => Ok(vec![rule(place, SeccompCmpOp::MaskedEq(bits), 0)?]),
            Call::With(_, place, bits) => Ok(vec![rule(place, SeccompCmpOp::MaskedEq(bits), bits)?]),
            Call::Only(_, place, values) => values.iter().map(|value| rule(place, SeccompCmpOp::Eq, *value)).collect(),
        }
    }
}

/// What becomes of a call that is not on the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// It fails with EPERM.
    Refuse,
    /// It is made, and reported.
    Report,
}

/// Lets only these calls pass, in all threads of this process.
pub fn allow_only<'a>(groups: impl IntoIterator<Item = &'a Group>, otherwise: Otherwise) -> Result<(), Error> {
    let otherwise = match otherwise {
        Otherwise::Refuse => SeccompAction::Errno(libc::EPERM as u32),
        Otherwise::Report => SeccompAction::Log,
    };
    let mut rules = BTreeMap::new();
    for group in groups {
        tracing::debug!("System calls allowed: {}", group.why);
        for call in group.calls {
            rules.insert(call.number(), call.rules()?);
        }
    }
    // The C library starts threads by clone3, whose flags lie in memory that a filter cannot read. Told that there is no
    // clone3 it takes clone, whose flags it can. The refusal is a filter of its own, as a filter has one error to give.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    install(clone3, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?;
    rules.insert(libc::SYS_clone3, Vec::new());
    install(rules, otherwise, SeccompAction::Allow)
}

fn install(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<(), Error> {
    let filter = SeccompFilter::new(rules, otherwise, listed, std::env::consts::ARCH.try_into()?)?;
    let program = BpfProgram::try_from(filter)?;
    Ok(seccompiler::apply_filter_all_threads(&program)?)
}

/// What is wrong with a list, for its tests: calls that are there twice, of which one would count; [ways out](WAYS_OUT); groups
/// without a reason or a call.
pub fn flaws<'a>(groups: impl IntoIterator<Item = &'a Group>) -> Vec<String> {
    let (mut flaws, mut seen) = (Vec::new(), BTreeSet::new());
    for group in groups {
        if group.why.len() <= 10 || group.calls.is_empty() {
            flaws.push(format!("A group without a reason or a call: {group:?}"));
        }
        for number in group.calls.iter().map(Call::number) {
            if !seen.insert(number) {
                flaws.push(format!("Call {number} is there twice"));
            }
            if WAYS_OUT.contains(&number) {
                flaws.push(format!("Call {number} leads out"));
            }
        }
    }
    flaws
}

/// What a process that was broken into would look for: no list has any of it without a condition and a reason of its own.
pub const WAYS_OUT: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_clone3,
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_open,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_bpf,
    libc::SYS_io_uring_setup,
    libc::SYS_userfaultfd,
    libc::SYS_mount,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_open_by_handle_at,
    libc::SYS_pkey_mprotect,
    libc::SYS_shmat,
    libc::SYS_personality,
    libc::SYS_seccomp,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];
