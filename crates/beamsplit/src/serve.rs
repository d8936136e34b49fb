//! `beamsplit serve`: the manager of a host's vGPUs, or of one user's.
//!
//! [`keeper`] owns what is to be known and writes it down, one event after the other, on a thread of its own. [`http`] lets people and
//! programs in and [`routes`] answers them, [`watch`] looks after each device, all on one more thread. Devices are processes of
//! their own sessions: the manager may end, in whatever way, and the next one finds them.

mod apply;
mod aside;
mod ask;
mod cgroup;
mod config;
mod desk;
mod device;
mod facts;
mod foreign;
mod fuse;
pub mod guard;
mod http;
mod keeper;
mod keys;
mod lock;
mod log;
mod metrics;
mod notify;
mod passed;
mod record;
mod routes;
mod ruin;
pub mod slices;
mod socket;
mod store;
mod view;
mod watch;
mod web;

use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use host::processes::Processes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use crate::folders;
use config::Config;
use desk::Desk;
use device::Devices;
use keeper::{Keeper, Parts};
use lock::Lock;
use notify::Notify;
use routes::App;
use web::Door;

/// Says in the runtime folder in which boot what starts with the host was started.
const BEGUN: &str = "begun";
/// How often the logs of those that run are looked at, all at once: each by itself would wake us as often as there are devices.
const LOGS: Duration = Duration::from_secs(10);
/// How often systemd hears that we live, where it does not say how often it wants to.
const SELDOM: Duration = Duration::from_secs(3600);

/// Serve vGPUs: keep their definitions, start and stop their devices, answer the other commands.
#[derive(Debug, clap::Args)]
pub struct Words {
    /// Where sockets and records are, until the next boot [default: /run/beamsplit, or $XDG_RUNTIME_DIR/beamsplit].
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// Where definitions, types.toml and serve.toml are [default: /etc/beamsplit, or ~/.config/beamsplit].
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// Do not start the vGPUs that are to come up with the host.
    #[arg(long)]
    no_autostart: bool,
    /// Show all vGPUs on a web page here, as in 127.0.0.1:8000; only this host can connect.
    #[arg(long, value_name = "ADDR")]
    web: Option<String>,
    /// Who may look at the page, and who may start and stop there (look = ["..."], control = ["..."]); a TOML file that nobody
    /// else can read. Without one everybody on this host may look.
    #[arg(long, value_name = "FILE", requires = "web")]
    tokens: Option<PathBuf>,
}

/// Serves until it is told to end. Devices go on.
pub fn run(words: Words) -> Result<()> {
    let filter = EnvFilter::try_from_env("BEAMSPLIT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    raise_file_limit();
    let runtime = words.runtime_dir.map_or_else(folders::runtime, Ok)?;
    let runtime = std::path::absolute(runtime).context("Cannot find the runtime folder")?;
    // It is written into files of text, and into QEMU's options.
    ensure!(runtime.to_str().is_some(), "The name of {} is no text: choose another --runtime-dir", runtime.display());
    let config_folder = words.config_dir.map_or_else(folders::config, Ok)?;
    store::make_folder(&runtime, 0o755).with_context(|| format!("Cannot make {}", runtime.display()))?;
    check_folder(&runtime)?;
    let _lock = Lock::take(&runtime)?;
    let pid = std::process::id();
    let passed = passed::listener(|name| std::env::var_os(name), pid)?;
    let socket = match passed {
        Some(socket) => socket,
        None => socket::bind(&folders::socket_in(&runtime))?,
    };
    // Who needs a token to look at all screens needs one to look at each.
    let guarded = words.tokens.is_some();
    let door = Door::new(words.tokens)?;
    let page = words.web.as_deref().map(web::bind).transpose()?;
    let notify = Notify::from_environment(|name| std::env::var_os(name), pid);

    let config = Config::read(&config_folder)?;
    let catalogue = facts::find(&config_folder, &config.device, &notify)?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().context("Cannot start a runtime")?;
    let devices = Devices { runtime: runtime.clone(), cache: folders::cache(), guarded };
    let (mut keeper, desk) = Keeper::new(Parts {
        catalogue,
        config,
        config_folder: config_folder.clone(),
        devices: devices.clone(),
        cgroup: cgroup::for_devices(),
        runtime: tokio.handle().clone(),
    })?;
    let begun = Begun::look(&runtime)?;
    keeper.begin(!words.no_autostart && !begun.is_said())?;
    // Only now: who is killed before has not begun.
    begun.say()?;
    let keeper = std::thread::Builder::new().name("keeper".to_owned()).spawn(move || keep(keeper));
    let keeper = keeper.context("Cannot start a thread")?;

    let (app, reloads) = App::new(desk.clone(), devices);
    tokio.block_on(async {
        if let Some(page) = page {
            let address = page.local_addr().context("Cannot use the port")?;
            tokio::spawn(web::serve(page, app.clone(), door));
            tracing::info!("Web page on http://{address}/");
        }
        serve(socket, notify, app, reloads, config_folder).await
    })?;
    desk.end();
    // What it is doing just now is done to its end.
    let _ = keeper.join();
    // Who looks into a file system that never answers is not waited for.
    tokio.shutdown_background();
    tracing::info!("Ended; devices go on");
    Ok(())
}

/// Makes room for a hold on each process that draws, of all devices: one of them may have a thousand.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Failing leaves what there was, which a few devices do not notice.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// What is written in this folder is believed, down to which processes may be ended: nobody else may write there.
fn check_folder(runtime: &Path) -> Result<()> {
    let there = runtime.metadata().with_context(|| format!("Cannot use {}", runtime.display()))?;
    let (mode, own) = (there.mode(), rustix::process::geteuid().as_raw());
    let may = format!("Others may write in {}", runtime.display());
    ensure!(there.uid() == own, "{may}: it belongs to user {}, and the manager is user {own}", there.uid());
    ensure!(mode & 0o022 == 0, "{may}: chmod go-w, or name another folder with --runtime-dir");
    Ok(())
}

/// Has the keeper run. A manager whose keeper is gone can do nothing more: the next one finds all that is there.
fn keep(keeper: Keeper) {
    if catch_unwind(AssertUnwindSafe(|| keeper.run())).is_err() {
        tracing::error!("What happened is above; devices go on: start the manager again");
        std::process::exit(1);
    }
}

/// Whether what comes up with the host came up in this boot.
struct Begun {
    path: PathBuf,
    boot: String,
    said: Option<String>,
}

impl Begun {
    fn look(runtime: &Path) -> Result<Self> {
        let path = runtime.join(BEGUN);
        let boot = Processes::default().boot_id().context("Cannot find out which boot this is")?;
        let said = store::read(&path).with_context(|| format!("Cannot read {}", path.display()))?;
        Ok(Begun { path, boot, said })
    }

    fn is_said(&self) -> bool {
        self.said.as_ref() == Some(&self.boot)
    }

    fn say(&self) -> Result<()> {
        let done = store::replace(&self.path, self.boot.as_bytes(), store::Lasting::UntilBoot);
        done.with_context(|| format!("Cannot write {}", self.path.display()))
    }
}

async fn serve(
    socket: std::os::unix::net::UnixListener,
    notify: Notify,
    app: App,
    reloads: mpsc::Receiver<routes::Reload>,
    config_folder: PathBuf,
) -> Result<()> {
    socket.set_nonblocking(true).context("Cannot use the socket")?;
    let socket = tokio::net::UnixListener::from_std(socket).context("Cannot use the socket")?;
    let (hangup, mut end, mut interrupt) = signals().context("Cannot prepare for signals")?;
    let (desk, devices) = (app.desk.clone(), app.devices.clone());
    let mut logs = tokio::time::interval(LOGS);
    let clients = tokio::spawn(http::serve(socket, routes::router(app)));
    let notify = Arc::new(notify);
    let mut watchdog = tokio::time::interval(notify.watchdog().unwrap_or(SELDOM));
    let reloading = tokio::spawn(reload_when_told(notify.clone(), desk.clone(), config_folder, hangup, reloads));
    notify.say("READY=1");
    tracing::info!("Ready");
    loop {
        tokio::select! {
            _ = end.recv() => break,
            _ = interrupt.recv() => break,
            _ = logs.tick() => if let Ok(running) = desk.look(Keeper::running).await {
                running.into_iter().for_each(|uuid| log::bound(&devices.folder(uuid)));
            },
            // Fed only as long as the keeper's thread answers, too.
            _ = watchdog.tick() => if desk.look(|_| ()).await.is_ok() { notify.say("WATCHDOG=1") },
        }
    }
    reloading.abort();
    notify.say("STOPPING=1");
    clients.abort();
    Ok(())
}

fn signals() -> std::io::Result<(Signal, Signal, Signal)> {
    Ok((signal(SignalKind::hangup())?, signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
}

/// Reads all files again whenever somebody wants that, one after the other. A driver that hangs is waited for here: who wants the
/// manager to end, or to hear that it lives, does not wait.
async fn reload_when_told(
    notify: Arc<Notify>,
    desk: Desk,
    config_folder: PathBuf,
    mut hangup: Signal,
    mut reloads: mpsc::Receiver<routes::Reload>,
) {
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => None,
            Some(asked) = reloads.recv() => Some(asked),
        };
        let done = reload(&notify, &desk, &config_folder).await;
        match (asked, done) {
            // Who asked may have gone.
            (Some(asked), done) => drop(asked.send(done)),
            (None, Err(why)) => tracing::error!("Not reloaded: {why}"),
            (None, Ok(())) => {}
        }
    }
}

/// Reads all files again. What cannot be read leaves all as it was.
async fn reload(notify: &Arc<Notify>, desk: &Desk, config_folder: &Path) -> Result<(), String> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
    notify.say(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    let (config_folder, waiting) = (config_folder.to_owned(), notify.clone());
    let read = move || -> Result<_> {
        let config = Config::read(&config_folder)?;
        Ok((facts::find(&config_folder, &config.device, &waiting)?, config))
    };
    // It takes its time, and others ask meanwhile.
    let read = tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(error.into()));
    let done = match read {
        Ok((catalogue, config)) => {
            let change = desk.change(move |keeper| keeper.reload(catalogue, config));
            change.await.map_err(|error| error.to_string()).and_then(|done| done.map_err(|error| format!("{error:#}")))
        }
        Err(error) => Err(format!("{error:#}")),
    };
    notify.say("READY=1");
    if done.is_ok() {
        tracing::info!("Reloaded");
    }
    done
}
