//! Estimates from the syntax tree how much work rendering a template takes, and whether it can fail.

use minijinja::machinery::ast::{CallArg, Expr, Stmt};

use crate::template::source::{Variable, VariableType};

/// The work that rendering a template takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::template) struct Effort {
    /// Whether rendering with checked variables cannot fail, except because the result is too large.
    pub(in crate::template) is_total: bool,
    /// Whether each part of the template is rendered once at most.
    pub(in crate::template) is_linear: bool,
    /// Number of statements and expressions.
    pub(in crate::template) steps: usize,
    /// Number of printed values.
    pub(in crate::template) prints: usize,
    /// Size of the text between the tags, plus the maximum size of the constants when they are printed, in bytes.
    pub(in crate::template) text: usize,
}

/// Maximum size of a printed number, in bytes.
const MAX_NUMBER: usize = 330;

pub(in crate::template) fn effort(template: &Stmt<'_>, variables: &[Variable]) -> Effort {
    let effort = Effort { is_total: true, is_linear: true, steps: 0, prints: 0, text: 0 };
    let mut counter = Counter { variables, effort };
    counter.statement(template);
    counter.effort
}

struct Counter<'v> {
    variables: &'v [Variable],
    effort: Effort,
}

/// The type of an expression, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    String,
    Number,
    Boolean,
    /// A string, number, boolean or none.
    Scalar,
}

impl Counter<'_> {
    fn statements(&mut self, statements: &[Stmt<'_>]) {
        for statement in statements {
            self.statement(statement);
        }
    }

    fn statement(&mut self, statement: &Stmt<'_>) {
        self.effort.steps += 1;
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitRaw(raw) => self.effort.text += raw.raw.len(),
            Stmt::EmitExpr(emit) => {
                self.effort.prints += 1;
                self.check(&emit.expr);
            }
            Stmt::IfCond(cond) => {
                self.check(&cond.expr);
                self.statements(&cond.true_body);
                self.statements(&cond.false_body);
            }
            _ => (self.effort.is_total, self.effort.is_linear) = (false, false),
        }
    }

    fn check(&mut self, expr: &Expr<'_>) {
        if self.kind(expr).is_none() {
            self.effort.is_total = false;
        }
    }

    /// Returns the type of an expression, or `None` if its evaluation may fail.
    fn kind(&mut self, expr: &Expr<'_>) -> Option<Kind> {
        self.effort.steps += 1;
        match expr {
            Expr::Var(var) => {
                let variable = self.variables.iter().find(|variable| variable.key == var.id)?;
                let is_there = variable.required || variable.default.is_some();
                match variable.kind {
                    VariableType::String if is_there => Some(Kind::String),
                    VariableType::Number if is_there => Some(Kind::Number),
                    VariableType::Boolean if is_there => Some(Kind::Boolean),
                    VariableType::String | VariableType::Number | VariableType::Boolean => Some(Kind::Scalar),
                    VariableType::Array | VariableType::Object => None,
                }
            }
            Expr::Const(constant) if constant.value.as_str().is_some() => {
                let text = constant.value.as_str()?;
                self.effort.text += 6 * text.len();
                // The result must not contain NUL.
                (!text.contains('\0')).then_some(Kind::String)
            }
            Expr::Const(constant) if constant.value.is_number() => {
                self.effort.text += MAX_NUMBER;
                Some(Kind::Number)
            }
            Expr::Const(_) => Some(Kind::Scalar),
            Expr::UnaryOp(op) if matches!(op.op, minijinja::machinery::ast::UnaryOpKind::Not) => {
                self.kind(&op.expr).map(|_| Kind::Boolean)
            }
            Expr::BinOp(op) => {
                use minijinja::machinery::ast::BinOpKind as Op;
                let (left, right) = (self.kind(&op.left)?, self.kind(&op.right)?);
                match op.op {
                    Op::Eq | Op::Ne => Some(Kind::Boolean),
                    Op::ScAnd | Op::ScOr => Some(if left == right { left } else { Kind::Scalar }),
                    _ => None,
                }
            }
            Expr::IfExpr(choice) => {
                self.kind(&choice.test_expr)?;
                let left = self.kind(&choice.true_expr)?;
                let right = self.kind(choice.false_expr.as_ref()?)?;
                Some(if left == right { left } else { Kind::Scalar })
            }
            Expr::Test(test) if test.args.is_empty() && matches!(test.name, "defined" | "undefined" | "none") => {
                self.kind(&test.expr).map(|_| Kind::Boolean)
            }
            Expr::Filter(filter) => self.filter(filter),
            _ => None,
        }
    }

    fn filter(&mut self, filter: &minijinja::machinery::ast::Filter<'_>) -> Option<Kind> {
        let kind = self.kind(filter.expr.as_ref()?)?;
        match (filter.name, &filter.args[..]) {
            ("escape" | "e", []) => Some(Kind::String),
            ("upper" | "lower" | "title" | "capitalize" | "trim" | "safe", []) if kind == Kind::String => {
                Some(Kind::String)
            }
            // Only for a variable: encoding a text that a filter has escaped could make it more than six times as long,
            // but `Program::max_size` assumes at most six times.
            ("urlencode", []) if kind == Kind::String && matches!(filter.expr, Some(Expr::Var(_))) => {
                Some(Kind::String)
            }
            ("length" | "count", []) if kind == Kind::String => Some(Kind::Number),
            ("default" | "d", [CallArg::Pos(other)]) => {
                let other = self.kind(other)?;
                Some(if kind == other { kind } else { Kind::Scalar })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::jinja::parse;

    fn effort_of(source: &str) -> Effort {
        let variable =
            |key: &str, kind, required| Variable { key: key.into(), kind, required, default: None, max_length: None };
        let variables = [
            variable("s", VariableType::String, true),
            variable("o", VariableType::String, false),
            variable("n", VariableType::Number, true),
            variable("rows", VariableType::Array, true),
        ];
        effort(&parse(source).unwrap(), &variables)
    }

    #[test]
    fn simple_templates_cannot_fail() {
        let source = "Hello {{ s|title }}{% if n == 1 and not o %}{{ o|default(\"x\")|e }}{% else %}{{ n if s else o }}{% endif %}";
        let effort = effort_of(source);
        assert!(effort.is_total && effort.is_linear, "{effort:?}");
        assert_eq!((effort.prints, effort.text), (3, 6 + MAX_NUMBER + 6));
    }

    #[test]
    fn other_templates_may_fail() {
        for source in [
            "{{ o|upper }}",
            "{{ n + 1 }}",
            "{{ rows }}",
            "{% for r in rows %}{% endfor %}",
            "{{ x }}",
            "{{ n|round }}",
            "{{ \"\\u0000\" }}",
            "{{ s|e|urlencode }}",
        ] {
            assert!(!effort_of(source).is_total, "{source}");
        }
    }
}
