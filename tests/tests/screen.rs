//! A guest sees its screen, and so do we: QEMU's own vhost-user display devices.

use anyhow::Result;
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::{Config, Device, Draw, Gpu, Guest};

#[test]
fn vhost_user_gpu_pci_shows_the_guests_pictures_also_after_reboots_and_to_the_next_guest() -> Result<()> {
    let device = Device::spawn(&["--display", "vmm"])?;
    let mut guest = Guest::boot(Config::mini().gpu(Gpu::vhost_user_gpu(&device)))?;

    // The kernel's console comes first, before anything of ours draws.
    assert!(guest.screen()?.colours() > 1, "The console is blank");
    assert!(guest.run("dmesg")?.text().contains("virtio_gpu"));
    guest.assert_pictures_are_shown(&device)?;
    let smaller = guest.show(0, 800, 600)?;
    guest.assert_shown(&device, 0, &smaller)?;
    guest.draw(Draw::Animate)?;
    guest.wait_until_moving(&device)?;

    guest.reboot()?;
    guest.assert_pictures_are_shown(&device)?;
    guest.reset()?;
    guest.assert_pictures_are_shown(&device)?;
    guest.power_off()?;

    // The device goes on and serves the next virtual machine.
    let mut next = Guest::boot(Config::mini().gpu(Gpu::vhost_user_gpu(&device)))?;
    next.assert_pictures_are_shown(&device)
}

#[test]
fn vhost_user_vga_shows_the_text_screen_and_then_the_guests_pictures() -> Result<()> {
    let device = Device::spawn(&["--display", "vmm"])?;
    // No display driver: the kernel's text screen (vgacon) on the VGA half of the device.
    let mut guest = Guest::boot(Config::mini().modules(&[]).real_mode().gpu(Gpu::vhost_user_vga(&device)))?;
    let text = guest.screen()?;
    assert_eq!(text.size(), (720, 400), "Not a text screen");
    assert!(text.colours() > 1, "The text screen is blank");
    guest.run("echo; echo; echo changed > /dev/tty1")?;
    wait_until(PATIENCE, "the text to change", || Ok((guest.screen()? != text).then_some(())))?;

    guest.run("for module in /modules/gpu/*.ko; do insmod $module || exit 1; done")?;
    guest.assert_pictures_are_shown(&device)
}
