//! libvirglrenderer, loaded while running: OpenGL by the host's GL, Vulkan by its render server.
//!
//! [`Virgl::load`] binds what any version from 0.10.4 on has and takes what newer ones add when it is there;
//! [`Loaded::start`] initializes the library, once for the life of the process, and gives a [`Library`]. What the library would
//! get wrong (an id twice, a transfer past the backing, a ring that a context has not) is refused before it is called.
//!
//! [`probe`](probe()) finds out by use what a guest may be offered, and [`InProcess`] calls a library on the device's own thread: for
//! comparison, as a crash in it takes the process along.

mod fences;
mod ffi;
mod in_process;
mod log;
mod probe;
mod renderer;
mod ring;
mod rules;
mod server;
pub mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;

pub use self::in_process::{InProcess, Make};
pub use self::probe::{Missing, Probe, ProbedCapset, probe};
pub use self::server::find as find_render_server;
use crate::library::{Kind, Library, Sink};

/// The name that every version from 0.10.4 to 1.3 has.
const SONAME: &str = "libvirglrenderer.so.1";

/// How the library is found.
#[derive(Debug)]
pub enum Virgl {}

/// Why the library cannot be used.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The loader did not find it, or something it needs.
    #[error("Cannot load {name}: {why}; install the package libvirglrenderer1 or name the file")]
    Missing {
        /// What was asked for.
        name: String,
        /// What the loader says.
        why: String,
    },
    /// It lacks a function that every version has that works.
    #[error("{path} has no function {symbol}: virglrenderer 0.10.4 or newer is needed")]
    Symbol {
        /// The library.
        path: PathBuf,
        /// What it lacks.
        symbol: &'static str,
    },
}

/// Why the library did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// It is initialized once for the life of a process.
    #[error("virglrenderer was started in this process before")]
    Twice,
    /// Vulkan without a render server.
    #[error("Vulkan needs a render server's socket")]
    NoServer,
    /// It found no driver.
    #[error("virglrenderer found no usable {0} driver (error {1}); its own words are in the log")]
    Refused(&'static str, i32),
}

/// How the library is started.
pub struct Config {
    /// For what.
    pub kind: Kind,
    /// The render node of the GPU to use; without one, GL draws with whatever driver needs none.
    pub node: Option<OwnedFd>,
    /// A socket to a render server, which [`Kind::Vk`] needs. With one, a library for [`Kind::Gl`] serves contexts for Vulkan as well.
    pub server: Option<OwnedFd>,
    /// Who is told of fences.
    pub sink: Arc<dyn Sink>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, node, server, .. } = self;
        f.debug_struct("Config").field("kind", kind).field("node", node).field("server", server).finish_non_exhaustive()
    }
}

/// The library, not yet started.
#[derive(Debug)]
pub struct Loaded {
    functions: ffi::Functions,
    path: PathBuf,
}

impl Virgl {
    /// Loads the library, by its usual name or from a file. It stays for the life of the process.
    pub fn load(path: Option<&Path>) -> Result<Loaded, LoadError> {
        let name = path.unwrap_or(Path::new(SONAME));
        let missing = |why: String| LoadError::Missing { name: name.display().to_string(), why };
        let library = ffi::open(name).map_err(missing)?;
        let path = server::mapped_from(name);
        match ffi::Functions::bind(library) {
            Ok(functions) => Ok(Loaded { functions, path }),
            Err(symbol) => Err(LoadError::Symbol { path, symbol }),
        }
    }
}

/// The release whose build gives a library this file name.
fn release(file: &str) -> Option<&'static str> {
    let minor = file.strip_prefix(SONAME)?.strip_prefix('.')?.split('.').next()?;
    Some(match minor {
        "7" => "0.10",
        "8" => "1.0",
        "9" => "1.1",
        "10" => "1.2",
        "11" => "1.3",
        _ => return None,
    })
}

impl Loaded {
    /// The file it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version as far as it can be told: the library itself does not say.
    pub fn version(&self) -> String {
        let file = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let release = release(&file).unwrap_or(match (self.functions.has_log(), self.functions.has_fixed_maps()) {
            (false, _) => "0.10",
            (true, false) => "1.0 or 1.1",
            (true, true) => "1.2 or newer",
        });
        format!("{release} ({file})")
    }

    /// Functions of newer versions that this one has not.
    pub fn lacks(&self) -> Vec<&'static str> {
        self.functions.lacks()
    }

    /// Initializes it on this thread, which is the only one that may call what is returned.
    pub fn start(self, config: Config) -> Result<Box<dyn Library>, StartError> {
        Ok(Box::new(self.begin(config)?))
    }

    fn begin(self, config: Config) -> Result<renderer::Renderer<ffi::Started>, StartError> {
        static STARTED: AtomicBool = AtomicBool::new(false);
        if config.kind == Kind::Vk && config.server.is_none() {
            return Err(StartError::NoServer);
        }
        if STARTED.swap(true, Ordering::Relaxed) {
            return Err(StartError::Twice);
        }
        let kind = config.kind;
        let serves_both = kind == Kind::Gl && config.server.is_some();
        let name = match kind {
            Kind::Gl => "OpenGL",
            Kind::Vk => "Vulkan",
        };
        let started = ffi::Started::new(self.functions, config).map_err(|code| StartError::Refused(name, code))?;
        let renderer = renderer::Renderer::new(kind, started);
        Ok(if serves_both { renderer.with_vulkan() } else { renderer })
    }
}
