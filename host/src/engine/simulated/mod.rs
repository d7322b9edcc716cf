//! The embedded cluster: simulated engines on a virtual clock.
