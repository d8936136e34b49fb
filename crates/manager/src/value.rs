//! The small values that people write: bytes, modes of heads, kinds of 3D. They have the spelling of `beamsplit-device`'s options.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most heads a virtio-gpu has (VIRTIO_GPU_MAX_SCANOUTS).
pub const MAX_HEADS: usize = 16;
/// The largest side of a head that a device takes.
pub const MAX_SIDE: u32 = 16_384;
/// The refresh rate of a head that names none, in Hz.
pub const USUAL_REFRESH: u32 = 60;

/// A number of bytes, written as `256M`, `1G` or `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit = |letter: char| match letter {
            'K' | 'k' => Some(10),
            'M' | 'm' => Some(20),
            'G' | 'g' => Some(30),
            _ => None,
        };
        let (digits, shift) = match text.chars().next_back().and_then(unit) {
            Some(shift) => (&text[..text.len() - 1], shift),
            None => (text, 0),
        };
        // `u64::from_str` takes a sign, which no size has.
        let digits = Some(digits).filter(|digits| digits.starts_with(|first: char| first.is_ascii_digit()));
        digits
            .and_then(|digits| digits.parse::<u64>().ok())
            .and_then(|count| count.checked_mul(1 << shift))
            .map(Bytes)
            .ok_or_else(|| format!("'{text}' is not a number of bytes, as in 256M or 1G"))
    }
}

/// With the largest unit that loses nothing.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match self.0 {
            bytes if fits(30) => write!(f, "{}G", bytes >> 30),
            bytes if fits(20) => write!(f, "{}M", bytes >> 20),
            bytes if fits(10) => write!(f, "{}K", bytes >> 10),
            bytes => write!(f, "{bytes}"),
        }
    }
}

/// What one head shows: pixels in a row, rows, frames a second. Written as `1920x1080@60`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mode {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Frames a second.
    pub refresh: u32,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape = || format!("'{text}' is not WIDTHxHEIGHT[@REFRESH], as in 1920x1080@60");
        let (size, refresh) = text.split_once('@').map_or((text, None), |(size, refresh)| (size, Some(refresh)));
        let (width, height) = size.split_once('x').ok_or_else(shape)?;
        let side = |word: &str| match word.parse::<u32>() {
            Ok(side) if (1..=MAX_SIDE).contains(&side) => Ok(side),
            Ok(_) => Err(format!("'{text}' has a side outside 1 to {MAX_SIDE}")),
            Err(_) => Err(shape()),
        };
        let refresh = match refresh.map(str::parse::<u32>) {
            None => USUAL_REFRESH,
            Some(Ok(hertz)) if (1..=1000).contains(&hertz) => hertz,
            Some(Ok(_)) => return Err(format!("'{text}' has a refresh rate outside 1 to 1000 Hz")),
            Some(Err(_)) => return Err(shape()),
        };
        Ok(Mode { width: side(width)?, height: side(height)?, refresh })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}@{}", self.width, self.height, self.refresh)
    }
}

/// Reads `1280x800@60,1920x1080`: one to [`MAX_HEADS`] heads.
pub fn read_heads(text: &str) -> Result<Vec<Mode>, String> {
    let head = |(index, word): (usize, &str)| word.parse().map_err(|why| format!("Head {}: {why}", index + 1));
    let heads = text.split(',').enumerate().map(head).collect::<Result<Vec<Mode>, _>>()?;
    match heads.len() {
        many if many > MAX_HEADS => Err(format!("{many} heads, a device has at most {MAX_HEADS}")),
        _ => Ok(heads),
    }
}

/// As [`read_heads`] reads it.
pub fn write_heads(heads: &[Mode]) -> String {
    heads.iter().map(Mode::to_string).collect::<Vec<_>>().join(",")
}

/// A kind of 3D that a guest is offered, in the order in which a guest finds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capset {
    /// OpenGL, by virglrenderer's first protocol.
    Virgl,
    /// OpenGL, by its second.
    Virgl2,
    /// Vulkan, by Venus.
    Venus,
    /// The kernel driver's own commands (DRM native context).
    Drm,
}

impl Capset {
    /// All of them.
    pub const ALL: [Capset; 4] = [Capset::Virgl, Capset::Virgl2, Capset::Venus, Capset::Drm];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Capset::Virgl => "virgl",
            Capset::Virgl2 => "virgl2",
            Capset::Venus => "venus",
            Capset::Drm => "drm",
        }
    }
}

impl FromStr for Capset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Capset::ALL.into_iter().find(|capset| capset.name() == text);
        known.ok_or_else(|| format!("'{text}' is none of virgl, virgl2, venus, drm"))
    }
}

impl fmt::Display for Capset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Text in JSON and TOML, for values that have a spelling.
macro_rules! as_text {
    ($($value:ty),*) => { $(
        impl Serialize for $value {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $value {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )* };
}
as_text!(Mode, Capset);

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> String {
        bytes.to_string()
    }
}

impl TryFrom<String> for Bytes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_back_as_they_are_written() {
        for bytes in [0, 1, 4096, 5000, 3 << 10, 256 << 20, 1 << 30, 1536 << 20, u64::MAX] {
            assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }
        assert_eq!(Bytes(1536 << 20).to_string(), "1536M");
    }

    #[test]
    fn the_words_that_devices_take_are_taken_as_they_take_them() {
        let words: toml::Table = toml::from_str(include_str!("../../../tests/data/words.toml")).unwrap();
        let taken = |kind: &str| words[kind]["taken"].as_table().unwrap();
        let refused = |kind: &str| words[kind]["refused"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
        for (word, bytes) in taken("sizes") {
            assert_eq!(word.parse(), Ok(Bytes(bytes.as_integer().unwrap().unsigned_abs())), "{word}");
        }
        for word in refused("sizes") {
            assert!(word.parse::<Bytes>().unwrap_err().contains(word), "{word}");
        }
        for (word, heads) in taken("heads") {
            let numbers = |mode: Mode| [mode.width, mode.height, mode.refresh];
            let read: Vec<_> = read_heads(word).unwrap().into_iter().map(numbers).collect();
            assert_eq!(heads.clone().try_into(), Ok(read), "{word}");
        }
        refused("heads").for_each(|word| assert!(read_heads(word).is_err(), "{word}"));
        let names: Vec<_> = Capset::ALL.into_iter().map(Capset::name).collect();
        assert_eq!(
            words["capsets"]["taken"].clone().try_into(),
            Ok(names.iter().map(ToString::to_string).collect::<Vec<_>>())
        );
        names.iter().for_each(|word| assert_eq!(word.parse::<Capset>().map(Capset::name), Ok(*word)));
        refused("capsets").for_each(|word| assert!(word.parse::<Capset>().is_err(), "{word}"));
        let shown = |word: &str| crate::profile::display::check(&[word.to_owned()]);
        for word in words["displays"]["taken"].as_array().unwrap() {
            assert_eq!(shown(word.as_str().unwrap()), Ok(()), "{word}");
        }
        refused("displays").for_each(|word| assert!(shown(word).is_err(), "{word}"));
    }

    #[test]
    fn heads_read_back_and_bad_ones_are_counted() {
        let heads = read_heads("1280x800,1920x1080@75").unwrap();
        assert_eq!(write_heads(&heads), "1280x800@60,1920x1080@75");
        for (text, named) in [
            ("1280", "Head 1"),
            ("1280x800,", "Head 2"),
            ("0x800", "'0x800'"),
            ("1x16385", "16384"),
            ("1x1@0", "1 to 1000"),
            ("", "''"),
        ] {
            assert!(read_heads(text).unwrap_err().contains(named), "{text}");
        }
        assert!(read_heads(&vec!["1x1"; MAX_HEADS + 1].join(",")).unwrap_err().contains("at most 16"));
    }
}
