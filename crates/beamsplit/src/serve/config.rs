//! `serve.toml`: what is for the manager itself.

use std::ffi::OsString;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use manager::schedule::{self, Quantum};
use serde::Deserialize;

use super::{socket, store};
use crate::program::beside;

/// The file's name in the config folder.
pub const FILE: &str = "serve.toml";
/// Users that nobody else uses: the range that systemd's list of users calls unused.
const USERS: Users = Users { first: 1_879_048_192, last: 1_879_113_727 };
/// The group of those that may connect to the sockets of devices, where the host has it: QEMU's.
const VMM_GROUP: &str = "kvm";
/// The program that serves a vGPU.
const PROGRAM: &str = "beamsplit-device";

/// The file as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Words {
    device: Option<Vec<String>>,
    users: Option<String>,
    vmm_group: Option<String>,
    sandbox: Option<String>,
    open_consoles: bool,
    policy: Option<Policy>,
    mode: Option<Mode>,
    quantum_ms: Option<u32>,
    preempt_timeout_ms: Option<u32>,
    hang_timeout: Option<u32>,
    capacity: Option<u32>,
}

/// The words for [`schedule::Policy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Policy {
    BestEffort,
    EqualShare,
    FixedShare,
}

/// The words for [`schedule::Mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Batch,
    Strict,
}

impl Words {
    /// How time is given out.
    fn schedule(&self) -> Result<schedule::Options> {
        let mut options = schedule::Options::default();
        if let Some(policy) = self.policy {
            options.policy = match policy {
                Policy::BestEffort => schedule::Policy::BestEffort,
                Policy::EqualShare => schedule::Policy::EqualShare,
                Policy::FixedShare => schedule::Policy::FixedShare,
            };
        }
        if let Some(mode) = self.mode {
            options.mode = match mode {
                Mode::Batch => schedule::Mode::Batch,
                Mode::Strict => schedule::Mode::Strict,
            };
        }
        if let Some(count) = self.quantum_ms {
            options.quantum = Quantum::milliseconds(count).context("quantum-ms")?;
        }
        if let Some(count) = self.preempt_timeout_ms {
            ensure!((1..=1000).contains(&count), "preempt-timeout-ms is 1 to 1000");
            options.preempt_timeout = Duration::from_millis(count.into());
        }
        if let Some(count) = self.hang_timeout {
            ensure!((1..=600).contains(&count), "hang-timeout is 1 to 600 seconds");
            options.hang_timeout = Duration::from_secs(count.into());
        }
        options.capacity = self.capacity.unwrap_or(options.capacity);
        Ok(options)
    }
}

/// What the manager was told about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The program that serves a vGPU, with the words before ours.
    pub device: Vec<OsString>,
    /// Whom devices run as when root starts them; `None`: as root starts them.
    pub users: Option<Users>,
    /// The group that may connect to the sockets of devices.
    pub group: Option<u32>,
    /// `--sandbox` of the devices.
    pub sandbox: Option<String>,
    /// Whether consoles take no tokens though the manager's page does.
    pub open_consoles: bool,
    /// How time is given out; as the manager starts.
    pub schedule: schedule::Options,
}

/// Users of which each device gets one of its own, as numbers from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Users {
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
}

impl FromStr for Users {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (first, last) = text.split_once('-')?;
            let users = Users { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? };
            // 65534 and 4294967295 mean nobody.
            (users.first >= 1000 && users.first <= users.last && users.last < u32::MAX).then_some(users)
        };
        parse().ok_or_else(|| format!("'{text}' is no range of users from 1000 on, as in 1879048192-1879113727"))
    }
}

impl Users {
    /// One that is not taken.
    pub fn free(self, taken: impl Fn(u32) -> bool) -> Option<u32> {
        (self.first..=self.last).find(|uid| !taken(*uid))
    }
}

impl Config {
    /// Reads the file in this folder; one that is not there says nothing.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = store::read(&path).with_context(|| format!("Cannot read {}", path.display()))?;
        Self::parse(&text.unwrap_or_default()).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let words: Words = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            anyhow::anyhow!("line {line}: {}", error.message().replace('\n', " "))
        })?;
        let schedule = words.schedule()?;
        let device = match words.device {
            Some(words) if words.is_empty() => anyhow::bail!("device names no program"),
            Some(words) => words.into_iter().map(OsString::from).collect(),
            None => vec![beside(PROGRAM)],
        };
        let users = match words.users.as_deref() {
            None => Some(USERS),
            Some("none") => None,
            Some(text) => Some(text.parse::<Users>().map_err(anyhow::Error::msg).context("users")?),
        };
        let group = match words.vmm_group.as_deref() {
            None => socket::group(VMM_GROUP),
            Some("") => None,
            Some(name) => {
                Some(socket::group(name).with_context(|| format!("vmm-group: this host has no group {name}"))?)
            }
        };
        if let Some(word) = words.sandbox.as_deref().filter(|word| !["on", "log", "off"].contains(word)) {
            anyhow::bail!("sandbox: '{word}' is none of on, log, off");
        }
        Ok(Config { device, users, group, sandbox: words.sandbox, open_consoles: words.open_consoles, schedule })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        for (text, named) in [
            ("device = []", "names no program"),
            ("\nusers = 3", "line 2"),
            ("users = '10-20'", "users"),
            ("users = '2000-1999'", "users"),
            ("colour = 'red'", "colour"),
            ("vmm-group = 'no such group'", "no such group"),
            ("sandbox = 'maybe'", "maybe"),
            ("policy = 'fair'", "line 1"),
            ("quantum-ms = 31", "1 to 30"),
            ("hang-timeout = 0", "1 to 600"),
            ("preempt-timeout-ms = 0", "1 to 1000"),
        ] {
            let error = format!("{:#}", Config::parse(text).unwrap_err());
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn the_example_file_holds_the_defaults() {
        let example = include_str!("../../../../packaging/serve.toml");
        let mut usual = Config::parse("").unwrap();
        assert_eq!(Config::parse(example).unwrap(), usual);
        let said = example.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| line.contains(" = "));
        let said = Config::parse(&said.collect::<Vec<_>>().join("\n"));
        // A host without the group cannot say its name.
        let Ok(mut said) = said else { return };
        (said.device, usual.device) = (Vec::new(), Vec::new());
        said.sandbox = None;
        assert_eq!(said, usual);
    }

    #[test]
    fn each_device_gets_a_user_that_nobody_has() {
        let users: Users = "2000-2002".parse().unwrap();
        assert_eq!(users.free(|uid| uid == 2000), Some(2001));
        assert_eq!(users.free(|_| true), None);
    }
}
