//! The system calls that a locked-in device may still make, as a list with the reason for each group.
//!
//! What is not on it fails with EPERM, and with `--sandbox log` is made and reported in the kernel's audit log.

use jail::calls::Call::Any;
use jail::calls::Group;
use jail::common;

/// What every device needs.
pub const ALWAYS: &[Group] = &[
    common::OPEN,
    Group {
        why: "read and write at a position, and tell a dma-buf from a file",
        calls: &[Any(libc::SYS_pwrite64), Any(libc::SYS_preadv), Any(libc::SYS_pwritev), Any(libc::SYS_fstatfs)],
    },
    common::TERMINALS,
    common::SOCKETS,
    common::CLIENTS,
    common::MEMORY,
    common::THREADS,
    common::NAMES,
    common::FAULTS,
    common::TIME,
    #[cfg(target_arch = "x86_64")]
    common::OLDER_NAMES,
];

/// What needs the list of files beside it.
pub const FILES: &[Group] = &[
    Group {
        why: "write and replace the capture, read our executable for a backtrace",
        calls: &[
            Any(libc::SYS_openat),
            Any(libc::SYS_newfstatat),
            Any(libc::SYS_statx),
            Any(libc::SYS_renameat),
            Any(libc::SYS_renameat2),
            Any(libc::SYS_unlinkat),
            Any(libc::SYS_fsync),
            Any(libc::SYS_fdatasync),
            Any(libc::SYS_readlinkat),
            Any(libc::SYS_getcwd),
        ],
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        why: "older names of the above",
        calls: &[
            Any(libc::SYS_open),
            Any(libc::SYS_stat),
            Any(libc::SYS_lstat),
            Any(libc::SYS_rename),
            Any(libc::SYS_unlink),
            Any(libc::SYS_readlink),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use jail::calls::Call::Only;

    #[test]
    fn nothing_on_the_list_leads_out_or_is_there_twice_or_without_a_reason() {
        assert_eq!(jail::calls::flaws(ALWAYS.iter().chain(FILES)), Vec::<String>::new());
    }

    #[test]
    fn a_library_that_shares_our_process_takes_none_of_our_calls_away() {
        // Of a call that is on both lists its entry counts.
        let theirs =
            |number| crate::child::CALLS.iter().flat_map(|group| group.calls).find(|call| call.number() == number);
        for ours in ALWAYS.iter().chain(FILES).flat_map(|group| group.calls) {
            let narrowed = match (ours, theirs(ours.number())) {
                (_, None | Some(Any(_))) => false,
                (Only(_, place, values), Some(Only(_, other, wider))) => {
                    place != other || !values.iter().all(|value| wider.contains(value))
                }
                (ours, Some(theirs)) => format!("{ours:?}") != format!("{theirs:?}"),
            };
            assert!(!narrowed, "{ours:?}");
        }
    }
}
