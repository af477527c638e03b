//! Analyses the statements of a template: loops, conditions, assignments and blocks.

use std::collections::HashMap;

use minijinja::machinery::ast::{self, Expr, Stmt};

use crate::domain::api::fault::Code;

use super::analyse::Analyser;
use super::shape::{Hint, Id};

impl<'a> Analyser<'_, 'a> {
    fn statements(&mut self, statements: &[Stmt<'a>]) {
        for statement in statements {
            self.statement(statement);
        }
    }

    /// Analyses statements in a scope of their own, which their assignments do not leave.
    fn scoped(&mut self, statements: &[Stmt<'a>]) {
        self.scopes.push(HashMap::new());
        self.statements(statements);
        self.scopes.pop();
    }

    pub(super) fn statement(&mut self, statement: &Stmt<'a>) {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitRaw(_) => {}
            Stmt::EmitExpr(emit) => self.used_as(&emit.expr, Hint::Printed),
            Stmt::ForLoop(each) => self.for_loop(each),
            Stmt::IfCond(cond) => {
                self.used_as(&cond.expr, Hint::Tested);
                self.statements(&cond.true_body);
                self.statements(&cond.false_body);
            }
            Stmt::WithBlock(with) => {
                self.scopes.push(HashMap::new());
                for (target, expr) in &with.assignments {
                    let shape = self.expr(expr);
                    self.assign_target(target, shape);
                }
                self.statements(&with.body);
                self.scopes.pop();
            }
            Stmt::Set(set) => {
                let shape = self.expr(&set.expr);
                self.assign_target(&set.target, shape);
            }
            Stmt::SetBlock(set) => {
                self.scoped(&set.body);
                if let Some(filter) = &set.filter {
                    self.expr(filter);
                }
                self.assign_target(&set.target, None);
            }
            Stmt::AutoEscape(block) => {
                let offset = block.span().start_offset;
                match constant_bool(&block.enabled) {
                    Some(true) => {}
                    Some(false) => self.found.unescaped.push(offset as usize),
                    None => self.fault(offset, Code::InvalidTemplate, "`autoescape` needs true or false"),
                }
                self.scoped(&block.body);
            }
            Stmt::FilterBlock(block) => {
                self.expr(&block.filter);
                self.scoped(&block.body);
            }
            Stmt::Macro(declared) => self.macro_declaration(declared, true),
            Stmt::CallBlock(block) => {
                self.call(&block.call);
                self.macro_declaration(&block.macro_decl, false);
            }
            Stmt::Do(call) => self.call(&call.call),
        }
    }

    fn for_loop(&mut self, each: &ast::ForLoop<'a>) {
        let shape = self.expr(&each.iter);
        let is_pairs = matches!(&each.iter, Expr::Filter(filter) if matches!(filter.name, "items" | "dictsort"));
        let element = shape.filter(|_| !is_pairs).map(|id| self.shapes.element(id));
        self.scopes.push(HashMap::new());
        self.assign("loop", 0, None);
        self.assign_target(&each.target, element);
        if let Some(filter) = &each.filter_expr {
            self.used_as(filter, Hint::Tested);
        }
        self.statements(&each.body);
        self.scopes.pop();
        self.scoped(&each.else_body);
    }

    fn macro_declaration(&mut self, declared: &ast::Macro<'a>, is_named: bool) {
        for default in &declared.defaults {
            self.expr(default);
        }
        self.scopes.push(HashMap::new());
        self.assign("caller", 0, None);
        for arg in &declared.args {
            self.assign_target(arg, None);
        }
        if is_named {
            self.macros.insert(declared.name);
        }
        self.statements(&declared.body);
        self.scopes.pop();
    }

    fn assign_target(&mut self, target: &Expr<'a>, shape: Option<Id>) {
        match target {
            Expr::Var(var) => self.assign(var.id, var.span().start_offset, shape),
            Expr::List(list) => list.items.iter().for_each(|item| self.assign_target(item, None)),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.assign_target(item, None)),
            // An attribute of a namespace.
            other => {
                self.expr(other);
            }
        }
    }
}

/// Returns the value of `true` or `false`.
pub(super) fn constant_bool(expr: &Expr<'_>) -> Option<bool> {
    match expr {
        Expr::Const(constant) => bool::try_from(constant.value.clone()).ok(),
        _ => None,
    }
}
