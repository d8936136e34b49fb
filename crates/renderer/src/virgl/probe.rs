//! Finds out by use what a guest may be offered: the library says yes to things that fail later.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use protocol::CapsetId;
use serde::{Deserialize, Serialize};

use crate::library::Kind;

/// What was found. It can be kept: nothing of it changes until library, driver or node do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Of which kind.
    pub kind: Kind,
    /// The library's version, as far as it tells, when it could be loaded.
    pub version: Option<String>,
    /// The library's file.
    pub path: Option<PathBuf>,
    /// Functions of newer versions that it has not.
    pub lacks: Vec<String>,
    /// What works.
    pub capsets: Vec<ProbedCapset>,
    /// Who draws, as the driver names itself.
    pub drivers: Vec<String>,
    /// What does not work, and why.
    pub missing: Vec<Missing>,
}

/// A capability set that works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbedCapset {
    /// Which.
    pub id: CapsetId,
    /// Its newest version.
    pub version: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// How many timelines for fences a context of it has.
    pub rings: u8,
    /// Whether it needs memory of the host to be mapped into the guest.
    pub maps: bool,
}

/// Something that does not work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What.
    pub what: String,
    /// Why not.
    pub why: String,
}

/// Loads and starts the library in this process, which should end soon after, and uses it.
pub fn probe(kind: Kind, path: Option<&Path>, node: Option<OwnedFd>, server: Option<OwnedFd>) -> Probe {
    let _ = (path, node, server);
    Probe { kind, version: None, path: None, lacks: vec![], capsets: vec![], drivers: vec![], missing: vec![] }
}
