//! A grant: a definition and its type as they were when the vGPU was started, with what the one overrides of the other; and the
//! config file of the device that serves it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::machine::Refusal;
use crate::profile::{Renderer, Type, Types, display};
use crate::value::{self, Bytes, Capset, Mode};
use crate::vgpu::{Definition, Model, Transport};

/// What a device needs beside its boot display.
const MIN_MEMORY: u64 = 16 << 20;
/// The smallest and the largest framebuffer of a boot display, which takes [`BOOT_SHARE`] times as much.
const FRAMEBUFFER: (u64, u64) = (16 << 20, 64 << 20);
const BOOT_SHARE: u64 = 3;

/// What a started vGPU was given. It does not change while the vGPU runs, whatever becomes of its type and definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The definition.
    pub definition: Definition,
    /// The type, with the definition's own display and heads, and without what its transport cannot carry.
    pub profile: Type,
}

impl Grant {
    /// What this definition means where there are these types.
    pub fn resolve(definition: &Definition, types: &Types) -> Result<Grant, Refusal> {
        definition.check().map_err(Refusal::Invalid)?;
        let Some(kind) = types.get(&definition.kind) else {
            let names: Vec<&str> = types.iter().map(|kind| kind.name.as_str()).collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(Refusal::Invalid(format!("There is no type '{}': there are {there}", definition.kind)));
        };
        let mut profile = kind.clone();
        if let Some(words) = &definition.display {
            let empty = words.is_empty().then(|| "is empty: \"none\" is shown nowhere".to_owned());
            let wrong = empty.or(display::check(words).err());
            wrong.map_or(Ok(()), |why| Err(Refusal::Invalid(format!("display {why}"))))?;
            profile.display.clone_from(words);
        }
        if let Some(heads) = &definition.heads {
            within(heads, &kind.heads).map_err(|why| Refusal::Invalid(format!("Type '{}' {why}", kind.name)))?;
            profile.heads.clone_from(heads);
        }
        if definition.transport == Transport::VfioUser {
            card(&mut profile, definition.model.unwrap_or_default()).map_err(Refusal::Invalid)?;
        }
        for word in &mut profile.display {
            *word = display::resolve(word, definition.uuid);
        }
        Ok(Grant { definition: definition.clone(), profile })
    }

    /// Whose it is.
    pub fn uuid(&self) -> Uuid {
        self.definition.uuid
    }

    /// Whether a VMM is served a keyboard and pointer: where somebody looks who is not the VMM.
    pub fn has_input(&self) -> bool {
        self.profile.input && display::takes_input(&self.profile.display)
    }

    /// Whether it listens on a port of the host, where every user can connect.
    pub fn is_open(&self) -> bool {
        display::is_open(&self.profile.display)
    }

    /// The words of the device's config file, with its sockets in `folder`. `node` is the DRM render node of the type's GPU.
    pub fn device_toml(&self, folder: &Path, node: Option<&Path>) -> String {
        let Grant { definition, profile } = self;
        let card = definition.transport == Transport::VfioUser;
        let draws = profile.renderer == Renderer::Virgl;
        let words = DeviceWords {
            socket_path: folder.join(GPU_SOCKET),
            control_socket: folder.join(CONTROL_SOCKET),
            name: self.uuid().hyphenated().to_string(),
            transport: definition.transport.word(),
            model: card.then(|| definition.model.unwrap_or_default().word()),
            // With MSI-X a card that is unplugged takes QEMU 11.1 with it.
            msix: card.then_some("off"),
            renderer: if draws { "virgl" } else { "soft" },
            capsets: draws.then(|| profile.capsets.iter().map(|capset| capset.name()).collect::<Vec<_>>().join(",")),
            render_node: node.filter(|_| draws).map(Path::to_owned),
            renderer_memory: (draws && profile.isolate).then(|| Bytes(profile.renderer_memory())),
            arbiter_socket: (draws && profile.isolate).then(|| folder.join(ARBITER_SOCKET)),
            isolate: (draws && !profile.isolate).then_some("off"),
            display: &profile.display,
            heads: value::write_heads(&profile.heads),
            memory: Bytes(profile.memory),
            input_socket: self.has_input().then(|| folder.join(INPUT_SOCKET)).into_iter().collect(),
        };
        toml::to_string(&words).unwrap_or_else(|error| unreachable!("a config file is plain text and lists: {error}"))
    }
}

/// The VMM's socket, in the folder of a vGPU.
pub const GPU_SOCKET: &str = "gpu.sock";
/// The socket of its keyboard and pointer.
pub const INPUT_SOCKET: &str = "input.sock";
/// Where who gives out time slices connects.
pub const ARBITER_SOCKET: &str = "arbiter.sock";
/// The device's control socket.
pub const CONTROL_SOCKET: &str = "control.sock";

/// The config file of `beamsplit-device`, as far as the manager writes it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct DeviceWords<'a> {
    socket_path: PathBuf,
    control_socket: PathBuf,
    name: String,
    transport: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    msix: Option<&'static str>,
    renderer: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    capsets: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    render_node: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    renderer_memory: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arbiter_socket: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    isolate: Option<&'static str>,
    display: &'a [String],
    heads: String,
    memory: Bytes,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    input_socket: Vec<PathBuf>,
}

/// As many heads as the type has, none larger than its largest.
fn within(heads: &[Mode], allowed: &[Mode]) -> Result<(), String> {
    if heads.len() > allowed.len() {
        let what = if allowed.len() == 1 { "head" } else { "heads" };
        return Err(format!("has {} {what}, not {}", allowed.len(), heads.len()));
    }
    let pixels = |mode: &Mode| u64::from(mode.width) * u64::from(mode.height);
    let largest = allowed.iter().copied().max_by_key(pixels).ok_or("has no head")?;
    match heads.iter().find(|mode| pixels(mode) > pixels(&largest)) {
        Some(head) => Err(format!("has no head as large as {head}: {largest} is its largest")),
        None => Ok(()),
    }
}

/// What a card over vfio-user cannot have is left out, or refused when nothing is left.
fn card(profile: &mut Type, model: Model) -> Result<(), String> {
    let drew = profile.draws_3d();
    if model == Model::Bochs && drew {
        return Err("model \"bochs\" is a framebuffer alone: for 3D take vga or virtio".to_owned());
    }
    if model == Model::Bochs && profile.heads.len() > 1 {
        return Err("model \"bochs\" has one head: say heads, or take the model vga".to_owned());
    }
    // The VMM maps a card's memory once, and what Vulkan shows a guest changes all the time.
    profile.capsets.retain(|capset| *capset != Capset::Venus);
    if drew && !profile.draws_3d() {
        return Err("venus does not travel over vfio-user: take transport = \"vhost-user\"".to_owned());
    }
    if model != Model::Virtio {
        let first = profile.heads.first().map_or(0, |mode| u64::from(mode.width) * u64::from(mode.height) * 4);
        let least = MIN_MEMORY + BOOT_SHARE * first.next_power_of_two().clamp(FRAMEBUFFER.0, FRAMEBUFFER.1);
        if profile.memory < least {
            return Err(format!(
                "A boot display needs {} of memory, and type '{}' has {}: take the model virtio or a larger type",
                Bytes(least),
                profile.name,
                Bytes(profile.memory)
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Catalogue;
    use crate::testing::{gpu, uuid};

    const TYPES: &str = "
        [[type]]
        name = 'flat'
        memory = '32M'
        heads = '1920x1080,1280x800'
        [[type]]
        name = 'drawn'
        memory = '1G'
        capsets = ['virgl2', 'venus']
        display = ['web=127.0.0.1:0', 'capture=/run/{uuid}.png']
        [[type]]
        name = 'vulkan'
        memory = '1G'
        capsets = ['venus']
    ";

    fn resolve(text: &str) -> Result<Grant, String> {
        let types = Catalogue::parse(TYPES, &[gpu("software", 8 << 30)]).unwrap().types;
        let definition = Definition::parse(&format!("uuid = '{}'\n{text}", uuid(7))).unwrap();
        Grant::resolve(&definition, &types).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn the_device_is_told_what_the_type_says() {
        let grant = resolve("type = 'drawn'").unwrap();
        let text = grant.device_toml(Path::new("/run/b/7"), Some(Path::new("/dev/dri/renderD128")));
        assert_eq!(
            text,
            format!(
                r#"socket-path = "/run/b/7/gpu.sock"
control-socket = "/run/b/7/control.sock"
name = "{0}"
transport = "vhost-user"
renderer = "virgl"
capsets = "virgl2,venus"
render-node = "/dev/dri/renderD128"
renderer-memory = "1536M"
arbiter-socket = "/run/b/7/arbiter.sock"
display = ["web=127.0.0.1:0", "capture=/run/{0}.png"]
heads = "1280x800@60"
memory = "1G"
input-socket = ["/run/b/7/input.sock"]
"#,
                uuid(7)
            )
        );
    }

    #[test]
    fn a_definition_overrides_display_and_heads_within_its_type() {
        let grant = resolve("type = 'flat'\ndisplay = ['none']\nheads = '1280x1024@75'").unwrap();
        let text = grant.device_toml(Path::new("/r"), None);
        assert!(text.contains("heads = \"1280x1024@75\"") && text.contains("display = [\"none\"]"), "{text}");
        assert!(!text.contains("capsets") && !text.contains("input-socket"), "{text}");
        assert!(!grant.is_open() && !resolve("type = 'flat'\ndisplay = ['vmm', 'window']").unwrap().is_open());
        assert!(resolve("type = 'flat'\ndisplay = ['vmm', 'vnc=127.0.0.1:0']").unwrap().is_open());
        for (words, named) in [
            ("heads = '1x1,1x1,1x1'", "2 heads, not 3"),
            ("heads = '2560x1440'", "1920x1080@60 is its largest"),
            ("display = ['teapot']", "teapot"),
            ("display = []", "empty"),
        ] {
            assert!(resolve(&format!("type = 'flat'\n{words}")).unwrap_err().contains(named), "{words}");
        }
        assert!(resolve("type = 'other'").unwrap_err().contains("there are flat, drawn, vulkan"));
    }

    #[test]
    fn a_card_has_no_msix_and_no_venus_and_room_for_its_boot_display() {
        let grant = resolve("type = 'drawn'\ntransport = 'vfio-user'").unwrap();
        let text = grant.device_toml(Path::new("/r"), None);
        for word in ["transport = \"vfio-user\"", "model = \"vga\"", "msix = \"off\"", "capsets = \"virgl2\""] {
            assert!(text.contains(word), "{word}: {text}");
        }
        let card = |words: &str| resolve(&format!("transport = 'vfio-user'\n{words}"));
        assert!(card("type = 'vulkan'").unwrap_err().contains("vhost-user"));
        assert!(card("type = 'flat'").unwrap_err().contains("64M"));
        assert!(card("type = 'flat'\nmodel = 'virtio'").is_ok());
        assert!(card("type = 'drawn'\nmodel = 'bochs'").unwrap_err().contains("framebuffer alone"));
        assert!(card("type = 'flat'\nmodel = 'bochs'").unwrap_err().contains("one head"));
    }
}
