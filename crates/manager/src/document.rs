//! What is wrong with a file that somebody wrote, and where.

use std::ops::Range;

/// A file that cannot be used. It says the line; whoever read the file says which one it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct FileError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong, in one line.
    pub why: String,
}

impl FileError {
    /// What is wrong at `span` of `text`.
    pub(crate) fn at(text: &str, span: Range<usize>, why: impl Into<String>) -> FileError {
        let before = text.as_bytes().get(..span.start).unwrap_or(text.as_bytes());
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        FileError { line, why: why.into().replace('\n', " ") }
    }
}

/// Reads a whole TOML document.
pub(crate) fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, FileError> {
    toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let message = error.message().trim_end();
        // The only message that does not say what it is about.
        match text.get(span.clone()) {
            Some(key) if message == "duplicate key" => FileError::at(text, span, format!("duplicate key `{key}`")),
            _ => FileError::at(text, span, message),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_from_one_and_a_place_past_the_end_is_the_last() {
        let line = |place: usize| FileError::at("a\nb\nc", place..place, "x").line;
        assert_eq!([line(0), line(1), line(2), line(4), line(99)], [1, 1, 2, 3, 3]);
    }
}
