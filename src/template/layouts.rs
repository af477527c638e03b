//! Layouts: the tenant's published templates that another template extends or includes.
//!
//! A layout is named by `layout`, or in the source by `{% extends "NAME" %}` or `{% include "NAME" %}`, with the
//! layout's id or alias as a literal. With `layout`, the layout's `{% block content %}` contains the template's bodies.
//! Layouts are inserted when a template is published, so a published version depends on no other template; variables
//! that a layout declares are declared for the template as well.

use std::collections::BTreeMap;

use crate::domain::api::fault::{Code, Fault, Faults};

use super::faults::{Part, push};
use super::jinja::flatten;
use super::limits::MAX_LAYOUTS;
use super::source::{Source, Syntax, Variable};

/// A published template that serves as a layout.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The source of the published version.
    pub source: Source,
}

/// The layouts that a template uses directly or through other layouts. The caller loads them:
///
/// ```ignore
/// let mut layouts = Layouts::new(&source, &[id, alias])?;
/// loop {
///     let names = layouts.missing();
///     if names.is_empty() {
///         break;
///     }
///     for name in names {
///         let layout = load(&name).await?;
///         layouts.insert(&name, layout);
///     }
/// }
/// compile(&source, &layouts)
/// ```
///
/// The loop ends after at most [`MAX_LAYOUTS`] layouts. Cycles are found by [`compile`](super::compile()).
#[derive(Debug, Clone, Default)]
pub struct Layouts {
    own_names: Vec<String>,
    /// The layouts by the names that sources use; `None` if the tenant has no published template of that name.
    known: BTreeMap<String, Option<Layout>>,
    wanted: Vec<String>,
}

impl Layouts {
    /// Finds the names of layouts in a template. `own_names` are the template's id and alias, which it must not extend.
    ///
    /// Fails if the source cannot be scanned.
    pub fn new(source: &Source, own_names: &[&str]) -> Result<Self, Vec<Fault>> {
        let own_names = own_names.iter().map(|name| (*name).to_owned()).collect();
        let mut layouts = Self { own_names, ..Self::default() };
        layouts.want(source)?;
        Ok(layouts)
    }

    /// Returns the names of layouts that are neither inserted nor known to be missing.
    pub fn missing(&self) -> Vec<String> {
        let free = MAX_LAYOUTS.saturating_sub(self.known.len());
        let missing = self.wanted.iter().filter(|name| !self.known.contains_key(*name) && !self.is_own(name));
        missing.take(free).cloned().collect()
    }

    /// Inserts the layout with this name; `None` if the tenant has no published template of that name.
    pub fn insert(&mut self, name: &str, layout: Option<Layout>) {
        if let Some(layout) = &layout {
            // The source was scanned without faults when it was published. If it has a fault now, compiling reports it.
            let _ = self.want(&layout.source);
        }
        self.known.insert(name.to_owned(), layout);
    }

    /// Adds the layout names in a source to the wanted names.
    fn want(&mut self, source: &Source) -> Result<(), Vec<Fault>> {
        let mut faults = Faults::default();
        let mut names: Vec<String> = source.layout.iter().cloned().collect();
        if source.syntax == Syntax::Jinja {
            for (part, text) in [(Part::Html, &source.html), (Part::Text, &source.text)] {
                let Some(text) = text else { continue };
                match flatten::references(text) {
                    Ok(found) => names.extend(found),
                    Err(fault) => push(&mut faults, part, text, &fault),
                }
            }
        }
        for name in names {
            if !self.wanted.contains(&name) && self.wanted.len() <= MAX_LAYOUTS {
                self.wanted.push(name);
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults.into_vec()) }
    }

    /// Returns whether a name is the id or alias of the template itself.
    pub(super) fn is_own(&self, name: &str) -> bool {
        self.own_names.iter().any(|own| own == name)
    }

    /// Returns the layout with this name.
    pub(super) fn get(&self, name: &str) -> Result<&Layout, (Code, String)> {
        match self.known.get(name) {
            Some(Some(layout)) => Ok(layout),
            None if self.known.len() >= MAX_LAYOUTS => {
                Err((Code::TooMany, format!("a template uses at most {MAX_LAYOUTS} layouts")))
            }
            _ => {
                let message = format!("there is no published template `{name}`; publish it first, or fix the name");
                Err((Code::UnknownLayout, message))
            }
        }
    }

    /// Returns the variables that the layouts declare.
    pub(super) fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.layouts().flat_map(|(_, layout)| &layout.source.variables)
    }

    /// Returns the layouts and their names.
    pub(super) fn layouts(&self) -> impl Iterator<Item = (&str, &Layout)> {
        self.known.iter().filter_map(|(name, layout)| Some((name.as_str(), layout.as_ref()?)))
    }
}
