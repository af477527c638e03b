//! Prints a syntax tree as a template whose cost is bounded.
//!
//! Expressions that create, compare or serialize values are wrapped in calls of [`filters`](super::filters) that bound
//! their cost. `MiniJinja` compiles templates only from their source, so the tree is printed instead of changed. Each
//! tag starts on a line of its own (the line break is inside the tag), so the line number of an error identifies the
//! tag that failed.

use minijinja::machinery::ast::{self, Expr, Stmt};

use super::analyse_statements::constant_bool;
use super::filters::SCALAR;
use super::guard_expressions::{Level, print, print_call};

/// A printed template.
#[derive(Debug, Default)]
pub(in crate::template) struct Printed {
    pub(in crate::template) source: String,
    line: usize,
    /// The lines of the tags, and their byte offsets in the source of the tree.
    tags: Vec<(usize, usize)>,
}

impl Printed {
    /// Prints a template that was analysed without faults.
    pub(in crate::template) fn new(template: &Stmt<'_>) -> Self {
        let mut printed = Self { line: 1, ..Self::default() };
        printed.statement(template);
        printed
    }

    /// Returns the byte offset, in the source of the tree, of the tag that a line of the printed source belongs to.
    pub(in crate::template) fn offset(&self, line: usize) -> Option<usize> {
        let index = self.tags.partition_point(|(start, _)| *start <= line).checked_sub(1)?;
        self.tags.get(index).map(|(_, offset)| *offset)
    }

    fn push(&mut self, text: &str) {
        self.line += memchr::memchr_iter(b'\n', text.as_bytes()).count();
        self.source.push_str(text);
    }

    /// Starts a tag, and records its byte offset in the source of the tree.
    fn start(&mut self, text: &str, offset: u32) {
        self.push(text);
        self.push("\n");
        self.tags.push((self.line, offset as usize));
    }

    fn expr(&mut self, expr: &Expr<'_>, level: Level) {
        print(&mut self.source, expr, level);
    }

    fn statements(&mut self, statements: &[Stmt<'_>]) {
        for statement in statements {
            self.statement(statement);
        }
    }

    fn statement(&mut self, statement: &Stmt<'_>) {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitRaw(raw) => self.raw(raw.raw),
            Stmt::EmitExpr(emit) => {
                self.start("{{", emit.span().start_offset);
                self.expr(&emit.expr, Level::Choice);
                self.push("}}");
            }
            Stmt::ForLoop(each) => self.for_loop(each, each.span().start_offset),
            Stmt::IfCond(cond) => {
                self.start("{% if", cond.span().start_offset);
                self.expr(&cond.expr, Level::Or);
                self.push("%}");
                self.statements(&cond.true_body);
                if !cond.false_body.is_empty() {
                    self.push("{% else %}");
                    self.statements(&cond.false_body);
                }
                self.push("{% endif %}");
            }
            Stmt::WithBlock(with) => {
                self.start("{% with", with.span().start_offset);
                for (index, (target, expr)) in with.assignments.iter().enumerate() {
                    self.push(if index > 0 { ", " } else { "" });
                    self.target(target, true);
                    self.push(" = ");
                    self.expr(expr, Level::Choice);
                }
                self.push("%}");
                self.statements(&with.body);
                self.push("{% endwith %}");
            }
            Stmt::Set(set) => self.set(set, set.span().start_offset),
            Stmt::SetBlock(set) => {
                self.start("{% set", set.span().start_offset);
                self.target(&set.target, false);
                if let Some(filter) = &set.filter {
                    self.push(" | ");
                    self.expr(filter, Level::Choice);
                }
                self.push("%}");
                self.statements(&set.body);
                self.push("{% endset %}");
            }
            Stmt::AutoEscape(block) => {
                let is_enabled = constant_bool(&block.enabled).unwrap_or(true);
                self.push(if is_enabled { "{% autoescape true %}" } else { "{% autoescape false %}" });
                self.statements(&block.body);
                self.push("{% endautoescape %}");
            }
            Stmt::FilterBlock(block) => {
                self.start("{% filter", block.span().start_offset);
                self.expr(&block.filter, Level::Choice);
                self.push("%}");
                self.statements(&block.body);
                self.push("{% endfilter %}");
            }
            Stmt::Macro(declared) => {
                self.start("{% macro", declared.span().start_offset);
                self.push(declared.name);
                self.parameters(declared);
                self.push("%}");
                self.statements(&declared.body);
                self.push("{% endmacro %}");
            }
            Stmt::CallBlock(block) => {
                self.start("{% call", block.span().start_offset);
                if !block.macro_decl.args.is_empty() {
                    self.parameters(&block.macro_decl);
                    self.push(" ");
                }
                print_call(&mut self.source, &block.call);
                self.push("%}");
                self.statements(&block.macro_decl.body);
                self.push("{% endcall %}");
            }
            Stmt::Do(call) => {
                self.start("{% do", call.span().start_offset);
                print_call(&mut self.source, &call.call);
                self.push("%}");
            }
        }
    }

    /// Appends text. A brace at its end must not become a part of a tag.
    fn raw(&mut self, text: &str) {
        match text.strip_suffix('{') {
            Some(before) => {
                self.push(before);
                self.push("{{\"{\"}}");
            }
            None => self.push(text),
        }
    }

    fn for_loop(&mut self, each: &ast::ForLoop<'_>, offset: u32) {
        self.start("{% for", offset);
        self.target(&each.target, false);
        self.push(" in ");
        self.expr(&each.iter, Level::Or);
        if let Some(filter) = &each.filter_expr {
            self.push(" if ");
            self.expr(filter, Level::Or);
        }
        self.push(if each.recursive { " recursive %}" } else { "%}" });
        self.statements(&each.body);
        if !each.else_body.is_empty() {
            self.push("{% else %}");
            self.statements(&each.else_body);
        }
        self.push("{% endfor %}");
    }

    fn set(&mut self, set: &ast::Set<'_>, offset: u32) {
        self.start("{% set", offset);
        self.target(&set.target, false);
        self.push(" = ");
        if matches!(set.target, Expr::GetAttr(_)) {
            self.push(SCALAR);
            self.push("(");
            self.expr(&set.expr, Level::Choice);
            self.push(")");
        } else {
            self.expr(&set.expr, Level::Choice);
        }
        self.push("%}");
    }

    fn parameters(&mut self, declared: &ast::Macro<'_>) {
        self.push("(");
        let first_default = declared.args.len().saturating_sub(declared.defaults.len());
        for (index, arg) in declared.args.iter().enumerate() {
            self.push(if index > 0 { ", " } else { "" });
            self.target(arg, false);
            if let Some(default) = index.checked_sub(first_default).and_then(|index| declared.defaults.get(index)) {
                self.push("=");
                self.expr(default, Level::Choice);
            }
        }
        self.push(")");
    }

    /// Appends the target of an assignment.
    fn target(&mut self, target: &Expr<'_>, is_nested: bool) {
        let items = match target {
            Expr::List(list) => &list.items,
            Expr::Tuple(tuple) => &tuple.items,
            other => return self.expr(other, Level::Postfix),
        };
        self.push(if is_nested { "(" } else { "" });
        for (index, item) in items.iter().enumerate() {
            self.push(if index > 0 { ", " } else { "" });
            self.target(item, true);
        }
        self.push(if items.len() == 1 { "," } else { "" });
        self.push(if is_nested { ")" } else { "" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::jinja::parse;

    fn printed(source: &str) -> String {
        Printed::new(&parse(source).unwrap()).source
    }

    #[test]
    fn expressions_keep_their_meaning() {
        for (source, expected) in [
            ("{{ a + 1 * 2 - (b - c) }}", "{{\na + __build(1 * 2) - (b - c)}}"),
            ("{{ (a or b) and not c }}", "{{\n(a or b) and not c}}"),
            ("{{ -x|abs }}{{ -(x|abs) }}", "{{\n-x|abs()}}{{\n-(x|abs())}}"),
            ("{{ (x is defined) if a else b }}", "{{\nx is defined() if a else b}}"),
            ("{{ x is not none }}", "{{\nnot x is none()}}"),
            ("{{ a not in [1, 2] }}", "{{\nnot a in [1, 2]}}"),
            ("{{ a == b }}", "{{\n__pay(a) == b}}"),
            ("{{ a in b }}", "{{\na in __pay(b)}}"),
            ("{{ a == 'x\"\\n' }}", "{{\na == \"x\\\"\\u000a\"}}"),
            ("{{ a < b < 3 }}", "{{\n__pay(a) < __pay(b) < 3}}"),
            ("{{ [a, [b]] }}", "{{\n__build([a, __build([b])])}}"),
            ("{{ {\"a\": 1.5}[x].y }}", "{{\n__build({\"a\": 1.5})[__pay(x)].y}}"),
            ("{{ a + b + c }}", "{{\n__build(a + b + c)}}"),
            ("{{ a * (b + c) }}", "{{\n__build(a * __build(b + c))}}"),
            ("{{ x[1:] }}", "{{\n__build(__pay(x)[1::])}}"),
            ("{{ (a if b) ~ \"x\" }}", "{{\n(a if b) ~ \"x\"}}"),
            ("{{ (1,) }}", "{{\n(1,)}}"),
            ("{{ f(a, b=1)(c) }}", "{{\nf(a, b=1)(c)}}"),
            ("{{ loop.changed(a) }}", "{{\nloop.changed(__pay(a))}}"),
            ("{{ 2 ** 3 ** 4 }}", "{{\n2 ** 3 ** 4}}"),
            ("{{ 2 ** (3 ** 4) }}", "{{\n2 ** (3 ** 4)}}"),
        ] {
            assert_eq!(printed(source), expected, "{source}");
            assert!(parse(&printed(source)).is_ok(), "{source}");
        }
    }

    #[test]
    fn statements_keep_their_meaning() {
        for (source, expected) in [
            (
                "{% for a, b in c if d recursive %}x{% else %}y{% endfor %}",
                "{% for\na, b in c if d recursive %}x{% else %}y{% endfor %}",
            ),
            ("{% if a %}b{% elif c %}d{% endif %}", "{% if\na%}b{% else %}{% if\nc%}d{% endif %}{% endif %}"),
            ("{% set ns.x = y %}", "{% set\nns.x = __scalar(y)%}"),
            ("{% set a, b = c %}", "{% set\na, b = c%}"),
            ("{% set a | upper %}x{% endset %}", "{% set\na | upper()%}x{% endset %}"),
            ("{% with a = 1, b = 2 %}x{% endwith %}", "{% with\na = 1, b = 2%}x{% endwith %}"),
            ("{% macro m(a, b=1) %}x{% endmacro %}", "{% macro\nm(a, b=1)%}x{% endmacro %}"),
            ("{% call(a) m(1) %}x{% endcall %}", "{% call\n(a) m(1)%}x{% endcall %}"),
            ("{% filter upper %}x{% endfilter %}", "{% filter\nupper()%}x{% endfilter %}"),
            ("{% autoescape false %}x{% endautoescape %}", "{% autoescape false %}x{% endautoescape %}"),
            ("a { {{- x }}", "a {{\"{\"}}{{\nx}}"),
        ] {
            assert_eq!(printed(source), expected, "{source}");
            assert!(parse(&printed(source)).is_ok(), "{source}");
        }
    }

    #[test]
    fn lines_tell_the_tag() {
        let source = "a\n{{ x }}\n\n{% if y %}{{ z }}{% endif %}";
        let printed = Printed::new(&parse(source).unwrap());
        let line = |text: &str| printed.source[..printed.source.find(text).unwrap()].matches('\n').count() + 1;
        assert!(source[printed.offset(line("x}}")).unwrap()..].starts_with("x }}"));
        assert!(source[printed.offset(line("z}}")).unwrap()..].starts_with("z }}"));
        assert_eq!(printed.offset(1), None);
    }
}
