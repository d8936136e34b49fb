//! Files that belong to the library: which one was loaded, and the render server of the same build.

use std::fs;
use std::path::{Path, PathBuf};

/// What its users and its own build call the server's place.
const VARIABLE: &str = "RENDER_SERVER_EXEC_PATH";
const PROGRAM: &str = "virgl_render_server";
/// Where distributions put it, relative to the folder `usr` that the library lies in.
const PLACES: &[&str] = &["libexec", "lib/virglrenderer", "libexec/virglrenderer", "bin"];

/// The file that a library of this name is mapped from.
pub(super) fn mapped_from(name: &Path) -> PathBuf {
    let stem = name.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let real = fs::canonicalize(name).ok();
    let files = maps.lines().filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    let is_it = |file: &&Path| {
        let short = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&stem));
        real.as_deref() == Some(*file) || short
    };
    files.filter(|file| is_it(file)).map(Path::to_path_buf).next().unwrap_or(name.to_path_buf())
}

/// The render server that goes with a library: both must be of one build, as what they say to each other has no version.
pub fn find(library: &Path) -> Option<PathBuf> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    let usr = library.ancestors().find(|folder| folder.ends_with("usr") || folder.ends_with("local"));
    let folders = usr.into_iter().chain([Path::new("/usr"), Path::new("/usr/local")]);
    let beside = library.parent().map(|folder| folder.join(PROGRAM));
    let usual = folders.flat_map(|usr| PLACES.iter().map(move |place| usr.join(place).join(PROGRAM)));
    named.into_iter().chain(usual).chain(beside).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_of_the_librarys_own_tree_comes_first() {
        let tree = tempfile::tempdir().unwrap();
        let lib = tree.path().join("usr/lib/x86_64-linux-gnu/libvirglrenderer.so.1.9.0");
        let server = tree.path().join("usr/libexec").join(PROGRAM);
        fs::create_dir_all(server.parent().unwrap()).unwrap();
        fs::write(&server, "").unwrap();
        assert_eq!(find(&lib), Some(server));
    }

    #[test]
    fn a_library_that_is_mapped_is_found_by_its_name() {
        let libc = mapped_from(Path::new("libc.so.6"));
        assert!(libc.is_absolute() && libc.exists(), "{libc:?}");
    }
}
