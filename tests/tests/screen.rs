//! A guest sees its screen, and so do we: QEMU's own vhost-user display devices.

use anyhow::Result;
use tests::{Config, Device, Draw, Gpu, Guest};

/// Pictures that only the guest knows, changed in every way, against what QEMU shows and what the device shows.
fn the_guests_pictures_are_shown(guest: &mut Guest, device: &Device) -> Result<()> {
    let heads = guest.heads()?;
    assert!(heads[0].connected, "{heads:?}");
    assert_eq!(heads[0].edid.len() % 128, 0);
    assert!(!heads[0].edid.is_empty(), "No EDID reached the guest");
    let (width, height, _) = heads[0].modes[0];

    let first = guest.show(0, width, height)?;
    guest.assert_shows(0, &first)?;
    device.assert_shows(&first)?;
    let second = guest.damage(0, [17, 33, 251, 127])?;
    assert_ne!(first, second);
    guest.assert_shows(0, &second)?;
    device.assert_shows(&second)?;
    let third = guest.flip(0)?;
    assert_ne!(second, third);
    guest.assert_shows(0, &third)?;
    device.assert_shows(&third)?;
    let smaller = guest.show(0, 800, 600)?;
    guest.assert_shows(0, &smaller)?;
    device.assert_shows(&smaller)
}

#[test]
fn vhost_user_gpu_pci_shows_the_guests_pictures_also_after_a_reboot() -> Result<()> {
    let device = Device::spawn(&["--display", "vmm"])?;
    let pid = device.id();
    let mut guest = Guest::boot(Config::mini().gpu(Gpu::vhost_user_gpu(&device)))?;

    // The kernel's console comes first, before anything of ours draws.
    let console = guest.screen()?;
    assert!(console.colours() > 1, "The console is blank: {console:?}");
    assert!(guest.run("dmesg")?.text().contains("virtio_gpu"));
    the_guests_pictures_are_shown(&mut guest, &device)?;

    guest.draw(Draw::Animate)?;
    let before = guest.screen()?;
    tests::process::wait_until(20, "the picture to move", || Ok((guest.screen()? != before).then_some(())))?;

    guest.reboot()?;
    the_guests_pictures_are_shown(&mut guest, &device)?;
    guest.reset()?;
    the_guests_pictures_are_shown(&mut guest, &device)?;
    assert_eq!(device.id(), pid);
    guest.power_off()?;

    // The device goes on and serves the next virtual machine.
    let mut next = Guest::boot(Config::mini().gpu(Gpu::vhost_user_gpu(&device)))?;
    the_guests_pictures_are_shown(&mut next, &device)
}

#[test]
fn vhost_user_vga_shows_the_text_screen_and_then_the_guests_pictures() -> Result<()> {
    let device = Device::spawn(&["--display", "vmm"])?;
    // No display driver: the kernel's text screen (vgacon) on the VGA half of the device.
    let mut guest = Guest::boot(Config::mini().modules(&[]).gpu(Gpu::vhost_user_vga(&device)))?;
    let text = guest.screen()?;
    assert_eq!(text.size(), (720, 400), "Not a text screen");
    assert!(text.colours() > 1, "The text screen is blank");
    guest.run("echo; echo; echo changed > /dev/tty1")?;
    tests::process::wait_until(20, "the text to change", || Ok((guest.screen()? != text).then_some(())))?;

    guest.run("for module in /modules/gpu/*.ko; do insmod $module || exit 1; done")?;
    the_guests_pictures_are_shown(&mut guest, &device)
}
