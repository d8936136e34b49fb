//! A whole PCI card over vfio-user, as Linux sees it.

use anyhow::{Context, Result, ensure};
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::{Config, Device, Draw, Gpu, Guest};

/// The folder of the PCI device of this kind, as in `0x1af4:0x1050`.
fn pci_device(guest: &mut Guest, kind: &str) -> Result<String> {
    let find =
        "for device in /sys/bus/pci/devices/*; do echo $device $(cat $device/vendor):$(cat $device/device); done";
    let devices = guest.run(find)?.text();
    let found = devices.lines().find_map(|line| line.strip_suffix(kind));
    Ok(found.with_context(|| format!("No {kind} among\n{devices}"))?.trim().to_owned())
}

const CARD: &str = "0x1af4:0x1050";

/// A place in the framebuffer that is beyond all that firmware draws.
const UNSEEN: u64 = 15 << 20;

/// The guest's lines about interrupts of this name, and how many came.
fn interrupts(guest: &mut Guest, name: &str) -> Result<Vec<(String, u64)>> {
    let text = guest.run("cat /proc/interrupts")?.text();
    let lines = text.lines().filter(|line| line.split([' ', ',']).any(|word| word == name));
    let count = |line: &str| line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
    Ok(lines.map(|line| (line.to_owned(), count(line))).collect())
}

/// The name of the virtio device under a PCI device.
fn virtio_name(guest: &mut Guest, device: &str) -> Result<String> {
    Ok(guest.run(&format!("cd {device} && ls -d virtio*"))?.text())
}

/// The bytes of the framebuffer that the device has looked at.
fn boot_bytes(device: &Device) -> Result<u64> {
    let stats = device.stats()?;
    stats["device"]["boot_bytes"].as_u64().with_context(|| format!("No counter in {stats}"))
}

/// Without commands that failed, and without a fault of ours.
fn assert_no_faults(guest: &mut Guest, device: &Device) -> Result<()> {
    let log = guest.run("dmesg")?.text();
    ensure!(!log.contains("*ERROR*"), "The driver's commands failed:\n{log}");
    let stats = device.stats()?;
    ensure!(stats["device"]["errors"] == 0 && stats["device"]["panics"] == 0, "{stats}");
    Ok(())
}

#[test]
fn a_vga_card_serves_virtio_gpu_with_messages_through_resets_and_the_next_vm_sees_nothing_of_the_one_before()
-> Result<()> {
    let device = Device::spawn_vfio_user("vga", &["--display", "none"])?;
    let mut guest = Guest::boot(Config::mini().gpu(Gpu::vfio_user(&device)))?;
    let card = pci_device(&mut guest, CARD)?;
    assert_eq!(guest.run(&format!("cat {card}/class"))?.text(), "0x030000");
    let log = guest.run("dmesg")?.text();
    ensure!(log.contains("virtio-vga detected"), "{log}");
    guest.assert_pictures_are_shown(&device)?;

    // Messages: configuration, control, cursor.
    assert_eq!(guest.run(&format!("cat {card}/msi_irqs/*"))?.text(), ["msix"; 3].join("\n"));
    let name = virtio_name(&mut guest, &card)?;
    let control = interrupts(&mut guest, &format!("{name}-control"))?;
    ensure!(control.iter().any(|(line, count)| line.contains("MSIX") && *count > 0), "{control:?}");
    guest.draw(Draw::Cursor { head: 0, hot: [1, 2], at: [30, 40] })?;
    guest.draw(Draw::HideCursor { head: 0 })?;

    // Nobody looks at the framebuffer now.
    let before = boot_bytes(&device)?;
    guest.assert_pictures_are_shown(&device)?;
    let smaller = guest.show(0, 800, 600)?;
    guest.assert_shown(&device, 0, &smaller)?;
    assert_eq!(boot_bytes(&device)?, before);

    // The configuration interrupt: a viewer asks for another size.
    device.resize(0, 1024, 640)?;
    wait_until(PATIENCE, "the new mode", || Ok((guest.heads()?[0].modes[0].0 == 1024).then_some(())))?;
    let resized = guest.show(0, 1024, 640)?;
    guest.assert_shown(&device, 0, &resized)?;

    // Drivers come and go: of the virtio device, and of the PCI device.
    let pci = card.rsplit('/').next().unwrap_or_default().to_owned();
    for (driver, device_name) in [
        ("/sys/bus/virtio/drivers/virtio_gpu", &name),
        ("/sys/bus/pci/drivers/virtio-pci", &pci),
        ("/sys/bus/pci/drivers/virtio-pci", &pci),
    ] {
        guest.draw(Draw::Release)?;
        guest.run(&format!("echo {device_name} > {driver}/unbind; test ! -e /dev/dri/card0"))?;
        guest.run(&format!("echo {device_name} > {driver}/bind"))?;
        guest.wait_for("test -e /dev/dri/card0")?;
        guest.assert_pictures_are_shown(&device)?;
    }
    assert_no_faults(&mut guest, &device)?;

    guest.reboot()?;
    guest.assert_pictures_are_shown(&device)?;
    assert_no_faults(&mut guest, &device)?;

    // What is in the framebuffer goes with the VM, and so does the picture.
    let last = guest.show(0, 1024, 640)?;
    guest.assert_shown(&device, 0, &last)?;
    let (secret, place) = (0x5ec2_e7ed_u32, framebuffer(&mut guest)? + UNSEEN);
    guest.run(&format!("devmem {place:#x} 32 {secret:#x}"))?;
    assert_eq!(word(&mut guest, place)?, secret);
    guest.qemu().kill();
    drop(guest);
    let mut next = Guest::boot(Config::mini().machine("pc").modules(&[]).gpu(Gpu::vfio_user(&device)))?;
    ensure!(!device.screen().is_ok_and(|seen| seen == last), "The next VM shows the picture of the one before");
    let place = framebuffer(&mut next)? + UNSEEN;
    assert_eq!(word(&mut next, place)?, 0, "The next VM sees the framebuffer of the one before");
    next.run("for module in /modules/gpu/*.ko; do insmod $module || exit 1; done")?;
    next.assert_pictures_are_shown(&device)?;
    assert_no_faults(&mut next, &device)?;
    next.power_off()
}

/// Where the framebuffer is in the guest's memory.
fn framebuffer(guest: &mut Guest) -> Result<u64> {
    let card = pci_device(guest, CARD)?;
    let line = guest.run(&format!("head -n 1 {card}/resource"))?.text();
    let address = line.split(' ').next().and_then(|word| word.strip_prefix("0x"));
    let address = address.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let address = address.filter(|address| *address != 0).with_context(|| format!("No framebuffer in {line}"))?;
    // A driver does so, and a BIOS with a ROM for it.
    guest.run(&format!("test \"$(cat {card}/enable)\" != 0 || echo 1 > {card}/enable"))?;
    Ok(address)
}

/// A word of memory of the guest's devices.
fn word(guest: &mut Guest, address: u64) -> Result<u32> {
    let text = guest.run(&format!("devmem {address:#x} 32"))?.text();
    let digits = text.strip_prefix("0x").with_context(|| format!("{text} is no word"))?;
    Ok(u32::from_str_radix(digits, 16)?)
}

#[test]
fn a_card_without_messages_is_plugged_twice_and_serves_virtio_gpu_with_intx() -> Result<()> {
    let device = Device::spawn_vfio_user("vga", &["--display", "none", "--msix", "off"])?;
    let mut guest = Guest::boot(Config::mini().arguments(["-device", "pcie-root-port,id=port0,chassis=1"]))?;
    let gpu = Gpu::vfio_user(&device);
    for _ in 0..2 {
        guest.plug(&gpu, "gpu0", "port0")?;
        guest.wait_for("test -e /dev/dri/card0")?;
        guest.assert_pictures_are_shown(&device)?;
        let card = pci_device(&mut guest, CARD)?;
        guest.run(&format!("test ! -e {card}/msi_irqs"))?;
        let name = virtio_name(&mut guest, &card)?;
        let line = interrupts(&mut guest, &name)?;
        ensure!(line.iter().any(|(line, count)| line.contains("IO-APIC") && *count > 0), "{line:?}");
        guest.draw(Draw::Release)?;
        guest.unplug(&gpu, "gpu0")?;
        guest.wait_for("test ! -e /dev/dri/card0")?;
    }
    guest.power_off()
}

#[test]
fn a_bochs_card_and_a_virtio_card_show_different_pictures_in_one_vm() -> Result<()> {
    let bochs = Device::spawn_vfio_user("bochs", &["--display", "none"])?;
    let virtio = Device::spawn_vfio_user("virtio", &["--display", "none"])?;
    let config = Config::mini().machine("pc").modules(&["bochs", "gpu"]);
    let mut guest = Guest::boot(config.gpu(Gpu::vfio_user(&bochs)).gpu(Gpu::vfio_user(&virtio)))?;
    let driver = |kind: &str| format!("basename $(readlink {kind}/driver)");
    let card = pci_device(&mut guest, "0x1234:0x1111")?;
    assert_eq!(guest.run(&driver(&card))?.text(), "bochs-drm");
    let other = pci_device(&mut guest, CARD)?;
    assert_eq!(guest.run(&format!("cat {other}/class"))?.text(), "0x038000");
    let log = guest.run("dmesg")?.text();
    ensure!(!log.contains("virtio-vga detected"), "{log}");

    for is_last in [false, true] {
        // The kernel's first card is the one whose driver came first.
        guest.take_card(0)?;
        guest.assert_pictures_are_shown(&bochs)?;
        let smaller = guest.show(0, 800, 600)?;
        guest.assert_shown(&bochs, 0, &smaller)?;
        guest.take_card(1)?;
        guest.assert_pictures_are_shown(&virtio)?;
        let shown = virtio.screen()?;
        guest.take_card(0)?;
        let again = guest.show(0, 1024, 768)?;
        guest.assert_shown(&bochs, 0, &again)?;
        ensure!(virtio.screen()? != again && shown != again, "Both cards show the same picture");
        if !is_last {
            guest.reset()?;
        }
    }
    guest.power_off()
}

#[test]
fn a_card_behind_an_iommu_of_the_guest_shows_its_pictures() -> Result<()> {
    let device = Device::spawn_vfio_user("virtio", &["--display", "none"])?;
    let mut guest = Guest::boot(Config::mini().iommu().gpu(Gpu::vfio_user(&device)))?;
    let card = pci_device(&mut guest, CARD)?;
    guest.run(&format!("test -e {card}/iommu_group"))?;
    // VIRTIO_F_ACCESS_PLATFORM, bit 33, without which the driver would take other addresses.
    let features = guest.run(&format!("cat {card}/virtio*/features"))?.text();
    assert_eq!(features.get(33..34), Some("1"), "{features}");
    guest.assert_pictures_are_shown(&device)?;
    let smaller = guest.show(0, 800, 600)?;
    guest.assert_shown(&device, 0, &smaller)?;
    assert_no_faults(&mut guest, &device)?;
    let log = guest.run("dmesg")?.text();
    ensure!(!log.contains("DMAR: [DMA"), "The card's accesses are refused:\n{log}");
    guest.power_off()
}
