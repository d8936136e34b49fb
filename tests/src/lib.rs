//! Real guests under QEMU, and the API that makes a guest test five lines.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use tests::{Config, Device, Gpu, Guest};
//! let device = Device::spawn(&["--display", "vmm"])?;
//! let mut guest = Guest::boot(Config::mini().gpu(Gpu::vhost_user_gpu(&device)))?;
//! assert!(guest.run("dmesg")?.text().contains("virtio_gpu"));
//! guest.screen()?.save("screen.png".as_ref())?;
//! # Ok(())
//! # }
//! ```
//!
//! - [`bed`] makes what a guest needs: a cached Debian tree with QEMU, a kernel and the programs that tests use.
//! - [`guest`] boots one and talks to the agent inside.
//! - [`device`] starts the program under test.
//! - [`manager`] starts vGPUs as a host's manager does.
//! - [`scene`] has a GPU draw, in a guest and on the host.
//! - [`stage`] is a device without a guest, for tests of what people see and do.
//! - [`xserver`] is a desktop for a viewer's windows.
//!
//! Whatever is started here dies with the value that stands for it, and with the test process, however that ends.

pub mod bed;
pub mod browser;
pub mod device;
pub mod disk;
pub mod guest;
pub mod libvirt;
pub mod manager;
pub mod picture;
pub mod process;
pub mod progress;
pub mod scene;
pub mod stage;
pub mod token;
pub mod vnc;
pub mod workspace;
pub mod xserver;

pub use device::Device;
pub use disk::Disk;
pub use guest::{Accel, Config, Firmware, Gpu, Guest, Input, Private, Watch};
pub use guest_agent::{Draw, Head, InputDevice, InputEvent};
pub use manager::Manager;
pub use picture::Picture;
pub use scene::Scene;
pub use token::Token;
