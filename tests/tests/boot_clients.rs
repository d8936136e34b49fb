//! What people run before an operating system: a boot loader's menu and a memory test, on a card's boot display.

use anyhow::Result;
use tests::token::{BELOW, CELL};
use tests::{Config, Device, Disk, Firmware, Gpu, Guest, Token, bed, disk};

/// A guest that UEFI firmware starts from a disk.
fn start(device: &Device, disk: &Disk, arguments: &[String]) -> Result<Guest> {
    let config = Config::mini().memory(&[128]).firmware(Firmware::Ovmf).disk(disk.folder());
    Guest::start(&config.gpu(Gpu::vfio_user(device)).arguments(arguments))
}

#[test]
fn grub_shows_its_graphical_menu_on_the_boot_display() -> Result<()> {
    let device = Device::spawn_vfio_user("vga", &["--display", "none"])?;
    let token = Token::new()?;
    let menu = format!(
        "insmod all_video\nloadfont /EFI/debian/ascii.pf2\nset gfxmode=800x600\nterminal_output gfxterm\n\
         set timeout=-1\nmenuentry first {{ true }}\nmenuentry {} {{ true }}\nmenuentry {} {{ true }}\n",
        Token::LEGEND,
        token.word()
    );
    let tree = bed::boot()?;
    let disk = Disk::new()?
        .file(disk::UEFI_PROGRAM, &tree.file("usr/lib/grub/x86_64-efi/monolithic/grubx64.efi"))?
        .file("EFI/debian/ascii.pf2", &tree.file("usr/share/grub/ascii.pf2"))?
        .text("EFI/debian/grub.cfg", &menu)?;
    let guest = start(&device, &disk, &[])?;
    let shown = guest.wait_for_token(&device, &token, CELL, BELOW)?;
    assert_eq!(shown.size(), (800, 600), "Not the graphical menu");
    Ok(())
}

#[test]
fn memtest_shows_what_it_tests_on_the_boot_display() -> Result<()> {
    let device = Device::spawn_vfio_user("vga", &["--display", "none"])?;
    // It shows the processor's name.
    let token = Token::new()?;
    let disk = Disk::new()?.file(disk::UEFI_PROGRAM, &bed::boot()?.file("boot/memtest86+x64.efi"))?;
    let processor = ["-cpu".to_owned(), format!("qemu64,model-id={} {}", Token::LEGEND, token.word())];
    let guest = start(&device, &disk, &processor)?;
    guest.wait_for_token(&device, &token, CELL, (Token::LEGEND.len() + 1, 0))?;
    Ok(())
}
