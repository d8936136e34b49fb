//! A list of files and what may be done with each. Landlock (Linux 5.13) refuses all others, and with newer kernels TCP,
//! abstract sockets and signals to other processes too.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::Error;

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
    /// Whatever is there is read.
    Read,
    /// A device is spoken with.
    Speak,
    /// A cache of its own is kept.
    Keep,
    /// A program is run.
    Run,
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

    /// This file, or all that is below this folder, may be read.
    pub fn read(path: &Path) -> Self {
        Grant { path: path.to_owned(), access: Use::Read }
    }

    /// This device, or all below this folder, may be read, written and given commands.
    pub fn speak(path: &Path) -> Self {
        Grant { path: path.to_owned(), access: Use::Speak }
    }

    /// Files and folders below this one may be made, read, written and removed.
    pub fn keep(folder: &Path) -> Self {
        Grant { path: folder.to_owned(), access: Use::Keep }
    }

    /// This program may be read and run.
    pub fn run(program: &Path) -> Self {
        Grant { path: program.to_owned(), access: Use::Run }
    }

    /// Whether it lets a program be run.
    pub fn runs(&self) -> bool {
        self.rights().contains(AccessFs::Execute)
    }

    /// Whether the process serves as well without it.
    pub fn is_optional(&self) -> bool {
        self.access == Use::NameFunctions
    }

    fn rights(&self) -> BitFlags<AccessFs> {
        match self.access {
            Use::ReplaceFiles => AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::Truncate,
            Use::NameFunctions => AccessFs::ReadFile.into(),
            Use::Read => AccessFs::ReadFile | AccessFs::ReadDir,
            Use::Speak => AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile | AccessFs::IoctlDev,
            Use::Keep => {
                let files = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::Truncate;
                let folders = AccessFs::ReadDir | AccessFs::MakeDir | AccessFs::RemoveDir;
                files | folders | AccessFs::RemoveFile
            }
            Use::Run => AccessFs::ReadFile | AccessFs::Execute,
        }
    }

    /// What is asked of the path: a file has no entries.
    fn rule(&self) -> Result<PathBeneath<PathFd>, Error> {
        let place = PathFd::new(&self.path).map_err(|why| Error::Grant(self.path.display().to_string(), why))?;
        let mut rights = self.rights();
        if !self.path.is_dir() {
            rights &= AccessFs::from_file(WANTED);
        }
        Ok(PathBeneath::new(place, rights))
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

/// Refuses every file but those granted, of which each must be there.
pub fn allow_only(grants: &[Grant]) -> Result<Enforced, Error> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))?
        .handle_access(AccessNet::from_all(WANTED))?
        .scope(Scope::from_all(WANTED))?;
    let mut rules = rules.create()?;
    for grant in grants {
        rules = rules.add_rule(grant.rule()?)?;
    }
    Ok(Enforced(rules.restrict_self()?.ruleset))
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
