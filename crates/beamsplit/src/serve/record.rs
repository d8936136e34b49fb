//! `record.json` in the folder of a device that was started, so that a manager that is started anew finds it.
//!
//! It is there, without a process, before one is started; with the process before that one is let go on (see
//! [`crate::launch`]); and until all of its processes have gone. Whatever moment the manager is killed at, what is there
//! tells all that has to be known.

use std::io;
use std::path::{Path, PathBuf};

use manager::Uuid;
use manager::record::{Record, VERSION};
use serde::Deserialize;

use super::store::{self, Lasting};

/// The file's name in the device's folder.
pub const FILE: &str = "record.json";

/// Why a record is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It cannot be read.
    #[error("Cannot read the record: {0}")]
    Io(#[from] io::Error),
    /// It was not written by us, or not to its end.
    #[error("The record makes no sense: {0}")]
    Json(#[from] serde_json::Error),
    /// It was written by another version.
    #[error("The record has version {0}, this manager writes {VERSION}")]
    Version(u32),
    /// It is in the folder of another.
    #[error("The record speaks of another vGPU, {0}")]
    Other(Uuid),
}

/// Writes it into the folder of its device, as a whole or not at all.
pub fn write(record: &Record, folder: &Path) -> io::Result<()> {
    // Not waiting for a disk: after the next boot nobody asks for it.
    store::replace_by(&unfinished(folder), &folder.join(FILE), &serde_json::to_vec(record)?, Lasting::UntilBoot)
}

/// What a record is called before it is whole: beside the folder, in which the device may write as well.
pub fn unfinished(folder: &Path) -> PathBuf {
    folder.with_extension("new")
}

/// Reads the one in this folder of the vGPU `uuid`; `None` when there is none.
pub fn read(folder: &Path, uuid: Uuid) -> Result<Option<Record>, Unreadable> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Some(text) = store::read(&folder.join(FILE))? else { return Ok(None) };
    match serde_json::from_str(&text)? {
        Version { version: VERSION } => {}
        Version { version } => return Err(Unreadable::Version(version)),
    }
    let record: Record = serde_json::from_str(&text)?;
    if record.uuid() != uuid {
        return Err(Unreadable::Other(record.uuid()));
    }
    Ok(Some(record))
}
