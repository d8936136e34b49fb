//! What the words about OpenGL and Vulkan mean together.

use std::path::PathBuf;
use std::time::Duration;

use protocol::CapsetId;
use renderer::library::Kind;

use crate::args::{Options, Usage};
use crate::values::{ModelKind, RendererKind, Switch, TransportKind};

/// The guest's view of 3D memory where nobody says how large.
const WINDOW: u64 = 1 << 30;
/// The smallest and the largest one.
const WINDOWS: (u64, u64) = (16 << 20, 1 << 40);
/// What drivers want before they have drawn anything.
const LEAST_MEMORY: u64 = 256 << 20;
/// How long a process may stand still.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many may be started in a minute.
const RESTARTS: u32 = 6;

/// What was asked for of 3D.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreeD {
    /// What may be offered, in order.
    pub capsets: Vec<CapsetId>,
    /// Whether the user named them: then each must be there.
    pub named: bool,
    /// The guest's view of 3D memory in bytes; 0 is none.
    pub window: u64,
    /// What draws; without it, the processor.
    pub node: Option<PathBuf>,
    /// How long a process may make no progress.
    pub patience: Duration,
    /// How many are started within a minute, of a kind.
    pub restarts: u32,
    /// The most memory that each process has for itself, in bytes, where the user said so.
    pub memory: Option<u64>,
    /// Whether what draws has a process of its own.
    pub isolate: bool,
    /// The library, where the user named it.
    pub library: Option<PathBuf>,
    /// The program for Vulkan, where the user named it.
    pub server: Option<PathBuf>,
}

impl ThreeD {
    /// What the words ask for; `None` without 3D.
    pub fn judge(options: &Options) -> Result<Option<ThreeD>, Usage> {
        if options.virgl && options.renderer.is_some_and(|kind| kind != RendererKind::Virgl) {
            return usage("--virgl asks for --renderer virgl, and another renderer is named: leave one of them out");
        }
        if !options.virgl && options.renderer != Some(RendererKind::Virgl) {
            let words = [
                ("--capsets", options.capsets.is_some()),
                ("--window", options.window.is_some()),
                ("--renderer-patience", options.renderer_patience.is_some()),
                ("--renderer-restarts", options.renderer_restarts.is_some()),
                ("--renderer-memory", options.renderer_memory.is_some()),
                ("--arbiter-socket", options.arbiter_socket.is_some()),
                // That it has a process of its own is true of what is not there.
                ("--isolate off", options.isolate == Some(Switch::Off)),
                ("--virglrenderer", options.virglrenderer.is_some()),
                ("--render-server", options.render_server.is_some()),
            ];
            return match words.iter().find(|(_, said)| *said) {
                None => Ok(None),
                Some((word, _)) => usage(format!("{word} belongs to 3D: ask for it by --renderer virgl")),
            };
        }
        let over_pci = options.transport == Some(TransportKind::VfioUser);
        if over_pci && options.model == Some(ModelKind::Bochs) {
            return usage(
                "--renderer virgl and --model bochs: it is a framebuffer alone; --model vga and virtio draw 3D",
            );
        }
        let isolate = options.isolate != Some(Switch::Off);
        let words = [
            ("--renderer-patience", options.renderer_patience.is_some()),
            ("--renderer-restarts", options.renderer_restarts.is_some()),
            ("--arbiter-socket", options.arbiter_socket.is_some()),
        ];
        if let Some((word, _)) = words.iter().find(|(_, said)| *said && !isolate) {
            return usage(format!(
                "{word} and --isolate off: what draws 3D has no process then that could be ended, started again or stopped for a while; leave \
                 out one of them"
            ));
        }
        let (capsets, named) = capsets(options, over_pci)?;
        let maps = capsets.iter().any(|capset| maps(*capset));
        let window = match options.window.map(|bytes| bytes.0) {
            Some(0) if named && maps => return usage("--window 0 leaves no room for venus: leave out one of them"),
            Some(0) => 0,
            Some(_) if over_pci => {
                return usage(format!(
                    "--window and --transport vfio-user: {FIXED}; use the generic vhost-user device"
                ));
            }
            Some(bytes) if !bytes.is_power_of_two() || bytes < WINDOWS.0 || bytes > WINDOWS.1 => {
                return usage(format!("--window {bytes} is not a power of two from 16M to 1024G"));
            }
            Some(_) if !maps => return usage("--window is for venus, which --capsets leaves out"),
            Some(bytes) => bytes,
            None if maps => WINDOW,
            None => 0,
        };
        Ok(Some(ThreeD {
            capsets: capsets.into_iter().filter(|capset| window > 0 || !self::maps(*capset)).collect(),
            named,
            window,
            node: options.render_node.clone(),
            patience: match options.renderer_patience {
                Some(seconds @ 1..=3600) => Duration::from_secs(seconds.into()),
                Some(_) => return usage("--renderer-patience takes 1 to 3600 seconds"),
                None => PATIENCE,
            },
            restarts: match options.renderer_restarts {
                Some(count @ 1..=1000) => count,
                Some(_) => return usage("--renderer-restarts takes 1 to 1000 a minute"),
                None => RESTARTS,
            },
            memory: match options.renderer_memory.map(|bytes| bytes.0) {
                Some(bytes) if bytes < LEAST_MEMORY => return usage("--renderer-memory takes 256M or more"),
                said => said,
            },
            isolate,
            library: options.virglrenderer.clone(),
            server: options.render_server.clone(),
        }))
    }

    /// Whether a process of this kind can be needed.
    pub fn wants(&self, kind: Kind) -> bool {
        self.capsets.iter().any(|capset| Kind::of(*capset) == Some(kind))
    }
}

/// Why a PCI function of ours has no window.
const FIXED: &str = "the VMM maps a card's memory once, and what Vulkan shows a guest changes all the time";

fn capsets(options: &Options, over_pci: bool) -> Result<(Vec<CapsetId>, bool), Usage> {
    match &options.capsets {
        Some(words) => match words.0.iter().find(|capset| over_pci && maps(**capset)) {
            Some(capset) => usage(format!(
                "--capsets {capset} and --transport vfio-user: {FIXED}; use the generic vhost-user device"
            )),
            None => Ok((words.0.clone(), true)),
        },
        None => {
            let usual = [CapsetId::VIRGL, CapsetId::VIRGL2, CapsetId::VENUS];
            Ok((usual.into_iter().filter(|capset| !over_pci || !maps(*capset)).collect(), false))
        }
    }
}

/// Whether contexts of it show memory of theirs to the guest.
pub fn maps(capset: CapsetId) -> bool {
    Kind::of(capset) == Some(Kind::Vk)
}

fn usage<T>(why: impl Into<String>) -> Result<T, Usage> {
    Err(Usage(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn judge(line: &str) -> Result<Option<ThreeD>, Usage> {
        let words = std::iter::once("beamsplit-device").chain(line.split_whitespace()).map(OsString::from);
        ThreeD::judge(&Options::parse_words(words).unwrap())
    }

    fn asked(line: &str) -> ThreeD {
        judge(line).unwrap().unwrap()
    }

    #[test]
    fn without_a_word_there_is_no_3d() {
        assert_eq!(judge("--fd 3").unwrap(), None);
        assert_eq!(judge("--fd 3 --renderer soft --render-node /dev/dri/renderD128").unwrap(), None);
    }

    #[test]
    fn either_word_asks_for_all_that_the_front_end_can_have() {
        let all = [CapsetId::VIRGL, CapsetId::VIRGL2, CapsetId::VENUS];
        for line in ["--fd 3 --virgl", "--fd 3 --renderer virgl", "--fd 3 --virgl --renderer virgl"] {
            let words = asked(line);
            assert_eq!((words.capsets.as_slice(), words.named, words.window), (&all[..], false, 1 << 30), "{line}");
            assert!(words.wants(Kind::Gl) && words.wants(Kind::Vk));
        }
        let card = asked("--fd 3 --virgl --transport vfio-user");
        assert_eq!((card.capsets.as_slice(), card.window), (&all[..2], 0));
        assert!(!card.wants(Kind::Vk));
        assert_eq!(asked("--fd 3 --virgl --window 0").capsets, all[..2]);
        assert_eq!(asked("--fd 3 --virgl --capsets virgl2").window, 0);
    }

    #[test]
    fn what_draws_has_a_process_of_its_own_unless_that_is_switched_off() {
        assert!(asked("--fd 3 --virgl").isolate && asked("--fd 3 --virgl --isolate on").isolate);
        assert!(!asked("--fd 3 --virgl --isolate off").isolate);
        // Said of nothing it changes nothing.
        assert_eq!(judge("--fd 3 --isolate on").unwrap(), None);
    }

    #[test]
    fn words_that_cannot_be_true_together_are_refused_with_the_reason() {
        for (line, named) in [
            ("--virgl --renderer soft", "--virgl"),
            ("--window 1G", "--renderer virgl"),
            ("--renderer soft --capsets venus", "--renderer virgl"),
            ("--renderer-patience 3", "--renderer virgl"),
            ("--virgl --transport vfio-user --model bochs", "bochs"),
            ("--virgl --transport vfio-user --capsets venus", "changes all the time"),
            ("--virgl --transport vfio-user --window 1G", "generic vhost-user device"),
            ("--virgl --capsets venus --window 0", "--window 0"),
            ("--virgl --capsets virgl2 --window 1G", "venus"),
            ("--virgl --window 3G", "power of two"),
            ("--virgl --window 1M", "power of two"),
            ("--virgl --renderer-patience 0", "1 to 3600"),
            ("--virgl --renderer-restarts 0", "1 to 1000"),
            ("--virgl --renderer-memory 255M", "256M"),
            ("--renderer soft --arbiter-socket /a", "--renderer virgl"),
            ("--virgl --isolate off --arbiter-socket /a", "stopped for a while"),
            ("--isolate off", "--renderer virgl"),
            ("--virgl --isolate off --renderer-patience 3", "could be ended"),
            ("--virgl --isolate off --renderer-restarts 3", "--renderer-restarts"),
        ] {
            let message = judge(&format!("--fd 3 {line}")).expect_err(line).to_string();
            assert!(message.contains(named), "{line}: {message}");
        }
    }
}
