//! Which PCI functions a VMM is served over vfio-user: what the words about them mean together.

use protocol::edid::Mode;

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

    /// Whether it shows something before a driver of virtio-gpu is there.
    pub fn boots(&self) -> bool {
        self.framebuffer > 0
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
        assert_eq!((virtio.msix, virtio.pio, virtio.boots()), (true, false, false));
        assert_eq!(virtio.boot_memory(), 0);
        let without = card("--msix off --pio off --rom none");
        assert_eq!((without.msix, without.pio, without.rom), (false, false, Some(RomSource::None)));
        assert!(!card("--model bochs").pio);
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
    fn a_framebuffer_holds_the_first_head_as_far_as_there_are_such() {
        let of = |width, height| framebuffer(&[Mode { width, height, refresh: 60 }, HEAD]) >> 20;
        assert_eq!(of(640, 480), 16);
        assert_eq!(of(2560, 1600), 16);
        assert_eq!(of(3840, 2160), 32);
        assert_eq!(of(5120, 2880), 64);
        assert_eq!(of(16384, 16384), 64);
    }
}
