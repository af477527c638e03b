//! A bounded cache of programs.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::domain::id::TemplateId;

use super::program::Program;

/// Programs by template and version, bounded by their memory. Published versions never change, so entries never expire.
#[derive(Debug)]
pub struct ProgramCache {
    programs: Cache<(TemplateId, i32), Arc<Program>, Bytes>,
    bytes: u64,
}

/// Typical size of a program, from which the expected number of entries is calculated.
const TYPICAL_BYTES: u64 = 64 * 1024;

/// Weighs programs by their memory.
#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<(TemplateId, i32), Arc<Program>> for Bytes {
    fn weight(&self, _: &(TemplateId, i32), program: &Arc<Program>) -> u64 {
        program.bytes() as u64
    }
}

impl ProgramCache {
    /// Creates a cache that takes about `bytes` of memory at most.
    pub fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / TYPICAL_BYTES).unwrap_or(usize::MAX).clamp(16, 100_000);
        Self { programs: Cache::with_weighter(items, bytes, Bytes), bytes }
    }

    /// Returns a program.
    pub fn get(&self, template: TemplateId, version: i32) -> Option<Arc<Program>> {
        self.programs.get(&(template, version))
    }

    /// Stores a program and returns it. A program that is larger than the cache is returned without being stored.
    pub fn insert(&self, template: TemplateId, version: i32, program: Program) -> Arc<Program> {
        let program = Arc::new(program);
        if program.bytes() as u64 <= self.bytes {
            self.programs.insert((template, version), Arc::clone(&program));
        }
        program
    }

    /// Removes a program, because its template was deleted.
    pub fn remove(&self, template: TemplateId, version: i32) {
        self.programs.remove(&(template, version));
    }
}
