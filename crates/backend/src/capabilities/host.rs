//! What of this host decides about 3D, besides the library: the kernel, the GPU's device files and the rights on them.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::rights;

/// The memory that a software driver, or a guest's own pages, are shown by.
const UDMABUF: &str = "/dev/udmabuf";

/// What was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// The kernel's release.
    pub kernel: String,
    /// Render nodes of GPUs.
    pub nodes: Vec<PathBuf>,
    /// The one that was asked for.
    pub node: Option<PathBuf>,
    /// Why it cannot be used, if it cannot.
    pub node_refused: Option<String>,
    /// Its kernel driver.
    pub driver: Option<String>,
    /// The version of NVIDIA's driver, where there is one.
    pub nvidia: Option<String>,
    /// Whether the processor is of Intel's.
    pub intel: bool,
    /// Whether the GPU is a card of its own, so far as its place tells.
    pub discrete: bool,
    /// Why /dev/udmabuf cannot be used, if it cannot.
    pub udmabuf_refused: Option<String>,
}

impl Host {
    /// Looks.
    pub fn look(node: Option<&Path>) -> Self {
        let device = node.and_then(Path::file_name).map(|name| Path::new("/sys/class/drm").join(name).join("device"));
        let driver = device.as_ref().and_then(|device| device.join("driver").read_link().ok());
        let text = |path: &Path| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        Host {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            nodes: render_nodes(),
            node: node.map(Path::to_owned),
            node_refused: node.and_then(refused),
            driver: driver.and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned())),
            nvidia: text(Path::new("/sys/module/nvidia/version")),
            intel: text(Path::new("/proc/cpuinfo")).is_some_and(|text| text.contains("GenuineIntel")),
            discrete: device.and_then(|device| device.canonicalize().ok()).is_some_and(|device| is_discrete(&device)),
            udmabuf_refused: udmabuf(),
        }
    }

    /// What Mesa's documentation says a VM with KVM needs of the kernel for Vulkan, where this host does not have it.
    pub fn kernel_rules(&self) -> Vec<String> {
        let (newest, cost) = (version(&self.kernel), "a guest under KVM may fail to map memory of Vulkan");
        let older = |than: (u32, u32)| newest.is_some_and(|version| version < than);
        let mut rules = Vec::new();
        match self.driver.as_deref() {
            Some("amdgpu") if older((6, 13)) => {
                rules.push(format!("Linux {} is older than 6.13, which AMD's GPUs need: {cost}", self.kernel));
            }
            Some("nvidia") if self.nvidia.as_deref().and_then(version).is_some_and(|version| version < (570, 86)) => {
                let version = self.nvidia.as_deref().unwrap_or_default();
                rules.push(format!("NVIDIA's driver {version} is older than 570.86: {cost}"));
            }
            _ => {}
        }
        let known_discrete = self.discrete || self.driver.as_deref() == Some("nvidia");
        if self.intel && known_discrete && older((6, 16)) {
            rules.push(format!(
                "Linux {} is older than 6.16, which a GPU with memory of its own needs beside a processor of Intel's \
                 (or a patched 6.11): {cost}",
                self.kernel
            ));
        }
        rules
    }
}

/// Beside a processor of Intel's, to which alone this matters, its own GPU is on the first bus, and cards are behind bridges.
fn is_discrete(device: &Path) -> bool {
    let bus = device.file_name().and_then(|name| name.to_str()?.split(':').nth(1));
    bus.is_some_and(|bus| bus != "00")
}

/// All render nodes, in order.
pub fn render_nodes() -> Vec<PathBuf> {
    let entries = Path::new("/dev/dri").read_dir().into_iter().flatten().flatten();
    let mut nodes: Vec<_> = entries.map(|entry| entry.path()).filter(|path| is_node(path)).collect();
    nodes.sort();
    nodes
}

fn is_node(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("renderD"))
}

fn refused(path: &Path) -> Option<String> {
    let result = access(path, Access::READ_OK | Access::WRITE_OK);
    result.err().map(|error| rights::explain_device(error.into(), path).to_string())
}

/// It is opened, not looked at: only that tells.
fn udmabuf() -> Option<String> {
    let error = std::fs::File::options().read(true).write(true).open(UDMABUF).err()?;
    Some(match error.kind() {
        std::io::ErrorKind::NotFound => "there is none; load it: sudo modprobe udmabuf".to_owned(),
        _ => rights::explain_device(error, Path::new(UDMABUF)).to_string(),
    })
}

/// The first two numbers.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(kernel: &str, driver: &str) -> Host {
        Host { kernel: kernel.to_owned(), driver: Some(driver.to_owned()), ..Host::default() }
    }

    #[test]
    fn an_old_kernel_is_told_with_the_release_that_is_needed() {
        assert!(host("6.12.48+deb13-amd64", "amdgpu").kernel_rules()[0].contains("6.13"));
        assert!(host("6.13.0", "amdgpu").kernel_rules().is_empty());
        assert!(host("6.1.0", "i915").kernel_rules().is_empty());
        let discrete = Host { intel: true, discrete: true, ..host("6.15.9", "amdgpu") };
        assert!(discrete.kernel_rules().len() == 1 && discrete.kernel_rules()[0].contains("6.16"));
        let nvidia = |version: &str| Host { nvidia: Some(version.to_owned()), ..host("6.19.0", "nvidia") };
        assert!(nvidia("570.86.16").kernel_rules().is_empty());
        assert!(nvidia("565.77").kernel_rules()[0].contains("570.86"));
    }

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(version("6.9.0-rc1"), Some((6, 9)));
        assert!(version("6.9.0").unwrap() < version("6.13").unwrap());
        assert_eq!(version("next"), None);
    }

    #[test]
    fn a_card_is_told_by_its_bus() {
        assert!(is_discrete(Path::new("/sys/devices/pci0000:00/0000:00:01.0/0000:03:00.0")));
        assert!(!is_discrete(Path::new("/sys/devices/pci0000:00/0000:00:02.0")));
        assert!(!is_discrete(Path::new("/sys/devices/platform/vgem")));
    }

    #[test]
    fn only_render_nodes_are_such() {
        assert!(is_node(Path::new("/dev/dri/renderD128")) && !is_node(Path::new("/dev/dri/card0")));
    }
}
