//! Which PCI functions a VMM is served over vfio-user: what the words about them mean together.

use anyhow::{Context, Result};
use device::vga::VgaOptions;
use protocol::edid::Mode;
use transport::vfio_user::pci::{Model, Shape};
use transport::vfio_user::rom::Rom;

use crate::args::{Options, Usage};
use crate::values::{ModelKind, RomSource, Switch, TransportKind};

/// The smallest and the largest framebuffer.
const FRAMEBUFFER: (u64, u64) = (16 << 20, 64 << 20);
/// What a card with a boot display needs for its framebuffer, so many times: itself and a picture of it, which takes twice
/// the bytes when a pixel has 16 bits.
const BOOT_SHARE: u64 = 3;

/// The display card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Which it is.
    pub model: ModelKind,
    /// Whether it has MSI-X, and the input devices beside it.
    pub msix: bool,
    /// Whether it has a port for kicks.
    pub pio: bool,
    /// Its expansion ROM; when not named, what this host has.
    pub rom: Option<RomSource>,
    /// Bytes of its framebuffer; 0 without a boot display.
    pub framebuffer: u64,
}

impl Card {
    /// What the words ask for; `None` over vhost-user, where there is no such card.
    pub fn judge(options: &Options, heads: &[Mode]) -> Result<Option<Card>, Usage> {
        let Options { transport, model, msix, pio, rom, .. } = options;
        if *transport != Some(TransportKind::VfioUser) {
            let words = [
                ("--model", model.is_some()),
                ("--msix", msix.is_some()),
                ("--pio", pio.is_some()),
                ("--rom", rom.is_some()),
            ];
            return match words.iter().find(|(_, said)| *said) {
                None => Ok(None),
                Some((word, _)) => Err(Usage(format!(
                    "{word} belongs to --transport vfio-user: over vhost-user the VMM's own device has the PCI side"
                ))),
            };
        }
        let model = model.unwrap_or(ModelKind::Vga);
        let boots = model != ModelKind::Virtio;
        let refused = |word: &str, why: &str| Err(Usage(format!("{word} and --model {model}: {why}")));
        if model == ModelKind::Bochs && heads.len() > 1 {
            return refused("--heads with more than one", "a framebuffer has one head; --model vga has several");
        }
        if model == ModelKind::Bochs && *msix == Some(Switch::On) {
            return refused("--msix on", "it has no interrupts");
        }
        if model != ModelKind::Vga && *pio == Some(Switch::On) {
            return refused("--pio on", "only the model vga has the port");
        }
        if !boots && matches!(rom, Some(RomSource::File(_))) {
            return refused("--rom", "it has no boot display; --model vga has");
        }
        Ok(Some(Card {
            model,
            msix: *msix != Some(Switch::Off),
            pio: model == ModelKind::Vga && *pio != Some(Switch::Off),
            rom: rom.clone(),
            framebuffer: if boots { framebuffer(heads) } else { 0 },
        }))
    }

    /// What the transport makes of it.
    pub fn shape(&self) -> Shape {
        Shape { model: self.transport_model(), msix: self.msix && self.model != ModelKind::Bochs, pio: self.pio }
    }

    /// What the transport makes of an input device beside it.
    pub fn input_shape(&self) -> Shape {
        Shape { model: Model::Input, msix: self.msix, pio: false }
    }

    /// The display that it has before a driver of virtio-gpu is there, if any.
    pub fn boot_display(&self) -> Option<VgaOptions> {
        let virtio = self.model != ModelKind::Bochs;
        (self.framebuffer > 0).then_some(VgaOptions { framebuffer: self.framebuffer, virtio })
    }

    /// Reads the expansion ROM: a file that was named must be one; without the host's the guest is the poorer.
    pub fn read_rom(&self) -> Result<Option<Rom>> {
        match &self.rom {
            _ if self.framebuffer == 0 => Ok(None),
            Some(RomSource::None) => Ok(None),
            Some(RomSource::File(path)) => {
                Rom::load(path, self.transport_model()).map(Some).context("Cannot use --rom")
            }
            None => match Rom::find(self.transport_model()) {
                Ok(rom) => Ok(Some(rom)),
                Err(why) => {
                    let why = anyhow::Error::new(why);
                    tracing::warn!("Under SeaBIOS the screen stays dark until Linux draws on it: {why:#}");
                    Ok(None)
                }
            },
        }
    }

    fn transport_model(&self) -> Model {
        match self.model {
            ModelKind::Virtio => Model::Virtio,
            ModelKind::Vga => Model::Vga,
            ModelKind::Bochs => Model::Bochs,
        }
    }

    /// What its boot display may take of `--memory`.
    pub fn boot_memory(&self) -> u64 {
        self.framebuffer * BOOT_SHARE
    }
}

/// A power of two that holds the first head, as far as there are such framebuffers.
fn framebuffer(heads: &[Mode]) -> u64 {
    let (least, most) = FRAMEBUFFER;
    let head = heads.first().map_or(0, |head| u64::from(head.width) * u64::from(head.height) * 4);
    head.next_power_of_two().clamp(least, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    const HEAD: Mode = Mode { width: 1280, height: 800, refresh: 60 };

    fn judge(line: &str, heads: &[Mode]) -> Result<Option<Card>, Usage> {
        let words = std::iter::once("beamsplit-device").chain(line.split_whitespace()).map(OsString::from);
        Card::judge(&Options::parse_words(words).unwrap(), heads)
    }

    #[test]
    fn over_vhost_user_there_is_no_card_and_a_word_about_one_is_refused() {
        assert_eq!(judge("--fd 3", &[HEAD]).unwrap(), None);
        assert_eq!(judge("--fd 3 --transport vhost-user", &[HEAD]).unwrap(), None);
        for words in ["--model vga", "--msix off", "--pio off", "--rom none"] {
            let message = judge(words, &[HEAD]).expect_err(words).to_string();
            assert!(message.contains("--transport vfio-user"), "{message}");
            assert!(message.starts_with(words.split(' ').next().unwrap()), "{message}");
        }
    }

    #[test]
    fn a_card_is_vga_with_all_it_has_unless_words_say_otherwise() {
        let card = |line: &str| judge(&format!("--transport vfio-user {line}"), &[HEAD]).unwrap().unwrap();
        let vga = card("");
        assert_eq!((vga.model, vga.msix, vga.pio, vga.framebuffer), (ModelKind::Vga, true, true, 16 << 20));
        let virtio = card("--model virtio");
        assert_eq!((virtio.msix, virtio.pio, virtio.boot_memory()), (true, false, 0));
        assert!(virtio.boot_display().is_none());
        let without = card("--msix off --pio off --rom none");
        assert_eq!((without.msix, without.pio, &without.rom), (false, false, &Some(RomSource::None)));
        let bochs = card("--model bochs");
        assert_eq!(bochs.shape(), Shape { model: Model::Bochs, msix: false, pio: false });
        assert_eq!(bochs.boot_display().map(|boot| boot.virtio), Some(false));
        // What is beside a card follows it.
        assert!(bochs.input_shape().msix && !without.input_shape().msix);
    }

    #[test]
    fn what_a_model_does_not_have_is_refused_by_name() {
        for (words, heads, named) in [
            ("--model bochs", 2, "--heads"),
            ("--model bochs --msix on", 1, "--msix"),
            ("--model bochs --pio on", 1, "--pio"),
            ("--model virtio --pio on", 1, "--pio"),
            ("--model virtio --rom /x", 1, "--rom"),
        ] {
            let message = judge(&format!("--transport vfio-user {words}"), &vec![HEAD; heads]).expect_err(words).0;
            assert!(message.starts_with(named) && message.contains("--model"), "{words}: {message}");
        }
        for words in ["--model bochs --msix off --pio off --rom none", "--model virtio --pio off --rom none"] {
            assert!(judge(&format!("--transport vfio-user {words}"), &[HEAD]).is_ok(), "{words}");
        }
    }

    #[test]
    fn a_rom_that_was_named_must_be_one_and_is_not_looked_for_where_it_is_of_no_use() {
        let rom = |line: &str| judge(&format!("--transport vfio-user {line}"), &[HEAD]).unwrap().unwrap().read_rom();
        assert_eq!(rom("--rom none").unwrap(), None);
        assert_eq!(rom("--model virtio").unwrap(), None);
        let message = format!("{:#}", rom("--rom /dev/null").unwrap_err());
        assert!(message.contains("--rom") && message.contains("/dev/null"), "{message}");
    }

    #[test]
    fn a_framebuffer_holds_the_first_head_as_far_as_there_are_such() {
        let of = |width, height| framebuffer(&[Mode { width, height, refresh: 60 }, HEAD]) >> 20;
        assert_eq!(of(640, 480), 16);
        assert_eq!(of(2560, 1600), 16);
        assert_eq!(of(3840, 2160), 32);
        assert_eq!(of(5120, 2880), 64);
        assert_eq!(of(16384, 16384), 64);
    }
}
