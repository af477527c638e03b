//! Parses the structure of a source that layouts need: its blocks, includes and `extends`.

use crate::domain::api::fault::Code;
use crate::template::faults::Located;
use crate::template::limits::MAX_BLOCK_DEPTH;

use super::scan::{Kind, Piece, Word, pieces};

/// A part of a document.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// A piece, by index.
    Piece(usize),
    Block(Block),
    Include {
        name: String,
        offset: usize,
        ignores_missing: bool,
    },
    /// `{{ super() }}`
    Super(usize),
}

/// A block with its content.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) name: String,
    pub(super) offset: usize,
    /// The indices of the tags; `None` for the block that `layout` implies.
    pub(super) tags: Option<(usize, usize)>,
    pub(super) body: Vec<Node>,
}

/// A source with its structure.
#[derive(Debug)]
pub(super) struct Document<'s> {
    /// The name by which the layout was found; `None` for the template itself.
    pub(super) name: Option<String>,
    pub(super) source: &'s str,
    pub(super) pieces: Vec<Piece>,
    pub(super) nodes: Vec<Node>,
    /// The name of the extended layout, and the offset of the `extends` tag.
    pub(super) extends: Option<(String, usize)>,
}

impl<'s> Document<'s> {
    /// Parses the structure of a source.
    pub(super) fn parse(name: Option<String>, source: &'s str) -> Result<Self, Located> {
        let pieces = pieces(source)?;
        let mut document = Self { name, source, pieces: Vec::new(), nodes: Vec::new(), extends: None };
        let mut open: Vec<(Block, usize)> = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            let node = match piece.keyword() {
                "extends" => {
                    document.set_extends(piece, open.is_empty())?;
                    continue;
                }
                "block" => {
                    if open.len() >= MAX_BLOCK_DEPTH {
                        let message = format!("blocks are nested more than {MAX_BLOCK_DEPTH} deep");
                        return Err(Located::new(piece.range.start, Code::TooMany, message));
                    }
                    open.push((new_block(piece)?, index));
                    continue;
                }
                "endblock" => {
                    let Some((mut block, start)) = open.pop() else {
                        return Err(invalid(piece, "there is no open `block`"));
                    };
                    block.tags = Some((start, index));
                    Node::Block(block)
                }
                "include" => include(piece)?,
                "import" | "from" => {
                    let message = "imports are not available; define the macro in this template, or in its layout";
                    return Err(Located::new(piece.range.start, Code::NotAvailable, message));
                }
                _ if is_super(piece)? => Node::Super(piece.range.start),
                _ => Node::Piece(index),
            };
            open.last_mut().map_or(&mut document.nodes, |(block, _)| &mut block.body).push(node);
        }
        if let Some((block, _)) = open.first() {
            return Err(Located::new(
                block.offset,
                Code::InvalidTemplate,
                "the block is not closed; add `{% endblock %}`",
            ));
        }
        document.pieces = pieces;
        document.check_names()?;
        Ok(document)
    }

    fn set_extends(&mut self, piece: &Piece, is_outside: bool) -> Result<(), Located> {
        if self.extends.is_some() || !is_outside {
            return Err(invalid(piece, "`extends` may occur once, outside blocks"));
        }
        match &piece.words[..] {
            [_, Word::Literal(name)] => {
                self.extends = Some((name.clone(), piece.range.start));
                Ok(())
            }
            _ => Err(invalid(piece, "`extends` needs the id or alias of a template in quotes")),
        }
    }

    /// Fails if two blocks have the same name.
    fn check_names(&self) -> Result<(), Located> {
        let blocks = self.blocks();
        for (index, block) in blocks.iter().enumerate() {
            if blocks[..index].iter().any(|earlier| earlier.name == block.name) {
                let message = format!("the block `{}` is defined twice", block.name);
                return Err(Located::new(block.offset, Code::DuplicateValue, message));
            }
        }
        Ok(())
    }

    /// Returns all blocks, including nested ones.
    pub(super) fn blocks(&self) -> Vec<&Block> {
        let mut blocks = Vec::new();
        let mut pending: Vec<&Node> = self.nodes.iter().collect();
        while let Some(node) = pending.pop() {
            if let Node::Block(block) = node {
                blocks.push(block);
                pending.extend(&block.body);
            }
        }
        blocks
    }

    /// Makes the document the content of a layout. Its blocks that are also in `blocks`, the blocks of the layout,
    /// stay. The rest becomes the block `content`, or is dropped if the document has a block of this name.
    pub(super) fn wrap(&mut self, layout: &str, blocks: &[String]) {
        let is_own = |node: &Node| matches!(node, Node::Block(block) if blocks.contains(&block.name));
        let (mut nodes, body): (Vec<Node>, Vec<Node>) = std::mem::take(&mut self.nodes).into_iter().partition(is_own);
        let has_content = nodes.iter().any(|node| matches!(node, Node::Block(block) if block.name == CONTENT));
        if !has_content {
            nodes.push(Node::Block(Block { name: CONTENT.into(), offset: 0, tags: None, body }));
        }
        self.nodes = nodes;
        self.extends = Some((layout.to_owned(), 0));
    }
}

/// The block of a layout that a template with `layout` fills.
pub(super) const CONTENT: &str = "content";

fn invalid(piece: &Piece, message: &str) -> Located {
    Located::new(piece.range.start, Code::InvalidTemplate, message)
}

fn new_block(piece: &Piece) -> Result<Block, Located> {
    match &piece.words[..] {
        [_, Word::Name(name), rest @ ..] if rest.iter().all(|word| matches!(word, Word::Name(_))) => {
            Ok(Block { name: name.clone(), offset: piece.range.start, tags: None, body: Vec::new() })
        }
        _ => Err(invalid(piece, "`block` needs a name")),
    }
}

fn include(piece: &Piece) -> Result<Node, Located> {
    let [_, Word::Literal(name), options @ ..] = &piece.words[..] else {
        return Err(invalid(piece, "`include` needs the id or alias of a template in quotes"));
    };
    let is_option = |word: &Word| matches!(word, Word::Name(_));
    if !options.iter().all(is_option) {
        return Err(invalid(piece, "after the name, `include` allows only `ignore missing`"));
    }
    let ignores_missing = options.contains(&Word::Name("missing".into()));
    Ok(Node::Include { name: name.clone(), offset: piece.range.start, ignores_missing })
}

/// Returns whether a piece is `{{ super() }}`. Other uses of `super` are faults.
fn is_super(piece: &Piece) -> Result<bool, Located> {
    let is_call = |words: &[Word]| matches!(words, [Word::Name(name), Word::Other, Word::Other] if name == "super");
    match &piece.kind {
        Kind::Print if is_call(&piece.words) => Ok(true),
        Kind::Print | Kind::Block if piece.words.windows(3).any(is_call) => {
            Err(invalid(piece, "`super()` must be alone in its tag, as `{{ super() }}`"))
        }
        _ => Ok(false),
    }
}
