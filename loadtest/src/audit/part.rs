//! What an order is on one shard: one byte. Invariant: it moves only along the arrows of [`Part::step`].

/// The state of an order on a shard. Later states are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum State {
    /// Not there, or undone.
    #[default]
    Nothing,
    /// Set aside for an order over several shards.
    Tentative,
    /// Granted.
    Held,
    /// Paid.
    Confirmed,
    /// Given back; or never to be granted, since its cancel came first.
    Returned,
}

impl State {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            State::Nothing => "nothing",
            State::Tentative => "set aside",
            State::Held => "held",
            State::Confirmed => "confirmed",
            State::Returned => "returned",
        }
    }
}

const STATES: [State; 5] = [
    State::Nothing,
    State::Tentative,
    State::Held,
    State::Confirmed,
    State::Returned,
];
const STATE_MASK: u8 = 0b111;
const GRANTED: u8 = 1 << 3;
const CONFIRMED: u8 = 1 << 4;

/// An order on a shard, and what it has been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Part(u8);

impl Part {
    pub(super) fn state(self) -> State {
        STATES[usize::from(self.0 & STATE_MASK)]
    }

    /// Whether it was ever held.
    pub(super) fn was_granted(self) -> bool {
        self.0 & GRANTED != 0
    }

    /// Whether it was ever paid.
    pub(super) fn was_confirmed(self) -> bool {
        self.0 & CONFIRMED != 0
    }

    /// Moves on; refuses what cannot follow and stays.
    pub(super) fn step(&mut self, to: State) -> Result<(), ()> {
        let may = matches!(
            (self.state(), to),
            (
                State::Nothing,
                State::Tentative | State::Held | State::Returned
            ) | (
                State::Tentative,
                State::Held | State::Nothing | State::Returned
            ) | (State::Held, State::Confirmed | State::Returned)
                | (State::Confirmed, State::Returned)
        );
        if !may {
            return Err(());
        }
        self.0 = (self.0 & !STATE_MASK) | to as u8;
        match to {
            State::Held => self.0 |= GRANTED,
            State::Confirmed => self.0 |= CONFIRMED,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_granted_once_and_returned_once() {
        let mut part = Part::default();
        assert_eq!(part.step(State::Held), Ok(()));
        assert_eq!(part.step(State::Held), Err(()));
        assert_eq!(part.step(State::Tentative), Err(()));
        assert_eq!(part.step(State::Confirmed), Ok(()));
        assert_eq!(part.step(State::Returned), Ok(()));
        assert_eq!(part.step(State::Returned), Err(()));
        assert_eq!(part.step(State::Held), Err(()));
        assert!(part.was_granted() && part.was_confirmed());
    }

    #[test]
    fn what_was_undone_may_be_tried_again() {
        let mut part = Part::default();
        assert_eq!(part.step(State::Tentative), Ok(()));
        assert_eq!(part.step(State::Nothing), Ok(()));
        assert!(!part.was_granted());
        assert_eq!(part.step(State::Tentative), Ok(()));
        assert_eq!(part.step(State::Held), Ok(()));
        assert!(part.was_granted());
    }

    #[test]
    fn a_cancel_in_advance_forbids_the_grant() {
        let mut part = Part::default();
        assert_eq!(part.step(State::Returned), Ok(()));
        assert_eq!(part.step(State::Held), Err(()));
        assert!(!part.was_granted());
    }
}
