//! Fields in headers and in the parts of reports: `Name: value`, continued by lines that begin with white space (RFC
//! 5322 §2.2).

/// Maximum fields parsed.
const MAX_FIELDS: usize = 500;
/// Maximum length of a value in bytes; longer ones are truncated.
const LONGEST: usize = 8_000;
/// Maximum groups parsed, which also limits the recipients of a report.
const MAX_GROUPS: usize = 1_001;

/// The fields of a header or a group.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(in crate::mail) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Parses fields up to the first empty line. Lines that are not fields are skipped.
    pub fn read(text: &str) -> Self {
        let mut fields = Self::default();
        for line in text.lines().skip_while(|line| line.trim().is_empty()) {
            if line.trim().is_empty() || fields.0.len() >= MAX_FIELDS {
                break;
            }
            fields.push(line);
        }
        fields
    }

    /// Parses all groups, which are separated by empty lines.
    pub fn groups(text: &str) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        let mut is_new = true;
        for line in text.lines() {
            if line.trim().is_empty() {
                is_new = true;
            } else if std::mem::take(&mut is_new) {
                if groups.len() >= MAX_GROUPS {
                    break;
                }
                groups.push(Self::default());
            }
            if let Some(group) = groups.last_mut().filter(|group| group.0.len() < MAX_FIELDS) {
                group.push(line);
            }
        }
        groups.retain(|group| !group.0.is_empty());
        groups
    }

    fn push(&mut self, line: &str) {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = self.0.last_mut().filter(|(_, value)| value.len() + line.len() < LONGEST) {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = split_field(line) {
            self.0.push((name.to_ascii_lowercase(), cut(value.trim(), LONGEST).to_owned()));
        }
    }

    /// Returns the first non-empty value of the field with this lower-case name. Lines are separated by `\n`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, value)| own == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// Returns every non-empty value of the fields with this lower-case name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(own, value)| own == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// Returns the number of fields.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Returns the name and the value of a line that begins a field.
pub(in crate::mail::report) fn split_field(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    let name = name.trim_end();
    let is_name = !name.is_empty() && name.len() <= 100 && name.bytes().all(|b| b.is_ascii_graphic());
    is_name.then_some((name, value))
}

/// Truncates a text to at most `limit` bytes, between characters.
pub(in crate::mail::report) fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_parsed_up_to_an_empty_line() {
        let fields = Fields::read(
            "\r\nStatus: 5.1.1\r\nno field\r\nDiagnostic-Code: smtp;\r\n\t550 no\r\nSTATUS : x\r\n\r\nAction: failed",
        );
        assert_eq!(fields.get("status"), Some("5.1.1"));
        assert_eq!(fields.all("status").collect::<Vec<_>>(), ["5.1.1", "x"]);
        assert_eq!(fields.get("diagnostic-code"), Some("smtp;\n550 no"));
        assert_eq!((fields.get("action"), fields.len()), (None, 3));
    }

    #[test]
    fn groups_are_separated_by_empty_lines() {
        let groups = Fields::groups("\n\na: 1\n\n\nb: 2\nc: 3\n \n");
        assert_eq!(groups.iter().map(Fields::len).collect::<Vec<_>>(), [1, 2]);
    }
}
