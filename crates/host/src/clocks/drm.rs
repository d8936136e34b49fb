//! What drivers of GPUs say of each open file of theirs (`Documentation/gpu/drm-usage-stats.rst`).

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use crate::processes::Processes;

/// Longest `fdinfo` that is read: theirs have some forty lines. Stops one of an epoll that waits for a million files.
const LONGEST: u64 = 64 << 10;

/// Files whose `fdinfo` is read in one look. Stops a device that opens as many as it may, in each of its processes.
const MOST: usize = 4096;

/// Driver, PCI address and number of a client, which no later one has.
type Key = (String, String, u64);

/// One opening of a GPU: descriptors that were duplicated or passed on are the same client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Client {
    /// The driver.
    driver: String,
    /// The PCI address of the GPU, if it has one.
    pdev: String,
    /// Unique among the clients of this GPU.
    id: u64,
    /// Time that each engine worked for it; of several of a kind, together.
    engines: BTreeMap<String, Duration>,
}

impl Client {
    /// Parses one `fdinfo`. `None`: it is of no GPU, or its driver does not tell clients apart.
    fn parse(text: &str) -> Option<Self> {
        let mut client = Client::default();
        let mut id = None;
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match key {
                "drm-driver" => client.driver = value.to_owned(),
                "drm-pdev" => client.pdev = value.to_owned(),
                "drm-client-id" => id = value.parse().ok(),
                _ => client.engine(key, value),
            }
        }
        client.id = id?;
        (!client.driver.is_empty()).then_some(client)
    }

    fn engine(&mut self, key: &str, value: &str) {
        let nanoseconds = value.strip_suffix(" ns").and_then(|number| number.parse().ok());
        // A capacity (`drm-engine-capacity-NAME`) has no unit.
        if let (Some(engine), Some(nanoseconds)) = (key.strip_prefix("drm-engine-"), nanoseconds) {
            self.engines.insert(engine.to_owned(), Duration::from_nanos(nanoseconds));
        }
    }

    fn key(&self) -> Key {
        (self.driver.clone(), self.pdev.clone(), self.id)
    }

    /// Time of all engines.
    fn used(&self) -> Duration {
        self.engines.values().sum()
    }
}

/// What processes have open of GPUs.
#[derive(Debug, Default)]
struct Open {
    /// Each client once.
    clients: Vec<Client>,
    /// They have more open than is looked at.
    more: bool,
}

/// What these processes have open.
fn open(processes: &Processes, pids: impl IntoIterator<Item = i32>) -> Open {
    let folders = pids.into_iter().map(|pid| processes.root().join(format!("{pid}/fdinfo")));
    let mut files = folders.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let mut clients = BTreeMap::new();
    for entry in files.by_ref().take(MOST) {
        let mut text = String::new();
        let read = fs::File::open(entry.path()).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
        if let (Ok(_), Some(client)) = (read, Client::parse(&text)) {
            clients.insert(client.key(), client);
        }
    }
    Open { clients: clients.into_values().collect(), more: files.next().is_some() }
}

/// Time that GPUs worked for some processes, which never falls: clients that are gone count as at the last look.
#[derive(Debug, Default)]
pub struct Meter {
    /// Of those that are forgotten.
    ended: Duration,
    known: BTreeMap<Key, Duration>,
    looked: Option<Instant>,
}

impl Meter {
    /// Looks at what these processes have open. `None`: no driver tells how long it worked.
    ///
    /// Who has more open than is looked at may hide what works for him there: that is all the time since the last look.
    pub fn read(&mut self, processes: &Processes, pids: impl IntoIterator<Item = i32>) -> Option<Duration> {
        let Open { clients, more } = open(processes, pids);
        let now = Instant::now();
        let before = self.looked.replace(now);
        if more {
            self.ended += before.map_or(Duration::ZERO, |before| now.duration_since(before));
        }
        let told = more || clients.iter().any(|client| !client.engines.is_empty());
        let there: BTreeMap<Key, Duration> = clients.into_iter().map(|client| (client.key(), client.used())).collect();
        if self.known.len() > MOST {
            self.forget(|key| !there.contains_key(key));
        }
        for (key, used) in there {
            // One that could not be read once counts from where it was.
            let known = self.known.entry(key).or_default();
            *known = used.max(*known);
        }
        let total = self.ended + self.known.values().sum::<Duration>();
        (told || !total.is_zero()).then_some(total)
    }

    fn forget(&mut self, gone: impl Fn(&Key) -> bool) {
        let (gone, there) = std::mem::take(&mut self.known).into_iter().partition(|(key, _)| gone(key));
        self.known = there;
        let gone: BTreeMap<Key, Duration> = gone;
        self.ended += gone.values().sum::<Duration>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As i915 and amdgpu write it.
    const I915: &str = "pos:\t0\nflags:\t0100002\nmnt_id:\t27\nino:\t1\ndrm-driver:\ti915\ndrm-client-id:\t7\ndrm-pdev:\t0000:00:02.0\n\
        drm-total-system0:\t16 MiB\ndrm-resident-system0:\t2 MiB\ndrm-engine-render:\t25662044495 ns\ndrm-engine-copy:\t0 ns\n\
        drm-engine-capacity-video:\t2\ndrm-engine-video:\t1000 ns\n";

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        root
    }

    #[test]
    fn the_time_of_engines_is_read_and_their_capacity_is_none() {
        let client = Client::parse(I915).expect("a client");
        assert_eq!((client.driver.as_str(), client.pdev.as_str(), client.id), ("i915", "0000:00:02.0", 7));
        assert_eq!(client.used(), Duration::from_nanos(25_662_045_495));
        assert_eq!(client.engines.keys().collect::<Vec<_>>(), ["copy", "render", "video"]);
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        for text in ["", "pos: 0\n", "drm-driver: x\n", "drm-client-id: 3\n", "drm-driver: x\ndrm-client-id: -1\n"] {
            assert_eq!(Client::parse(text), None, "{text}");
        }
        let text = "drm-driver: x\ndrm-client-id: 1\ndrm-engine-a: 5\ndrm-engine-b: ns\ndrm-engine-c: -5 ns\n\
                    drm-engine-d: 99999999999999999999 ns\n";
        let client = Client::parse(text).expect("a client");
        assert_eq!(client.engines, BTreeMap::new());
    }

    #[test]
    fn a_descriptor_that_was_passed_on_is_counted_once_and_a_closed_one_goes_on_counting() {
        let other = I915.replace("client-id:\t7", "client-id:\t8");
        let root =
            tree(&[("10/fdinfo/3", I915), ("10/fdinfo/4", I915), ("11/fdinfo/9", I915), ("11/fdinfo/5", &other)]);
        let processes = Processes::at(root.path());
        let mut meter = Meter::default();
        let once = Duration::from_nanos(25_662_045_495);
        assert_eq!(meter.read(&processes, [10]), Some(once));
        assert_eq!(meter.read(&processes, [10, 11]), Some(once * 2));
        fs::remove_file(root.path().join("11/fdinfo/5")).expect("closed");
        assert_eq!(meter.read(&processes, [10, 11]), Some(once * 2));
        assert_eq!(meter.read(&processes, []), Some(once * 2));
        assert_eq!(Meter::default().read(&processes, [12]), None);
    }

    #[test]
    fn one_that_could_not_be_read_once_is_not_charged_twice() {
        let root = tree(&[("10/fdinfo/3", I915)]);
        let processes = Processes::at(root.path());
        let mut meter = Meter::default();
        let once = Duration::from_nanos(25_662_045_495);
        for pids in [vec![10], vec![], vec![10]] {
            assert_eq!(meter.read(&processes, pids), Some(once));
        }
    }

    #[test]
    fn who_opens_so_much_that_it_is_not_all_read_is_charged_for_the_time_that_passes() {
        let folder = tempfile::tempdir().expect("a folder");
        let fdinfo = folder.path().join("10/fdinfo");
        fs::create_dir_all(&fdinfo).expect("a folder");
        for number in 0..MOST {
            fs::write(fdinfo.join(number.to_string()), "pos:\t0\n").expect("a file");
        }
        let processes = Processes::at(folder.path());
        let mut meter = Meter::default();
        assert_eq!(meter.read(&processes, [10]), None);
        fs::write(fdinfo.join("more"), "pos:\t0\n").expect("a file");
        let first = meter.read(&processes, [10]).expect("a charge");
        assert!(!first.is_zero() && meter.read(&processes, [10]) > Some(first));
        fs::remove_file(fdinfo.join("more")).expect("closed");
        assert_eq!(meter.read(&processes, [10]), meter.read(&processes, [10]));
    }
}
