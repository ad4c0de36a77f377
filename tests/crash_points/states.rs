//! What a crash leaves, each state with a name that brings it back.

use std::collections::HashSet;

use faiss_proxy::io::sim::{SimIo, Survival};

use super::support::{Before, env_or};

/// Random power cuts that each crash point is given.
pub fn seeds() -> u64 {
    env_or("FAISS_PROXY_CRASH_SEEDS", 6)
}

fn power_cuts(n: u64) -> impl Iterator<Item = Survival> {
    // Other seeds at each point: the same ones would decide the same of the first few names everywhere. Torn sectors in every second: a
    // sector that is whole is the other half of the truth.
    let seeds = n * seeds()..(n + 1) * seeds();
    let random = seeds.map(|seed| if seed % 2 == 0 { Survival::Random(seed) } else { Survival::Torn(seed) });
    [Survival::None, Survival::All].into_iter().chain(random)
}

/// Kinds of crashes: a kill, and power cuts that leave nothing unsynced, everything, any part, and any part torn.
pub const KINDS: u64 = 5;

/// What is left of a disk, in the `n`-th way, of which [`KINDS`] after each other are of all kinds.
pub fn nth_left(disk: &SimIo, n: u64) -> Left {
    match n % KINDS {
        0 => Left::killed(disk),
        1 => Left::cut(disk, Survival::None),
        2 => Left::cut(disk, Survival::All),
        3 => Left::cut(disk, Survival::Random(n)),
        _ => Left::cut(disk, Survival::Torn(n)),
    }
}

/// A disk after a crash.
pub struct Left {
    pub disk: SimIo,
    pub before: Before,
    /// `kill`, `None`, `Torn(3)`.
    pub how: String,
}

impl Left {
    fn killed(disk: &SimIo) -> Self {
        Self { disk: disk.fork(), before: Before::Kill, how: "kill".to_owned() }
    }

    fn cut(disk: &SimIo, survival: Survival) -> Self {
        Self { disk: disk.crash(survival), before: Before::PowerCut, how: format!("{survival:?}") }
    }
}

/// All that is left of a disk after a kill (everything written is there, and nothing more is synced) and after power cuts; of those that
/// leave the same one only. `n` is the point at which it crashed, and chooses the power cuts.
pub fn left(disk: &SimIo, n: u64) -> impl Iterator<Item = Left> {
    let mut seen = HashSet::new();
    let cuts = power_cuts(n).map(|survival| Left::cut(disk, survival)).filter(move |left| seen.insert(left.disk.fingerprint()));
    std::iter::once(Left::killed(disk)).chain(cuts)
}

/// Which states are looked at: all, or the one that `FAISS_PROXY_CRASH_STATE` names.
#[derive(Clone, Debug, Default)]
pub struct Only(Option<String>);

impl Only {
    pub fn from_env() -> Self {
        Self(std::env::var("FAISS_PROXY_CRASH_STATE").ok())
    }

    pub fn state(name: &str) -> Self {
        Self(Some(name.to_owned()))
    }

    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|only| only == name)
    }
}

/// Says, where a check panics, which state it was and how to see it again.
pub struct ToldOnPanic<'a> {
    pub disk: &'a SimIo,
    pub state: &'a str,
}

impl Drop for ToldOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let steps = self.disk.trace();
            eprintln!("the last steps: {:#?}", &steps[steps.len().saturating_sub(40)..]);
            eprintln!("{}", how_to_replay(self.state));
        }
    }
}

pub fn how_to_replay(state: &str) -> String {
    format!("again: FAISS_PROXY_CRASH_STATE='{state}' cargo test --test crash_points")
}

/// Crash points, and the states that were opened and checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub points: u64,
    pub states: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.points += other.points;
        self.states += other.states;
    }
}

impl std::iter::Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |mut sum, count| {
            sum += count;
            sum
        })
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} points, {} distinct states", self.points, self.states)
    }
}
