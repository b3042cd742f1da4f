//! Canonical JSON: the one text of a value that is hashed into keys.
//!
//! The exact bytes, promised for good and pinned by tests:
//!
//! - objects: members sorted by the UTF-8 bytes of their names, no white space;
//! - integers: decimal digits with an optional minus sign, never a point or an exponent;
//! - floats: the shortest decimal that reads back to the same `f64`, always with a point or an exponent (`1.0`,
//!   `0.0005`, `1e-7`), so the text carries the type: the integer `1` and the float `1.0` differ. Negative zero is
//!   written `0.0`. NaN and infinities have no canonical form and are refused;
//! - strings: `"`, `\` and control characters below U+0020 escaped (`\"`, `\\`, `\u00XX`), all else as UTF-8.
//!
//! This is our own code so that no dependency's feature flag (such as `serde_json`'s `preserve_order`) can move a key.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// A value with exactly one text.
#[derive(Clone, Debug, PartialEq)]
pub enum Canonical {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer; wide enough for every integer type that a config uses.
    Int(i128),
    /// A finite float, see [`Canonical::float`].
    Float(f64),
    /// A string.
    String(String),
    /// A list: order is kept.
    Array(Vec<Canonical>),
    /// An object: members are sorted by name.
    Object(BTreeMap<String, Canonical>),
}

/// A number without a canonical form: NaN or an infinity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NotFinite(pub f64);

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be part of a key: it is not a finite number", self.0)
    }
}

impl std::error::Error for NotFinite {}

impl Canonical {
    /// The canonical form of a float.
    ///
    /// # Errors
    /// [`NotFinite`] for NaN and infinities.
    pub fn float(value: f64) -> Result<Self, NotFinite> {
        if value.is_finite() { Ok(Self::Float(value)) } else { Err(NotFinite(value)) }
    }

    /// An object from pairs; a later pair of the same name wins.
    pub fn object<K: Into<String>>(members: impl IntoIterator<Item = (K, Self)>) -> Self {
        Self::Object(members.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }

    /// The canonical form of parsed JSON; numbers without point and exponent are integers.
    ///
    /// # Errors
    /// [`NotFinite`] for a number that no `f64` holds.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, NotFinite> {
        use serde_json::Value;
        Ok(match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Self::Int(value.into()),
                (None, Some(value)) => Self::Int(value.into()),
                (None, None) => Self::float(number.as_f64().unwrap_or(f64::NAN))?,
            },
            Value::String(value) => Self::String(value.clone()),
            Value::Array(items) => Self::Array(items.iter().map(Self::from_json).collect::<Result<_, _>>()?),
            Value::Object(members) => Self::Object(
                members
                    .iter()
                    .map(|(name, value)| Ok((name.clone(), Self::from_json(value)?)))
                    .collect::<Result<_, NotFinite>>()?,
            ),
        })
    }

    /// The canonical text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Int(value) => _ = write!(out, "{value}"),
            // `{:?}` of a finite float is the shortest text that reads back, with `.0` or an exponent.
            // Adding zero turns -0.0 into 0.0.
            Self::Float(value) => _ = write!(out, "{:?}", value + 0.0),
            Self::String(value) => write_string(value, out),
            Self::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_string(name, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control < ' ' => _ = write!(out, "\\u{:04x}", u32::from(control)),
            other => out.push(other),
        }
    }
    out.push('"');
}

/// The canonical text, so that a value prints as it is hashed.
impl fmt::Display for Canonical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

macro_rules! from_integer {
    ($($type:ty),*) => {$(
        impl From<$type> for Canonical {
            fn from(value: $type) -> Self { Self::Int(i128::from(value)) }
        }
    )*};
}
from_integer!(u8, u16, u32, u64, i32, i64);

impl From<usize> for Canonical {
    fn from(value: usize) -> Self {
        Self::Int(value as i128)
    }
}

impl From<bool> for Canonical {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for Canonical {
    fn from(value: &str) -> Self {
        Self::String(value.to_owned())
    }
}

impl From<String> for Canonical {
    fn from(value: String) -> Self {
        Self::String(value)
    }
}

impl From<Vec<Self>> for Canonical {
    fn from(items: Vec<Self>) -> Self {
        Self::Array(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_text_of_each_type_is_pinned() {
        let value = Canonical::object([
            ("b", Canonical::Array(vec![Canonical::Int(1), Canonical::Float(1.0), Canonical::Float(5e-4)])),
            ("a\n\"\\é", Canonical::Null),
            ("Z", Canonical::Bool(true)),
            ("tiny", Canonical::Float(1e-7)),
            ("huge", Canonical::Float(1e300)),
            ("minus", Canonical::Float(-0.0)),
            ("wide", Canonical::from(u64::MAX)),
        ]);
        assert_eq!(
            value.text(),
            r#"{"Z":true,"a\u000a\"\\é":null,"b":[1,1.0,0.0005],"huge":1e300,"minus":0.0,"tiny":1e-7,"wide":18446744073709551615}"#
        );
    }

    #[test]
    fn nan_and_infinity_are_refused() {
        assert!(Canonical::float(f64::NAN).is_err());
        assert!(Canonical::float(f64::NEG_INFINITY).is_err());
    }

    fn any_canonical() -> impl Strategy<Value = Canonical> {
        let leaf = prop_oneof![
            Just(Canonical::Null),
            any::<bool>().prop_map(Canonical::Bool),
            any::<i64>().prop_map(Canonical::from),
            any::<f64>().prop_filter("finite", |v| v.is_finite()).prop_map(|v| Canonical::Float(v + 0.0)),
            ".*".prop_map(Canonical::String),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Canonical::Array),
                prop::collection::btree_map(".*", inner, 0..6).prop_map(Canonical::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_text_is_json_that_reads_back_to_the_same_value(value in any_canonical()) {
            let parsed: serde_json::Value = serde_json::from_str(&value.text()).unwrap();
            prop_assert_eq!(Canonical::from_json(&parsed).unwrap(), value);
        }

        #[test]
        fn equal_texts_mean_equal_values(a in any_canonical(), b in any_canonical()) {
            prop_assert_eq!(a.text() == b.text(), a == b);
        }

        #[test]
        fn the_order_of_members_does_not_matter(members in prop::collection::vec((".*", any_canonical()), 0..6)) {
            let unique: BTreeMap<_, _> = members.into_iter().collect();
            let forward = Canonical::object(unique.clone());
            let backward = Canonical::object(unique.into_iter().rev());
            prop_assert_eq!(forward.text(), backward.text());
        }
    }
}
