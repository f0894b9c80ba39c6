//! Who won a race of writers of which only one may win.

/// What one writer was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// 200.
    Won,
    /// 412 or 409.
    Lost,
    /// No answer, or one that does not say whether it happened.
    Unknown,
}

impl Told {
    /// From a status; anything that no racing writer may be told is an error.
    pub fn from_status(status: u16) -> Result<Self, String> {
        match status {
            200 => Ok(Told::Won),
            409 | 412 => Ok(Told::Lost),
            500..=599 => Ok(Told::Unknown),
            other => Err(format!("a racing writer was told {other}")),
        }
    }
}

/// Which writer won, from what each was told and whose bytes each gateway gave afterwards; `None` if no writer did.
/// An error says what is wrong.
pub fn judge(told: &[Told], read: &[Option<usize>]) -> Result<Option<usize>, String> {
    let won: Vec<usize> = (0..told.len())
        .filter(|writer| told[*writer] == Told::Won)
        .collect();
    if won.len() > 1 {
        return Err(format!("{} writers won: {won:?}", won.len()));
    }
    let first = *read.first().ok_or("nobody read")?;
    if let Some(other) = read.iter().find(|other| **other != first) {
        return Err(format!(
            "gateways do not agree on whose bytes these are: {first:?} and {other:?}"
        ));
    }
    match (won.first(), first) {
        (Some(winner), Some(read)) if *winner == read => Ok(first),
        (Some(winner), read) => Err(format!(
            "writer {winner} won, and what is read is of {read:?}"
        )),
        (None, Some(read)) if told[read] == Told::Unknown => Ok(first),
        (None, Some(read)) => Err(format!(
            "what is read is of writer {read}, which was told {:?}",
            told[read]
        )),
        (None, None) if told.contains(&Told::Lost) => {
            Err("somebody lost, and nobody won".to_owned())
        }
        (None, None) if told.is_empty() => Err("nobody wrote".to_owned()),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::Told::{Lost, Unknown, Won};
    use super::{Told, judge};

    #[test]
    fn one_winner_whose_bytes_are_everywhere_is_right() {
        assert_eq!(judge(&[Lost, Won, Lost], &[Some(1), Some(1)]), Ok(Some(1)));
        assert_eq!(judge(&[Lost, Won, Unknown], &[Some(1)]), Ok(Some(1)));
    }

    #[test]
    fn two_winners_are_found() {
        assert!(judge(&[Won, Won], &[Some(0)]).is_err());
    }

    #[test]
    fn bytes_of_another_are_found() {
        assert!(judge(&[Won, Lost], &[Some(1)]).is_err());
        assert!(judge(&[Won, Unknown], &[Some(1)]).is_err());
        assert!(judge(&[Unknown, Lost], &[Some(1)]).is_err());
        assert!(judge(&[Won, Lost], &[Some(0), Some(1)]).is_err());
        assert!(judge(&[Won, Lost], &[Some(0), None]).is_err());
    }

    #[test]
    fn a_winner_whose_bytes_are_gone_is_found() {
        assert!(judge(&[Won, Lost], &[None]).is_err());
    }

    #[test]
    fn a_later_read_decides_what_no_answer_did() {
        assert_eq!(judge(&[Unknown, Lost], &[Some(0)]), Ok(Some(0)));
        assert_eq!(judge(&[Unknown, Unknown], &[None]), Ok(None));
    }

    #[test]
    fn losers_without_a_winner_are_found() {
        assert!(judge(&[Lost, Lost], &[None]).is_err());
        assert!(judge(&[Unknown, Lost], &[None]).is_err());
    }

    #[test]
    fn odd_statuses_are_errors() {
        assert_eq!(Told::from_status(409), Ok(Lost));
        assert_eq!(Told::from_status(503), Ok(Unknown));
        for status in [204, 206, 400, 403, 404] {
            assert!(Told::from_status(status).is_err(), "{status}");
        }
    }
}
