// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The daemon's control socket: statistics and searches.
//!
//! `wire` is the protocol, `service` the daemon's side, `client` the commands' side, `query`
//! answers a search. Nothing here is on the data path, and nothing here may hold it up.

pub mod client;
pub mod query;
pub mod service;
pub mod wire;
