//! The control WebSocket of a page: who the person is, who controls the VM, the lights of its keyboard, and fingers.
//!
//! The page says its token first. Keys and the pointer go through its RFB WebSocket, which a ticket binds to the same seat.
//! Nothing is sent while nothing changes.

use std::io;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use frames::{Input, Leds, TouchPhase};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until, timeout};

use super::ticket::Page;
use super::{Site, Vm};
use crate::client::HANDSHAKE;
use crate::floor::{FloorNews, Right, SeatId};
use crate::tokens::Secret;

/// Longest message of a page; ten fingers need a tenth of it.
pub(super) const MAX_MESSAGE: usize = 4 << 10;

/// Fingers in a message. Stops pages that claim hundreds.
const MAX_POINTS: usize = 20;

/// A page may say something this often, and so much at once. Who says more is heard later.
const EACH: Duration = Duration::from_millis(1);
const AT_ONCE: Duration = Duration::from_millis(200);

/// News go out this often. Stops two pages that snatch control from each other from keeping everybody busy.
const NEWS_EACH: Duration = Duration::from_millis(20);

/// What a page says first.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hello {
    token: Option<Secret>,
}

/// What a page says after that.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
enum Said {
    /// I want to control.
    Take {
        /// Only if nobody does, or nobody who means it.
        #[serde(default)]
        if_free: bool,
    },
    /// Somebody else may.
    Release,
    /// The person looks elsewhere: nothing is held down any more.
    Up,
    /// Fingers did something.
    Touch { head: u8, points: Vec<(u8, Phase, u16, u16)> },
    /// I need another RFB WebSocket.
    Ticket,
    /// Tell me of the VM again.
    Tell,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Down,
    Move,
    Up,
}

impl From<Phase> for TouchPhase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Down => Self::Down,
            Phase::Move => Self::Move,
            Phase::Up => Self::Up,
        }
    }
}

/// What a page is told.
#[derive(Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
enum News<'a> {
    /// Who it is.
    Seat { seat: SeatId, right: Right, head: u8 },
    /// What it looks at.
    Vm(Vm),
    /// Who controls.
    Floor {
        holder: Option<SeatId>,
        firm: bool,
        name: Option<&'a str>,
        seats: usize,
        input: bool,
        touch: bool,
        leds: Leds,
    },
    /// For its RFB WebSocket.
    Ticket { ticket: String },
    /// It is not let in, or not any more.
    Refused { why: Why },
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Why {
    /// A token is needed, and this is none.
    Token,
    /// The token is good no more.
    Revoked,
}

/// Why a page was sent away.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("It said nothing for {} s", HANDSHAKE.as_secs())]
    Silent,
    #[error("It knows no token")]
    Stranger,
    #[error("Its token is good no more")]
    Revoked,
    #[error("It said what no page says")]
    Garbage,
    #[error("There are no random numbers for a ticket")]
    Ticket(#[from] io::Error),
    #[error("The connection broke")]
    Broken(#[from] axum::Error),
}

/// Serves a page until it goes.
pub(super) async fn serve(site: Site, mut socket: WebSocket) -> Result<(), End> {
    let hello = async {
        loop {
            match hear(&mut socket).await? {
                Heard::Said(hello) => break Ok::<_, End>(Some(hello)),
                Heard::Nothing => {}
                Heard::Gone => break Ok(None),
            }
        }
    };
    let hello = timeout(HANDSHAKE, hello).await.map_err(|_| End::Silent)?;
    let Some(Hello { token }) = hello? else { return Ok(()) };
    let Some(pass) = site.hub.door.admit(token.as_ref()) else {
        return refuse(&mut socket, Why::Token, End::Stranger).await;
    };
    let page = Page::open(site.tickets.clone(), site.hub.sit(pass, "Browser"));
    let ended = tokio::select! {
        ended = talk(&site, &page, &mut socket) => Some(ended),
        () = page.seat().revoked() => None,
    };
    // The seat is left before anything else is waited for.
    drop(page);
    match ended {
        Some(ended) => ended,
        None => refuse(&mut socket, Why::Revoked, End::Revoked).await,
    }
}

/// Tells a page why it is sent away, if it listens.
async fn refuse(socket: &mut WebSocket, why: Why, end: End) -> Result<(), End> {
    let told = async {
        tell(socket, &News::Refused { why }).await?;
        Ok::<_, End>(socket.send(Message::Close(None)).await?)
    };
    let _ = timeout(HANDSHAKE, told).await;
    Err(end)
}

async fn talk(site: &Site, page: &Page, socket: &mut WebSocket) -> Result<(), End> {
    let seat = page.seat();
    let mut news = site.hub.floor_news();
    tell(socket, &News::Seat { seat: seat.id(), right: seat.right(), head: site.head }).await?;
    tell(socket, &News::Vm(site.vm())).await?;
    let floor = news.borrow_and_update().clone();
    tell(socket, &News::from(&floor)).await?;
    tell(socket, &News::Ticket { ticket: page.ticket()?.text() }).await?;
    let (mut paced, mut told) = (Instant::now(), Instant::now());
    loop {
        let changed = async {
            sleep_until(told + NEWS_EACH).await;
            // The sender lives as long as the hub.
            let _ = news.changed().await;
        };
        tokio::select! {
            message = hear(socket) => {
                match message? {
                    Heard::Said(said) => obey(said, site, page, socket).await?,
                    Heard::Nothing => {}
                    Heard::Gone => return Ok(()),
                }
                let now = Instant::now();
                paced = paced.max(now) + EACH;
                if let Some(rest) = paced.checked_duration_since(now + AT_ONCE) {
                    sleep_until(now + rest).await;
                }
            }
            () = changed => {
                let floor = news.borrow_and_update().clone();
                tell(socket, &News::from(&floor)).await?;
                told = Instant::now();
            }
        }
    }
}

async fn obey(said: Said, site: &Site, page: &Page, socket: &mut WebSocket) -> Result<(), End> {
    let seat = page.seat();
    match said {
        // Who may not learns it from the floor's news: nothing changed.
        Said::Take { if_free: false } => _ = seat.take(),
        Said::Take { if_free: true } => seat.take_if_free(),
        Said::Release => seat.release(),
        Said::Up => _ = seat.input(0, Input::ReleaseAll),
        Said::Touch { points, .. } if points.len() > MAX_POINTS => return Err(End::Garbage),
        Said::Touch { head, points } => {
            for (slot, phase, x, y) in points {
                seat.input(head, Input::Touch { slot, phase: phase.into(), x, y });
            }
        }
        Said::Ticket => tell(socket, &News::Ticket { ticket: page.ticket()?.text() }).await?,
        Said::Tell => tell(socket, &News::Vm(site.vm())).await?,
    }
    Ok(())
}

impl<'a> From<&'a FloorNews> for News<'a> {
    fn from(floor: &'a FloorNews) -> Self {
        let FloorNews { holder, firm, seats, input, touch, leds, .. } = *floor;
        Self::Floor { holder, firm, name: floor.name.as_deref(), seats, input, touch, leds }
    }
}

async fn tell(socket: &mut WebSocket, news: &News<'_>) -> Result<(), End> {
    let text = serde_json::to_string(news).map_err(axum::Error::new)?;
    Ok(socket.send(Message::Text(text.into())).await?)
}

/// What came on a WebSocket.
enum Heard<T> {
    Said(T),
    /// Something that WebSockets say among themselves.
    Nothing,
    Gone,
}

async fn hear<T: serde::de::DeserializeOwned>(socket: &mut WebSocket) -> Result<Heard<T>, End> {
    match socket.recv().await.transpose()? {
        // What was said may have been a token: it is not repeated.
        Some(Message::Text(text)) => serde_json::from_str(&text).map(Heard::Said).map_err(|_| End::Garbage),
        Some(Message::Binary(_)) => Err(End::Garbage),
        Some(Message::Ping(_) | Message::Pong(_)) => Ok(Heard::Nothing),
        Some(Message::Close(_)) | None => Ok(Heard::Gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Option<Said> {
        serde_json::from_str(text).ok()
    }

    #[test]
    fn what_a_page_says_is_understood_to_the_letter() {
        assert_eq!(said(r#"{"do":"take"}"#), Some(Said::Take { if_free: false }));
        assert_eq!(said(r#"{"do":"take","if_free":true}"#), Some(Said::Take { if_free: true }));
        assert_eq!(said(r#"{"do":"up"}"#), Some(Said::Up));
        let points = vec![(1, Phase::Down, 0, 65535), (2, Phase::Up, 5, 6)];
        let touch = r#"{"do":"touch","head":1,"points":[[1,"down",0,65535],[2,"up",5,6]]}"#;
        assert_eq!(said(touch), Some(Said::Touch { head: 1, points }));
        for wrong in [
            "",
            "take",
            "[]",
            "{}",
            r#"{"do":"reboot"}"#,
            r#"{"do":"take","if_free":1}"#,
            r#"{"do":"take","by":"force"}"#,
            r#"{"do":"touch","head":256,"points":[]}"#,
            r#"{"do":"touch","head":0,"points":[[0,"down",65536,0]]}"#,
            r#"{"do":"touch","head":0,"points":[[0,"down",-1,0]]}"#,
            r#"{"do":"touch","head":0,"points":[[0,"hover",1,0]]}"#,
            r#"{"do":"touch","head":0,"points":[[0,"down",1]]}"#,
        ] {
            assert_eq!(said(wrong), None, "{wrong}");
        }
        assert!(serde_json::from_str::<Hello>(r#"{"token":"x","do":"take"}"#).is_err());
    }

    #[test]
    fn a_token_is_not_shown_by_what_carries_it() {
        let hello: Hello = serde_json::from_str(r#"{"token":"hunter2-hunter2-hunter2"}"#).unwrap();
        assert!(!format!("{hello:?}").contains("hunter"));
    }
}
