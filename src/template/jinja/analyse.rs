//! Analyses the syntax tree of a template: finds its variables, and checks that everything else that it uses is
//! available.

use std::collections::{BTreeMap, HashMap, HashSet};

use minijinja::machinery::ast::{self, CallArg, Expr, Spanned, UnaryOpKind};
use minijinja::value::ValueKind;

use crate::domain::api::fault::Code;
use crate::template::faults::Located;

use super::RESERVED_PREFIX;
use super::filters::{FILTERS, FUNCTIONS, MAPPED_FILTERS, TESTS};
use super::shape::{Hint, Id, Shapes};

/// The result of analysing a template.
#[derive(Debug, Default)]
pub(in crate::template) struct Analysis {
    /// The offset of the first use of each variable.
    pub(in crate::template) variables: BTreeMap<String, usize>,
    /// The offsets of values that are printed without escaping.
    pub(in crate::template) unescaped: Vec<usize>,
    /// Uses of filters, functions and other features that are not available.
    pub(in crate::template) faults: Vec<Located>,
}

/// Analyses a template. `shapes` collects the variables of all parts.
pub(in crate::template) fn analyse(template: &ast::Stmt<'_>, shapes: &mut Shapes) -> Analysis {
    let mut analyser =
        Analyser { shapes, scopes: vec![HashMap::new()], macros: HashSet::new(), found: Analysis::default() };
    analyser.statement(template);
    analyser.found
}

/// Maximum number of faults collected.
const MAX_FAULTS: usize = 50;

pub(super) struct Analyser<'s, 'a> {
    pub(super) shapes: &'s mut Shapes,
    /// The names that the template assigns, with the shapes of the variables that they refer to.
    pub(super) scopes: Vec<HashMap<&'a str, Option<Id>>>,
    pub(super) macros: HashSet<&'a str>,
    pub(super) found: Analysis,
}

impl<'a> Analyser<'_, 'a> {
    pub(super) fn fault(&mut self, offset: u32, code: Code, message: impl Into<String>) {
        if self.found.faults.len() < MAX_FAULTS {
            self.found.faults.push(Located::new(offset as usize, code, message));
        }
    }

    /// Assigns a name in the innermost scope.
    pub(super) fn assign(&mut self, name: &'a str, offset: u32, shape: Option<Id>) {
        if name.starts_with(RESERVED_PREFIX) {
            self.fault(offset, Code::InvalidTemplate, format!("names must not start with `{RESERVED_PREFIX}`"));
        }
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, shape);
        }
    }

    #[expect(clippy::option_option, reason = "a name of the template may have no shape")]
    fn local(&self, name: &str) -> Option<Option<Id>> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name).copied())
    }

    fn variable(&mut self, name: &'a str, offset: u32) -> Option<Id> {
        if let Some(shape) = self.local(name) {
            return shape;
        }
        if name.starts_with(RESERVED_PREFIX) || name == "self" || name == "super" {
            self.fault(offset, Code::NotAvailable, format!("`{name}` is not available"));
            return None;
        }
        if FUNCTIONS.contains(&name) || self.macros.contains(name) {
            self.fault(offset, Code::InvalidTemplate, format!("`{name}` is a function; call it, as in `{name}(…)`"));
            return None;
        }
        self.found.variables.entry(name.to_owned()).or_insert(offset as usize);
        Some(self.shapes.root(name))
    }

    /// Analyses an expression, and records how it is used.
    pub(super) fn used_as(&mut self, expr: &Expr<'a>, hint: Hint) {
        if let Some(id) = self.expr(expr) {
            self.shapes.hint(id, hint);
        }
    }

    /// Analyses an expression. Returns the shape of the variable, or of the part of a variable, that it refers to.
    pub(super) fn expr(&mut self, expr: &Expr<'a>) -> Option<Id> {
        match expr {
            Expr::Var(var) => self.variable(var.id, var.span().start_offset),
            Expr::Const(_) => None,
            Expr::GetAttr(attr) => {
                let id = self.expr(&attr.expr)?;
                Some(self.shapes.field(id, attr.name))
            }
            Expr::GetItem(item) => self.item(item),
            Expr::Slice(slice) => {
                for part in [&slice.start, &slice.stop, &slice.step].into_iter().flatten() {
                    self.used_as(part, Hint::Number);
                }
                self.expr(&slice.expr)
            }
            Expr::UnaryOp(op) => {
                let hint = if matches!(op.op, UnaryOpKind::Not) { Hint::Tested } else { Hint::Number };
                self.used_as(&op.expr, hint);
                None
            }
            Expr::BinOp(op) => self.binary(op),
            Expr::Compare(compare) => {
                self.expr(&compare.expr);
                for op in &compare.ops {
                    self.expr(&op.expr);
                }
                None
            }
            Expr::IfExpr(choice) => {
                self.used_as(&choice.test_expr, Hint::Tested);
                let id = self.expr(&choice.true_expr);
                let other = choice.false_expr.as_ref().and_then(|expr| self.expr(expr));
                id.or(other)
            }
            Expr::Filter(filter) => self.filter(filter),
            Expr::Test(test) => {
                self.test(test);
                None
            }
            Expr::Call(call) => {
                self.call(call);
                None
            }
            Expr::List(list) => self.all(&list.items),
            Expr::Tuple(tuple) => self.all(&tuple.items),
            Expr::Map(map) => {
                self.all(&map.keys);
                self.all(&map.values)
            }
        }
    }

    fn all(&mut self, items: &[Expr<'a>]) -> Option<Id> {
        for item in items {
            self.expr(item);
        }
        None
    }

    fn item(&mut self, item: &ast::GetItem<'a>) -> Option<Id> {
        self.expr(&item.subscript_expr);
        let id = self.expr(&item.expr)?;
        match &item.subscript_expr {
            Expr::Const(key) => match key.value.as_str() {
                Some(name) => Some(self.shapes.field(id, name)),
                None => Some(self.shapes.element(id)),
            },
            _ => None,
        }
    }

    fn binary(&mut self, op: &ast::BinOp<'a>) -> Option<Id> {
        use ast::BinOpKind as Op;
        let (left, right) = (self.expr(&op.left), self.expr(&op.right));
        let hint = |own: &Expr<'a>, other: &Expr<'a>| match op.op {
            Op::Add | Op::Sub | Op::Mul | Op::Div | Op::FloorDiv | Op::Rem | Op::Pow => {
                // Strings can be added too.
                if constant_hint(other) == Hint::String && matches!(op.op, Op::Add) {
                    Hint::String
                } else {
                    Hint::Number
                }
            }
            Op::Concat => Hint::String,
            Op::Eq | Op::Ne | Op::Lt | Op::Lte | Op::Gt | Op::Gte => constant_hint(other),
            Op::ScAnd | Op::ScOr => Hint::Tested,
            Op::In => {
                if std::ptr::eq(own, &raw const op.left) {
                    constant_hint(other)
                } else {
                    Hint::Unknown
                }
            }
        };
        let (left_hint, right_hint) = (hint(&op.left, &op.right), hint(&op.right, &op.left));
        for (id, hint) in [(left, left_hint), (right, right_hint)] {
            if let Some(id) = id {
                self.shapes.hint(id, hint);
            }
        }
        if let (Op::In, Some(right), false) = (op.op, right, is_text(&op.left)) {
            self.shapes.element(right);
        }
        matches!(op.op, Op::ScAnd | Op::ScOr).then(|| left.or(right)).flatten()
    }

    fn filter(&mut self, filter: &Spanned<ast::Filter<'a>>) -> Option<Id> {
        let offset = filter.span().start_offset;
        let id = filter.expr.as_ref().and_then(|expr| self.expr(expr));
        self.args(&filter.args);
        let Some(known) = FILTERS.iter().find(|known| known.name == filter.name) else {
            self.fault(
                offset,
                Code::InvalidTemplate,
                unknown("filter", filter.name, FILTERS.iter().map(|known| known.name)),
            );
            return None;
        };
        if filter.name == "safe" {
            self.found.unescaped.push(offset as usize);
        }
        if matches!(filter.name, "map" | "select" | "reject" | "selectattr" | "rejectattr") {
            self.check_mapped(filter);
        }
        let id = id?;
        self.shapes.hint(id, known.input);
        if known.iterates {
            self.shapes.element(id);
        }
        match filter.name {
            "default" | "d" => {
                if let Some(CallArg::Pos(Expr::Const(value))) = filter.args.first() {
                    self.shapes.hint(id, value_hint(&value.value));
                }
                Some(id)
            }
            "first" | "last" | "min" | "max" => Some(self.shapes.element(id)),
            "sort" | "reverse" | "list" | "unique" | "select" | "reject" | "selectattr" | "rejectattr" | "safe"
            | "escape" | "e" => Some(id),
            _ => None,
        }
    }

    /// Checks the filter or test that `map` and `select` apply to each item.
    fn check_mapped(&mut self, filter: &Spanned<ast::Filter<'a>>) {
        let offset = filter.span().start_offset;
        let index = usize::from(filter.name.ends_with("attr"));
        let is_attribute = |arg: &CallArg<'a>| matches!(arg, CallArg::Kwarg("attribute", _));
        if filter.name == "map" && filter.args.iter().any(is_attribute) {
            return;
        }
        let name = match filter.args.get(index) {
            Some(CallArg::Pos(Expr::Const(name))) => name.value.as_str().unwrap_or_default().to_owned(),
            None if filter.name != "map" => return,
            _ => {
                let message = format!("`{}` needs the name of a filter or test in quotes", filter.name);
                return self.fault(offset, Code::InvalidTemplate, message);
            }
        };
        let is_known =
            if filter.name == "map" { MAPPED_FILTERS.contains(&name.as_str()) } else { TESTS.contains(&name.as_str()) };
        if !is_known {
            let message = format!("`{}` cannot apply `{name}`; use a loop", filter.name);
            self.fault(offset, Code::NotAvailable, message);
        }
    }

    fn test(&mut self, test: &Spanned<ast::Test<'a>>) {
        let offset = test.span().start_offset;
        let id = self.expr(&test.expr);
        self.args(&test.args);
        if !TESTS.contains(&test.name) {
            self.fault(offset, Code::InvalidTemplate, unknown("test", test.name, TESTS.iter().copied()));
        }
        let hint = match test.name {
            "string" | "lower" | "upper" | "startingwith" | "endingwith" => Hint::String,
            "number" | "odd" | "even" | "divisibleby" | "integer" | "float" => Hint::Number,
            "boolean" | "true" | "false" => Hint::Boolean,
            "defined" | "undefined" | "none" => Hint::Tested,
            _ => Hint::Unknown,
        };
        if let Some(id) = id {
            self.shapes.hint(id, hint);
        }
    }

    pub(super) fn call(&mut self, call: &Spanned<ast::Call<'a>>) {
        let offset = call.span().start_offset;
        self.args(&call.args);
        match &call.expr {
            Expr::Var(var) => {
                let name = var.id;
                let is_known = self.local(name).is_some() || self.macros.contains(name) || FUNCTIONS.contains(&name);
                if !is_known {
                    let names = FUNCTIONS.iter().copied().chain(self.macros.iter().copied());
                    let message = unknown("function", name, names);
                    self.fault(var.span().start_offset, Code::InvalidTemplate, message);
                }
            }
            Expr::GetAttr(attr) if matches!(&attr.expr, Expr::Var(var) if var.id == "loop") => {
                if !matches!(attr.name, "cycle" | "changed") {
                    self.fault(offset, Code::InvalidTemplate, format!("`loop.{}` is not a function", attr.name));
                }
            }
            Expr::GetAttr(attr) => {
                let message = format!(
                    "methods such as `.{}()` are not available; use a filter, as in `|{}`",
                    attr.name, attr.name
                );
                self.fault(offset, Code::NotAvailable, message);
            }
            _ => self.fault(offset, Code::NotAvailable, "only functions and macros can be called"),
        }
    }

    fn args(&mut self, args: &[CallArg<'a>]) {
        for arg in args {
            match arg {
                CallArg::Pos(expr) | CallArg::Kwarg(_, expr) => {
                    self.expr(expr);
                }
                CallArg::PosSplat(expr) | CallArg::KwargSplat(expr) => {
                    self.fault(
                        expr.span().start_offset,
                        Code::NotAvailable,
                        "`*` and `**` in arguments are not available",
                    );
                }
            }
        }
    }
}

fn is_text(expr: &Expr<'_>) -> bool {
    constant_hint(expr) == Hint::String
}

/// Returns what a comparison with an expression says about the other side.
fn constant_hint(expr: &Expr<'_>) -> Hint {
    match expr {
        Expr::Const(constant) => value_hint(&constant.value),
        Expr::List(list) => list.items.first().map_or(Hint::Unknown, constant_hint),
        Expr::Tuple(tuple) => tuple.items.first().map_or(Hint::Unknown, constant_hint),
        Expr::UnaryOp(op) if matches!(op.op, UnaryOpKind::Neg) => Hint::Number,
        Expr::Filter(filter) if matches!(filter.name, "length" | "count" | "int" | "float" | "round") => Hint::Number,
        _ => Hint::Unknown,
    }
}

fn value_hint(value: &minijinja::Value) -> Hint {
    match value.kind() {
        ValueKind::String => Hint::String,
        ValueKind::Number => Hint::Number,
        ValueKind::Bool => Hint::Boolean,
        _ => Hint::Unknown,
    }
}

/// Returns the message for an unknown name, with the most similar known one.
fn unknown<'n>(what: &str, name: &str, known: impl Iterator<Item = &'n str>) -> String {
    let similar = known.map(|known| (strsim::jaro_winkler(known, name), known));
    let best = similar.filter(|(score, _)| *score > 0.8).max_by(|(a, _), (b, _)| a.total_cmp(b));
    match best {
        Some((_, best)) => format!("there is no {what} `{name}`; did you mean `{best}`?"),
        None => format!("there is no {what} `{name}`; the documentation lists what is available"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::template::jinja::parse;

    fn analysed(source: &str) -> (Analysis, Value) {
        let mut shapes = Shapes::default();
        let analysis = analyse(&parse(source).unwrap(), &mut shapes);
        (analysis, Value::Object(shapes.examples()))
    }

    #[test]
    fn variables_are_found_with_their_shape() {
        let (analysis, examples) = analysed(
            "{{ name|upper }}{% for row in order.rows if row.n > 1 %}{{ loop.index }}{{ row.price * row.n }}{{ row.title }}\
             {% for tag in row.tags|sort %}{{ tag }}{% endfor %}{% else %}{{ none_text|default(\"x\") }}{% endfor %}\
             {% if paid and not late %}{{ kind == \"a\" }}{% endif %}{% set total = order.total %}{{ total|round }}\
             {% if a %}{% set y = 1 %}{% else %}{% set y = 2 %}{% endif %}{{ y }}{{ \"x\" in colors }}",
        );
        assert!(analysis.faults.is_empty(), "{:?}", analysis.faults);
        assert_eq!(
            examples,
            json!({
                "name": "name_value", "paid": true, "late": true, "a": true, "kind": "kind_value", "none_text": "none_text_value",
                "order": {"total": 1, "rows": [{"n": 1, "price": 1, "title": "title_value", "tags": ["tags_value"]}]},
                "colors": "colors_value",
            })
        );
        assert_eq!(analysis.variables["name"], 3);
    }

    #[test]
    fn assigned_names_are_not_variables() {
        let (analysis, _) = analysed(
            "{% macro m(a, b=1) %}{{ a }}{{ b }}{{ caller() }}{{ c }}{% endmacro %}{{ m(1) }}{% call m(2) %}x{% endcall %}\
             {% with d = 1 %}{{ d }}{% endwith %}{% set e %}x{% endset %}{{ e }}{% for f, g in h|items %}{{ f }}{{ g }}{% endfor %}",
        );
        assert!(analysis.faults.is_empty(), "{:?}", analysis.faults);
        assert_eq!(analysis.variables.keys().collect::<Vec<_>>(), ["c", "h"]);
    }

    #[test]
    fn what_is_not_available_is_a_fault() {
        for (source, part) in [
            ("{{ x|uper }}", "did you mean `upper`"),
            ("{{ x is defned }}", "did you mean `defined`"),
            ("{{ rnge(3) }}", "did you mean `range`"),
            ("{{ x.upper() }}", "use a filter"),
            ("{{ debug() }}", "no function `debug`"),
            ("{{ x|map(y) }}", "in quotes"),
            ("{{ x|map(\"sort\") }}", "cannot apply"),
            ("{{ x|pprint }}", "no filter"),
            ("{{ range }}", "is a function"),
            ("{{ f(*x) }}", "not available"),
            ("{{ __g }}", "not available"),
            ("{% set __g = 1 %}", "must not start"),
            ("{% autoescape x %}{% endautoescape %}", "true or false"),
            ("{{ self.x }}", "not available"),
        ] {
            let (analysis, _) = analysed(source);
            let messages: Vec<&str> = analysis.faults.iter().map(|fault| fault.message.as_str()).collect();
            assert!(messages.iter().any(|message| message.contains(part)), "{source}: {messages:?}");
        }
    }

    #[test]
    fn unescaped_output_is_found() {
        let (analysis, _) = analysed("{{ a }}{{ b|safe }}{% autoescape false %}{{ c }}{% endautoescape %}");
        assert_eq!(analysis.unescaped.len(), 2);
    }
}
