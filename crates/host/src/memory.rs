//! What memory processes have, as the kernel counts it.
//!
//! Not what they say: a device counts what its guest makes by commands, and nobody counts what a library allocates.

use std::collections::BTreeMap;
use std::fs;
use std::ops::AddAssign;

use crate::processes::{Processes, Stat};

/// Bytes that are in the host's memory (`proc_pid_status(5)`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resident {
    /// `RssAnon`: nobody else's.
    pub anonymous: u64,
    /// `RssShmem`: pages that it has touched of memory that it may share with others, the guest's among it. Each process that has
    /// touched a page counts it.
    pub shared: u64,
}

impl AddAssign for Resident {
    fn add_assign(&mut self, other: Self) {
        self.anonymous = self.anonymous.saturating_add(other.anonymous);
        self.shared = self.shared.saturating_add(other.shared);
    }
}

impl Resident {
    /// Of one process, if it is there and no corpse.
    pub fn of(processes: &Processes, pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(processes.root().join(format!("{pid}/status"))).ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            kibibytes.checked_mul(1024)
        };
        Some(Self { anonymous: bytes("RssAnon")?, shared: bytes("RssShmem")? })
    }
}

/// That of a device's processes, which are one session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OfSession {
    /// Its leader: the device.
    pub leader: Resident,
    /// Those of the leader's own group: its launcher, a viewer.
    pub group: Resident,
    /// Those of other groups: what draws.
    pub others: Resident,
}

/// That of the sessions which these processes lead; one that leads none has none.
pub fn of_sessions(processes: &Processes, leaders: &[i32]) -> BTreeMap<i32, OfSession> {
    let mut sessions = BTreeMap::new();
    for Stat { pid, group, session, .. } in processes.all().filter(|stat| stat.lives()) {
        if !leaders.contains(&session) {
            continue;
        }
        let Some(resident) = Resident::of(processes, pid) else { continue };
        let found: &mut OfSession = sessions.entry(session).or_default();
        *match (pid == session, group == session) {
            (true, _) => &mut found.leader,
            (false, true) => &mut found.group,
            (false, false) => &mut found.others,
        } += resident;
    }
    sessions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_s_is_read_out_of_what_the_kernel_says() {
        let status = "Name:\tRssAnon: 9 kB\nVmRSS:\t  5000 kB\nRssAnon:\t    1200 kB\nRssFile:\t 3000 kB\nRssShmem:\t     800 kB\n";
        assert_eq!(Resident::parse(status), Some(Resident { anonymous: 1200 << 10, shared: 800 << 10 }));
        // A corpse has no such lines.
        assert_eq!(Resident::parse("Name:\tx\nState:\tZ (zombie)\n"), None);
        assert_eq!(Resident::parse("RssAnon:\t18446744073709551615 kB\nRssShmem:\t0 kB\n"), None);
        let own = Resident::of(&Processes::default(), std::process::id().cast_signed()).unwrap();
        assert!(own.anonymous > 0);
    }

    #[test]
    fn a_device_s_processes_are_told_apart_by_their_groups() {
        let folder = tempfile::tempdir().unwrap();
        let write = |pid: i32, state: char, group: i32, session: i32, kib: u64| {
            let place = folder.path().join(pid.to_string());
            fs::create_dir(&place).unwrap();
            let zeros = "0 ".repeat(15);
            fs::write(place.join("stat"), format!("{pid} (x) {state} 1 {group} {session} {zeros}7 0\n")).unwrap();
            fs::write(place.join("status"), format!("RssAnon:\t{kib} kB\nRssShmem:\t{} kB\n", kib * 2)).unwrap();
        };
        write(10, 'S', 10, 10, 1);
        write(11, 'S', 10, 10, 2);
        write(12, 'T', 12, 10, 4);
        write(13, 'R', 12, 10, 8);
        write(14, 'Z', 12, 10, 16);
        write(20, 'S', 20, 20, 32);
        let processes = Processes::at(folder.path());
        let resident = |kib: u64| Resident { anonymous: kib << 10, shared: kib << 11 };
        let ten = OfSession { leader: resident(1), group: resident(2), others: resident(12) };
        assert_eq!(of_sessions(&processes, &[10, 99]), BTreeMap::from([(10, ten)]));
    }
}
