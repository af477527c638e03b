//! A reply's text as rules look at it: in lower case, on one line, without what is not the server's own wording.

/// How far apart the parts of a phrase may stand, in bytes.
const GAP: usize = 60;
/// More of a text is not looked at.
const LIMIT: usize = 2_000;

/// A text that phrases are looked for in.
#[derive(Debug)]
pub(super) struct Text {
    text: String,
    /// Which pairs of neighbouring bytes it has: most phrases have one that it has not, and need no search.
    pairs: [u64; 64],
}

impl Text {
    /// Addresses become `@`, since `spam@example.test` says nothing of spam; quotes and angle brackets vanish, and runs of
    /// white space become one space.
    pub fn of(text: &str) -> Self {
        let mut plain = String::with_capacity(text.len().min(LIMIT));
        let mut word = String::new();
        for letter in text.chars().chain(std::iter::once(' ')) {
            if plain.len() + word.len() > LIMIT {
                break;
            }
            match letter {
                '<' | '>' | '"' | '\'' | '`' | '´' | '‘' | '’' | '“' | '”' => {}
                _ if letter.is_whitespace()
                    || matches!(letter, '*' | '(' | ')' | '[' | ']' | '{' | '}' | ',' | ';' | ':') =>
                {
                    plain.push_str(if word.contains('@') { "@" } else { &word });
                    word.clear();
                    let letter = if letter.is_whitespace() || letter == '*' { ' ' } else { letter };
                    if letter != ' ' || !plain.ends_with(' ') {
                        plain.push(letter);
                    }
                }
                _ => word.extend(letter.to_lowercase()),
            }
        }
        let mut pairs = [0; 64];
        for pair in plain.as_bytes().windows(2) {
            let (word, bit) = place(pair);
            pairs[word] |= bit;
        }
        Self { text: plain, pairs }
    }

    /// Whether the phrase is there. `*` in it stands for up to 60 bytes of anything.
    pub fn has(&self, phrase: &str) -> bool {
        let is_there = |pair: &[u8]| {
            let (word, bit) = place(pair);
            pair.contains(&b'*') || self.pairs[word] & bit != 0
        };
        if !phrase.as_bytes().windows(2).all(is_there) {
            return false;
        }
        let mut parts = phrase.split('*');
        let first = parts.next().unwrap_or_default();
        let rest: Vec<&str> = parts.collect();
        self.text.match_indices(first).any(|(at, _)| follow(&self.text[at + first.len()..], &rest))
    }
}

/// Where a pair of bytes is noted.
fn place(pair: &[u8]) -> (usize, u64) {
    let hash = pair.iter().fold(0_usize, |hash, byte| hash * 61 + usize::from(*byte)) % 4_096;
    (hash / 64, 1 << (hash % 64))
}

/// The beginning of a text: what is found in it whole is no farther than the gap, and nothing beyond is searched.
fn near(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Whether the parts follow one another, each near the one before. The nearest is taken: a later one would only be farther
/// from what follows it.
fn follow(mut text: &str, parts: &[&str]) -> bool {
    parts.iter().all(|part| match near(text, GAP + part.len()).find(part) {
        Some(at) => {
            text = &text[at + part.len()..];
            true
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_quotes_and_line_ends_say_nothing() {
        let text = Text::of("User <Spam@Virus.test>\r\n  doesn’t \"EXIST\" (blocked@x.test): bye*");
        assert_eq!(text.text, "user @ doesnt exist (@): bye ");
    }

    #[test]
    fn a_phrase_may_have_gaps_of_some_length() {
        let text = Text::of("The user you look for, Ann, does not exist");
        assert!(text.has("user*does not exist") && text.has("ann*exist") && text.has("the*look*not"));
        assert!(!text.has("does not*user") && !text.has("user does not exist"));
        assert!(!Text::of(&format!("user {} does not exist", "x".repeat(70))).has("user*does not exist"));
        let exactly = |gap: usize| format!("user{}é not", "x".repeat(gap - "é ".len()));
        assert!(Text::of(&exactly(GAP)).has("user*not") && !Text::of(&exactly(GAP + 1)).has("user*not"));
        assert!(Text::of(&format!("user {} user does not exist", "x".repeat(70))).has("user*does not exist"));
    }
}
