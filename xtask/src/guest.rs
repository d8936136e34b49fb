//! Guest tests, by theme: one file each in `tests/tests`.

use std::fs;

use anyhow::{Context, Result, bail};
use clap::Args;
use tests::{bed, workspace};

use crate::step::cargo;

/// Which guest tests.
#[derive(Args)]
pub struct Options {
    /// The theme, as in `screen`: a file in tests/tests. Without one, the themes are listed.
    name: Option<String>,
    /// Options of the test runner.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs one theme.
pub fn run(options: &Options) -> Result<()> {
    let themes = themes()?;
    let Some(name) = &options.name else {
        println!("{}", themes.join("\n"));
        return Ok(());
    };
    // Two words are a file's name with either mark.
    let name = &name.replace('-', "_");
    if !themes.contains(name) {
        bail!("No guest tests named {name}; there are {}", themes.join(", "));
    }
    let mut words = vec!["test", "-p", "beamsplit-tests", "--test", name, "--", "--nocapture"];
    words.extend(options.arguments.iter().map(String::as_str));
    cargo(&words)
}

fn themes() -> Result<Vec<String>> {
    let folder = workspace::root().join("tests/tests");
    let mut themes = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("Cannot read {}", folder.display()))? {
        let path = entry?.path();
        if let (Some("rs"), Some(stem)) = (path.extension().and_then(|word| word.to_str()), path.file_stem()) {
            themes.push(stem.to_string_lossy().into_owned());
        }
    }
    themes.sort();
    Ok(themes)
}

/// Makes all of the bed.
pub fn make_bed() -> Result<()> {
    bed::vm()?;
    bed::kernel()?;
    bed::initramfs(&["gpu"])?;
    bed::boot()?;
    bed::tools()?;
    bed::page()?;
    bed::window()?;
    bed::vm_window()?;
    bed::desktop()?;
    bed::mesa_disk()?;
    bed::service_disk()?;
    Ok(())
}
