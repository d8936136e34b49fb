//! One card from the first text of the firmware to the operating system's own driver.

use anyhow::{Context, Result, ensure};
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::token::{BELOW, CELL, UEFI_CELL};
use tests::{Config, Device, Disk, Firmware, Gpu, Guest, Picture, Token, bed, workspace};

/// An expansion ROM that shows a word by the BIOS' own services, says it on the firmware's debug port, and waits for a key.
fn rom_that_shows(token: &Token) -> Vec<u8> {
    const SIZE: usize = 512;
    const TEXT: u8 = 0x40;
    // pusha; cld; mov si, TEXT; next: cs lodsb; test al, al; jz wait; mov dx, 0x402; out dx, al; mov ah, 0x0e; mov bx, 7;
    // int 0x10; jmp next; wait: xor ax, ax; int 0x16; popa; retf
    const CODE: &[u8] = &[
        0x60, 0xfc, 0xbe, TEXT, 0x00, 0x2e, 0xac, 0x84, 0xc0, 0x74, 0x0d, 0xba, 0x02, 0x04, 0xee, 0xb4, 0x0e, 0xbb,
        0x07, 0x00, 0xcd, 0x10, 0xeb, 0xed, 0x31, 0xc0, 0xcd, 0x16, 0x61, 0xcb,
    ];
    let mut rom = vec![0x55, 0xaa, (SIZE / 512) as u8];
    rom.extend_from_slice(CODE);
    rom.resize(TEXT.into(), 0);
    rom.extend(format!("\r\n{}\r\n{}\r\n\0", Token::LEGEND, token.word()).bytes());
    rom.resize(SIZE - 1, 0);
    let sum = rom.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    rom.push(sum.wrapping_neg());
    rom
}

/// A guest on SeaBIOS that waits for a key after it has shown a word, then starts Linux without any driver for the card.
fn start_seabios(device: &Device, token: &Token, rom: &tempfile::TempDir) -> Result<Guest> {
    let rom = rom.path().join("token.rom");
    std::fs::write(&rom, rom_that_shows(token))?;
    let config = Config::mini().machine("pc").modules(&[]).real_mode().firmware(Firmware::SeaBios);
    let config = config.kernel_words("vga=0x37a").arguments(["-option-rom".into(), rom.into_os_string()]);
    Guest::start(&config.gpu(Gpu::vfio_user(device)))
}

/// The kernel's console and whatever else is in its framebuffer are shown.
fn the_framebuffer_is_shown(guest: &mut Guest, device: &Device) -> Result<()> {
    let token = Token::new()?;
    guest.run(&format!("printf '\\n{}\\n{}\\n' > /dev/tty1", Token::LEGEND, token.word()))?;
    let text = guest.wait_for_token(device, &token, CELL, BELOW)?;
    let (width, height) = (u32::try_from(text.size().0)?, u32::try_from(text.size().1)?);
    guest.run("dmesg -n 1; echo 0 > /sys/class/graphics/fbcon/cursor_blink; printf '\\033[?25l' > /dev/tty1")?;
    guest.run(&format!("head -c {} /dev/urandom > /tmp/noise && cat /tmp/noise > /dev/fb0", width * height * 4))?;
    let noise = Picture::from_xrgb(width, height, &guest.get("/tmp/noise")?)?;
    guest.assert_shown(device, 0, &noise)
}

/// The driver takes the card, and nobody looks at the framebuffer any more.
fn the_driver_takes_over(guest: &mut Guest, device: &Device) -> Result<()> {
    guest.run("for module in /modules/gpu/*.ko; do insmod $module || exit 1; done")?;
    let log = guest.run("dmesg")?.text();
    ensure!(log.contains("virtio-vga detected"), "{log}");
    guest.assert_pictures_are_shown(device)?;
    let bytes = || device.stats().map(|stats| stats["device"]["boot_bytes"].as_u64());
    let before = bytes()?.filter(|count| *count > 0).context("The framebuffer was never looked at")?;
    guest.assert_pictures_are_shown(device)?;
    assert_eq!(bytes()?, Some(before));
    Ok(())
}

#[test]
fn one_card_shows_the_bios_then_vesa_then_virtio_gpu_in_one_boot() -> Result<()> {
    let device = Device::spawn_vfio_user("vga", &["--display", "none"])?;
    let (token, rom) = (Token::new()?, workspace::scratch("rom-")?);
    let mut guest = start_seabios(&device, &token, &rom)?;
    guest.wait_for_token(&device, &token, CELL, BELOW)?;
    guest.press("ret")?;
    guest.wait_for_boot()?;
    let log = guest.run("dmesg")?.text();
    ensure!(log.contains("VESA VGA frame buffer device"), "{log}");
    the_framebuffer_is_shown(&mut guest, &device)?;
    the_driver_takes_over(&mut guest, &device)?;
    guest.power_off()
}

#[test]
fn without_a_rom_on_the_host_a_warning_names_the_package_and_the_bios_screen_stays_dark() -> Result<()> {
    let mut device = Device::spawn_without_rom(&["--display", "none"])?;
    let log = device.process().log_tail();
    ensure!(log.contains("package seabios"), "{log}");
    let (token, rom) = (Token::new()?, workspace::scratch("rom-")?);
    let mut guest = start_seabios(&device, &token, &rom)?;
    let waits = wait_until(PATIENCE, "the BIOS", || Ok(guest.firmware().contains(token.word()).then_some(())));
    waits.with_context(|| guest.to_string())?;
    guest.press("ret")?;
    guest.wait_for_boot()?;
    if let Ok(picture) = device.screen() {
        ensure!(picture.colours() == 1, "The BIOS draws: {}", picture.keep("seen"));
    }
    guest.run("for module in /modules/gpu/*.ko; do insmod $module || exit 1; done")?;
    guest.assert_pictures_are_shown(&device)?;
    guest.power_off()
}

/// A disk from which the UEFI shell shows a word, waits for a key and starts Linux.
fn shell_disk(config: &Config, token: &Token) -> Result<Disk> {
    let start = format!("linux.efi {} initrd=\\initrd", config.append());
    let script = [
        "@echo -off",
        "cls",
        &format!("echo {}", Token::LEGEND),
        &format!("echo {}", token.word()),
        "pause",
        "fs0:",
        &start,
    ];
    Disk::new()?
        .text("startup.nsh", &(script.join("\r\n") + "\r\n"))?
        .file("linux.efi", &bed::kernel::packed(bed::linux()?)?)?
        .file("initrd", &config.initramfs()?)
}

#[test]
fn one_card_shows_the_logo_and_shell_of_uefi_then_efifb_then_virtio_gpu_in_one_boot() -> Result<()> {
    let device = Device::spawn_vfio_user("vga", &["--display", "none"])?;
    let token = Token::new()?;
    let config = Config::mini().modules(&[]).firmware(Firmware::Ovmf).gpu(Gpu::vfio_user(&device));
    let disk = shell_disk(&config, &token)?;
    // It waits a minute for a key, and draws how much of it has gone.
    let config = config.disk(disk.folder()).arguments(["-boot", "menu=on,splash-time=60000"]);
    let mut guest = Guest::start(&config)?;
    let mut logos: Vec<Picture> = Vec::new();
    let waited = wait_until(PATIENCE, "the firmware's logo", || {
        if let Ok(picture) = device.screen()
            && picture.colours() > 32
            && logos.last() != Some(&picture)
        {
            logos.push(picture);
        }
        Ok((logos.len() >= 3).then_some(()))
    });
    waited.with_context(|| guest.to_string())?;
    guest.press("ret")?;
    guest.wait_for_token(&device, &token, UEFI_CELL, BELOW)?;
    guest.press("ret")?;
    guest.wait_for_boot()?;

    // The firmware told the kernel what it drew, and where.
    let number = |guest: &mut Guest, name: &str| -> Result<usize> {
        Ok(guest.run(&format!("cat /sys/firmware/acpi/bgrt/{name}"))?.text().parse()?)
    };
    let (x, y) = (number(&mut guest, "xoffset")?, number(&mut guest, "yoffset")?);
    let logo = Picture::from_bmp(&guest.get("/sys/firmware/acpi/bgrt/image")?)?;
    ensure!(logo.colours() > 32, "{logo:?} is no logo");
    let (width, height) = logo.size();
    let seen = logos.last().context("No picture of the logo")?;
    logo.assert_same(&seen.crop(x, y, width, height)?);

    let log = guest.run("dmesg")?.text();
    ensure!(log.contains("EFI VGA frame buffer device"), "{log}");
    the_framebuffer_is_shown(&mut guest, &device)?;
    the_driver_takes_over(&mut guest, &device)?;
    guest.power_off()
}

#[test]
fn uefi_draws_through_the_queues_of_a_card_without_a_framebuffer_and_linux_takes_them_over() -> Result<()> {
    let device = Device::spawn_vfio_user("virtio", &["--display", "none"])?;
    let token = Token::new()?;
    let config = Config::mini().firmware(Firmware::Ovmf).gpu(Gpu::vfio_user(&device));
    let disk = shell_disk(&config, &token)?;
    let mut guest = Guest::start(&config.disk(disk.folder()))?;
    guest.wait_for_token(&device, &token, UEFI_CELL, BELOW)?;
    guest.press("ret")?;
    guest.wait_for_boot()?;
    guest.assert_pictures_are_shown(&device)?;
    let stats = device.stats()?;
    ensure!(stats["device"]["errors"] == 0 && stats["device"]["panics"] == 0, "{stats}");
    guest.power_off()
}

#[test]
fn a_card_beside_the_generic_device_shows_the_bios_and_linux_goes_on_on_ours() -> Result<()> {
    // A framebuffer, and a screen of text whose characters are a pixel wider.
    for (card, cell) in [("bochs-display", CELL), ("VGA", (9, 16))] {
        let device = Device::spawn(&["--display", "none"])?;
        let (token, rom) = (Token::new()?, workspace::scratch("rom-")?);
        let rom = rom.path().join("token.rom");
        std::fs::write(&rom, rom_that_shows(&token))?;
        let config = Config::mini().real_mode().firmware(Firmware::SeaBios);
        let config = config.arguments(["-option-rom".into(), rom.into_os_string()]);
        let mut guest = Guest::start(&beside(config, card).gpu(Gpu::generic(&device)))?;
        let seen = token.wait_until_shown(cell, BELOW, || guest.screen_of("boot", 0));
        seen.with_context(|| format!("{card}: {guest}"))?;
        guest.press("ret")?;
        guest.wait_for_boot()?;
        the_console_is_ours(&mut guest, &device).context(card)?;
        guest.power_off()?;
    }
    Ok(())
}

#[test]
fn a_card_beside_the_generic_device_shows_uefi_and_linux_goes_on_on_ours() -> Result<()> {
    let device = Device::spawn(&["--display", "none"])?;
    let token = Token::new()?;
    // The kernel's console would stay where the firmware drew.
    let config = Config::mini().firmware(Firmware::Ovmf).kernel_words("fbcon=map:1").gpu(Gpu::generic(&device));
    let disk = shell_disk(&config, &token)?;
    let mut guest = Guest::start(&beside(config, "bochs-display").disk(disk.folder()))?;
    let seen = token.wait_until_shown(UEFI_CELL, BELOW, || guest.screen_of("boot", 0));
    seen.with_context(|| guest.to_string())?;
    guest.press("ret")?;
    guest.wait_for_boot()?;
    the_console_is_ours(&mut guest, &device)?;
    guest.power_off()
}

/// A guest with another card, which is there for the firmware.
fn beside(config: Config, card: &str) -> Config {
    config.arguments(["-device", &format!("{card},id=boot")])
}

/// Linux writes and draws on our head.
fn the_console_is_ours(guest: &mut Guest, device: &Device) -> Result<()> {
    let token = Token::new()?;
    guest.run(&format!("printf '\\n{}\\n{}\\n' > /dev/tty1", Token::LEGEND, token.word()))?;
    guest.wait_for_token(device, &token, CELL, BELOW)?;
    guest.assert_pictures_are_shown(device)
}
