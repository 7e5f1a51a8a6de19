//! Changes to a root file system before its first boot: plain data, and its way into the engine's builder.

use microsandbox::MicrosandboxResult;
use microsandbox::sandbox::{Patch, SandboxBuilder};
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;

use crate::failure::Failure;
use crate::options::{absolute, check_exists};

/// One change.
#[napi(discriminant = "_tag", object_to_js = false)]
pub enum PatchOptions {
    Text { path: String, content: String, mode: Option<u32>, replace: bool },
    File { path: String, content: Buffer, mode: Option<u32>, replace: bool },
    CopyFile { from: String, to: String, mode: Option<u32>, replace: bool },
    CopyDirectory { from: String, to: String, replace: bool },
    Symlink { target: String, path: String, replace: bool },
    MakeDirectory { path: String, mode: Option<u32> },
    Remove { path: String },
    Append { path: String, content: String },
}

/// What is copied must be there.
pub(crate) fn check_host(patches: &[PatchOptions]) -> Result<(), Failure> {
    for (index, patch) in patches.iter().enumerate() {
        if let PatchOptions::CopyFile { from, .. } | PatchOptions::CopyDirectory { from, .. } = patch {
            check_exists(&format!("patches.{index}.from"), from)?;
        }
    }
    Ok(())
}

pub(crate) fn apply(mut builder: SandboxBuilder, patches: &[PatchOptions]) -> MicrosandboxResult<SandboxBuilder> {
    for options in patches {
        builder = builder.add_patch(patch(options)?);
    }
    Ok(builder)
}

fn patch(options: &PatchOptions) -> MicrosandboxResult<Patch> {
    Ok(match options {
        PatchOptions::Text { path, content, mode, replace } => {
            Patch::Text { path: path.clone(), content: content.clone(), mode: *mode, replace: *replace }
        }
        PatchOptions::File { path, content, mode, replace } => {
            Patch::File { path: path.clone(), content: content.to_vec(), mode: *mode, replace: *replace }
        }
        PatchOptions::CopyFile { from, to, mode, replace } => {
            Patch::CopyFile { src: absolute(from)?, dst: to.clone(), mode: *mode, replace: *replace }
        }
        PatchOptions::CopyDirectory { from, to, replace } => {
            Patch::CopyDir { src: absolute(from)?, dst: to.clone(), replace: *replace }
        }
        PatchOptions::Symlink { target, path, replace } => {
            Patch::Symlink { target: target.clone(), link: path.clone(), replace: *replace }
        }
        PatchOptions::MakeDirectory { path, mode } => Patch::Mkdir { path: path.clone(), mode: *mode },
        PatchOptions::Remove { path } => Patch::Remove { path: path.clone() },
        PatchOptions::Append { path, content } => Patch::Append { path: path.clone(), content: content.clone() },
    })
}
