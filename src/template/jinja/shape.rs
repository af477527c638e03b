//! The shapes of variables, inferred from how a template uses them, and example values of these shapes.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::template::source::{Variable, VariableType};

/// What is known about a scalar value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::template) enum Hint {
    Unknown,
    /// The value is only tested for truth.
    Tested,
    /// The value is printed.
    Printed,
    Boolean,
    Number,
    String,
}

/// The index of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::template) struct Id(usize);

#[derive(Debug)]
struct Shape {
    hint: Hint,
    fields: BTreeMap<String, Id>,
    element: Option<Id>,
}

/// The shapes of all variables of a template, and of what they contain.
#[derive(Debug, Default)]
pub(in crate::template) struct Shapes {
    shapes: Vec<Shape>,
    roots: BTreeMap<String, Id>,
}

/// Maximum depth of example values.
const MAX_DEPTH: usize = 8;
/// Maximum number of shapes. All further values share the last shape.
const MAX_SHAPES: usize = 5_000;

impl Shapes {
    fn push(&mut self) -> Id {
        if self.shapes.len() < MAX_SHAPES {
            self.shapes.push(Shape { hint: Hint::Unknown, fields: BTreeMap::new(), element: None });
        }
        Id(self.shapes.len() - 1)
    }

    /// Returns the shape of a variable.
    pub(in crate::template) fn root(&mut self, name: &str) -> Id {
        if let Some(id) = self.roots.get(name) {
            return *id;
        }
        let id = self.push();
        self.roots.insert(name.to_owned(), id);
        id
    }

    /// Returns the shape of an attribute.
    pub(in crate::template) fn field(&mut self, id: Id, name: &str) -> Id {
        if let Some(id) = self.shapes[id.0].fields.get(name) {
            return *id;
        }
        let field = self.push();
        self.shapes[id.0].fields.insert(name.to_owned(), field);
        field
    }

    /// Returns the shape of the items of an array.
    pub(in crate::template) fn element(&mut self, id: Id) -> Id {
        if let Some(id) = self.shapes[id.0].element {
            return id;
        }
        let element = self.push();
        self.shapes[id.0].element = Some(element);
        element
    }

    /// Notes how a value is used. The stronger hint wins.
    pub(in crate::template) fn hint(&mut self, id: Id, hint: Hint) {
        let shape = &mut self.shapes[id.0];
        shape.hint = shape.hint.max(hint);
    }

    /// Returns the names of the variables.
    pub(in crate::template) fn names(&self) -> impl Iterator<Item = &str> {
        self.roots.keys().map(String::as_str)
    }

    /// Returns whether the template uses a variable.
    pub(in crate::template) fn has(&self, name: &str) -> bool {
        self.roots.contains_key(name)
    }

    fn kind(&self, id: Id) -> VariableType {
        let shape = &self.shapes[id.0];
        if !shape.fields.is_empty() {
            return VariableType::Object;
        }
        match shape.hint {
            _ if shape.element.is_some() => VariableType::Array,
            Hint::Number => VariableType::Number,
            Hint::Boolean | Hint::Tested => VariableType::Boolean,
            Hint::Unknown | Hint::Printed | Hint::String => VariableType::String,
        }
    }

    fn example(&self, id: Id, name: &str, depth: usize) -> Value {
        let shape = &self.shapes[id.0];
        if depth >= MAX_DEPTH {
            return Value::Null;
        }
        match self.kind(id) {
            VariableType::Object => {
                let fields = shape.fields.iter();
                let values = fields.map(|(name, id)| (name.clone(), self.example(*id, name, depth + 1)));
                Value::Object(values.collect())
            }
            VariableType::Array => {
                let element = shape.element.map(|id| self.example(id, name, depth + 1));
                Value::Array(element.into_iter().collect())
            }
            VariableType::Number => json!(1),
            VariableType::Boolean => json!(true),
            VariableType::String => json!(format!("{name}_value")),
        }
    }

    /// Returns example values for all variables.
    pub(in crate::template) fn examples(&self) -> Map<String, Value> {
        self.roots.iter().map(|(name, id)| (name.clone(), self.example(*id, name, 0))).collect()
    }

    /// Returns a declaration for a variable.
    pub(in crate::template) fn declaration(&self, name: &str) -> Option<Variable> {
        let id = *self.roots.get(name)?;
        // A message may leave out a variable that the template only tests.
        let required = self.shapes[id.0].hint != Hint::Tested;
        Some(Variable { key: name.to_owned(), kind: self.kind(id), required, default: None, max_length: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_have_the_inferred_shape() {
        let mut shapes = Shapes::default();
        let rows = shapes.root("rows");
        let row = shapes.element(rows);
        let price = shapes.field(row, "price");
        shapes.hint(price, Hint::Number);
        shapes.hint(price, Hint::Printed);
        let name = shapes.field(row, "name");
        shapes.hint(name, Hint::Printed);
        let flag = shapes.root("flag");
        shapes.hint(flag, Hint::Tested);
        assert_eq!(
            Value::Object(shapes.examples()),
            json!({"rows": [{"price": 1, "name": "name_value"}], "flag": true})
        );
        let declared = shapes.declaration("rows").unwrap();
        assert_eq!((declared.kind, declared.required), (VariableType::Array, true));
        assert!(!shapes.declaration("flag").unwrap().required);
        assert_eq!(shapes.root("rows"), rows);
    }
}
