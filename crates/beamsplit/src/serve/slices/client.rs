//! A device whose time is given out: its processes, their clocks, and how they are stopped.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arbiter::{Call, Grant, Ward};
use host::cgroup::Cgroup;
use host::clocks::{Meter, drm};
use host::freezer::Freezer;
use host::processes::{Processes, Renderers};
use manager::gpu::Timed;
use manager::profile::Promise;
use manager::schedule::{Account, Doing, Measured, News};

use super::super::socket;
use super::{Device, Slice};

/// The group, in a device's own, that those are in who draw.
const GROUP: &str = "renderers";

/// How often one that stands still is looked at: only whoever lets it go on behind our back can change that.
const STILL: Duration = Duration::from_millis(20);
/// One that used less since the last look is asked whether it wanted to.
const BUSY: Duration = Duration::from_micros(500);

/// For how long a device that rang is not listened to, at least and at most: at most if it rings again and again as soon as it is,
/// and had nothing to say.
const DEAF: Duration = Duration::from_millis(1);
const DEAFEST: Duration = Duration::from_millis(100);

/// See the module.
pub struct Client {
    pub promise: Promise,
    /// When its processes were last looked for.
    pub found: Duration,
    processes: Processes,
    renderers: Renderers,
    timed: Timed,
    meter: Meter,
    engines: drm::Meter,
    freezer: Freezer,
    group: Option<PathBuf>,
    seam: Option<Ward>,
    path: Option<PathBuf>,
    /// What its device is to ring for, from when on it may, and how long it may not after the next ring.
    news: News,
    deaf_until: Duration,
    deaf: Duration,
    /// It has what it was to ring for.
    rang: bool,
    /// That another process listens in its place.
    told_of_another: bool,
    /// It was told to stop, and was seen to.
    told: bool,
    stopped: bool,
    stops: u64,
    /// Its device holds back what is new.
    gated: bool,
    gates: u64,
    switch: Duration,
    /// At the last look, and when that was.
    used: Duration,
    looked: Duration,
}

impl Client {
    /// `None`: the device is gone.
    pub fn new(processes: &Processes, device: &Device) -> Option<Self> {
        let renderers = Renderers::of(processes.clone(), device.process)?;
        let group = device.cgroup.as_ref().and_then(|path| Cgroup::at(path).child(GROUP).ok());
        let freezer = Freezer::with(group);
        let group = if let Freezer::Cgroup(group) = &freezer { Some(group.path().to_owned()) } else { None };
        let mut client = Client {
            promise: device.promise,
            found: Duration::ZERO,
            processes: processes.clone(),
            renderers,
            timed: device.timed,
            meter: Meter::default(),
            engines: drm::Meter::default(),
            freezer,
            group,
            seam: None,
            path: device.arbiter.clone(),
            news: News::None,
            deaf_until: Duration::ZERO,
            deaf: DEAF,
            rang: false,
            told_of_another: false,
            told: false,
            stopped: false,
            stops: 0,
            gated: false,
            gates: 0,
            switch: Duration::ZERO,
            used: Duration::ZERO,
            looked: Duration::ZERO,
        };
        // Whoever gave out its time before may have left it stopped.
        while client.renderers.find() {}
        client.freezer.gather(&mut client.renderers);
        client.freezer.go_on(&mut client.renderers);
        client.connect();
        Some(client)
    }

    /// Its control group, where that is how it is stopped.
    pub fn group(&self) -> Option<&Path> {
        self.group.as_deref()
    }

    /// Whether a process draws for it.
    pub fn is_alive(&self) -> bool {
        !self.renderers.is_empty()
    }

    fn connect(&mut self) {
        if self.seam.as_ref().is_some_and(Ward::is_there) {
            return;
        }
        // Its folder is not only ours: a link there could lead to where nobody answers, and this thread waits for nobody.
        let there = self.path.as_deref().and_then(|path| socket::hold(path, None).ok());
        let seam = there.and_then(|there| Ward::connect(&socket::name_of(&there)).ok());
        let (device, peer) = (self.renderers.device().pid, seam.as_ref().map(Ward::peer));
        // Whoever put a socket of its own there would be ruled in its place.
        self.seam = seam.filter(|_| peer == Some(Some(device)));
        if self.seam.is_none()
            && let Some(peer) = peer
            && !std::mem::replace(&mut self.told_of_another, true)
        {
            let who = peer.map_or("a process outside of this PID namespace".to_owned(), |pid| format!("process {pid}"));
            tracing::warn!("Not device {device} but {who} listens for who gives it time: it is not told of that");
        }
        if let (Some(seam), true) = (&mut self.seam, self.told) {
            seam.stopped();
        }
        if self.gated {
            self.grant(Grant::Gated);
        }
    }

    /// Whether more processes draw for it than can be stopped.
    pub fn is_too_many(&self) -> bool {
        self.renderers.beyond() > 0
    }

    /// Readable when what it is [listened](Self::listen) to for is so.
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.seam.as_ref().and_then(Ward::bell)
    }

    /// Whether it has what it was to ring for.
    pub fn heard(&mut self, now: Duration) -> bool {
        let rang = self.seam.as_mut().is_some_and(Ward::heard) | std::mem::take(&mut self.rang);
        if rang {
            self.deaf = if now < self.deaf_until + DEAFEST { (self.deaf * 2).min(DEAFEST) } else { DEAF };
            self.deaf_until = now + self.deaf;
        }
        rang
    }

    /// Listens to its device for that from now on, and for nothing else. A device whose rings lead to nothing is listened to more
    /// and more seldom: who rings without end wakes nobody with it.
    pub fn listen(&mut self, news: News, now: Duration) {
        if news != self.news {
            self.news = news;
            // What it rang for was so, or it is another time.
            self.deaf = DEAF;
        }
        let Some(seam) = &mut self.seam else { return };
        self.rang |= match news {
            News::None => seam.call(Call::Nothing),
            // Its gate is shut once: what it rings for then is waited for.
            News::Rest => seam.call(Call::Rest),
            News::Work if now >= self.deaf_until => seam.call(Call::Work),
            News::Work => seam.call(Call::Nothing),
        };
    }

    /// When it is to be [listened](Self::listen) to again, or to be looked at.
    pub fn listens(&self) -> Option<Duration> {
        let deaf = self.news == News::Work && self.seam.as_ref().is_some_and(|seam| seam.called() == Call::Nothing);
        if self.rang { Some(Duration::ZERO) } else { deaf.then_some(self.deaf_until) }
    }

    /// Looks for processes. Returns whether there are others than before.
    pub fn find(&mut self, now: Duration) -> bool {
        self.found = now;
        self.connect();
        let ended = !self.renderers.bury().is_empty();
        if self.told && self.renderers.is_empty() {
            // A control group stands still without anybody in it, and so would who comes next: a process that the schedule knows nothing of.
            self.thaw();
        }
        let new = self.renderers.find();
        if new {
            self.freezer.gather(&mut self.renderers);
            self.stopped = false;
        }
        new || ended
    }

    /// Whether there may be something to see.
    pub fn is_due(&self, now: Duration) -> bool {
        !(self.told && self.stopped) || now >= self.looked + STILL
    }

    /// What it used, and whether it stands still.
    pub fn measure(&mut self, now: Duration) -> Measured {
        self.looked = now;
        let cpu = self.meter.read(&mut self.renderers);
        let used = match self.timed {
            Timed::Fdinfo => {
                let pids: Vec<_> = self.renderers.members().map(|member| member.pid()).collect();
                self.engines.read(&self.processes, pids).unwrap_or_default()
            }
            _ => cpu,
        };
        if self.told && !self.stopped {
            self.stopped = self.freezer.is_stopped(&mut self.renderers);
        }
        // Not worth a look while it uses what it can.
        let runnable = !self.told && used.saturating_sub(self.used) < BUSY && self.renderers.want_a_processor();
        self.used = used;
        let report = self.seam.as_ref().map(Ward::report);
        // What waits is known; that nothing waits is not, but behind a gate: work of Vulkan's passes no device.
        let pending = report.map(|report| report.waiting > 0).filter(|waits| *waits || self.gated);
        Measured {
            alive: self.is_alive(),
            used,
            stopped: self.told && self.stopped,
            runnable,
            pending,
            progress: report.map(|report| report.done.into()),
        }
    }

    /// Its last command, as its device says.
    pub fn last(&self) -> Option<String> {
        let report = self.seam.as_ref()?.report();
        Some(format!("{} of context {}", report.command, report.context))
    }

    /// Tells it to stop.
    pub fn freeze(&mut self) {
        (self.told, self.stopped) = (true, false);
        self.stops += 1;
        // Before, so that none of the time counts for its device.
        if let Some(seam) = &mut self.seam {
            seam.stopped();
        }
        self.freezer.begin(&mut self.renderers);
    }

    /// Waits until it has stopped, for at most so long.
    pub fn finish(&mut self, limit: Duration) {
        self.stopped = self.freezer.finish(&mut self.renderers, limit);
        // Seen by the next look, however soon that is.
        self.looked = Duration::ZERO;
    }

    /// Lets it go on.
    pub fn thaw(&mut self) {
        (self.told, self.stopped) = (false, false);
        self.freezer.go_on(&mut self.renderers);
        if let Some(seam) = &mut self.seam {
            seam.continued();
        }
    }

    /// Tells its device what is granted.
    pub fn grant(&self, grant: Grant) {
        if let Some(seam) = &self.seam {
            seam.grant(grant);
        }
    }

    /// The next one went on so long after this one was told to stop.
    pub fn switched(&mut self, took: Duration) {
        self.switch = if self.switch.is_zero() { took } else { (self.switch * 7 + took) / 8 };
    }

    /// Has its device hold back what is new.
    pub fn gate(&mut self) {
        self.gated = true;
        self.gates += 1;
        // Before its gate is shut, so that it knows it when it is.
        self.news = News::Rest;
        self.rang |= self.seam.as_mut().is_some_and(|seam| seam.call(Call::Rest));
        self.grant(Grant::Gated);
    }

    /// Has it hold back nothing.
    pub fn open(&mut self) {
        self.gated = false;
        self.grant(Grant::Open);
    }

    /// It is not held any more.
    pub fn released(&self) {
        self.grant(Grant::Open);
    }

    /// It is on its own from now on.
    pub fn let_go(&mut self) {
        while self.renderers.find() {}
        self.thaw();
        self.open();
    }

    /// What it had, for others to read.
    pub fn slice(&self, account: &Account) -> Slice {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Slice {
            doing: match account.doing {
                Doing::Absent => "absent",
                Doing::Idle => "idle",
                Doing::Waiting => "waiting",
                Doing::Running => "running",
                Doing::Held => "held",
            },
            used: nanos(account.used),
            waited: nanos(account.waited),
            slices: account.slices,
            overruns: account.overruns,
            escapes: account.escapes,
            stops: self.stops,
            gates: self.gates,
            stop_time: nanos(account.stop_time),
            switch_time: nanos(self.switch),
            rings: self.seam.as_ref().map_or(0, Ward::rings),
            debt: nanos(account.debt),
            measured: if self.timed == Timed::Fdinfo { "drm-fdinfo" } else { "cpu" },
            stopped_by: self.freezer.name(),
            held: account.held.as_ref().map(|held| held.why.clone()),
        }
    }
}
