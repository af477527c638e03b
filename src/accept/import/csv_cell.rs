//! Prefixes an apostrophe to CSV cells that a spreadsheet would run as a formula, as OWASP recommends against CSV
//! injection. Reading a cell removes the apostrophe, so that importing an export yields the same values.

/// First characters that make a spreadsheet read a cell as a formula, or split it.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// Returns whether the value starts like a formula, leading apostrophes ignored.
fn is_formula(value: &str) -> bool {
    value.trim_start_matches('\'').starts_with(FORMULA)
}

/// Returns the cell to write for a value.
pub fn neutralise(value: String) -> String {
    if is_formula(&value) { format!("'{value}") } else { value }
}

/// Returns the field of a CSV file (RFC 4180) for a value: neutralised, and quoted if necessary.
pub fn field(value: String) -> String {
    let cell = neutralise(value);
    if cell.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

/// Returns the value of a cell that [`neutralise`] wrote.
pub fn restore(cell: String) -> String {
    match cell.strip_prefix('\'') {
        Some(value) if is_formula(value) => value.to_owned(),
        _ => cell,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_formulas_are_neutralised() {
        for (value, cell) in
            [("=1+1", "'=1+1"), ("+a@b.test", "'+a@b.test"), ("'=1", "''=1"), ("a=1", "a=1"), ("'", "'")]
        {
            assert_eq!(neutralise(value.into()), cell);
        }
    }

    #[test]
    fn fields_with_separators_are_quoted() {
        for (value, field) in
            [("a,b", "\"a,b\""), ("say \"hi\"", "\"say \"\"hi\"\"\""), ("=1,2", "\"'=1,2\""), ("a b", "a b")]
        {
            assert_eq!(super::field(value.into()), field);
        }
    }

    proptest! {
        #[test]
        fn neutralised_value_is_restored(value in "['=+@a\t-]{0,6}") {
            prop_assert_eq!(restore(neutralise(value.clone())), value);
        }
    }
}
