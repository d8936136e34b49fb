//! Random words that are known again in a picture, whatever font they are drawn with.
//!
//! A word is a permutation of the legend's characters, and both are shown: each character of the word must look like the
//! same one of the legend, and no two characters of the legend may look the same.

use anyhow::{Context, Result};

use crate::picture::Picture;
use crate::process::wait_until;

/// How long a word may take to be seen, in seconds.
const PATIENCE: u64 = 120;

/// The size of a character with a BIOS, GRUB and the Linux kernel.
pub const CELL: (usize, usize) = (8, 16);

/// The size of a character with UEFI firmware.
pub const UEFI_CELL: (usize, usize) = (8, 19);

/// Where the word begins, in characters from where the legend does: on the next line.
pub const BELOW: (usize, usize) = (0, 1);

/// A word that no other run has.
#[derive(Debug, Clone)]
pub struct Token {
    word: String,
}

impl Token {
    /// The characters that words are made of.
    pub const LEGEND: &str = "0123456789ABCDEF";

    /// Makes one up.
    pub fn new() -> Result<Self> {
        let mut random = [0; Self::LEGEND.len()];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).context("No random numbers")?;
        let mut word: Vec<char> = Self::LEGEND.chars().collect();
        for (place, byte) in random.into_iter().enumerate() {
            word.swap(place, usize::from(byte) % Self::LEGEND.len());
        }
        Ok(Token { word: word.into_iter().collect() })
    }

    /// The word.
    pub fn word(&self) -> &str {
        &self.word
    }

    /// Whether a picture shows legend and word in characters of a size, the word at a place relative to the legend.
    pub fn is_on(&self, picture: &Picture, cell: (usize, usize), place: (usize, usize)) -> bool {
        let sheet = Sheet { picture, cell };
        let (width, height) = picture.size();
        let word: Option<Vec<usize>> = self.word.chars().map(|char| Self::LEGEND.find(char)).collect();
        let Some(word) = word else { return false };
        let is_at = |x: usize, y: usize| {
            let (right, below) = (x + place.0 * cell.0, y + place.1 * cell.1);
            let same = |(index, legend): (usize, &usize)| {
                sheet.are_same((x + legend * cell.0, y), (right + index * cell.0, below))
            };
            let letters: Vec<_> = (0..word.len()).map(|index| (x + index * cell.0, y)).collect();
            // Nearly all of a picture is background, which this is quick to see.
            sheet.is_drawn((x, y))
                && word.iter().enumerate().all(same)
                && letters
                    .iter()
                    .enumerate()
                    .all(|(index, one)| letters.iter().skip(index + 1).all(|other| !sheet.are_same(*one, *other)))
        };
        // The line through the middle of a row of characters tells at once where nothing is drawn: nearly everywhere.
        let changes = |y: usize| {
            let line = picture.line(0, y + cell.1 / 2, width).unwrap_or_default();
            let mut changes: Vec<usize> = Vec::new();
            for (x, pair) in line.array_windows::<2>().enumerate() {
                if pair[0] != pair[1] {
                    changes.push(x);
                }
            }
            changes
        };
        (0..height).any(|y| {
            // A character begins at most its width before a change in it.
            let mut next = 0;
            changes(y).into_iter().any(|change| {
                let begin = next.max((change + 2).saturating_sub(cell.0));
                next = change + 1;
                (begin..next).any(|x| is_at(x, y))
            })
        })
    }

    /// Looks again and again until a picture shows it, and returns that picture. Without success, the last picture is kept.
    pub fn wait_until_shown(
        &self,
        cell: (usize, usize),
        place: (usize, usize),
        mut look: impl FnMut() -> Result<Picture>,
    ) -> Result<Picture> {
        let mut last = None;
        let found = wait_until(PATIENCE, &format!("{} on the screen", self.word), || {
            let seen = look();
            let shown = seen.as_ref().ok().filter(|picture| self.is_on(picture, cell, place)).cloned();
            last = Some(seen);
            Ok(shown)
        });
        found.with_context(|| match last {
            Some(Ok(picture)) => format!("{picture:?} is kept as {}", picture.keep("seen")),
            Some(Err(error)) => format!("{error:#}"),
            None => String::new(),
        })
    }
}

/// A picture as characters of a size.
struct Sheet<'a> {
    picture: &'a Picture,
    cell: (usize, usize),
}

impl Sheet<'_> {
    /// Whether something is drawn in the middle line of a character.
    fn is_drawn(&self, (x, y): (usize, usize)) -> bool {
        let line = self.line(x, y + self.cell.1 / 2);
        line.is_some_and(|line| line.iter().any(|pixel| Some(pixel) != line.first()))
    }

    fn are_same(&self, one: (usize, usize), other: (usize, usize)) -> bool {
        (0..self.cell.1).all(|row| {
            let lines = (self.line(one.0, one.1 + row), self.line(other.0, other.1 + row));
            lines.0.is_some() && lines.0 == lines.1
        })
    }

    fn line(&self, x: usize, y: usize) -> Option<&[[u8; 3]]> {
        self.picture.line(x, y, self.cell.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A font of squares of colour and what is drawn on them.
    fn draw(picture: &mut Picture, (x, y): (usize, usize), text: &str) {
        for (index, char) in text.chars().enumerate() {
            let code = char as usize;
            for bit in 0..8 {
                let colour = if code >> bit & 1 == 1 { [255, 255, 0] } else { [0, 0, 64] };
                picture.fill((x + index * 8 + bit, y + 2), (1, 10), colour);
            }
        }
    }

    #[test]
    fn a_word_is_known_wherever_it_is_and_no_other_is_taken_for_it() {
        let token = Token::new().unwrap();
        let mut picture = Picture::from_xrgb(300, 100, &[0; 300 * 100 * 4]).unwrap();
        assert!(!token.is_on(&picture, CELL, BELOW), "Nothing is a word");
        draw(&mut picture, (13, 7), Token::LEGEND);
        assert!(!token.is_on(&picture, CELL, BELOW), "The legend alone is a word");
        draw(&mut picture, (13, 7 + 16), token.word());
        assert!(token.is_on(&picture, CELL, BELOW));
        assert!(!token.is_on(&picture, (9, 16), BELOW));
        let mut other: Vec<char> = token.word().chars().collect();
        other.swap(3, 4);
        let other = Token { word: other.into_iter().collect() };
        assert!(!other.is_on(&picture, CELL, BELOW), "Another word is known");
        draw(&mut picture, (13 + 17 * 8, 7), other.word());
        assert!(other.is_on(&picture, CELL, (17, 0)));
    }
}
