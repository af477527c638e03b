//! Normalises a reply's text for the rules: in lower case, on one line, without addresses and quotes.

/// The maximum distance between two parts of a phrase, in bytes.
const MAX_GAP: usize = 60;
/// The maximum length of the searched text, in bytes.
const MAX_TEXT: usize = 2_000;

/// A normalised text to search for phrases.
#[derive(Debug)]
pub(super) struct Text {
    text: String,
    /// A bitmap of the byte pairs in the text. A phrase with an absent pair cannot match, so most phrases need no
    /// search.
    pairs: [u64; 64],
}

impl Text {
    /// Normalises a text. An address becomes `@`, because `spam@example.test` says nothing about spam. Quotes and angle
    /// brackets are removed, and a run of white space becomes one space.
    pub fn new(text: &str) -> Self {
        let mut plain = String::with_capacity(text.len().min(MAX_TEXT));
        let mut word = String::new();
        for letter in text.chars().chain(std::iter::once(' ')) {
            if plain.len() + word.len() > MAX_TEXT {
                break;
            }
            match letter {
                '<' | '>' | '"' | '\'' | '`' | '´' | '‘' | '’' | '“' | '”' => {}
                _ if letter.is_whitespace()
                    || matches!(letter, '*' | '(' | ')' | '[' | ']' | '{' | '}' | ',' | ';' | ':') =>
                {
                    plain.push_str(if word.contains('@') { "@" } else { &word });
                    // Some servers write no space after the address: `ann@example.test...User unknown`.
                    if let Some((_, rest)) =
                        word.split_once("...").filter(|(address, rest)| address.contains('@') && !rest.is_empty())
                    {
                        plain.push(' ');
                        plain.push_str(rest);
                    }
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
            let (word, bit) = bit_of_pair(pair);
            pairs[word] |= bit;
        }
        Self { text: plain, pairs }
    }

    /// Returns whether the text contains the phrase, in which `*` matches up to 60 bytes.
    pub fn has(&self, phrase: &str) -> bool {
        let may_contain = |pair: &[u8]| {
            let (word, bit) = bit_of_pair(pair);
            pair.contains(&b'*') || self.pairs[word] & bit != 0
        };
        if !phrase.as_bytes().windows(2).all(may_contain) {
            return false;
        }
        let mut parts = phrase.split('*');
        let first = parts.next().unwrap_or_default();
        let rest: Vec<&str> = parts.collect();
        self.text.match_indices(first).any(|(at, _)| parts_follow(&self.text[at + first.len()..], &rest))
    }
}

/// Returns the index of a byte pair's word in the bitmap, and its bit.
fn bit_of_pair(pair: &[u8]) -> (usize, u64) {
    let hash = pair.iter().fold(0_usize, |hash, byte| hash * 61 + usize::from(*byte)) % 4_096;
    (hash / 64, 1 << (hash % 64))
}

/// Returns the beginning of a text, at most `bytes` long.
fn prefix(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Returns whether the parts follow one another, each within [`MAX_GAP`]. Uses the nearest match of each part.
fn parts_follow(mut text: &str, parts: &[&str]) -> bool {
    parts.iter().all(|part| match prefix(text, MAX_GAP + part.len()).find(part) {
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
    fn addresses_quotes_and_line_ends_are_removed() {
        let text = Text::new("User <Spam@Virus.test>\r\n  doesn’t \"EXIST\" (blocked@x.test): bye*");
        assert_eq!(text.text, "user @ doesnt exist (@): bye ");
        assert_eq!(Text::new("<ann@x.test>...User unknown").text, "@ user unknown ");
        assert_eq!(Text::new("<ann@x.test>... User unknown").text, "@ user unknown ");
    }

    #[test]
    fn phrase_may_have_gaps_of_limited_length() {
        let text = Text::new("The user you look for, Ann, does not exist");
        assert!(text.has("user*does not exist") && text.has("ann*exist") && text.has("the*look*not"));
        assert!(!text.has("does not*user") && !text.has("user does not exist"));
        assert!(!Text::new(&format!("user {} does not exist", "x".repeat(70))).has("user*does not exist"));
        let exactly = |gap: usize| format!("user{}é not", "x".repeat(gap - "é ".len()));
        assert!(Text::new(&exactly(MAX_GAP)).has("user*not") && !Text::new(&exactly(MAX_GAP + 1)).has("user*not"));
        assert!(Text::new(&format!("user {} user does not exist", "x".repeat(70))).has("user*does not exist"));
    }
}
