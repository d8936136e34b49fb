//! Packages of Debian 13 and its backports by a private apt state: no root, and nothing of the host's changes.
//!
//! The mirror is the one that the host's own apt uses, asked at run time.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};

use crate::bed::{Layer, cache};
use crate::progress::say;

const RELEASE: &str = "trixie";
const BACKPORTS: &str = "trixie-backports";
/// The keyring that the host's package debian-archive-keyring installs; without it, apt's own trusted keys count.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The private apt state.
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Makes the state, or takes the one that is there. The caller holds the lock `apt`.
    pub fn open() -> Result<Self> {
        ensure!(cfg!(target_arch = "x86_64"), "The test bed has packages for x86_64 only");
        let apt = Apt { folder: cache::folder()?.join("apt") };
        for dir in ["lists/partial", "archives/partial", "none/partial"] {
            fs::create_dir_all(apt.folder.join(dir)).context("Cannot make the private apt state")?;
        }
        fs::write(apt.folder.join("status"), "")?;
        let path = apt.folder.display();
        let settings = format!(
            "Dir::State \"{path}\";\nDir::State::status \"{path}/status\";\nDir::State::lists \"{path}/lists\";\n\
             Dir::Cache \"{path}\";\nDir::Cache::archives \"{path}/archives\";\nDir::Log \"{path}\";\n\
             Dir::Etc::sourcelist \"{path}/sources.list\";\nDir::Etc::sourceparts \"{path}/none\";\n\
             Dir::Etc::preferences \"{path}/none/preferences\";\nDir::Etc::preferencesparts \"{path}/none\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures \"amd64\";\nAPT::Default-Release \"{BACKPORTS}\";\n\
             APT::Install-Recommends \"false\";\nAPT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled \"false\";\n"
        );
        fs::write(apt.folder.join("apt.conf"), settings)?;
        Ok(apt)
    }

    /// Fetches the package lists from the first of the host's mirrors that has the release.
    pub fn update(&self) -> Result<()> {
        let mirrors = self.mirrors()?;
        ensure!(!mirrors.is_empty(), "This host's apt has no sources; the bed takes its mirror from them");
        let mut errors = String::new();
        for mirror in mirrors {
            let option = if Path::new(KEYRING).exists() { format!("[signed-by={KEYRING}] ") } else { String::new() };
            let lines = [RELEASE, BACKPORTS].map(|suite| format!("deb {option}{mirror} {suite} main\n"));
            fs::write(self.folder.join("sources.list"), lines.concat())?;
            say("bed: fetching package lists");
            match self.run("apt-get", &["-qq", "-o", "APT::Update::Error-Mode=any", "update"]) {
                Ok(_) => return Ok(()),
                Err(error) => errors += &format!("\n{error:#}"),
            }
        }
        bail!("None of this host's mirrors has Debian's {RELEASE} and {BACKPORTS}:{errors}")
    }

    /// The mirrors in the host's own sources, main archives first.
    fn mirrors(&self) -> Result<Vec<String>> {
        // Asked with empty lists, apt prints what it would fetch: deb822 and one-line sources alike.
        let lists = self.folder.join("none");
        let output = Command::new("apt-get")
            .args(["update", "--print-uris", "-o"])
            .arg(format!("Dir::State::lists={}", lists.display()))
            .output()
            .context("Cannot run apt-get: the bed is made of Debian packages and needs a Debian host")?;
        Ok(mirrors_in(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Downloads what a layer is made of and returns the package files.
    pub fn download(&self, layer: &Layer) -> Result<Vec<PathBuf>> {
        let mut wanted = self.resolve(layer.packages)?;
        let everything = wanted.len();
        for (package, prefixes) in layer.only {
            let resolved = self.resolve(&[package])?;
            wanted.extend(resolved.into_iter().filter(|(name, _)| prefixes.iter().any(|word| name.starts_with(word))));
        }
        say(format_args!("bed: {}: downloading {} packages", layer.name, wanted.len()));
        let mut all = vec!["-qq", "--yes", "--download-only", "--no-remove", "install"];
        all.extend(layer.packages);
        if everything > 0 {
            self.run("apt-get", &all)?;
        }
        let archives = self.folder.join("archives");
        let missing: Vec<_> = wanted.iter().filter(|(_, file)| !archives.join(file).exists()).collect();
        if !missing.is_empty() {
            let mut command = self.command("apt-get");
            command.args(["-qq", "download"]).args(missing.iter().map(|(name, _)| name)).current_dir(&archives);
            checked(command)?;
        }
        let files: Vec<_> = wanted.into_iter().map(|(_, file)| archives.join(file)).collect();
        match files.iter().find(|file| !file.exists()) {
            Some(file) => bail!("{} was not downloaded", file.display()),
            None => Ok(files),
        }
    }

    /// The (package, file) pairs that installing packages on an empty system takes.
    fn resolve(&self, packages: &[&str]) -> Result<BTreeSet<(String, String)>> {
        let none = format!("Dir::Cache::archives={}", self.folder.join("none").display());
        let mut arguments = vec!["--yes", "--print-uris", "-o", &none, "install"];
        arguments.extend(packages);
        let output = self.run("apt-get", &arguments)?;
        let lines = String::from_utf8_lossy(&output.stdout);
        let files = lines.lines().filter(|line| line.starts_with('\'')).filter_map(|line| {
            let file = line.split_whitespace().nth(1)?;
            Some((file.split_once('_')?.0.to_owned(), file.to_owned()))
        });
        Ok(files.collect())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.folder.join("apt.conf")).env("LC_ALL", "C");
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(program);
        command.args(arguments);
        checked(command)
    }
}

/// Runs a command to its end; its error output becomes the error.
pub fn checked(mut command: Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("Cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}

/// The archives' addresses in the output of `apt-get update --print-uris`.
fn mirrors_in(uris: &str) -> Vec<String> {
    let mut mirrors: Vec<String> = Vec::new();
    for line in uris.lines() {
        let Some((mirror, rest)) = line.trim_start_matches('\'').split_once("/dists/") else { continue };
        if rest.contains("/InRelease'") && !mirrors.iter().any(|known| known == mirror) {
            mirrors.push(mirror.to_owned());
        }
    }
    mirrors.sort_by_key(|mirror| mirror.contains("security"));
    mirrors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_the_archive_of_a_release_file_and_security_comes_last() {
        let uris = "'http://one/debian-security/dists/x-security/InRelease' one_InRelease 0 \n\
                    'http://one/debian/dists/x/InRelease' one_InRelease 0 \n\
                    'http://one/debian/dists/x/main/binary-amd64/Packages.xz' one_Packages 0 \n\
                    'http://two/flat/InRelease' two 0\n";
        assert_eq!(mirrors_in(uris), ["http://one/debian", "http://one/debian-security"]);
    }
}
