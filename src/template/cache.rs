//! A bounded cache of programs.

use std::sync::Arc;

use crate::domain::id::TemplateId;

use super::program::Program;

/// Programs by template and version, bounded by their memory. Published versions never change, so entries never expire.
#[derive(Debug)]
pub struct ProgramCache {
    _private: (),
}

impl ProgramCache {
    /// Creates a cache that takes about `bytes` of memory at most.
    pub fn new(bytes: u64) -> Self {
        todo!("{bytes}")
    }

    /// Returns a program.
    pub fn get(&self, template: TemplateId, version: i32) -> Option<Arc<Program>> {
        todo!("{template} {version}")
    }

    /// Stores a program and returns it. One that is larger than the cache is not stored.
    pub fn insert(&self, template: TemplateId, version: i32, program: Program) -> Arc<Program> {
        todo!("{template} {version} {program:?}")
    }

    /// Removes a program, because its template was deleted.
    pub fn remove(&self, template: TemplateId, version: i32) {
        todo!("{template} {version}")
    }
}
