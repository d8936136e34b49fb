//! The test bed: a Debian 13 tree with a current QEMU, a kernel and what the tests run, made once and kept.
//!
//! Nothing here needs root: packages come by a private apt state ([`apt`]), are unpacked into a tree ([`tree`]) and run
//! from there ([`run`]), the same way for root and for an ordinary user, on Debian 12 and 13.
//! There are several trees, so that a demo waits only for the smallest:
//!
//! | tree | holds | for |
//! |---|---|---|
//! | [`linux`] | kernel, busybox | every guest |
//! | [`vm`] | QEMU, firmware | every guest, unless a demo takes the host's QEMU |
//! | [`boot`] | GRUB, memtest86+ | guests that UEFI firmware starts |
//! | [`vm_window`] | QEMU with a window | tests of that window |
//! | [`tools`] | libvirt, a browser, VNC clients, edid-decode, QEMU's own GPU daemon | tests, bench |
//! | [`page`] | noVNC | every device with a web page |
//! | [`desktop`] | weston, Xorg, modetest | guests with a desktop, as a disk image |
//! | [`mesa`] | OpenGL and Vulkan in software, virglrenderer, programs that draw | renderers of tests, and as a disk guests that draw |
//! | [`service_disk`] | systemd, udev | as a disk on top of that of [`mesa`]: hosts in guests |
//! | [`window`] | Xvfb, a window manager, weston, what a viewer's window loads | a window on a host's desktop |
//!
//! Each lies under `target/bed/NAME-KEY`, where KEY is made of its inputs, and is built in another folder and renamed,
//! under a file lock: an interrupted build is never taken for a finished one, and two tests never build the same.

pub mod apt;
pub mod cache;
pub mod image;
pub mod kernel;
pub mod run;
pub mod tree;

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Result;

pub use tree::Tree;

/// A list of packages that becomes a tree.
pub struct Layer {
    /// The tree's name.
    pub name: &'static str,
    /// Packages that come with all they depend on.
    pub packages: &'static [&'static str],
    /// Packages that depend on too much: of each (and of what it depends on) only the files whose package name begins
    /// with one of these words are unpacked.
    pub only: &'static [(&'static str, &'static [&'static str])],
    /// Files that are left out, as tar takes patterns: `./usr/lib/*/libbig.so*`.
    pub without: &'static [&'static str],
}

/// A layer of nothing, for what others leave out.
const EMPTY: Layer = Layer { name: "", packages: &[], only: &[], without: &[] };

/// A kernel with its modules, busybox, what the initramfs needs.
pub const LINUX: Layer = Layer {
    name: "linux",
    packages: &["busybox-static", "e2fsprogs", "fonts-dejavu-core"],
    only: &[("linux-image-amd64", &["linux-image-", "linux-binary-", "linux-modules-"])],
    ..EMPTY
};

/// QEMU with its firmware.
pub const VM: Layer = Layer { name: "vm", packages: &["qemu-system-x86", "seabios", "ovmf"], ..EMPTY };

/// What UEFI firmware starts: a boot loader with its font, a program without an operating system.
pub const BOOT: Layer = Layer {
    name: "boot",
    only: &[("grub-efi-amd64-unsigned", &["grub-efi-amd64-unsigned", "grub-common"]), ("memtest86+", &["memtest86+"])],
    ..EMPTY
};

/// What the web page is made of.
pub const PAGE: Layer = Layer { name: "page", only: &[("novnc", &["novnc"])], ..EMPTY };

/// What the tests run on the host.
pub const TOOLS: Layer = Layer {
    name: "tools",
    packages: &[
        "base-files",
        "base-passwd",
        "bash",
        "chromium-headless-shell",
        "coreutils",
        "dash",
        "edid-decode",
        "fonts-dejavu-core",
        "gvncviewer",
        "libepoxy0",
        "libgbm1",
        "libvirglrenderer1",
        "libvirt-clients",
        "libvirt-daemon",
        "libvirt-daemon-driver-qemu",
        "ovmf",
        "procps",
        "qemu-system-x86",
        "seabios",
        "tigervnc-viewer",
        "util-linux",
        "xvfb",
    ],
    only: &[("qemu-system-gui", &["qemu-system-gui"])],
    ..EMPTY
};

/// A desktop for a viewer's window: X servers, a window manager, a Wayland compositor, a hand to type and point, and the
/// libraries that the window loads.
pub const WINDOW: Layer = Layer {
    name: "window",
    packages: &[
        "base-files",
        "base-passwd",
        "bash",
        "coreutils",
        "dash",
        "libx11-xcb1",
        "libxcursor1",
        "libxi6",
        "libxkbcommon-x11-0",
        "openbox",
        "weston",
        "x11-xserver-utils",
        "xdotool",
        "xkb-data",
        "xvfb",
    ],
    ..EMPTY
};

/// QEMU with a window of its own, and OpenGL in software, which it wants for that.
pub const VM_WINDOW: Layer = Layer {
    name: "vm-window",
    packages: &[
        "base-files",
        "bash",
        "coreutils",
        "dash",
        "libegl-mesa0",
        "libegl1",
        "libepoxy0",
        "libgbm1",
        "libgl1",
        "libgl1-mesa-dri",
        "libsdl2-2.0-0",
        "libvirglrenderer1",
        "qemu-system-x86",
        "seabios",
    ],
    only: &[("qemu-system-gui", &["qemu-system-gui", "qemu-system-modules-opengl"])],
    ..EMPTY
};

/// What a guest with a desktop runs.
pub const DESKTOP: Layer = Layer {
    name: "desktop",
    packages: &[
        "base-files",
        "base-passwd",
        "bash",
        "coreutils",
        "dash",
        "dmz-cursor-theme",
        "fonts-dejavu-core",
        "grep",
        "kmod",
        "libdrm-tests",
        "mawk",
        "mesa-libgallium",
        "mount",
        "procps",
        "seatd",
        "sed",
        "udev",
        "util-linux",
        "weston",
        "x11-utils",
        "x11-xserver-utils",
        "xkb-data",
        "xserver-xorg-core",
        "xserver-xorg-input-libinput",
        "xterm",
    ],
    ..EMPTY
};

/// OpenGL and Vulkan in software, what renders for guests, and the programs that draw: the same tree on the host and, as a disk,
/// in a guest.
pub const MESA: Layer = Layer {
    name: "mesa",
    packages: &[
        "base-files",
        "base-passwd",
        "bash",
        "coreutils",
        "dash",
        "glmark2-es2-drm",
        "grep",
        "kmscube",
        "libegl-mesa0",
        "libegl1",
        "libepoxy0",
        "libgbm1",
        "libgl1",
        "libgl1-mesa-dri",
        "libgles2",
        "libvirglrenderer1",
        "libvulkan1",
        "mesa-utils-bin",
        "mesa-vulkan-drivers",
        "virgl-server",
        "vkmark",
        "vulkan-tools",
    ],
    // Drivers of hardware that no guest of ours and no test has.
    without: &[
        "./usr/lib/*/libvulkan_asahi.so",
        "./usr/lib/*/libvulkan_broadcom.so",
        "./usr/lib/*/libvulkan_freedreno.so",
        "./usr/lib/*/libvulkan_gfxstream.so",
        "./usr/lib/*/libvulkan_intel*.so",
        "./usr/lib/*/libvulkan_nouveau.so",
        "./usr/lib/*/libvulkan_panfrost.so",
        "./usr/lib/*/libvulkan_powervr_mesa.so",
        "./usr/lib/*/libvulkan_radeon.so",
        "./usr/share/vulkan/icd.d/[abfginpr]*",
        "./usr/share/i18n/*",
        "./usr/lib/locale/*",
    ],
    ..EMPTY
};

/// What makes a host of a guest that has [`MESA`]: it lies on top of that.
pub const SERVICE: Layer = Layer {
    name: "service",
    packages: &["systemd", "udev"],
    // What a boot would spend time on that nobody looks at: a translated processor has a second for each of these.
    without: &[
        "./usr/lib/systemd/boot/*",
        "./usr/lib/systemd/catalog/*",
        "./usr/lib/systemd/system/*.wants/*.automount",
        "./usr/lib/systemd/system/*.wants/*.mount",
        "./usr/lib/systemd/system/*.wants/*.timer",
        "./usr/lib/systemd/system/*.wants/getty*",
        "./usr/lib/systemd/system/*.wants/kmod*",
        "./usr/lib/systemd/system/*.wants/ldconfig*",
        "./usr/lib/systemd/system/*.wants/systemd-[abcfhiklpr]*",
        "./usr/lib/systemd/system/*.wants/systemd-journal-*",
        "./usr/lib/systemd/system/*.wants/systemd-machine-id*",
        "./usr/lib/systemd/system/*.wants/systemd-sysext*",
        "./usr/lib/systemd/system/*.wants/systemd-tpm2*",
        "./usr/lib/systemd/system/*.wants/systemd-up*",
        "./usr/lib/systemd/system/*.wants/systemd-user*",
        "./usr/lib/udev/hwdb.d/*",
        "./usr/lib/udev/rules.d/[6-9]*",
    ],
    ..EMPTY
};

/// The tree with the kernel.
pub fn linux() -> Result<&'static Tree> {
    static TREE: OnceLock<Result<Tree, String>> = OnceLock::new();
    once(&TREE, || tree::ensure(&LINUX))
}

/// The tree with QEMU.
pub fn vm() -> Result<&'static Tree> {
    static TREE: OnceLock<Result<Tree, String>> = OnceLock::new();
    once(&TREE, || tree::ensure(&VM))
}

/// The tree with boot loaders.
pub fn boot() -> Result<&'static Tree> {
    static TREE: OnceLock<Result<Tree, String>> = OnceLock::new();
    once(&TREE, || tree::ensure(&BOOT))
}

/// The tree with a QEMU that has a window.
pub fn vm_window() -> Result<&'static Tree> {
    static TREE: OnceLock<Result<Tree, String>> = OnceLock::new();
    once(&TREE, || tree::ensure(&VM_WINDOW))
}

/// The tree with noVNC.
pub fn page() -> Result<&'static Tree> {
    static TREE: OnceLock<Result<Tree, String>> = OnceLock::new();
    once(&TREE, || tree::ensure(&PAGE))
}

/// The tree of programs that tests run beside a guest.
pub fn tools() -> Result<&'static Tree> {
    static TREE: OnceLock<Result<Tree, String>> = OnceLock::new();
    once(&TREE, || tree::ensure(&TOOLS))
}

/// The tree with desktops for a window.
pub fn window() -> Result<&'static Tree> {
    static TREE: OnceLock<Result<Tree, String>> = OnceLock::new();
    once(&TREE, || tree::ensure(&WINDOW))
}

/// The kernel that guests boot.
pub fn kernel() -> Result<&'static PathBuf> {
    static KERNEL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&KERNEL, || kernel::unpacked(linux()?))
}

/// An initramfs with the agent, busybox and these groups of modules.
pub fn initramfs(groups: &[&str]) -> Result<PathBuf> {
    static AGENT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    image::initramfs(linux()?, once(&AGENT, image::agent)?, groups)
}

/// The disk image of guests with a desktop.
pub fn desktop() -> Result<&'static PathBuf> {
    static IMAGE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&IMAGE, || image::desktop(linux()?, &DESKTOP))
}

/// The tree with OpenGL and Vulkan.
pub fn mesa() -> Result<&'static Tree> {
    static TREE: OnceLock<Result<Tree, String>> = OnceLock::new();
    once(&TREE, || tree::ensure(&MESA))
}

/// The same as a disk image.
pub fn mesa_disk() -> Result<&'static PathBuf> {
    static IMAGE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&IMAGE, || image::of_tree(linux()?, &MESA, mesa()?))
}

/// The disk image of systemd, for guests that have the one of [`mesa_disk`] too.
pub fn service_disk() -> Result<&'static PathBuf> {
    static IMAGE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&IMAGE, || image::desktop(linux()?, &SERVICE))
}

/// Makes what is there only once a process, and tells everybody the same error when it cannot be made.
fn once<T>(cell: &'static OnceLock<Result<T, String>>, make: impl FnOnce() -> Result<T>) -> Result<&'static T> {
    let made = cell.get_or_init(|| make().map_err(|error| format!("{error:#}")));
    made.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}
