//! What drivers of GPUs say of each open file of theirs (`Documentation/gpu/drm-usage-stats.rst`).

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::time::Duration;

use crate::processes::Processes;

/// Longest `fdinfo` that is read: theirs have some forty lines. Stops one of an epoll that waits for a million files.
const LONGEST: u64 = 64 << 10;

/// One opening of a GPU: descriptors that were duplicated or passed on are the same client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    /// The driver.
    pub driver: String,
    /// The PCI address of the GPU, if it has one.
    pub pdev: String,
    /// Unique among the clients of this GPU.
    pub id: u64,
    /// Time that each engine worked for it.
    pub engines: BTreeMap<String, Duration>,
    /// Engines that are several of a kind, and how many.
    pub capacities: BTreeMap<String, u32>,
    /// Bytes of memory that are resident, by region.
    pub resident: BTreeMap<String, u64>,
}

impl Client {
    /// Parses one `fdinfo`. `None`: it is of no GPU, or its driver does not tell clients apart.
    pub fn parse(text: &str) -> Option<Self> {
        let mut client = Client::default();
        let mut id = None;
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            match key {
                "drm-driver" => client.driver = value.to_owned(),
                "drm-pdev" => client.pdev = value.to_owned(),
                "drm-client-id" => id = value.parse().ok(),
                _ => client.number(key, value),
            }
        }
        client.id = id?;
        (!client.driver.is_empty()).then_some(client)
    }

    fn number(&mut self, key: &str, value: &str) {
        let mut words = value.split_ascii_whitespace();
        let Some(number) = words.next().and_then(|word| word.parse::<u64>().ok()) else { return };
        let unit = words.next();
        if let Some(engine) = key.strip_prefix("drm-engine-capacity-") {
            self.capacities.insert(engine.to_owned(), number.try_into().unwrap_or(u32::MAX));
        } else if let (Some(engine), Some("ns")) = (key.strip_prefix("drm-engine-"), unit) {
            self.engines.insert(engine.to_owned(), Duration::from_nanos(number));
        } else if let Some(region) = key.strip_prefix("drm-resident-") {
            let shift = match unit {
                None => 0,
                Some("KiB") => 10,
                Some("MiB") => 20,
                Some(_) => return,
            };
            let bytes = number.saturating_mul(1 << shift);
            self.resident.insert(region.to_owned(), bytes);
        }
    }

    /// Time of all engines.
    pub fn used(&self) -> Duration {
        self.engines.values().sum()
    }
}

/// What these processes have open, each client once.
pub fn clients(processes: &Processes, pids: impl IntoIterator<Item = i32>) -> Vec<Client> {
    let mut clients = BTreeMap::new();
    for pid in pids {
        let folder = processes.root().join(format!("{pid}/fdinfo"));
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let mut text = String::new();
            let read = fs::File::open(entry.path()).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
            if let (Ok(_), Some(client)) = (read, Client::parse(&text)) {
                clients.insert((client.driver.clone(), client.pdev.clone(), client.id), client);
            }
        }
    }
    clients.into_values().collect()
}

/// Time that GPUs worked for some processes, which never falls: clients that are gone count up to the last look.
#[derive(Debug, Default)]
pub struct Meter {
    ended: Duration,
    last: BTreeMap<(String, String, u64), Duration>,
}

impl Meter {
    /// Looks at all that these processes have open. `None`: no driver tells how long it worked.
    pub fn read(&mut self, processes: &Processes, pids: impl IntoIterator<Item = i32>) -> Option<Duration> {
        let clients = clients(processes, pids);
        let told = clients.iter().any(|client| !client.engines.is_empty());
        let mut last = std::mem::take(&mut self.last);
        for client in clients {
            let used = client.used();
            let key = (client.driver, client.pdev, client.id);
            let before = last.remove(&key).unwrap_or_default();
            self.last.insert(key, used.max(before));
        }
        self.ended += last.values().sum::<Duration>();
        let total = self.ended + self.last.values().sum::<Duration>();
        (told || !total.is_zero()).then_some(total)
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
    fn engines_regions_and_capacities_are_read() {
        let client = Client::parse(I915).expect("a client");
        assert_eq!((client.driver.as_str(), client.pdev.as_str(), client.id), ("i915", "0000:00:02.0", 7));
        assert_eq!(client.used(), Duration::from_nanos(25_662_045_495));
        assert_eq!(client.capacities, BTreeMap::from([("video".to_owned(), 2)]));
        assert_eq!(client.resident, BTreeMap::from([("system0".to_owned(), 2 << 20)]));
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        for text in ["", "pos: 0\n", "drm-driver: x\n", "drm-client-id: 3\n", "drm-driver: x\ndrm-client-id: -1\n"] {
            assert_eq!(Client::parse(text), None, "{text}");
        }
        let text = "drm-driver: x\ndrm-client-id: 1\ndrm-engine-a: 5\ndrm-engine-b: ns\ndrm-engine-c: -5 ns\n\
                    drm-engine-d: 99999999999999999999 ns\ndrm-resident-e: 18446744073709551615 MiB\ndrm-resident-f: 1 XB\n";
        let client = Client::parse(text).expect("a client");
        assert_eq!(client.engines, BTreeMap::new());
        assert_eq!(client.resident, BTreeMap::from([("e".to_owned(), u64::MAX)]));
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
}
