//! What memory a guest has, by kind.

use super::Counter;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What memory is for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All of them. Those that commands are charged for come first.
            pub const ALL: [Kind; [$($name),*].len()] = [$(Kind::$kind),*];

            /// What it is called in statistics and metrics.
            pub fn name(self) -> &'static str {
                match self {
                    $(Kind::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// Pixels of images of RESOURCE_CREATE_2D.
    Images = "images",
    /// What is written down of resources and of the guest's pages behind them.
    Tables = "tables",
    /// The pointer's picture.
    Cursors = "cursors",
    /// Pixels on their way between us and a 3D renderer: of its resources that a head or the pointer shows, and of images that have a
    /// twin.
    Shadows = "shadows",
    /// What a 3D renderer has of images, as estimated.
    Twins = "twins",
    /// A 3D renderer's resources, as estimated.
    Textures = "textures",
    /// Blobs of the host's memory.
    Blobs = "blobs",
    /// Copies of what heads show, for viewers. They have a part of the memory of their own.
    Frames = "frames",
    /// The boot display's framebuffer, and the picture of it. So does that.
    Boot = "boot",
    /// Commands that wait for a 3D renderer that has no room: not charged, as who sends them waits too
    /// ([`caps::WAITING_BYTES`](crate::caps::WAITING_BYTES)).
    Waiting = "waiting",
}

impl Kind {
    /// Those that commands are charged for: the first of [`ALL`](Self::ALL).
    pub const CHARGED: [Kind; Kind::Blobs as usize + 1] =
        [Kind::Images, Kind::Tables, Kind::Cursors, Kind::Shadows, Kind::Twins, Kind::Textures, Kind::Blobs];
}

/// Bytes of each kind now.
#[derive(Debug, Default)]
pub struct Memory([Counter; Kind::ALL.len()]);

impl Memory {
    /// So many bytes are of a kind now.
    pub fn set(&self, kind: Kind, bytes: u64) {
        self.0[kind as usize].set(bytes);
    }

    /// How many there are.
    pub fn get(&self, kind: Kind) -> u64 {
        self.0[kind as usize].get()
    }

    /// How many there are of some kinds, together.
    pub fn sum(&self, kinds: &[Kind]) -> u64 {
        kinds.iter().map(|kind| self.get(*kind)).sum()
    }

    /// All kinds by name.
    pub fn by_name(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Kind::ALL.into_iter().map(|kind| (kind.name(), self.get(kind)))
    }
}
