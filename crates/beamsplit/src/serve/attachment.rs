//! What a VMM must be told of a started vGPU: QEMU's words, QMP's commands, libvirt's XML.
//!
//! Three front-ends of QEMU's are known. `vhost-user-gpu-pci` shows the screen in QEMU's own window and knows OpenGL; the
//! generic vhost-user device passes on everything and shows nothing; `vfio-user-pci` is a whole card.

use std::path::{Path, PathBuf};

use manager::Grant;
use manager::grant::{GPU_SOCKET, INPUT_SOCKET};
use manager::value::Capset;
use manager::vgpu::Transport;
use serde_json::{Value, json};

/// Version of the answer.
const VERSION: u32 = 1;

/// The sockets of a device, and what reaches it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    id: String,
    front_end: FrontEnd,
    gpu: PathBuf,
    input: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrontEnd {
    /// The VMM's own window.
    Window,
    /// Everything, and no window.
    Generic,
    /// A card.
    Card,
}

impl Attachment {
    /// Of a vGPU whose sockets are in this folder.
    pub fn new(grant: &Grant, folder: &Path) -> Self {
        let (definition, profile) = (&grant.definition, &grant.profile);
        let front_end = match definition.transport {
            Transport::VfioUser => FrontEnd::Card,
            // QEMU's own GPU device passes on neither blobs nor kinds of context, which Vulkan needs.
            Transport::VhostUser if shown_by_vmm(&profile.display) && !profile.capsets.contains(&Capset::Venus) => {
                FrontEnd::Window
            }
            Transport::VhostUser => FrontEnd::Generic,
        };
        Attachment {
            id: format!("vgpu-{}", definition.uuid),
            front_end,
            gpu: folder.join(GPU_SOCKET),
            input: grant.has_input().then(|| folder.join(INPUT_SOCKET)),
        }
    }

    /// What to type, what to plug in, what to write into a domain.
    pub fn describe(&self) -> Value {
        json!({
            "version": VERSION,
            "front_end": self.front_end_name(),
            "socket": self.gpu,
            "input_socket": self.input,
            "qemu": self.qemu(),
            "qmp": { "attach": self.plug(), "detach": self.unplug() },
            "libvirt": self.libvirt(),
            "needs": "The guest's memory must be shared: -object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem",
        })
    }

    fn front_end_name(&self) -> &'static str {
        match self.front_end {
            FrontEnd::Window => "vhost-user-gpu-pci",
            FrontEnd::Generic => "vhost-user-test-device-pci",
            FrontEnd::Card => "vfio-user-pci",
        }
    }

    /// The parts that are plugged in, in their order: each with its socket, its id and its device's properties.
    fn parts(&self) -> Vec<Part> {
        let generic = |kind: u32, queues: u32, size: Option<u32>, config: u32| {
            let mut properties = json!({ "virtio-id": kind, "num_vqs": queues, "config_size": config });
            if let Some(size) = size {
                properties["vq_size"] = size.into();
            }
            properties
        };
        let gpu = match self.front_end {
            FrontEnd::Window => ("vhost-user-gpu-pci", json!({})),
            FrontEnd::Generic => ("vhost-user-test-device-pci", generic(16, 2, None, 20)),
            FrontEnd::Card => ("vfio-user-pci", json!({})),
        };
        let input = match self.front_end {
            FrontEnd::Card => ("vfio-user-pci", json!({})),
            _ => ("vhost-user-test-device-pci", generic(18, 2, Some(64), 136)),
        };
        let part = |suffix: &str, socket: &Path, (driver, properties): (&'static str, Value)| Part {
            id: format!("{}{suffix}", self.id),
            driver,
            properties,
            socket: socket.to_owned(),
            chardev: self.front_end != FrontEnd::Card,
        };
        let mut parts = vec![part("", &self.gpu, gpu)];
        parts.extend(self.input.as_deref().map(|socket| part("-input", socket, input)));
        parts
    }

    /// The words of a command line.
    fn qemu(&self) -> Vec<String> {
        let parts = self.parts();
        let mut words = Vec::new();
        for part in &parts {
            if part.chardev {
                words.extend([
                    "-chardev".to_owned(),
                    format!("socket,id={},path={}", part.chardev_id(), commas(&part.socket)),
                ]);
                let mut device = format!("{},id={},chardev={}", part.driver, part.id, part.chardev_id());
                for (name, value) in part.properties.as_object().into_iter().flatten() {
                    device.push_str(&format!(",{name}={value}"));
                }
                words.extend(["-device".to_owned(), device]);
            } else {
                words.extend(["-device".to_owned(), part.device().to_string()]);
            }
        }
        words
    }

    /// The commands that plug it in.
    fn plug(&self) -> Vec<Value> {
        let mut commands = Vec::new();
        for part in self.parts() {
            if part.chardev {
                let address = json!({ "type": "unix", "data": { "path": part.socket } });
                let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
                commands.push(json!({
                    "execute": "chardev-add",
                    "arguments": { "id": part.chardev_id(), "backend": backend },
                }));
            }
            commands.push(json!({ "execute": "device_add", "arguments": part.device() }));
        }
        commands
    }

    /// The commands that pull it out; a `chardev-remove` has to wait for its device to be gone.
    fn unplug(&self) -> Vec<Value> {
        let mut commands = Vec::new();
        for part in self.parts().iter().rev() {
            commands.push(json!({ "execute": "device_del", "arguments": { "id": part.id } }));
            if part.chardev {
                commands.push(json!({ "execute": "chardev-remove", "arguments": { "id": part.chardev_id() } }));
            }
        }
        commands
    }

    /// What goes into a domain: libvirt knows no socket of a device that it did not start itself.
    fn libvirt(&self) -> String {
        let mut xml = String::from("<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n");
        for word in self.qemu() {
            let word = word.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&apos;");
            xml.push_str(&format!("  <qemu:arg value='{word}'/>\n"));
        }
        xml.push_str("</qemu:commandline>\n");
        xml
    }
}

/// Whether the VMM's own window is among who shows the screen.
fn shown_by_vmm(display: &[String]) -> bool {
    display.is_empty() || display.iter().any(|word| word == "vmm")
}

struct Part {
    id: String,
    driver: &'static str,
    properties: Value,
    socket: PathBuf,
    chardev: bool,
}

impl Part {
    fn chardev_id(&self) -> String {
        format!("{}-chardev", self.id)
    }

    /// Its device in the JSON of `-device` and `device_add`.
    fn device(&self) -> Value {
        let mut device = json!({ "driver": self.driver, "id": self.id });
        match self.chardev {
            true => device["chardev"] = self.chardev_id().into(),
            false => device["socket"] = json!({ "type": "unix", "path": self.socket }),
        }
        for (name, value) in self.properties.as_object().into_iter().flatten() {
            device[name] = value.clone();
        }
        device
    }
}

/// A path among the commas of QEMU's options: one in it is written twice.
fn commas(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
