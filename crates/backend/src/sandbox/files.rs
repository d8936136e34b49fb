//! The files that a locked-in device may still touch, as a list; Landlock (Linux 5.13) refuses all others, and with
//! newer kernels TCP, abstract sockets and signals to other processes too.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

/// The newest rules that we ask for (Linux 6.12). An older kernel enforces those it has.
const WANTED: ABI = ABI::V6;

/// A file, or all that is in a folder, and what may be done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    path: PathBuf,
    access: Use,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// A capture writes a new file and puts it in place of the old one.
    ReplaceFiles,
    /// A backtrace names functions after reading our own executable.
    NameFunctions,
}

impl Grant {
    /// Files in this folder may be written, made, and replaced.
    pub fn replace_files(folder: &Path) -> Self {
        Grant { path: folder.to_owned(), access: Use::ReplaceFiles }
    }

    /// This executable may be read.
    pub fn name_functions(executable: &Path) -> Self {
        Grant { path: executable.to_owned(), access: Use::NameFunctions }
    }

    /// Whether the device serves as well without it.
    pub fn is_optional(&self) -> bool {
        self.access == Use::NameFunctions
    }

    fn rights(&self) -> BitFlags<AccessFs> {
        match self.access {
            Use::ReplaceFiles => AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::Truncate,
            Use::NameFunctions => AccessFs::ReadFile.into(),
        }
    }
}

/// What the kernel enforces of what was asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Enforced(RulesetStatus);

impl Enforced {
    /// Whether files outside the grants are out of reach.
    pub fn guards_files(&self) -> bool {
        self.0 != RulesetStatus::NotEnforced
    }

    /// What is missing, in words.
    pub fn missing(&self) -> Option<String> {
        match self.0 {
            RulesetStatus::FullyEnforced => None,
            RulesetStatus::PartiallyEnforced => Some(
                "Sandbox: this kernel's Landlock guards files, but not all of TCP, abstract sockets and signals \
                 (Linux 6.12 does); seccomp refuses those all the same"
                    .to_owned(),
            ),
            RulesetStatus::NotEnforced => Some(
                "Sandbox: this kernel has no Landlock (Linux 5.13 or newer, with 'landlock' in the lsm= list): \
                 opening files is refused as a whole, or, with a capture, not at all"
                    .to_owned(),
            ),
        }
    }
}

/// Refuses every file but those granted.
pub fn allow_only(grants: &[Grant]) -> Result<Enforced> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))?
        .handle_access(AccessNet::from_all(WANTED))?
        .scope(Scope::from_all(WANTED))?;
    let mut rules = rules.create().context("Cannot make the list of files")?;
    for grant in grants {
        let place = PathFd::new(&grant.path).with_context(|| format!("Cannot open {}", grant.path.display()))?;
        rules = rules.add_rule(PathBeneath::new(place, grant.rights()))?;
    }
    let status = rules.restrict_self().context("Cannot enforce the list of files")?;
    Ok(Enforced(status.ruleset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_old_kernel_lacks_is_said_with_the_version_that_has_it() {
        assert_eq!(Enforced(RulesetStatus::FullyEnforced).missing(), None);
        assert!(Enforced(RulesetStatus::PartiallyEnforced).missing().unwrap().contains("Linux 6.12"));
        assert!(Enforced(RulesetStatus::NotEnforced).missing().unwrap().contains("Linux 5.13"));
        assert!(!Enforced(RulesetStatus::NotEnforced).guards_files());
    }

    #[test]
    fn nothing_is_ever_granted_that_runs_or_reads_what_others_wrote() {
        for grant in [Grant::replace_files(Path::new("/")), Grant::name_functions(Path::new("/"))] {
            assert!(!grant.rights().contains(AccessFs::Execute), "{grant:?}");
            assert!(!grant.rights().contains(AccessFs::ReadFile | AccessFs::WriteFile), "{grant:?}");
        }
    }
}
