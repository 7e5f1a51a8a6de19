//! How every call answers: a union on `_tag` that TypeScript can switch over exhaustively.

use napi::bindgen_prelude::{Object, ToNapiValue, TypeName, ValueType};
use napi::{Env, JsValue, sys};

use crate::failure::Failure;

/// Why a call did not give its value.
pub(crate) enum Stop {
    Failed(Failure),
    Cancelled,
}

impl<E> From<E> for Stop
where
    Failure: From<E>,
{
    fn from(error: E) -> Self {
        Self::Failed(Failure::from(error))
    }
}

/// `{ _tag: "Ok", value } | { _tag: "Failed", failure } | { _tag: "Cancelled" }`.
///
/// Errors are values and not exceptions, because a napi error carries a code and a message and
/// nothing else. What does reject the promise is a panic: a bug in this addon, never an outcome.
pub struct Outcome<T>(Result<T, Stop>);

impl<T> From<Result<T, Stop>> for Outcome<T> {
    fn from(result: Result<T, Stop>) -> Self {
        Self(result)
    }
}

impl<T> TypeName for Outcome<T> {
    fn type_name() -> &'static str {
        "Outcome"
    }

    fn value_type() -> ValueType {
        ValueType::Object
    }
}

impl<T: ToNapiValue> ToNapiValue for Outcome<T> {
    /// # Safety
    /// Called by napi on the JavaScript thread with the environment that the value is made in.
    unsafe fn to_napi_value(env: sys::napi_env, outcome: Self) -> napi::Result<sys::napi_value> {
        let environment = Env::from_raw(env);
        let mut object = Object::new(&environment)?;
        match outcome.0 {
            Ok(value) => {
                object.set("_tag", "Ok")?;
                object.set("value", value)?;
            }
            Err(Stop::Failed(failure)) => {
                object.set("_tag", "Failed")?;
                object.set("failure", failure)?;
            }
            Err(Stop::Cancelled) => object.set("_tag", "Cancelled")?,
        }
        Ok(object.raw())
    }
}
