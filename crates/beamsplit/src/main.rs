//! One GPU, many virtual machines: the command line.
//!
//! One file for each command, with its words and what it does. A command only talks to others: the device runs in a
//! program of its own.

mod client;
mod device;
mod folders;
mod launch;
mod output;
mod program;
mod qmp;
mod screenshot;
mod serve;
mod stats;
mod table;
mod verbs;
mod viewer;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// One GPU, many virtual machines.
#[derive(Debug, Parser)]
#[command(name = "beamsplit", version, max_term_width = 120)]
struct Words {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve one virtual GPU to one virtual machine (runs beamsplit-device; see `beamsplit device --help`).
    Device(device::Words),
    /// Serve vGPUs: keep their definitions, start and stop their devices, answer the other commands.
    Serve(serve::Words),
    /// Show the types of vGPU that this host offers, and how many are left.
    Types(verbs::types::Words),
    /// List the vGPUs.
    List(verbs::list::Words),
    /// Show all that is known of a vGPU, or of a GPU.
    Show(verbs::show::Words),
    /// Make a vGPU that is gone when it stops.
    Create(verbs::define::Create),
    /// Write a vGPU down, so that it lasts.
    Define(verbs::define::Define),
    /// Change what is written down of a vGPU.
    ///
    /// It counts from its next start. An empty value takes back what was said.
    Modify(verbs::define::Modify),
    /// Remove what is written down of vGPUs.
    Undefine(verbs::life::Words),
    /// Start vGPUs, or release those that are held.
    Start(verbs::life::Words),
    /// Stop vGPUs.
    Stop(verbs::life::Words),
    /// Say what a VMM must be told to have a vGPU, or plug it in.
    Attach(verbs::attach::Attach),
    /// Pull a vGPU out of a VM that runs.
    Detach(verbs::attach::Detach),
    /// Make the vGPUs be as a file declares them.
    Apply(verbs::apply::Words),
    /// Fail when the vGPUs are not as a file declares them.
    Assert(verbs::apply::Words),
    /// Have the manager read its files again.
    ///
    /// Those are types.toml, serve.toml and all definitions. When one of the first two cannot be read, all stays as it was; a definition
    /// that cannot be is listed as failed.
    Reload(verbs::reload::Words),
    /// Show who uses what, as it changes.
    ///
    /// GPU% is the share of the GPU's time that was used since the last look, WAIT% that in which there was work that had to wait; 100 is
    /// one processor's time where the processor draws. MEMORY is what a vGPU may have, USED what it has of that. On a terminal q ends it.
    Top(verbs::top::Words),
    /// Show what a vGPU's device says.
    Log(verbs::log::Words),
    /// Save what a virtual machine shows as a PNG file.
    Screenshot(screenshot::Words),
    /// Show what a device counted.
    Stats(stats::Words),
    /// Become a device, when the manager says so (the manager starts this).
    #[command(hide = true)]
    Launch(launch::Words),
    /// Let all go on that a manager has stopped, when it dies (the manager starts this).
    #[command(hide = true)]
    Guard(serve::guard::Words),
    /// Give out time to devices that were started by hand; orders are read, a line each, answers written as JSON.
    #[command(hide = true)]
    Slices(serve::slices::tool::Words),
    /// Show a device's frames over VNC and on a web page (a device starts this by itself).
    #[command(hide = true)]
    Viewer(Box<::viewer::Args>),
}

fn main() -> ExitCode {
    let done = match Words::try_parse() {
        Ok(words) => run(words.command),
        // The help and the version come as errors whose code is 0.
        Err(text) if text.exit_code() == 0 => text.print().map_err(output::unwritten),
        Err(error) => {
            output::complain(one_line(&error));
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<output::Unread>() => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(format_args!("{error:#}"));
            if error.is::<verbs::Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Device(words) => device::run(words),
        Command::Screenshot(words) => screenshot::run(&words),
        Command::Stats(words) => stats::run(&words),
        Command::Serve(words) => serve::run(words),
        Command::Launch(words) => launch::run(&words),
        Command::Types(words) => verbs::types::run(&words),
        Command::List(words) => verbs::list::run(&words),
        Command::Show(words) => verbs::show::run(&words),
        Command::Create(words) => verbs::define::create(&words),
        Command::Define(words) => verbs::define::define(&words),
        Command::Modify(words) => verbs::define::modify(&words),
        Command::Undefine(words) => verbs::life::undefine(&words),
        Command::Start(words) => verbs::life::start(&words),
        Command::Stop(words) => verbs::life::stop(&words),
        Command::Attach(words) => verbs::attach::attach(&words),
        Command::Detach(words) => verbs::attach::detach(&words),
        Command::Apply(words) => verbs::apply::apply(&words),
        Command::Assert(words) => verbs::apply::assert(&words),
        Command::Reload(words) => verbs::reload::run(&words),
        Command::Top(words) => verbs::top::run(&words),
        Command::Log(words) => verbs::log::run(&words),
        Command::Guard(words) => serve::guard::run(&words),
        Command::Slices(words) => serve::slices::tool::run(&words),
        Command::Viewer(words) => viewer::run(*words),
    }
}

/// clap's message in one line: what it says before its usage text, with its tip.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let ends = |line: &&str| line.starts_with("Usage:") || line.starts_with("For more information");
    let said: Vec<&str> =
        text.lines().take_while(|line| !ends(line)).map(str::trim).filter(|line| !line.is_empty()).collect();
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "Say what to do, as in beamsplit list; beamsplit --help lists the commands".to_owned();
    }
    // What is missing is listed below a colon, a line each.
    let line = said.join("; ").replace(":; ", ": ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let mut letters = line.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_holds_together() {
        Words::command().debug_assert();
    }

    #[test]
    fn wrong_words_are_refused_in_one_line_that_names_them() {
        for (line, named) in [
            ("", "--help"),
            ("teleport", "teleport"),
            ("stats", "--socket"),
            ("stats --socket", "--socket"),
            ("show", "provided: <VGPU|GPU>"),
            ("define x --transport tcp", "vhost-user, vfio-user"),
            ("modify x --model tv", "vga, virtio, bochs"),
            ("create x --uuid 7", "'7' is not a UUID"),
            ("screenshot --socket /x", "FILE"),
            ("screenshot --socket /x f.png --head two", "two"),
        ] {
            let words = std::iter::once("beamsplit").chain(line.split_whitespace());
            let message = one_line(&Words::try_parse_from(words).expect_err(line));
            assert!(message.contains(named) && !message.contains('\n'), "{line}: {message}");
        }
    }
}
