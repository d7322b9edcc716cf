//! Summaries of samples, with stated definitions.
