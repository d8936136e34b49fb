//! `beamsplit top`: who uses what, as it changes.

mod look;
mod screen;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Result;

use crate::client::Manager;
use crate::output;
use look::Look;
use screen::{News, Screen};

/// How often, and for whom.
#[derive(Debug, clap::Args)]
pub struct Words {
    /// Print it once, after one interval, and end.
    #[arg(long)]
    once: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    /// Print what was counted so far as JSON, for programs, and end.
    #[arg(long, conflicts_with_all = ["once", "interval"])]
    json: bool,
    #[command(flatten)]
    manager: Manager,
}

fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.1..=3600.0).contains(number));
    number.ok_or_else(|| format!("'{text}' is not 0.1 to 3600 seconds"))
}

/// Prints it.
pub fn run(words: &Words) -> Result<()> {
    if words.json {
        return output::json(&words.manager.get("/v1/top")?);
    }
    let first = Look::new(&words.manager)?;
    let interval = Duration::from_secs_f64(words.interval);
    if words.once {
        std::thread::sleep(interval);
        return output::print(Look::new(&words.manager)?.told(&first));
    }
    match std::io::stdout().is_terminal() {
        true => watch(words, interval, first),
        false => repeat(words, interval, first),
    }
}

/// One picture after the other, for whoever reads them from a pipe or a file.
fn repeat(words: &Words, interval: Duration, mut last: Look) -> Result<()> {
    loop {
        std::thread::sleep(interval);
        let look = Look::new(&words.manager)?;
        output::print(format_args!("{}\n", look.told(&last)))?;
        last = look;
    }
}

/// Each picture in the place of the one before. A manager that is away, as while it is updated, is waited for.
fn watch(words: &Words, interval: Duration, mut last: Look) -> Result<()> {
    let mut screen = Screen::new()?;
    screen.show(&last.told(&last))?;
    let mut told = String::new();
    loop {
        match screen.wait(interval)? {
            News::Time => match Look::new(&words.manager) {
                Ok(look) => {
                    told = look.told(&last);
                    last = look;
                }
                Err(error) => told = format!("{error:#}\nWhat follows is old.\n\n{}", last.told(&last)),
            },
            News::Size => {}
            News::End => return Ok(()),
        }
        screen.show(&told)?;
    }
}
