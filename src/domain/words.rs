//! Enums whose values are part of the API. One table defines a value's name in SQL and JSON, its meaning in the
//! documentation, and its schema in the OpenAPI document.

use utoipa::openapi::RefOr;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

/// Defines an enum with the names and meanings of its values. Names may be added, but never changed: clients branch on
/// them.
macro_rules! words {
    (
        $(#[doc = $about:literal])+
        pub enum $type:ident as $schema:literal {
            $($(#[doc = $meaning:literal])+ $name:ident = $word:literal,)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $type {
            $($(#[doc = $meaning])+ $name,)+
        }

        impl $type {
            /// All values, in the order of the documentation.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$name),+];

            /// Returns the value's name in SQL, JSON and documentation.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// Returns the value's meaning, for the documentation.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($meaning),+).trim_ascii(),)+ }
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl utoipa::PartialSchema for $type {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                let about = concat!($($about),+).trim_ascii();
                $crate::domain::words::schema(about, &Self::ALL.map(|word| (word.as_str(), word.meaning())))
            }
        }

        impl utoipa::ToSchema for $type {
            fn name() -> std::borrow::Cow<'static, str> {
                $schema.into()
            }
        }
    };
}

pub(crate) use words;

/// The names of an enum's values in generated clients.
const NAMES: &str = "x-enum-varnames";

/// Returns the schema of a string that is one of these values, with their meanings.
pub(crate) fn schema(about: &str, words: &[(&str, &str)]) -> RefOr<Schema> {
    let list: Vec<String> = words.iter().map(|(word, meaning)| format!("\n- `{word}`: {meaning}")).collect();
    // Without names, openapi-generator calls `message.bounced` MESSAGE_DOT_BOUNCED.
    let has_dots = words.iter().any(|(word, _)| word.contains('.'));
    let names: Vec<String> = words.iter().map(|(word, _)| word.replace('.', "_").to_uppercase()).collect();
    ObjectBuilder::new()
        .extensions(has_dots.then(|| ExtensionsBuilder::new().add(NAMES, names).build()))
        .schema_type(Type::String)
        .enum_values(Some(words.iter().map(|(word, _)| *word)))
        .description(Some(format!("{about}\n{}", list.concat())))
        .into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use crate::domain::api::fault::Code;
    use crate::domain::api::problem::ProblemCode;
    use crate::domain::bounce::{BounceType, Category, Source};
    use crate::domain::event::EventType;
    use crate::domain::provider::Provider;
    use crate::domain::statistics::{GroupBy, Step};

    #[test]
    fn every_value_has_a_plain_name_and_a_sentence() {
        let lists = [
            BounceType::ALL.map(|word| (word.as_str(), word.meaning())).to_vec(),
            Category::ALL.map(|word| (word.as_str(), word.meaning())).to_vec(),
            Source::ALL.map(|word| (word.as_str(), word.meaning())).to_vec(),
            EventType::ALL.map(|word| (word.as_str(), word.meaning())).to_vec(),
            Code::ALL.map(|word| (word.as_str(), word.meaning())).to_vec(),
            ProblemCode::ALL.map(|word| (word.as_str(), word.meaning())).to_vec(),
            Provider::ALL.map(|word| (word.as_str(), word.meaning())).to_vec(),
            GroupBy::ALL.map(|word| (word.as_str(), word.meaning())).to_vec(),
            Step::ALL.map(|word| (word.as_str(), word.meaning())).to_vec(),
        ];
        for list in lists {
            let unique: HashSet<&str> = list.iter().map(|(word, _)| *word).collect();
            assert_eq!(unique.len(), list.len());
            for (word, meaning) in list {
                assert!(
                    word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.".contains(&b)),
                    "{word}"
                );
                assert!(meaning.ends_with('.') && meaning.starts_with(|c: char| c.is_uppercase()), "{word}: {meaning}");
            }
        }
        assert_eq!(serde_json::to_value(EventType::Accepted).unwrap(), "message.accepted");
    }
}
