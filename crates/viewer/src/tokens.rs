//! Who is let in: everybody on this host, or who knows a token.
//!
//! A token is a secret: it is in no message and no log, [`Secret`] shows nothing of itself, and it is compared in constant time.

mod file;

use std::fmt;
use std::sync::{Mutex, PoisonError};

use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::floor::Right;

pub use file::{TokensError, TokensFile};

/// Something that nobody may read in a log.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    fn is(&self, said: &[u8]) -> Choice {
        self.0.as_bytes().ct_eq(said)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What the door said: somebody's right, and the token that it hangs on.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    right: Right,
    token: Option<Secret>,
}

impl Pass {
    /// For who needs no token: the window on the display of whoever started the VM.
    pub(crate) fn of_the_owner() -> Self {
        Self { right: Right::Control, token: None }
    }

    pub(crate) fn right(&self) -> Right {
        self.right
    }
}

/// Tokens and what they allow.
#[derive(Debug, Default)]
pub struct Tokens(Vec<(Secret, Right)>);

impl Tokens {
    #[cfg(test)]
    pub(crate) fn of(tokens: impl Iterator<Item = (Secret, Right)>) -> Self {
        Self(tokens.collect())
    }

    /// What who says this may do; none: it is none of the tokens.
    pub fn right_of(&self, said: &[u8]) -> Option<Right> {
        // Each is looked at, whichever it is.
        let mut found = 0u8;
        for (known, right) in &self.0 {
            found.conditional_assign(&(1 + u8::from(*right == Right::Control)), known.is(said));
        }
        match found {
            0 => None,
            1 => Some(Right::Look),
            _ => Some(Right::Control),
        }
    }
}

/// The door to the VM's screen.
#[derive(Debug, Default)]
pub(crate) struct Door(Option<Mutex<Tokens>>);

impl Door {
    /// Everybody on this host may look and type.
    pub(crate) fn open() -> Self {
        Self(None)
    }

    /// Only who knows a token.
    pub(crate) fn guarded(tokens: Tokens) -> Self {
        Self(Some(Mutex::new(tokens)))
    }

    /// True when nobody gets in without a token.
    pub(crate) fn needs_token(&self) -> bool {
        self.0.is_some()
    }

    /// Lets somebody in; none: not with this token. Where no token is needed none is looked at.
    pub(crate) fn admit(&self, token: Option<&Secret>) -> Option<Pass> {
        let Some(tokens) = &self.0 else { return Some(Pass::of_the_owner()) };
        let token = token?;
        let right = tokens.lock().unwrap_or_else(PoisonError::into_inner).right_of(token.0.as_bytes())?;
        Some(Pass { right, token: Some(token.clone()) })
    }

    /// True when who was let in would still be, with the same right.
    pub(crate) fn is_good(&self, pass: &Pass) -> bool {
        let (Some(tokens), Some(token)) = (&self.0, &pass.token) else { return true };
        tokens.lock().unwrap_or_else(PoisonError::into_inner).right_of(token.0.as_bytes()) == Some(pass.right)
    }

    /// Other tokens count from now on.
    pub(crate) fn change(&self, tokens: Tokens) {
        if let Some(known) = &self.0 {
            *known.lock().unwrap_or_else(PoisonError::into_inner) = tokens;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn the_right_is_the_tokens_own() {
        let tokens =
            Tokens(vec![(secret("a"), Right::Control), (secret("ab"), Right::Look), (secret("b"), Right::Control)]);
        let right = |text: &str| tokens.right_of(text.as_bytes());
        assert_eq!(
            (right("a"), right("ab"), right("b")),
            (Some(Right::Control), Some(Right::Look), Some(Right::Control))
        );
        assert_eq!((right(""), right("A"), right("abc"), right("c")), (None, None, None, None));
    }

    #[test]
    fn an_open_door_asks_for_nothing() {
        let door = Door::open();
        assert!(!door.needs_token());
        for token in [None, Some(&secret("whatever"))] {
            let pass = door.admit(token).unwrap();
            assert!(pass.right() == Right::Control && door.is_good(&pass));
        }
        assert!(Door::guarded(Tokens::default()).admit(None).is_none());
    }

    #[test]
    fn nothing_shows_a_token() {
        let tokens = Tokens(vec![(secret("do-not-print-this"), Right::Control)]);
        let door = Door::guarded(tokens);
        let pass = door.admit(Some(&secret("do-not-print-this"))).unwrap();
        let shown = format!("{door:?} {pass:?}");
        assert!(shown.contains("Secret") && !shown.contains("print"), "{shown}");
    }
}
