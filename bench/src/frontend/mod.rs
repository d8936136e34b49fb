//! A vhost-user front-end that plays both the VMM and the guest's driver of a virtio-gpu.
//!
//! It does what QEMU does (see [`Kind`]) unless it is told to misbehave: every layer under [`FrontEnd`] can be used by
//! itself, and says whatever bytes it is given.
//!
//! ```no_run
//! use bench::frontend::{FrontEnd, Options, command};
//!
//! # fn main() -> bench::frontend::Result<()> {
//! let (mut guest, _display) = FrontEnd::ready("/run/gpu.sock".as_ref(), Options::default())?;
//! let reply = guest.command(&command::create_2d(1, command::FORMAT_B8G8R8X8, 640, 480))?;
//! assert!(reply.is_ok());
//! # Ok(())
//! # }
//! ```

pub mod command;
mod driver;
mod error;
pub mod evdev;
mod memory;
pub mod message;
mod options;
pub mod ring;
mod session;
pub mod vfio_user;
pub mod vmm_display;

pub use command::{Command, Reply};
pub use driver::Driver;
pub use error::{Error, Result};
pub use evdev::{EventRoom, InputDriver, InputEvent};
pub use memory::{Memory, Region, USER_OFFSET};
pub use message::{Channel, Message};
pub use options::{Kind, Options, feature};
pub use ring::{Abandon, Buffer, Descriptor, Layout, Queue, Signals, Used, Wait};
pub use session::FrontEnd;
pub use vfio_user::PciGuest;
pub use vmm_display::{Canvas, Shown, VmmDisplay};
