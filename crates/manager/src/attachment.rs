//! What a VMM must be told of a started vGPU: words of QEMU's command line, commands of its monitor (QMP), XML for libvirt, JSON.
//!
//! Four devices of QEMU's reach a vGPU, and none of them has everything:
//!
//! | device | screen | OpenGL | Vulkan | hot-plug |
//! |---|---|---|---|---|
//! | `vhost-user-gpu-pci` | the VMM's window or ours | yes | no: it passes on neither blobs nor kinds of context | no |
//! | `vhost-user-vga` | the same, from the firmware's text on | yes | no | no |
//! | `vhost-user-test-device-pci`, the generic one | ours | yes | yes | yes |
//! | `vfio-user-pci`, a whole card | ours, from the firmware's text on | yes | no | yes, without MSI-X |

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::grant::{GPU_SOCKET, Grant, INPUT_SOCKET};
use crate::value::Capset;
use crate::vgpu::Transport;

/// Version of what [`Attachment::describe`] says.
const VERSION: u32 = 1;
/// What no VMM may leave out.
const SHARED: &str = "The guest's memory must be shared: -object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem";

/// The sockets of a vGPU, and what reaches it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    id: String,
    front_end: FrontEnd,
    gpu: PathBuf,
    input: Option<PathBuf>,
    /// Whether the VMM's window is to show it.
    in_window: bool,
    venus: bool,
}

/// A device of QEMU's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontEnd {
    /// QEMU's own GPU device, with the VMM's window.
    Gpu,
    /// The same, which firmware can draw on.
    Vga,
    /// The generic vhost-user device.
    Generic,
    /// A PCI card.
    Card,
}

/// Names and numbers, in the order in which people read them.
type Properties = &'static [(&'static str, u32)];

impl FrontEnd {
    /// What QEMU calls it.
    pub fn name(self) -> &'static str {
        match self {
            FrontEnd::Gpu => "vhost-user-gpu-pci",
            FrontEnd::Vga => "vhost-user-vga",
            FrontEnd::Generic => "vhost-user-test-device-pci",
            FrontEnd::Card => "vfio-user-pci",
        }
    }

    /// Those that reach a vGPU with this transport.
    fn of(transport: Transport) -> &'static [FrontEnd] {
        match transport {
            Transport::VhostUser => &[FrontEnd::Gpu, FrontEnd::Vga, FrontEnd::Generic],
            Transport::VfioUser => &[FrontEnd::Card],
        }
    }

    /// Properties of its GPU, beside socket and id.
    fn gpu_properties(self) -> Properties {
        match self {
            FrontEnd::Generic => &[("virtio-id", 16), ("num_vqs", 2), ("config_size", 20)],
            _ => &[],
        }
    }

    /// Properties of the keyboard and pointer beside it.
    fn input_properties(self) -> Properties {
        match self {
            FrontEnd::Card => &[],
            // Rings for 64 events, where QEMU's own device has 4.
            _ => &[("virtio-id", 18), ("num_vqs", 2), ("vq_size", 64), ("config_size", 136)],
        }
    }
}

impl Attachment {
    /// Of a vGPU whose sockets are in this folder, by the device that loses the least of what it was given.
    pub fn new(grant: &Grant, folder: &Path) -> Attachment {
        let Grant { definition, profile } = grant;
        let in_window = profile.display.iter().any(|word| word == "vmm");
        let venus = profile.capsets.contains(&Capset::Venus);
        let front_end = match definition.transport {
            Transport::VfioUser => FrontEnd::Card,
            // Whoever wants both the window and Vulkan gets OpenGL in the window: a screen is missed first.
            Transport::VhostUser if in_window => FrontEnd::Gpu,
            Transport::VhostUser => FrontEnd::Generic,
        };
        Attachment {
            id: format!("vgpu-{}", definition.uuid.hyphenated()),
            front_end,
            gpu: folder.join(GPU_SOCKET),
            input: grant.has_input().then(|| folder.join(INPUT_SOCKET)),
            in_window,
            venus,
        }
    }

    /// The same by another device; `None` for one that does not reach it.
    pub fn by(&self, front_end: FrontEnd) -> Option<Attachment> {
        self.reachable().contains(&front_end).then(|| Attachment { front_end, ..self.clone() })
    }

    /// Which device it is by.
    pub fn front_end(&self) -> FrontEnd {
        self.front_end
    }

    fn reachable(&self) -> &'static [FrontEnd] {
        FrontEnd::of(if self.front_end == FrontEnd::Card { Transport::VfioUser } else { Transport::VhostUser })
    }

    /// Everything, for programs.
    pub fn describe(&self) -> Value {
        let others = self.reachable().iter().filter(|other| **other != self.front_end);
        let others: Map<String, Value> =
            others.filter_map(|other| Some((other.name().to_owned(), self.by(*other)?.qemu().into()))).collect();
        json!({
            "version": VERSION,
            "front_end": self.front_end.name(),
            "socket": self.gpu,
            "input_socket": self.input,
            "qemu": self.qemu(),
            "qemu_by_others": others,
            "qmp": { "attach": self.plug(), "detach": self.unplug() },
            "libvirt": self.libvirt(),
            "needs": SHARED,
            "notes": self.notes(),
        })
    }

    /// What whoever uses it should know, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = vec![SHARED.to_owned()];
        if self.venus && matches!(self.front_end, FrontEnd::Gpu | FrontEnd::Vga) {
            notes.push(format!(
                "{} does not pass on Vulkan: {} does, and shows no window",
                self.front_end.name(),
                FrontEnd::Generic.name()
            ));
        }
        if self.in_window && self.front_end == FrontEnd::Gpu {
            notes.push(format!(
                "QEMU plugs {} in at its start alone: plugged in later it is {}, and no window shows it",
                FrontEnd::Gpu.name(),
                FrontEnd::Generic.name()
            ));
        }
        match self.front_end {
            FrontEnd::Generic => notes.push("It has no boot display: firmware is seen on a second card".to_owned()),
            FrontEnd::Card => notes.push("Do not migrate: QEMU does not refuse to, and loses the card".to_owned()),
            FrontEnd::Gpu | FrontEnd::Vga => {}
        }
        notes
    }

    /// The words of QEMU's command line, each option followed by its value.
    pub fn qemu(&self) -> Vec<String> {
        let mut words = Vec::new();
        for part in self.parts(self.front_end) {
            let Some(chardev) = part.chardev() else {
                // A socket in a device's properties can only be said in JSON.
                words.extend(["-device".to_owned(), part.device().to_string()]);
                continue;
            };
            let path = commas(&part.socket);
            words.extend(["-chardev".to_owned(), format!("socket,id={chardev},path={path}")]);
            let mut device = format!("{},id={},chardev={chardev}", part.driver, part.id);
            for (name, value) in part.properties {
                // To a String nothing fails.
                let _ = write!(device, ",{name}={value}");
            }
            words.extend(["-device".to_owned(), device]);
        }
        words
    }

    /// The commands that plug it into a VM that runs, in order. Who gives them adds the bus: a PCIe root port that is free.
    pub fn plug(&self) -> Vec<Value> {
        let mut commands = Vec::new();
        for part in self.parts(self.pluggable()) {
            if let Some(id) = part.chardev() {
                let address = json!({ "type": "unix", "data": { "path": part.socket } });
                let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
                commands.push(json!({ "execute": "chardev-add", "arguments": { "id": id, "backend": backend } }));
            }
            commands.push(json!({ "execute": "device_add", "arguments": part.device() }));
        }
        commands
    }

    /// The commands that pull it out. A `chardev-remove` has to wait until the device before it is gone (`DEVICE_DELETED`), which the
    /// guest decides.
    pub fn unplug(&self) -> Vec<Value> {
        let mut commands = Vec::new();
        for part in self.parts(self.pluggable()).iter().rev() {
            commands.push(json!({ "execute": "device_del", "arguments": { "id": part.id } }));
            if let Some(id) = part.chardev() {
                commands.push(json!({ "execute": "chardev-remove", "arguments": { "id": id } }));
            }
        }
        commands
    }

    /// QEMU 11.1 refuses its own GPU devices in a VM that runs ("does not support hotplugging").
    fn pluggable(&self) -> FrontEnd {
        match self.front_end {
            FrontEnd::Gpu | FrontEnd::Vga => FrontEnd::Generic,
            other => other,
        }
    }

    /// Elements of a domain. libvirt knows no socket of a device that it did not start itself, so QEMU's words pass through.
    pub fn libvirt(&self) -> String {
        let mut xml = String::from(
            "<!-- children of <domain>; with no <video> of libvirt's own but <model type='none'/> -->\n\
             <memoryBacking>\n  <source type='memfd'/>\n  <access mode='shared'/>\n</memoryBacking>\n\
             <qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n",
        );
        for word in self.qemu() {
            let _ = writeln!(xml, "  <qemu:arg value='{}'/>", escaped(&word));
        }
        xml.push_str("</qemu:commandline>\n");
        xml
    }

    /// The GPU, and the keyboard and pointer beside it.
    fn parts(&self, front_end: FrontEnd) -> Vec<Part> {
        let card = front_end == FrontEnd::Card;
        let gpu = Part {
            id: self.id.clone(),
            driver: front_end.name(),
            properties: front_end.gpu_properties(),
            socket: self.gpu.clone(),
            card,
        };
        let input = self.input.clone().map(|socket| Part {
            id: format!("{}-input", self.id),
            driver: if card { FrontEnd::Card.name() } else { FrontEnd::Generic.name() },
            properties: front_end.input_properties(),
            socket,
            card,
        });
        std::iter::once(gpu).chain(input).collect()
    }
}

/// One device of QEMU's, and the socket that it connects to.
struct Part {
    id: String,
    driver: &'static str,
    properties: Properties,
    socket: PathBuf,
    card: bool,
}

impl Part {
    /// The id of the connection, where that is an object of its own.
    fn chardev(&self) -> Option<String> {
        (!self.card).then(|| format!("{}-chardev", self.id))
    }

    fn device(&self) -> Value {
        let mut device = json!({ "driver": self.driver, "id": self.id });
        match self.chardev() {
            Some(id) => device["chardev"] = id.into(),
            None => device["socket"] = json!({ "type": "unix", "path": self.socket }),
        }
        for (name, value) in self.properties {
            device[name] = (*value).into();
        }
        device
    }
}

/// A path among the commas of QEMU's options: one in it is written twice.
fn commas(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Text in an attribute.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&apos;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Catalogue;
    use crate::testing::{gpu, uuid};
    use crate::vgpu::Definition;

    const TYPES: &str = "
        [[type]]
        name = 'window'
        memory = '128M'
        [[type]]
        name = 'web'
        memory = '128M'
        display = ['web=127.0.0.1:0']
        [[type]]
        name = 'vulkan'
        memory = '1G'
        capsets = ['virgl2', 'venus']
    ";

    fn attachment(words: &str, folder: &str) -> Attachment {
        let types = Catalogue::parse(TYPES, &[gpu("software", 8 << 30)]).unwrap().types;
        let definition = Definition::parse(&format!("uuid = '{}'\n{words}", uuid(7))).unwrap();
        Attachment::new(&Grant::resolve(&definition, &types).unwrap(), Path::new(folder))
    }

    /// Without the UUID, which makes lines long.
    fn words(attachment: &Attachment) -> Vec<String> {
        attachment.qemu().into_iter().map(|word| word.replace(&uuid(7).to_string(), "7")).collect()
    }

    #[test]
    fn what_the_vmm_shows_is_reached_by_its_own_device() {
        assert_eq!(
            words(&attachment("type = 'window'", "/r/a,b")),
            [
                "-chardev",
                "socket,id=vgpu-7-chardev,path=/r/a,,b/gpu.sock",
                "-device",
                "vhost-user-gpu-pci,id=vgpu-7,chardev=vgpu-7-chardev"
            ]
        );
    }

    #[test]
    fn what_others_show_is_reached_by_the_generic_device_with_a_keyboard_beside_it() {
        let words = words(&attachment("type = 'web'", "/r"));
        let device = |part: &str, properties: &str| {
            format!("vhost-user-test-device-pci,id=vgpu-7{part},chardev=vgpu-7{part}-chardev,{properties}")
        };
        assert_eq!(words[3], device("", "virtio-id=16,num_vqs=2,config_size=20"));
        assert_eq!(words[7], device("-input", "virtio-id=18,num_vqs=2,vq_size=64,config_size=136"));
        assert_eq!(words.len(), 8);
    }

    #[test]
    fn a_card_is_told_in_json_with_its_keyboard_as_another_card() {
        let words = words(&attachment("type = 'web'\ntransport = 'vfio-user'", "/r"));
        let devices: Vec<Value> = [1, 3].map(|word: usize| serde_json::from_str(&words[word]).unwrap()).into();
        assert_eq!(
            devices,
            [
                json!({ "driver": "vfio-user-pci", "id": "vgpu-7", "socket": { "type": "unix", "path": "/r/gpu.sock" } }),
                json!({ "driver": "vfio-user-pci", "id": "vgpu-7-input", "socket": { "type": "unix", "path": "/r/input.sock" } }),
            ]
        );
        assert_eq!(words.len(), 4);
    }

    #[test]
    fn other_devices_that_reach_it_are_told_too() {
        let told = attachment("type = 'vulkan'", "/r").describe();
        assert_eq!(told["front_end"], "vhost-user-gpu-pci");
        let others: Vec<&String> = told["qemu_by_others"].as_object().unwrap().keys().collect();
        assert_eq!(others, ["vhost-user-test-device-pci", "vhost-user-vga"]);
        assert!(told["notes"].to_string().contains("does not pass on Vulkan"));
        let card = attachment("type = 'web'\ntransport = 'vfio-user'", "/r");
        assert_eq!(card.by(FrontEnd::Generic), None);
        assert_eq!(card.describe()["qemu_by_others"], json!({}));
    }

    #[test]
    fn what_is_plugged_in_is_pulled_out_again_and_is_never_a_device_that_cannot_be_plugged() {
        for words in ["type = 'window'", "type = 'web'", "type = 'web'\ntransport = 'vfio-user'"] {
            let attachment = attachment(words, "/r");
            let names = |commands: Vec<Value>| -> Vec<(String, String)> {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                commands.iter().map(|command| (text(&command["execute"]), text(&command["arguments"]["id"]))).collect()
            };
            let undone = names(attachment.plug()).into_iter().map(|(verb, id)| match verb.as_str() {
                "chardev-add" => ("chardev-remove".to_owned(), id),
                _ => ("device_del".to_owned(), id),
            });
            assert_eq!(names(attachment.unplug()), undone.rev().collect::<Vec<_>>());
            assert!(attachment.plug().iter().all(|command| command["arguments"]["driver"] != "vhost-user-gpu-pci"));
        }
    }

    #[test]
    fn libvirt_gets_the_same_words_escaped() {
        let card = attachment("type = 'web'\ntransport = 'vfio-user'", "/r/<'&\"").libvirt();
        assert!(card.contains("&quot;path&quot;:&quot;/r/&lt;&apos;&amp;"), "{card}");
        assert_eq!(card.matches("<qemu:arg value='").count(), 4);
        assert!(card.contains("<access mode='shared'/>"));
    }
}
