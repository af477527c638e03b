//! The variables of a template: their declarations, and the values of a message.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::domain::api::fault::{Code, Faults};

use super::limits::{MAX_KEY, MAX_VALUE_DEPTH, MAX_VALUES, MAX_VARIABLES};
use super::source::{Syntax, Variable, VariableType};

/// Names that mean something else in Jinja.
const RESERVED: [&str; 26] = [
    "and",
    "caller",
    "dict",
    "elif",
    "else",
    "false",
    "False",
    "for",
    "if",
    "in",
    "is",
    "loop",
    "namespace",
    "none",
    "None",
    "not",
    "or",
    "range",
    "recursive",
    "self",
    "set",
    "super",
    "true",
    "True",
    "varargs",
    "kwargs",
];

impl VariableType {
    /// Returns the type's name with its article.
    pub(super) fn described(self) -> &'static str {
        match self {
            Self::String => "a string",
            Self::Number => "a number",
            Self::Boolean => "true or false",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }

    fn matches(self, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::Array => value.is_array(),
            Self::Object => value.is_object(),
        }
    }
}

/// Checks the declarations of a template. Pointers are below `/variables`.
pub(super) fn check_declarations(variables: &[Variable], syntax: Syntax, faults: &mut Faults) {
    if variables.len() > MAX_VARIABLES {
        let message = format!("a template declares at most {MAX_VARIABLES} variables");
        faults.push("/variables", Code::TooMany, message);
        return;
    }
    for (index, variable) in variables.iter().enumerate() {
        let at = format!("/variables/{index}");
        if let Some(why) = invalid_key(&variable.key, syntax) {
            faults.push(format!("{at}/key"), Code::InvalidValue, why);
        }
        if variables[..index].iter().any(|earlier| earlier.key == variable.key) {
            let message = format!("the variable `{}` is declared twice", variable.key);
            faults.push(format!("{at}/key"), Code::DuplicateValue, message);
        }
        if syntax == Syntax::Vars && matches!(variable.kind, VariableType::Array | VariableType::Object) {
            let message = "with the syntax `vars`, variables are strings, numbers or booleans";
            faults.push(format!("{at}/type"), Code::InvalidValue, message);
        }
        if variable.max_length.is_some() && !matches!(variable.kind, VariableType::String | VariableType::Array) {
            let message = "only strings and arrays have a `max_length`";
            faults.push(format!("{at}/max_length"), Code::InvalidValue, message);
        }
        if let Some(default) = &variable.default {
            check_value(variable, default, &format!("{at}/default"), faults);
        }
    }
    let size: usize = variables.iter().filter_map(|variable| variable.default.as_ref()).map(size).sum();
    if size > MAX_VALUES {
        faults.push("/variables", Code::TooLarge, format!("the defaults have at most {MAX_VALUES} bytes"));
    }
}

/// Returns why a text cannot be the key of a variable.
fn invalid_key(key: &str, syntax: Syntax) -> Option<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if key.is_empty() || key.len() > MAX_KEY || !key.chars().all(is_word) {
        return Some(format!("a key has 1 to {MAX_KEY} letters, digits and underscores"));
    }
    if syntax == Syntax::Vars {
        return None;
    }
    if key.starts_with(|c: char| c.is_ascii_digit()) || key.starts_with("__") {
        return Some("a key starts with a letter or one underscore".into());
    }
    RESERVED.contains(&key).then(|| format!("`{key}` has another meaning in the template language; use another key"))
}

/// Checks a value of a variable.
fn check_value(variable: &Variable, value: &Value, pointer: &str, faults: &mut Faults) {
    if !variable.kind.matches(value) {
        faults.push(pointer, Code::InvalidType, format!("`{}` must be {}", variable.key, variable.kind.described()));
        return;
    }
    let length = match value {
        Value::String(text) => text.chars().count(),
        Value::Array(items) => items.len(),
        _ => 0,
    };
    if let Some(max) = variable.max_length.filter(|max| length > *max as usize) {
        let (unit, code) = if value.is_array() { ("items", Code::TooMany) } else { ("characters", Code::TooLong) };
        faults.push(pointer, code, format!("`{}` must have at most {max} {unit}, but has {length}", variable.key));
    }
    match problem(value, 0) {
        Some(Problem::Nul) => {
            faults.push(pointer, Code::ControlCharacter, format!("`{}` must not contain NUL (U+0000)", variable.key));
        }
        Some(Problem::Depth) => {
            let message = format!("`{}` is nested more than {MAX_VALUE_DEPTH} deep", variable.key);
            faults.push(pointer, Code::TooLarge, message);
        }
        None => {}
    }
}

enum Problem {
    Nul,
    Depth,
}

fn problem(value: &Value, depth: usize) -> Option<Problem> {
    match value {
        _ if depth > MAX_VALUE_DEPTH => Some(Problem::Depth),
        Value::String(text) if text.contains('\0') => Some(Problem::Nul),
        Value::Array(items) => items.iter().find_map(|item| problem(item, depth + 1)),
        Value::Object(fields) => fields
            .iter()
            .find_map(|(name, value)| if name.contains('\0') { Some(Problem::Nul) } else { problem(value, depth + 1) }),
        _ => None,
    }
}

/// Returns the approximate size of a value as JSON, in bytes. The caller bounds the depth.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 8,
        Value::String(text) => text.len() + 3,
        Value::Array(items) => 2 + items.iter().map(|item| size(item) + 1).sum::<usize>(),
        Value::Object(fields) => 2 + fields.iter().map(|(name, value)| name.len() + size(value) + 4).sum::<usize>(),
    }
}

/// Checks the values of a message. Pointers are `/variables/KEY`. Returns the keys that are not declared.
pub(super) fn check_values(variables: &[Variable], values: &Map<String, Value>, faults: &mut Faults) -> Vec<String> {
    // The size is computed only for values of bounded depth.
    let is_deep = values.values().any(|value| matches!(problem(value, 0), Some(Problem::Depth)));
    let total = if is_deep { 0 } else { values.iter().map(|(key, value)| key.len() + size(value)).sum::<usize>() };
    if total > MAX_VALUES {
        let message = format!("the variables of a message must have at most {MAX_VALUES} bytes, but have {total}");
        faults.push("/variables", Code::TooLarge, message);
        return Vec::new();
    }
    for variable in variables {
        let pointer = format!("/variables/{}", variable.key);
        match values.get(&variable.key) {
            Some(value) if !value.is_null() => check_value(variable, value, &pointer, faults),
            _ if variable.required && variable.default.is_none() => {
                let message = format!("the template needs `{}`, {}", variable.key, variable.kind.described());
                faults.push(pointer, Code::Required, message);
            }
            _ => {}
        }
    }
    let is_declared = |key: &&String| variables.iter().any(|variable| variable.key == **key);
    values.keys().filter(|key| !is_declared(key)).cloned().collect()
}

/// Converts a value for the template engine.
pub(super) fn engine_value(value: &Value) -> minijinja::Value {
    match value {
        Value::Null => minijinja::Value::from(()),
        Value::Bool(value) => minijinja::Value::from(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => minijinja::Value::from(number),
            (None, Some(number)) => minijinja::Value::from(number),
            (None, None) => minijinja::Value::from(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => minijinja::Value::from(text.as_str()),
        Value::Array(items) => minijinja::Value::from(items.iter().map(engine_value).collect::<Vec<_>>()),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.as_str(), engine_value(value)));
            minijinja::Value::from_pairs(fields)
        }
    }
}

/// Returns the text of a value in the syntax `vars`.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Returns an example value that fits a declaration.
pub(super) fn example(variable: &Variable) -> Value {
    match variable.kind {
        VariableType::String => {
            let text = format!("{}_value", variable.key);
            let max = variable.max_length.map_or(usize::MAX, |max| max as usize);
            Value::String(text.chars().take(max).collect())
        }
        VariableType::Number => Value::from(1),
        VariableType::Boolean => Value::Bool(true),
        VariableType::Array => Value::Array(Vec::new()),
        VariableType::Object => Value::Object(Map::new()),
    }
}

/// Returns the value of each variable: from the message, or its default, or `null`.
pub(super) fn with_defaults<'v>(
    variables: &'v [Variable],
    values: &'v Map<String, Value>,
) -> BTreeMap<&'v str, &'v Value> {
    const NONE: &Value = &Value::Null;
    let value = |variable: &'v Variable| {
        let value = values.get(&variable.key).filter(|value| !value.is_null());
        value.or(variable.default.as_ref()).unwrap_or(NONE)
    };
    variables.iter().map(|variable| (variable.key.as_str(), value(variable))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn variable(key: &str, kind: VariableType) -> Variable {
        Variable { key: key.into(), kind, required: true, default: None, max_length: None }
    }

    fn faults(check: impl FnOnce(&mut Faults)) -> Vec<(String, &'static str)> {
        let mut faults = Faults::default();
        check(&mut faults);
        faults.into_vec().into_iter().map(|fault| (fault.pointer, fault.code)).collect()
    }

    #[test]
    fn declarations_are_checked() {
        let mut variables = vec![variable("a", VariableType::String), variable("a", VariableType::Array)];
        variables[0].default = Some(json!(1));
        variables.push(Variable { max_length: Some(1), ..variable("2x", VariableType::Number) });
        variables.extend([variable("loop", VariableType::String), variable("__x", VariableType::String)]);
        let found = faults(|faults| check_declarations(&variables, Syntax::Jinja, faults));
        let pointers: Vec<&str> = found.iter().map(|(pointer, _)| pointer.as_str()).collect();
        assert_eq!(
            pointers,
            [
                "/variables/0/default",
                "/variables/1/key",
                "/variables/2/key",
                "/variables/2/max_length",
                "/variables/3/key",
                "/variables/4/key"
            ]
        );
        let found = faults(|faults| check_declarations(&variables[1..], Syntax::Vars, faults));
        let pointers: Vec<&str> = found.iter().map(|(pointer, _)| pointer.as_str()).collect();
        assert_eq!(pointers, ["/variables/0/type", "/variables/1/max_length"]);
    }

    #[test]
    fn all_faults_of_values_are_reported() {
        let mut variables = vec![
            variable("s", VariableType::String),
            variable("n", VariableType::Number),
            variable("missing", VariableType::String),
            variable("nul", VariableType::Object),
            variable("deep", VariableType::Array),
        ];
        variables[0].max_length = Some(2);
        variables.push(Variable { default: Some(json!("x")), ..variable("with_default", VariableType::String) });
        variables.push(Variable { required: false, ..variable("optional", VariableType::String) });
        let deep = (0..40).fold(json!(1), |value, _| json!([value]));
        let values = json!({"s": "äöü", "n": "1", "nul": {"a": ["\u{0}"]}, "deep": deep, "optional": null, "other": 1});
        let mut unknown = Vec::new();
        let found = faults(|faults| unknown = check_values(&variables, values.as_object().unwrap(), faults));
        assert_eq!(
            found,
            [
                ("/variables/s".to_owned(), "too_long"),
                ("/variables/n".to_owned(), "invalid_type"),
                ("/variables/missing".to_owned(), "required"),
                ("/variables/nul".to_owned(), "control_character"),
                ("/variables/deep".to_owned(), "too_large"),
            ]
        );
        assert_eq!(unknown, ["other"]);
    }

    #[test]
    fn total_size_is_limited() {
        let variables = [variable("s", VariableType::String)];
        let values = json!({"s": "x".repeat(MAX_VALUES)});
        let found = faults(|faults| drop(check_values(&variables, values.as_object().unwrap(), faults)));
        assert_eq!(found, [("/variables".to_owned(), "too_large")]);
    }

    #[test]
    fn defaults_replace_missing_values() {
        let variables = [
            Variable { default: Some(json!("d")), ..variable("a", VariableType::String) },
            Variable { required: false, ..variable("b", VariableType::String) },
        ];
        let values = json!({"a": null});
        let values = with_defaults(&variables, values.as_object().unwrap());
        assert_eq!(values, BTreeMap::from([("a", &json!("d")), ("b", &json!(null))]));
    }
}
