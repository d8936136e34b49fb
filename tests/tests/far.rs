//! A guest whose memory is not shared: slow, but right.

use anyhow::{Result, ensure};
use tests::{Config, Device, Draw, Gpu, Guest, Private};

#[test]
fn a_guest_whose_memory_is_not_shared_shows_its_pictures_and_is_told_once_what_to_add() -> Result<()> {
    let mut device = Device::spawn_vfio_user("vga", &["--display", "none"])?;
    let memory = |kind| Config::mini().private_memory(kind);
    let mut guest = Guest::boot(memory(Private::Anonymous).gpu(Gpu::vfio_user(&device)))?;
    guest.assert_pictures_are_shown(&device)?;
    let smaller = guest.show(0, 640, 480)?;
    guest.assert_shown(&device, 0, &smaller)?;
    guest.draw(Draw::Cursor { head: 0, hot: [1, 2], at: [30, 40] })?;
    guest.draw(Draw::HideCursor { head: 0 })?;
    guest.reboot()?;
    guest.assert_pictures_are_shown(&device)?;
    let log = guest.run("dmesg")?.text();
    ensure!(!log.contains("*ERROR*"), "The driver's commands failed:\n{log}");
    let log = device.process().log_tail();
    assert_eq!(log.matches("share=on").count(), 1, "{log}");
    guest.power_off()?;

    // As a file that is not the guest's memory, the device is not deceived.
    let mut guest = Guest::boot(memory(Private::File).gpu(Gpu::vfio_user(&device)))?;
    guest.assert_pictures_are_shown(&device)?;
    let log = device.process().log_tail();
    assert_eq!(log.matches("share=on").count(), 2, "{log}");
    guest.power_off()
}
