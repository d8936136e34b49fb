//! vGPUs: what defines one, which state it is in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::document::{self, FileError};
use crate::value::{self, Mode};

/// The longest name of a vGPU, in bytes.
pub const MAX_NAME: usize = 64;

/// What is written down of a vGPU: its file, and what a client of the manager sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Which.
    #[serde(with = "written_uuid")]
    pub uuid: Uuid,
    /// The name of its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// What people call it; unlike a UUID it may change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it comes up with the host.
    #[serde(default, skip_serializing_if = "Start::is_manual")]
    pub start: Start,
    /// How a VMM reaches it.
    #[serde(default, skip_serializing_if = "Transport::is_usual")]
    pub transport: Transport,
    /// Which card a guest finds over vfio-user; over vhost-user there is no choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// Who shows its pixels, instead of what its type says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<Vec<String>>,
    /// Its heads, instead of what its type says; within what the type allows.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "written_heads")]
    pub heads: Option<Vec<Mode>>,
}

/// Whether a vGPU comes up with the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// When somebody says so.
    #[default]
    Manual,
    /// With the host.
    Auto,
}

impl Start {
    fn is_manual(&self) -> bool {
        *self == Start::Manual
    }
}

/// How a VMM reaches a vGPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// As the rings of a virtio device.
    #[default]
    VhostUser,
    /// As a whole PCI card.
    VfioUser,
}

impl Transport {
    fn is_usual(&self) -> bool {
        *self == Transport::VhostUser
    }

    /// The word of `--transport`.
    pub fn word(self) -> &'static str {
        match self {
            Transport::VhostUser => "vhost-user",
            Transport::VfioUser => "vfio-user",
        }
    }
}

/// Which card a guest finds over vfio-user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Model {
    /// A boot display and virtio-gpu in one.
    #[default]
    Vga,
    /// virtio-gpu alone.
    Virtio,
    /// A boot display alone.
    Bochs,
}

impl Model {
    /// The word of `--model`.
    pub fn word(self) -> &'static str {
        match self {
            Model::Vga => "vga",
            Model::Virtio => "virtio",
            Model::Bochs => "bochs",
        }
    }
}

impl Definition {
    /// A vGPU of this type with nothing special about it.
    pub fn new(uuid: Uuid, kind: impl Into<String>) -> Definition {
        Definition {
            uuid,
            kind: kind.into(),
            name: None,
            start: Start::Manual,
            transport: Transport::VhostUser,
            model: None,
            display: None,
            heads: None,
        }
    }

    /// Reads a definition file.
    pub fn parse(text: &str) -> Result<Definition, FileError> {
        let definition: Definition = document::read(text)?;
        definition.check().map_err(|why| FileError { line: 1, why })?;
        Ok(definition)
    }

    /// The text of its file.
    pub fn print(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| unreachable!("a definition is plain text and lists: {error}"))
    }

    /// What is wrong with it by itself, whatever types there are.
    pub fn check(&self) -> Result<(), String> {
        if self.uuid.is_nil() {
            return Err("The UUID is all zeros, which names nobody".to_owned());
        }
        if let Some(name) = &self.name {
            check_name(name)?;
        }
        if self.model.is_some() && self.transport != Transport::VfioUser {
            return Err("model belongs to transport = \"vfio-user\": over vhost-user the VMM's own device is the card"
                .to_owned());
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if !(1..=MAX_NAME).contains(&name.len()) || name.chars().any(char::is_control) || name.trim() != name {
        return Err(format!("A name has 1 to {MAX_NAME} printable bytes and no space at its ends"));
    }
    if Uuid::parse_str(name).is_ok() {
        return Err(format!("The name '{name}' is a UUID: who looks for one could find the other"));
    }
    Ok(())
}

/// Reads a UUID as it is written: 32 digits in groups of 8, 4, 4, 4 and 12. Other spellings would make two names for one file.
pub fn parse_uuid(text: &str) -> Result<Uuid, String> {
    let hyphenated = text.len() == uuid::fmt::Hyphenated::LENGTH;
    let uuid = Uuid::from_str(text).ok().filter(|uuid| hyphenated && !uuid.is_nil());
    uuid.ok_or_else(|| format!("'{text}' is not a UUID, as in 4b1c2a60-7a35-4c5c-9c0a-1f2e3d4c5b6a"))
}

pub(crate) mod written_uuid {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(uuid: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&uuid.hyphenated())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
        parse_uuid(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

pub(crate) mod written_heads {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(heads: &Option<Vec<Mode>>, serializer: S) -> Result<S::Ok, S::Error> {
        heads.as_deref().map(value::write_heads).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Mode>>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| value::read_heads(&text)).transpose().map_err(serde::de::Error::custom)
    }
}

/// Where a vGPU is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum State {
    /// Written down, and nothing runs.
    Defined,
    /// Its device was started and does not answer yet.
    Starting,
    /// Its device serves a VMM.
    Running,
    /// Its device was asked to end, and may still hold memory.
    Stopping,
    /// Its device ended, or never came to be.
    Failed {
        /// For people.
        why: String,
    },
    /// Its device runs, and what its guest draws is refused: it did not finish in time. `start` releases it.
    Held {
        /// For people.
        why: String,
        /// The last command that was under way, when it is known.
        last: Option<String>,
    },
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Defined => "defined",
            State::Starting => "starting",
            State::Running => "running",
            State::Stopping => "stopping",
            State::Failed { .. } => "failed",
            State::Held { .. } => "held",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::uuid;

    #[test]
    fn a_definition_reads_back_as_it_is_written() {
        let plain = Definition::new(uuid(1), "render-1g");
        assert_eq!(plain.print(), format!("uuid = \"{}\"\ntype = \"render-1g\"\n", uuid(1)));
        let full = Definition {
            name: Some("desk \"7\" é".to_owned()),
            start: Start::Auto,
            transport: Transport::VfioUser,
            model: Some(Model::Virtio),
            display: Some(vec!["vmm".to_owned(), "web=127.0.0.1:0".to_owned()]),
            heads: Some(vec!["1920x1080@75".parse().unwrap(), "1x1".parse().unwrap()]),
            ..plain.clone()
        };
        for definition in [plain, full] {
            assert_eq!(Definition::parse(&definition.print()), Ok(definition));
        }
    }

    #[test]
    fn definitions_that_mean_nothing_are_refused_with_the_line() {
        let id = format!("uuid = '{}'\n", uuid(1));
        for (text, line, named) in [
            ("type = 'a'".to_owned(), 1, "uuid"),
            (id.clone(), 1, "type"),
            (format!("{id}type = 'a'\ncolour = 1"), 3, "colour"),
            (format!("{id}{id}type = 'a'"), 2, "uuid"),
            (format!("{id}type = 'a'\nstart = 'always'"), 3, "always"),
            (format!("{id}type = 'a'\nheads = 'large'"), 3, "large"),
            (format!("{id}type = 'a'\nheads = ['1x1']"), 3, "string"),
            (format!("{id}type = 'a'\ntransport = 'tcp'"), 3, "tcp"),
            (format!("{id}type = 'a'\nmodel = 'vga'"), 1, "vfio-user"),
            (format!("{id}type = 'a'\nname = ''"), 1, "64"),
            (format!("{id}type = 'a'\nname = '{}'", "x".repeat(65)), 1, "64"),
            (format!("{id}type = 'a'\nname = \"a\\nb\""), 1, "printable"),
            (format!("{id}type = 'a'\nname = '{}'", uuid(2)), 1, "is a UUID"),
            ("type = 'a'\nuuid = '1'".to_owned(), 2, "'1' is not a UUID"),
            (format!("type = 'a'\nuuid = '{}'", uuid(1).simple()), 2, "is not a UUID"),
            ("type = 'a'\nuuid = '00000000-0000-0000-0000-000000000000'".to_owned(), 2, "is not a UUID"),
            ("\0".to_owned(), 1, ""),
            ("[".repeat(100_000), 1, ""),
        ] {
            let error = Definition::parse(&text).expect_err(&text);
            assert_eq!(error.line, line, "{text:?}: {error}");
            assert!(error.why.contains(named), "{text:?}: {error}");
        }
    }
}
