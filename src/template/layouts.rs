//! Layouts: the tenant's published templates that another template extends or includes.
//!
//! A layout is named by `layout`, or in the source by `{% extends "NAME" %}` or `{% include "NAME" %}`, with the layout's id
//! or alias as a literal. With `layout`, the bodies are what the layout's `{% block content %}` contains. Layouts are
//! inserted when a template is published, so a published version depends on no other template; variables that a
//! layout declares are declared for the template as well.

use crate::domain::fault::Fault;

use super::source::{Source, Variable};

/// A published template that serves as a layout.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The source of the published version.
    pub source: Source,
}

/// The layouts of a template, directly and through other layouts. The caller loads them:
///
/// ```ignore
/// let mut layouts = Layouts::new(&source, &[id, alias])?;
/// while let names = layouts.missing() && !names.is_empty() {
///     for name in names {
///         layouts.insert(&name, load(&name).await?);
///     }
/// }
/// compile(&source, &layouts)
/// ```
///
/// The loop ends after at most [`MAX_LAYOUTS`](super::limits::MAX_LAYOUTS) layouts. Cycles are found by
/// [`compile`](super::compile()).
#[derive(Debug, Clone, Default)]
pub struct Layouts {
    _private: (),
}

impl Layouts {
    /// Finds the names of layouts in a template. `own_names` are the template's id and alias, which it must not extend.
    ///
    /// Fails if the source cannot be scanned.
    pub fn new(source: &Source, own_names: &[&str]) -> Result<Self, Vec<Fault>> {
        todo!("{source:?} {own_names:?}")
    }

    /// Returns the names of layouts that are neither inserted nor known to be missing.
    pub fn missing(&self) -> Vec<String> {
        todo!()
    }

    /// Inserts the layout of a name; `None` if the tenant has no published template of that name.
    pub fn insert(&mut self, name: &str, layout: Option<Layout>) {
        todo!("{name} {layout:?}")
    }

    /// Returns the variables that the layouts declare.
    pub(super) fn variables(&self) -> impl Iterator<Item = &Variable> {
        std::iter::empty()
    }
}
