//! Limits the size of the tree that an HTML5 parser makes of a text, before libraries build and walk that tree.
//!
//! The tree can be much deeper and larger than the text suggests: each `<p>` after `<b><i><u>` that are not closed
//! repeats them (WHATWG HTML, "reconstruct the active formatting elements"). So the text is parsed by the same parser into a
//! tree without content, a little at a time, until a limit is exceeded.

use std::borrow::Cow;
use std::cell::{Cell, Ref, RefCell};

use html5ever::interface::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::tendril::{StrTendril, TendrilSink as _};
use html5ever::{Attribute, LocalName, ParseOpts, QualName, ns, parse_document};

use crate::template::limits::{MAX_HTML_DEPTH, MAX_HTML_NODES};

/// Bytes parsed between two checks.
const STEP: usize = 256;

/// Checks the depth and the size of a text's tree. The error says what is too large and how to fix it.
pub(super) fn check(html: &str) -> Result<(), String> {
    let mut parser = parse_document(Tree::new(), ParseOpts::default());
    let mut rest = html;
    while !rest.is_empty() {
        let mut end = STEP.min(rest.len());
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        let (step, after) = rest.split_at(end);
        parser.process(StrTendril::from_slice(step));
        rest = after;
        parser.tokenizer.sink.sink.check()?;
    }
    parser.finish().check_depth()
}

/// A node without content. The parser needs only the names of elements.
#[derive(Debug)]
struct Node {
    name: QualName,
    parent: Option<usize>,
    is_text: bool,
    first_child: Option<usize>,
    last_child: Option<usize>,
    previous: Option<usize>,
    next: Option<usize>,
    depth: usize,
}

/// A tree of nodes by index.
#[derive(Debug)]
struct Tree {
    nodes: RefCell<Vec<Node>>,
    /// The largest depth at which a node was inserted.
    deepest: Cell<usize>,
}

impl Tree {
    fn new() -> Self {
        let tree = Self { nodes: RefCell::default(), deepest: Cell::default() };
        tree.push(QualName::new(None, ns!(), LocalName::from("")), false);
        tree
    }

    fn push(&self, name: QualName, is_text: bool) -> usize {
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Node {
            name,
            is_text,
            parent: None,
            first_child: None,
            last_child: None,
            previous: None,
            next: None,
            depth: 0,
        });
        nodes.len() - 1
    }

    fn push_unnamed(&self, is_text: bool) -> usize {
        self.push(QualName::new(None, ns!(), LocalName::from("")), is_text)
    }

    fn detach(&self, node: usize) {
        let mut nodes = self.nodes.borrow_mut();
        let (parent, previous, next) =
            (nodes[node].parent.take(), nodes[node].previous.take(), nodes[node].next.take());
        if let Some(previous) = previous {
            nodes[previous].next = next;
        } else if let Some(parent) = parent {
            nodes[parent].first_child = next;
        }
        if let Some(next) = next {
            nodes[next].previous = previous;
        } else if let Some(parent) = parent {
            nodes[parent].last_child = previous;
        }
    }

    /// Inserts a node into a parent, in front of a sibling or at the end.
    fn insert(&self, parent: usize, node: usize, before: Option<usize>) {
        self.detach(node);
        let mut nodes = self.nodes.borrow_mut();
        let previous = match before {
            Some(before) => nodes[before].previous,
            None => nodes[parent].last_child,
        };
        let depth = nodes[parent].depth + 1;
        self.deepest.set(self.deepest.get().max(depth));
        let inserted = &mut nodes[node];
        (inserted.parent, inserted.previous, inserted.next, inserted.depth) = (Some(parent), previous, before, depth);
        match previous {
            Some(previous) => nodes[previous].next = Some(node),
            None => nodes[parent].first_child = Some(node),
        }
        match before {
            Some(before) => nodes[before].previous = Some(node),
            None => nodes[parent].last_child = Some(node),
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "the parser passes the child by value")]
    fn insert_child(&self, parent: usize, child: NodeOrText<usize>, before: Option<usize>) {
        let node = match child {
            NodeOrText::AppendNode(node) => node,
            NodeOrText::AppendText(_) => {
                let nodes = self.nodes.borrow();
                let previous = before.map_or(nodes[parent].last_child, |before| nodes[before].previous);
                if previous.is_some_and(|previous| nodes[previous].is_text) {
                    return;
                }
                drop(nodes);
                self.push_unnamed(true)
            }
        };
        self.insert(parent, node, before);
    }

    /// Checks the limits, as far as they can be seen while parsing.
    fn check(&self) -> Result<(), String> {
        if self.nodes.borrow().len() > MAX_HTML_NODES {
            let message = "elements and texts; make the template smaller, and close all elements";
            return Err(format!("more than {MAX_HTML_NODES} {message}"));
        }
        if self.deepest.get() > MAX_HTML_DEPTH { Err(too_deep()) } else { Ok(()) }
    }

    /// Checks the limits, and computes the depth of all nodes again: moving a node does not update the depths of its
    /// descendants.
    fn check_depth(&self) -> Result<(), String> {
        self.check()?;
        let nodes = self.nodes.borrow();
        for (index, node) in nodes.iter().enumerate().filter(|(_, node)| node.first_child.is_none()) {
            let (mut at, mut depth) = (node.parent.unwrap_or(index), 0);
            while let Some(parent) = nodes[at].parent {
                (at, depth) = (parent, depth + 1);
                if depth > MAX_HTML_DEPTH {
                    return Err(too_deep());
                }
            }
        }
        Ok(())
    }
}

fn too_deep() -> String {
    format!("elements are nested more than {MAX_HTML_DEPTH} deep; nest them less, and close all elements")
}

impl TreeSink for Tree {
    type Handle = usize;
    type Output = Self;
    type ElemName<'a>
        = Ref<'a, QualName>
    where
        Self: 'a;

    fn finish(self) -> Self {
        self
    }

    fn parse_error(&self, _: Cow<'static, str>) {}

    fn get_document(&self) -> usize {
        0
    }

    fn elem_name<'a>(&'a self, target: &'a usize) -> Ref<'a, QualName> {
        Ref::map(self.nodes.borrow(), |nodes| &nodes[*target].name)
    }

    fn create_element(&self, name: QualName, _: Vec<Attribute>, _: ElementFlags) -> usize {
        self.push(name, false)
    }

    fn create_comment(&self, _: StrTendril) -> usize {
        self.push_unnamed(false)
    }

    fn create_pi(&self, _: StrTendril, _: StrTendril) -> usize {
        self.push_unnamed(false)
    }

    fn append(&self, parent: &usize, child: NodeOrText<usize>) {
        self.insert_child(*parent, child, None);
    }

    fn append_based_on_parent_node(&self, element: &usize, previous: &usize, child: NodeOrText<usize>) {
        let has_parent = self.nodes.borrow()[*element].parent.is_some();
        if has_parent {
            self.append_before_sibling(element, child);
        } else {
            self.append(previous, child);
        }
    }

    fn append_doctype_to_document(&self, _: StrTendril, _: StrTendril, _: StrTendril) {}

    fn get_template_contents(&self, target: &usize) -> usize {
        *target
    }

    fn same_node(&self, x: &usize, y: &usize) -> bool {
        x == y
    }

    fn set_quirks_mode(&self, _: QuirksMode) {}

    fn append_before_sibling(&self, sibling: &usize, node: NodeOrText<usize>) {
        let parent = self.nodes.borrow()[*sibling].parent;
        self.insert_child(parent.unwrap_or(0), node, parent.map(|_| *sibling));
    }

    fn add_attrs_if_missing(&self, _: &usize, _: Vec<Attribute>) {}

    fn remove_from_parent(&self, target: &usize) {
        self.detach(*target);
    }

    fn reparent_children(&self, node: &usize, new_parent: &usize) {
        loop {
            let child = self.nodes.borrow()[*node].first_child;
            match child {
                Some(child) => self.insert(*new_parent, child, None),
                None => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_documents_pass() {
        let rows = "<tr><td>a<td>b".repeat(2_000);
        let html = format!("<!DOCTYPE html><title>x</title><p>ä<b><i>x</b>y</i><table>text{rows}</table><p>z");
        assert_eq!(check(&html), Ok(()));
        assert_eq!(check(""), Ok(()));
        assert_eq!(check(&"<div>".repeat(MAX_HTML_DEPTH - 3)), Ok(()));
    }

    #[test]
    fn deep_and_large_trees_are_refused() {
        for html in [
            "<div>".repeat(20_000),
            "<span><div></span>".repeat(20_000),
            "<b><div></b>".repeat(20_000),
            "<svg><style>".to_owned() + &"<a>".repeat(20_000),
            "<p>x".repeat(100_000),
            format!(
                "<p>{}{}",
                (0..200).map(|at| format!("<b a={at}>")).collect::<Vec<_>>().concat(),
                "<p>".repeat(50_000)
            ),
            "<template>".repeat(20_000),
        ] {
            assert!(check(&html).is_err(), "{}", &html[..30]);
        }
    }
}
