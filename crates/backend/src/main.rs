//! The data plane of one vGPU: serves one virtio-gpu to one VMM, and input devices beside it.
//!
//! The words are parsed ([`args`]) and judged ([`config`]); what the machine must have is looked for before anything is
//! made ([`preflight`]); the parts are put together ([`assembly`]); the process locks itself in ([`sandbox`]); only then
//! is the first byte of a guest read.

mod args;
mod assembly;
mod capabilities;
mod card;
mod child;
mod config;
mod control;
mod drawing;
mod in_process;
mod inherited;
mod input;
mod launcher;
mod logging;
mod preflight;
mod renderers;
mod rights;
mod ruled;
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
use capabilities::{Guest, Line, Offer};
use card::Card;
use config::Config;
use control::mailbox::mailbox;
use drawing::Drawing;
use input::Input;
use preflight::Sockets;
use renderer::library::Kind;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let role = words.get(1).and_then(|word| {
        if word == launcher::ROLE { Some(launcher::run(&words[2..])) } else { child::run(&words[1..]) }
    });
    let done = role.unwrap_or_else(|| understand(words));
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
        Ok(options) if options.print_capabilities => capabilities::print(&options)?,
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
    preflight::check(&config)?;
    let offer = offer(&config)?;
    // Only now: this program may have started again meanwhile.
    config.notices.iter().for_each(|notice| tracing::warn!("{notice}"));
    let rom = config.card.as_ref().map(Card::read_rom).transpose()?.flatten();
    let program = config.sinks.need_viewer().then(launcher::find_program).transpose()?;
    sandbox::raise_file_limit();
    let stop = stop::on_signals().context("Cannot prepare for signals")?;
    let Sockets { vmm, inputs, control, arbiter, vnc, web, made } = Sockets::open(&config)?;

    let (stats, desktop) = (Arc::new(Stats::default()), Arc::new(Desktop::new()));
    let (asker, inbox) = mailbox().context("Cannot make a mailbox")?;
    let inputs = inputs.into_iter().map(|(kind, listener)| Input::prepare(&config, kind, listener, &desktop));
    let mut inputs = inputs.collect::<Result<Vec<_>>>()?;
    let (frames, viewer) = match program {
        Some(program) => {
            let (ours, frames) = frames::pair().context("Cannot make a socket for the viewer")?;
            let inputs = inputs.iter_mut().filter_map(Input::take_viewers_end).collect();
            let (tokens, window) = (config.tokens.clone(), config.sinks.window.clone());
            (Some(ours), Some(launcher::Viewer { program, frames, vnc, web, inputs, tokens, window }))
        }
        None => (None, None),
    };
    let isolate = config.three_d.as_ref().is_none_or(|words| words.isolate);
    let apart = offer.as_ref().filter(|offer| isolate || in_process::offers(offer, Kind::Vk)).map(|offer| &offer.spec);
    let needed = viewer.is_some() || apart.is_some();
    let launcher = needed.then(|| launcher::start(viewer, apart)).transpose()?;
    let (link, renderers) = launcher.map(|launcher| (launcher.link, launcher.renderers)).unzip();
    let three_d = offer.map(|offer| Drawing::new(&config, offer, renderers.flatten(), arbiter)).transpose()?;
    let facts = three_d.as_ref().map(Drawing::facts);
    let calls = three_d.as_ref().map_or(&[][..], Drawing::calls);
    let grants = assembly::grants(&config, three_d.as_ref());
    let inbox = control.is_some().then_some(inbox);
    let parts = Parts { vmm, rom, stop, stats: stats.clone(), inbox, viewer: frames, desktop, three_d };
    let server = assembly::server(&config, parts)?;

    let missing = sandbox::lock_in(config.sandbox, &grants, calls).context("Cannot lock in")?;
    missing.iter().for_each(|line| tracing::warn!("{line}"));
    if let Some(listener) = control {
        let inputs = inputs.iter().map(Input::stats).collect();
        let sections = assembly::sections(stats, inputs, link, facts);
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

/// What the guest is offered of 3D, where that was asked for and something was found.
fn offer(config: &Config) -> Result<Option<Offer>> {
    let Some(words) = &config.three_d else { return Ok(None) };
    let guest = Guest { memory: config.memory, sandbox: config.sandbox, log: config.log.to_string() };
    let mut found = capabilities::find(words, guest)?;
    if let Some(Offer { spec, .. }) = &mut found.offer {
        spec.shaders = capabilities::shaders(spec, &config.endpoint, &config.name);
        if !words.isolate {
            in_process::enter(spec)?;
        }
    }
    for line in &found.report.lines {
        match line {
            Line::Good(text) => tracing::info!("{text}"),
            Line::Missing(text) => tracing::warn!("{text}"),
        }
    }
    Ok(found.offer)
}
