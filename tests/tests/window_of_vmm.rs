//! QEMU's own window: it owns the heads of vhost-user-gpu-pci, and a person pulls at it.

use anyhow::{Result, bail};
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::xserver::XServer;
use tests::{Config, Device, Gpu, Guest};

#[test]
fn a_head_takes_the_size_of_qemus_window() -> Result<()> {
    let server = XServer::start("1920x1440")?;
    let device = Device::spawn(&["--display", "vmm"])?;
    let pid = device.id();
    let mut guest = Guest::boot(Config::mini().window(&server).gpu(Gpu::vhost_user_gpu(&device)))?;
    let window = server.window("QEMU")?;
    let first = guest.show(0, 1280, 800)?;
    guest.assert_shown(&device, 0, &first)?;
    first.wait_until_shown(|| server.capture(Some(window)))?;

    for (width, height) in [(1024, 768), (1600, 1200), (803, 607)] {
        server.hand(&format!("windowmove {window} 0 0 windowsize --sync {window} {width} {height}"))?;
        wait_until(PATIENCE, &format!("the mode {width}x{height}"), || {
            if !guest.qemu().is_running() {
                bail!("QEMU ended:\n{}", guest.qemu().log_tail());
            }
            let heads = guest.heads()?;
            Ok(heads[0].modes.first().is_some_and(|mode| (mode.0, mode.1) == (width, height)).then_some(()))
        })?;
        let picture = guest.show(0, width, height)?;
        guest.assert_shown(&device, 0, &picture)?;
        // QEMU's window shows a surface whose size it has already from the second change on.
        let flipped = guest.flip(0)?;
        guest.assert_shown(&device, 0, &flipped)?;
        flipped.wait_until_shown(|| server.capture(Some(window)))?;
    }
    server.keep("window_of_vmm.png")?;
    assert_eq!(device.id(), pid);
    guest.power_off()
}
