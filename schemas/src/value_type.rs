//! What a value may be: the type of a KV item, of a parameter, of a result.
//!
//! | type | value | checked beside the form |
//! |---|---|---|
//! | `any` | any | nothing |
//! | `bool`, `bytes`, `map`, `list` | that form | `bytes_max` (bytes) |
//! | `i64` | integer | `min`, `max` |
//! | `f64` | number or integer | `min`, `max`; without a range NaN and infinity pass |
//! | `string` | text | `bytes_max` |
//! | `enum` | text | one of `choices` |
//! | `array` | map `{dtype, shape, data}`, see [`Array`] | `dtype`, `shape` |

use crate::{
    error_code::{ErrorCode, Failure},
    value::Value,
};
use serde::{Deserialize, Serialize};
use std::fmt::Display;

/// The form of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    #[default]
    Any,
    Bool,
    I64,
    F64,
    String,
    Enum,
    Bytes,
    Array,
    List,
    Map,
}

/// Type, unit and range of a value.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ValueType {
    #[serde(rename = "type", default)]
    pub form: Form,
    /// As in the field: `mbar`, `mm/s`, `1` for a ratio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Smallest and largest allowed number, each on its own or both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Value>,
    /// What an `enum` may be, at least one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// Longest text or byte string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u64>,
    /// Of an array; any if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
    /// Length of each axis of an array, nil for any; any number of axes if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<Option<u64>>>,
}

/// Elements of an array, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    Bool,
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F32,
    F64,
}

/// An n-dimensional array: the value form is the map of these fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    pub dtype: Dtype,
    /// Slowest axis first.
    pub shape: Vec<u64>,
    /// Elements in C order, little-endian.
    pub data: Vec<u8>,
}

/// Most axes of an array.
pub const AXES_MAX: usize = 8;

impl Form {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Bool => "bool",
            Self::I64 => "i64",
            Self::F64 => "f64",
            Self::String => "string",
            Self::Enum => "enum",
            Self::Bytes => "bytes",
            Self::Array => "array",
            Self::List => "list",
            Self::Map => "map",
        }
    }
}

impl Dtype {
    pub const ALL: [Self; 11] = [
        Self::Bool,
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::F32,
        Self::F64,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    pub fn bytes(self) -> u64 {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

impl Array {
    /// The value that goes over the wire.
    pub fn into_value(self) -> Value {
        let shape = self.shape.into_iter().map(Value::from).collect();
        Value::map([
            ("dtype", self.dtype.as_str().into()),
            ("shape", Value::List(shape)),
            ("data", Value::Bytes(self.data)),
        ])
    }
}

/// Dtype, shape and number of bytes of a value that is an array; the bytes are as many as both say.
fn read_array(value: &Value) -> Result<(Dtype, Vec<u64>), String> {
    let dtype = value.get("dtype").and_then(Value::as_str).ok_or("an array is a map of dtype, shape and data")?;
    let dtype = Dtype::ALL.into_iter().find(|known| known.as_str() == dtype);
    let dtype = dtype.ok_or_else(|| format!("dtype is one of {}", Dtype::ALL.map(Dtype::as_str).join(", ")))?;
    let (Some(Value::List(shape)), Some(Value::Bytes(data))) = (value.get("shape"), value.get("data")) else {
        return Err("an array is a map of dtype, shape (list) and data (bytes)".to_owned());
    };
    if shape.len() > AXES_MAX {
        return Err(format!("{} axes; at most {AXES_MAX}", shape.len()));
    }
    let shape: Option<Vec<u64>> = shape.iter().map(Value::as_u64).collect();
    let shape = shape.ok_or("the shape is a list of lengths")?;
    let bytes = shape.iter().try_fold(dtype.bytes(), |bytes, length| bytes.checked_mul(*length));
    if bytes != Some(data.len() as u64) {
        return Err(format!("{} bytes of data for shape {shape:?} of {}", data.len(), dtype.as_str()));
    }
    Ok((dtype, shape))
}

impl ValueType {
    pub fn of(form: Form) -> Self {
        Self { form, ..Self::default() }
    }

    /// Whether the type itself makes sense.
    ///
    /// # Errors
    /// Says what does not.
    pub fn check_self(&self) -> Result<(), String> {
        let is_number = matches!(self.form, Form::I64 | Form::F64);
        let bounds = [("min", &self.min), ("max", &self.max)];
        for (name, bound) in bounds.iter().filter_map(|(name, bound)| bound.as_ref().map(|bound| (name, bound))) {
            let fits = match self.form {
                Form::I64 => matches!(bound, Value::Int(_)),
                Form::F64 => bound.as_f64().is_some_and(f64::is_finite),
                _ => return Err(format!("{name} is for i64 and f64, not for {}", self.form.as_str())),
            };
            if !fits {
                return Err(format!("{name} is not a number of type {}", self.form.as_str()));
            }
        }
        if let (true, Some(min), Some(max)) = (is_number, &self.min, &self.max)
            && is_below(max, min)
        {
            return Err("min is above max".to_owned());
        }
        match (self.form, self.choices.is_empty()) {
            (Form::Enum, true) => Err("an enum has at least one choice".to_owned()),
            (Form::Enum, false) | (_, true) => Ok(()),
            (_, false) => Err(format!("choices are for an enum, not for {}", self.form.as_str())),
        }
    }

    /// Whether `value` is of this type; `what` names it in the error.
    ///
    /// # Errors
    /// `wrong_type` or `out_of_range`, with what was found and what is allowed.
    pub fn check(&self, what: impl Display, value: &Value) -> Result<(), Failure> {
        let is_form = match (self.form, value) {
            (Form::Any, _)
            | (Form::Bool, Value::Bool(_))
            | (Form::I64, Value::Int(_))
            | (Form::F64, Value::Float(_) | Value::Int(_) | Value::Uint(_))
            | (Form::String | Form::Enum, Value::Text(_))
            | (Form::Bytes, Value::Bytes(_))
            | (Form::List, Value::List(_))
            | (Form::Array | Form::Map, Value::Map(_)) => true,
            (Form::I64, Value::Uint(_)) => return Err(self.out_of_range(what, value)),
            _ => false,
        };
        if !is_form {
            let message = format!("{what} is {}, not {}", form_of(value), self.form.as_str());
            return Err(Failure::new(ErrorCode::WrongType, message));
        }
        match self.form {
            Form::Array => self.check_array(what, value),
            _ if self.is_within(value) => Ok(()),
            _ => Err(self.out_of_range(what, value)),
        }
    }

    fn is_within(&self, value: &Value) -> bool {
        match value {
            Value::Int(_) | Value::Uint(_) | Value::Float(_) => {
                let is_nan = matches!(value, Value::Float(number) if number.is_nan());
                let has_range = self.min.is_some() || self.max.is_some();
                let is_low = self.min.as_ref().is_some_and(|min| is_below(value, min));
                let is_high = self.max.as_ref().is_some_and(|max| is_below(max, value));
                !(is_low || is_high || is_nan && has_range)
            }
            Value::Text(text) if self.form == Form::Enum => self.choices.contains(text),
            Value::Text(text) => self.bytes_max.is_none_or(|limit| text.len() as u64 <= limit),
            Value::Bytes(bytes) => self.bytes_max.is_none_or(|limit| bytes.len() as u64 <= limit),
            _ => true,
        }
    }

    fn check_array(&self, what: impl Display, value: &Value) -> Result<(), Failure> {
        let wrong = |message: String| Failure::new(ErrorCode::WrongType, format!("{what}: {message}"));
        let (dtype, shape) = read_array(value).map_err(wrong)?;
        if let Some(wanted) = self.dtype.filter(|wanted| *wanted != dtype) {
            return Err(wrong(format!("an array of {}, not of {}", dtype.as_str(), wanted.as_str())));
        }
        let fits = |wanted: &Vec<Option<u64>>| {
            wanted.len() == shape.len()
                && wanted.iter().zip(&shape).all(|(wanted, found)| wanted.is_none_or(|wanted| wanted == *found))
        };
        match &self.shape {
            Some(wanted) if !fits(wanted) => {
                let wanted: Vec<_> = wanted.iter().map(|axis| axis.map_or("any".into(), |n| n.to_string())).collect();
                Err(wrong(format!("shape {shape:?}, not [{}]", wanted.join(", "))))
            }
            _ => Ok(()),
        }
    }

    fn out_of_range(&self, what: impl Display, value: &Value) -> Failure {
        let found = match value {
            Value::Text(text) if self.form == Form::Enum => format!("{text:?}"),
            Value::Text(text) => format!("{} bytes long", text.len()),
            Value::Bytes(bytes) => format!("{} bytes long", bytes.len()),
            other => other.to_string(),
        };
        Failure::new(ErrorCode::OutOfRange, format!("{what} is {found}; allowed is {}", self.allowed()))
    }

    /// What is allowed, for a person: `0 to 10 mbar`, `auto, manual`, `at most 64 bytes`.
    pub fn allowed(&self) -> String {
        let unit = self.unit.as_deref().map(|unit| format!(" {unit}")).unwrap_or_default();
        match (&self.min, &self.max) {
            _ if self.form == Form::Enum => self.choices.join(", "),
            (Some(min), Some(max)) => format!("{min} to {max}{unit}"),
            (Some(min), None) => format!("{min}{unit} or more"),
            (None, Some(max)) => format!("{max}{unit} or less"),
            (None, None) => match self.bytes_max {
                Some(limit) => format!("at most {limit} bytes"),
                None => format!("any {}", self.form.as_str()),
            },
        }
    }
}

/// Numbers by their size; two integers exactly.
fn is_below(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => left < right,
        _ => left.as_f64().zip(right.as_f64()).is_some_and(|(left, right)| left < right),
    }
}

/// What a value is, in the words of the types.
pub fn form_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::Uint(_) => "an integer",
        Value::Float(_) => "a number",
        Value::Text(_) => "text",
        Value::Bytes(_) => "bytes",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(result: Result<(), Failure>) -> Option<ErrorCode> {
        result.err().map(|failure| failure.code)
    }

    #[test]
    fn ranges_hold_on_one_side_or_both_also_below_zero() {
        let range = |min: Option<i64>, max: Option<i64>| ValueType {
            min: min.map(Value::from),
            max: max.map(Value::from),
            ..ValueType::of(Form::I64)
        };
        for (kind, good, bad) in [
            (range(Some(-10), Some(-5)), vec![-10, -7, -5], vec![-11, -4, 0]),
            (range(Some(-10), None), vec![-10, i64::MAX], vec![-11, i64::MIN]),
            (range(None, Some(3)), vec![3, i64::MIN], vec![4]),
            (range(None, None), vec![i64::MIN, i64::MAX], vec![]),
        ] {
            kind.check_self().unwrap();
            good.iter().for_each(|value| kind.check("x", &Value::from(*value)).unwrap());
            for value in bad {
                let failure = kind.check("x", &Value::from(value)).unwrap_err();
                assert_eq!(failure.code, ErrorCode::OutOfRange, "{failure}");
                assert!(failure.message.contains(&value.to_string()), "{failure}");
            }
        }
        assert_eq!(code(range(None, None).check("x", &u64::MAX.into())), Some(ErrorCode::OutOfRange));
    }

    #[test]
    fn numbers_beyond_53_bits_are_compared_exactly() {
        let limit = (1_i64 << 60) + 1;
        let kind = ValueType { max: Some(limit.into()), ..ValueType::of(Form::I64) };
        assert!(kind.check("x", &limit.into()).is_ok());
        assert!(kind.check("x", &(limit + 1).into()).is_err());
    }

    #[test]
    fn f64_takes_integers_and_a_range_refuses_nan() {
        let kind = ValueType { min: Some(0.5.into()), ..ValueType::of(Form::F64) };
        assert!(kind.check("x", &1.into()).is_ok());
        assert!(kind.check("x", &f64::INFINITY.into()).is_ok());
        assert_eq!(code(kind.check("x", &f64::NAN.into())), Some(ErrorCode::OutOfRange));
        assert!(ValueType::of(Form::F64).check("x", &f64::NAN.into()).is_ok());
    }

    #[test]
    fn a_value_of_another_form_is_told_with_both() {
        let failure = ValueType::of(Form::Bool).check("item x01/pump on", &1.into()).unwrap_err();
        assert_eq!(
            (failure.code, failure.message.as_str()),
            (ErrorCode::WrongType, "item x01/pump on is an integer, not bool")
        );
    }

    #[test]
    fn enums_name_their_choices() {
        let kind = ValueType { choices: vec!["auto".into(), "manual".into()], ..ValueType::of(Form::Enum) };
        assert!(kind.check("mode", &"auto".into()).is_ok());
        let failure = kind.check("mode", &"fast".into()).unwrap_err();
        assert_eq!(failure.message, "mode is \"fast\"; allowed is auto, manual");
    }

    #[test]
    fn arrays_have_as_many_bytes_as_dtype_and_shape_say() {
        let array =
            |dtype, shape: &[u64], bytes| Array { dtype, shape: shape.to_vec(), data: vec![0; bytes] }.into_value();
        let kind =
            ValueType { dtype: Some(Dtype::U16), shape: Some(vec![None, Some(3)]), ..ValueType::of(Form::Array) };
        assert!(kind.check("a", &array(Dtype::U16, &[2, 3], 12)).is_ok());
        for bad in [
            array(Dtype::U16, &[2, 3], 11),
            array(Dtype::U8, &[2, 3], 6),
            array(Dtype::U16, &[3, 2], 12),
            array(Dtype::U16, &[6], 12),
            array(Dtype::U16, &[u64::MAX, 3], 12),
            Value::map([("dtype", "u16".into())]),
        ] {
            assert_eq!(code(kind.check("a", &bad)), Some(ErrorCode::WrongType), "{bad}");
        }
    }

    #[test]
    fn a_type_that_cannot_be_met_is_refused() {
        let of = ValueType::of;
        for bad in [
            of(Form::Enum),
            ValueType { choices: vec!["a".into()], ..of(Form::Bool) },
            ValueType { min: Some(2.into()), max: Some(1.into()), ..of(Form::I64) },
            ValueType { min: Some(0.5.into()), ..of(Form::I64) },
            ValueType { max: Some(f64::NAN.into()), ..of(Form::F64) },
            ValueType { min: Some(0.into()), ..of(Form::String) },
        ] {
            assert!(bad.check_self().is_err(), "{bad:?}");
        }
    }
}
