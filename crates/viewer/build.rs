//! Takes noVNC into the binary from the folder that BEAMSPLIT_NOVNC_DIR names; without it, it is looked for when the viewer runs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-env-changed=BEAMSPLIT_NOVNC_DIR");
    println!("cargo::rerun-if-changed=build.rs");
    let mut files = String::new();
    if let Some(folder) = env::var_os("BEAMSPLIT_NOVNC_DIR").map(PathBuf::from) {
        if !folder.join("core/rfb.js").is_file() {
            return Err(format!("BEAMSPLIT_NOVNC_DIR={} holds no core/rfb.js", folder.display()).into());
        }
        for part in ["core", "vendor"] {
            println!("cargo::rerun-if-changed={}", folder.join(part).display());
            list(&folder, &folder.join(part), &mut files)?;
        }
    }
    let code = format!("/// noVNC's files, by their path.\nstatic EMBEDDED: &[(&str, &[u8])] = &[\n{files}];\n");
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("novnc.rs"), code)?;
    Ok(())
}

fn list(root: &Path, path: &Path, files: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    if path.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        entries.sort();
        return entries.iter().try_for_each(|entry| list(root, entry, files));
    }
    if path.extension().is_some_and(|extension| extension == "js") {
        let name = path.strip_prefix(root)?.display().to_string();
        let full = fs::canonicalize(path)?;
        writeln!(files, "    ({name:?}, include_bytes!({:?})),", full.display().to_string())?;
    }
    Ok(())
}
