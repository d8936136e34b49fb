//! Keys that are for the window, not for the guest: Ctrl+Alt and a letter.

use winit::keyboard::{Key, KeyCode, PhysicalKey};

/// What Ctrl+Alt and a letter do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hotkey {
    /// F: the window fills the monitor, or does so no more.
    Fullscreen,
    /// G: the pointer stays in the window, or does so no more.
    Grab,
    /// T: takes control from who has it.
    Take,
}

impl Hotkey {
    /// By the letter on the key, as far as the layout has Latin letters; else by the key's place.
    pub(super) fn of(key: &Key, place: PhysicalKey) -> Option<Self> {
        let letter = match key {
            Key::Character(text) => {
                text.chars().next().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_lowercase())
            }
            _ => None,
        };
        let letter = letter.or(match place {
            PhysicalKey::Code(KeyCode::KeyF) => Some('f'),
            PhysicalKey::Code(KeyCode::KeyG) => Some('g'),
            PhysicalKey::Code(KeyCode::KeyT) => Some('t'),
            _ => None,
        });
        match letter? {
            'f' => Some(Self::Fullscreen),
            'g' => Some(Self::Grab),
            't' => Some(Self::Take),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_letter_counts_and_where_there_is_none_the_place() {
        let key = |text: &str| Key::Character(text.into());
        let place = |code| PhysicalKey::Code(code);
        assert_eq!(Hotkey::of(&key("g"), place(KeyCode::KeyG)), Some(Hotkey::Grab));
        // Dvorak: the letter F is on the key that is Y elsewhere.
        assert_eq!(Hotkey::of(&key("f"), place(KeyCode::KeyY)), Some(Hotkey::Fullscreen));
        assert_eq!(Hotkey::of(&key("u"), place(KeyCode::KeyF)), None);
        // Cyrillic has no F.
        assert_eq!(Hotkey::of(&key("а"), place(KeyCode::KeyF)), Some(Hotkey::Fullscreen));
        assert_eq!(Hotkey::of(&key("T"), place(KeyCode::KeyT)), Some(Hotkey::Take));
        assert_eq!(Hotkey::of(&Key::Dead(None), place(KeyCode::Delete)), None);
    }
}
