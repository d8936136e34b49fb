//! `beamsplit top`: who uses what, as it changes.

mod look;
mod screen;

use std::io::IsTerminal;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::client::Manager;
use crate::output;
use look::Look;
use screen::Screen;

/// How long the manager may take to answer before it is said that it does.
const PATIENCE: Duration = Duration::from_secs(1);
/// What is said then.
const WAITING: &str = "Waiting for the manager to answer";

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
    let interval = Duration::from_secs_f64(words.interval);
    if !words.once && std::io::stdout().is_terminal() {
        return watch(&words.manager, interval);
    }
    let mut last = look(&words.manager)?;
    loop {
        std::thread::sleep(interval);
        let look = look(&words.manager)?;
        let told = look.told(&last);
        if words.once {
            return output::print(told);
        }
        // One picture after the other, for whoever reads them from a pipe or a file.
        output::print(format_args!("{told}\n"))?;
        last = look;
    }
}

/// A look, by a thread of its own: who waits for it hears more than the manager's answer, which may take its time.
fn begin_look(manager: &Manager, tell: impl FnOnce(Result<Look>) + Send + 'static) -> Result<()> {
    let manager = manager.clone();
    let looking = std::thread::Builder::new().name("look".to_owned());
    looking.spawn(move || tell(Look::new(&manager))).context("Cannot start a thread")?;
    Ok(())
}

/// A look, once it is there.
fn look(manager: &Manager) -> Result<Look> {
    let (tell, told) = channel();
    begin_look(manager, move |look| drop(tell.send(look)))?;
    let look = told.recv_timeout(PATIENCE).or_else(|_| {
        output::remark(WAITING);
        told.recv()
    });
    look.context("The look at the manager broke off")?
}

/// Each picture in the place of the one before. A manager that is away, as while it is updated, is waited for.
fn watch(manager: &Manager, interval: Duration) -> Result<()> {
    let mut screen = Screen::new()?;
    let (mut last, mut told) = (None::<Look>, String::new());
    loop {
        let (tell, mut answer) = oneshot::channel();
        begin_look(manager, move |look| drop(tell.send(look)))?;
        let Some(mut look) = screen.until(&told, async { timeout(PATIENCE, &mut answer).await.ok() })? else {
            return Ok(());
        };
        if look.is_none() {
            told = format!("{WAITING}.\n{}", old(last.as_ref()));
            screen.show(&told)?;
            let Some(late) = screen.until(&told, answer)? else { return Ok(()) };
            look = Some(late);
        }
        match (look.context("The look at the manager broke off")??, &last) {
            (Ok(look), _) => {
                told = look.told(last.as_ref().unwrap_or(&look));
                last = Some(look);
            }
            // There is nothing to show beside it.
            (Err(error), None) => return Err(error),
            (Err(error), last) => told = format!("{error:#}\n{}", old(last.as_ref())),
        }
        screen.show(&told)?;
        if screen.until(&told, async { sleep(interval).await })?.is_none() {
            return Ok(());
        }
    }
}

/// What was last seen, once it does not hold any more.
fn old(last: Option<&Look>) -> String {
    last.map(|last| format!("What follows is old.\n\n{}", last.told(last))).unwrap_or_default()
}
