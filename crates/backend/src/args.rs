//! The words of the command line and of the config file, parsed but not yet judged.
//!
//! One struct serves both: what is not said on the command line is taken from the file. What the words mean together
//! is decided in [`crate::config`].

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;
use serde::Deserialize;

use crate::values::{
    Bytes, Capsets, Heads, InputSocket, ModelKind, RendererKind, RomSource, SandboxMode, Sink, Switch, TransportKind,
};

/// Wrong usage: the program was not told something it can do. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Serves one virtual GPU to one virtual machine.
#[derive(Debug, Default, Clone, PartialEq, Parser, Deserialize)]
#[command(name = "beamsplit-device", version, max_term_width = 120)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Listen for the VMM on this Unix socket; accept again when a VM has gone.
    #[arg(long, value_name = "PATH", conflicts_with = "fd")]
    pub socket_path: Option<PathBuf>,

    /// Serve the VMM on this inherited, connected socket; exit when it hangs up (this is how libvirt starts us).
    #[arg(long, value_name = "N")]
    #[serde(skip)]
    pub fd: Option<i32>,

    /// How the VMM's words arrive.
    #[arg(long, value_enum)]
    pub transport: Option<TransportKind>,

    /// Over vfio-user, which card the guest finds [default: vga].
    #[arg(long, value_enum)]
    pub model: Option<ModelKind>,

    /// Over vfio-user, whether the functions have MSI-X interrupts. Without, they can be hot-unplugged from QEMU [default: on].
    #[arg(long, value_enum)]
    pub msix: Option<Switch>,

    /// Over vfio-user, whether the model vga has an I/O port for kicks too [default: on].
    #[arg(long, value_enum)]
    pub pio: Option<Switch>,

    /// Over vfio-user, the program by which SeaBIOS finds a boot display: a file, or `none` [default: the one of this host's
    /// package seabios].
    #[arg(long, value_name = "FILE")]
    pub rom: Option<RomSource>,

    /// Who makes the pixels: `soft` draws in memory, `virgl` does and has OpenGL and Vulkan of this host's libvirglrenderer
    /// besides, `null` draws nothing (the floor of a benchmark).
    #[arg(long, value_enum)]
    pub renderer: Option<RendererKind>,

    /// The same as --renderer virgl: how libvirt asks for OpenGL.
    #[arg(long)]
    pub virgl: bool,

    /// What of 3D the guest is offered, as in `virgl2,venus`: virgl, virgl2, venus, drm; one that this host lacks is then an
    /// error [default: all that this host has].
    #[arg(long, value_name = "LIST")]
    pub capsets: Option<Capsets>,

    /// The DRM render node that 3D is drawn with; without, it is drawn by the processor.
    #[arg(long, value_name = "PATH")]
    pub render_node: Option<PathBuf>,

    /// Size of the guest's view of 3D memory, which venus needs: a power of two [default: 1G where venus is offered, else 0].
    #[arg(long, value_name = "BYTES")]
    pub window: Option<Bytes>,

    /// Seconds without progress after which a 3D process is ended and replaced [default: 10].
    #[arg(long, value_name = "SECONDS")]
    pub renderer_patience: Option<u32>,

    /// How many 3D processes of a kind are started within a minute [default: 6].
    #[arg(long, value_name = "COUNT")]
    pub renderer_restarts: Option<u32>,

    /// Whether what draws 3D has a process of its own. With `off` it is in the device's: a crash of the library ends the guest's
    /// GPU. For comparison [default: on].
    #[arg(long, value_enum)]
    pub isolate: Option<Switch>,

    /// The most memory that each process for 3D may take for itself [default: --memory and 2G].
    #[arg(long, value_name = "BYTES")]
    pub renderer_memory: Option<Bytes>,

    /// The library to draw 3D with [default: the system's libvirglrenderer.so.1].
    #[arg(long, value_name = "PATH")]
    pub virglrenderer: Option<PathBuf>,

    /// The program that Vulkan runs in, of the same build as the library [default: where distributions have
    /// virgl_render_server].
    #[arg(long, value_name = "PATH")]
    pub render_server: Option<PathBuf>,

    /// Who shows the pixels: vmm, none, capture=FILE.png, vnc=ADDR, web=ADDR or window[,fullscreen[=MONITOR]]; may be given
    /// several times.
    #[arg(long, value_name = "SINK")]
    pub display: Vec<Sink>,

    /// The monitors the guest sees, as `WIDTHxHEIGHT[@REFRESH]`, separated by commas.
    #[arg(long, value_name = "HEADS")]
    pub heads: Option<Heads>,

    /// Give the first monitor the identity in this file (EDID, 128 to 1024 bytes).
    #[arg(long, value_name = "FILE")]
    pub edid: Option<PathBuf>,

    /// Refresh rate in Hz of each monitor that names none.
    #[arg(long, value_name = "HZ")]
    pub refresh: Option<u32>,

    /// The most memory that the guest may have of all that it makes by commands, of every kind together: images, resources of 3D,
    /// blobs, cursors, copies for viewers [default: 256M, with 3D 1G].
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<Bytes>,

    /// Serve a keyboard and pointer to the VMM on this Unix socket, for those who see the screen by vnc, web or window;
    /// with `,touch` a touch screen. One of each may be given. Over vfio-user there is a keyboard without being asked for,
    /// on the path of --socket-path with `.input` behind it.
    #[arg(long, value_name = "PATH[,touch]")]
    pub input_socket: Vec<InputSocket>,

    /// Let only holders of a token look (`look = ["..."]`) or look and type (`control = ["..."]`); a TOML file that
    /// nobody else can read.
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,

    /// Answer questions (stats, screenshot, resize) as HTTP on this Unix socket.
    #[arg(long, value_name = "PATH")]
    pub control_socket: Option<PathBuf>,

    /// Let the manager of time slices, who connects to this Unix socket, say when 3D may be drawn.
    #[arg(long, value_name = "PATH")]
    pub arbiter_socket: Option<PathBuf>,

    /// What to call this vGPU in logs, statistics and viewers.
    #[arg(long)]
    pub name: Option<String>,

    /// Lock the process in once it has started; `log` only reports what `on` would refuse.
    #[arg(long, value_enum)]
    pub sandbox: Option<SandboxMode>,

    /// What to log, as in `info` or `warn,device=debug` [default: info; also read from BEAMSPLIT_LOG].
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,

    /// Print what this program can do, as the vhost-user convention wants it, and exit.
    #[arg(long)]
    #[serde(skip)]
    pub print_capabilities: bool,

    /// With --print-capabilities: look what this host has for 3D, and print it all; with the other options given.
    #[arg(long, requires = "print_capabilities")]
    #[serde(skip)]
    pub verbose: bool,

    /// Read the options that are not given here from this TOML file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    // Words of the design that nothing answers to yet. They are known, so that the refusal can say so.
    #[arg(long, hide = true)]
    wayland: Option<String>,
}

impl Options {
    /// Takes the command line apart. `Err` holds what clap wants to print: a refusal, or the text of `--help`.
    pub fn parse_words(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Options::try_parse_from(words)
    }

    /// Reads the words of a config file. The message of an error names the line.
    pub fn from_toml(text: &str) -> Result<Self, Usage> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            Usage(format!("line {line}: {}", error.message().replace('\n', " ")))
        })
    }

    /// What was said here, else what `file` says. `--socket-path` and `--fd` speak of the same thing: either one
    /// silences the file's.
    pub fn or(self, file: Options) -> Options {
        let endpoint_given = self.socket_path.is_some() || self.fd.is_some();
        Options {
            socket_path: if endpoint_given { self.socket_path } else { file.socket_path },
            fd: self.fd,
            transport: self.transport.or(file.transport),
            model: self.model.or(file.model),
            msix: self.msix.or(file.msix),
            pio: self.pio.or(file.pio),
            rom: self.rom.or(file.rom),
            // Asked for OpenGL on the command line, the file's renderer is not.
            renderer: self.renderer.or(if self.virgl { None } else { file.renderer }),
            virgl: self.virgl || self.renderer.is_none() && file.virgl,
            capsets: self.capsets.or(file.capsets),
            render_node: self.render_node.or(file.render_node),
            window: self.window.or(file.window),
            renderer_patience: self.renderer_patience.or(file.renderer_patience),
            renderer_memory: self.renderer_memory.or(file.renderer_memory),
            renderer_restarts: self.renderer_restarts.or(file.renderer_restarts),
            virglrenderer: self.virglrenderer.or(file.virglrenderer),
            render_server: self.render_server.or(file.render_server),
            display: if self.display.is_empty() { file.display } else { self.display },
            heads: self.heads.or(file.heads),
            edid: self.edid.or(file.edid),
            refresh: self.refresh.or(file.refresh),
            memory: self.memory.or(file.memory),
            input_socket: if self.input_socket.is_empty() { file.input_socket } else { self.input_socket },
            tokens: self.tokens.or(file.tokens),
            control_socket: self.control_socket.or(file.control_socket),
            arbiter_socket: self.arbiter_socket.or(file.arbiter_socket),
            name: self.name.or(file.name),
            sandbox: self.sandbox.or(file.sandbox),
            log: self.log.or(file.log),
            print_capabilities: self.print_capabilities,
            verbose: self.verbose,
            config: self.config,
            wayland: self.wayland.or(file.wayland),
            isolate: self.isolate.or(file.isolate),
        }
    }

    /// Refuses what is planned and not built, each with the way out.
    pub fn refuse_planned(&self) -> Result<(), Usage> {
        if self.wayland.is_some() {
            return Err(Usage(
                "--wayland is planned, not built yet: leave it out; the guest has its own desktop".to_owned(),
            ));
        }
        Ok(())
    }
}

/// clap's message in one line: what it says before its usage text, with its tip.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let said: Vec<&str> = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let line = said.join("; ");
    capitalised(line.strip_prefix("error: ").unwrap_or(&line))
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn words(line: &str) -> Result<Options, clap::Error> {
        Options::parse_words(std::iter::once("beamsplit-device").chain(line.split_whitespace()).map(OsString::from))
    }

    fn options(line: &str) -> Options {
        words(line).unwrap()
    }

    #[test]
    fn the_grammar_holds_together() {
        Options::command().debug_assert();
    }

    #[test]
    fn bad_words_are_refused_in_one_line_that_names_them() {
        let cases = [
            ("--nonsense", "--nonsense"),
            ("--socket-path", "--socket-path"),
            ("--socket-path /a --fd 3", "--fd"),
            ("--fd three", "three"),
            ("--renderer opengl", "opengl"),
            ("--transport tcp", "tcp"),
            ("--model cirrus", "cirrus"),
            ("--msix yes", "yes"),
            ("--pio 1", "'1'"),
            ("--rom=", "Name the file"),
            ("--sandbox maybe", "maybe"),
            ("--heads 1280", "1280"),
            ("--heads 1280x800,,", "Head 2"),
            ("--heads 0x800", "0x800"),
            ("--heads 1280x800@0", "@0"),
            ("--display teapot", "teapot"),
            ("--display capture", "capture=FILE.png"),
            ("--display vnc=example.org:5900", "example.org:5900"),
            ("--display web", "web=ADDR"),
            ("--display window,full", "window,fullscreen=MONITOR"),
            ("--input-socket /a,tuch", "tuch"),
            ("--input-socket ,touch", "Name the socket"),
            ("--capsets venus,gl", "gl"),
            ("--capsets=", "virgl2,venus"),
            ("--window big", "big"),
            ("--renderer-patience soon", "soon"),
            ("--isolate maybe", "maybe"),
            ("--fd 3 --verbose", "--print-capabilities"),
            ("--memory lots", "lots"),
            ("--memory 99999999999G", "99999999999G"),
            ("--refresh fast", "fast"),
            ("stray", "stray"),
        ];
        for (line, named) in cases {
            let message = one_line(&words(line).expect_err(line));
            assert!(message.contains(named), "{line}: {message}");
            assert!(!message.contains('\n'), "{line}: {message}");
            assert!(message.starts_with(|first: char| first.is_uppercase()), "{line}: {message}");
        }
    }

    #[test]
    fn planned_words_are_refused_with_the_way_out() {
        let message = options("--wayland /run/wayland-0").refuse_planned().expect_err("--wayland").to_string();
        assert!(message.contains("--wayland") && message.contains("leave it out"), "{message}");
    }

    #[test]
    fn the_convention_of_libvirt_is_understood() {
        let options = options("--fd=27 --virgl --render-node=/dev/dri/renderD128");
        assert_eq!(options.fd, Some(27));
        assert!(options.virgl);
        assert_eq!(options.render_node, Some(PathBuf::from("/dev/dri/renderD128")));
        assert!(options.refuse_planned().is_ok());
    }

    #[test]
    fn the_file_uses_the_words_of_the_command_line() {
        let said = options(
            "--socket-path /a --display vnc=127.0.0.1:5900 --display none --heads 640x480@75 --memory 64M --input-socket /in --input-socket /in2,touch --tokens /tokens --transport vfio-user --model bochs --msix off --pio off --rom /rom --renderer virgl --capsets virgl2,venus --render-node /dev/dri/renderD128 --window 512M --renderer-patience 5 --renderer-restarts 3 --renderer-memory 1G --arbiter-socket /arbiter --isolate on --virglrenderer /lib/v.so --render-server /libexec/s",
        );
        let file = Options::from_toml(
            r#"
            socket-path = "/a"
            display = ["vnc=127.0.0.1:5900", "none"]
            heads = "640x480@75"
            memory = "64M"
            input-socket = ["/in", "/in2,touch"]
            tokens = "/tokens"
            transport = "vfio-user"
            model = "bochs"
            msix = "off"
            pio = "off"
            rom = "/rom"
            renderer = "virgl"
            capsets = "virgl2,venus"
            render-node = "/dev/dri/renderD128"
            window = "512M"
            renderer-patience = 5
            renderer-restarts = 3
            renderer-memory = "1G"
            arbiter-socket = "/arbiter"
            isolate = "on"
            virglrenderer = "/lib/v.so"
            render-server = "/libexec/s"
            "#,
        );
        assert_eq!(file.unwrap(), said);
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file =
            Options::from_toml("heads = \"640x480\"\nmemory = \"64M\"\ndisplay = [\"none\"]\nvirgl = true\n").unwrap();
        let merged = options("--fd 3 --memory 32M").or(file.clone());
        assert_eq!(merged.memory, options("--memory 32M").memory);
        assert_eq!(merged.heads, file.heads);
        assert_eq!(merged.display, file.display);
        assert!(merged.virgl);
    }

    #[test]
    fn opengl_asked_for_on_the_command_line_wins_over_the_files_renderer() {
        let file = |text| Options::from_toml(text).unwrap();
        let merged = options("--fd 3 --virgl").or(file("renderer = \"soft\""));
        assert_eq!((merged.renderer, merged.virgl), (None, true));
        let merged = options("--fd 3 --renderer soft").or(file("virgl = true"));
        assert_eq!((merged.renderer, merged.virgl), (Some(RendererKind::Soft), false));
    }

    #[test]
    fn an_inherited_socket_silences_the_path_of_the_file() {
        let file = Options::from_toml("socket-path = \"/a\"").unwrap();
        assert_eq!(options("--fd 3").or(file).socket_path, None);
    }

    #[test]
    fn bad_files_are_refused_with_the_line() {
        for (text, line, named) in [
            ("heads = \"640x480\"\ncolour = \"red\"\n", "line 2", "colour"),
            ("memory = \"lots\"", "line 1", "lots"),
            ("\n\nsandbox = \"off", "line 3", "string"),
            ("fd = 3", "line 1", "fd"),
        ] {
            let message = Options::from_toml(text).expect_err(text).to_string();
            assert!(message.contains(line) && message.contains(named), "{text:?}: {message}");
            assert!(!message.contains('\n'), "{text:?}: {message}");
        }
    }
}
