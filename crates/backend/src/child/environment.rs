//! What a process for 3D finds in its environment: made anew, so that no word meant for another program steers a driver.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Spec;

/// In our own environment, what begins so is meant for these processes alone: without this beginning.
const PREFIX: &str = "BEAMSPLIT_RENDERER_";
/// Names, or how names begin, of what users say to loaders and drivers.
const PASSED: &[&str] = &[
    // Whose processes they are, for a manager that finds them without their device.
    "BEAMSPLIT_VGPU",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "VK_ADD_",
    "LIBGL_",
    "GBM_",
    "__EGL_",
    "EGL_",
    "MESA_",
    "GALLIUM_",
    "LP_",
    "DRI_PRIME",
    "RUST_BACKTRACE",
];

/// The environment, out of `ours`.
pub fn environment(spec: &Spec, ours: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let mut made: Vec<(OsString, OsString)> = vec![
        ("PATH".into(), "/usr/bin:/bin".into()),
        ("HOME".into(), "/nonexistent".into()),
        // Layers change what is drawn, and some of them talk to other programs.
        ("VK_LOADER_LAYERS_DISABLE".into(), "~implicit~".into()),
    ];
    if spec.node.is_none() {
        made.push(("EGL_PLATFORM".into(), "surfaceless".into()));
    }
    match &spec.shaders {
        Some(folder) => {
            made.push(("MESA_SHADER_CACHE_DIR".into(), folder.into()));
            made.push(("MESA_SHADER_CACHE_MAX_SIZE".into(), "64M".into()));
        }
        None => made.push(("MESA_SHADER_CACHE_DISABLE".into(), "true".into())),
    }
    let (meant, all): (Vec<_>, Vec<_>) = ours
        .into_iter()
        .partition(|(name, _)| name.to_str().is_some_and(|name| name.len() > PREFIX.len() && name.starts_with(PREFIX)));
    let passes = |name: &OsString| name.to_str().is_some_and(|name| PASSED.iter().any(|start| name.starts_with(start)));
    made.extend(all.into_iter().filter(|(name, _)| passes(name)));
    made.extend(meant.into_iter().filter_map(|(name, value)| Some((name.to_str()?[PREFIX.len()..].into(), value))));
    made
}

/// Folders and files that the environment names: loaders and drivers read them.
pub fn paths(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<PathBuf> {
    // These have reasons of their own to be touched, or none.
    let others = ["PATH", "HOME", "MESA_SHADER_CACHE_DIR"];
    let named = environment.into_iter().filter(|(name, _)| !others.iter().any(|other| name == other));
    let paths = named.flat_map(|(_, value)| std::env::split_paths(&value).collect::<Vec<_>>());
    // The root would be everything.
    paths.filter(|path| path.is_absolute() && path != Path::new("/")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(spec: &Spec, ours: &[(&str, &str)]) -> Vec<(String, String)> {
        let text = |word: OsString| word.into_string().unwrap();
        let ours = ours.iter().map(|(name, value)| (name.into(), value.into()));
        environment(spec, ours).into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    /// What a program sees: the last one of a name.
    fn value(made: &[(String, String)], name: &str) -> Option<String> {
        made.iter().rev().find(|(other, _)| other == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn words_for_drivers_pass_and_others_do_not() {
        let ours = [("LIBGL_ALWAYS_SOFTWARE", "1"), ("DISPLAY", ":0"), ("SECRET", "x"), ("LD_LIBRARY_PATH", "/t/lib")];
        let made = made(&Spec::plain(), &ours);
        assert_eq!(value(&made, "LIBGL_ALWAYS_SOFTWARE").as_deref(), Some("1"));
        assert_eq!(value(&made, "LD_LIBRARY_PATH").as_deref(), Some("/t/lib"));
        assert_eq!((value(&made, "DISPLAY"), value(&made, "SECRET")), (None, None));
        assert_eq!(value(&made, "EGL_PLATFORM").as_deref(), Some("surfaceless"));
    }

    #[test]
    fn what_is_meant_for_them_alone_wins() {
        let ours = [("BEAMSPLIT_RENDERER_LD_PRELOAD", "/a.so"), ("LD_PRELOAD", "/b.so"), ("BEAMSPLIT_RENDERER_", "x")];
        let made = made(&Spec::plain(), &ours);
        assert_eq!(value(&made, "LD_PRELOAD").as_deref(), Some("/a.so"));
        assert!(made.iter().all(|(name, _)| !name.is_empty() && !name.starts_with("BEAMSPLIT")));
    }

    #[test]
    fn a_node_leaves_the_platform_open_and_shaders_stay_with_their_guest() {
        let spec = Spec { node: Some("/dev/dri/renderD128".into()), shaders: Some("/c/1".into()), ..Spec::plain() };
        let made = made(&spec, &[]);
        assert_eq!(value(&made, "EGL_PLATFORM"), None);
        assert_eq!(value(&made, "MESA_SHADER_CACHE_DIR").as_deref(), Some("/c/1"));
    }

    #[test]
    fn paths_that_were_named_are_known_and_the_root_is_none() {
        let words = [("LD_LIBRARY_PATH", "/t/a:/t/b"), ("LP_NUM_THREADS", "2"), ("X", "/"), ("HOME", "/home/ann")];
        let found = paths(words.map(|(name, value)| (name.into(), value.into())));
        assert_eq!(found, [PathBuf::from("/t/a"), "/t/b".into()]);
    }
}
