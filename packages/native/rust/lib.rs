//! The Node addon of the Effect-native microsandbox SDK.
//!
//! A thin border: each file holds one thing that JavaScript can own, and every call answers with an
//! [`outcome::Outcome`], plain data that TypeScript can match on. The engine's own types stay here.

// A test build exports nothing to JavaScript, so that what only JavaScript uses looks dead there.
#![cfg_attr(test, allow(dead_code))]

mod agent;
mod attempt;
mod backend;
mod branch;
mod cancel;
mod catalogue;
mod cloud;
mod config;
mod copied;
mod cut;
mod engine;
mod exec;
mod failure;
mod files;
mod guest;
mod home;
mod host;
mod image;
mod leftovers;
mod link;
mod logs;
mod marking;
mod metrics;
mod modify;
mod network;
mod options;
mod outcome;
mod output;
mod owner;
mod patches;
mod pause;
mod program;
mod progress;
mod pull;
mod restore;
mod rooted;
mod runtime;
mod sandbox;
mod settle;
mod setup;
mod sftp;
mod sftp_files;
mod slot;
mod snapshot;
mod ssh;
mod ssh_channel;
mod ssh_client;
mod ssh_program;
mod ssh_session;
mod ssh_sftp;
mod threads;
mod transfer;
mod tree;
mod tree_guest;
mod tree_host;
mod tunnel;
mod volume;
mod volume_cloud;

use napi_derive::{module_init, napi};

#[module_init]
fn init() {
    runtime::install();
    progress::install();
}

/// The versions that the TypeScript side holds against its own constants.
#[napi(object, object_from_js = false)]
pub struct Versions {
    /// Version of this addon.
    pub addon: String,
    /// The one `msb` version that this addon launches.
    pub runtime: String,
}

/// Versions of the addon and of the runtime that it needs.
#[napi(catch_unwind)]
#[must_use]
pub fn versions() -> Versions {
    Versions { addon: env!("CARGO_PKG_VERSION").to_owned(), runtime: failure::RUNTIME_VERSION.to_owned() }
}
