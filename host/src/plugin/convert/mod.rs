//! Between our types and those of the contract. Nothing else converts; a change of `wit/` touches this folder,
//! `bindings` and the adapters.

pub(super) mod from_guest;
pub(super) mod to_guest;
