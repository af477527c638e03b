//! Limits the work of inlining CSS: the number of declarations that elements can get, and of steps to match selectors.
//!
//! One rule with a thousand declarations that matches ten thousand elements makes ten million declarations. The work is
//! estimated from one class, id or element name in the last part of each selector: only elements with it can match.

use std::collections::HashMap;

use super::{Event, events};

/// Maximum depth of nested blocks, and of nested parentheses.
const MAX_NESTING: usize = 16;
/// Maximum number of declarations of all elements together.
const MAX_DECLARATIONS: u64 = 300_000;
/// Maximum number of comparisons of declarations: for each element, the square of its number of declarations.
const MAX_COMPARISONS: u64 = 30_000_000;
/// Maximum number of steps to match selectors.
const MAX_MATCHING: u64 = 20_000_000;

const TOO_MUCH: &str = "too many CSS rules for so many elements; remove unused rules, or use fewer elements";

/// The declarations and the matching steps that the rules with a key cost each element with this key.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    declarations: u64,
    matching: u64,
}

/// Checks the cost of inlining `css` into an HTML text. The error says what is too much and how to fix it.
pub(super) fn check(html: &str, css: &str) -> Result<(), String> {
    let elements = elements(html)?;
    let costs = costs(css, elements.len() as u64)?;
    let (mut declarations, mut comparisons, mut matching) = (0_u64, 0_u64, 0_u64);
    for keys in elements {
        let mut sum = Cost::default();
        for cost in keys.iter().filter_map(|key| costs.get(key)) {
            sum.declarations += cost.declarations;
            sum.matching += cost.matching;
        }
        declarations += sum.declarations;
        comparisons = comparisons.saturating_add(sum.declarations.saturating_mul(sum.declarations));
        matching = matching.saturating_add(sum.matching);
    }
    let is_too_much = declarations > MAX_DECLARATIONS || comparisons > MAX_COMPARISONS || matching > MAX_MATCHING;
    if is_too_much { Err(TOO_MUCH.to_owned()) } else { Ok(()) }
}

/// Returns the keys of each element: `*`, its name, `.class` and `#id`.
fn elements(html: &str) -> Result<Vec<Vec<String>>, String> {
    let mut elements = Vec::new();
    for event in events(html) {
        let Event::Start(tag) = event else { continue };
        let mut keys = vec!["*".to_owned(), html[tag.name].to_ascii_lowercase()];
        for attribute in tag.attributes {
            let Some(value) = attribute.value.map(|value| &html[value]) else { continue };
            match html[attribute.name].to_ascii_lowercase().as_str() {
                "class" => {
                    keys.extend(value.split_ascii_whitespace().map(|class| format!(".{}", class.to_ascii_lowercase())));
                }
                "id" => keys.push(format!("#{}", value.to_ascii_lowercase())),
                "style" if nesting(value) > MAX_NESTING => return Err(too_nested("a `style` attribute")),
                _ => {}
            }
        }
        keys.sort_unstable();
        keys.dedup();
        elements.push(keys);
    }
    Ok(elements)
}

fn too_nested(what: &str) -> String {
    format!("blocks or parentheses in {what} are nested more than {MAX_NESTING} deep; nest them less")
}

/// Returns the depth of nested blocks and parentheses.
fn nesting(css: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in css.bytes() {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Returns the cost of each key.
fn costs(css: &str, elements: u64) -> Result<HashMap<String, Cost>, String> {
    let css = without_comments(css);
    if nesting(&css) > MAX_NESTING {
        return Err(too_nested("CSS"));
    }
    let mut costs: HashMap<String, Cost> = HashMap::new();
    let mut open: Vec<(String, u64)> = Vec::new();
    let mut start = 0;
    for (at, c) in css.char_indices().filter(|(_, c)| matches!(c, '{' | '}' | ';')) {
        let text = css[start..at].trim();
        start = at + c.len_utf8();
        if c == '{' {
            open.push((text.to_owned(), 0));
            continue;
        }
        if let Some((_, declarations)) = open.last_mut() {
            *declarations += u64::from(!text.is_empty());
        }
        if c == '}'
            && let Some((selectors, declarations)) = open.pop()
            && !selectors.starts_with('@')
        {
            add(&mut costs, &selectors, declarations, elements);
        }
    }
    // Blocks that are not closed end at the end of the text.
    for (selectors, declarations) in open {
        add(&mut costs, &selectors, declarations + 1, elements);
    }
    Ok(costs)
}

fn without_comments(css: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(css.len()), css);
    while let Some((before, after)) = rest.split_once("/*") {
        out.push_str(before);
        out.push(' ');
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    out.push_str(rest);
    out
}

/// Adds the cost of a rule.
fn add(costs: &mut HashMap<String, Cost>, selectors: &str, declarations: u64, elements: u64) {
    for selector in selectors.split(',').map(str::trim).filter(|selector| !selector.is_empty()) {
        let cost = costs.entry(key(selector)).or_default();
        cost.declarations += declarations;
        cost.matching += steps(selector, elements);
    }
}

/// Returns a key that every element has that the selector can match: the first id or class in the selector's last part,
/// else its element name, else `*`.
fn key(selector: &str) -> String {
    if selector.contains(['(', '\\', '&']) {
        return "*".to_owned();
    }
    let last = selector.rsplit([' ', '>', '+', '~', '\t', '\n', '\r']).next().unwrap_or_default();
    let last = last.split([':', '[']).next().unwrap_or_default().to_ascii_lowercase();
    match last.find(['#', '.']) {
        Some(at) => {
            let end = last[at + 1..].find(['#', '.']).map_or(last.len(), |end| at + 1 + end);
            last[at..end].to_owned()
        }
        None if last.is_empty() => "*".to_owned(),
        None => last,
    }
}

/// Returns the number of steps to match a selector with one element.
fn steps(selector: &str, elements: u64) -> u64 {
    const ANCESTORS: u64 = 32;
    let combinators = selector.split_ascii_whitespace().count() as u64 + selector.matches('>').count() as u64;
    let looks_at_siblings = selector.contains(['~', '+']) || selector.contains(":nth") || selector.contains('(');
    let looks_at_siblings = looks_at_siblings || selector.contains(":last") || selector.contains(":only");
    let siblings = if looks_at_siblings { elements } else { 0 };
    1 + (combinators - 1) * ANCESTORS + siblings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_an_id_class_or_name_of_the_last_part() {
        let keys = ["a", "p a:hover", "div > .x.y", "td#i", "*", "[x]", "a:not(.b)", "A.Big", ":root"].map(key);
        assert_eq!(keys, ["a", "a", ".x", "#i", "*", "*", "*", ".big", "*"]);
    }

    #[test]
    fn ordinary_newsletters_pass() {
        let html = "<table><tr class=\"row a\"><td><a class=btn href=x>y</a></td></tr></table>".repeat(300);
        let css = ".row td a { color: red; padding: 0 } .btn { a: b; c: d } @media print { a { x: y } } ".repeat(20);
        assert_eq!(check(&html, &css), Ok(()));
    }

    #[test]
    fn rules_that_multiply_are_refused() {
        let elements = "<p class=x>".repeat(5_000);
        for css in [
            format!("* {{ {} }}", (0..3_000).map(|at| format!("a{at}:b;")).collect::<Vec<_>>().concat()),
            "p { a: b }".repeat(10_000),
            ".x ~ .x { a: b } ".repeat(2),
            ":not(:not(a)) b { c: d }".repeat(10),
            format!("{}a:b", "a{".repeat(40)),
            format!("a {{ b: {}", "(".repeat(1_000)),
        ] {
            assert!(check(&elements, &css).is_err(), "{}", &css[..20.min(css.len())]);
        }
        assert!(check(&format!("<p style=\"a:{}\">", "[".repeat(100)), "a{b:c}").is_err());
    }
}
