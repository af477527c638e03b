//! The filters, tests and functions that templates may use, and guards for those whose cost `MiniJinja`'s fuel does not bound.
//!
//! Fuel bounds the number of instructions and the size of created strings and lists. It does not bound how much data
//! one instruction visits: lists may contain the same list many times, are repeated and concatenated lazily, and are
//! compared and serialized as a whole. So every list and map that a template creates is measured, and copied if it is a
//! lazy list ([`build`]); and filters and tests that compare or serialize values first pay for the whole size of these
//! values ([`pay`]).

use minijinja::value::{ObjectRepr, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, tests};

use super::shape::Hint;

/// A filter that templates may use.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) name: &'static str,
    /// What the use of the filter says about the type of its input.
    pub(super) input: Hint,
    /// Whether the input is an array.
    pub(super) iterates: bool,
}

const fn text(name: &'static str) -> Filter {
    Filter { name, input: Hint::String, iterates: false }
}

const fn number(name: &'static str) -> Filter {
    Filter { name, input: Hint::Number, iterates: false }
}

const fn list(name: &'static str) -> Filter {
    Filter { name, input: Hint::Unknown, iterates: true }
}

const fn any(name: &'static str) -> Filter {
    Filter { name, input: Hint::Unknown, iterates: false }
}

/// The filters that templates may use.
pub(super) const FILTERS: &[Filter] = &[
    text("capitalize"),
    text("e"),
    text("escape"),
    text("indent"),
    text("lines"),
    text("lower"),
    text("replace"),
    text("safe"),
    text("split"),
    text("title"),
    text("trim"),
    text("upper"),
    text("urlencode"),
    number("abs"),
    number("float"),
    number("int"),
    number("round"),
    list("batch"),
    list("first"),
    list("groupby"),
    list("join"),
    list("last"),
    list("list"),
    list("map"),
    list("max"),
    list("min"),
    list("reject"),
    list("rejectattr"),
    list("reverse"),
    list("select"),
    list("selectattr"),
    list("slice"),
    list("sort"),
    list("sum"),
    list("unique"),
    any("bool"),
    any("count"),
    any("d"),
    any("default"),
    any("dictsort"),
    any("format"),
    any("items"),
    any("length"),
    any("string"),
    any("tojson"),
];

/// The filters that `map` may apply.
pub(super) const MAPPED_FILTERS: &[&str] = &[
    "abs",
    "capitalize",
    "default",
    "e",
    "escape",
    "first",
    "float",
    "int",
    "last",
    "length",
    "lower",
    "replace",
    "round",
    "string",
    "title",
    "trim",
    "upper",
    "urlencode",
];

/// The tests that templates may use.
pub(super) const TESTS: &[&str] = &[
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "defined",
    "divisibleby",
    "endingwith",
    "eq",
    "equalto",
    "even",
    "false",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "int",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sequence",
    "startingwith",
    "string",
    "true",
    "undefined",
    "upper",
];

/// The functions that templates may call.
pub(super) const FUNCTIONS: &[&str] = &["dict", "namespace", "range"];

/// The names of the guards, which printed templates ([`super::guard`]) call.
pub(super) const BUILD: &str = "__build";
pub(super) const PAY: &str = "__pay";
pub(super) const SCALAR: &str = "__scalar";

/// Maximum number of items of `range`.
const MAX_RANGE: i128 = 10_000;
/// Maximum size of a list or map that a template creates, with everything in it.
const MAX_SIZE: u64 = 1024 * 1024;
/// Maximum nesting depth of lists and maps.
const MAX_DEPTH: usize = 64;
/// Size of an item without its text.
const ITEM_SIZE: u64 = 24;
/// Size that one unit of fuel pays for.
const SIZE_PER_FUEL: u64 = 64;

fn too_expensive(detail: &'static str) -> Error {
    Error::new(ErrorKind::OutOfFuel, detail)
}

/// Returns the size of a value with everything in it, and fails above [`MAX_SIZE`].
fn size(value: &Value) -> Result<u64, Error> {
    fn add(value: &Value, depth: usize, total: &mut u64) -> Result<(), Error> {
        let text = value.as_str().map_or(0, str::len) as u64;
        *total = total.saturating_add(ITEM_SIZE + text);
        // A single text may be larger; it was paid for when it was created.
        if *total > MAX_SIZE && depth > 0 {
            return Err(too_expensive("a list or map is too large"));
        }
        let Some(object) = value.as_object() else { return Ok(()) };
        if depth >= MAX_DEPTH {
            return Err(too_expensive("lists or maps are nested too deep"));
        }
        match object.repr() {
            ObjectRepr::Map => {
                for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                    add(&key, depth + 1, total)?;
                    add(&value, depth + 1, total)?;
                }
            }
            ObjectRepr::Seq | ObjectRepr::Iterable => {
                for item in object.try_iter().into_iter().flatten() {
                    add(&item, depth + 1, total)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
    let mut total = 0;
    add(value, 0, &mut total)?;
    Ok(total)
}

/// Charges fuel for visiting a whole value.
fn pay(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.as_object().is_none() && value.as_str().is_none() {
        return Ok(());
    }
    state.consume_fuel(size(value)? / SIZE_PER_FUEL)
}

/// Measures a list or map that was created, and copies it if it is lazy, so that lazy ones are not nested.
fn build(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    let Some(object) = value.as_object() else { return Ok(value) };
    let is_list = matches!(object.repr(), ObjectRepr::Seq | ObjectRepr::Iterable);
    if is_list && object.enumerator_len().is_some_and(|length| length as u64 > MAX_SIZE / ITEM_SIZE) {
        return Err(too_expensive("a list is too large"));
    }
    pay(state, &value)?;
    if !is_list || value.is_tuple() || value.downcast_object_ref::<Vec<Value>>().is_some() {
        return Ok(value);
    }
    let items: Vec<Value> = object.try_iter().into_iter().flatten().collect();
    Ok(Value::from(items))
}

/// Refuses lists and maps, which a namespace would make arbitrarily deep.
fn scalar(value: Value) -> Result<Value, Error> {
    if value.as_object().is_some() {
        let detail = "a namespace holds only strings, numbers, booleans and none";
        return Err(Error::new(ErrorKind::InvalidOperation, detail));
    }
    Ok(value)
}

/// How a filter or test is guarded.
#[derive(Debug, Clone, Copy)]
struct Guard {
    /// Pays for the arguments.
    pays: bool,
    /// Measures and copies the result.
    builds: bool,
    /// Additional fuel.
    fuel: u64,
}

const PAYS: Guard = Guard { pays: true, builds: false, fuel: 0 };
const BUILDS: Guard = Guard { pays: false, builds: true, fuel: 0 };
const BOTH: Guard = Guard { pays: true, builds: true, fuel: 0 };

fn guarded(
    guard: Guard,
    original: Value,
) -> impl Fn(&mut State<'_, '_>, Rest<ValueOrKwargs>) -> Result<Value, Error> + Send + Sync + 'static {
    move |state, args| {
        let args = args.into_values();
        state.consume_fuel(guard.fuel)?;
        if guard.pays {
            args.iter().try_for_each(|arg| pay(state, arg))?;
        }
        let result = original.call(state, &args)?;
        if guard.builds { build(state, result) } else { Ok(result) }
    }
}

/// Adds the filters, tests and functions that have guards.
pub(super) fn add(env: &mut Environment<'static>) {
    add_filters(env);
    add_tests(env);
    env.add_function(BUILD, build);
    env.add_function(PAY, |state: &State<'_, '_>, value: Value| pay(state, &value).map(|()| value));
    env.add_function(SCALAR, scalar);
    env.add_function("range", range);
    env.add_function("dict", guarded(BOTH, Value::from_function(minijinja::functions::dict)));
    let namespace = Value::from_function(minijinja::functions::namespace);
    env.add_function(
        "namespace",
        move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
            let args = args.into_values();
            for map in &args {
                for (_, value) in
                    map.as_object().and_then(minijinja::value::DynObject::try_iter_pairs).into_iter().flatten()
                {
                    scalar(value)?;
                }
            }
            namespace.call(state, &args)
        },
    );
    env.remove_global("debug");
    for name in ["attr", "chain", "pprint", "zip"] {
        env.remove_filter(name);
    }
    for name in ["escaped", "filter", "safe", "sameas", "test"] {
        env.remove_test(name);
    }
}

fn add_filters(env: &mut Environment<'static>) {
    let mut add = |name: &'static str, guard: Guard, original: Value| env.add_filter(name, guarded(guard, original));
    add("batch", BUILDS, Value::from_function(filters::batch));
    add("dictsort", BOTH, Value::from_function(filters::dictsort));
    add("groupby", BOTH, Value::from_function(filters::groupby));
    add("items", BUILDS, Value::from_function(filters::items));
    add("join", PAYS, Value::from_function(filters::join));
    add("lines", BUILDS, Value::from_function(filters::lines));
    add("map", BUILDS, Value::from_function(filters::map));
    add("max", PAYS, Value::from_function(filters::max));
    add("min", PAYS, Value::from_function(filters::min));
    add("reverse", BUILDS, Value::from_function(filters::reverse));
    // Rounding formats more than a thousand digits.
    add("round", Guard { fuel: 100, ..PAYS }, Value::from_function(filters::round));
    add("slice", BUILDS, Value::from_function(filters::slice));
    add("sort", PAYS, Value::from_function(filters::sort));
    add("split", BUILDS, Value::from_function(filters::split));
    add("string", PAYS, Value::from_function(filters::string));
    add("sum", BOTH, Value::from_function(filters::sum));
    add("unique", PAYS, Value::from_function(filters::unique));
    add("urlencode", PAYS, Value::from_function(filters::urlencode));
    env.add_filter("tojson", |state: &State<'_, '_>, value: Value| {
        pay(state, &value)?;
        filters::tojson(&value, None, std::iter::empty::<(String, Value)>().collect())
    });
    let default = |state: &State<'_, '_>, value: Value, args: Rest<Value>| {
        // A variable that was left out is none.
        let value = if value.is_none() { Value::UNDEFINED } else { value };
        filters::default(state, &value, args)
    };
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter("escape", super::engine::escape);
    env.add_filter("e", super::engine::escape);
}

fn add_tests(env: &mut Environment<'static>) {
    let mut add = |names: &[&'static str], original: Value| {
        for name in names {
            env.add_test(*name, guarded(PAYS, original.clone()));
        }
    };
    add(&["==", "eq", "equalto"], Value::from_function(tests::is_eq));
    add(&["!=", "ne"], Value::from_function(tests::is_ne));
    add(&["<", "lt", "lessthan"], Value::from_function(tests::is_lt));
    add(&["<=", "le"], Value::from_function(tests::is_le));
    add(&[">", "gt", "greaterthan"], Value::from_function(tests::is_gt));
    add(&[">=", "ge"], Value::from_function(tests::is_ge));
    add(&["in"], Value::from_function(tests::is_in));
    add(&["lower"], Value::from_function(tests::is_lower));
    add(&["upper"], Value::from_function(tests::is_upper));
    add(&["startingwith"], Value::from_function(tests::is_startingwith));
    add(&["endingwith"], Value::from_function(tests::is_endingwith));
    env.add_test("defined", |value: Value| !value.is_undefined() && !value.is_none());
    env.add_test("undefined", |value: Value| value.is_undefined() || value.is_none());
}

/// Returns a list of integers, as Python's `range`.
fn range(state: &State<'_, '_>, start: i64, stop: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let (start, stop) = stop.map_or((0, start), |stop| (start, stop));
    let (start, stop, step) = (i128::from(start), i128::from(stop), i128::from(step.unwrap_or(1)));
    if step == 0 {
        return Err(Error::new(ErrorKind::InvalidOperation, "the step of `range` must not be 0"));
    }
    let count = if step > 0 { (stop - start + step - 1) / step } else { (start - stop - step - 1) / -step };
    if count > MAX_RANGE {
        return Err(too_expensive("a `range` has at most 10000 items"));
    }
    let count = count.max(0);
    state.consume_fuel(u64::try_from(count).unwrap_or(u64::MAX) / 2)?;
    Ok((0..count).map(|index| Value::from(start + index * step)).collect())
}

/// Returns whether a value is a string, number, boolean or none.
pub(super) fn is_scalar(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::String | ValueKind::Number | ValueKind::Bool | ValueKind::None)
}

#[cfg(test)]
mod tests_of_guards {
    use super::*;

    #[test]
    fn shared_items_count_as_often_as_they_occur() {
        let mut value = Value::from("x".repeat(100));
        for _ in 0..10 {
            value = Value::from(vec![value.clone(), value]);
        }
        assert!(size(&value).unwrap() > 100 * 1024);
        for _ in 0..10 {
            value = Value::from(vec![value.clone(), value]);
        }
        assert!(size(&value).is_err());
    }

    #[test]
    fn depth_is_bounded() {
        let mut value = Value::from(1);
        for _ in 0..MAX_DEPTH {
            value = Value::from(vec![value]);
        }
        assert!(size(&value).is_ok());
        assert!(size(&Value::from(vec![value])).is_err());
    }
}
