// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The daemon's control socket: statistics, searches and the crash lab.
//!
//! `wire` is the protocol, `client` the commands' side, `service` the daemon's side, which gets its
//! answers from `answer` and, for a search, from `query`. `inband` asks through the kernel instead, where there is no
//! socket. Anybody may search what they may read; the rest is for root
//! and the image's owner. Nothing here is on the data path or may delay
//! it.

pub mod answer;
pub mod client;
pub mod inband;
pub mod query;
pub mod service;
pub mod wire;
