//! Bytes for JavaScript that V8 has made room for itself.

use napi::bindgen_prelude::{Buffer, BufferSlice, ToNapiValue, TypeName, ValueType};
use napi::{Env, JsValue, sys};

/// From here on a copy costs more than what it saves.
const LARGE: usize = 1 << 20;

/// Output of a program, as a `Buffer`.
///
/// Memory of ours could cross without a copy, but for each piece of it V8 would have to keep a finalizer and call it: that
/// costs as much as to copy a piece of the size in which output comes, and holds up the event loop for longer. (Either way V8
/// collects its whole heap for every 50 MiB or so: memory beside its heap counts, whoever has made it.)
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
