//! Who has which part of a GPU's memory.

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

use crate::profile::Type;
use crate::value::Bytes;

/// One who has a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Who.
    pub uuid: Uuid,
    /// Of which type.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many bytes.
    pub memory: u64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.uuid, self.kind, Bytes(self.memory))
    }
}

/// What of each GPU is given to whom.
#[derive(Debug, Clone, Default)]
pub struct Partition {}

impl Partition {
    /// How many more of this type could be started now.
    pub fn available(&self, _kind: &Type) -> u32 {
        0
    }
}
