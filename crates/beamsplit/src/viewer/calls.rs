//! The system calls that a locked-in viewer may still make, as a list with the reason for each group. What is not on it fails
//! with EPERM.

use jail::calls::Call::Any;
use jail::calls::Group;
use jail::common;

/// What a viewer needs.
pub const LIST: &[Group] = &[
    common::OPEN,
    common::TERMINALS,
    common::SOCKETS,
    common::CLIENTS,
    common::MEMORY,
    Group {
        why: "read the page's files, of which Landlock has the list, and see whether the tokens' file is still the same",
        calls: &[
            Any(libc::SYS_openat),
            Any(libc::SYS_newfstatat),
            Any(libc::SYS_statx),
            Any(libc::SYS_getdents64),
            Any(libc::SYS_readlinkat),
            Any(libc::SYS_getcwd),
            Any(libc::SYS_uname),
        ],
    },
    common::THREADS,
    common::NAMES,
    common::FAULTS,
    common::TIME,
    #[cfg(target_arch = "x86_64")]
    common::OLDER_NAMES,
    #[cfg(target_arch = "x86_64")]
    Group {
        why: "older names of what reads the page's files",
        calls: &[Any(libc::SYS_open), Any(libc::SYS_stat), Any(libc::SYS_lstat), Any(libc::SYS_readlink)],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_on_the_list_leads_out_or_is_there_twice_or_without_a_reason() {
        assert_eq!(jail::calls::flaws(LIST), Vec::<String>::new());
    }

    #[test]
    fn no_file_is_changed() {
        let change_files = [libc::SYS_renameat2, libc::SYS_unlinkat, libc::SYS_fchmod];
        assert!(LIST.iter().flat_map(|group| group.calls).all(|call| !change_files.contains(&call.number())));
    }
}
