//! The data plane of one vGPU: serves one virtio-gpu to one VMM, and input devices beside it.
//!
//! The words are parsed ([`args`]) and judged ([`config`]); what the machine must have is looked for before anything is
//! made ([`preflight`]); the parts are put together ([`assembly`]); the process locks itself in ([`sandbox`]); only then
//! is the first byte of a guest read.

mod args;
mod assembly;
mod card;
mod config;
mod control;
mod inherited;
mod input;
mod launcher;
mod logging;
mod preflight;
mod rights;
mod sandbox;
mod stop;
mod three_d;
mod values;
mod vgpu;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use device::{Desktop, Stats};

use args::{Options, Usage};
use assembly::Parts;
use card::Card;
use config::Config;
use control::mailbox::mailbox;
use input::Input;
use preflight::Sockets;

/// What we can do that the vhost-user convention has a word for: neither virgl nor render-node is true yet.
const CAPABILITIES: &str = "{\n  \"type\": \"gpu\",\n  \"features\": []\n}";

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let done = match words.get(1) {
        Some(word) if word == launcher::ROLE => launcher::run(&words[2..]),
        _ => understand(words),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("beamsplit-device: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

fn understand(words: Vec<OsString>) -> Result<()> {
    match Options::parse_words(words) {
        Ok(options) if options.print_capabilities => println!("{CAPABILITIES}"),
        Ok(options) => serve(Config::load(options)?)?,
        // --help and --version come as errors whose code is 0.
        Err(text) if text.exit_code() == 0 => text.print()?,
        Err(error) => return Err(Usage(args::one_line(&error)).into()),
    }
    Ok(())
}

fn serve(config: Config) -> Result<()> {
    let started = Instant::now();
    logging::start(config.log.clone());
    config.notices.iter().for_each(|notice| tracing::warn!("{notice}"));

    preflight::check(&config)?;
    let rom = config.card.as_ref().map(Card::read_rom).transpose()?.flatten();
    let program = config.sinks.need_viewer().then(launcher::find_program).transpose()?;
    sandbox::raise_file_limit();
    let stop = stop::on_signals().context("Cannot prepare for signals")?;
    let Sockets { vmm, inputs, control, vnc, web, made } = Sockets::open(&config)?;

    let (stats, desktop) = (Arc::new(Stats::default()), Arc::new(Desktop::new()));
    let (asker, inbox) = mailbox().context("Cannot make a mailbox")?;
    let inputs = inputs.into_iter().map(|(kind, listener)| Input::prepare(&config, kind, listener, &desktop));
    let mut inputs = inputs.collect::<Result<Vec<_>>>()?;
    let (viewer, launcher) = match program {
        Some(program) => {
            let (ours, frames) = frames::pair().context("Cannot make a socket for the viewer")?;
            let inputs = inputs.iter_mut().filter_map(Input::take_viewers_end).collect();
            let (tokens, window) = (config.tokens.clone(), config.sinks.window.clone());
            let viewer = launcher::Viewer { program, frames, vnc, web, inputs, tokens, window };
            (Some(ours), Some(launcher::start(viewer)?))
        }
        None => (None, None),
    };
    let inbox = control.is_some().then_some(inbox);
    let server = assembly::server(&config, Parts { vmm, rom, stop, stats: stats.clone(), inbox, viewer, desktop })?;

    let missing = sandbox::lock_in(config.sandbox, &assembly::grants(&config)).context("Cannot lock in")?;
    missing.iter().for_each(|line| tracing::warn!("{line}"));
    if let Some(listener) = control {
        let inputs = inputs.iter().map(Input::stats).collect();
        let sections = assembly::sections(stats, inputs, launcher);
        let facts = control::Facts { name: config.name.clone(), started, sections };
        control::Server { listener, asker, facts }.start().context("Cannot start the thread of the control socket")?;
    }
    inputs.into_iter().try_for_each(Input::start)?;
    tracing::info!("{} is ready", config.name);
    server.run().context("Cannot go on")?;
    // Where the sandbox lets it: elsewhere the next start takes their place.
    drop(made);
    Ok(())
}
