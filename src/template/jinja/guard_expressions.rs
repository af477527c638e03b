//! Prints expressions with guards: calls that charge fuel for the size of values ([`PAY`]), or that also measure and
//! copy new lists and maps ([`BUILD`]).

use std::fmt::Write as _;

use minijinja::Value;
use minijinja::machinery::ast::{self, BinOpKind, CallArg, CompareOpKind, Expr, UnaryOpKind};
use minijinja::value::ValueKind;

use super::filters::{BUILD, PAY};

/// How tightly an expression binds, in the order of `MiniJinja`'s parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Choice,
    Or,
    And,
    Not,
    Compare,
    Sum,
    Concat,
    Product,
    Power,
    /// Filters, tests and negation.
    Filter,
    /// Names, literals, calls, attributes and items.
    Postfix,
}

/// Appends an expression, in parentheses if it binds less tightly than `least`.
pub(super) fn print(out: &mut String, expr: &Expr<'_>, least: Level) {
    if level(expr) < least {
        out.push('(');
        print_bare(out, expr);
        out.push(')');
    } else {
        print_bare(out, expr);
    }
}

fn level(expr: &Expr<'_>) -> Level {
    match expr {
        Expr::IfExpr(_) => Level::Choice,
        // The guard is a call.
        Expr::BinOp(_) if needs_build(expr) => Level::Postfix,
        Expr::BinOp(op) => operator(op.op).1,
        Expr::Compare(_) => Level::Compare,
        Expr::UnaryOp(op) => match op.op {
            UnaryOpKind::Not => Level::Not,
            UnaryOpKind::Neg => Level::Filter,
        },
        Expr::Filter(_) | Expr::Test(_) => Level::Filter,
        Expr::Var(_)
        | Expr::GetAttr(_)
        | Expr::GetItem(_)
        | Expr::Slice(_)
        | Expr::Call(_)
        | Expr::Const(_)
        | Expr::List(_)
        | Expr::Tuple(_)
        | Expr::Map(_) => Level::Postfix,
    }
}

fn operator(op: BinOpKind) -> (&'static str, Level) {
    match op {
        BinOpKind::ScOr => ("or", Level::Or),
        BinOpKind::ScAnd => ("and", Level::And),
        BinOpKind::Eq => ("==", Level::Compare),
        BinOpKind::Ne => ("!=", Level::Compare),
        BinOpKind::Lt => ("<", Level::Compare),
        BinOpKind::Lte => ("<=", Level::Compare),
        BinOpKind::Gt => (">", Level::Compare),
        BinOpKind::Gte => (">=", Level::Compare),
        BinOpKind::In => ("in", Level::Compare),
        BinOpKind::Add => ("+", Level::Sum),
        BinOpKind::Sub => ("-", Level::Sum),
        BinOpKind::Concat => ("~", Level::Concat),
        BinOpKind::Mul => ("*", Level::Product),
        BinOpKind::Div => ("/", Level::Product),
        BinOpKind::FloorDiv => ("//", Level::Product),
        BinOpKind::Rem => ("%", Level::Product),
        BinOpKind::Pow => ("**", Level::Power),
    }
}

/// Returns the level that binds more tightly by one step.
fn tighter(level: Level) -> Level {
    match level {
        Level::Choice => Level::Or,
        Level::Or => Level::And,
        Level::And => Level::Not,
        Level::Not => Level::Compare,
        Level::Compare => Level::Sum,
        Level::Sum => Level::Concat,
        Level::Concat => Level::Product,
        Level::Product => Level::Power,
        Level::Power => Level::Filter,
        Level::Filter | Level::Postfix => Level::Postfix,
    }
}

/// Returns whether an expression is a literal or a list of literals, so that its size is limited by the source.
fn is_literal(expr: &Expr<'_>) -> bool {
    match expr {
        Expr::Const(_) => true,
        Expr::List(list) => list.items.iter().all(|item| matches!(item, Expr::Const(_))),
        Expr::Tuple(tuple) => tuple.items.iter().all(|item| matches!(item, Expr::Const(_))),
        Expr::UnaryOp(op) => matches!(op.op, UnaryOpKind::Neg) && is_literal(&op.expr),
        _ => false,
    }
}

/// Returns whether the result may be a list that is concatenated or repeated.
fn needs_build(expr: &Expr<'_>) -> bool {
    let Expr::BinOp(op) = expr else { return false };
    match op.op {
        BinOpKind::Mul => true,
        BinOpKind::Add => !matches!(op.left, Expr::Const(_)) && !matches!(op.right, Expr::Const(_)),
        _ => false,
    }
}

fn print_bare(out: &mut String, expr: &Expr<'_>) {
    match expr {
        Expr::Var(var) => out.push_str(var.id),
        Expr::Const(constant) => print_literal(out, &constant.value),
        Expr::GetAttr(attr) => {
            print(out, &attr.expr, Level::Postfix);
            out.push('.');
            out.push_str(attr.name);
        }
        Expr::GetItem(item) => {
            print(out, &item.expr, Level::Postfix);
            out.push('[');
            print_paid(out, &item.subscript_expr, Level::Choice);
            out.push(']');
        }
        Expr::Slice(slice) => print_slice(out, slice),
        Expr::UnaryOp(op) => match op.op {
            UnaryOpKind::Not => {
                out.push_str("not ");
                print(out, &op.expr, Level::Not);
            }
            UnaryOpKind::Neg => {
                out.push('-');
                print(out, &op.expr, Level::Postfix);
            }
        },
        Expr::BinOp(op) if needs_build(expr) => {
            out.extend([BUILD, "("]);
            print_operation(out, op);
            out.push(')');
        }
        Expr::BinOp(op) => print_operation(out, op),
        Expr::Compare(compare) => print_comparison(out, compare),
        Expr::IfExpr(choice) => {
            print(out, &choice.true_expr, Level::Or);
            out.push_str(" if ");
            print(out, &choice.test_expr, Level::Or);
            if let Some(other) = &choice.false_expr {
                out.push_str(" else ");
                print(out, other, Level::Choice);
            }
        }
        Expr::Filter(filter) => {
            if let Some(expr) = &filter.expr {
                print(out, expr, Level::Filter);
                out.push('|');
            }
            out.push_str(filter.name);
            print_args(out, &filter.args, false);
        }
        Expr::Test(test) => {
            print(out, &test.expr, Level::Filter);
            out.extend([" is ", test.name]);
            // Without parentheses, what follows could be taken for an argument.
            print_args(out, &test.args, false);
        }
        Expr::Call(call) => print_call(out, call),
        Expr::List(list) => print_built(out, expr, |out| {
            out.push('[');
            print_items(out, &list.items);
            out.push(']');
        }),
        Expr::Tuple(tuple) => print_built(out, expr, |out| {
            out.push('(');
            print_items(out, &tuple.items);
            out.push_str(if tuple.items.len() == 1 { ",)" } else { ")" });
        }),
        Expr::Map(map) => {
            out.extend([BUILD, "({"]);
            for (index, (key, value)) in map.keys.iter().zip(&map.values).enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                print_paid(out, key, Level::Choice);
                out.push_str(": ");
                print(out, value, Level::Choice);
            }
            out.push_str("})");
        }
    }
}

/// Appends an operation whose guard is printed already: a chain of additions needs one guard.
fn print_operation(out: &mut String, op: &ast::BinOp<'_>) {
    let (sign, level) = operator(op.op);
    let right_level = tighter(level);
    let left_level = if level == Level::Compare { right_level } else { level };
    let pays = level == Level::Compare && !is_literal(&op.left) && !is_literal(&op.right);
    let is_in = matches!(op.op, BinOpKind::In);
    let chained =
        |expr: &Expr<'_>| matches!(expr, Expr::BinOp(left) if operator(left.op).1 == level && needs_build(expr));
    match &op.left {
        Expr::BinOp(left) if level != Level::Compare && chained(&op.left) => print_operation(out, left),
        left if pays && !is_in => print_paid(out, left, left_level),
        left => print(out, left, left_level),
    }
    out.extend([" ", sign, " "]);
    if pays && is_in {
        print_paid(out, &op.right, right_level);
    } else {
        print(out, &op.right, right_level);
    }
}

fn print_comparison(out: &mut String, compare: &ast::Compare<'_>) {
    print_paid(out, &compare.expr, Level::Sum);
    for op in &compare.ops {
        let sign = match op.op {
            CompareOpKind::Eq => "==",
            CompareOpKind::Ne => "!=",
            CompareOpKind::Lt => "<",
            CompareOpKind::Lte => "<=",
            CompareOpKind::Gt => ">",
            CompareOpKind::Gte => ">=",
            CompareOpKind::In => "in",
            CompareOpKind::NotIn => "not in",
        };
        out.extend([" ", sign, " "]);
        print_paid(out, &op.expr, Level::Sum);
    }
}

/// Appends an expression in a guard that charges fuel for the size of its value, which the operation visits as a whole.
fn print_paid(out: &mut String, expr: &Expr<'_>, level: Level) {
    let is_counter = match expr {
        Expr::GetAttr(attr) => matches!(&attr.expr, Expr::Var(var) if var.id == "loop"),
        Expr::Filter(filter) => matches!(filter.name, "length" | "count"),
        _ => false,
    };
    if is_literal(expr) || is_counter {
        return print(out, expr, level);
    }
    out.extend([PAY, "("]);
    print(out, expr, Level::Choice);
    out.push(')');
}

fn print_slice(out: &mut String, slice: &ast::Slice<'_>) {
    out.extend([BUILD, "("]);
    // Slicing a string visits its characters.
    print_paid(out, &slice.expr, Level::Postfix);
    out.push('[');
    for (index, part) in [&slice.start, &slice.stop, &slice.step].into_iter().enumerate() {
        out.push_str(if index > 0 { ":" } else { "" });
        if let Some(part) = part {
            print(out, part, Level::Choice);
        }
    }
    out.push_str("])");
}

/// Appends a list, with a guard unless all items are literals.
fn print_built(out: &mut String, expr: &Expr<'_>, print: impl FnOnce(&mut String)) {
    if is_literal(expr) {
        return print(out);
    }
    out.extend([BUILD, "("]);
    print(out);
    out.push(')');
}

fn print_items(out: &mut String, items: &[Expr<'_>]) {
    for (index, item) in items.iter().enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        print(out, item, Level::Choice);
    }
}

pub(super) fn print_call(out: &mut String, call: &ast::Call<'_>) {
    let compares = matches!(&call.expr, Expr::GetAttr(attr) if attr.name == "changed");
    print(out, &call.expr, Level::Postfix);
    print_args(out, &call.args, compares);
}

fn print_args(out: &mut String, args: &[CallArg<'_>], pays: bool) {
    out.push('(');
    for (index, arg) in args.iter().enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        let expr = match arg {
            CallArg::Kwarg(name, expr) => {
                out.extend([*name, "="]);
                expr
            }
            // The analysis refuses splats.
            CallArg::Pos(expr) | CallArg::PosSplat(expr) | CallArg::KwargSplat(expr) => expr,
        };
        if pays {
            print_paid(out, expr, Level::Choice);
        } else {
            print(out, expr, Level::Choice);
        }
    }
    out.push(')');
}

fn print_literal(out: &mut String, value: &Value) {
    match value.kind() {
        ValueKind::String => {
            out.push('"');
            for c in value.as_str().unwrap_or_default().chars() {
                match c {
                    '"' | '\\' => out.extend(['\\', c]),
                    c if c.is_control() => {
                        let _ = write!(out, "\\u{:04x}", u32::from(c));
                    }
                    c => out.push(c),
                }
            }
            out.push('"');
        }
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number if value.is_integer() => {
            let _ = write!(out, "{value}");
        }
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(number) if number.is_finite() => {
                let _ = write!(out, "{number:?}");
            }
            // The literal was too large for a number.
            _ => out.push_str("1e999"),
        },
        _ => out.push_str("none"),
    }
}
