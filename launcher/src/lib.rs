//! The launcher and its update service, as a library for the `vsekai` command and for tests.
//!
//! - [`auth`]: logging in, and what a token allows.
//! - [`cli`]: the command line, one file per group of commands.
//! - `sync`: the tasks of `vsekai sync`.
//! - `portal`: the game client, launched and kept.
//! - `caibx`: casync's chunk index, `castr`: its store, `catar`: its archive; read, checked, written. `chunker` cuts, `digest` names chunks.
//! - [`chunk_server`]: store and indexes over HTTP.
//! - [`release`]: what a repository offers: releases and channels; `catalogue`: what they may hold.
//! - [`fetch`]: where a repository's files come from.
//! - [`settings`]: profiles: which build, from where, to where; how the launcher behaves.
//! - [`log`]: the launcher's own log.
//! - [`serve`]: the update service.
//! - [`trust`]: signed metadata: what the studio has signed, newest first.
//! - `upload`: a studio's side of the service.
//! - `output`: how commands say what they found; `bar`: how far they are.
//! - `read`: reading, whatever signals come.
//! - `tls`: how servers are known by https.
//! - `hex`: bytes as hexadecimal digits.
//! - `whole`: small files that are there whole or not at all.
//! - [`offers`]: where the catalogue comes from.
//! - [`manifest`], `pack`, `delta`: the native formats; [`publish`]: from a build to a repository.
//! - `daemon`: jobs in the background.
//! - [`install`]: the installation that follows a channel.
//! - [`error`]: failures and their exit codes.

pub mod auth;
mod bar;
mod caibx;
mod castr;
mod catalogue;
mod catar;
pub mod chunk_server;
mod chunker;
pub mod cli;
mod daemon;
mod delta;
mod digest;
pub mod error;
pub mod fetch;
mod hex;
pub mod install;
pub mod log;
pub mod manifest;
pub mod offers;
mod output;
mod pack;
mod portal;
pub mod publish;
mod read;
pub mod release;
pub mod serve;
pub mod settings;
mod sync;
mod tls;
pub mod trust;
mod upload;
mod whole;
