//! Bytes for JavaScript that V8 has made room for itself.

use napi::bindgen_prelude::{Buffer, BufferSlice, ToNapiValue, TypeName, ValueType};
use napi::{Env, JsValue, sys};

/// From here on a copy costs more than what it saves.
const LARGE: usize = 1 << 20;

/// Output of a program, as a `Buffer`.
///
/// Memory of ours could cross without a copy, but V8 learns too late what it could let go: it then marks the whole heap for
/// every 64 MiB that have crossed, and the event loop stands still for as long. Room of its own it gets back by a look at
/// what is young, and that is worth more than the copy.
pub struct Copied(Vec<u8>);

impl From<Vec<u8>> for Copied {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl std::ops::Deref for Copied {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl TypeName for Copied {
    fn type_name() -> &'static str {
        "Buffer"
    }

    fn value_type() -> ValueType {
        ValueType::Object
    }
}

impl ToNapiValue for Copied {
    /// # Safety
    /// Called by napi on the JavaScript thread with the environment that the value is made in.
    unsafe fn to_napi_value(env: sys::napi_env, copied: Self) -> napi::Result<sys::napi_value> {
        if copied.0.len() >= LARGE {
            // SAFETY: as above.
            return unsafe { Buffer::to_napi_value(env, copied.0.into()) };
        }
        Ok(BufferSlice::copy_from(&Env::from_raw(env), &copied.0)?.raw())
    }
}
