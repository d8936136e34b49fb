//! All that a device started, also when it has ended itself: the session that it leads.

use std::fs::File;
use std::io::Read;

use rustix::process::{Signal, pidfd_send_signal};

use super::{Identity, Processes, Stat};

/// What is read of the environment of a process, which may say that it is as long as its memory.
const LONGEST: u64 = 1 << 20;

impl Processes {
    /// The live processes of the session that this process leads or led: all that it started, however deep, and whoever
    /// their parent is now, but for those that began a session of their own.
    pub fn session(&self, leader: Identity) -> Vec<Identity> {
        // Nobody leads session 0: those are in it whose leader another PID namespace has, as it may be with all that runs here.
        // And nobody whom we started leads our own.
        let own = std::process::id().cast_signed();
        if leader.pid <= 1 || self.stat(own).is_none_or(|own| own.session == leader.pid) {
            return Vec::new();
        }
        // While anybody is in the session its number is given to no other process: one that has it is the leader, or that session
        // is over.
        if self.stat(leader.pid).is_some_and(|stat| stat.identity() != leader) {
            return Vec::new();
        }
        let ours = |stat: &Stat| stat.session == leader.pid && stat.lives() && stat.start_time >= leader.start_time;
        self.all().filter(ours).map(|stat| stat.identity()).collect()
    }

    /// Ends a process and all of its session, at once, where somebody holds the process or saw it end just now. Returns how many were
    /// left to be ended.
    pub fn kill_session(&self, leader: Identity) -> usize {
        self.kill(&self.session(leader))
    }

    /// The same where nobody watched when the process ended: who is in a session of its number may be of a later one, whose
    /// leader ended too. So only those are ended that have this word (`NAME=VALUE`) in the environment that they were started with.
    pub fn kill_session_marked(&self, leader: Identity, mark: &str) -> usize {
        let mut members = self.session(leader);
        members.retain(|member| self.is_marked(*member, mark));
        self.kill(&members)
    }

    fn is_marked(&self, process: Identity, mark: &str) -> bool {
        let mut said = Vec::new();
        let file = File::open(self.root().join(format!("{}/environ", process.pid)));
        // Half of it is looked at as well: whoever cannot be read whole may be gone, or hide something.
        let _ = file.and_then(|file| file.take(LONGEST).read_to_end(&mut said));
        said.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())
    }

    fn kill(&self, processes: &[Identity]) -> usize {
        for process in processes {
            if let Ok(Some(pidfd)) = self.hold(*process) {
                // It may end by itself just now.
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
        }
        processes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    /// A session whose leader runs this and then waits for its standard input to end. It says numbers in its first line.
    struct Leader(Child);

    impl Leader {
        fn start(script: &str, mark: &str) -> (Leader, Vec<Identity>) {
            let mut command = Command::new("setsid");
            command.args(["--wait", "sh", "-c", &format!("{script}; read word")]).env("BEAMSPLIT_TEST", mark);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("setsid");
            let mut line = String::new();
            BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
            let known = |pid: &str| Processes::default().identity(pid.parse().expect("a number")).expect("it is there");
            (Leader(child), line.split_whitespace().map(known).collect())
        }

        fn end(mut self) {
            drop(self.0.stdin.take());
            self.0.wait().expect("it ends");
        }
    }

    fn wait_until(mut is_so: impl FnMut() -> bool) {
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !is_so() {
            assert!(std::time::Instant::now() < limit, "It did not happen");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_session_ends_with_those_that_its_leader_left_behind() {
        let processes = Processes::default();
        // One sleeper in a process group of its own, one below it.
        let script = "set -m; sleep 1000 >&- & sh -c 'sleep 1000 & wait' >&- & echo $$";
        let (leader, known) = Leader::start(script, "");
        let identity = known[0];
        wait_until(|| processes.session(identity).len() == 4);
        leader.end();
        assert!(!processes.lives(identity));
        assert_eq!(processes.session(identity).len(), 3);
        wait_until(|| processes.kill_session(identity) == 0);
    }

    #[test]
    fn a_number_that_no_leader_has_is_nobodys_session() {
        let processes = Processes::default();
        for pid in [i32::MIN, -1, 0, 1] {
            assert_eq!(processes.session(Identity { pid, start_time: 0 }), [], "{pid}");
        }
        let own = processes.stat(std::process::id().cast_signed()).expect("it is there");
        assert_eq!(processes.session(Identity { pid: own.session, start_time: 0 }), [], "All of us");
        let other = Identity { start_time: own.start_time + 1, ..own.identity() };
        assert_eq!(processes.session(other), []);
    }

    #[test]
    fn of_a_session_that_nobody_watched_only_those_end_that_are_marked() {
        let processes = Processes::default();
        let mark = "BEAMSPLIT_TEST=ours";
        let (leader, known) = Leader::start("sleep 1000 >&- & echo $$ $!", "another's");
        let [leads, innocent] = known[..] else { panic!("{known:?}") };
        leader.end();
        assert_eq!(processes.session(leads), [innocent]);
        assert_eq!(processes.kill_session_marked(leads, mark), 0);
        assert!(processes.lives(innocent));
        assert_eq!(processes.kill(&[innocent]), 1);

        let (leader, known) = Leader::start("sleep 1000 >&- & echo $$ $!", "ours");
        let [leads, left] = known[..] else { panic!("{known:?}") };
        leader.end();
        assert_eq!(processes.kill_session_marked(leads, mark), 1);
        wait_until(|| !processes.lives(left));
        assert_eq!(processes.kill_session_marked(leads, mark), 0);
    }
}
