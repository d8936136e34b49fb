//! The structure that the design promises: which crate may name which, and where `unsafe` may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::workspace;

/// The edges that are allowed between the project's libraries and programs.
const ALLOWED: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("frames", &[]),
    ("jail", &[]),
    ("arbiter", &[]),
    ("host", &[]),
    ("manager", &[]),
    ("device", &["protocol"]),
    ("renderer", &["device", "protocol"]),
    ("display", &["device", "protocol", "frames"]),
    ("transport", &["device", "protocol"]),
    ("viewer", &["frames"]),
    ("backend", &["protocol", "device", "renderer", "display", "transport", "frames", "jail", "arbiter"]),
    ("beamsplit", &["viewer", "frames", "jail", "arbiter", "host", "manager"]),
    // Nothing depends on these, so they may use what they like.
    ("guest-agent", &[]),
    ("guest-probe", &[]),
    ("guest-scene", &[]),
    ("lying-renderer", &["renderer"]),
    ("udmabuf-stand-in", &[]),
    ("surfaceless-stand-in", &[]),
    ("bench", EVERYTHING),
    ("tests", EVERYTHING),
    ("xtask", &["tests"]),
    ("fuzz", EVERYTHING),
];

/// Edges that only a crate's own tests may add: conversations of device, and of a whole card, are held with a real renderer, and
/// with `late`, directly and over rings; the program of the data plane is served to the bench's front-end.
const ALLOWED_IN_TESTS: &[(&str, &str)] =
    &[("device", "renderer"), ("device", "transport"), ("transport", "renderer"), ("backend", "bench")];

const EVERYTHING: &[&str] = &[
    "protocol",
    "frames",
    "jail",
    "arbiter",
    "host",
    "manager",
    "device",
    "renderer",
    "display",
    "transport",
    "viewer",
    "backend",
    "beamsplit",
    "guest-agent",
    "bench",
    "tests",
];

#[test]
fn no_crate_depends_on_one_that_the_design_does_not_allow() -> Result<()> {
    let mut wrong = Vec::new();
    for (name, dependencies) in edges(&workspace::root().join("Cargo.toml"))? {
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
            wrong.push(format!("{name} is not in the design"));
            continue;
        };
        for (to, only_in_tests) in dependencies {
            let excused = only_in_tests && ALLOWED_IN_TESTS.contains(&(&name, &to));
            if !allowed.contains(&to.as_str()) && !excused {
                wrong.push(format!("{name} -> {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "Edges that the design does not allow: {wrong:#?}");
    Ok(())
}

/// The edges between packages of the workspace, and whether only tests have them; a crate's tests may use itself.
fn edges(manifest: &Path) -> Result<BTreeMap<String, BTreeSet<(String, bool)>>> {
    let mut cargo = workspace::cargo();
    cargo.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]).arg(manifest);
    let output = tests::bed::apt::checked(cargo)?;
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("No packages")?;
    let mut edges = BTreeMap::new();
    for package in packages {
        let name = short(package["name"].as_str().context("A package without a name")?);
        let dependencies = package["dependencies"].as_array().context("No dependencies")?;
        let ours = dependencies.iter().filter(|dependency| !dependency["path"].is_null());
        let ours = ours.filter_map(|edge| Some((short(edge["name"].as_str()?), edge["kind"] == "dev")));
        edges.insert(name.clone(), ours.filter(|(to, _)| *to != name).collect());
    }
    Ok(edges)
}

fn short(package: &str) -> String {
    package.strip_prefix("beamsplit-").unwrap_or(package).to_owned()
}

#[test]
fn unsafe_is_in_at_most_one_module_of_a_crate_and_each_block_says_why() -> Result<()> {
    let mut modules = BTreeMap::<PathBuf, Vec<PathBuf>>::new();
    let mut silent = Vec::new();
    for file in sources(workspace::root())? {
        let text = fs::read_to_string(&file)?;
        // Spelled in two parts, so that this file does not find itself.
        let attributes = ["allow", "expect", "warn"].map(|level| format!("[{level}({}_code", "unsafe"));
        if attributes.iter().any(|attribute| text.contains(attribute)) {
            modules.entry(crate_of(&file)).or_default().push(file.clone());
            if !text.contains("SAFETY:") {
                silent.push(file);
            }
        }
    }
    println!("Modules with unsafe code: {modules:#?}");
    modules.retain(|_, files| files.len() > 1);
    assert!(modules.is_empty(), "More than one module with unsafe code in a crate: {modules:#?}");
    assert!(silent.is_empty(), "Modules with unsafe code that do not say why: {silent:#?}");
    Ok(())
}

#[test]
fn each_crate_follows_the_workspaces_lints() -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_slice(&tests::bed::apt::checked(cargo)?.stdout)?;
    for package in metadata["packages"].as_array().context("No packages")? {
        let manifest = package["manifest_path"].as_str().context("No manifest")?;
        let text = fs::read_to_string(manifest)?;
        assert!(text.contains("[lints]\nworkspace = true"), "{manifest} does not follow the workspace's lints");
    }
    Ok(())
}

/// All Rust files of the project.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders: Vec<_> = ["crates", "tests", "bench", "fuzz", "xtask"].map(|name| root.join(name)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 10, "The project's sources were not found");
    Ok(files)
}

/// The folder of the package that a file belongs to.
/// The folder of the crate that a file is of: its package's, or its own for a test in several files.
fn crate_of(file: &Path) -> PathBuf {
    let is_root = |folder: &&Path| folder.join("Cargo.toml").exists() || folder.join("main.rs").exists();
    let tests = |folder: &Path| folder.parent().is_some_and(|parent| parent.ends_with("tests"));
    let mut folders = file.ancestors().skip(1).filter(is_root);
    let found = folders.find(|folder| folder.join("Cargo.toml").exists() || tests(folder));
    found.unwrap_or(file).to_owned()
}
