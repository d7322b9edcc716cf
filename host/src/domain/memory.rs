//! What fits: weights and KV cache on the GPUs of one engine.
