//! Inserts the layouts into a source, so that the result depends on no other template.
//!
//! Semantics are those of Jinja: the blocks of the extending template replace those of the extended one, `super()` is
//! the replaced content, and assignments and macros outside blocks are evaluated first. The names of layouts are
//! literals, so all layouts are known when a template is published.

use std::collections::HashMap;
use std::ops::Range;

use crate::domain::api::fault::{Code, Fault};
use crate::template::faults::{Located, Part, fault, position};
use crate::template::layouts::{Layout, Layouts};
use crate::template::limits::{MAX_LAYOUT_DEPTH, MAX_SOURCE};

use super::flatten_blocks::{Block, CONTENT, Document, Node};
use super::scan::{Kind, trim_marker};

/// Maximum depth of nested blocks, across all documents.
const MAX_NESTING: usize = 64;

/// A source with its layouts.
#[derive(Debug, Default)]
pub(in crate::template) struct Flat {
    pub(in crate::template) text: String,
    /// Where each part of `text` comes from: its offset in `text`, the document, and the offset there.
    segments: Vec<(usize, usize, usize)>,
    /// The names and sources of the documents.
    documents: Vec<(Option<String>, String)>,
}

impl Flat {
    /// Creates the result for a source without layouts.
    pub(in crate::template) fn plain(source: &str) -> Self {
        Self { text: source.to_owned(), segments: vec![(0, 0, 0)], documents: vec![(None, source.to_owned())] }
    }

    /// Returns the fault at an offset of `text`, with the position in the document that it comes from.
    pub(in crate::template) fn fault(&self, part: Part, located: &Located) -> Fault {
        let index = self.segments.partition_point(|(at, ..)| *at <= located.offset).saturating_sub(1);
        let Some((at, document, offset)) = self.segments.get(index) else {
            return fault(part.pointer(), located.code, located.message.clone());
        };
        let (name, source) = &self.documents[*document];
        fault_in(part, name.as_deref(), source, &Located { offset: offset + (located.offset - at), ..located.clone() })
    }

    /// Returns the line and column of an offset of `text`, in the document that it comes from.
    pub(in crate::template) fn position(&self, located_at: usize) -> (usize, usize) {
        let index = self.segments.partition_point(|(at, ..)| *at <= located_at).saturating_sub(1);
        let Some((at, document, offset)) = self.segments.get(index) else { return (1, 1) };
        position(&self.documents[*document].1, offset + (located_at - at))
    }
}

/// Returns a fault with its position.
fn fault_in(part: Part, layout: Option<&str>, source: &str, located: &Located) -> Fault {
    let (line, column) = position(source, located.offset);
    let place = layout.map_or_else(String::new, |name| format!(" of the layout `{name}`"));
    fault(part.pointer(), located.code, format!("line {line}, column {column}{place}: {}", located.message))
}

/// Returns the names of the layouts that a source extends and includes.
pub(in crate::template) fn references(source: &str) -> Result<Vec<String>, Located> {
    let document = Document::parse(None, source)?;
    let mut names: Vec<String> = document.extends.iter().map(|(name, _)| name.clone()).collect();
    let mut pending: Vec<&Node> = document.nodes.iter().collect();
    while let Some(node) = pending.pop() {
        match node {
            Node::Include { name, .. } => names.push(name.clone()),
            Node::Block(block) => pending.extend(&block.body),
            Node::Piece(_) | Node::Super(_) => {}
        }
    }
    Ok(names)
}

/// Inserts layouts into the `html` or `text` of a template. `layout` is the value of the template's field `layout`.
pub(in crate::template) fn flatten(
    part: Part,
    source: &str,
    layout: Option<&str>,
    layouts: &Layouts,
) -> Result<Flat, Fault> {
    let mut flattener = Flattener { part, layouts, flat: Flat::default() };
    let document = flattener.document(None, source)?;
    let chain = flattener.chain(document, layout, &[])?;
    flattener.emit_chain(&chain, &[])?;
    Ok(flattener.flat)
}

struct Flattener<'l> {
    part: Part,
    layouts: &'l Layouts,
    flat: Flat,
}

/// The documents of a chain of `extends`, from the extending to the extended one, with their indices in [`Flat`].
type Chain<'l> = Vec<(usize, Document<'l>)>;

/// The definitions of each block, from the extending document to the extended one.
type Definitions<'c, 'l> = HashMap<&'c str, Vec<(usize, &'c Document<'l>, &'c Block)>>;

impl<'l> Flattener<'l> {
    fn document(&mut self, name: Option<String>, source: &'l str) -> Result<(usize, Document<'l>), Fault> {
        let document = Document::parse(name.clone(), source);
        let document = document.map_err(|located| fault_in(self.part, name.as_deref(), source, &located))?;
        self.flat.documents.push((name, source.to_owned()));
        Ok((self.flat.documents.len() - 1, document))
    }

    /// Returns the source of a layout's part, and the layout's own `layout`. `path` has the names of the documents
    /// around it.
    fn layout(&self, name: &str, path: &[String]) -> Result<(&'l str, Option<&'l str>), (Code, String)> {
        let mut names: Vec<&str> = path.iter().map(String::as_str).collect();
        names.push(name);
        if self.layouts.is_own(name) || path.iter().any(|earlier| earlier == name) {
            return Err((Code::LayoutCycle, format!("layouts must not contain each other: {}", names.join(" → "))));
        }
        if path.len() >= MAX_LAYOUT_DEPTH {
            let message = format!("at most {MAX_LAYOUT_DEPTH} layouts may follow each other: {}", names.join(" → "));
            return Err((Code::TooMany, message));
        }
        let layouts: &'l Layouts = self.layouts;
        let layout: &Layout = layouts.get(name)?;
        let source = if self.part == Part::Text { &layout.source.text } else { &layout.source.html };
        match source {
            Some(source) => Ok((source, layout.source.layout.as_deref())),
            None => Err((Code::UnknownLayout, format!("the layout `{name}` has no `{}`", self.part.name()))),
        }
    }

    /// Returns a document and the layouts that it extends. `layout` is the value of the document's field `layout`.
    fn chain(
        &mut self,
        document: (usize, Document<'l>),
        layout: Option<&str>,
        path: &[String],
    ) -> Result<Chain<'l>, Fault> {
        let mut path = path.to_vec();
        let mut chain = vec![document];
        let mut fields = vec![layout.map(str::to_owned)];
        while let Some((_, document)) = chain.last() {
            let field = fields.last().cloned().flatten();
            let (name, offset) = match (field, &document.extends) {
                (None, None) => break,
                (Some(_), Some((_, offset))) => {
                    let message = "the template has a `layout`, so it must not use `extends`";
                    return Err(self.fault_at(document, *offset, Code::InvalidTemplate, message));
                }
                (Some(layout), None) => (layout, None),
                (None, Some((name, offset))) => (name.clone(), Some(*offset)),
            };
            let found = self.layout(&name, &path).map_err(|(code, message)| match offset {
                Some(offset) => self.fault_at(document, offset, code, message),
                None => fault("/layout", code, message),
            });
            let (source, field) = found?;
            chain.push(self.document(Some(name.clone()), source)?);
            fields.push(field.map(str::to_owned));
            path.push(name);
        }
        self.wrap(&mut chain, &fields)?;
        Ok(chain)
    }

    /// Makes each document that has the field `layout` the content of the next document in the chain.
    fn wrap(&self, chain: &mut Chain<'l>, fields: &[Option<String>]) -> Result<(), Fault> {
        for (index, layout) in fields.iter().enumerate().rev() {
            let Some(layout) = layout else { continue };
            let Some((own, extended)) = chain.get_mut(index..).and_then(<[_]>::split_first_mut) else { continue };
            let documents = extended.iter().flat_map(|(_, document)| document.blocks());
            let blocks: Vec<String> = documents.map(|block| block.name.clone()).collect();
            if !blocks.iter().any(|block| block == CONTENT) {
                let message = format!("the layout `{layout}` has no block `{CONTENT}` in its `{}`", self.part.name());
                return Err(fault("/layout", Code::UnknownLayout, message));
            }
            own.1.wrap(layout, &blocks);
        }
        Ok(())
    }

    fn fault_at(&self, document: &Document<'l>, offset: usize, code: Code, message: impl Into<String>) -> Fault {
        fault_in(self.part, document.name.as_deref(), document.source, &Located::new(offset, code, message))
    }

    fn emit_chain(&mut self, chain: &Chain<'l>, path: &[String]) -> Result<(), Fault> {
        let mut definitions: Definitions<'_, 'l> = HashMap::new();
        for (index, document) in chain {
            for block in document.blocks() {
                definitions.entry(&block.name).or_default().push((*index, document, block));
            }
        }
        let names = chain.iter().filter_map(|(_, document)| document.name.clone());
        let path: Vec<String> = path.iter().cloned().chain(names).collect();
        let Some(((index, root), extending)) = chain.split_last() else { return Ok(()) };
        for (index, document) in extending {
            self.emit_outside_blocks(*index, document)?;
        }
        let context = Context { definitions: &definitions, path: &path, block: None, depth: 0 };
        self.emit(&context, (*index, root), &root.nodes)
    }

    /// Emits the assignments and macros of an extending document, and refuses everything else outside its blocks.
    fn emit_outside_blocks(&mut self, index: usize, document: &Document<'l>) -> Result<(), Fault> {
        let mut open: Vec<&str> = Vec::new();
        for node in &document.nodes {
            let (at, is_kept) = match node {
                Node::Piece(at) => {
                    let piece = &document.pieces[*at];
                    let keyword = piece.keyword();
                    let ends = open.last().is_some_and(|name| keyword.strip_prefix("end") == Some(name));
                    let starts = keyword == "macro" || keyword == "set";
                    let is_kept = !open.is_empty() || starts;
                    if ends {
                        open.pop();
                    } else if keyword == "macro" || (keyword == "set" && is_set_block(piece)) {
                        open.push(keyword);
                    }
                    let is_blank = match piece.kind {
                        Kind::Text => document.source[piece.range.clone()].trim().is_empty(),
                        Kind::Comment => true,
                        _ => false,
                    };
                    if is_blank && open.is_empty() && !ends {
                        continue;
                    }
                    (*at, is_kept)
                }
                Node::Block(_) => continue,
                Node::Include { offset, .. } | Node::Super(offset) => {
                    return Err(self.outside(document, *offset));
                }
            };
            let range = document.pieces[at].range.clone();
            if !is_kept {
                return Err(self.outside(document, range.start));
            }
            self.push((index, document), range)?;
        }
        Ok(())
    }

    fn outside(&self, document: &Document<'l>, offset: usize) -> Fault {
        let message = "this is outside the blocks of a template that extends a layout, so it would not be shown; \
                       put it in a block, or use `layout`";
        self.fault_at(document, offset, Code::InvalidTemplate, message)
    }

    fn emit(
        &mut self,
        context: &Context<'_, '_, 'l>,
        own: (usize, &Document<'l>),
        nodes: &[Node],
    ) -> Result<(), Fault> {
        let document = own.1;
        if context.depth > MAX_NESTING {
            let offset = nodes.iter().find_map(|node| match node {
                Node::Block(Block { offset, .. }) | Node::Super(offset) => Some(*offset),
                _ => None,
            });
            let message = "blocks contain each other, directly or by `super()`".to_owned();
            return Err(self.fault_at(document, offset.unwrap_or_default(), Code::LayoutCycle, message));
        }
        for node in nodes {
            match node {
                Node::Piece(index) => self.push(own, document.pieces[*index].range.clone())?,
                Node::Block(block) => self.emit_block(context, own, block)?,
                Node::Super(offset) => {
                    let next = context.block.and_then(|(name, level)| {
                        let definition = context.definitions.get(name)?.get(level + 1)?;
                        Some((name, level + 1, *definition))
                    });
                    let Some((name, level, (index, document, block))) = next else {
                        let message = "`super()` needs a block that a layout also has".to_owned();
                        return Err(self.fault_at(document, *offset, Code::InvalidTemplate, message));
                    };
                    let inner = Context { block: Some((name, level)), depth: context.depth + 1, ..*context };
                    self.emit(&inner, (index, document), &block.body)?;
                }
                Node::Include { name, offset, ignores_missing } => {
                    let (source, layout) = match self.layout(name, context.path) {
                        Ok(found) => found,
                        Err((Code::UnknownLayout, _)) if *ignores_missing => continue,
                        Err((code, message)) => return Err(self.fault_at(document, *offset, code, message)),
                    };
                    let included = self.document(Some(name.clone()), source)?;
                    let chain = self.chain(included, layout, &[context.path, std::slice::from_ref(name)].concat())?;
                    self.emit_chain(&chain, context.path)?;
                }
            }
        }
        Ok(())
    }

    fn emit_block(
        &mut self,
        context: &Context<'_, '_, 'l>,
        own: (usize, &Document<'l>),
        place: &Block,
    ) -> Result<(), Fault> {
        let Some((name, definitions)) = context.definitions.get_key_value(place.name.as_str()) else { return Ok(()) };
        let Some((index, document, block)) = definitions.first().copied() else { return Ok(()) };
        let inner = Context { block: Some((name, 0)), depth: context.depth + 1, ..*context };
        self.push_trim_markers(own.1, place, true);
        self.push_trim_markers(document, block, true);
        self.emit(&inner, (index, document), &block.body)?;
        self.push_trim_markers(document, block, false);
        self.push_trim_markers(own.1, place, false);
        Ok(())
    }

    /// Keeps the white space control of a block's tags.
    fn push_trim_markers(&mut self, document: &Document<'l>, block: &Block, is_start: bool) {
        if let Some((start, end)) = block.tags {
            let piece = &document.pieces[if is_start { start } else { end }];
            self.flat.text.push_str(trim_marker(&document.source[piece.range.clone()]));
        }
    }

    fn push(&mut self, (index, document): (usize, &Document<'l>), range: Range<usize>) -> Result<(), Fault> {
        if self.flat.text.len() + range.len() > MAX_SOURCE {
            let message = format!("with its layouts, the template is larger than {MAX_SOURCE} bytes");
            return Err(fault(self.part.pointer(), Code::TooLarge, message));
        }
        self.flat.segments.push((self.flat.text.len(), index, range.start));
        self.flat.text.push_str(&document.source[range]);
        Ok(())
    }
}

fn is_set_block(piece: &super::scan::Piece) -> bool {
    !piece.words.contains(&super::scan::Word::Assign)
}

/// Where nodes are emitted.
#[derive(Clone, Copy)]
struct Context<'e, 'c, 'l> {
    definitions: &'e Definitions<'c, 'l>,
    /// The names of the layouts around the nodes.
    path: &'e [String],
    /// The block around the nodes, and the level of its definition.
    block: Option<(&'e str, usize)>,
    depth: usize,
}
