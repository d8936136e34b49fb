//! Which GPUs this host has that can draw: the processor always, and what is behind each DRM render node.
//!
//! Where `/sys`, `/proc` and `/dev` are is told, so that tests have hosts of their own.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest file of facts that is read.
const LONGEST: u64 = 64 << 10;
/// The processor's memory is given in pieces of this size.
const PIECE: u64 = 64 << 20;
/// The most render nodes that are looked at: the kernel has numbers for 128 (and more since 6.13).
const MAX_NODES: usize = 256;

/// Drivers of render nodes behind which nothing draws.
const NOT_DRAWING: [&str; 3] = ["vgem", "vkms", "evdi"];
/// Drivers that say in fdinfo how long each client used their engines.
const SAY_TIME: [&str; 9] = ["amdgpu", "i915", "xe", "msm", "panfrost", "panthor", "v3d", "etnaviv", "asahi"];

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// `software`, `pci-0000:03:00.0`, or `platform-` and the name of its device.
    pub id: String,
    /// What people know it by.
    pub name: String,
    /// Its render node; `None` is the processor.
    pub node: Option<PathBuf>,
    /// The kernel's driver, when it has one.
    pub driver: Option<String>,
    /// How many bytes there are to be given to vGPUs.
    pub memory: Memory,
    /// Whether the driver says how long each client used it.
    pub says_time: bool,
}

/// How many bytes a GPU has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Memory {
    /// So many, by this file.
    Known {
        /// Bytes.
        bytes: u64,
        /// Where that is said.
        by: String,
    },
    /// Nobody says.
    Unknown {
        /// For people.
        why: String,
    },
}

impl Memory {
    /// Bytes; 0 when nobody says.
    pub fn bytes(&self) -> u64 {
        match self {
            Memory::Known { bytes, .. } => *bytes,
            Memory::Unknown { .. } => 0,
        }
    }
}

/// Where a host's facts are.
#[derive(Debug, Clone, Copy)]
pub struct Roots<'a> {
    /// `/sys`.
    pub sys: &'a Path,
    /// `/proc`.
    pub proc: &'a Path,
    /// `/dev`.
    pub dev: &'a Path,
}

impl Roots<'static> {
    /// Those of this host.
    pub fn of_this_host() -> Roots<'static> {
        Roots { sys: Path::new("/sys"), proc: Path::new("/proc"), dev: Path::new("/dev") }
    }
}

/// All GPUs of a host, the processor first, then by id. A host without `/sys/class/drm` has the processor alone.
pub fn find(roots: Roots<'_>) -> Vec<Gpu> {
    let mut gpus: Vec<Gpu> = nodes(roots.sys).into_iter().filter_map(|name| rendering(roots, &name)).collect();
    gpus.sort_by(|one, other| one.id.cmp(&other.id).then_with(|| one.node.cmp(&other.node)));
    // A device with two render nodes is one GPU.
    gpus.dedup_by(|later, earlier| later.id == earlier.id);
    gpus.insert(0, software(roots.proc));
    gpus
}

/// The processor. Half of the host's memory may be had by vGPUs that it draws: the guests need the other half.
///
/// Of what the host has, not of what is free just now: that is less while vGPUs run, and a manager that is started anew would find
/// that they have more than there is.
pub fn software(proc: &Path) -> Gpu {
    let model = read(&proc.join("cpuinfo")).and_then(|text| field(&text, "model name"));
    let total = read(&proc.join("meminfo")).and_then(|text| {
        let kibibytes = field(&text, "MemTotal")?.strip_suffix("kB")?.trim().parse::<u64>().ok()?;
        kibibytes.checked_mul(1024)
    });
    let memory = match total {
        Some(total) => {
            Memory::Known { bytes: total / 2 / PIECE * PIECE, by: "half of MemTotal in /proc/meminfo".to_owned() }
        }
        None => Memory::Unknown { why: "/proc/meminfo says no MemTotal".to_owned() },
    };
    Gpu {
        id: "software".to_owned(),
        name: model.map_or("the processor".to_owned(), |model| format!("the processor ({model})")),
        node: None,
        driver: None,
        memory,
        says_time: false,
    }
}

/// `renderD128` and so on.
fn nodes(sys: &Path) -> Vec<String> {
    let entries = fs::read_dir(sys.join("class/drm")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut nodes: Vec<String> = names.filter(|name| name.starts_with("renderD")).take(MAX_NODES).collect();
    nodes.sort();
    nodes
}

/// What is behind a render node; `None` where nothing draws, or where the node itself is missing.
fn rendering(roots: Roots<'_>, node: &str) -> Option<Gpu> {
    let device = roots.sys.join("class/drm").join(node).join("device");
    let path = roots.dev.join("dri").join(node);
    if !path.exists() {
        return None;
    }
    let words = read(&device.join("uevent")).unwrap_or_default();
    let word = |name: &str| words.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned()));
    let driver = word("DRIVER");
    if driver.as_deref().is_some_and(|driver| NOT_DRAWING.contains(&driver)) {
        return None;
    }
    let kind = driver.as_deref().unwrap_or("no driver");
    let (id, name) = match word("PCI_SLOT_NAME") {
        Some(address) => {
            let ids = word("PCI_ID").unwrap_or_else(|| "unknown".to_owned());
            (format!("pci-{address}"), format!("{} {ids} ({kind})", vendor(&ids)))
        }
        None => {
            let name = fs::canonicalize(&device).ok()?.file_name()?.to_str()?.to_owned();
            if NOT_DRAWING.contains(&name.as_str()) {
                return None;
            }
            (format!("platform-{name}"), format!("{name} ({kind})"))
        }
    };
    let says_time = driver.as_deref().is_some_and(|driver| SAY_TIME.contains(&driver));
    Some(Gpu { memory: memory(&device, driver.as_deref()), id, name, node: Some(path), driver, says_time })
}

/// What the driver says of the memory beside the GPU. What it has of the host's is not counted.
fn memory(device: &Path, driver: Option<&str>) -> Memory {
    let known = |bytes: u64, by: &str| Memory::Known { bytes, by: format!("{by} in sysfs") };
    let unknown = |why: &str| Memory::Unknown { why: why.to_owned() };
    match driver {
        Some("amdgpu") => match number(&device.join("mem_info_vram_total")) {
            Some(bytes) => known(bytes, "mem_info_vram_total"),
            None => unknown("amdgpu says no mem_info_vram_total"),
        },
        Some("xe") => {
            let tiles = (0..8).map_while(|tile| number(&device.join(format!("tile{tile}/physical_vram_size_bytes"))));
            match tiles.fold(0, u64::saturating_add) {
                0 => unknown("xe names no memory of its own: it uses the host's"),
                bytes => known(bytes, "physical_vram_size_bytes"),
            }
        }
        Some("i915") => match cards(device).iter().find_map(|card| number(&card.join("lmem_total_bytes"))) {
            Some(bytes) => known(bytes, "lmem_total_bytes"),
            None => unknown("i915 of the kernel says nothing of memory of its own, and others use the host's"),
        },
        Some("nvidia") => unknown("NVIDIA's driver says it to its own library alone"),
        Some(other) => unknown(&format!("{other} says nothing in sysfs")),
        None => unknown("it has no driver"),
    }
    .or_unknown_when_zero()
}

impl Memory {
    fn or_unknown_when_zero(self) -> Memory {
        match self {
            Memory::Known { bytes: 0, by } => Memory::Unknown { why: format!("{by} says 0: it uses the host's") },
            other => other,
        }
    }
}

/// The other DRM nodes of a device: `card0`.
fn cards(device: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(device.join("drm")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn vendor(ids: &str) -> &'static str {
    match ids.split(':').next() {
        Some("1002") => "AMD",
        Some("10DE") => "NVIDIA",
        Some("8086") => "Intel",
        Some("1AF4") => "virtio",
        _ => "PCI",
    }
}

/// `name : value` of `/proc`'s files.
fn field(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn number(path: &Path) -> Option<u64> {
    read(path)?.trim().parse().ok()
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    fs::File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host's facts, in a folder.
    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Host {
            let host = Host(tempfile::tempdir().unwrap());
            host.write("proc/meminfo", "MemFree: 1 kB\nMemTotal:       16384000 kB\nMemAvailable:   1000 kB\n");
            host.write(
                "proc/cpuinfo",
                "processor\t: 0\nmodel name\t: Acme 9000\nprocessor\t: 1\nmodel name\t: other\n",
            );
            host
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// A render node at a device of this name.
        fn node(&self, number: u32, device: &str, uevent: &str) -> String {
            let folder = format!("sys/devices/{device}");
            self.write(&format!("{folder}/uevent"), uevent);
            self.write(&format!("dev/dri/renderD{number}"), "");
            let node = self.0.path().join(format!("sys/class/drm/renderD{number}"));
            fs::create_dir_all(&node).unwrap();
            std::os::unix::fs::symlink(self.0.path().join(&folder), node.join("device")).unwrap();
            folder
        }

        fn pci(&self, number: u32, address: &str, driver: &str, ids: &str) -> String {
            let uevent = format!("DRIVER={driver}\nPCI_CLASS=30000\nPCI_ID={ids}\nPCI_SLOT_NAME={address}\n");
            self.node(number, address, &uevent)
        }

        fn find(&self) -> Vec<Gpu> {
            let root = self.0.path();
            find(Roots { sys: &root.join("sys"), proc: &root.join("proc"), dev: &root.join("dev") })
        }
    }

    #[test]
    fn every_host_has_its_processor_and_half_of_its_memory() {
        let gpus = Host::new().find();
        assert_eq!(gpus.len(), 1);
        assert_eq!((gpus[0].id.as_str(), gpus[0].name.as_str()), ("software", "the processor (Acme 9000)"));
        assert_eq!(gpus[0].memory.bytes(), 16_384_000 * 512 / PIECE * PIECE);
        let empty = find(Roots { sys: Path::new("/none"), proc: Path::new("/none"), dev: Path::new("/none") });
        assert!(matches!(empty[0].memory, Memory::Unknown { .. }));
    }

    #[test]
    fn drivers_that_say_how_much_memory_there_is_are_believed() {
        let host = Host::new();
        let folder = host.pci(128, "0000:03:00.0", "amdgpu", "1002:73BF");
        host.write(&format!("{folder}/mem_info_vram_total"), "17163091968\n");
        let folder = host.pci(129, "0000:04:00.0", "xe", "8086:E20B");
        host.write(&format!("{folder}/tile0/physical_vram_size_bytes"), "8000000000\n");
        host.write(&format!("{folder}/tile1/physical_vram_size_bytes"), "4000000000\n");
        let folder = host.pci(130, "0000:05:00.0", "i915", "8086:56A0");
        host.write(&format!("{folder}/drm/card2/lmem_total_bytes"), "16000000000\n");
        let gpus = host.find();
        let facts: Vec<_> = gpus[1..].iter().map(|gpu| (gpu.id.as_str(), gpu.memory.bytes(), gpu.says_time)).collect();
        assert_eq!(
            facts,
            [
                ("pci-0000:03:00.0", 17_163_091_968, true),
                ("pci-0000:04:00.0", 12_000_000_000, true),
                ("pci-0000:05:00.0", 16_000_000_000, true)
            ]
        );
        assert_eq!(gpus[1].name, "AMD 1002:73BF (amdgpu)");
        assert!(gpus[1].node.as_ref().unwrap().ends_with("dev/dri/renderD128"));
    }

    #[test]
    fn what_nobody_says_is_unknown_and_why_is_told() {
        let host = Host::new();
        host.pci(128, "0000:01:00.0", "nvidia", "10DE:2684");
        host.pci(129, "0000:00:02.0", "i915", "8086:46A6");
        let folder = host.pci(130, "0000:06:00.0", "amdgpu", "1002:15E7");
        host.write(&format!("{folder}/mem_info_vram_total"), "many\n");
        let folder = host.pci(131, "0000:07:00.0", "amdgpu", "1002:15E7");
        host.write(&format!("{folder}/mem_info_vram_total"), "0\n");
        host.pci(132, "0000:08:00.0", "virtio-pci", "1AF4:1050");
        for gpu in &host.find()[1..] {
            let Memory::Unknown { why } = &gpu.memory else { panic!("{gpu:?}") };
            assert!(!why.is_empty());
        }
        assert!(!host.find().iter().any(|gpu| gpu.driver.as_deref() == Some("nvidia") && gpu.says_time));
    }

    #[test]
    fn a_device_that_is_not_on_pci_is_known_by_its_name() {
        let host = Host::new();
        host.node(128, "platform/fb000000.gpu", "DRIVER=panthor\nOF_NAME=gpu\n");
        let gpus = host.find();
        assert_eq!((gpus[1].id.as_str(), gpus[1].says_time), ("platform-fb000000.gpu", true));
    }

    #[test]
    fn what_draws_nothing_and_what_has_no_node_is_left_out_and_two_nodes_are_one_gpu() {
        let host = Host::new();
        host.node(128, "platform/vgem", "MODALIAS=platform:vgem\n");
        host.pci(129, "0000:03:00.0", "amdgpu", "1002:73BF");
        host.pci(130, "0000:03:00.0", "amdgpu", "1002:73BF");
        host.pci(131, "0000:04:00.0", "amdgpu", "1002:73BF");
        fs::remove_file(host.0.path().join("dev/dri/renderD131")).unwrap();
        fs::create_dir_all(host.0.path().join("sys/class/drm/renderD132")).unwrap();
        host.write("sys/class/drm/version", "drm 1.1.0 20060810");
        let ids: Vec<_> = host.find().into_iter().map(|gpu| gpu.id).collect();
        assert_eq!(ids, ["software", "pci-0000:03:00.0"]);
    }
}
